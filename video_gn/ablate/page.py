"""A report as blocks, written as Markdown with its pictures beside it, and as one HTML file with them inside."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from video_gn.console import as_markdown, printable

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#111}
table{border-collapse:collapse;margin:1rem 0;font-size:.92rem}th,td{padding:.25rem .7rem;border-bottom:1px solid #ccc;
text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #444}
img{max-width:100%}code,pre{background:#f4f4f4;padding:.1rem .3rem}pre{overflow-x:auto;padding:.6rem}
@media print{body{margin:0;max-width:none;font-size:11pt}}"""


@dataclass(frozen=True)
class Heading:
    """A heading of a level from 1."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; as code, verbatim."""

    text: str
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A head and rows of cells; the first column is the rows' names."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A picture in SVG, with its file's name and what it shows."""

    name: str
    svg: str
    caption: str


Block = Heading | Text | Table | Figure


def to_markdown(blocks: Sequence[Block], figures: str) -> str:
    """Markdown; pictures are links into the folder `figures`."""
    return "\n\n".join(_markdown(block, figures) for block in blocks) + "\n"


def _markdown(block: Block, figures: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {as_markdown(text)}"
        case Text(text, code):
            return "\n".join(f"    {printable(line)}" for line in text.splitlines()) if code else as_markdown(text)
        case Table(head, rows):
            cells = [[as_markdown(str(cell)) for cell in line] for line in (head, *rows)]
            cells.insert(1, ["---", *["---:"] * (len(head) - 1)])
            return "\n".join(f"| {' | '.join(line)} |" for line in cells)
        case Figure(name, _, caption):
            said = as_markdown(caption)
            return f"![{said}]({figures}/{quote(name)}.svg)\n\n*{said}*"


def to_text(table: Table) -> str:
    """A table as a terminal shows it."""
    lines = [[printable(str(cell)) for cell in line] for line in (table.head, *table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def to_html(blocks: Sequence[Block], title: str) -> str:
    """One HTML file that needs nothing else."""
    body = "\n".join(_html(block) for block in blocks)
    head = f'<meta charset="utf-8"><title>{_escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _escape(text: str) -> str:
    return html.escape(printable(text))


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_escape(text)}</h{level}>"
        case Text(text, code):
            return f"<pre>{chr(10).join(map(_escape, text.splitlines()))}</pre>" if code else f"<p>{_escape(text)}</p>"
        case Table(head, rows):
            return (
                f"<table><thead>{_row(head, 'th')}</thead><tbody>{''.join(_row(r, 'td') for r in rows)}</tbody></table>"
            )
        case Figure(_, svg, caption):
            data = base64.b64encode(svg.encode()).decode()
            image = f'<img src="data:image/svg+xml;base64,{data}" alt="{_escape(caption)}">'
            return f"<figure>{image}<figcaption>{_escape(caption)}</figcaption></figure>"


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{_escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
