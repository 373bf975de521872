"""Networks that look at the noise: the worst policy of arrivals, by enumeration of every outcome of a small run.

The theorem lets arrivals depend on everything that happened before a round (A4), minibatch noise included. Here a
network does just that: it knows the model and picks, in every round and for every outcome of the noise so far, the
arrival set that leaves the least room between both sides of the summed inequality S6. Backward induction over the tree
of outcomes makes it the worst such network, and both sides are exact. A network that sees the noise of the round to
come is what A4 forbids.
"""

from collections.abc import Sequence

import numpy as np

from fedauto_core.errors import require, require_number

from ..bound.aggregation import Aggregation
from ..bound.checks import Check
from ..bound.constants import Constants
from ..bound.likely import likely_sides
from ..bound.theorem import Theorem
from ..problems.quadratics import Quadratics
from ..problems.split import require_gamma, require_steps

MOST_NODES = 5_000_000
NOISE = (-1.0, 1.0)


def _pick(measured: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides at the set (axis 1) with the least room."""
    worst = np.argmin(bound - measured, axis=1, keepdims=True)
    return tuple(np.take_along_axis(side, worst, axis=1)[:, 0] for side in (measured, bound))


def worst_policy(
    problem: Quadratics, aggregation: Aggregation, known: Constants, w: float, gamma: float, steps: int,
    theorem: Theorem, allowed: Sequence[np.ndarray], foresight: bool = False,
) -> Check:  # fmt: skip
    """S6 (times gamma E T / 2, progress not yet replaced by F_inf) against the worst network.

    allowed: for each round the numbers of the aggregations that may be picked; one each: a fixed trace. foresight: the
    network sees the noise of the round to come. InputError unless the problem has one dimension and the tree of
    outcomes is small enough.
    """
    require_steps(steps)
    require_gamma(gamma)
    there = len(allowed) > 0 and all(len(s) > 0 and set(s) <= set(range(len(aggregation))) for s in allowed)
    what = f"allowed aggregations {[list(map(int, s)) for s in allowed]}"
    numbers = f"for at least one round, numbers from 0 to {len(aggregation) - 1}"
    require(there, what, allowed=numbers, remedy="number the rows of the aggregation")
    remedy = "use random_quadratics(..., dimension=1)"
    require_number("dimension of the problem", problem.dimension, high=1, whole=True, remedy=remedy)
    participants = len(aggregation.rows)
    nodes = float(np.prod([len(sets) * 2.0 ** (participants * steps) for sets in allowed]))
    what = f"outcomes of {participants} participants, {steps} steps and {len(allowed)} rounds"
    require_number(what, nodes, high=MOST_NODES, remedy="use fewer participants, local steps or rounds")
    hessian, linear, _ = problem.mix(aggregation.rows)
    (hessian_f,), (linear_f,), _ = problem.mix(problem.split.pooled)
    h, g, h_f, g_f = hessian[:, 0, 0], linear[:, 0], float(hessian_f[0, 0]), float(linear_f[0])
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * (participants * steps), indexing="ij"))
    decay = (1 - gamma * h[:, None]) ** np.arange(steps)[::-1]
    shift = gamma * problem.noise * np.einsum("jeo,je->oj", signs.reshape(participants, steps, -1), decay)
    kicks = sum((1 - gamma * h) ** e for e in range(steps))
    sigma2, smoothness = np.array(problem.sigma2), known.smoothness.value

    def value(x: np.ndarray) -> np.ndarray:
        return h_f / 2 * x**2 - g_f * x

    def play(x: np.ndarray, allowed: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Both sides [K] of what is left of the sum from models x [K], under the worst choice among the sets `allowed`
        in each round to come. Losses h/2 x^2 - g x; shift [O, J]: what the noise's outcomes add to w_j^E."""
        if not allowed:
            return np.zeros_like(x), np.zeros_like(x)
        beta, gradient, slope = aggregation.beta[allowed[0]], h * x[:, None] - g, h_f * x - g_f
        local = x[:, None] - gamma * kicks * gradient
        after = np.einsum("sj,kj->ks", beta, local)[:, :, None] + (beta @ shift.T)
        bias2 = (slope[:, None] - gradient @ beta.T) ** 2
        errors = theorem.total(bias2, gradient[:, None] ** 2, sigma2, beta, gamma, smoothness, steps)
        later = [side.reshape(after.shape) for side in play(after.ravel(), allowed[1:])]
        measured = (gamma * steps / 2 * slope**2)[:, None, None] + later[0]
        bound = value(x)[:, None, None] - value(after) + errors[:, :, None] + later[1]
        if foresight:  # the set is picked for each outcome of the noise of this round
            return tuple(side.mean(axis=1) for side in _pick(measured, bound))
        return _pick(measured.mean(axis=2), bound.mean(axis=2))

    measured, bound = (float(side[0]) for side in play(np.array([w]), list(allowed)))
    applicable = theorem.covers(gamma, smoothness, steps) and not foresight
    equation = "sum_r (g E/2) E|grad F|^2 <= F_0 - E F_T + sum_r error terms"
    return Check.of("S6, arrivals that look at the noise", equation, measured, bound, applicable)


def worst_luck(
    centres: Sequence[float], start: float, gamma: float, rounds: int, delta: float, claimed: float = 1.0,
    noises: Sequence[float] = NOISE, foresight: bool = False,
) -> float:  # fmt: skip
    """The probability that a single run breaks 5.10 at some horizon, under the network that makes it largest: exact,
    from all outcomes. At most delta, if the theorem is right.

    Clients with (w - u_j)^2/2 for centres u of mean zero, so that F = w^2/2 up to a constant; one of them gets through
    in each round, E = 1, with noise of +-1, or one of `noises`, from start. claimed: the B of the bound. InputError for
    centres of another mean, and for too many outcomes.
    """
    remedy = "subtract their mean: F is w^2/2 then"
    require_number("mean of the centres", abs(float(np.mean(centres))), high=1e-9, strict=False, remedy=remedy)
    choices, signs = np.asarray(centres, dtype=float), np.asarray(noises, dtype=float)
    outcomes = float(len(choices) * len(signs)) ** rounds
    remedy = "use fewer clients or rounds"
    require_number(f"outcomes of {rounds} rounds", outcomes, high=MOST_NODES, remedy=remedy)
    w, values, slopes, biases = np.full(1, start), [], [], []
    for _ in range(rounds):  # the path so far, who gets through, the noise
        grown = [*values, w**2 / 2], [*slopes, w**2], biases
        values, slopes, biases = ([np.repeat(side, len(choices) * len(signs)) for side in sides] for sides in grown)
        picked = np.repeat(choices, len(signs))
        biases.append(np.tile(picked**2, len(w)))
        w = (w[:, None] - gamma * (w[:, None] - picked + np.tile(signs, len(choices)))).ravel()
    paths = (np.stack(sides, axis=-1) for sides in ([*values, w**2 / 2], slopes, biases))
    measured, bound = likely_sides(*paths, gamma, 1.0, claimed, delta)
    fails = np.any(measured > bound + 1e-12 * (1 + np.abs(bound)), axis=-1).astype(float)
    for _ in range(rounds):
        fails = fails.reshape(-1, len(choices), len(signs))
        fails = fails.max(axis=1).mean(axis=1) if foresight else fails.mean(axis=2).max(axis=1)
    return float(fails[0])
