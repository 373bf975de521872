"""Frames -> figures in one style: colour-blind palette, distinct markers, 95 % t bands, a fixed look per method."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from fedauto_core.data.federation import Federation
from fedauto_core.network import CAUSES, Trace

from .claims import interval
from .contests import STANDINGS
from .verdicts import MARKS

# A method keeps its colour and marker in every figure: the position in this list is its look.
LABELS = (
    "fedauto", "fedavg", "server_only", "fedavg_ideal", "known_probability", "fedawe", "fedprox", "tf_aggregation_like",
    "fedavg_all", "centralised", "server_finetuning", "fedawe_unclipped", "fedauto_weights_only", "fedau", "mifa",
    "mifa_waiting", "fedvarp", "f3ast", "fl_fdms", "scaffold", "feddyn", "fednova", "fedavgm", "fedadam", "fedyogi",
    "fedlaw", "feddf", "feddu", "data_sharing", "feddisco", "label_matching", "fedcote_like", "known_probability_self",
    "fedstale", "fedar_like", "fedpbc_like", "fedavg_amplified",
)  # fmt: skip
COLOURS = [*sns.color_palette("colorblind", 10), *map(mpl.colors.to_rgb, ("#222222", "#8c6d31", "#7b4173"))]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h", "d")


def t_band(values: pd.Series) -> tuple[float, float]:
    """95 % t interval of the mean, the same as in the verdicts; one value has no band."""
    if len(values) == 1:
        return values.iloc[0], values.iloc[0]
    band = interval(values)
    return band.low, band.high


BAND = {"errorbar": t_band}
CUT = 0.05  # of the values, left outside the axis
CONTEST_COLOURS = {"aggregation": COLOURS[0], "optimiser": COLOURS[3], "public data": COLOURS[2]}
CONTEST_COLOURS |= {"ours": (0.1, 0.1, 0.1), "bound": (0.6, 0.6, 0.6)}
MARK_COLOURS = dict(zip(MARKS, (COLOURS[2], COLOURS[9], "0.6", COLOURS[3], COLOURS[0]), strict=True))


def style() -> None:
    """Set the project's look; call once at the top of a notebook."""
    rc = {"figure.figsize": (7.5, 4.2), "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", rc=rc)


def looks(labels: Sequence[str]) -> tuple[dict[str, object], dict[str, str]]:
    """Colour and marker of each label, a pair that no other label has; unknown labels follow in the order given."""
    order = [*LABELS, *(label for label in labels if label not in LABELS)]
    place = {label: order.index(label) for label in labels}
    return (
        {label: COLOURS[i % len(COLOURS)] for label, i in place.items()},
        {label: MARKERS[(i + i // len(COLOURS)) % len(MARKERS)] for label, i in place.items()},
    )


def partition(federation: Federation, title: str) -> Figure:
    """Who holds what: samples per class of the server (row 0) and of each client."""
    samples = np.rint(federation.alpha * federation.counts[:, None]).astype(int)
    figure = Figure(figsize=(7, 0.24 * len(samples) + 1.6), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(samples, mask=samples == 0, cmap="crest", cbar_kws={"label": "samples"}, linewidths=0.5, ax=axes)
    axes.set(xlabel="class", ylabel="participant", title=title)
    axes.set_yticks(np.arange(len(samples)) + 0.5, ["server", *range(1, len(samples))], rotation=0)
    return figure


def trace(trace: Trace, title: str) -> Figure:
    """Rounds from left to right, one row per client, coloured by what happened to the upload."""
    figure = Figure(figsize=(7.5, 0.2 * trace.arrived.shape[1] + 1.6), layout="constrained")
    axes = figure.subplots()
    colours = ["#f4f4f4", *COLOURS[: len(CAUSES) - 1]]
    rounds, clients = trace.arrived.shape
    look = {"cmap": mpl.colors.ListedColormap(colours), "vmin": -0.5, "vmax": len(CAUSES) - 0.5}
    extent = (0.5, rounds + 0.5, clients + 0.5, 0.5)  # both count from 1
    axes.imshow(trace.cause.T, aspect="auto", extent=extent, interpolation="nearest", **look)
    seen = np.unique(trace.cause)
    handles = [mpl.patches.Patch(facecolor=colours[i], edgecolor="0.7", label=CAUSES[i]) for i in seen]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set(xlabel="round", ylabel="client", title=title)
    axes.set_yticks(range(1, clients + 1, max(1, clients // 10)))
    axes.grid(False)
    return figure


def curves(frame: pd.DataFrame, column: str = "scenario", y: str = "accuracy", wrap: int = 2) -> Figure:
    """Learning curves, one panel per value of `column`, one line per label: mean over seeds with a 95 % band."""
    colours, markers = looks(list(frame["label"].unique()))
    look = {"kind": "line", "palette": colours, "markers": markers, "dashes": False, "markersize": 5}
    panels = {"col": column, "col_wrap": min(wrap, frame[column].nunique()), "height": 3.2, "aspect": 1.35}
    grid = sns.relplot(frame, x="round", y=y, hue="label", style="label", **look, **panels, **BAND)
    grid.set_titles("{col_name}")
    grid.set_axis_labels("round", f"test {y.replace('_', ' ')}")
    return grid.figure


def dots(
    summary: pd.DataFrame,
    column: str = "scenario",
    x: str = "points",
    wrap: int = 3,
    contests: Mapping[str, str] | None = None,
) -> Figure:
    """Final values per label, one panel per value of `column`: seeds as small dots, mean with a 95 % interval.

    contests: label -> contest, for colours; the labels are then sorted by their mean, the best on top.
    The axis leaves out the lowest CUT of the runs where they lie far off; an arrow stands for a mean out there.
    """
    labels, handles = list(summary["label"].unique()), []
    colours, _ = looks(labels)
    if contests is not None:
        labels = list(summary.groupby("label")[x].mean().sort_values(ascending=False).index)
        colours, handles = _by_contest(labels, contests)
    height = 0.26 * len(labels) + 1.4
    look = {"kind": "point", "linestyle": "none", "palette": colours, "legend": False, "order": labels}
    panels = {"col": column, "col_wrap": min(wrap, summary[column].nunique()), "height": height, "aspect": 4.2 / height}
    grid = sns.catplot(summary, x=x, y="label", hue="label", **look, **panels, **BAND)
    grid.set_titles("{col_name}")
    # Few seeds give wide t intervals, and one broken method would squeeze all others into a corner.
    grid.set(xlim=(max(summary[x].quantile(CUT) - 4, 0), min(summary[x].max() + 4, 100)))
    grid.set_axis_labels("final test accuracy (points)", "")
    for value, axes in grid.axes_dict.items():
        here = summary[summary[column] == value]
        dots = here[x], here["label"].map(labels.index)
        axes.scatter(*dots, s=6, color="0.35", zorder=3, rasterized=True)  # thousands of them: small SVG
        means = here.groupby("label")[x].mean().reindex(labels)
        for place, mean in enumerate(means):
            if mean < axes.get_xlim()[0]:  # the mean lies outside: an arrow at the edge
                axes.plot(axes.get_xlim()[0], place, marker="<", color=colours[labels[place]], ms=7, clip_on=False)
    if handles:
        grid.figure.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return grid.figure


def _by_contest(labels: Iterable[str], contests: Mapping[str, str]) -> tuple[dict[str, object], list[object]]:
    """Colour of each label, and the legend's handles for the contests that occur."""
    colours = {label: CONTEST_COLOURS[contests[label]] for label in labels}
    seen = [contest for contest in CONTEST_COLOURS if contest in {contests[label] for label in labels}]
    return colours, [mpl.lines.Line2D([], [], color=CONTEST_COLOURS[c], marker="o", label=c) for c in seen]


def horizon(leads: pd.DataFrame, contests: Mapping[str, str], margin: float, winner: str = "fedauto") -> Figure:
    """`winner` minus each rival (`contests.leads`) against the round, one panel per scenario: mean over seeds with a
    95 % t band, coloured by contest. Grey: within the margin; dotted: where the last quarter of the rounds begins.

    The axis shows at least 3 points on either side, and no more than 10 (the beginning of a run may lie outside).
    """
    scenarios, rivals, last = leads["scenario"].unique(), leads["rival"].unique(), leads["round"].max()
    columns = min(3, len(scenarios))
    rows = -(-len(scenarios) // columns)
    figure = Figure(figsize=(3.3 * columns + 2.0, 2.7 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).flat
    colours, _ = _by_contest(rivals, contests)
    order = {rival: [r for r in rivals if contests[r] == contests[rival]].index(rival) for rival in rivals}
    for axes in panels[len(scenarios) :]:
        axes.remove()
    for axes, scenario in zip(panels, scenarios, strict=False):
        axes.axhspan(-margin, margin, color="0.9", zorder=0)
        axes.axvline(0.75 * last, color="0.5", ls=":", lw=1)
        for rival in rivals:
            here = leads[(leads["scenario"] == scenario) & (leads["rival"] == rival)].groupby("round")["lead"]
            bands = pd.DataFrame({at: t_band(values) for at, values in here}, index=["low", "high"]).T
            look = {"color": colours[rival], "ls": ("-", "--", ":", "-.")[order[rival] % 4]}
            axes.plot(
                bands.index, here.mean(), **look, marker=MARKERS[order[rival] % len(MARKERS)], ms=3, lw=1.5, label=rival
            )
            axes.fill_between(bands.index, *np.clip(bands.T.to_numpy(), -100, 100), color=colours[rival], alpha=0.12)
        axes.set_title(scenario, fontsize="medium")
    late = leads[leads["round"] > 0.25 * last].groupby(["scenario", "rival", "round"])["lead"].mean()
    axes.set(
        xlim=(leads["round"].min(), last), ylim=(min(-3, max(late.min() - 1, -10)), max(3, min(late.max() + 1, 10)))
    )
    figure.supxlabel("round", fontsize="medium")
    figure.supylabel(f"{winner} minus rival (points)", fontsize="medium")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def standing(frame: pd.DataFrame, rows: str = "rival", columns: str = "scenario", winner: str = "fedauto") -> Figure:
    """`winner` minus each rival (`contests.against`) as a map of `rows` x `columns`: ▲ won, ▼ lost, in brackets before
    correction only, = equivalent; hollow △ ▽ (… for =) where the runs ended too early.

    Rivals in rows: the closest on top, their names coloured by contest. The colours end at 10 points or less.
    """
    means = frame.pivot(index=rows, columns=columns, values="mean")
    means = means.loc[frame[rows].unique(), frame[columns].unique()]
    if rows == "rival":
        means = means.loc[means.mean(axis=1).sort_values().index]
    signs = frame["standing"].map(dict(zip(STANDINGS, (" ▲", " (▲)", " =", "", " (▼)", " ▼"), strict=True)))
    signs = signs.where(frame["settled"], signs.str.translate(str.maketrans("▲▼=", "△▽…")))
    signs = frame.assign(sign=signs).pivot(index=rows, columns=columns, values="sign").loc[means.index, means.columns]
    text = means.map(lambda mean: f"{mean:+z.1f}" if mean else "0") + signs
    figure = Figure(figsize=(1.1 * means.shape[1] + 3.4, 0.27 * len(means) + 1.4), layout="constrained")
    reach = float(np.clip(np.abs(means.to_numpy()).max(), 1, 10))  # one broken rival must not wash out all others
    look = {"cmap": "vlag_r", "vmin": -reach, "vmax": reach, "linewidths": 0.5, "annot_kws": {"size": 8}}
    bar = {"label": f"{winner} minus rival (points)", "extend": "both"}
    sns.heatmap(means, annot=text, fmt="", cbar_kws=bar, ax=figure.subplots(), **look)
    figure.axes[0].set(xlabel="", ylabel="")
    if rows == "rival":
        contests = frame.set_index("rival")["contest"].to_dict()
        for name in figure.axes[0].get_yticklabels():
            name.set_color(CONTEST_COLOURS[contests[name.get_text()]])
    harmless = set(frame.loc[frame["harmless"], "scenario"]) if columns == "scenario" else set()
    for name in figure.axes[0].get_xticklabels():
        name.set_color("0.6" if name.get_text() in harmless else "black")
    return figure


def settings(summary: pd.DataFrame, y: str = "points", wrap: int = 3) -> Figure:
    """Final values along one axis per `study`, one panel per study and scenario, one line per label: mean over seeds
    with a 95 % interval."""
    panels = [(s, study) for s in summary["scenario"].unique() for study in summary["study"].unique()]
    columns, rows = min(wrap, len(panels)), -(-len(panels) // min(wrap, len(panels)))
    figure = Figure(figsize=(3.4 * columns + 1.6, 2.6 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    colours, markers = looks(list(summary["label"].unique()))
    for axes, (scenario, study) in zip(grid.flat, panels, strict=False):
        here = summary[(summary["scenario"] == scenario) & (summary["study"] == study)]
        values = list(here["value"].unique())
        for shift, (label, group) in enumerate(here.groupby("label", sort=False)):
            by_value = [group.loc[group["value"] == value, y] for value in values]
            place = np.arange(len(values)) + 0.06 * shift
            mean, (low, high) = [v.mean() for v in by_value], zip(*map(t_band, by_value), strict=True)
            axes.plot(place, mean, color=colours[label], marker=markers[label], ms=5, label=label)
            axes.vlines(place, low, high, color=colours[label], lw=1)
        axes.set_xticks(range(len(values)), values, rotation=25, ha="right", fontsize="small")
        axes.set_title(f"{study}, {scenario}", fontsize="medium")
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    grid[0, 0].set(ylim=(max(summary[y].quantile(CUT) - 4, 0), min(summary[y].max() + 4, 100)))  # as in `dots`
    figure.supylabel("final test accuracy (points)", fontsize="medium")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def comparisons(frame: pd.DataFrame, unit: str, winner: str = "fedauto") -> Figure:
    """`winner` minus each rival with its 95 % interval, per scenario, coloured by the mark of the comparison; thin: the
    interval of a loss after the correction.

    The closest rivals are on top; the axis leaves out the uppermost CUT of the intervals' ends where they lie far off.
    """
    scenarios = list(frame["scenario"].unique())
    rivals = list(frame.groupby("rival")["mean"].mean().sort_values().index)
    # Without an interval, as with one seed, the means alone decide what is seen.
    low, high = (frame[side].where(np.isfinite(frame[side]), frame["mean"]) for side in ("low", "high"))
    ends = low.quantile(CUT), high.quantile(1 - CUT)
    margin = max(0.05 * (ends[1] - ends[0]), 0.1)
    columns = min(3, len(scenarios))
    rows = -(-len(scenarios) // columns)
    figure = Figure(figsize=(2.9 * columns + 1.6, (0.28 * len(rivals) + 0.6) * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for axes in panels[len(scenarios) :]:
        axes.remove()
    for axes, scenario in zip(panels, scenarios, strict=False):
        here = frame[frame["scenario"] == scenario].set_index("rival").loc[rivals]
        for y, (_, row) in enumerate(here.iterrows()):
            for sides, width in ((["low", "high"], 2), (["decides_low", "decides_high"], 0.8)):
                axes.plot(
                    np.clip(row[sides].astype(float), -100, 100), [y, y], color=MARK_COLOURS[row["mark"]], lw=width
                )
            axes.plot(row["mean"], y, "o", color=MARK_COLOURS[row["mark"]], ms=6)
        axes.axvline(0, color="0.3", lw=1)
        axes.set(title=scenario, xlim=(ends[0] - margin, ends[1] + margin))
        axes.set_yticks(range(len(rivals)), rivals)
    panels[0].invert_yaxis()
    figure.supxlabel(f"{winner} minus rival ({unit})", fontsize="medium")
    seen = [mark for mark in MARKS if mark in set(frame["mark"])]
    handles = [mpl.lines.Line2D([], [], color=MARK_COLOURS[m], marker="o", label=f"[{m}]") for m in seen]
    figure.legend(handles=handles, loc="outside right upper")
    return figure
