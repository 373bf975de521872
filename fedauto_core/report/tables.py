"""Tables as Markdown and as HTML."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def cell(value: object) -> str:
    """Four significant digits; whole numbers in full; a missing value is an empty cell."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() else f"{value:.4g}"


def pipe_table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown pipe table, floats with four significant digits."""
    lines = [list(head), ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)


def markdown_table(frame: "pd.DataFrame") -> str:
    """`frame` as a Markdown pipe table."""
    return pipe_table(list(map(str, frame.columns)), frame.itertuples(index=False))


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table whose cells are HTML already."""
    top = "".join(f"<th>{text}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"
