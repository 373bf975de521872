"""Exact worst cases of a round over *all* L-smooth losses, by performance estimation (Drori and Teboulle 2014;
Taylor, Hendrickx and Glineur 2017), with PEPit (Goujaud et al. 2022) and Clarabel. Needs the extra [certificates].

For given weights, step size and number of steps the ratio measured / bound of the per-round inequality has a largest
value over all dimensions and all L-smooth losses of the participants: maximise (gamma E/2) ||grad F(w)||^2 subject to
bound <= 1, a semidefinite program, because everything is quadratic in gradients and points and the conditions for
L-smooth interpolation are exact. The improved bound is the least of the bounds with (1 + theta) b_r + (1 + 1/theta) L^2
D_r, so its worst ratio is the largest over theta of worst ratios. Where somebody is absent it is 1, in the limit of
small theta: all that are aggregated are stationary at w and the absent are not. Minibatch noise is left out (sigma =
0): it enters both bounds as a separate term.

Between the points that a round visits the worst loss may be anything that is smooth enough; `smooth_interpolant` is the
largest such function on a line (Daniilidis, Haddou, Le Gruyer and Ley 2018: the convex hull of parabolas).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from importlib.util import find_spec
from itertools import compress
from operator import add
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull

from fedauto_core.errors import require, require_number

from ..bound.first import FIRST
from ..bound.improved import IMPROVED, improved_at
from ..bound.theorem import Theorem

THETAS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)
ALWAYS, ATTAINED = (0.001, 0.3, 3.0), 0.999
_sum_of = partial(reduce, add)  # of PEPit's expressions: `sum` would add a 0
LEAST_STEP = 1e-3  # the program's numbers lie gamma^2 apart: below 1e-6 a solver calls wrong answers optimal
MOST_SIZE = 60  # rows of the Gram matrix: seconds per case on one core


@dataclass(frozen=True)
class WorstCase:
    """ratio: largest measured / bound (inf: the inequality fails for some losses). smoothness_used: sum of the dual
    multipliers of each participant's interpolation conditions; 0: there is a proof without its smoothness. visits:
    for each participant place, slope and value [K, 3] of its worst loss wherever it was asked, along the line from w_0
    to w_T; off_line: how far places and slopes lie off that line, 0 if the worst losses have one dimension."""

    ratio: float
    smoothness_used: tuple[float, ...]
    visits: tuple[np.ndarray, ...]
    off_line: float


def available() -> bool:
    """Whether the extra is installed."""
    return all(map(find_spec, ("cvxpy", "PEPit")))


def worst_case(
    rounds: Sequence[Sequence[float]], shares: Sequence[float], gamma: float, steps: int, theorem: Theorem = FIRST,
    bend: float = 1.0,
) -> WorstCase:  # fmt: skip
    """The exact worst case of the sum over T rounds of a theorem's inequality, without noise:

        maximise    sum_r (gamma E/2) ||grad F(w_{r-1})||^2    over w_0 and L-smooth F_1, .., F_K with L = 1
        subject to  F(w_0) - F(w_T) + sum_r (gamma E/2) errors_r <= 1    for F = sum_j shares_j F_j and
                    w_r = w_{r-1} + sum_j beta_{r,j} (w_j^E - w_{r-1}), where
                    w_j^{e+1} = w_j^e - gamma grad F_j(w_j^e) from w_j^0 = w_{r-1}.

    Reference: Taylor, Hendrickx, Glineur, "Smooth strongly convex interpolation and exact worst-case performance of
    first-order methods", Mathematical Programming 161 (2017); the choice of problem is ours.

    rounds [T, K]: weights beta of the participants in each round; shares [K]: n_j/n (0: no part of F, as participant
    m); who has neither weight nor share is left out. theorem: one whose errors are linear in b_r and D_r (the improved
    one's: `improved_at`). bend: multiplies the errors, for falsification. InputError without the extra, for a program
    that is too large or for a step that is too small; ArithmeticError if the solver fails.
    """
    remedy = "take a larger step; the ratios hardly change below this one"
    require_number("gamma", gamma, low=LEAST_STEP, strict=False, remedy=remedy)
    rounds, shares = _taking_part(rounds, shares, steps)
    from PEPit import PEP, null_expression
    from PEPit.functions import SmoothFunction

    problem = PEP()
    losses = [problem.declare_function(SmoothFunction, L=1.0) for _ in shares]

    # Initial condition: any model. What keeps the problem bounded needs the last model, see the metric.
    start = w = problem.set_initial_point()
    first = here = _seen(losses, shares, w)

    # Steps of each round, and what both sides of the inequality gain by it.
    measured = bound = null_expression
    for beta in rounds:
        errors = _errors(here, beta, gamma, steps, theorem)
        measured = measured + gamma * steps / 2 * here[0] ** 2
        bound = bound + bend * gamma * steps / 2 * errors
        w = _averaged(losses, beta, w, here, gamma, steps)
        here = _seen(losses, shares, w)

    # Performance metric: the measured side, where the bound is at most one.
    problem.add_constraint(first[1] - here[1] + bound <= 1)
    problem.set_performance_metric(measured)

    # Solve, and read the worst losses and the multipliers of their smoothness from the solution.
    ratio = _solved(problem, f"gamma = {gamma}, E = {steps}, the {theorem.name} theorem")
    if not np.isfinite(ratio):
        return WorstCase(float("inf"), (float("nan"),) * len(shares), (), float("nan"))
    used = tuple(sum(abs(c.eval_dual()) for c in loss.list_of_class_constraints) for loss in losses)
    visits, off = zip(*(_along_the_line(loss.list_of_points, start.eval(), w.eval()) for loss in losses), strict=True)
    return WorstCase(ratio, used, visits, max(off))


def _taking_part(rounds: Sequence, shares: Sequence[float], steps: int) -> tuple[list[list[float]], list[float]]:
    """Weights and shares of those who have any. InputError without the extra, or if they are too many."""
    allowed, remedy = "an environment with the extra [certificates]", "pip install -e '.[certificates]'"
    require(available(), "exact worst cases need PEPit and cvxpy", allowed=allowed, remedy=remedy)
    taken = [p > 0 or any(beta[j] > 0 for beta in rounds) for j, p in enumerate(shares)]
    shares, rounds = list(compress(shares, taken)), [list(compress(beta, taken)) for beta in rounds]
    size = 1 + sum(len(beta) + (steps - 1) * sum(b > 0 for b in beta) for beta in rounds) + len(shares)
    what = f"size of the Gram matrix of {len(shares)} participants with {steps} steps in {len(rounds)} rounds"
    require_number(what, size, high=MOST_SIZE, whole=True, remedy="use fewer participants, steps or rounds")
    return rounds, shares


Seen = tuple[Any, Any, list[Any]]  # at a model, as PEPit's expressions: grad F, F, and the gradients of all


def _seen(losses: Sequence[Any], shares: Sequence[float], w: Any) -> Seen:
    pairs = [loss.oracle(w) for loss in losses]
    slope, value = (_sum_of(p * pair[k] for p, pair in zip(shares, pairs, strict=True)) for k in (0, 1))
    return slope, value, [gradient for gradient, _ in pairs]


def _averaged(losses: Sequence[Any], beta: Sequence[float], w: Any, here: Seen, gamma: float, steps: int) -> Any:
    """w_r: the first of the E steps of each participant is taken along the gradient seen at w."""
    moved = w
    for loss, b, gradient in zip(losses, beta, here[2], strict=True):
        if b > 0:
            local = w - gamma * gradient
            for _ in range(steps - 1):
                local = local - gamma * loss.gradient(local)
            moved = moved + b * (local - w)
    return moved


def _errors(here: Seen, beta: Sequence[float], gamma: float, steps: int, theorem: Theorem) -> Any:
    """A theorem's errors over gamma E / 2; without noise its D_r is a multiple of sum_j beta_j ||grad F_j||^2."""
    pairs = list(zip(beta, here[2], strict=True))
    bias2, gradients2 = (here[0] - _sum_of(b * g for b, g in pairs)) ** 2, _sum_of(b * g**2 for b, g in pairs)
    drift = float(theorem.drift(0.0, np.ones(1), gamma, 1.0, steps)[0]) * gradients2
    return _sum_of(theorem.errors(bias2, drift, 1.0, steps).values())


def _solved(problem: Any, what: str) -> float:
    """The optimal value; inf where it is unbounded, for which the solver has no answer."""
    import cvxpy
    from PEPit.wrappers import WRAPPERS

    WRAPPERS.setdefault("stacked", _stacked())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        try:
            value = problem.solve(wrapper="stacked", safe_mode=False, solver="CLARABEL", verbose=0)
        except cvxpy.error.SolverError as error:
            raise ArithmeticError(f"no worst case for {what}: {error}") from error
    return float("inf") if value is None else float(value)


@cache
def _stacked() -> type:
    """PEPit's interface to cvxpy, which makes one cvxpy constraint of every inequality, with all of them as one vector:
    the solver gets the same numbers in the same places, in half the time."""
    import cvxpy
    from PEPit.tools.expressions_to_matrices import expression_to_matrices
    from PEPit.wrappers import CvxpyWrapper

    class Stacked(CvxpyWrapper):
        def send_constraint_to_solver(self, constraint: Any) -> None:
            kind = constraint.equality_or_inequality
            require(kind == "inequality", f"{kind} among the constraints", allowed="inequalities", remedy="split it")
            self._list_of_constraints_sent_to_solver.append(constraint)

        def generate_problem(self, objective: Any) -> Any:
            rows = (expression_to_matrices(one.expression) for one in self._list_of_constraints_sent_to_solver)
            products, values, constants = map(np.array, zip(*rows, strict=True))
            products = products.reshape(len(products), -1) @ cvxpy.vec(self.G, order="C")
            self._list_of_solver_constraints.append(products + values @ self.F + constants <= 0)
            return super().generate_problem(objective)

        def _recover_dual_values(self) -> tuple[list[Any], np.ndarray]:
            residual, multipliers = (constraint.dual_value for constraint in self.prob.constraints)
            return [residual, *multipliers], residual

    return Stacked


def _along_the_line(seen: Sequence[tuple[object, ...]], start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, float]:
    """Place, slope, value [K, 3] where a PEPit function was asked, and how far places and slopes lie off the line."""
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length if length > 0 else end
    places = np.array([point.eval() - start for point, _, _ in seen])
    slopes = np.array([slope.eval() for _, slope, _ in seen])
    off = max(float(np.abs(v - np.outer(v @ along, along)).max()) for v in (places, slopes))
    return np.column_stack([places @ along, slopes @ along, [float(value.eval()) for *_, value in seen]]), off


def smooth_interpolant(visits: np.ndarray, x: np.ndarray, smoothness: float = 1.0) -> np.ndarray:
    """The largest `smoothness`-smooth function of one variable with places, slopes and values visits [K, 3], at x.

    f + L/2 x^2 is the lower convex hull of the smallest of the parabolas of curvature 2 L through the visits; x is an
    ascending grid that reaches beyond all places, the accuracy is that of the grid.
    """
    place, slope, value = visits.T[:, :, None]
    bowl = smoothness / 2 * x**2
    above = np.min(value + slope * (x - place) + smoothness / 2 * (x - place) ** 2, axis=0) + bowl
    hull = ConvexHull(np.column_stack([x, above])).vertices
    lower = np.roll(hull, -np.argmin(hull))  # counter-clockwise from the left end: the lower side comes first
    lower = lower[: np.argmax(lower) + 1]
    return np.interp(x, x[lower], above[lower]) - bowl


def exact_ratio(
    rounds: Sequence[Sequence[float]], shares: Sequence[float], gamma: float, steps: int, theorem: Theorem
) -> WorstCase:
    """The exact worst ratio of a theorem; of the improved one the largest over `THETAS`, from below.

    Some theta are always tried; the others only as long as the bound is not attained, so that a ratio above one (the
    theorem would be wrong) can be seen. Over several rounds the improved bound has one theta per round; here they share
    one.
    """
    what = rounds, shares, gamma, steps
    if theorem is not IMPROVED:
        return worst_case(*what, theorem)
    if steps == 1:  # there is nothing to split
        return worst_case(*what, improved_at(1.0))
    cases = [worst_case(*what, improved_at(theta)) for theta in ALWAYS]
    if max(case.ratio for case in cases) < ATTAINED:
        cases += [worst_case(*what, improved_at(theta)) for theta in THETAS if theta not in ALWAYS]
    return max(cases, key=lambda case: case.ratio)
