"""Verdicts on frames whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from reference_marks import rejected_by_holm

from fedauto_core import InputError
from fedauto_core.report.claims import (
    LEVEL,
    Interval,
    difference_verdict,
    holm,
    holm_levels,
    interaction,
    interval,
    paired,
)
from fedauto_core.report.verdicts import Verdict, combine_marks


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


def test_two_equal_seeds_decide_nothing_and_more_are_a_point():
    for values in ([2.0, 2.0], [0.0, 0.0]):
        assert (interval(values).low, interval(values).high, interval(values).p_value) == (-np.inf, np.inf, 1.0)
    assert interval([2.0] * 3) == Interval(2.0, 2.0, 2.0, 0.0, 3) and interval([0.0] * 3).p_value == 1.0


def test_a_higher_level_is_a_wider_interval():
    """t quantile of 99 % with two degrees of freedom: 9.924843."""
    assert interval([1.0, 2.0, 3.0], 0.99).high == pytest.approx(2 + 9.924843 / np.sqrt(3))


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


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_holms_step_says_what_holm_says(seed):
    samples = np.random.default_rng(seed).normal(0.6, 1, (12, 6))
    found = [interval(sample) for sample in samples]
    p_values = np.array([one.p_value for one in found])
    ends = [interval(sample, level) for sample, level in zip(samples, holm_levels(p_values), strict=True)]
    excludes_zero = [end.low > 0 or end.high < 0 for end in ends]
    assert excludes_zero == (holm(p_values) <= 1 - LEVEL).tolist() == rejected_by_holm(p_values, 1 - LEVEL)


def test_levels_of_holms_steps_by_hand():
    """.01 passes .05/3; .04 fails at .05/2, so the last is held against .05/2 too."""
    np.testing.assert_allclose(1 - holm_levels(np.array([0.01, 0.05, 0.04])), [0.05 / 3, 0.025, 0.025])
    np.testing.assert_allclose(1 - holm_levels(np.array([0.04, 0.01])), [0.05, 0.025])
    np.testing.assert_allclose(1 - holm_levels(np.array([0.01, 0.04, 0.01])), [0.05 / 3, 0.05, 0.05 / 3])  # a tie
    assert holm_levels(np.array([])).shape == (0,)


def test_paired_needs_the_same_seeds():
    frame = summary({("a", "x"): [0.5, 0.6], ("a", "y"): [0.4, 0.4]})
    np.testing.assert_allclose(paired(frame, "accuracy", {"label": "x"}, {"label": "y"}), [0.1, 0.2])
    with pytest.raises(InputError, match="do not pair"):
        paired(frame.drop(index=3), "accuracy", {"label": "x"}, {"label": "y"})
    with pytest.raises(InputError, match="do not pair"):
        paired(frame, "accuracy", {"label": "absent"}, {"label": "y"})


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


def test_marks_combine_and_check_their_words():
    assert combine_marks(["Re", "Re"]) == "Re" and combine_marks(["Re", "~", "="]) == "~"
    assert combine_marks(["Re", "~", "¬Re", "="]) == "¬Re" and combine_marks([]) == "~"
    assert combine_marks(["Re", "=", "Re"]) == "=" and combine_marks(["own", "own"]) == "own"
    with pytest.raises(InputError, match="unknown claim 'C9'"):
        Verdict("C9", "s", "Re", 0, 0, 0, 3, "", "")
    with pytest.raises(InputError, match="unknown mark 'yes'"):
        Verdict("C1", "s", "yes", 0, 0, 0, 3, "", "")


def test_what_holds_by_construction_or_as_our_theorem_is_ours():
    for claim, shown in {"C4": "Re", "C5": "own", "C6": "own"}.items():
        assert Verdict(claim, "s", "Re", 0, 0, 0, 3, "", "").mark == shown
    assert [Verdict("C6", "s", mark, 0, 0, 0, 3, "", "").mark for mark in ("¬Re", "~")] == ["¬Re", "~"]
