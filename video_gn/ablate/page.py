"""A report as blocks, written as Markdown with its pictures beside it, and as one HTML file with them inside."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

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
            return f"{'#' * level} {text}"
        case Text(text, code):
            return "\n".join(f"    {line}" for line in text.splitlines()) if code else text
        case Table(head, rows):
            lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
            return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
        case Figure(name, _, caption):
            return f"![{caption}]({figures}/{name}.svg)\n\n*{caption}*"


def to_text(table: Table) -> str:
    """A table as it stands on a terminal."""
    lines = [list(table.head), *map(list, table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def to_html(blocks: Sequence[Block], title: str) -> str:
    """One HTML file that needs nothing else."""
    body = "\n".join(_html(block) for block in blocks)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Text(text, code):
            return f"<pre>{html.escape(text)}</pre>" if code else f"<p>{html.escape(text)}</p>"
        case Table(head, rows):
            return (
                f"<table><thead>{_row(head, 'th')}</thead><tbody>{''.join(_row(r, 'td') for r in rows)}</tbody></table>"
            )
        case Figure(_, svg, caption):
            data = base64.b64encode(svg.encode()).decode()
            image = f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(caption)}">'
            return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
