"""Sharing a band: optimality against general solvers, limits, and what is refused."""

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import differential_evolution, minimize

from fedauto_core import InputError
from fedauto_core.network.radio import ALLOCATIONS, allocate, match_blocks

BAND = 20e6  # Hz


def clients(n, seed):
    """kappa [n] and rate [n] with outages between a thousandth and a half in equal shares."""
    rng = np.random.default_rng(seed)
    rate = 10 ** rng.uniform(5.5, 6.5, n)
    return 10 ** rng.uniform(-9.5, -7.5, n) / n, rate, rng.uniform(0.5, 2, n)


def exponent(kappa, rate, bandwidth):
    """kappa phi(b), minus the logarithm of the success probability."""
    return kappa * bandwidth * np.expm1(rate / bandwidth * np.log(2))


CASES = [(n, seed) for n in (1, 2, 5, 9) for seed in range(3)]


@pytest.mark.parametrize("rule", ALLOCATIONS)
@pytest.mark.parametrize(("n", "seed"), CASES)
def test_every_rule_fills_the_band_and_no_more(rule, n, seed):
    kappa, rate, v = clients(n, seed)
    share = allocate(rule, kappa, rate, BAND, v)
    assert share.shape == (n,) and (share >= 0).all() and share.sum() == pytest.approx(BAND)


@pytest.mark.parametrize(("n", "seed"), CASES)
def test_min_max_equalises_and_a_general_solver_finds_nothing_better(n, seed):
    kappa, rate, _ = clients(n, seed)
    at = exponent(kappa, rate, allocate("min_max", kappa, rate, BAND))
    np.testing.assert_allclose(at, at[0], rtol=1e-7)
    # epigraph form: minimise ln x under ln(kappa phi(b_k)) <= ln x and sum b = B, b in units of B
    found = minimize(
        lambda z: z[-1],
        np.append(np.full(n, 1 / n), np.log(exponent(kappa, rate, BAND / n).max())),
        bounds=[(1e-3, 1)] * n + [(None, None)],
        constraints=[
            {"type": "ineq", "fun": lambda z: z[-1] - np.log(exponent(kappa, rate, z[:-1] * BAND))},
            {"type": "eq", "fun": lambda z: z[:-1].sum() - 1},
        ],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert np.log(at[0]) == pytest.approx(found.fun, abs=1e-6)


@pytest.mark.parametrize(("n", "seed"), CASES)
def test_weighted_sum_is_the_minimum_of_a_general_solver(n, seed):
    kappa, rate, v = clients(n, seed)
    own = (v * exponent(kappa, rate, allocate("weighted_sum", kappa, rate, BAND, v))).sum()
    found = minimize(
        lambda b: 1e3 * (v * exponent(kappa, rate, b * BAND)).sum(),
        np.full(n, 1 / n),
        bounds=[(1e-3, 1)] * n,
        constraints={"type": "eq", "fun": lambda b: b.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert own <= found.fun / 1e3 * (1 + 1e-6) and own == pytest.approx(found.fun / 1e3, rel=1e-4)


def test_like_clients_get_like_shares_from_all_that_serve_everyone():
    for rule in ("equal", "min_max", "weighted_sum"):
        np.testing.assert_allclose(allocate(rule, np.full(4, 1e-9), 1e6, BAND), BAND / 4, rtol=1e-6)


def test_min_max_helps_the_worst_and_costs_the_mean():
    kappa, rate = np.geomspace(1e-10, 3e-8, 10), 2e6
    outage = {rule: -np.expm1(-exponent(kappa, rate, allocate(rule, kappa, rate, BAND)))
              for rule in ("equal", "min_max", "weighted_sum")}  # fmt: skip
    assert outage["min_max"].max() < outage["weighted_sum"].max() < outage["equal"].max()
    assert outage["weighted_sum"].mean() < outage["equal"].mean() < outage["min_max"].mean()


def test_rules_with_a_choice_leave_the_weakest_out_unless_they_weigh_more():
    kappa = np.array([1e-9, 5e-5, 2e-9, 1e-4, 3e-9])
    for rule in ("resource_blocks", "scheduled"):
        assert (allocate(rule, kappa, 1e7, BAND) > 0).tolist() == [True, False, True, False, True]
    assert allocate("resource_blocks", np.sqrt(kappa * 1e-9), 1e6, BAND, np.array([1, 1, 1, 50.0, 1]))[3] > 0
    first, second = allocate("scheduled", np.full(2, 1e-7), 4e7, BAND, np.array([1.0, 10.0]))
    assert second > 2 * first


@pytest.mark.parametrize("seed", range(4))
def test_scheduling_finds_the_most_arrivals(seed):
    """Against a global search over all shares, with clients of whom some are hopeless."""
    rng = np.random.default_rng(seed)
    kappa, rate = 10 ** rng.uniform(-8, -5.5, 4), 10 ** rng.uniform(6, 7, 4)

    def arrivals(bandwidth):
        with np.errstate(over="ignore"):
            return np.exp(-exponent(kappa, rate, np.maximum(bandwidth, 1.0))).sum()

    found = differential_evolution(
        lambda z: -arrivals(BAND * z / z.sum()), [(1e-6, 1)] * 4, rng=seed, tol=1e-10, maxiter=300
    )
    own = arrivals(allocate("scheduled", kappa, rate, BAND))
    assert own >= -found.fun * (1 - 1e-3)
    assert own >= max(arrivals(allocate(rule, kappa, rate, BAND)) for rule in ALLOCATIONS) - 1e-9


@pytest.mark.parametrize("efficiency", [2e-4, 1.0, 100.0])
def test_closed_forms_keep_their_digits_at_light_and_heavy_load(efficiency):
    kappa, rate = np.array([1e-9, 3e-9, 1e-8]), np.array([1.0, 0.5, 0.8]) * efficiency * BAND / 3
    share = allocate("weighted_sum", kappa, rate, BAND)
    y = rate * np.log(2) / share
    multiplier = kappa * (np.expm1(y) * (y - 1) + y)
    np.testing.assert_allclose(multiplier, multiplier[0], rtol=1e-5)
    at = exponent(kappa, rate, allocate("min_max", kappa, rate, BAND))
    np.testing.assert_allclose(at, at[0], rtol=1e-4)


@pytest.mark.parametrize("blocks", [2, 4])
def test_matching_is_the_best_of_all_matchings(blocks):
    rng = np.random.default_rng(4)
    outage, v = rng.random((4, blocks)), rng.uniform(0.5, 2, 4)
    block = match_blocks(outage, v)
    used = block[block >= 0]
    assert len(set(used)) == len(used) == blocks
    own = (v * (1 - outage[np.arange(4), block]))[block >= 0].sum()
    best = max(
        sum(v[client] * (1 - outage[client, place]) for place, client in enumerate(chosen))
        for chosen in permutations(range(4), blocks)
    )
    assert own == pytest.approx(best)
    assert match_blocks(np.ones((3, 2)), np.ones(3)).tolist() == [-1, -1, -1]  # nothing can arrive: nobody is matched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"allocation": "auction"}, "unknown allocation 'auction'. Allowed: equal, min_max, resource_blocks"),
        ({"bandwidth_hz": 0.0}, "bandwidth_hz = 0.0. Allowed: finite numbers > 0"),
        ({"kappa": np.array([1e-9, -1.0])}, "kappa = [ 1.e-09 -1.e+00]"),
        ({"rate_bps": np.array([1e6, 0.0])}, "rate_bps = [1000000.       0.]"),
        ({"weights": np.ones(3)}, "2 clients and weights of shape (3,)"),
        ({"weights": np.array([1.0, 0.0])}, "weights = [1. 0.]"),
        ({"rate_bps": 1e12}, "infeasible allocation 'min_max': 2 clients, 1e+12 to 1e+12 bit/s, in 2e+07 Hz"),
        ({"rate_bps": 0.1}, "Allowed: 0.0001 to 500 bit/s/Hz in equal shares, not 1e-08 to 1e-08"),
        ({"rate_bps": 1e12}, "Remedy: give the uploads more time, send less"),
    ],
)
def test_impossible_requests_are_refused(change, message):
    request = {"allocation": "min_max", "kappa": np.full(2, 1e-9), "rate_bps": 1e6, "bandwidth_hz": BAND} | change
    with pytest.raises(InputError) as error:
        allocate(**request)
    assert message in str(error.value)
