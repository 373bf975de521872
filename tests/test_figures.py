"""Figures show what the frames say, and a method looks the same everywhere."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.methods import METHODS
from fedauto_core.network import SCENARIOS, draw_trace, scenario
from fedauto_core.report import figures
from fedauto_core.report.pictures import small_svg


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def history(labels=("fedauto", "fedavg"), scenarios=("none", "mixed"), seeds=3):
    rng = np.random.default_rng(0)
    rows = [
        {"label": label, "scenario": scenario, "seed": seed, "round": r, "accuracy": rng.random()}
        for label in labels
        for scenario in scenarios
        for seed in range(seeds)
        for r in (5, 10)
    ]
    return pd.DataFrame(rows)


def test_every_method_has_its_own_look_in_any_company():
    labels = [
        *METHODS,
        "fedawe_unclipped",
        "mifa_waiting",
        "known_probability_self",
        "fedauto_weights_only",
    ]  # those of notebook 10
    colours, markers = figures.looks(labels)
    assert len({(colours[label], markers[label]) for label in labels}) == len(labels)
    for name in labels:
        assert figures.looks([name])[0][name] == colours[name] and figures.looks([name])[1][name] == markers[name]


def test_curves_draw_the_mean_over_seeds():
    frame = history()
    axes = figures.curves(frame).axes
    assert [a.get_title() for a in axes] == ["none", "mixed"]
    means = frame[frame["scenario"] == "none"].groupby(["label", "round"])["accuracy"].mean()
    drawn = [line.get_ydata() for line in axes[0].lines if len(line.get_ydata()) == 2]
    for label in ("fedauto", "fedavg"):
        assert any(np.allclose(y, means[label]) for y in drawn)


def test_dots_have_a_row_per_label_and_a_panel_per_scenario():
    axes = figures.dots(history().query("round == 10").assign(points=lambda f: 100 * f["accuracy"])).axes
    assert len(axes) == 2 and [t.get_text() for t in axes[0].get_yticklabels()] == ["fedauto", "fedavg"]


def test_comparisons_are_coloured_by_their_mark():
    frame = pd.DataFrame(
        {
            "scenario": ["mixed"] * 3,
            "rival": ["a", "b", "c"],
            "mean": [2.0, -2.0, 0.5],
            "low": [1.0, -3.0, -1.0],
            "high": [3.0, -1.0, 2.0],
            "decides_low": [1.0, -3.5, -1.0],
            "decides_high": [3.0, -0.5, 2.0],
            "mark": ["Re", "¬Re", "~"],
        }
    )
    (axes,) = figures.comparisons(frame, "points").axes
    intervals = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2]
    assert [tuple(line.get_xdata()) for line in intervals] == [(-3, -1), (-1, 2), (1, 3)]  # the closest rival on top
    assert [line.get_color() for line in intervals] == [figures.MARK_COLOURS[m] for m in ("¬Re", "~", "Re")]


def test_differences_of_one_seed_are_drawn_without_their_intervals():
    sides = dict.fromkeys(("low", "decides_low"), -np.inf) | dict.fromkeys(("high", "decides_high"), np.inf)
    frame = pd.DataFrame({"scenario": "mixed", "rival": ["a", "b"], "mean": [2.0, -2.0], "mark": "~"} | sides)
    (axes,) = figures.comparisons(frame, "points").axes
    assert axes.get_xlim()[0] < -1.9 and axes.get_xlim()[1] > 1.9


def test_the_map_of_differences_has_every_comparison_with_its_sign():
    frame = pd.DataFrame(
        {
            "scenario": ["none", "mixed"] * 2,
            "rival": ["easy", "easy", "hard", "hard"],
            "mean": [2.0, 3.0, -1.5, 0.2],
            "standing": ["won", "won, uncorrected", "lost", "equivalent"],
            "settled": [True, True, False, True],
            "harmless": [True, False, True, False],
            "counts": [False, True, False, False],  # one in "mixed" repeats the other
            "contest": ["optimiser", "optimiser", "aggregation", "aggregation"],
        }
    )
    axes = figures.standing(frame).axes[0]
    assert [text.get_text() for text in axes.texts] == ["-1.5 ▽", "+0.2 =", "+2.0 ▲", "+3.0 (▲)"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hard", "easy"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "mixed"]
    assert [name.get_color() for name in axes.get_yticklabels()] == [
        figures.CONTEST_COLOURS[contest] for contest in ("aggregation", "optimiser")
    ]
    assert [name.get_color() for name in axes.get_xticklabels()] == ["0.6", "black"]  # harmless scenarios are pale


def test_dots_by_contest_are_sorted_by_result_and_coloured():
    frame = history(labels=("fedauto", "fedprox", "fedavg"), scenarios=("mixed",)).query("round == 10")
    frame["points"] = frame["label"].map({"fedauto": 70.0, "fedprox": 60.0, "fedavg": 80.0}) + frame["seed"]
    figure = figures.dots(frame, contests={"fedauto": "ours", "fedprox": "optimiser", "fedavg": "aggregation"})
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["fedavg", "fedauto", "fedprox"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["aggregation", "optimiser", "ours"]


def test_the_horizon_shows_every_lead_and_three_points():
    rounds, leads = (5, 10, 15, 20), (-50.0, 0.5, 1.0, 1.5)
    rows = [
        {"scenario": s, "rival": rival, "seed": seed, "round": r, "lead": lead + shift + 0.1 * seed}
        for s in ("F1", "F7")
        for rival, shift in (("fedprox", 0.0), ("feddyn", -1.0))
        for seed in range(3)
        for r, lead in zip(rounds, leads, strict=True)
    ]
    figure = figures.horizon(pd.DataFrame(rows), dict.fromkeys(("fedprox", "feddyn"), "optimiser"), 1.0)
    axes = figure.axes[0]
    drawn = {line.get_label(): line for line in axes.lines if line.get_label() in ("fedprox", "feddyn")}
    np.testing.assert_allclose(drawn["fedprox"].get_ydata(), np.array(leads) + 0.1)
    assert drawn["fedprox"].get_linestyle() != drawn["feddyn"].get_linestyle()
    assert axes.get_ylim() == (-3, 3) and axes.get_xlim() == (5, 20)


def test_the_horizon_has_room_for_every_rival_of_a_family():
    rivals = [f"rival {i}" for i in range(len(figures.MARKERS) + 2)]
    rows = [
        {"scenario": "F1", "rival": r, "seed": s, "round": at, "lead": 1.0}
        for r in rivals
        for s in (0, 1)
        for at in (5, 10)
    ]
    (axes,) = figures.horizon(pd.DataFrame(rows), dict.fromkeys(rivals, "aggregation"), 1.0).axes
    assert {line.get_label() for line in axes.lines} >= set(rivals)


def test_settings_draw_one_panel_per_study_and_scenario():
    rows = [
        {
            "study": study,
            "value": f"{study} = {v}",
            "scenario": s,
            "label": label,
            "seed": seed,
            "points": 50 + v + seed,
        }
        for study in ("k", "n")
        for v in (1, 2, 3)
        for s in ("mixed", "long")
        for label in ("fedauto", "fedavg")
        for seed in (0, 1)
    ]
    panels = figures.settings(pd.DataFrame(rows)).axes
    assert [axes.get_title() for axes in panels] == ["k, mixed", "n, mixed", "k, long", "n, long"]
    assert [line.get_ydata().tolist() for line in panels[0].lines] == [[51.5, 52.5, 53.5]] * 2


def test_partition_and_trace_show_every_participant():
    spec = FederationSpec(5, 40, 30, "classes", classes_per_client=2)
    federation = build_federation(load_dataset("digits"), spec, 0)
    axes = figures.partition(federation, "title").axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["server", "1", "2", "3", "4", "5"]
    shown = axes.collections[0].get_array()
    assert shown.count() == np.count_nonzero(federation.class_counts)  # empty cells stay blank
    trace = draw_trace(scenario("mixed", 9), rounds=9, histograms=federation.alpha[1:], seed=0)
    np.testing.assert_array_equal(figures.trace(trace, "t").axes[0].images[0].get_array(), trace.cause.T)


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_the_named_scenarios_can_be_drawn(name):
    trace = draw_trace(scenario(name, 30), rounds=30, histograms=np.full((8, 10), 0.1), seed=0)
    assert trace.arrived.shape == (30, 8) and (name == "none") == trace.arrived.all()


def test_a_line_of_no_points_is_left_out_of_an_svg_and_a_drawn_one_is_not():
    empty = '<g id="line2d_1">\n <path clip-path="url(#a)" style="fill: none"/>\n</g>\n'
    drawn = '<g id="line2d_2">\n<path d="M 1 2 L 3 4" clip-path="url(#a)" style="fill: none"/>\n</g>\n'
    assert small_svg(f"<svg>\n{empty}{drawn}</svg>\n") == f"<svg>\n{drawn}</svg>\n".replace("fill: none", "fill:none")
