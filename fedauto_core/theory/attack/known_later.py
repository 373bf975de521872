"""Known answers for docs/method.md, 5.7, 5.10 and 5.11: stale updates, lucky networks, corrected steps. See
`known_answers`."""

from itertools import product

import numpy as np

from ..bound import checks
from ..bound.aggregation import Aggregation
from ..bound.constants import constants_of
from ..bound.corrected import RATE_LIMIT, control_checks, corrected_checks, rate_checks
from ..problems.quadratics import Quadratics
from ..problems.split import Point, Split
from .adaptive import worst_luck
from .search import ANY

CENTRE, W, SHARE = np.array([[1.0, 0.5], [-1.0, 2.0]]), np.array([2.0, 1.0]), 0.3
WEIGHTS = np.array([SHARE, 1 - SHARE])


def _bowls(curvature: float, noise: float = 0.0) -> tuple[Quadratics, Aggregation]:
    """Two participants with curvature/2 |w - u|^2 in two dimensions."""
    problem = Quadratics(Split(np.array([[1], [1]])), np.broadcast_to(curvature * np.eye(2), (2, 2, 2)), CENTRE, noise)
    return problem, Aggregation(problem.split.participants, problem.split.alpha, WEIGHTS[None])


def stale_by_hand() -> bool:
    """5.7 from two old models, with and without noise there, both inequalities, within and beyond the step limit."""
    (problem, used), old = _bowls(2.0), np.array([[1.0, 1.5], [0.5, -1.0]])
    pooled, known, good = 2 * (W - CENTRE.mean(axis=0)), constants_of(problem, used), True
    fresh = np.linalg.norm(pooled - WEIGHTS @ (2 * (W - CENTRE))) + 2 * WEIGHTS @ np.linalg.norm(W - old, axis=1)
    cases = product((np.zeros((2, 2)), np.array([[0.3, -0.1], [0.2, 0.4]])), ((0.4, True), (0.5, True), (0.51, False)))
    for noise, (gamma, within) in cases:
        stale = WEIGHTS @ (2 * (old - CENTRE) + noise)
        bound = (fresh + np.linalg.norm(WEIGHTS @ noise)) ** 2
        values = [np.mean(np.sum((at - CENTRE) ** 2, axis=1)) for at in (W, W - gamma * stale)]
        gained = values[0] - values[1] + gamma / 2 * bound
        wanted = [(np.sum((pooled - stale) ** 2), bound), (gamma / 2 * np.sum(pooled**2), gained)]
        found = checks.stale_checks(problem, used, known, W, old, gamma, noise)
        good &= np.allclose([(check.measured, check.bound) for check in found], wanted, rtol=1e-9)
        good &= found[1].status == ("valid" if within else "not applicable")
    return bool(good)


def corrected_by_hand() -> bool:
    """5.11 on two bowls with noise, shifts and a prox, two steps: the models, and the bound with L + mu, once more."""
    (problem, used), shifts = _bowls(0.8, 0.3), np.array([[0.4, -0.2], [-0.1, 0.5]])
    gamma, mu, known = 0.2, 0.5, constants_of(*_bowls(0.8, 0.3))
    slopes, ends, spread = 0.8 * (W - CENTRE) + shifts, [], 0.0
    for weight, centre, shift in zip(WEIGHTS, CENTRE, shifts, strict=True):
        first = W - gamma * (0.8 * (W - centre) + shift)
        ends.append(first - gamma * (0.8 * (first - centre) + shift + mu * (first - W)))
        spread += weight**2 * 2 * (gamma * 0.3) ** 2 * (1 + (1 - gamma * 1.3) ** 2)
    pooled, after = 0.8 * (W - CENTRE.mean(axis=0)), WEIGHTS @ np.array(ends)
    values = [0.4 * np.mean(np.sum((at - CENTRE) ** 2, axis=1)) for at in (W, after)]
    sigma = 0.3 * 2**0.5
    drift = WEIGHTS @ (gamma * np.linalg.norm(slopes, axis=1) + gamma * sigma) ** 2 / 2
    error = (np.linalg.norm(pooled - WEIGHTS @ slopes) + 1.3 * drift**0.5) ** 2
    noise = (0.5 + 1.3 / 2 * gamma) * 1.3 * gamma**2 * 2 * sigma**2 * (WEIGHTS @ WEIGHTS)
    bound = values[0] - values[1] - 0.4 * spread + gamma * error + noise
    (check,) = corrected_checks(problem, used, known, Point(W), gamma, 2, shifts, mu)
    good = np.allclose([check.measured, check.bound], [gamma * pooled @ pooled, bound], rtol=1e-9)
    moved = problem.round(Point(W), used.rows, used.beta, gamma, 2, shifts, mu).drift
    good &= np.allclose(moved, gamma**2 * (np.sum(slopes**2, axis=1) + sigma**2) / 2)
    limit = 1 / (1.3 * 2)
    statuses = [corrected_checks(problem, used, known, Point(W), part * limit, 2, shifts, mu)[0].status
                for part in (1.0, 1.01)]  # fmt: skip
    random = corrected_checks(problem, used, known, Point(W, np.eye(2)), gamma, 2, shifts, mu)[0]
    good &= np.isclose(random.measured, gamma * (pooled @ pooled + 0.64 * 2))
    return bool(good and statuses == ["valid", "not applicable"] and random.status == "valid")


def controls_by_hand() -> bool:
    """5.11, bias: three participants of unequal curvature on a line, one of them never heard, with shares that are not
    F's."""
    curvature, centre, along = np.array([1.0, 0.5, 0.8]), np.array([1.0, -2.0, 3.0]), np.array([0.6, -0.8])
    owner = np.repeat(range(3), [1, 1, 2])
    bowls = curvature[owner, None, None] * np.eye(2)
    problem = Quadratics(Split(np.array([[1], [1], [2]])), bowls, centre[owner, None] * along)
    beta, shares, starts, w = np.array([0.6, 0.4, 0.0]), np.array([0.5, 0.2, 0.3]), np.array([1.5, 0.5, 9.0]), 0.2
    used = Aggregation(problem.split.participants, problem.split.alpha, beta[None])
    slopes, controls = curvature * (w - centre), curvature * (starts - centre) * [1, 1, 0]
    pooled = np.array([0.25, 0.25, 0.5]) @ slopes
    measured = (pooled - beta @ (slopes - controls + shares @ controls)) ** 2
    off = np.array([1.3, 0.3, abs(slopes[2])])
    bound = (abs(pooled - shares @ slopes) + np.array([0.1, 0.2, 0.3]) @ off) ** 2
    heard, known = np.array([True, True, False]), constants_of(problem, used, ANY)
    (check,) = control_checks(problem, used, known, w * along, starts[:, None] * along, heard, shares)
    return bool(np.allclose([check.measured, check.bound], [measured, bound]) and check.status == "valid")


def run_of_controls_by_hand() -> bool:
    """SCAFFOLD on a line, three rounds with two steps, in which one of two is heard late: everything once more."""
    curvature, centre, shares, gamma, w = (2.0, 0.5), (1.0, -2.0), (0.25, 0.75), 0.002, 0.5
    problem = Quadratics(Split(np.array([[1, 0], [1, 2]])), np.repeat(curvature, [1, 3])[:, None, None],
                         np.repeat(centre, [1, 3])[:, None])  # fmt: skip
    beta, controls, slopes, off = ((0.6, 0.4), (1.0, 0.0), (0.3, 0.7)), [0.0, 0.0], [], []
    start, best = w, (0.5 - 0.75) / (0.5 + 0.375)
    for weights in beta:
        own = [h * (w - u) for h, u in zip(curvature, centre, strict=True)]
        slopes.append((0.25 * own[0] + 0.75 * own[1]) ** 2)
        off.append(max(abs(c - g) for c, g in zip(controls, own, strict=True)))
        mean, after, met = sum(p * c for p, c in zip(shares, controls, strict=True)), w, list(controls)
        for j, (h, u) in enumerate(zip(curvature, centre, strict=True)):
            first = w - gamma * (own[j] - controls[j] + mean)
            second = first - gamma * (h * (first - u) - controls[j] + mean)
            after += weights[j] * (second - w)
            met[j] = (own[j] + h * (first - u)) / 2 if weights[j] else controls[j]
        w, controls = after, met
    used = Aggregation(problem.split.participants, problem.split.alpha, np.array(beta))
    known, at = constants_of(problem, used), np.full(1, start)

    def loss(x: float) -> float:
        return sum(p * h / 2 * (x - u) ** 2 for p, h, u in zip(shares, curvature, centre, strict=True))

    gap, good = loss(start) - loss(best), True
    for tau, status in ((1, "not applicable"), (2, "valid")):
        found = rate_checks(problem, used, known, at, gamma, 2, tau)
        horizons = range(tau, 4)
        bounds = [(4 * gap / (2 * gamma) + 128 * sum(e * e for e in off[:tau])) / t for t in horizons]
        good &= np.allclose([check.bound for check in found], bounds)
        good &= np.allclose([check.measured for check in found], [sum(slopes[:t]) / t for t in horizons])
        good &= {check.status for check in found} == {status}
    edges = [rate_checks(problem, used, known, at, part / (RATE_LIMIT * 2 * 4), 2, 2)[0].status for part in (1.0, 1.01)]
    return bool(good and edges == ["valid", "not applicable"])


def _failing(w: float, left: int, room: float, gamma: float, claimed: float) -> float:
    """The probability that what is left of a run uses up the room between both sides of 5.10."""
    if room < 0 or left == 0:
        return float(room < 0)
    chances = []
    for centre in CHOICES:
        chance = 0.0
        for sign in (-1, 1):
            end = w - gamma * (w - centre + sign)
            gain = (w * w - end * end) / 2 - gamma / 4 * w * w + gamma / 2 * (1 + gamma / 2) * centre**2
            chance += _failing(end, left - 1, room + gain + gamma**2 / 2 * claimed**2, gamma, claimed) / 2
        chances.append(chance)
    return max(chances)


CHOICES = (-0.9, 0.4, 0.5)


def luck_by_hand() -> bool:
    """The worst network by plain recursion over who gets through and both signs of the noise; foresight is worse."""
    found = []
    for start, gamma, delta, rounds in product((-0.9, 0.1, 0.7, 1.6), (0.3, 0.8), (0.6, 0.97), (1, 2, 3)):
        claimed = 0.35
        by_hand = _failing(start, rounds, 2 * gamma * claimed**2 * np.log(1 / delta), gamma, claimed)
        found.append((worst_luck(CHOICES, start, gamma, rounds, delta, claimed), by_hand))
    spread = len({by_hand for _, by_hand in found}) > 3
    seeing = [worst_luck((-0.5, 0.5), 0.5, 1.0, 1, 0.9, foresight=sees) for sees in (True, False)]
    return bool(np.allclose(*zip(*found, strict=True)) and spread and seeing == [1.0, 0.5])


def random_model() -> bool:
    """A round from a random model is the mean over rounds from models with its mean and covariance."""
    (problem, used), steps = _bowls(0.8, 0.3), 2
    tilted = np.array([[[0.9, 0.2], [0.2, -0.4]], [[0.5, -0.3], [-0.3, 1.0]]])
    problem = Quadratics(problem.split, tilted, CENTRE, 0.3)
    root, shifts = np.array([[0.7, 0.0], [-0.4, 0.5]]), np.array([[0.4, -0.2], [-0.1, 0.5]])
    ends = [W + sign * 2**0.5 * column for column in root.T for sign in (1, -1)]
    how = used.rows, used.beta, 0.3, steps, shifts, 0.4
    whole = problem.round(Point(W, root @ root.T), *how)
    each = [problem.round(Point(end), *how) for end in ends]
    names = ("value", "value_after", "gradient2", "bias2", "participant_gradient2", "drift")
    good = all(np.allclose(getattr(whole, n), np.mean([getattr(one, n) for one in each], axis=0)) for n in names)
    (after,), means = whole.after, np.array([one.after[0].mean for one in each])
    return bool(good and np.allclose(after.cov, each[0].after[0].cov + np.cov(means.T, bias=True)))
