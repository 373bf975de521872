"""Differences at equal spending, on straight curves."""

import numpy as np
import pandas as pd
import pytest
from reference_marks import t_interval

from fedauto_core.report.budgets import leads_at_equal, views

RUNS = ["scenario", "label", "seed", "round"]


def straight(seeds=1):
    """FedAuto spends 10 a round and climbs one point; "dear" 40 and two; "late" 1000 and two. Seed s is s^2 points up
    for "dear" alone."""
    rows = [
        {"scenario": s, "label": label, "seed": seed, "round": r, "work": cost}
        | {"accuracy": 0.5 + climbs * r + (0.01 * seed**2 if label == "dear" else 0)}
        for s in ("F1", "F7")
        for label, cost, climbs in (("fedauto", 10, 0.01), ("dear", 40, 0.02), ("late", 1000, 0.02))
        for seed in range(seeds)
        for r in range(1, 11)
    ]
    return pd.DataFrame(rows)


def test_equal_budgets_are_read_off_the_curves():
    """At FedAuto's whole 100 "dear" was halfway between rounds 2 and 3, at 55 points; "late" was beyond in round 1."""
    frame = straight()
    spent = frame.assign(spent=frame["work"] * frame["round"])
    found = leads_at_equal(frame.drop(columns="work"), spent[[*RUNS, "spent"]], "fedauto")
    found = found[found["scenario"] == "F1"].set_index("rival")
    assert found.loc["dear", ["budget", "lead"]].tolist() == pytest.approx([100, 60 - 55])
    assert found.loc["late", "budget"] == 100 and np.isnan(found.loc["late", "lead"])


def test_views_are_means_over_scenarios_with_intervals_over_seeds():
    frame = straight(seeds=3).assign(rounds=1)
    curves, rounds = frame.drop(columns=["work", "rounds"]), frame.drop(columns="accuracy")
    table = views(curves, rounds, ["rounds", "work"], "fedauto", {"dear": "optimiser", "late": "aggregation"})
    assert table["rival"].tolist() == ["dear", "late"] and table["contest"].tolist() == ["optimiser", "aggregation"]
    for cost, leads in (("rounds", [-10, -11, -14]), ("work", [5, 4, 1])):
        mean, low, high = t_interval(leads, 0.95)
        assert table.loc[0, [f"equal {cost}", f"± {cost}"]].tolist() == pytest.approx([mean, (high - low) / 2])
    assert table["work a round"].tolist() == [40, 1000]
    assert table.loc[1, ["equal work", "± work"]].isna().all() and table.loc[1, "equal rounds"] == pytest.approx(-10)
