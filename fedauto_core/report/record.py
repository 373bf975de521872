"""What a notebook leaves behind: figures, tables, verdicts and provenance, each as files beside what the reader sees.

The same numbers give the same bytes: no timestamps, fixed float format, fixed identifiers inside SVG.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure
from pandas.api.types import is_integer_dtype

from fedauto_core.errors import require, require_known
from fedauto_core.report.claims import Verdict
from fedauto_core.store.keys import core_hash, versions

REPORTS = Path(__file__).resolve().parents[2] / "reports"
FLOAT_FORMAT = "%.7g"
DOTS_PER_INCH = 110
PARAMETER_TYPES = (bool, int, float, str)


def plain_values(namespace: Mapping[str, object]) -> dict[str, bool | int | float | str]:
    """The entries whose names do not start with "_" and whose type is exactly bool, int, float or str. Of `globals()`
    right after a notebook's imports these are its parameters."""
    return {k: v for k, v in namespace.items() if not k.startswith("_") and type(v) in PARAMETER_TYPES}


def numbers(text: str, kind: type[int] | type[float], parameter: str) -> list[Any]:
    """The values of a comma-separated parameter; InputError, naming the parameter, if one is not an int or float."""
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    require(
        bool(values) and not any(math.isnan(value) for value in values),
        f"parameter {parameter} = {text!r}",
        allowed=f"comma-separated numbers of type {kind.__name__}",
        remedy=f"write for instance {parameter}={'1,2' if kind is int else '0.1,1'}",
    )
    return values


def write_json(path: Path, value: object) -> None:
    """Stable JSON: sorted keys, two spaces, no NaN or infinity (they are not JSON)."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_verdicts(folder: Path) -> tuple[Verdict, ...]:
    """The verdicts in folder/verdicts.json; an open side of an interval is stored there as null."""
    rows = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    open_sides = {"low": -math.inf, "high": math.inf}
    return tuple(Verdict(**{k: open_sides[k] if v is None else v for k, v in row.items()}) for row in rows)


def log_file(report: Path, name: str) -> Path:
    """Where the batch explains why notebook `name` failed; the file exists only then."""
    return report / "logs" / f"{name}.log"


def verdict_files(report: Path) -> dict[str, Path]:
    """Notebook name -> its verdicts.json; not of notebooks whose last run failed: what they left may be out of date."""
    files = {path.parent.name: path for path in sorted(report.glob("*/verdicts.json"))}
    return {name: path for name, path in files.items() if not log_file(report, name).exists()}


def report_verdicts(report: Path | None = None) -> dict[str, tuple[Verdict, ...]]:
    """Notebook name -> verdicts, of a whole report.

    report: its folder; by default the report being built (set by the batch in FEDAUTO_REPORT), else reports/standard.
    """
    folder = report or Path(os.environ.get("FEDAUTO_REPORT", REPORTS / "standard"))
    return {name: read_verdicts(path.parent) for name, path in verdict_files(folder).items()}


def _cell(value: object) -> str:
    """Four significant digits; whole numbers in full; a missing value is an empty cell."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    return str(int(value)) if value.is_integer() else f"{value:.4g}"


def markdown_table(frame: pd.DataFrame) -> str:
    """`frame` as a Markdown pipe table, floats with four significant digits."""
    rows = [list(map(str, frame.columns)), ["---"] * frame.shape[1]]
    rows += [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


class Page:
    """The record of one notebook.

    name: the notebook's file name without suffix. parameters: the values of its parameters cell.
    Files go to the folder in the environment variable FEDAUTO_OUTPUT (set by the batch), else to
    reports/scratch/<name>.
    """

    def __init__(self, name: str, parameters: Mapping[str, bool | int | float | str]) -> None:
        for key, value in parameters.items():
            require(
                isinstance(value, PARAMETER_TYPES),
                f"parameter {key} = {value!r} of page {name}",
                allowed="values of type bool, int, float or str",
                remedy="record the plain value of the parameters cell",
            )
        self.name, self.parameters = name, dict(parameters)
        self.folder = Path(os.environ.get("FEDAUTO_OUTPUT", REPORTS / "scratch" / name))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._products: dict[str, dict[str, str]] = {}
        self._verdicts: list[Verdict] = []

    def figure(self, fig: Figure, slug: str, frame: pd.DataFrame, caption: str) -> None:
        """Save `fig` as slug.svg and slug.png and the numbers in it (`frame`) as slug.csv; show it with its caption."""
        self._register(slug, "figure", caption)
        self._write_csv(frame, slug)
        with mpl.rc_context({"svg.hashsalt": slug}):  # the default salt is random and would change the identifiers
            fig.savefig(self.folder / f"{slug}.svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        png = BytesIO()
        fig.savefig(png, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", metadata={"Software": None})
        plt.close(fig)
        (self.folder / f"{slug}.png").write_bytes(png.getvalue())
        display(Image(png.getvalue(), format="png"), metadata={"fedauto": self._products[slug]})
        display(Markdown(f"**Figure.** {caption}"))

    def table(self, frame: pd.DataFrame, slug: str, caption: str) -> None:
        """Save `frame` as slug.csv (the truth) with slug.md and slug.tex rendered from it; show it with its caption."""
        self._register(slug, "table", caption)
        self._write_csv(frame, slug)
        truth = pd.read_csv(self.folder / f"{slug}.csv", keep_default_na=False, na_values=[""])
        (self.folder / f"{slug}.md").write_text(f"{markdown_table(truth)}\n{caption}\n")
        latex = truth.style.hide(axis="index").format(_cell, escape="latex").format_index(escape="latex", axis=1)
        (self.folder / f"{slug}.tex").write_text(latex.to_latex(hrules=True))
        head = "".join(f"<th>{escape(str(column))}</th>" for column in truth.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>\n"
            for row in truth.itertuples(index=False)
        )
        html = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"
        shown = {"text/html": html, "text/plain": markdown_table(truth)}
        display(shown, raw=True, metadata={"fedauto": self._products[slug]})
        display(Markdown(f"**Table.** {caption}"))

    def verdict(self, verdict: Verdict) -> None:
        """Add `verdict` to verdicts.json and show it. Its evidence is the slug of a figure or table shown before."""
        require_known("evidence", verdict.evidence, self._products)
        if verdict not in self._verdicts:  # a cell that is run twice gives one verdict
            self._verdicts.append(verdict)
        rows = [
            {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in item.as_dict().items()}
            for item in sorted(self._verdicts, key=lambda v: (v.claim, v.evidence, v.statement))
        ]
        write_json(self.folder / "verdicts.json", rows)
        display(
            Markdown(
                f"**[{verdict.mark}] {verdict.claim}.** {verdict.statement}. Effect {describe(verdict)}; "
                f"evidence: *{verdict.evidence}*."
            )
        )

    def provenance(self, **extra: object) -> None:
        """Write versions, the hash of the core's source, parameters and `extra` (data hashes, ...) and show them."""
        record = {
            "notebook": self.name,
            "parameters": self.parameters,
            "versions": versions(),
            "core_sha256": core_hash(),
            **extra,
        }
        write_json(self.folder / "provenance.json", record)
        groups = [{k: v for k, v in record.items() if not isinstance(v, Mapping)}, self.parameters, record["versions"]]
        rows = [(what, str(value)) for group in groups for what, value in group.items()]
        display(Markdown(markdown_table(pd.DataFrame(rows, columns=["what", "value"]))))

    def _register(self, slug: str, kind: str, caption: str) -> None:
        require(
            re.fullmatch(r"[a-z0-9_]+", slug) is not None,
            f"slug {slug!r}",
            allowed="lower-case letters, digits and underscores",
            remedy="name the product like a file",
        )
        self._products[slug] = {"slug": slug, "kind": kind, "caption": caption}
        write_json(self.folder / "products.json", list(self._products.values()))

    def _write_csv(self, frame: pd.DataFrame, slug: str) -> None:
        require(
            frame.index.names == [None] and is_integer_dtype(frame.index) and frame.columns.nlevels == 1,
            f"frame of {slug!r} with index {frame.index.names} and {frame.columns.nlevels} column levels",
            allowed="a tidy frame: every variable a column, only row numbers as index",
            remedy="call reset_index() first",
        )
        frame.to_csv(self.folder / f"{slug}.csv", index=False, float_format=FLOAT_FORMAT, lineterminator="\n")


def _side(value: float) -> str:
    return f"{value:+.3g}" if math.isfinite(value) else "−∞" if value < 0 else "+∞"


def describe(verdict: Verdict) -> str:
    """Effect, interval, unit, what the interval is, and number of seeds in words."""
    seeds = f"{verdict.seeds} seed" + ("s" if verdict.seeds != 1 else "")
    sides = f"[{_side(verdict.low)}, {_side(verdict.high)}]"
    return f"{verdict.effect:+.3g} {sides} {verdict.unit} ({verdict.spread}), {seeds}"
