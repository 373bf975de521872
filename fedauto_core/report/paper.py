"""The paper's values beside ours, once somebody has them: they stand in `paper_values.csv` (table, row, column, value).

table: as the paper numbers it, and as a notebook's parameter `paper_table` asks for it; row: a label of the comparison;
column: a scenario; value: final accuracy in points. Without rows nothing is shown and nothing is judged.
"""

from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fedauto_core.errors import InputError, require, require_known

from .claims import LEVEL, holm, interval, paired
from .record import Page
from .verdicts import PAPER, Verdict

VALUES = Path(__file__).parent / "paper_values.csv"
COLUMNS = {"table": str, "row": str, "column": str, "value": float}
UNIT = "points of accuracy"


def show(page: Page, claim: str, summary: pd.DataFrame, table: str, where: str, path: Path = VALUES) -> None:
    """On `page`: ours beside the paper's as table and figure, and the verdicts on values and order; nothing for the
    table "". where: data and model, for the statements; the rest: of `beside`. final.csv of the page
    holds `summary`."""
    held = beside(summary, table, path)
    if len(held):
        page.table(held, PAPER, f"Ours beside {table} of the paper: points, 95 % t interval of the deviation.")
        page.figure(figure(held), "paper_figure", held, f"Ours (dots, intervals) and {table} of the paper (crosses).")
        said = {"claim": claim, "where": where, "evidence": PAPER}
        page.judge(value_verdict, {"held": PAPER}, **said)
        page.judge(order_verdict, {"summary": "final", "held": PAPER}, **said)


def beside(summary: pd.DataFrame, table: str, path: Path = VALUES) -> pd.DataFrame:
    """Ours beside the paper's, one row per value of `table`: scenario, label, paper, ours (mean over the seeds),
    deviation (ours minus paper's) with its 95 % t interval (low, high), n seeds. Empty for the table "".

    summary: of `experiments.summarise`. InputError for a damaged file, a table that it does not hold, a row or column
    that was not run, or a value that stands twice.
    """
    columns = ["scenario", "label", "paper", "ours", "deviation", "low", "high", "n"]
    if not table:
        return pd.DataFrame(columns=columns)
    values = _read(path)
    require_known("table of the paper", table, values["table"].unique())
    rows = []
    for row, column, value in values.loc[values["table"] == table, ["row", "column", "value"]].itertuples(index=False):
        require_known("scenario of the paper's values", column, summary["scenario"].unique())
        require_known("label of the paper's values", row, summary["label"].unique())
        points = summary.loc[(summary["label"] == row) & (summary["scenario"] == column), "points"]
        found = interval(points - value)
        rows.append((column, row, value, points.mean(), found.mean, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=columns)


def _read(path: Path) -> pd.DataFrame:
    try:
        values = pd.read_csv(path, dtype=COLUMNS, usecols=list(COLUMNS))
        problem = (values.isna().any(axis=None) and "an entry is missing") or (
            values.duplicated(["table", "row", "column"]).any() and "a value stands twice"
        )
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())
    if problem:
        raise InputError(
            f"{path.name}: {problem}",
            allowed="CSV with the columns table, row, column, value, each place once, every value a number",
            remedy="mend the file",
        )
    return values


def figure(held: pd.DataFrame) -> Figure:
    """Ours with its interval (line) and the paper's value (cross), a panel per scenario; `held`: of `beside`."""
    import seaborn as sns  # takes a second and a half, and most reports have no paper's values

    names = held["scenario"].unique()
    chart = Figure(figsize=(9, 1.2 + 0.25 * held["label"].nunique()), layout="constrained")
    for axes, name in zip(chart.subplots(1, len(names), sharey=True, squeeze=False).flat, names, strict=True):
        rows = held[held["scenario"] == name]
        axes.hlines(rows["label"], rows["paper"] + rows["low"], rows["paper"] + rows["high"], color="0.6")
        sns.scatterplot(rows, x="ours", y="label", ax=axes, label="ours", legend=False)
        sns.scatterplot(rows, x="paper", y="label", ax=axes, marker="X", label="paper", legend=False)
        axes.set(title=name, xlabel="points", ylabel="")
    axes.legend(fontsize="x-small")
    return chart


def value_verdict(claim: str, held: pd.DataFrame, where: str, evidence: str, margin: float = 1.0) -> Verdict:
    """Are our values the paper's? [Re] if every deviation's interval lies within +-margin points, [¬Re] if one lies
    outside, else [~]. The effect is the largest deviation. held: of `beside`."""
    inside = (held["low"] >= -margin) & (held["high"] <= margin)
    outside = (held["low"] > margin) | (held["high"] < -margin)
    mark = "Re" if inside.all() else "¬Re" if outside.any() else "~"
    largest = held.loc[held["deviation"].abs().idxmax()]
    statement = (
        f"{where}: value: {inside.sum()} of {len(held)} values are the paper's to {margin:g} points, {outside.sum()} "
        f"are not; largest deviation: {largest['label']}, {largest['scenario']}"
    )
    effect = (float(largest[key]) for key in ("deviation", "low", "high"))
    return Verdict(claim, statement, mark, *effect, int(largest["n"]), UNIT, evidence)


def order_verdict(claim: str, summary: pd.DataFrame, held: pd.DataFrame, where: str, evidence: str) -> Verdict:
    """Do our methods stand in the paper's order? For each two of a scenario: ours, paired by seed, of the one that is
    ahead in the paper minus the other. [¬Re] if one is behind after Holm's correction over all pairs, [Re] if all are
    ahead, each at its own level, else [~]. The effect is the least favourable pair; InputError if there is none."""
    pairs = []
    for scenario, rows in held.groupby("scenario", sort=False):
        here = summary[summary["scenario"] == scenario]
        ordered = rows.sort_values("paper", ascending=False, kind="stable")
        for (a, ahead), (b, behind) in combinations(zip(ordered["label"], ordered["paper"], strict=True), 2):
            if ahead > behind:
                found = interval(paired(here, "points", {"label": a}, {"label": b}))
                pairs.append({"pair": f"{a} over {b}, {scenario}"} | asdict(found))
    require(
        bool(pairs),
        f"no two values of the paper to order, among {len(held)}",
        allowed="two different values in one scenario, or more",
        remedy="enter more of the table",
    )
    frame = pd.DataFrame(pairs)
    kept = frame["low"] > 0
    turned = (frame["high"] < 0) & (holm(frame["p_value"].to_numpy()) <= 1 - LEVEL)
    mark = "¬Re" if turned.any() else "Re" if kept.all() else "~"
    least = frame.loc[frame["mean"].idxmin()]
    statement = (
        f"{where}: order: of {len(frame)} pairs {kept.sum()} stand as in the paper, {turned.sum()} the other way "
        f"round; least favourable: {least['pair']}"
    )
    effect = (float(least[key]) for key in ("mean", "low", "high"))
    return Verdict(claim, statement, mark, *effect, int(least["n"]), UNIT, evidence)
