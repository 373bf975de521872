"""Known answers for the exact worst cases (`theory.attack.exact`): its expressions with plain numbers in the place of
PEPit's, and programs whose worst loss is known in closed form. See `known_answers`."""

from types import SimpleNamespace

import numpy as np

from fedauto_core.errors import InputError

from ..bound.aggregation import Aggregation
from ..bound.checks import trajectory
from ..bound.constants import constants_of
from ..bound.first import FIRST
from ..bound.improved import IMPROVED, improved_at
from ..problems.quadratics import Quadratics
from ..problems.split import Point, Split
from . import exact


def expressions_by_hand() -> bool:
    """Slope, value, errors and step of two participants with h/2 (x - u)^2, and places along a line."""
    losses = [
        SimpleNamespace(
            oracle=lambda x, h=h, u=u: (h * (x - u), h / 2 * (x - u) ** 2), gradient=lambda x, h=h, u=u: h * (x - u)
        )
        for h, u in ((0.8, 1.0), (-0.5, 3.0))
    ]
    slope, value, gradients = here = exact._seen(losses, [0.3, 0.7], 2.0)
    good = np.allclose([slope, value, *gradients], [0.59, 0.3 * 0.4 - 0.7 * 0.25, 0.8, 0.5])
    drift = 0.1**2 * 4 / 3 * 2 * 5 * (0.6 * 0.64 + 0.4 * 0.25)
    good &= np.isclose(exact._errors(here, [0.6, 0.4], 0.1, 3, FIRST), 2 * (0.59 - 0.68) ** 2 + 2 * drift)
    good &= np.isclose(exact._errors(here, [0.6, 0.4], 0.1, 1, FIRST), (0.59 - 0.68) ** 2)
    grown = 0.1**2 * (1 + 2.1**2) / 3 * (0.6 * 0.64 + 0.4 * 0.25)  # a_1 = gamma, a_2 = gamma (2 + gamma L)
    split = exact._errors(here, [0.6, 0.4], 0.1, 3, improved_at(0.5))
    good &= np.isclose(split, 1.5 * (0.59 - 0.68) ** 2 + 3 * grown)
    ends, places = [], [2.0, 2.0]
    for _ in range(3):
        places = [x - 0.1 * loss.gradient(x) for x, loss in zip(places, losses, strict=True)]
        ends.append(2.0 + 0.6 * (places[0] - 2.0) + 0.4 * (places[1] - 2.0))
    moved = [exact._averaged(losses, [0.6, 0.4], 2.0, here, 0.1, steps) for steps in (1, 2, 3)]
    uneven = exact._averaged(losses, [0.95, 0.05], 2.0, here, 0.1, 1)
    good &= np.allclose(moved, ends) and np.isclose(uneven, 2 - 0.1 * (0.95 * 0.8 + 0.05 * 0.5))
    seen = [[SimpleNamespace(eval=lambda v=v: v) for v in row] for row in SEEN]
    along, off = exact._along_the_line(seen, np.array([1.0, 1.0]), np.array([4.0, 5.0]))
    good &= np.allclose(along, [[5.0, 2.0, 0.7], [10.0, 0.5, -0.2]]) and np.isclose(off, 0.8)
    short, _ = exact._along_the_line(seen, np.array([1.0, 1.0]), np.array([1.03, 1.04]))
    return bool(good and np.allclose(short, along))


SEEN = (  # place, slope and value; the second slope lies 1 off the line of direction (0.6, 0.8)
    (np.array([4.0, 5.0]), np.array([1.2, 1.6]), 0.7),
    (np.array([7.0, 9.0]), np.array([0.3 - 0.8, 0.4 + 0.6]), -0.2),
)


def largest_smooth_function() -> bool:
    """Through (-1/2, 0) and (3/2, 0), both with slope 0: parabolas of curvature L up to half of the way, then the same
    upside down, so L/4 in the middle; with a line and a constant added and another L."""
    x = np.linspace(-3, 3, 6001)
    good = True
    for smoothness, tilt, lift in ((1.0, 0.0, 0.0), (2.0, 0.5, 0.3)):
        visits = np.array([[at, tilt, lift + tilt * at] for at in (-0.5, 1.5)])
        middle = np.abs(x - 0.5)
        wanted = smoothness * np.where(middle < 0.5, 0.25 - middle**2 / 2, (middle - 1) ** 2 / 2)
        found = exact.smooth_interpolant(visits, x, smoothness)
        good &= np.allclose(found, wanted + tilt * x + lift, atol=1e-5)
    return bool(good)


def _parabola(gamma: float, steps: int, rounds: int) -> float:
    """measured / bound of the sum for x^2/2, the worst loss of a single participant, from its own formulas."""
    problem = Quadratics(Split(np.array([[1]])), np.ones((1, 1, 1)), np.zeros((1, 1)))
    alone = Aggregation(problem.split.participants, problem.split.alpha, np.ones((rounds, 1)))
    run, _ = trajectory(problem, alone, constants_of(problem, alone), Point(np.ones(1)), gamma, steps)
    return float(run["measured"].sum() / run["bound"].sum())


def programs_with_known_answers() -> bool:
    """One participant: the parabola. F of an absent one, with b_r claimed at a part c of its value: the inverse of c -
    (1 - c)^2 / (c - gamma), where the other's slope is -(1 - c)/(c - gamma) of F's. The improved bound: no theta of the
    grid has more than what is returned, and E = 1 is a formula."""
    alone = exact.worst_case([[1.0]], [1.0], 0.25, 2)
    good = np.isclose(alone.ratio, _parabola(0.25, 2, 1), rtol=1e-4)
    place, slope = alone.visits[0].T[:2]
    good &= np.allclose(np.diff(slope), np.diff(place), rtol=1e-2) and alone.off_line < 1e-3
    good &= np.isclose(exact.worst_case([[1.0], [1.0]], [1.0], 0.2, 2).ratio, _parabola(0.2, 2, 2), rtol=1e-4)
    bent = exact.worst_case([[1.0, 0.0, 0.0]], [0.0, 1.0, 0.0], 0.5, 1, bend=0.9)  # the third has no part in anything
    good &= np.isclose(bent.ratio, 1 / (0.9 - 0.1**2 / (0.9 - 0.5)), rtol=1e-4) and len(bent.smoothness_used) == 2
    both = [[0.5, 0.5]], [0.5, 0.5], 0.25, 2
    most = max(exact.worst_case(*both, improved_at(theta)).ratio for theta in (0.3, 10.0))
    good &= exact.exact_ratio(*both, IMPROVED).ratio >= most * (1 - 1e-6)
    good &= np.isclose(exact.exact_ratio([[0.5, 0.5]], [0.5, 0.5], 0.5, 1, IMPROVED).ratio, 1 / 1.5, rtol=1e-4)
    return bool(good and all(_fits(rounds, steps) and not _fits(rounds, steps + 1) for rounds, steps in LARGEST))


LARGEST = (([[1.0]], 58), ([[0.95, 0.05]], 28), ([[1.0, 0.0], [0.5, 0.5]], 18))  # programs of at most 60 rows


def _fits(rounds: list[list[float]], steps: int) -> bool:
    shares = [0.95, 0.05] if rounds[0][1:] == [0.0] else [1.0, 0.0][: len(rounds[0])]
    try:
        taken = exact._taking_part(rounds, shares, steps)
    except InputError:
        return False
    return taken == (rounds, shares)
