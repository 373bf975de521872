"""What the search of a report finds: sections of notebooks, figures and tables, methods, scenarios, symbols."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import nbformat

from .plain import plain

LONGEST = 1500  # letters of a section that are searched


class Found(NamedTuple):
    """One entry. url: as seen from the top of the report; kind: "section", "figure", "table", "method", ..."""

    url: str
    title: str
    kind: str
    text: str


def sections(notebook: nbformat.NotebookNode, page: str, title: str, headings: Sequence[str]) -> list[Found]:
    """The prose of a notebook by its `headings` (identifiers, in order); page: where it stands."""
    prose = "\n\n".join(text for cell in notebook.cells for text in _prose(cell))
    prose = re.sub(r"^```.*?^```", "", prose, flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^#{1,6} (.+)$", prose, flags=re.MULTILINE)
    found = []
    for identifier, heading, text in zip(headings, parts[1::2], parts[2::2], strict=False):
        name = plain(heading)
        where = name if name in title else f"{name} ({title})"
        found.append(Found(f"{page}#{identifier}", where, "section", plain(text)))
    return found


def _prose(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell says in words: its text, or that which its code has computed."""
    if cell.cell_type == "markdown":
        return [cell.source]
    shown = [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", ())]
    return [re.sub(r"^#+ ", "", text, flags=re.MULTILINE) for text in shown]


def script(found: Iterable[Found]) -> str:
    """The index as a script, because a page that was opened from disk may load no other file."""
    rows = sorted({(*entry[:3], entry.text[:LONGEST]) for entry in found})
    lines = ",\n".join(json.dumps(row, ensure_ascii=False).replace("<", "\\u003c") for row in rows)
    return f"window.SEARCH = [\n{lines}\n];\n"
