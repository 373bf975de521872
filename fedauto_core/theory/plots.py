"""Figures of the theory notebooks, drawn from frames of `theory.bound.checks`. Colours come with the frame's rules."""

from collections.abc import Callable, Mapping

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

Palette = Mapping[str, object]


def _grid(plot: Callable[..., sns.FacetGrid], frame: pd.DataFrame, **options: object) -> sns.FacetGrid:
    """seaborn lays a grid out itself and warns when matplotlib's layout engine is on as well."""
    with mpl.rc_context({"figure.constrained_layout.use": False}):
        return plot(frame, **options)


def descent(frame: pd.DataFrame) -> Figure:
    """S1. Columns step (in units of 1/L), measured (the loss), bound (the parabola above it)."""
    axes = Figure().subplots()
    axes.plot(frame["step"], frame["bound"], color="0.4", linestyle="--", label="parabola of the descent lemma")
    axes.plot(frame["step"], frame["measured"], label="loss along the negative gradient")
    axes.axvline(1, color="0.7", linestyle=":")
    axes.set(xlabel="step length in units of 1/L", ylabel="loss F")
    return axes.legend().figure


def drift(frame: pd.DataFrame) -> Figure:
    """S4. Columns instance, E, ratio: mean over participants, band from the smallest to the largest."""
    axes = Figure().subplots()
    sns.lineplot(frame, x="E", y="ratio", hue="instance", style="instance", markers=True, errorbar=("pi", 100), ax=axes)
    axes.axhline(1, color="0.3")
    axes.axhline(1 / 8, color="0.6", linestyle=":")
    axes.set(xlabel="local steps E", ylabel="measured drift / bound", ylim=(0, 1.05))
    return axes.legend(loc="center right").figure


def bias(frame: pd.DataFrame, palette: Palette) -> Figure:
    """S5. Columns instance, rule, bound, measured: one point per arrival set, below the diagonal."""
    grid = _grid(
        sns.relplot, frame[frame["measured"] > 0], x="bound", y="measured", hue="rule", style="rule", palette=palette,
        col="instance", height=3.6, s=18, rasterized=True, facet_kws={"sharex": False, "sharey": False},
    )  # fmt: skip
    for axes in grid.axes.flat:
        axes.set(xscale="log", yscale="log")
        ends = axes.get_xlim()
        axes.plot(ends, ends, color="0.3")
    grid.set_titles("{col_name}")
    return grid.set_axis_labels(r"bound $2\kappa^2\chi^2 + 2\sum\beta_j\delta_j^2$", r"measured $b_r$").figure


def ratios(frame: pd.DataFrame, palette: Palette) -> Figure:
    """The per-round inequality. Columns instance, rule, E, point, ratio: smallest, median and largest of each group."""
    grid = _grid(
        sns.catplot, frame, x="ratio", y="instance", hue="rule", palette=palette, col="E", row="point",
        kind="point", estimator="median", errorbar=("pi", 100), dodge=0.3, linestyle="none",
        markers=["o", "s"], markersize=5, err_kws={"linewidth": 1.5}, height=2.7, aspect=1.5,
    )  # fmt: skip
    grid.refline(x=1, color="0.3", linestyle="-")
    grid.set(xlim=(0, max(1.05, 1.05 * frame["ratio"].max()))).set_titles("E = {col_name}, {row_name}")
    return grid.set_axis_labels("measured / bound", "").figure


def summed(frame: pd.DataFrame, palette: Palette) -> Figure:
    """S6. Columns instance, rule, E, round, measured, bound: both sides against the horizon T."""
    sides = frame.melt(["instance", "E", "rule", "round"], ["measured", "bound"], "side", "mean squared gradient")
    grid = _grid(
        sns.relplot, sides, x="round", y="mean squared gradient", hue="rule", style="side", palette=palette,
        row="instance", col="E", kind="line", height=2.7, aspect=1.5, facet_kws={"sharey": "row"},
    )  # fmt: skip
    grid.set(yscale="log").set_titles("{row_name}, E = {col_name}")
    return grid.set_axis_labels("horizon T (rounds)", "mean of |grad F|²").figure
