"""Which methods the theorems cover is found by asking them: known answers, and methods made to break one thing each."""

from dataclasses import dataclass

import numpy as np
import pytest

from fedauto_core.methods import METHODS, Method, make_method
from fedauto_core.methods.base import LocalWork, weighted_step
from fedauto_core.methods.fedavg import FedAvg
from fedauto_core.theory import FedAutoByTheBound, coverage


def test_known_methods():
    names = [name for name, kind in METHODS.items() if kind.participation == "network"]
    table = coverage({name: make_method(name) for name in names}).set_index("label")
    covered = set(table.index[table["covered"] == "yes"])
    assert {"fedauto", "fedavg", "fedavg_all", "label_matching", "feddisco", "server_finetuning"} <= covered
    others = (
        "mifa fedvarp fedstale fedprox scaffold feddyn fedadam fedlaw known_probability fedauto_memory fedavgm feddf"
    )
    assert covered.isdisjoint([*others.split(), "fedavg_amplified", "fedawe"])
    assert table.loc["fedprox", "breaks"] == "corrected local steps"
    assert "earlier rounds" in table.loc["mifa", "breaks"] and "uploads (A4)" in table.loc["fedlaw", "breaks"]
    assert "half-round" in table.loc["server_finetuning", "remark"] and table.loc["fedauto", "remark"] == ""
    assert "S5 not" in table.loc["fedavg_all", "remark"]
    by_5_11 = set(table.index[table["remark"].str.contains("5.11", regex=False)])
    assert {"fedprox", "scaffold"} <= by_5_11 and by_5_11.isdisjoint(["fedavg", "fedawe", "fedpbc_like", "mifa"])
    assert "from another model" in table.loc["fedawe", "breaks"]


@dataclass(frozen=True)
class Long(FedAvg):
    def aggregate(self, state, w, arrivals, server):
        return weighted_step(state, w, arrivals, np.full(len(arrivals.ids), 0.6))


@dataclass(frozen=True)
class Lying(FedAvg):
    """Says weights that it does not use."""

    def aggregate(self, state, w, arrivals, server):
        after, state = super().aggregate(state, w, arrivals, server)
        return w + 1.5 * (after - w), state


@dataclass(frozen=True)
class Choosing(FedAvg):
    def aggregate(self, state, w, arrivals, server):
        sizes = arrivals.deltas.norm(dim=1).numpy()
        return weighted_step(state, w, arrivals, sizes / max(sizes.sum(), 1e-30))


@dataclass(frozen=True)
class Pulled(FedAvg):
    def local_work(self, state, w, ids):
        return LocalWork(Method.local_work(self, state, w, ids).start, prox=0.1)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [(Long, "a step that is not"), (Lying, "a step that is not"), (Choosing, "uploads (A4)"), (Pulled, "corrected")],
)
def test_one_thing_broken_is_named(kind, broken):
    (row,) = coverage({"it": kind()}).to_dict("records")
    assert row["covered"] == "no" and broken in row["breaks"] and ";" not in row["breaks"]


def test_the_programme_of_the_bound_has_equal_prices():
    """chi^2 + lam sum_j beta_j^2: with equal counts FedAuto's with lam / K; else another one, which its KKT tell."""
    alpha, counts = np.array([[1.0, 0.0], [0.2, 0.8], [0.9, 0.1]]), np.array([30, 500, 80])
    target, lam = np.array([0.5, 0.5]), 0.7
    beta = FedAutoByTheBound(lam)._weights(alpha, counts, target)
    slope = 2 * alpha @ ((beta @ alpha - target) / target) + 2 * lam * beta
    assert beta.sum() == pytest.approx(1) and slope[beta > 0] == pytest.approx(slope[beta > 0].mean())
    assert (slope >= slope[beta > 0].mean() - 1e-9).all()
