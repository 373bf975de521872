"""One notebook for every point of a grid of parameters, and its verdicts side by side."""

import html
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from fedauto_core.store.writing import write_atomically

from . import figures
from .batch import INTERRUPTED, run_report
from .folder import REPORTS
from .front import look
from .pages import folded
from .plan import Job, override, read_profile, select, spread
from .record import FLOAT_FORMAT
from .site import Site
from .sources import NOTEBOOKS
from .tables import cell, html_table, numeric
from .verdicts import read_verdicts, subject

COLUMNS = ["page", "claim", "what", "mark", "effect", "low", "high", "n", "unit"]
"""Behind the parameters; no notebook has a parameter of such a name."""


def run_sweep(
    notebook: str,
    profile: str,
    grids: Sequence[str],
    *,
    settings: Sequence[str] = (),
    dry_run: bool = False,
    out: Path | None = None,
    notebooks_dir: Path = NOTEBOOKS,
    **options: Any,
) -> int:
    """Run every point of the product of the `grids` (`name=value,value`) as a page of its own, and lay the verdicts
    side by side in sweep.csv, sweep.svg and sweep.html; the exit status is that of the batch.

    notebook: its name in the profile. out: reports/sweeps/NOTEBOOK unless it is given. The rest, and options: of
    `batch.run_report`. InputError for bad input.
    """
    target = out or REPORTS / "sweeps" / notebook
    options |= {"settings": settings, "dry_run": dry_run, "out": target, "notebooks_dir": notebooks_dir}
    status = run_report(profile, only=[notebook], grids=grids, **options)
    if dry_run or status == INTERRUPTED:
        return status
    names = [grid.partition("=")[0] for grid in grids]
    points = spread(override(select(read_profile(profile, notebooks_dir), [notebook]), settings), grids)
    frame = side_by_side(target, points, names)
    if frame.empty:
        print("sweep: none of these pages has a verdict to lay beside the others")
        return status
    write_sweep(frame, names, Site(profile, (), target, notebooks_dir), notebook)
    print(f"sweep: {os.path.relpath(target / 'sweep.html')}")
    return status


def write_sweep(frame: pd.DataFrame, names: Sequence[str], site: Site, notebook: str) -> None:
    """sweep.csv, sweep.svg and sweep.html in the site's folder. frame: of `side_by_side`."""
    frame.to_csv(site.out / "sweep.csv", index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    with mpl.rc_context({"svg.hashsalt": "sweep"}):
        metadata = {"Date": None, "Creator": None}
        small_multiples(frame, names).savefig(site.out / "sweep.svg", bbox_inches="tight", metadata=metadata)
    write_atomically(site.out / "sweep.html", page(frame, names, site, notebook))


def side_by_side(out: Path, points: Sequence[Job], names: Sequence[str]) -> pd.DataFrame:
    """One row per verdict of each page there is: the parameters `names`, then `COLUMNS`; what: `verdicts.subject`,
    with the name of a text parameter for its value, so that the same thing has the same name on every page."""
    rows = [
        [job.parameters[name] for name in names]
        + [job.name, v.claim, _shared(subject(v), job, names), v.mark]
        + [v.effect, v.low, v.high, v.seeds, v.unit]
        for job in points
        for v in read_verdicts(out / job.name)
    ]
    return pd.DataFrame(rows, columns=[*names, *COLUMNS])


def _shared(what: str, job: Job, names: Sequence[str]) -> str:
    for name in names:
        if isinstance(value := job.parameters[name], str) and value:
            what = re.sub(rf"\b{re.escape(value)}\b", name, what)
    return what


def small_multiples(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """A panel per verdict and value of the third parameter and those after it: the effect with its interval over the
    first parameter, a colour for each value of the second. An open interval is none. frame: of `side_by_side`."""
    x, colour, *others = [*names, None][: max(2, len(names))]
    groups = list(frame.groupby(["claim", "what", "unit", *others], sort=False))
    width = min(3, len(groups))
    height = math.ceil(len(groups) / width)
    chart = Figure(figsize=(4.2 * width, 3.1 * height), layout="constrained")
    places = {value: i for i, value in enumerate(frame[x].unique())}
    values = frame[colour].unique() if colour else [None]
    shades = {value: figures.COLOURS[i % len(figures.COLOURS)] for i, value in enumerate(values)}
    for axes, (key, rows) in zip(chart.subplots(height, width, squeeze=False).flat, groups, strict=False):
        for i, value in enumerate(shades):
            some = rows[rows[colour] == value] if colour else rows
            at = some[x].map(places) + 0.12 * (i - (len(shades) - 1) / 2)
            ends = [(some["effect"] - some["low"]), (some["high"] - some["effect"])]
            ends = [end.where(end < math.inf, 0.0) for end in ends]
            label = f"{colour} = {value}" if colour else None
            axes.errorbar(at, some["effect"], ends, fmt="o-", color=shades[value], capsize=3, label=label)
        axes.axhline(0, color="0.5", lw=1)
        fixed = "".join(f", {name} = {value}" for name, value in zip(others, key[3:], strict=True))
        axes.set_title(f"{key[0]}: {key[1]}{fixed}", fontsize=8, wrap=True)
        axes.set(xlabel=x, ylabel=key[2], xticks=[*places.values()], xticklabels=[*places])
    for axes in chart.axes[len(groups) :]:
        axes.remove()
    if colour:
        chart.legend(*chart.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return chart


def page(frame: pd.DataFrame, names: Sequence[str], site: Site, notebook: str) -> str:
    """sweep.html: figure, what the numbers say, table with links to the pages. frame: of `side_by_side`."""
    title = f"{notebook} over {', '.join(names)}, profile {site.profile}"
    rows = [[_html(name, value) for name, value in row.items()] for row in frame.astype(object).to_dict("records")]
    right = [at for at, name in enumerate(frame) if numeric(frame[name].tolist())]
    table = folded(html_table(map(html.escape, frame.columns), rows, right), "sweep", "sweep.csv")
    return site.page("sweep.html", title, "sweep.html", reading=reading(frame, names), table=Markup(table))


def _html(column: str, value: object) -> str:
    text = html.escape(cell(value))
    if column == "page":
        return f'<a href="{text}/{text}.html">page</a>'
    return f'<span class="mark {look(f"[{value}]")}">[{text}]</span>' if column == "mark" else text


def reading(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """What the figure shows, in words: every verdict's marks over the grid, and where its effect is least and most."""
    said = []
    for (claim, what, unit), rows in frame.groupby(["claim", "what", "unit"], sort=False):
        counts = rows["mark"].value_counts(sort=False)
        marks = ", ".join(f"[{mark}] at {n} of {len(rows)}" for mark, n in counts.items())
        least, most = (rows.loc[pick] for pick in (rows["effect"].idxmin(), rows["effect"].idxmax()))
        ends = [
            f"{row['effect']:+.3g} ({', '.join(f'{name} = {row[name]}' for name in names)})" for row in (least, most)
        ]
        said.append(f"{claim}, {what}: {marks}; {unit} from {ends[0]} to {ends[1]}.")
    return said
