"""What a notebook leaves behind: figures, tables, verdicts and provenance, each as files beside what the reader sees.

The same numbers give the same bytes: no timestamps, fixed float format, fixed identifiers inside SVG.
"""

import functools
import io
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure
from pandas.api.types import is_integer_dtype

from fedauto_core.errors import InputError, require, require_known
from fedauto_core.store.keys import versions

from .folder import REPORTS, write_json
from .judging import judged
from .pictures import small_png, small_svg
from .sources import Value, declared
from .tables import cell, html_table, markdown_table, numeric
from .verdicts import Verdict, describe, stored

FLOAT_FORMAT = "%.7g"
DOTS_PER_INCH = 110


def parameters(namespace: Mapping[str, Any]) -> dict[str, Value]:
    """Of a notebook's `globals()`: name -> value of what its parameters cell declares; InputError if that was not run.

    The cell is looked up in what the kernel has run: an imported constant is no parameter, and a copy of the notebook
    under another name has its own.
    """
    for source in reversed(namespace.get("In", ())):
        if names := declared(source):
            return {name: namespace[name] for name in names}
    raise InputError(
        "no parameters cell has been run",
        allowed="globals() of a notebook with a cell of lines `name: type = literal  # help`",
        remedy="run that cell first",
    )


def numbers(text: str | float, kind: type[int] | type[float], parameter: str) -> list[Any]:
    """The values of a comma-separated parameter, which papermill hands over as a number where it is a single one;
    InputError, naming the parameter, if one is not an int or float."""
    try:
        values = [kind(part) for part in str(text).split(",")]
    except ValueError:
        values = []
    require(
        bool(values) and not any(math.isnan(value) for value in values),
        f"parameter {parameter} = {text!r}",
        allowed=f"comma-separated numbers of type {kind.__name__}",
        remedy=f"write for instance {parameter}={'1,2' if kind is int else '0.1,1'}",
    )
    return values


class Page:
    """The page of one notebook: what it shows and leaves behind.

    name: the notebook's file name without suffix. parameters: the values of its parameters cell, from `parameters`.
    Files go to the folder in the environment variable FEDAUTO_OUTPUT (set by the batch), else to
    reports/scratch/<name>.
    """

    def __init__(self, name: str, parameters: Mapping[str, Value]) -> None:
        for key, value in parameters.items():
            require(
                isinstance(value, Value),
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
        drawn, painted = io.StringIO(), io.BytesIO()
        # The default salt is random and would change the identifiers; text as text can be searched, and is smaller.
        with mpl.rc_context({"svg.hashsalt": slug, "svg.fonttype": "none"}):
            fig.savefig(drawn, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        fig.savefig(painted, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight", metadata={"Software": None})
        plt.close(fig)
        picture = small_png(painted.getvalue())
        (self.folder / f"{slug}.svg").write_text(small_svg(drawn.getvalue()), encoding="utf-8", newline="\n")
        (self.folder / f"{slug}.png").write_bytes(picture)
        display(Image(picture, format="png"), metadata={"fedauto": self._products[slug]})
        display(Markdown(f"**Figure.** {caption}"))

    def table(self, frame: pd.DataFrame, slug: str, caption: str, points: Collection[str] = ()) -> None:
        """Save `frame` as slug.csv (the truth) with slug.md and slug.tex rendered from it; show it with its caption.

        points: columns that are rendered with one decimal, as percentage points are."""
        self._register(slug, "table", caption)
        self._write_csv(frame, slug)
        truth = pd.read_csv(self.folder / f"{slug}.csv", keep_default_na=False, na_values=[""])
        (self.folder / f"{slug}.md").write_text(f"{markdown_table(truth, points)}\n{caption}\n", encoding="utf-8")
        digits = {column: 1 if column in points else None for column in truth.columns}
        look = {column: functools.partial(cell, decimals=decimals) for column, decimals in digits.items()}
        latex = truth.style.hide(axis="index").format(look, escape="latex").format_index(escape="latex", axis=1)
        (self.folder / f"{slug}.tex").write_text(latex.to_latex(hrules=True), encoding="utf-8")
        rows = ([escape(cell(*pair)) for pair in zip(row, digits.values(), strict=True)]
                for row in truth.itertuples(index=False))  # fmt: skip
        right = [i for i, column in enumerate(truth.columns) if numeric(truth[column])]
        html = html_table((escape(str(column)) for column in truth.columns), rows, right)
        shown = {"text/html": html, "text/plain": markdown_table(truth, points)}
        display(shown, raw=True, metadata={"fedauto": self._products[slug]})
        display(Markdown(f"**Table.** {caption}"))

    def verdict(self, verdict: Verdict) -> None:
        """Add `verdict` to verdicts.json and show it. Its evidence is the slug of a figure or table shown before."""
        require_known("evidence", verdict.evidence, self._products)
        if verdict not in self._verdicts:  # a cell that is run twice gives one verdict
            self._verdicts.append(verdict)
        write_json(self.folder / "verdicts.json", stored(self._verdicts))
        text = f"**[{verdict.mark}] {verdict.claim}.** {verdict.statement}. Effect {describe(verdict)}"
        display(Markdown(f"{text}; evidence: *{verdict.evidence}*."))

    def data(self, frame: pd.DataFrame, slug: str, caption: str) -> None:
        """Save `frame` as slug.csv without showing it: what a verdict is computed from."""
        self._require_slug(slug)
        self._write_csv(frame, slug)
        display(Markdown(f"**Data.** [{slug}.csv]({slug}.csv): {caption}"))

    def judge(self, rule: Callable[..., Verdict], tables: Mapping[str, str], **options: object) -> None:
        """The `verdict` that `rule` computes from CSV files of this page (`judging.judged`), so that
        `python -m fedauto_core verify` can compute it again; `rule` is one of `verify.RULES`."""
        self.verdict(judged(self.folder, rule, tables, options))

    def provenance(self, **extra: object) -> None:
        """Write and show versions, the hash of the code that this notebook uses (named by the batch in FEDAUTO_CODE),
        parameters and `extra` (data hashes, ...)."""
        facts = {
            "notebook": self.name,
            "parameters": self.parameters,
            "versions": versions(),
            "code_sha256": os.environ.get("FEDAUTO_CODE", "not run by the batch"),
            **extra,
        }
        write_json(self.folder / "provenance.json", facts)
        groups = [{k: v for k, v in facts.items() if not isinstance(v, Mapping)}, self.parameters, facts["versions"]]
        rows = [(what, str(value)) for group in groups for what, value in group.items()]
        display(Markdown(markdown_table(pd.DataFrame(rows, columns=["what", "value"]))))

    def _register(self, slug: str, kind: str, caption: str) -> None:
        self._require_slug(slug)
        self._products[slug] = {"slug": slug, "kind": kind, "caption": caption}
        write_json(self.folder / "products.json", list(self._products.values()))

    @staticmethod
    def _require_slug(slug: str) -> None:
        require(
            re.fullmatch(r"[a-z0-9_]+", slug) is not None,
            f"slug {slug!r}",
            allowed="lower-case letters, digits and underscores",
            remedy="name the product like a file",
        )

    def _write_csv(self, frame: pd.DataFrame, slug: str) -> None:
        require(
            frame.index.names == [None] and is_integer_dtype(frame.index) and frame.columns.nlevels == 1,
            f"frame of {slug!r} with index {frame.index.names} and {frame.columns.nlevels} column levels",
            allowed="a tidy frame: every variable a column, only row numbers as index",
            remedy="call reset_index() first",
        )
        frame.to_csv(self.folder / f"{slug}.csv", index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
