"""A method against its rivals, on frames whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from reference_marks import comparison_mark, rejected_by_holm, t_interval

from fedauto_core.report.claims import holm
from fedauto_core.report.contests import (
    STANDINGS,
    against,
    beats_all_verdict,
    by_family,
    deciding,
    families,
    field,
    harmless_scenarios,
    late_gains,
    leads,
    power,
    same_ideas,
    settled_comparisons,
    tally,
)

OURS = [70.0, 71.0, 70.5, 70.2]
CONTEST = {"a": "aggregation", "b": "optimiser", "c": "public data"}


def frame(values):
    """values: {(scenario, label): points by seed}."""
    rows = [
        {"scenario": scenario, "label": label, "seed": seed, "points": points}
        for (scenario, label), by_seed in values.items()
        for seed, points in enumerate(by_seed)
    ]
    return pd.DataFrame(rows)


def behind_by(*differences):
    """Points of a rival that FedAuto leads by `differences`."""
    return [own - difference for own, difference in zip(OURS, differences, strict=True)]


def compared(differences, **options):
    """The single comparison with a rival that FedAuto leads by `differences`."""
    summary = frame({("s", "fedauto"): OURS, ("s", "a"): behind_by(*differences)})
    (row,) = against(summary, "fedauto", {"a": "aggregation"}, "points", **options).to_dict("records")
    return row


@pytest.mark.parametrize(
    ("differences", "standing", "mark"),
    [
        ([20, 21, 19, 20], "won", "Re"),
        ([-20, -21, -19, -20], "lost", "¬Re"),
        ([3, -3, 2, -4], "level", "~"),
        ([0.3, 0.5, 0.4, 0.4], "equivalent", "="),  # ahead, but by nothing that matters
        ([-0.3, -0.5, -0.4, -0.4], "equivalent", "="),
        ([0.5, 1.2, 0.7, 1.4], "won", "Re"),  # the interval reaches beyond the margin
    ],
)
def test_every_mark(differences, standing, mark):
    row = compared(differences)
    assert (row["standing"], row["mark"]) == (standing, mark)
    assert row["half_width"] == pytest.approx((row["high"] - row["low"]) / 2)


def test_the_margin_decides_what_is_equivalent():
    assert compared([0.3, 0.5, 0.4, 0.4], margin=0.1)["mark"] == "Re"
    assert compared([3, 2, -1, 0], margin=9)["mark"] == "="


def claim(seed=0, seeds=6, rivals=8, scenarios="xyz"):
    """A random claim with everything in it: leads, losses, ties, and what one correction for all takes away."""
    rng = np.random.default_rng(seed)
    labels = [f"r{i}" for i in range(rivals)]
    shift = dict(zip(labels, np.linspace(-2, 2, rivals), strict=True))
    values = {(s, "fedauto"): rng.normal(70, 1, seeds) for s in scenarios}
    for scenario in scenarios:
        for label in labels:
            noise = rng.choice([0.1, 1.0])
            values[scenario, label] = values[scenario, "fedauto"] - shift[label] + rng.normal(0, noise, seeds)
    return frame(values), dict.fromkeys(labels, "aggregation")


@pytest.mark.parametrize("seed", range(6))
def test_marks_are_those_of_the_twin(seed):
    summary, rivals = claim(seed)
    still = pd.DataFrame([{"scenario": s, "rival": r, "settled": (s, r) != ("y", "r0")} for s in "xyz" for r in rivals])
    rows = against(summary, "fedauto", rivals, "points", settled=still, harmless=["z"])
    samples = []
    for _, row in rows.iterrows():
        here = summary[summary["scenario"] == row["scenario"]].set_index("seed")
        sides = (here.loc[here["label"] == label, "points"] for label in ("fedauto", row["rival"]))
        samples.append([a - b for a, b in zip(*sides, strict=True)])
    counting = [s != "z" for s in rows["scenario"]]
    p_values = [p for p, counts in zip(rows["p_value"], counting, strict=True) if counts]
    survives = iter(rejected_by_holm(p_values, 0.05))
    expected = [
        comparison_mark(values, 1.0, counts and next(survives), (s, r) != ("y", "r0"))
        for values, counts, s, r in zip(samples, counting, rows["scenario"], rows["rival"], strict=True)
    ]
    assert rows["mark"].tolist() == expected
    for values, (_, row) in zip(samples, rows.iterrows(), strict=True):
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(t_interval(values, 0.95))


def test_the_correction_is_one_for_all_scenarios_that_count():
    summary, rivals = claim()
    alone = against(summary[summary["scenario"] == "x"], "fedauto", rivals, "points")
    rows = against(summary, "fedauto", rivals, "points", harmless=["z"])
    assert (
        rows.loc[rows["scenario"] == "z", "p_holm"].isna().all()
        and not rows.loc[rows["scenario"] == "z", "counts"].any()
    )
    counting = rows[rows["counts"]]
    smallest = counting["p_value"].idxmin()
    assert counting.loc[smallest, "p_holm"] == pytest.approx(16 * counting.loc[smallest, "p_value"])
    first = counting[counting["scenario"] == "x"]["p_holm"].to_numpy()
    assert (first >= alone["p_holm"].to_numpy() - 1e-12).all() and (first > alone["p_holm"].to_numpy()).any()


def test_pages_that_judge_one_claim_share_its_level():
    summary, rivals = claim()
    alone, shared = (against(summary, "fedauto", rivals, "points", pages=pages) for pages in (1, 3))
    np.testing.assert_allclose(shared["p_holm"], np.minimum(3 * alone["p_holm"], 1))
    survives = shared["standing"].isin(["won", "lost"])
    assert survives.tolist() == [
        p <= 0.05 / 3 and standing in ("won", "lost")
        for p, standing in zip(alone["p_holm"], alone["standing"], strict=True)
    ]
    assert 0 < survives.sum() < alone["standing"].isin(["won", "lost"]).sum()
    lost = shared["standing"].str.startswith("lost")
    excludes = (shared["decides_high"] < 0) | (shared["decides_low"] > 0)
    assert (excludes[lost] == survives[lost]).all() and lost.any()


def test_a_loss_in_a_harmless_scenario_cannot_refute():
    row = compared([-20, -21, -19, -20], harmless=["s"])
    assert (row["standing"], row["mark"], row["counts"]) == ("lost, uncorrected", "~", False)


@pytest.mark.parametrize("seed", range(6))
def test_an_undecided_mark_never_comes_with_an_interval_that_excludes_zero(seed):
    summary, rivals = claim(seed, seeds=4, rivals=20)
    rows = against(summary, "fedauto", rivals, "points", margin=0.2)
    undecided = rows[rows["mark"] == "~"]
    assert ((undecided["decides_low"] <= 0) & (undecided["decides_high"] >= 0)).all() and len(undecided)
    lost = rows[rows["mark"] == "¬Re"]
    assert (lost["decides_high"] < 0).all()
    only = rows[rows["standing"] == "lost, uncorrected"]
    assert (only["high"] < 0).all() and (only["level"] > 0.95).all()


def test_some_losses_survive_one_correction_and_some_do_not():
    rows = pd.concat([against(*claim_of(seed), "points", margin=0.2) for seed in range(6)])
    assert {"lost", "lost, uncorrected"} <= set(rows["standing"])


def claim_of(seed):
    summary, rivals = claim(seed, seeds=4, rivals=20)
    return summary, "fedauto", rivals


def test_what_still_moves_is_undecided_and_says_so():
    def gaining(**by_label):
        rows = [(label, gain + shift) for label, gain in by_label.items() for shift in (-0.2, 0.2)]  # two seeds
        return pd.DataFrame(rows, columns=["label", "late_gain"]).assign(scenario="s")

    moving = gaining(ideal=0.1, fedauto=0.4, a=0.6, b=-3.0)
    settled = settled_comparisons(moving, "fedauto", ["a", "b"], "ideal")
    assert settled["settled"].tolist() == [False, True]
    summary = frame({("s", "fedauto"): OURS, ("s", "a"): behind_by(9, 8, 9, 8), ("s", "b"): behind_by(9, 8, 9, 8)})
    rows = against(summary, "fedauto", {"a": "aggregation", "b": "optimiser"}, "points", settled=settled)
    assert rows["mark"].tolist() == ["~", "Re"] and rows["standing"].tolist() == ["won", "won"]
    verdict = beats_all_verdict("C2", rows, "here", "points", "e")
    assert verdict.mark == "~" and "1 early" in verdict.statement and "decided by a in s (early)" in verdict.statement
    assert verdict.spread == "95 % t interval, early"
    assert by_family(rows)["mark"].tolist() == ["[~] early", "[Re]", "[~] early"]
    ideal_moves, unknown = gaining(ideal=0.6, fedauto=0, a=0, b=0), gaining(ideal=0, fedauto=0, a=0, b=np.nan)
    assert not settled_comparisons(ideal_moves, "fedauto", ["a", "b"], "ideal")["settled"].any()
    assert settled_comparisons(ideal_moves, "fedauto", ["a", "b"])["settled"].all()
    assert settled_comparisons(unknown, "fedauto", ["a", "b"], "ideal")["settled"].tolist() == [True, False]


def test_differences_in_differences_by_hand():
    """Failures cost FedAuto 5, the rival 2, 1, 3 and 2: 3, 4, 2 and 3 more, whatever the rival's lead without them."""
    fedauto, rival = [80.0, 81.0, 79.0, 80.0], [82.0, 82.5, 81.0, 82.0]
    lost = [point - cost for point, cost in zip(rival, (2, 1, 3, 2), strict=True)]
    summary = frame(
        {("F0", "fedauto"): fedauto, ("F0", "a"): rival}
        | {("F7", "fedauto"): [point - 5 for point in fedauto], ("F7", "a"): lost}
    )
    rows = against(summary, "fedauto", {"a": "aggregation"}, "points", base="F0").set_index("scenario")
    assert rows.loc["F7", ["extra", "extra_low", "extra_high"]].tolist() == pytest.approx(
        t_interval([3, 4, 2, 3], 0.95)
    )
    assert np.isnan(rows.loc["F0", "extra"])


def three_families():
    values = {("s", "fedauto"): OURS, ("s", "a"): behind_by(5, 6, 5, 6), ("s", "b"): behind_by(-5, -6, -5, -6)}
    values |= {("s", "c"): behind_by(0.1, -0.1, 0, 0.1)}
    return frame(values | {("mild", label): points for (_, label), points in values.items()})


def test_each_family_has_its_verdict_and_all_together_comes_last():
    rows = against(three_families(), "fedauto", CONTEST, "points", harmless=["mild"])
    marks = {name: beats_all_verdict("C2", some, name, "points", "e").mark for name, some in families(rows)}
    assert marks == {"aggregation": "Re", "optimiser": "¬Re", "public data": "=", "all rivals": "¬Re"}
    table = by_family(rows).set_index(["scenario", "family"])
    assert table.loc["s", "mark"].tolist() == ["[Re]", "[¬Re]", "[=]", "[¬Re]"]
    assert set(table.loc["mild", "mark"]) == {"harmless here"}
    assert table.loc[("s", "all rivals"), "decided by"] == "b" and table.loc[("s", "all rivals"), "rivals"] == 3
    nothing = against(three_families(), "fedauto", CONTEST, "points", harmless=["mild", "s"])
    assert list(families(nothing)) == []


def test_a_verdict_names_who_decides_and_at_which_level():
    rows = against(three_families(), "fedauto", CONTEST, "points", harmless=["mild"])
    verdict, row = beats_all_verdict("C2", rows[rows["counts"]], "here", "points", "e"), deciding(rows[rows["counts"]])
    assert row["rival"] == "b" and verdict.statement.endswith("decided by b in s") and verdict.effect == row["mean"]
    assert (verdict.low, verdict.high) == (row["decides_low"], row["decides_high"]) and verdict.high < 0
    assert verdict.low < row["low"] and verdict.spread == f"{100 * row['level']:.5g} % t interval, corrected"
    equal = beats_all_verdict("C2", rows[rows["rival"] == "c"], "here", "points", "e")
    assert equal.spread == "95 % t interval" and "equivalent within 1 in 2" in equal.statement


def test_power_counts_the_intervals_that_are_narrow_enough():
    rows = pd.DataFrame({"half_width": [0.5, 1.0, 3.0], "margin": 1.0})
    assert power(rows) == "half-width of the 95 % intervals: median 1.0, largest 3.0 points; 2 of 3 reach 1"


def test_failures_that_plain_averaging_does_not_feel_are_harmless():
    summary = frame(
        {("F0", "fedavg"): [80, 82], ("F0", "fedavg_ideal"): [80, 82], ("F1", "fedavg"): [79, 81.5]}
        | {("F1", "fedavg_ideal"): [80, 82], ("F2", "fedavg"): [79, 81], ("F2", "fedavg_ideal"): [80, 82]}
    )
    assert harmless_scenarios(summary, "points") == ["F0", "F1"]
    assert harmless_scenarios(summary, "points", least=0.5) == ["F0"]


def test_one_idea_counts_once():
    base = [50.0, 60.0, 55.0]
    near, far = [50.1, 59.9, 55.1], [50.5, 59.5, 55.5]  # the same mean: what counts is the distance run by run
    summary = frame({("s", "fedavg"): base, ("s", "twin"): base, ("s", "near"): near, ("s", "far"): far})
    found = same_ideas(summary, ["fedavg", "twin", "near", "far"], "points").set_index("rival")
    assert found["follows"].to_dict() == {"twin": "fedavg", "near": "fedavg"}
    assert found["identical"].tolist() == [True, False] and found.loc["near", "apart"] == pytest.approx(0.1)
    assert same_ideas(summary, ["near", "fedavg", "twin"], "points")["follows"].tolist() == ["near", "near"]
    assert len(same_ideas(summary, ["fedavg", "far"], "points")) == 0
    assert len(same_ideas(summary[:0], ["fedavg", "far"], "points")) == 0  # nothing with failures was run


WON, LOST = behind_by(5, 6, 5, 6), behind_by(-5, -6, -5, -6)


def with_twins():
    """In x and y: b repeats a, who wins, and d repeats c, who loses; e does as a does, in another family."""
    values = {(s, "fedauto"): OURS for s in "xyz"} | {(s, name): WON for s in "xyz" for name in "abe"}
    values |= {(s, name): LOST for s in "xyz" for name in "cd"} | {("y", "b"): behind_by(5, 6, 5, 7)}
    contests = dict.fromkeys("ba", "aggregation") | dict.fromkeys("dce", "optimiser")
    return frame(values), contests


def test_rivals_of_a_family_that_end_the_same_count_once_under_the_first_name():
    summary, rivals = with_twins()
    rows = against(summary, "fedauto", rivals, "points", harmless=["z"]).set_index(["scenario", "rival"])
    again = against(summary, "fedauto", dict(reversed(rivals.items())), "points", harmless=["z"])
    pd.testing.assert_frame_equal(again.set_index(["scenario", "rival"]).loc[rows.index], rows)
    repeats = {key: first for key, first in rows["repeats"].items() if first}
    assert repeats == {(s, "d"): "c" for s in "xyz"} | {(s, "b"): "a" for s in "xz"}
    assert rows["harmless"].tolist() == [s == "z" for s, _ in rows.index]
    assert rows["counts"].tolist() == [s != "z" and (s, r) not in repeats for s, r in rows.index]
    told = ["p_holm", "level", "standing", "mark", "decides_low", "decides_high"]
    for (s, twin), first in repeats.items():
        pd.testing.assert_series_equal(rows.loc[(s, twin), told], rows.loc[(s, first), told], check_names=False)
    assert rows.loc[("x", "d"), ["standing", "mark"]].tolist() == ["lost", "¬Re"]
    counting = rows[rows["counts"]]
    assert len(counting) == 7 and counting["p_holm"].tolist() == holm(counting["p_value"].to_numpy()).tolist()
    assert rows[["decides_low", "decides_high"]].notna().all(axis=None)  # harmless ones that repeat a loss, too


def test_those_that_repeat_another_are_in_no_family_but_keep_their_cell():
    summary, rivals = with_twins()
    rows = against(summary, "fedauto", rivals, "points", harmless=["z"])
    table = by_family(rows).set_index(["scenario", "family"])["rivals"].unstack("family")
    assert table.loc[["x", "z"]].to_numpy().tolist() == [[1, 3, 2]] * 2  # aggregation, all rivals, optimiser
    assert table.loc["y"].tolist() == [2, 4, 2]
    marks = by_family(rows).set_index(["scenario", "family"])["mark"].unstack("family")
    assert marks.loc[["x", "y"], "all rivals"].tolist() == ["[¬Re]"] * 2 and {*marks.loc["z"]} == {"harmless here"}
    assert tally(rows)["won"].tolist() == [3, 3, 0] and tally(rows)["lost"].tolist() == [2, 2, 0]


def test_what_differs_in_the_last_bit_or_in_the_sign_of_zero_only_is_the_same():
    values = {("x", "fedauto"): OURS, ("x", "a"): [*OURS[:3], 69.1]}
    values["x", "b"] = [np.nextafter(points, 100) for points in values["x", "a"]]
    rows = against(frame(values), "fedauto", {"a": "aggregation", "b": "aggregation"}, "points")
    assert rows["repeats"].tolist() == ["", "a"]


def test_plain_averaging_stands_for_those_that_end_as_it_does():
    values = {("x", "fedauto"): OURS} | {("x", label): WON for label in ("a", "fedavg", "z")}
    rows = against(frame(values), "fedauto", dict.fromkeys(["a", "fedavg", "z"], "aggregation"), "points")
    assert rows["repeats"].tolist() == ["fedavg", "", "fedavg"]


def test_two_seeds_or_one_that_is_still_early_make_no_twins():
    summary, rivals = with_twins()
    still = pd.DataFrame([("x", "a", False)], columns=["scenario", "rival", "settled"])
    rest = pd.DataFrame([(s, r, True) for s in "xyz" for r in rivals if (s, r) != ("x", "a")], columns=still.columns)
    rows = against(summary, "fedauto", rivals, "points", settled=pd.concat([still, rest]))
    assert rows.set_index(["scenario", "rival"])["repeats"]["x"].to_dict() == dict.fromkeys("abce", "") | {"d": "c"}
    assert not against(summary[summary["seed"] < 2], "fedauto", rivals, "points")["repeats"].any()


def test_the_field_is_what_can_decide_anything():
    """Runs without failures make nobody another's twin: there all averages are one."""
    flat, lossy, own = [80.0, 82.0], [70.0, 72.0], [75.0, 76.0]
    values = {("F0", label): flat for label in ("fedavg", "twin", "other", "fedavg_ideal")}
    values |= {("F1", "fedavg"): lossy, ("F1", "twin"): lossy, ("F1", "other"): own, ("F1", "fedavg_ideal"): flat}
    harmless, same, ideas = field(frame(values), {"fedavg": "aggregation", "twin": "aggregation", "other": "optimiser"})
    assert harmless == ["F0"] and same["rival"].tolist() == ["twin"]
    assert ideas == {"fedavg": "aggregation", "other": "optimiser"}


def test_late_gains_are_those_of_the_planned_runs_beside_the_slopes():
    gains = {("F0", "fedauto"): [9.0, 9.0, 9.0], ("F1", "fedauto"): [0.1, 0.4, 0.7], ("F1", "a"): [1.0, 1.0, 1.0]}
    runs = frame(gains | {("F1", "shown"): [5.0, 5.0, 5.0]}).rename(columns={"points": "late_gain"})
    found = late_gains(runs.assign(late_slope=-runs["late_gain"]), ["fedauto", "a"], ["F0"])
    assert found[["scenario", "label"]].to_numpy().tolist() == [["F1", "fedauto"], ["F1", "a"]]
    assert found["by slope"].tolist() == pytest.approx([-0.4, -1.0])
    assert found["by planned runs"].tolist() == pytest.approx([0.4, 1.0])
    assert found["±"].tolist() == pytest.approx([t_interval([0.1, 0.4, 0.7], 0.95)[2] - 0.4, 0.0])


def test_leads_are_paired_by_seed_and_round():
    rows = [
        {"scenario": "s", "label": label, "seed": seed, "round": r, "accuracy": accuracy + 0.1 * seed + 0.01 * r}
        for label, accuracy in (("fedauto", 0.5), ("a", 0.4))
        for seed in (0, 1)
        for r in (5, 10)
    ]
    found = leads(pd.DataFrame(rows), "fedauto", ["a"])
    assert found["lead"].tolist() == pytest.approx([10.0] * 4) and found["round"].tolist() == [5, 10, 5, 10]


def test_tally_counts_the_standings_of_each_scenario():
    rows = tally(
        pd.DataFrame({"scenario": ["b", "b", "b", "a"], "standing": ["won", "level", "level", "lost, uncorrected"]})
    )
    assert rows.columns.tolist() == ["scenario", *STANDINGS]
    assert rows.to_numpy().tolist() == [["b", 1, 0, 0, 2, 0, 0], ["a", 0, 0, 0, 0, 1, 0]]
