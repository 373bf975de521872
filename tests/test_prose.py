"""Sentences say what the comparisons say."""

import numpy as np
import pandas as pd
import pytest

from fedauto_core.report import prose


def row(rival, mean, low, high, mark, **more):
    found = {"scenario": "F7", "rival": rival, "contest": "aggregation", "mean": mean, "mark": mark}
    found |= {"decides_low": low, "decides_high": high, "counts": True, "harmless": False, "settled": True}
    return found | {"repeats": "", "standing": "", "extra": 0.1, "extra_low": -0.4, "extra_high": 0.6} | more


ROWS = pd.DataFrame(
    [
        row("a", 5.0, 4.0, 6.0, "Re"),
        row("b", 2.0, 1.0, 3.0, "Re"),
        row("c", 0.1, -0.4, 0.6, "="),
        row("d", -2.25, -3.5, -1.0, "¬Re", extra=-0.75, extra_low=-1.0, extra_high=-0.5),
        row("e", 1.5, 0.5, 2.5, "~", settled=False),
        row("f", -1.0, -2.1, 0.1, "~", standing="lost, uncorrected"),
    ]
)


def test_the_outcome_names_everybody_once():
    assert prose.outcome(ROWS, "fedauto") == (
        "* **F7**: `fedauto` is ahead of 2 of 6 rivals, by 2.0 to 5.0 points; equivalent to `c`; behind `d` (2.2 "
        "points ahead, 1.0 to 3.5); behind, uncorrected, `f` (-1.0 points, -2.1 to +0.1); undecided "
        "against `e` (1 early)."
    )
    twins = pd.concat([ROWS, pd.DataFrame([row("g", 2.0, 1.0, 3.0, "Re", counts=False, repeats="b")])])
    assert "**F7**: `fedauto` is ahead of 3 of 7 rivals (6 that end differently), by" in prose.outcome(twins, "fedauto")
    assert "harmless" not in prose.outcome(twins[-1:], "fedauto")
    mild = prose.outcome(ROWS.assign(harmless=True, counts=False), "fedauto")
    assert mild.startswith("* **F7** (harmless here, no part of the claim): ")


def test_long_lists_are_cut_and_counted():
    assert prose.named(["a", "b"]) == "`a`, `b`" and prose.named(list("abcde"), most=4) == "`a`, `b` and 3 others"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 1.0, "cost `m` more than it"), (-1.0, -0.1, "cost `m` less than it"), (-1.0, 1.0, "no difference is seen")],
)
def test_the_reason_is_the_sign_of_the_difference_in_differences(low, high, said):
    ends = pd.Series({"extra": (low + high) / 2, "extra_low": low, "extra_high": high})
    assert prose.reason(ends * np.nan, "m") == ""
    assert said in prose.reason(ends, "m") and f"[{low:+.1f}, {high:+.1f}]" in prose.reason(ends, "m")


def test_every_family_has_its_reason_and_all_come_last():
    lines = prose.reasons(ROWS.assign(contest=["optimiser"] * 2 + ["aggregation"] * 4), "fedauto").splitlines()
    assert [line[: line.index(":")] for line in lines] == [
        "* **aggregation** [¬Re]",
        "* **optimiser** [Re]",
        "* **all rivals** [¬Re]",
    ]
    assert "`d` (2.2 points ahead, 1.0 to 3.5); the failures cost `fedauto` less" in lines[0]
    early = prose.reasons(ROWS[ROWS["rival"] == "e"], "fedauto")
    assert "`e` (1.5 points behind, 0.5 to 2.5), which longer runs might still change" in early


def test_the_hardest_group_comes_first():
    text = prose.hardest(ROWS, {"easy": ["a", "b"], "hard": ["d"], "absent": ["x"]})
    assert text == (
        "from the hardest to the easiest: hard: `d` (2.2 points ahead, 1.0 to 3.5) in F7; "
        "easy: `b` (2.0 points behind, 1.0 to 3.0) in F7"
    )
    assert prose.hardest(ROWS, {"absent": ["x"]}) == "none of them was run"


def test_an_interval_without_ends_can_be_said():
    said = prose.difference(pd.Series(row("a", 1.0, -np.inf, np.inf, "~")))
    assert said == "`a` (+1.0 points, no interval)"
