"""Who gets how much of a band: allocations of one standard's uplink so that fewer uploads fail.

With kappa_k = noise density over received power (`Radio.kappa`), R_k = payload / time and phi(b; R) = b (2^{R/b} - 1),
decreasing and convex in b, the Rayleigh outage of client k on b_k Hz is 1 - exp(-kappa_k phi(b_k; R_k)). All
allocations look at this, also where a line of sight makes the true law another one: an operator plans with a model.
They need the state of every channel, and only the server of one band can apply them: no bandwidth moves from one
standard to another. In the code y = R ln 2 / b, so that phi = R ln 2 (e^y - 1) / y, and the optimum conditions have
closed forms in y.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq, linear_sum_assignment, minimize
from scipy.special import lambertw

from fedauto_core.errors import require, require_known

from .fading import RAYLEIGH
from .links import log_threshold

BLOCKS = 0.6  # blocks per client of `resource_blocks` (Chen et al. 2020: 6 or 9 blocks for 9 users)
# bit/s/Hz in equal shares. Below, every share will do and the closed forms lose their digits; beyond, the powers needed
# overflow, and no radio is near.
EFFICIENCY = 1e-4, 500.0

Allocation = Callable[[np.ndarray, np.ndarray, float, np.ndarray], np.ndarray]


def equal(kappa: np.ndarray, rate: np.ndarray, bandwidth: float, weights: np.ndarray) -> np.ndarray:
    """b_k = B / n."""
    return np.full(len(kappa), bandwidth / len(kappa))


def min_max(kappa: np.ndarray, rate: np.ndarray, bandwidth: float, weights: np.ndarray) -> np.ndarray:
    """The least outage that all clients can have at once: that part of FedTOE (Wang et al. 2022) which equalises it.

    For a common x = kappa_k phi(b_k), (e^y - 1) / y = x / (kappa_k R_k ln 2) = g gives y = -1/g - W_-1(-e^{-1/g} / g);
    x is the root of sum b_k = B.
    """
    least = kappa * rate * np.log(2)  # of x, on infinite bandwidth

    def shares(log_x: float) -> np.ndarray:
        inverse = least / np.exp(log_x)
        y = -inverse - lambertw(-inverse * np.exp(-inverse), k=-1).real
        return rate * np.log(2) / y

    high = log_threshold(kappa, rate, bandwidth / len(kappa)).max()
    return _root(shares, np.log(least.max()) + 1e-6, high, bandwidth)


def weighted_sum(kappa: np.ndarray, rate: np.ndarray, bandwidth: float, weights: np.ndarray) -> np.ndarray:
    """Least sum_k v_k kappa_k phi(b_k), so the largest product of success probabilities to the powers v_k.

    The multiplier is lambda = v_k kappa_k (e^y (y - 1) + 1), hence y = 1 + W_0((m - 1) / e) with m = lambda / (v_k
    kappa_k); near its branch point, y = s - s^2 / 3 with s = sqrt(2 m).
    """
    price = weights * kappa

    def shares(log_lambda: float) -> np.ndarray:
        m = np.exp(log_lambda) / price
        s = np.sqrt(2 * m)
        y = np.where(m < 1e-7, s - s**2 / 3, 1 + lambertw((m - 1) / np.e).real)
        return rate * np.log(2) / y

    y = rate * np.log(2) * len(kappa) / bandwidth  # of equal shares, whose multipliers lie on both sides of the optimum
    at_equal = np.log(price) + np.log(np.expm1(y) * (y - 1) + y)
    return _root(shares, at_equal.min(), at_equal.max(), bandwidth)


def resource_blocks(kappa: np.ndarray, rate: np.ndarray, bandwidth: float, weights: np.ndarray) -> np.ndarray:
    """ceil(0.6 n) equal blocks, one client each, by the matching of Chen et al. (2020): the others do not take part.

    Without interference, which makes the blocks of a band differ there, it serves the largest v_k (1 - eps_k).
    """
    blocks = int(np.ceil(BLOCKS * len(kappa)))
    block = bandwidth / blocks
    outage = RAYLEIGH.outage(log_threshold(kappa, rate, block))
    return np.where(match_blocks(np.tile(outage[:, None], blocks), weights) >= 0, block, 0.0)


def scheduled(kappa: np.ndarray, rate: np.ndarray, bandwidth: float, weights: np.ndarray) -> np.ndarray:
    """The most expected arrivals, sum_k v_k (1 - eps_k): the K clients with the smallest kappa_k R_k / v_k share the
    band, K and the shares being the best found.

    For every K from the shares of `weighted_sum` a local search (SLSQP) on the objective itself, which is not concave.
    """
    order, best = np.argsort(kappa * rate / weights, kind="stable"), (-1.0, np.zeros(len(kappa)))
    for served in (order[:count] for count in range(1, len(kappa) + 1)):
        k, r, v = kappa[served], rate[served], weights[served]

        def arrivals(part: np.ndarray, k: np.ndarray = k, r: np.ndarray = r, v: np.ndarray = v) -> float:
            return float(v @ (1 - RAYLEIGH.outage(log_threshold(k, r, np.maximum(part, 1e-6) * bandwidth))))

        start = weighted_sum(k, r, bandwidth, v) / bandwidth
        found = minimize(
            lambda part: -arrivals(part), start, method="SLSQP", bounds=[(1e-6, 1.0)] * len(k),
            constraints={"type": "eq", "fun": lambda part: part.sum() - 1},
        )  # fmt: skip
        for part in (start, found.x / found.x.sum()):
            if arrivals(part) > best[0] + 1e-12:
                share = np.zeros(len(kappa))
                share[served] = part * bandwidth
                best = arrivals(part), share
    return best[1]


ALLOCATIONS: dict[str, Allocation] = {
    allocation.__name__: allocation for allocation in (equal, min_max, weighted_sum, resource_blocks, scheduled)
}


def allocate(
    allocation: str, kappa: np.ndarray, rate_bps: np.ndarray, bandwidth_hz: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """Bandwidth in Hz of each of the n clients of a band by one of `ALLOCATIONS`; 0: does not take part.

    kappa [n] in 1/Hz, rate_bps [n], weights v [n] > 0 (default: alike). InputError for an unknown allocation, values
    out of range, or rates that no allocation of this band can carry.
    """
    require_known("allocation", allocation, ALLOCATIONS)
    kappa, rate = np.broadcast_arrays(np.atleast_1d(kappa).astype(float), np.asarray(rate_bps, dtype=float))
    v = np.ones(len(kappa)) if weights is None else np.asarray(weights, dtype=float)
    require(
        v.shape == kappa.shape and len(kappa) > 0,
        f"{len(kappa)} clients and weights of shape {v.shape}",
        allowed="one weight for each of at least one client",
        remedy="pass arrays of equal length",
    )
    named = {"bandwidth_hz": np.asarray(bandwidth_hz), "kappa": kappa, "rate_bps": rate, "weights": v}
    for name, values in named.items():
        require(
            bool(((values > 0) & np.isfinite(values)).all()),
            f"{name} = {values}",
            allowed="finite numbers > 0",
            remedy=f"correct {name}",
        )
    efficiency, (least, most) = len(kappa) * rate / bandwidth_hz, EFFICIENCY
    require(
        allocation == "equal" or bool(((efficiency >= least) & (efficiency <= most)).all()),
        f"infeasible allocation {allocation!r}: {len(kappa)} clients, {rate.min():.3g} to {rate.max():.3g} bit/s, "
        f"in {bandwidth_hz:.3g} Hz",
        allowed=f"{least:g} to {most:g} bit/s/Hz in equal shares, not {efficiency.min():.3g} to {efficiency.max():.3g}",
        remedy="give the uploads more time, send less, or share the band among fewer clients; for less use 'equal'",
    )
    return ALLOCATIONS[allocation](kappa, rate, bandwidth_hz, v)


def match_blocks(outage: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Block of each client, int64 [n], -1 for none: the matching with the largest sum of v_k (1 - outage[k, block]).

    outage [n, blocks]. The Hungarian method with the edge weights of Chen et al. (2020), v_k (outage - 1); an edge on
    which nothing can arrive is none.
    """
    value = weights[:, None] * (1 - outage)
    clients, blocks = linear_sum_assignment(value, maximize=True)
    block = np.full(len(outage), -1)
    block[clients] = np.where(value[clients, blocks] > 0, blocks, -1)
    return block


def _root(shares: Callable[[float], np.ndarray], low: float, high: float, bandwidth: float) -> np.ndarray:
    """The shares that fill the band: their sum falls from above B at `low` to below it at `high`."""

    def excess(log_value: float) -> float:
        return float(np.log(shares(log_value).sum() / bandwidth))

    at = low if excess(low) <= 0 else high if excess(high) >= 0 else brentq(excess, low, high, xtol=1e-13)
    share = shares(at)
    return share * bandwidth / share.sum()
