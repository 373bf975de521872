"""Numbers that say where they come from: each is read from a file of the report, and stands in a ledger.

In Markdown a cited number stands between letters of Unicode's private area, so that it goes through any renderer
unharmed; `as_html` and `as_latex` put there what shows its source.
"""

import html
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedauto_core.store.writing import write_atomically

from .folder import STATE, intact, read_manifest
from .judging import read_table
from .record import FLOAT_FORMAT
from .tables import cell, pipe_table

MARKED = re.compile("\ue000(\\d+)\ue001(.*?)\ue002")
NUMERAL = re.compile(r"(?<![\w.-])[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w-]|\.\d)")
CODE = re.compile(r"(`[^`]*`)")
LOOKS: Mapping[str, Callable[[float], str]] = {
    "as it is": cell,
    "effect": lambda value: f"{value:+.3g}",
    "points": lambda value: f"{value:z.1f}",
    "signed points": lambda value: f"{value:+z.1f}",
    "two decimals": lambda value: f"{value:z.2f}",
    "whole": lambda value: f"{value:.0f}",
    "minutes of seconds": lambda value: f"{value / 60:.0f}",
}
"""How a number is printed."""


@dataclass(frozen=True)
class Cited:
    """One number as it is printed, and its source. page: folder in the report; row: number of a row of the file,
    from 1, or the rows that were taken as JSON (column -> value or values); how: "cell", "count", "sum", "min", "max",
    or "in the text" of a cell."""

    number: int
    printed: str
    page: str
    file: str
    row: str
    column: str
    how: str
    look: str


COLUMNS = tuple(Cited.__dataclass_fields__)


def chosen(frame: pd.DataFrame, where: Mapping[str, object]) -> pd.DataFrame:
    """The rows whose columns have the values `where` (one, or any of a list)."""
    for column, value in where.items():
        frame = frame[frame[column].isin(value if isinstance(value, list) else [value])]
    return frame


def plain_text(text: str) -> str:
    """Text as Markdown that shows it as it is; what stands in backticks stays code."""
    parts = CODE.split(text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_$])", r"\\\1", part) for part in parts)


def between(low: str, high: str) -> str:
    """An interval that stays on one line."""
    return f"[{low},\u00a0{high}]"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns of nothing but cited numbers stand on the right."""
    lines = list(rows)
    columns = zip(*lines, strict=True) if lines else [[""]] * len(heads)
    right = [all(MARKED.fullmatch(text) or text == "–" for text in column) for column in columns]
    head, rule, *body = pipe_table(heads, lines).splitlines()
    rule = "| " + " | ".join("---:" if at_right else "---" for at_right in right) + " |"
    return "\n".join((head, rule, *body)) + "\n"


class Ledger:
    """The numbers that were cited from the report in folder `report`, in the order in which they were."""

    def __init__(self, report: Path) -> None:
        self.report = report
        self.cited: list[Cited] = []
        self._frames: dict[tuple[str, str], pd.DataFrame | None] = {}

    def frame(self, page: str, file: str, columns: Sequence[str] = ()) -> pd.DataFrame | None:
        """A file of a page, its rows numbered from 1; None if it is not there, cannot be read, is a table that is not
        as the page's manifest says, or lacks one of the `columns`."""
        if (page, file) not in self._frames:
            self._frames[page, file] = self._read(page, file)
        found = self._frames[page, file]
        return found if found is not None and {*columns} <= {*found.columns} else None

    def _read(self, page: str, file: str) -> pd.DataFrame | None:
        """A table as it is; of JSON (`folder.STATE`) entries of objects as `outer.inner`, of lists by row."""
        folder = self.report / page
        try:
            if file in STATE and read_manifest(folder) is not None:
                found = pd.json_normalize(json.loads((folder / file).read_bytes()))
            elif intact(folder, file):
                found = read_table(folder / file)
            else:
                return None
        except (OSError, ValueError):
            return None
        return found.set_axis(range(1, len(found) + 1))

    def add(self, name: str, frame: pd.DataFrame) -> None:
        """Write `frame` into the report as the file `name` (folder/file.csv), from where it may be cited."""
        path = self.report / name
        write_atomically(path, frame.to_csv(index=False, float_format=FLOAT_FORMAT, lineterminator="\n"))
        page, _, file = name.partition("/")
        self._frames[page, file] = read_table(path).set_axis(range(1, len(frame) + 1))

    def cell(self, page: str, file: str, row: int, column: str, look: str = "as it is") -> str:
        """The number in one cell."""
        return self._mark(self._frame(page, file).loc[row, column], page, file, str(row), column, "cell", look)

    def of(
        self, page: str, file: str, where: Mapping[str, object], column: str, how: str, look: str = "as it is"
    ) -> str:
        """The "sum", "min", "max" or "count" of a column over the rows `where`."""
        value = chosen(self._frame(page, file), where)[column].agg(how)
        row = json.dumps(dict(where), ensure_ascii=False)
        return self._mark(value, page, file, row, column, how, look)

    def quoted(
        self, page: str, file: str, row: int, column: str, part: Callable[[str], str] = lambda text: text
    ) -> str:
        """The text of a cell, or a `part` of it, with every number in it."""
        source = (page, file, str(row), column, "in the text", "as it is")
        pieces = CODE.split(part(str(self._frame(page, file).loc[row, column])))
        return "".join(
            piece if piece.startswith("`") else NUMERAL.sub(lambda n: self._note(n[0], *source), plain_text(piece))
            for piece in pieces
        )

    def table(self, text: str) -> pd.DataFrame:
        """The ledger of a text: a row per number that stands in it, the columns of `Cited`."""
        used = {int(number) for number, _ in MARKED.findall(text)}
        return pd.DataFrame([cited for cited in self.cited if cited.number in used], columns=list(COLUMNS))

    def as_html(self, text: str) -> str:
        """HTML in which every cited number tells its source."""

        def shown(found: re.Match[str]) -> str:
            cited = self.cited[int(found[1]) - 1]
            where = f"{cited.page}/{cited.file}, row {cited.row}, {cited.column}, {cited.how}"
            return f'<data value="{found[1]}" title="{html.escape(where)}">{found[2]}</data>'

        return MARKED.sub(shown, text)

    def as_latex(self, text: str) -> str:
        r"""LaTeX in which every cited number is `\cited{its number in the ledger}{as printed}`."""
        return MARKED.sub(lambda found: f"\\cited{{{found[1]}}}{{{found[2].replace('-', '$-$')}}}", text)

    def _frame(self, page: str, file: str) -> pd.DataFrame:
        found = self.frame(page, file)
        if found is None:
            raise LookupError(f"{page}/{file} is not in the report")
        return found

    def _mark(self, value: float, page: str, file: str, row: str, column: str, how: str, look: str) -> str:
        if isinstance(value, float) and math.isinf(value):  # the open side of an interval: no number
            return "+∞" if value > 0 else "−∞"
        return self._note(LOOKS[look](value), page, file, row, column, how, look)

    def _note(self, printed: str, *source: str) -> str:
        self.cited.append(Cited(len(self.cited) + 1, printed, *source))
        return f"\ue000{len(self.cited)}\ue001{printed}\ue002"
