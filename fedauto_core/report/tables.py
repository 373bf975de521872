"""Tables as Markdown and as HTML."""

import itertools
import math
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def cell(value: object, decimals: int | None = None) -> str:
    """Four significant digits, or so many `decimals`; whole numbers in full, zero as 0; a missing value is an empty
    cell."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    if value == 0 or (decimals is None and value.is_integer()):
        return str(int(value))
    return f"{value:.4g}" if decimals is None else f"{value:z.{decimals}f}"


def numeric(values: Iterable[object]) -> bool:
    """Whether a column holds numbers only, and so stands on the right."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def pipe_table(head: Sequence[str], rows: Iterable[Iterable[object]], points: Container[str] = ()) -> str:
    """A Markdown pipe table, numbers on the right, as in `cell`; those in the columns `points` with one decimal."""
    body = [tuple(row) for row in rows]
    right = [numeric(column) for column in zip(*body, strict=True)] or [False] * len(head)
    digits = [1 if name in points else None for name in head]
    lines = [list(head), ["---:" if at_right else "---" for at_right in right]]
    lines += [list(map(cell, row, digits)) for row in body]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def markdown_table(frame: "pd.DataFrame", points: Container[str] = ()) -> str:
    """`frame` as a Markdown pipe table; the columns `points` with one decimal."""
    return pipe_table(list(map(str, frame.columns)), frame.itertuples(index=False), points)


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]], right: Container[int] = ()) -> str:
    """A table whose cells are HTML already; the columns with the numbers `right` are aligned there."""

    def line(tag: str, texts: Iterable[str]) -> str:
        look = (' style="text-align: right"' if i in right else "" for i in itertools.count())
        return "".join(f"<{tag}{how}>{text}</{tag}>" for how, text in zip(look, texts, strict=False))

    body = "".join(f"<tr>{line('td', row)}</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{line('th', head)}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"
