"""A report as blocks, written as Markdown with its pictures beside it, and as one HTML file with them inside."""

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from video_gn.console import as_markdown, printable

FOLDER = Path(__file__).parent
NUMBER = re.compile(r"[-+−]?\d.*|-?")  # what a column of numbers has in its cells


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
class Points:
    """Sentences of which each is a point of its own."""

    sentences: Sequence[str]


class Link(NamedTuple):
    """A cell that leads to a file beside the page; in Markdown and in a terminal it is text."""

    text: str
    path: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A head and rows of cells; the first column is the rows' names."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Link]]

    @property
    def filled(self) -> "Table":
        """Without the columns, beyond the first, that have nothing in any row."""
        kept = [i for i in range(len(self.head)) if not i or any(str(row[i]) not in ("", "-") for row in self.rows)]
        return Table([self.head[i] for i in kept], [[row[i] for i in kept] for row in self.rows])


@dataclass(frozen=True)
class Figure:
    """A picture in SVG, with its file's name and what it shows."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Details:
    """What is read when it is asked for."""

    summary: str
    blocks: "Sequence[Block]"


Block = Heading | Text | Points | Table | Figure | Details


def figures_of(blocks: Sequence[Block]) -> list[Figure]:
    """All pictures."""
    found: list[Figure] = []
    for block in blocks:
        found += (
            [block] if isinstance(block, Figure) else figures_of(block.blocks) if isinstance(block, Details) else []
        )
    return found


def to_markdown(blocks: Sequence[Block], figures: str) -> str:
    """Markdown; pictures are links into the folder `figures`."""
    return "\n\n".join(_markdown(block, figures) for block in blocks) + "\n"


def _markdown(block: Block, figures: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {as_markdown(text)}"
        case Text(text, code):
            return "\n".join(f"    {printable(line)}" for line in text.splitlines()) if code else as_markdown(text)
        case Points(sentences):
            return "\n".join(f"- {as_markdown(sentence)}" for sentence in sentences)
        case Table(head, rows):
            cells = [[as_markdown(str(cell)) for cell in line] for line in (head, *rows)]
            cells.insert(1, ["---", *["---:"] * (len(head) - 1)])
            return "\n".join(f"| {' | '.join(line)} |" for line in cells)
        case Figure(name, _, caption):
            said = as_markdown(caption)
            return f"![{said}]({figures}/{quote(name)}.svg)\n\n*{said}*"
        case Details(summary, inside):
            body = "\n\n".join(_markdown(one, figures) for one in inside)
            return f"<details><summary>{_escape(summary)}</summary>\n\n{body}\n\n</details>"


def to_text(table: Table) -> str:
    """A table as a terminal shows it."""
    lines = [[printable(str(cell)) for cell in line] for line in (table.head, *table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(word.ljust(w) for word, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def to_html(blocks: Sequence[Block], title: str) -> str:
    """One HTML file that needs nothing else; its only script sorts tables."""
    heads = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<a href="#{_anchor(text)}">{_escape(text)}</a>' for text in heads)
    first = next((i for i, block in enumerate(blocks) if isinstance(block, Heading) and block.level == 2), len(blocks))
    parts = [_html(block) for block in blocks]
    body = "\n".join([*parts[:first], *([f"<nav>{links}</nav>"] if links else []), *parts[first:]])
    style, script = ((FOLDER / name).read_text(encoding="utf-8").strip() for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{_escape(title)}</title><style>\n{style}\n</style></head>\n"
        f"<body>\n{body}\n<script>{script}</script>\n</body></html>\n"
    )


def _escape(text: str) -> str:
    return html.escape(printable(text))


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _html(block: Block) -> str:
    match block:
        case Heading(text, 2):
            return f'<h2 id="{_anchor(text)}">{_escape(text)}</h2>'
        case Heading(text, level):
            return f"<h{level}>{_escape(text)}</h{level}>"
        case Text(text, code):
            return f"<pre>{chr(10).join(map(_escape, text.splitlines()))}</pre>" if code else f"<p>{_escape(text)}</p>"
        case Points(sentences):
            return f'<ul class="lead">{"".join(f"<li>{_escape(one)}</li>" for one in sentences)}</ul>'
        case Table(head, rows):
            kinds = [any(not NUMBER.fullmatch(str(row[i])) for row in rows) for i in range(len(head))]
            body = "".join(_row(row, "td", kinds) for row in rows)
            return (
                f'<div class="scroll" tabindex="0"><table><thead>{_row(head, "th", kinds)}</thead>'
                f"<tbody>{body}</tbody></table></div>"
            )
        case Figure(_, svg, caption):
            data = base64.b64encode(svg.encode()).decode()
            image = f'<img src="data:image/svg+xml;base64,{data}" alt="{_escape(caption)}">'
            return f"<figure>{image}<figcaption>{_escape(caption)}</figcaption></figure>"
        case Details(summary, inside):
            return f"<details><summary>{_escape(summary)}</summary>\n{chr(10).join(map(_html, inside))}\n</details>"


def _row(cells: Sequence[str | Link], tag: str, text: Sequence[bool]) -> str:
    kinds = (' class="text"' if is_text else "" for is_text in text)
    return "<tr>" + "".join(f"<{tag}{kind}>{_cell(c)}</{tag}>" for c, kind in zip(cells, kinds, strict=True)) + "</tr>"


def _cell(cell: str | Link) -> str:
    if isinstance(cell, Link):
        return f'<a href="{html.escape(quote(cell.path))}">{_escape(cell.text)}</a>'
    return _escape(str(cell))
