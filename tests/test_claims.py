"""Verdicts on frames whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from fedauto_core import InputError
from fedauto_core.report.claims import (
    STANDINGS,
    beats_all,
    beats_all_verdict,
    difference_verdict,
    holm,
    interaction,
    interval,
    paired,
    tally,
)
from fedauto_core.report.verdicts import Verdict, combine_verdicts


def summary(values):
    """values: {(scenario, label): accuracies by seed}."""
    rows = [
        {"scenario": scenario, "label": label, "seed": seed, "accuracy": accuracy}
        for (scenario, label), accuracies in values.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    return pd.DataFrame(rows)


def test_interval_by_hand():
    """1, 2, 3: mean 2, standard error 1/sqrt(3), t quantile 4.302653 with two degrees of freedom."""
    result = interval([1.0, 2.0, 3.0])
    assert result.n == 3 and result.mean == 2.0
    assert result.low == pytest.approx(2 - 4.302653 / np.sqrt(3)) and result.high == pytest.approx(
        2 + 4.302653 / np.sqrt(3)
    )


def test_one_seed_decides_nothing():
    result = interval([0.4])
    assert (result.low, result.high, result.p_value) == (-np.inf, np.inf, 1.0)
    assert difference_verdict("C1", "s", result, "points", "e").mark == "~"


def test_t_interval_covers_as_it_says():
    rng = np.random.default_rng(0)
    inside = [r.low <= 0 <= r.high for r in (interval(rng.standard_normal(5)) for _ in range(2000))]
    assert abs(np.mean(inside) - 0.95) < 0.015


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_interval_refuses_what_is_not_a_sample(values):
    with pytest.raises(InputError, match="differences"):
        interval(values)


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])


def test_paired_needs_the_same_seeds():
    frame = summary({("a", "x"): [0.5, 0.6], ("a", "y"): [0.4, 0.4]})
    np.testing.assert_allclose(paired(frame, "accuracy", {"label": "x"}, {"label": "y"}), [0.1, 0.2])
    with pytest.raises(InputError, match="do not pair"):
        paired(frame.drop(index=3), "accuracy", {"label": "x"}, {"label": "y"})
    with pytest.raises(InputError, match="do not pair"):
        paired(frame, "accuracy", {"label": "absent"}, {"label": "y"})


@pytest.mark.parametrize(
    ("rival", "expected"),
    [([0.5, 0.51, 0.49, 0.5], "Re"), ([0.8, 0.81, 0.79, 0.8], "¬Re"), ([0.6, 0.8, 0.62, 0.82], "~")],
)
def test_beats_all_marks(rival, expected):
    frame = summary({("s", "fedauto"): [0.7, 0.705, 0.7, 0.71], ("s", "rival"): rival})
    comparisons = beats_all(frame, "fedauto", ["rival"], "accuracy")
    assert comparisons["mark"].tolist() == [expected]
    assert beats_all_verdict("C2", comparisons, "s", "points", "e").mark == expected


def test_one_lost_comparison_refutes_the_claim():
    frame = summary({("s", "fedauto"): [0.7, 0.71, 0.7], ("s", "a"): [0.5, 0.5, 0.51], ("s", "b"): [0.9, 0.92, 0.91]})
    verdict = beats_all_verdict("C2", beats_all(frame, "fedauto", ["a", "b"], "accuracy"), "s", "points", "e")
    assert verdict.mark == "¬Re" and "closest rival: b" in verdict.statement


def factorial(clean, failures, skew, both):
    rows = []
    for (f, s), values in zip(
        [(False, False), (True, False), (False, True), (True, True)], [clean, failures, skew, both], strict=True
    ):
        rows += [{"failures": f, "skewed": s, "seed": i, "accuracy": v} for i, v in enumerate(values)]
    return pd.DataFrame(rows)


def test_interaction_by_hand():
    effects = interaction(factorial([0.9, 0.9], [0.88, 0.89], [0.86, 0.85], [0.7, 0.6]), "accuracy")
    assert effects["failures"].mean == pytest.approx(0.015) and effects["skew"].mean == pytest.approx(0.045)
    assert effects["both"].mean == pytest.approx(0.25) and effects["interaction"].mean == pytest.approx(0.19)


def test_verdicts_combine_and_check_their_words():
    good, bad, open_ = (Verdict("C1", "s", mark, 0, 0, 0, 3, "", "") for mark in ("Re", "¬Re", "~"))
    assert combine_verdicts([good, good]) == "Re" and combine_verdicts([good, open_]) == "~"
    assert combine_verdicts([good, open_, bad]) == "¬Re" and combine_verdicts([]) == "~"
    with pytest.raises(InputError, match="unknown claim 'C9'"):
        Verdict("C9", "s", "Re", 0, 0, 0, 3, "", "")
    with pytest.raises(InputError, match="unknown mark 'yes'"):
        Verdict("C1", "s", "yes", 0, 0, 0, 3, "", "")


def test_tally_counts_the_marks_of_each_scenario():
    frame = pd.DataFrame({"scenario": ["b", "b", "b", "a"], "standing": ["won", "level", "level", "lost, uncorrected"]})
    rows = tally(frame)
    assert rows.columns.tolist() == ["scenario", *STANDINGS]
    assert rows.to_numpy().tolist() == [["b", 1, 0, 2, 0, 0], ["a", 0, 0, 0, 1, 0]]


def test_losses_and_wins_survive_the_correction_or_say_that_they_do_not():
    """A rival ahead by its own interval is never called level: with many rivals it may only miss the correction."""
    base = [0.70, 0.71, 0.69, 0.70, 0.705]
    ahead = [value + gain for value, gain in zip(base, [0.02, 0.05, 0.03, 0.05, 0.02], strict=True)]
    frame = summary(
        {(s, k): ahead if k == "r0" else base for s in "ab" for k in ("fedauto", *(f"r{i}" for i in range(20)))}
    )
    noise = np.random.default_rng(0).normal(0, 0.01, len(frame))
    frame["accuracy"] += np.where(frame["label"].isin(["fedauto", "r0"]), 0, noise)
    rivals = [f"r{i}" for i in range(20)]
    rows = beats_all(frame, "fedauto", rivals, "accuracy").set_index(["scenario", "rival"])
    assert rows.loc[("a", "r0"), ["standing", "mark"]].tolist() == ["lost, uncorrected", "~"]
    alone = beats_all(frame, "fedauto", ["r0"], "accuracy")
    assert alone["standing"].tolist() == ["lost"] * 2 and alone["mark"].tolist() == ["¬Re"] * 2
    together = beats_all(frame, "fedauto", rivals, "accuracy", one_family=True)
    assert (together["p_holm"].to_numpy() >= rows["p_holm"].to_numpy() - 1e-12).all()
