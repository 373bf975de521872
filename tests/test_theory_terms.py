"""The error terms stand once: all who state them, in arrays, programs or estimates, say the same numbers."""

from dataclasses import replace

import numpy as np
import pytest

from fedauto_core import theory
from fedauto_core.theory import FIRST, IMPROVED, THEOREMS, Point, Split
from fedauto_core.theory.attack import exact, scalars

each_theorem = pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.name)
each_e = pytest.mark.parametrize("steps", [1, 2, 5])
SHARE, BETA = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.7, 0.1])
CURVATURE, CENTRE = np.array([0.9, -0.4, 0.3]), np.array([1.0, -2.0, 0.7])
GRADIENT = -CURVATURE * CENTRE
BIAS2, GRADIENT2 = float((SHARE @ GRADIENT - BETA @ GRADIENT) ** 2), GRADIENT**2


def by_hand(theorem, sigma2, gamma, steps, smoothness=1.0):
    """bias or error, drift and noise, in the units of F, with loops: docs/method.md section 5 and `bound.improved`."""
    drift = noise = 0.0
    for weight, gradient2 in zip(BETA, GRADIENT2, strict=True):
        noise += weight * weight * sigma2 * smoothness * gamma * gamma * steps
        if theorem is FIRST:
            squares = 4 / 3 * (2 * steps - 1) * gradient2 + 2 * sigma2
            drift += weight * gamma * gamma * (steps - 1) * squares
        else:
            path = [0.0]  # s_e = gamma (sqrt(e) sigma + e g + L sum_{k<e} s_k), with equality
            for e in range(1, steps):
                path.append(gamma * (e**0.5 * sigma2**0.5 + e * gradient2**0.5 + smoothness * sum(path)))
            drift += weight * sum(s * s for s in path) / steps
    half = gamma * steps / 2
    if steps == 1:
        return {"bias": half * BIAS2, "drift": 0.0, "noise": noise / 2}
    if theorem is FIRST:
        return {"bias": half * 2 * BIAS2, "drift": half * 2 * smoothness**2 * drift, "noise": noise}
    error = half * (BIAS2**0.5 + smoothness * drift**0.5) ** 2
    deviation = [0.0]  # of the noisy path from the one without noise: the same recursion for g = 0, sigma = 1
    for e in range(1, steps):
        deviation.append(gamma * (e**0.5 + smoothness * sum(deviation)))
    factor = 1 / 2 + smoothness / steps * sum(e**0.5 * c for e, c in enumerate(deviation))
    return {"bias": error, "drift": 0.0, "noise": factor * noise}


def scalar_problem(noise):
    """The same participants as a split problem: one sample each, F weighs them by SHARE."""
    split = Split(np.eye(3, dtype=int))
    object.__setattr__(split, "pooled", SHARE[None])
    return theory.Quadratics(split, CURVATURE[:, None, None], CENTRE[:, None], noise)


@each_theorem
@each_e
@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_tables_attacks_games_and_estimates_agree(theorem, steps, noise):
    gamma = 0.8 * FIRST.step_limit(1.0, steps)
    parts = by_hand(theorem, noise**2, gamma, steps)
    wanted = pytest.approx(sum(parts.values()), rel=1e-12)

    # the round of a problem
    problem = scalar_problem(noise)
    used = theory.Aggregation(problem.split.participants, problem.split.alpha, BETA[None])
    known = replace(theory.constants_of(scalar_problem(0.0), used), sigma2=theory.Constant("", noise**2, "exact", ""))
    known = replace(known, smoothness=theory.Constant("L", 1.0, "exact", ""))
    outcome = problem.round(Point(np.zeros(1)), used.rows, used.beta, gamma, steps)
    table = theory.round_terms(outcome, used, known, gamma, steps, theorem)
    assert sum(table[name][0] for name in ("bias", "drift", "error", "noise") if name in table) == wanted
    assert table["noise"][0] == pytest.approx(parts["noise"])

    # instances in bulk
    one = (column[None] for column in (CURVATURE, CENTRE, SHARE, BETA))
    world = scalars.World(step=gamma / scalars.step_size(theorem, steps))
    measured, bound = scalars.sides(scalars.Scalars(*one, np.array([noise])), theorem, steps, world)
    assert bound[0] - table["progress"][0] == wanted and measured[0] == pytest.approx(table["measured"][0])

    # a network's game of one round and one set
    check = theory.worst_policy(problem, used, known, 0.0, gamma, steps, theorem, [np.arange(1)])
    assert check.bound - table["progress"][0] == wanted

    # the estimates of a network, which know sums over the participants only: here all have the same gradient
    found = {"L": 1.0, "sigma2": noise**2, "b": BIAS2, "gradients2": 0.7, "sum beta2": float(BETA @ BETA)}
    terms, half = theory.round_bound(found, gamma, steps), gamma * steps / 2
    drift = float(theorem.drift(noise**2, np.array([0.7]), gamma, 1.0, steps)[0])
    stated = theorem.terms(BIAS2, drift, noise**2, found["sum beta2"], gamma, 1.0, steps)
    names = {"bias": "bias", "drift": "drift", "error": "improved error"} | (
        {"noise": "noise"} if theorem is FIRST else {}
    )
    for name, value in stated.items():
        if name in names:
            assert half * terms[names[name]] == pytest.approx(float(value), rel=1e-12)
    assert stated["noise"] == pytest.approx(parts["noise"])


@each_e
@pytest.mark.parametrize("theorem", [FIRST, theory.improved_at(0.5)], ids=["first", "improved"])
def test_the_programs_are_given_the_same_errors(theorem, steps):
    """`exact._errors` is written for PEPit's expressions; numbers have the same algebra."""
    pytest.importorskip("PEPit")
    gamma = 0.8 * FIRST.step_limit(1.0, steps)
    told = exact._errors((SHARE @ GRADIENT, None, list(GRADIENT)), BETA, gamma, steps, theorem)
    if theorem is FIRST or steps == 1:
        parts = by_hand(FIRST, 0.0, gamma, steps)
        assert told * gamma * steps / 2 == pytest.approx(parts["bias"] + parts["drift"], rel=1e-12)
    else:  # never less than the improved error, and equal at the best theta
        drift = float(BETA @ IMPROVED.drift(0.0, GRADIENT2, gamma, 1.0, steps))
        best = (drift / BIAS2) ** 0.5
        assert told >= IMPROVED.errors(BIAS2, drift, 1.0, steps)["error"]
        least = theory.improved_at(best).errors(BIAS2, drift, 1.0, steps)["error"]
        assert least == pytest.approx(IMPROVED.errors(BIAS2, drift, 1.0, steps)["error"], rel=1e-12)


@each_theorem
def test_terms_and_their_total_agree_for_many_instances(theorem):
    rng = np.random.default_rng(0)
    bias2, gradient2, sigma2 = rng.random(7), rng.random((7, 4)), rng.random(7) * (np.arange(7) > 2)
    beta = rng.dirichlet(np.ones(4), 7)
    drift = np.sum(beta * theorem.drift(sigma2[:, None], gradient2, 0.1, 1.3, 3), axis=1)
    parts = theorem.terms(bias2, drift, sigma2, np.sum(beta**2, axis=1), 0.1, 1.3, 3)
    np.testing.assert_allclose(theorem.total(bias2, gradient2, sigma2, beta, 0.1, 1.3, 3), sum(parts.values()))
    assert set(parts) == ({"bias", "drift", "noise"} if theorem is FIRST else {"error", "noise"})
