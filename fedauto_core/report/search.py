"""What the search of a report finds: sections of notebooks, figures and tables, methods, scenarios, symbols."""

import html
import json
import re
from collections.abc import Iterable
from typing import NamedTuple

LONGEST = 1000  # letters of a section that are searched


class Found(NamedTuple):
    """One entry. url: as seen from the top of the report; kind: "section", "figure", "table", "method", ..."""

    url: str
    title: str
    kind: str
    text: str


def sections(body: str, page: str, title: str) -> list[Found]:
    """What a page says in words, by its headings; body: its HTML. page: where it stands."""
    prose = re.sub(r'<div class="source.*?</pre>', "", body, flags=re.DOTALL)
    _, *parts = re.split(r'<h\d id="([^"]*)">(.*?)</h\d>', prose)
    found = []
    for identifier, heading, text in zip(parts[::3], map(_words, parts[1::3]), map(_words, parts[2::3]), strict=True):
        where = heading if heading in title else f"{heading} ({title})"
        found.append(Found(f"{page}#{html.unescape(identifier)}", where, "section", text))
    return found


def _words(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def script(found: Iterable[Found]) -> str:
    """The index as a script, because a page that was opened from disk may load no other file."""
    rows = sorted({(*entry[:3], entry.text[:LONGEST]) for entry in found})
    lines = ",\n".join(json.dumps(row, ensure_ascii=False).replace("<", "\\u003c") for row in rows)
    return f"window.SEARCH = [\n{lines}\n];\n"
