"""Instances with known answers: an inequality (nearly) attained, or a formula written out once more, with other means.

`CHECKS` are what notices the deliberate errors of `mutation`; on the code as it is all of them hold.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedauto_core.methods.weights import fedauto_weights

from ..bound import aggregation, checks, constants, enumeration, terms
from ..bound.aggregation import aggregate, arrival_sets
from ..bound.constants import Constant
from ..bound.first import FIRST
from ..bound.improved import IMPROVED, THEOREMS, convex_checks, polyak_checks
from ..problems import curvature
from ..problems.quadratics import Quadratics, random_quadratics
from ..problems.regression import SoftmaxRegression
from ..problems.split import Point, Split
from . import exact, scalars
from .bent_steps import STEP_BENDS
from .known_later import (
    controls_by_hand,
    corrected_by_hand,
    luck_by_hand,
    random_model,
    run_of_controls_by_hand,
    stale_by_hand,
)
from .known_programs import expressions_by_hand, largest_smooth_function, programs_with_known_answers
from .known_runs import (
    a_head_by_hand,
    a_network_after_the_fact,
    a_round_taken_apart,
    after_the_fact,
    estimates_by_hand,
    single_realisations_by_hand,
)

LOOSE = {
    (bend.inequality, bend.how)
    for bend in STEP_BENDS
    if bend.inequality in ("S4 drift", "I6 convex", "I6 convex, by recursion", "single realisations", "control rate")
    or "wave" in bend.how
    or "past" in bend.how
}
"""Instances of `bent_steps` that are far from an equality."""
SMALL = Split(np.array([[2, 2, 2], [3, 0, 1], [0, 4, 0]]))


def _problem(noise: float, shift: float = 0.0) -> Quadratics:
    return random_quadratics(0, SMALL, dimension=2, feature_shift=shift, noise=noise)


def _reference() -> bool:
    """Both bounds on one instance, written out once more with loops over participants, steps and coordinates."""
    problem, gamma, steps = _problem(0.4), 0.11, 4
    used = aggregate(problem.split, arrival_sets(2)[2:3], "FedAuto")
    known, point = constants.constants_of(problem, used), Point(np.ones(2))
    outcome = problem.round(point, used.rows, used.beta, gamma, steps)
    first, second = (checks.round_terms(outcome, used, known, gamma, steps, theorem) for theorem in THEOREMS)
    smoothness, sigma = known.smoothness.value, float(np.sqrt(known.sigma2.value))
    d_first = d_second = beta2 = 0.0
    for weight, gradient2 in zip(used.beta[0], outcome.participant_gradient2, strict=True):
        beta2 += weight * weight
        d_first += weight * gamma * gamma * (2 * 3 * sigma * sigma + 4 / 3 * 3 * 7 * gradient2)
        rooted = [0.0]
        for e in range(1, steps):  # the recursion itself: s_e = gamma (sqrt(e) sigma + e g + L sum_{k<e} s_k)
            rooted.append(gamma * (e**0.5 * sigma + e * gradient2**0.5 + smoothness * sum(rooted)))
        d_second += weight * sum(s * s for s in rooted) / steps
    progress, half = outcome.value - outcome.value_after[0], 0.5 * 4 * gamma
    noise = smoothness * 4 * gamma * gamma * sigma * sigma * beta2
    old = progress + half * (2 * outcome.bias2[0] + 2 * smoothness * smoothness * d_first) + noise
    away = [0.0]  # of the noisy path from the one without noise
    for e in range(1, steps):
        away.append(gamma * (e**0.5 + smoothness * sum(away)))
    factor = 0.5 + smoothness / 4 * sum(e**0.5 * c for e, c in enumerate(away))
    new = progress + half * (outcome.bias2[0] ** 0.5 + smoothness * d_second**0.5) ** 2 + factor * noise
    pairs = [(first["bound"][0], old), (second["bound"][0], new), (first["measured"][0], half * outcome.gradient2)]
    args = outcome.bias2, outcome.participant_gradient2[None], np.array([sigma * sigma]), used.beta, gamma, smoothness
    pairs += [(t.total(*args, steps)[0] + progress, by_hand) for t, by_hand in zip(THEOREMS, (old, new), strict=True)]
    split = terms.split_errors(0.3, outcome.bias2, d_second, smoothness)["error"][0]
    pairs.append((split, 1.3 * outcome.bias2[0] + (1 + 1 / 0.3) * smoothness * smoothness * d_second))
    return all(np.isclose(value, by_hand, rtol=1e-9) for value, by_hand in pairs)


def _tight() -> bool:
    """E = 1 at gamma = 1/L on isotropic quadratics: an equality, so every slip in either direction shows."""
    problem = _problem(0.4)
    problem = replace(problem, hessian=np.broadcast_to(np.eye(2), problem.hessian.shape))
    used = aggregate(problem.split, arrival_sets(2), "FedAvg")
    known = constants.constants_of(problem, used)
    at = problem, used, known, Point(np.zeros(2)), FIRST.step_limit(1.0, 1), 1
    return all(check.status == "tight" for theorem in THEOREMS for check in checks.round_checks(*at, theorem))


def _noise_equality() -> bool:
    """S3 is an equality for additive noise: E|G - H|^2 = (sigma^2/E) sum beta^2, from the variance of one sum."""
    beta, steps = np.array([[0.25, 0.75]]), 3
    return bool(np.isclose(terms.noise_bound(2.0, beta, steps)[0], 2.0 * (0.25**2 + 0.75**2) * steps / steps**2))


def _bias_with_shift() -> bool:
    """S5 and I4 under feature shift at several points: nothing violated; without shift delta vanishes."""
    shifted, plain = _problem(0.0, shift=1.5), _problem(0.0)
    used = aggregate(SMALL, arrival_sets(2), "FedAvg")
    points = [np.array(w) for w in ((0.0, 0.0), (3.0, -1.0), (-2.0, 2.0))]
    found = [c for w in points for c in checks.bias_checks(shifted, used, w, *THEOREMS)]
    violated = any(check.status == "violated" for check in found)
    return not violated and bool(np.all(constants.delta2(plain, used, points[1]) < 1e-20))


def _kappa_equality() -> bool:
    """S5 is an equality for two classes in one dimension: |grad F - grad f_1| = 1 everywhere, chi2 of (1, 0) is 1."""
    problem = Quadratics(Split(np.array([[1, 0], [0, 1]])), np.ones((2, 1, 1)), np.array([[1.0], [-1.0]]))
    return bool(np.isclose(constants.kappa2(problem, np.full(1, 3.0)).value, 1))


def _limits() -> bool:
    """Step limits by hand: 1/L for one step, 1/(2 L E) for more; the improved one 1/(L E)."""
    first = FIRST.step_limit(2.0, 1) == 0.5 and FIRST.step_limit(2.0, 5) == 0.05
    first &= FIRST.covers(0.05, 2.0, 5) and not FIRST.covers(0.0501, 2.0, 5)
    return first and IMPROVED.step_limit(2.0, 5) == 0.1 and IMPROVED.covers(0.1, 2.0, 5)


def _along_a_run() -> bool:
    """S6, I5 and I6 over two rounds, written out from the terms of each round."""
    problem, gamma, steps = random_quadratics(1, SMALL, 2, curvature=(0.2, 1.0), noise=3.0), 0.05, 2
    used = aggregate(problem.split, arrival_sets(2)[1:3], "FedAvg")
    known, start = constants.constants_of(problem, used), Point(np.array([2.0, -1.0]))
    frame, _ = checks.trajectory(problem, used, known, start, gamma, steps)
    total = checks.summed(frame, known, gamma, steps).iloc[-1]
    errors = frame[["bias", "drift", "noise"]].to_numpy().sum()
    by_hand = (frame["value"][0] - known.infimum.value + errors) / (gamma * steps)
    good = np.allclose(total[["bound", "measured"]], [by_hand, frame["measured"].sum() / (gamma * steps)])
    (hessian,), (linear,), _ = problem.mix(problem.split.pooled)
    best, strength, point = np.linalg.solve(hessian, linear), np.linalg.eigvalsh(hessian)[0], start
    away, gap, right = np.sum((start.mean - best) ** 2), frame["value"][0] - known.infimum.value, 0.0
    convex, distance = away / (2 * gamma * steps), np.sqrt(away)
    far = convex
    for now in map(used.pick, range(2)):
        outcome = problem.round(point, now.rows, now.beta, gamma, steps)
        parts = checks.round_terms(outcome, now, known, gamma, steps, IMPROVED)
        d = np.sqrt(2 * parts["error"][0] / (gamma * steps))
        spread = point.cov.trace() if point.cov is not None else 0.0
        radius = np.sqrt(np.sum((point.mean - best) ** 2) + spread)
        sigma2 = known.sigma2.value * np.sum(now.beta**2)
        alone = 4 * gamma * steps * d**2 + 2 * gamma * sigma2
        convex += (2 * radius * d + alone) / 2
        far += (2 * distance * d + alone) / 2
        distance = np.sqrt((distance + 2 * gamma * steps * d) ** 2 + 2 * gamma**2 * steps * sigma2)
        right = (1 - gamma * steps * strength) * right + parts["error"][0] + parts["noise"][0]
        (point,) = outcome.after
    right += (1 - gamma * steps * strength) ** 2 * gap
    run = checks.run_rounds(problem, used, start, gamma, steps)
    every = convex_checks(problem, run, known, gamma, steps)
    rates, gaps = [check.bound for check in every[-2:]], frame["value"].mean() - known.infimum.value
    good &= all(np.isclose(check.measured, gaps) and check.status == "valid" for check in every[-2:])
    limit = 1 / (8 * known.smoothness.value * steps)
    for part in (1.0, 1.01):
        statuses = {check.status for check in convex_checks(problem, run, known, part * limit, steps)}
        good &= ("not applicable" in statuses) == (part > 1)
    second = checks.terms_of_run(run, known, gamma, steps, IMPROVED)
    last = polyak_checks(second, known, gamma, steps, strength)[-1]
    good &= np.isclose(last.measured, second["value_after"].iloc[-1] - known.infimum.value)
    by_hand = np.concatenate([np.ravel(x) for x in (convex, far, right)])
    return bool(good and np.allclose(by_hand, [*rates, last.bound], rtol=1e-9))


def _largest_curvature() -> bool:
    """L of one quadratic with curvatures 1 and -3 is 3."""
    one = Quadratics(Split(np.array([[1]])), np.diag([1.0, -3.0])[None], np.zeros((1, 2)))
    return one.smoothness(one.split.participants)[0] == 3


def _missing_mass() -> bool:
    """A class of mass 1/4 is missing from an otherwise proportional mixture: chi^2 = (1/4) / (3/4)."""
    check = checks.missing_class_check(np.array([0.0, 1 / 3, 2 / 3]), np.array([0.25, 0.25, 0.5]))
    most, nothing = terms.missing_class(0.95), checks.missing_class_check(np.array([0.05, 0.95]), np.array([0.5, 0.5]))
    good = np.isclose(most, 19) and terms.missing_class(1.0) == np.inf and nothing.status == "not applicable"
    return bool(good and np.isclose(check.measured, 1 / 3) and check.status == "tight")


def _minimum() -> bool:
    """F_inf is the value at the point where the gradient vanishes."""
    problem = _problem(0.0)
    (hessian,), (linear,), _ = problem.mix(problem.split.pooled)
    return bool(np.isclose(problem.infimum(), problem.value(np.linalg.solve(hessian, linear)[None])[0]))


def _lora_by_hand() -> bool:
    """(ab)^2/2 on |a|, |b| <= 1 has curvature 3; scale 2, L 3, gradient 1, rank 4, radius 1/2 give 6 + 2 (1 + 3)."""
    bound = curvature.lora_ball_smoothness
    return bool(np.isclose(bound(1.0, 1.0, 0.0, 1, 1.0), 3) and np.isclose(bound(2.0, 3.0, 1.0, 4, 0.5), 14))


def _written_down() -> bool:
    """The instances of `bent_steps` on which an inequality is (nearly) attained still attain it."""
    found = [bend.stated() for bend in STEP_BENDS if (bend.inequality, bend.how) not in LOOSE]
    return all(np.isclose(worst.measured, worst.bound, rtol=0.011) for worst in found)


def _weights() -> bool:
    """alpha_g, F's sample weights and both methods' weights on unequal sample counts, by hand."""
    split, sets = Split(np.array([[2, 1, 3], [3, 0, 1], [0, 5, 0]])), arrival_sets(2)
    good = np.allclose(split.target, [5 / 15, 6 / 15, 4 / 15]) and np.allclose(split.pooled, 1 / 15)
    plain, adaptive = (aggregate(split, sets, method, 0.2) for method in ("FedAvg", "FedAuto"))
    good &= np.allclose(plain.beta, [[1, 0, 0], [0.6, 0.4, 0], [6 / 11, 0, 5 / 11], [0.4, 4 / 15, 1 / 3]])
    for arrived, beta in zip(sets, adaptive.beta, strict=True):
        ids = [0, *(1 + np.flatnonzero(arrived))]
        alpha, counts = split.counts[ids] / split.counts[ids].sum(axis=1, keepdims=True), split.counts[ids].sum(axis=1)
        sent = split.counts[1:][arrived].sum(axis=0)
        lacking = np.where(sent == 0, split.counts[0], 0)
        if lacking.any():
            alpha, counts = np.vstack([alpha, lacking / lacking.sum()]), np.append(counts, lacking.sum())
        wanted = fedauto_weights(alpha, counts, np.array([5, 6, 4]) / 15, 0.2)
        good &= np.allclose(np.sort(beta[beta > 0]), np.sort(wanted[wanted > 0]))
        good &= np.allclose(beta @ adaptive.alpha, wanted @ alpha)
    return bool(good)


def _constants() -> bool:
    """L is participant m's where that is the largest; sigma^2; kappa^2 and delta^2 with unequal classes, by hand."""
    split = Split(np.array([[1, 1], [3, 0]]))
    curved = Quadratics(split, np.array([1.0, 3.0, 1.0, 1.0, 1.0])[:, None, None], np.zeros((5, 1)), 0.5)
    known = constants.constants_of(curved, aggregate(split, np.array([[True]]), "FedAuto"))
    good = (known.smoothness.value, known.sigma2.value, known.infimum.value) == (3, 0.25, 0)
    slopes = np.array([1.0, 6.0, 2.0, 2.0, 2.0])  # class 0: 7/4 in the mean, class 1: 6, all: 2.6
    moved, w = Quadratics(split, np.ones((5, 1, 1)), -slopes[:, None]), np.zeros(1)
    good &= np.isclose(constants.kappa2(moved, w).value, 0.8 * 0.85**2 + 0.2 * 3.4**2)
    deltas = constants.delta2(moved, aggregate(split, np.array([[True]]), "FedAvg"), w)
    return bool(good and np.allclose(deltas, [(3.5 - (1.75 + 6) / 2) ** 2, 0.25**2]))


def _softmax_curvature() -> bool:
    """Two classes at w = 0 attain L = |x|^2/2 + 2 mu, also for two unequal weights of the same direction."""
    x = np.array([[1.0, 2.0], [3.0, 6.0]])
    two = SoftmaxRegression(Split(np.array([[1, 1], [0, 0]])[:1]), x, 0.25)
    row = np.array([[0.8, 0.2]])
    measured = curvature.curvature_by_differences(lambda w: two.gradients(row, w)[0], np.zeros(4))
    wanted = 0.5 * (0.8 * 5 + 0.2 * 45) + 0.5
    return bool(np.isclose(measured, wanted, rtol=1e-5) and np.isclose(two.smoothness(row)[0], wanted))


def _paths_by_hand() -> bool:
    """Two samples, two steps: the largest variance met, the drift, and the noise of every path."""
    split = Split(np.array([[1, 1], [1, 0]]))
    problem, w, gamma = SoftmaxRegression(split, np.array([[0.1], [0.2], [0.3]])), np.array([0.3, -0.2]), 5.0
    samples = np.eye(3)[:2]

    def slope(row: np.ndarray, at: np.ndarray) -> np.ndarray:
        return problem.gradients(row[None], at)[0]

    row, moved, noise, drift, largest = split.participants[0], [], [], 0.0, 0.0
    for first in samples:
        middle = w - gamma * slope(first, w)
        drift += np.sum((middle - w) ** 2) / 4
        for second in samples:
            moved.append(middle - gamma * slope(second, middle) - w)
            noise.append((slope(first, w) - slope(row, w) + slope(second, middle) - slope(row, middle)) / 2)
        for at in (w, middle):
            largest = max(largest, np.mean([np.sum((slope(one, at) - slope(row, at)) ** 2) for one in samples]))
    found = enumeration._paths(problem, row, w, gamma, 2)
    return all(np.allclose(a, b) for a, b in zip(found, (moved, noise, drift, largest), strict=True))


def _bias_of_a_mixture() -> bool:
    """kappa^2, delta^2, S5 and I4 in two dimensions where no class has the mean gradient, a missing class of unequal
    mass, and a shift; all sides by hand."""
    split, w, along = Split(np.array([[1, 1], [3, 0]])), np.zeros(2), np.array([0.6, -0.8])
    slopes = np.array([1.0, 6.0, 2.0, 2.0, 2.0])  # class 0: 7/4 in the mean, class 1: 6, all: 2.6
    used = aggregate(split, np.array([[False]]), "FedAvg")
    moved = Quadratics(split, np.broadcast_to(np.eye(2), (5, 2, 2)), -slopes[:, None] * along)
    plain, first, second = checks.bias_checks(moved, used, w, *THEOREMS)
    kappa2, shift = 0.8 * 0.85**2 + 0.2 * 3.4**2, (3.5 - (1.75 + 6) / 2) ** 2
    skew = kappa2 * (0.3**2 / 0.8 + 0.3**2 / 0.2)
    wanted = [skew, 2 * skew + 2 * shift, (skew**0.5 + shift**0.5) ** 2]
    sides = [(check.measured, check.bound) for check in (plain, first, second)]
    good = np.allclose(sides, [[0.9**2, bound] for bound in wanted]) and plain.status == "not applicable"
    good &= np.isclose(constants.kappa2(moved, w).value, kappa2)
    return bool(good and np.allclose(constants.delta2(moved, used, w)[:1], shift))


def _attack() -> bool:
    """The attack sees what a round of the same quadratics sees."""
    theorem_sides = []
    some = scalars.draw(np.random.default_rng(5), 3)
    for index in range(3):
        one = some.pick(index)
        split = Split(np.eye(3, dtype=int))
        object.__setattr__(split, "pooled", np.array([one["share"]]))
        hessian, centre = (np.array(one[name]) for name in ("curvature", "centre"))
        problem = Quadratics(split, hessian[:, None, None], centre[:, None], one["noise"])
        used = aggregation.Aggregation(split.participants, split.alpha, np.array([one["beta"]]))
        claimed = Constant("L", 1.0, "certified bound", "")
        known = replace(constants.constants_of(problem, used, Constant("F_inf", 0.0, "exact", "")), smoothness=claimed)
        for theorem in THEOREMS:
            gamma = theorem.step_limit(1.0, 3)
            outcome = problem.round(Point(np.zeros(1)), used.rows, used.beta, gamma, 3)
            both = checks.round_terms(outcome, used, known, gamma, 3, theorem)
            measured, bound = scalars.sides(some, theorem, 3)
            theorem_sides += [(measured[index], both["measured"][0]), (bound[index], both["bound"][0])]
    return all(np.isclose(*pair) for pair in theorem_sides)


def _unseen() -> bool:
    """5.8: attained at the minimum of what is seen; elsewhere by hand, in two dimensions."""
    at_rest, away, other = checks.unseen_class_checks(0.2, 3.0, np.array([[0.0, 0.0], [0.5, -1.0], [-0.5, 1.0]]))
    good = at_rest.status == "tight" and np.isclose(at_rest.bound, 0.75)
    return bool(good and np.allclose([away.bound, other.bound], (0.5 + 0.75**0.5) ** 2 + 1))


def _single_terms() -> bool:
    """I5, I6, 5.7 and 5.11 with numbers, all different."""
    distance = (1.7**0.5 + 2 * 0.3 * 2 * 0.6**0.5) ** 2 + 2 * 0.3**2 * 2 * 0.9
    errors = 2 * (1.7 * 0.6) ** 0.5 + 4 * 0.3 * 2 * 0.6 + 2 * 0.3 * 0.9
    stale = (0.6**0.5 + 1.3 * (0.2 * 3 + 0.8 * 5) + 0.4**0.5) ** 2
    control = (0.6**0.5 + 0.3 * 1.7 + 0.3 * 0.4) ** 2
    pairs = [
        (terms.convex_distance(1.7, 0.6, 0.9, 0.3, 2), distance),
        (terms.convex_errors(1.7, 0.6, 0.9, 0.3, 2), errors),
    ]
    pairs += [(terms.stale_bias(0.6, np.array([0.2, 0.8]), np.array([3.0, 5.0]), 1.3, 0.4), stale)]
    off = np.array([1.7, 0.4])
    pairs += [(terms.control_bias(0.6, np.array([0.2, 0.8]), np.array([0.5, 0.5]), off), control)]
    pairs += [(terms.unseen_class(0.2, 3.0), 0.75)]
    pairs += [(terms.contraction(0.3, 2, 0.7), 1 - 0.42)]
    return all(np.isclose(*pair, rtol=1e-12) for pair in pairs)


CHECKS: dict[str, Callable[[], bool]] = {
    "equality on isotropic quadratics": _tight,
    "bound written out again": _reference,
    "equality of S3": _noise_equality,
    "S5 and I4 under feature shift": _bias_with_shift,
    "equality of S5 for two classes": _kappa_equality,
    "step limits by hand": _limits,
    "S6, I5, I6 written out for two rounds": _along_a_run,
    "largest curvature by hand": _largest_curvature,
    "LoRA's smoothness by hand": _lora_by_hand,
    "mass of a missing class": _missing_mass,
    "F_inf at the stationary point": _minimum,
    "written-down instances attained": _written_down,
    "weights by hand": _weights,
    "constants by hand": _constants,
    "softmax's curvature attained": _softmax_curvature,
    "minibatch paths by hand": _paths_by_hand,
    "stale updates by hand": stale_by_hand,
    "bias of a mixture by hand": _bias_of_a_mixture,
    "the attack's sides are a round's": _attack,
    "estimates by hand": estimates_by_hand,
    "after the fact, by hand": after_the_fact,
    "single terms in numbers": _single_terms,
    "an unseen class, attained": _unseen,
    "a random model is a mean over models": random_model,
    "corrected steps by hand": corrected_by_hand,
    "control variates by hand": controls_by_hand,
    "a run of control variates by hand": run_of_controls_by_hand,
    "the worst network by recursion": luck_by_hand,
    "single realisations by hand": single_realisations_by_hand,
    "a head by hand": a_head_by_hand,
    "a round taken apart": a_round_taken_apart,
    "a network after the fact, by hand": a_network_after_the_fact,
    "programs' expressions by hand": expressions_by_hand,
    "largest smooth function by hand": largest_smooth_function,
}
if exact.available():
    CHECKS["programs with known answers"] = programs_with_known_answers
