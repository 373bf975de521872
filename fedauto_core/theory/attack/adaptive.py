"""Networks that look at the noise: the worst policy of arrivals, by enumeration of every outcome of a small run.

The theorem lets arrivals depend on everything that happened before a round (A4), minibatch noise included. Here a
network does just that: it knows the model and picks, in every round and for every outcome of the noise so far, the
arrival set that leaves the least room between both sides of the summed inequality S6. Backward induction over the tree
of outcomes makes it the worst such network, and both sides are exact. A network that sees the noise of the round to
come is what A4 forbids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedauto_core.errors import require
from fedauto_core.theory.bound.aggregation import Aggregation
from fedauto_core.theory.bound.checks import Check
from fedauto_core.theory.bound.constants import Constants
from fedauto_core.theory.bound.theorem import Theorem
from fedauto_core.theory.problems.quadratics import Quadratics
from fedauto_core.theory.problems.split import require_gamma, require_steps

MOST_NODES = 5_000_000


@dataclass(frozen=True, eq=False)
class _Game:
    """One-dimensional quadratics h/2 w^2 - g w: h, g [J] of the participants, pooled: those of F; beta [S, J]; shift
    [O, J], what the noise outcomes add to w_j^E; the constants of the bound."""

    h: np.ndarray
    g: np.ndarray
    pooled: tuple[float, float]
    beta: np.ndarray
    shift: np.ndarray
    sigma2: float
    smoothness: float
    gamma: float
    steps: int
    theorem: Theorem
    foresight: bool

    def play(self, w: np.ndarray, allowed: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Both sides [K] of what is left of the sum from w [K], under the worst choice among the sets `allowed` in
        each round to come."""
        if not allowed:
            return np.zeros_like(w), np.zeros_like(w)
        beta = self.beta[allowed[0]]
        gradient = self.h * w[:, None] - self.g
        slope = self.pooled[0] * w - self.pooled[1]
        local = w[:, None] - self._travel(gradient)
        after = np.einsum("sj,kj->ks", beta, local)[:, :, None] + (beta @ self.shift.T)
        progress = self._value(w)[:, None, None] - self._value(after)
        bias2 = (slope[:, None] - gradient @ beta.T) ** 2
        constants = np.array(self.sigma2), beta, self.gamma, self.smoothness, self.steps
        errors = self.theorem.total(bias2, gradient[:, None] ** 2, *constants)
        later = [side.reshape(after.shape) for side in self.play(after.ravel(), allowed[1:])]
        measured = (self.gamma * self.steps / 2 * slope**2)[:, None, None] + later[0]
        bound = progress + errors[:, :, None] + later[1]
        if self.foresight:  # the set is picked for each outcome of the noise of this round
            return tuple(side.mean(axis=1) for side in _pick(measured, bound))
        return _pick(measured.mean(axis=2), bound.mean(axis=2))

    def _value(self, w: np.ndarray) -> np.ndarray:
        return self.pooled[0] / 2 * w**2 - self.pooled[1] * w

    def _travel(self, gradient: np.ndarray) -> np.ndarray:
        kicks = sum((1 - self.gamma * self.h) ** e for e in range(self.steps))
        return self.gamma * kicks * gradient


def _pick(measured: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides at the set (axis 1) with the least room."""
    worst = np.argmin(bound - measured, axis=1, keepdims=True)
    return tuple(np.take_along_axis(side, worst, axis=1)[:, 0] for side in (measured, bound))


def worst_policy(
    problem: Quadratics,
    aggregation: Aggregation,
    known: Constants,
    w: float,
    gamma: float,
    steps: int,
    theorem: Theorem,
    allowed: Sequence[np.ndarray],
    foresight: bool = False,
) -> Check:
    """S6 (times gamma E T / 2, progress not yet replaced by F_inf) against the worst network.

    allowed: for each round the numbers of the aggregations that may be picked; one each: a fixed trace. foresight: the
    network sees the noise of the round to come. InputError unless the problem has one dimension and the tree of
    outcomes is small enough.
    """
    require_steps(steps)
    require_gamma(gamma)
    require(
        len(allowed) > 0 and all(len(s) > 0 and set(s) <= set(range(len(aggregation))) for s in allowed),
        f"allowed aggregations {[list(map(int, s)) for s in allowed]}",
        allowed=f"for at least one round, numbers from 0 to {len(aggregation) - 1}",
        remedy="number the rows of the aggregation",
    )
    require(
        problem.dimension == 1,
        f"an instance of {problem.dimension} dimensions",
        allowed="1",
        remedy="use random_quadratics(..., dimension=1)",
    )
    participants = len(aggregation.rows)
    nodes = float(np.prod([len(sets) * 2.0 ** (participants * steps) for sets in allowed]))
    require(
        nodes <= MOST_NODES,
        f"{participants} participants, {steps} steps and {len(allowed)} rounds make {nodes:.3g} outcomes",
        allowed=f"at most {MOST_NODES}",
        remedy="use fewer participants, local steps or rounds",
    )
    hessian, linear, _ = problem.mix(aggregation.rows)
    (hessian_f,), (linear_f,), _ = problem.mix(problem.split.pooled)
    h = hessian[:, 0, 0]
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * (participants * steps), indexing="ij")).reshape(
        participants, steps, -1
    )
    decay = (1 - gamma * h[:, None]) ** np.arange(steps)[::-1]
    shift = gamma * problem.noise * np.einsum("jeo,je->oj", signs, decay)
    game = _Game(
        h, linear[:, 0], (float(hessian_f[0, 0]), float(linear_f[0])), aggregation.beta, shift, problem.sigma2,
        known.smoothness.value, gamma, steps, theorem, foresight,
    )  # fmt: skip
    measured, bound = (float(side[0]) for side in game.play(np.array([w]), list(allowed)))
    applicable = theorem.covers(gamma, known.smoothness.value, steps) and not foresight
    equation = "sum_r (g E/2) E|grad F|^2 <= F_0 - E F_T + sum_r error terms"
    return Check.of("S6, arrivals that look at the noise", equation, measured, bound, applicable)
