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

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from scipy.spatial import ConvexHull

from fedauto_core.errors import InputError, require
from fedauto_core.theory.bound.checks import coefficients
from fedauto_core.theory.bound.improved import drift_factors

THETAS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)
ALWAYS, ATTAINED = (0.001, 0.3, 3.0), 0.999
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
    try:
        import cvxpy  # noqa: F401
        import PEPit  # noqa: F401
    except ImportError:
        return False
    return True


def worst_case(
    rounds: Sequence[Sequence[float]],
    shares: Sequence[float],
    gamma: float,
    steps: int,
    theta: float | None = None,
    bend: float = 1.0,
) -> WorstCase:
    """The exact worst case of sum_r measured_r / bound over T successive rounds, L = 1.

    rounds [T, K]: weights of the participants in each round; shares [K]: n_j/n (0: no part of F, as participant m); who
    has neither weight nor share is left out. theta: None for the first theorem's error terms, else that of the improved
    one's. bend: multiplies the error terms, for falsification. InputError without the extra or for a program that is
    too large; ArithmeticError if the solver fails.
    """
    if not available():
        raise InputError(
            "exact worst cases need PEPit and cvxpy",
            allowed="an environment with the extra [certificates]",
            remedy="pip install -e '.[certificates]'",
        )
    import cvxpy
    from PEPit import PEP, null_expression, null_point
    from PEPit.functions import SmoothFunction

    taken = [p > 0 or any(beta[j] > 0 for beta in rounds) for j, p in enumerate(shares)]
    shares = list(compress(shares, taken))
    rounds = [list(compress(beta, taken)) for beta in rounds]
    size = 1 + sum(len(beta) + (steps - 1) * sum(b > 0 for b in beta) for beta in rounds) + len(shares)
    require(
        size <= MOST_SIZE,
        f"{len(shares)} participants with {steps} steps in {len(rounds)} rounds make a Gram matrix of {size} rows",
        allowed=f"at most {MOST_SIZE} rows",
        remedy="use fewer participants, steps or rounds",
    )
    problem = PEP()
    losses = [problem.declare_function(SmoothFunction, L=1.0) for _ in shares]
    start = w = problem.set_initial_point()

    def pooled(point: object) -> tuple[object, object, list[object]]:
        """grad F, F and all gradients at a point."""
        seen = [loss.oracle(point) for loss in losses]
        slope = sum((p * g for p, (g, _) in zip(shares, seen, strict=True)), null_point)
        value = sum((p * f for p, (_, f) in zip(shares, seen, strict=True)), null_expression)
        return slope, value, [g for g, _ in seen]

    first = here = pooled(w)
    measured = bound = null_expression
    for beta in rounds:
        slope, _, gradients = here
        moved = w
        for loss, b, gradient in zip(losses, beta, gradients, strict=True):
            if b > 0:
                local = w - gamma * gradient
                for _ in range(steps - 1):
                    local = local - gamma * loss.gradient(local)
                moved = moved + b * (local - w)
        bias = (slope - sum((b * g for b, g in zip(beta, gradients, strict=True)), null_point)) ** 2
        gradients2 = sum((b * g**2 for b, g in zip(beta, gradients, strict=True)), null_expression)
        w, here = moved, pooled(moved)
        measured = measured + gamma * steps / 2 * slope**2
        bound = bound + bend * gamma * steps / 2 * _error(bias, gradients2, theta, gamma, steps)
    problem.add_constraint(first[1] - here[1] + bound <= 1)
    problem.set_performance_metric(measured)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        try:
            ratio = problem.solve(wrapper="cvxpy", solver="CLARABEL", verbose=0)
        except cvxpy.error.SolverError as error:
            raise ArithmeticError(
                f"no worst case for gamma = {gamma}, E = {steps}, theta = {theta}: {error}"
            ) from error
    if ratio is None or not np.isfinite(ratio):  # unbounded: the solver has no answer
        return WorstCase(float("inf"), (float("nan"),) * len(shares), (), float("nan"))
    used = tuple(sum(abs(c.eval_dual()) for c in loss.list_of_class_constraints) for loss in losses)
    visits, off = zip(*(_along_the_line(loss.list_of_points, start.eval(), w.eval()) for loss in losses), strict=True)
    return WorstCase(float(ratio), used, visits, max(off))


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
    first = int(np.flatnonzero(hull == 0)[0])  # counter-clockwise from the left end: the lower side comes first
    lower = np.roll(hull, -first)
    lower = lower[: int(np.flatnonzero(lower == len(x) - 1)[0]) + 1]
    return np.interp(x, x[lower], above[lower]) - bowl


def _error(bias: object, gradients2: object, theta: float | None, gamma: float, steps: int) -> object:
    """The error terms of either theorem without noise, over gamma E / 2; bias and gradients2 = sum_j beta_j
    ||grad F_j||^2 may be numbers or PEPit expressions."""
    if theta is None or steps == 1:
        numbers = coefficients(steps)
        drift = float(numbers.drift_gradient) * gamma**2 * (steps - 1) * (2 * steps - 1)
        return float(numbers.bias) * bias + float(numbers.drift) * drift * gradients2
    a, _ = drift_factors(gamma, 1.0, steps)
    drift = float(np.mean(a**2)) * gradients2
    return (1 + theta) * bias + (1 + 1 / theta) * drift


def exact_ratio(
    rounds: Sequence[Sequence[float]], shares: Sequence[float], gamma: float, steps: int, improved: bool
) -> WorstCase:
    """The exact worst ratio of the first theorem; of the improved one the largest over `THETAS`, from below.

    Some theta are always tried; the others only as long as the bound is not attained, so that a ratio above one (the
    theorem would be wrong) can be seen. Over several rounds the improved bound has one theta per round; here they share
    one.
    """
    if not improved or steps == 1:
        return worst_case(rounds, shares, gamma, steps)
    cases = [worst_case(rounds, shares, gamma, steps, theta) for theta in ALWAYS]
    if max(case.ratio for case in cases) < ATTAINED:
        cases += [worst_case(rounds, shares, gamma, steps, theta) for theta in THETAS if theta not in ALWAYS]
    return max(cases, key=lambda case: case.ratio)
