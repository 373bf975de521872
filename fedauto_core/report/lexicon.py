"""The glossary: the symbols and terms that a reader may look up, where they first matter, their homes in the code."""

import csv
import functools
import re
from pathlib import Path
from typing import NamedTuple

from fedauto_core.errors import require
from fedauto_core.store.keys import PACKAGE

SYMBOLS = Path(__file__).parent / "symbols.csv"


class Entry(NamedTuple):
    """kind: "symbol" or "term". spellings: how docs/method.md writes a symbol, how notebooks write a term. notebook:
    where it first matters, as "03"; "" for a symbol that none uses. home: the module of the core, or the name in it,
    that means this. meaning: Markdown."""

    kind: str
    name: str
    spellings: tuple[str, ...]
    notebook: str
    home: str
    meaning: str

    @property
    def anchor(self) -> str:
        """Of its row on the page."""
        return f"{self.kind}-{re.sub(r'[^A-Za-z0-9_]+', '-', self.name).strip('-')}"

    @property
    def address(self) -> str:
        """From the top of the report."""
        return f"glossary.html#{self.anchor}"


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All of symbols.csv: symbols in the order in which they are introduced, then terms by their names."""
    with SYMBOLS.open(encoding="utf-8", newline="") as lines:
        found = [Entry(**row | {"spellings": tuple(row["spellings"].split("; "))}) for row in csv.DictReader(lines)]
    symbols = [entry for entry in found if entry.kind == "symbol"]
    return (*symbols, *sorted(set(found) - set(symbols), key=lambda entry: entry.name.strip("[").casefold()))


def home_file(home: str) -> Path:
    """The file of a dotted name of the core; InputError if no module of that name is there."""
    parts = home.split(".")
    stems = (PACKAGE.joinpath(*parts[:n]) for n in range(len(parts), 0, -1))
    files = [path for stem in stems for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    require(bool(files), f"home {home!r}", allowed="a module of the core, or a name in one", remedy="mend symbols.csv")
    return files[0]
