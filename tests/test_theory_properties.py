"""Every inequality over random instances: dimension, N, C, counts, curvature, noise, E, gamma, rule, arrival sets."""

import numpy as np
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from theory_cases import everything_arrives, tiny_quadratics

from fedauto_core import theory
from fedauto_core.theory import FIRST, IMPROVED, THEOREMS, Point, Split
from fedauto_core.theory.bound import terms
from fedauto_core.theory.proof.first import GAMMA, LOCAL, L

THOROUGH = settings(deadline=None, derandomize=True, max_examples=120)


@st.composite
def splits(draw):
    """Label counts [N+1, C] with somebody in every row."""
    clients, classes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rows = st.lists(st.integers(0, 4), min_size=classes, max_size=classes).filter(any)
    return Split(np.array(draw(st.lists(rows, min_size=clients + 1, max_size=clients + 1))))


@st.composite
def problems(draw, lowest=-1.0):
    """Quadratics of a split, F bounded below."""
    split = draw(splits())
    problem = theory.random_quadratics(
        draw(st.integers(0, 10_000)),
        split,
        dimension=draw(st.integers(1, 4)),
        curvature=(draw(st.floats(lowest, 0.5)), 1.0),
        feature_shift=draw(st.sampled_from([0.0, 0.3, 2.0])),
        noise=draw(st.sampled_from([0.0, 0.1, 3.0])),
    )
    (hessian,), _, _ = problem.mix(split.pooled)
    low = np.linalg.eigvalsh(hessian)[0]
    if low < 0.01:  # one more bowl for everybody: F is bounded below, single participants may still not be
        raised = problem.hessian + (0.05 - low) * np.eye(problem.dimension)
        problem = theory.Quadratics(split, raised, problem.centre, problem.noise)
    return problem


CASE = {
    "rule": st.sampled_from(["FedAvg", "FedAuto"]),
    "steps": st.integers(1, 8),
    "part": st.floats(0.01, 1.0),
    "far": st.floats(0, 5),
    "lam": st.sampled_from([1e-4, 0.1, 10.0]),
}


@THOROUGH
@given(problem=problems(), **CASE)
def test_no_instance_breaks_an_inequality_of_a_round(problem, rule, steps, part, far, lam):
    used = theory.aggregate(problem.split, theory.arrival_sets(problem.split.n_clients), rule, lam)
    known, point = theory.constants_of(problem, used), Point(np.full(problem.dimension, far))
    smoothness = known.smoothness.value
    gamma, longer = (part * theorem.step_limit(smoothness, steps) for theorem in THEOREMS)
    checks = theory.bias_checks(problem, used, point.mean, *THEOREMS)
    for theorem, step in ((FIRST, gamma), (IMPROVED, longer)):
        checks += theory.round_checks(problem, used, known, point, step, steps, theorem)
        checks += theory.drift_checks(problem, used, known, point, step, steps, theorem)
    assert [check for check in checks if check.status == "violated"] == []
    named = {check.name for check in checks if check.status != "not applicable"}
    assert {
        f"round, E = {steps}",
        f"improved round, E = {steps}",
        "S4 drift",
        "I3 drift",
        "S5 bias",
        "I4 bias",
    } <= named


@THOROUGH
@given(problem=problems(), seed=st.integers(0, 10_000), spread=st.sampled_from([0.0, 0.1, 3.0]), **CASE)
def test_no_stale_update_breaks_its_bound(problem, seed, spread, rule, steps, part, far, lam):
    used = theory.aggregate(problem.split, theory.arrival_sets(problem.split.n_clients), rule, lam)
    known, w = theory.constants_of(problem, used), np.full(problem.dimension, far)
    starts = w + spread * np.random.default_rng(seed).normal(size=(len(used.rows), problem.dimension))
    gamma = part / known.smoothness.value
    checks = theory.stale_checks(problem, used, known, w, starts, gamma)
    assert {check.status for check in checks} <= {"tight", "valid"}
    too_large = theory.stale_checks(problem, used, known, w, starts, 1.01 / known.smoothness.value)
    assert {c.status for c in too_large if c.name.startswith("stale step")} == {"not applicable"}


def test_the_bias_of_a_stale_update_by_hand():
    """F_0 = (w-1)^2/2 and F_1 = 3(w+1)^2/2, F = (F_0 + F_1)/2, L = 3. At w = 2 the slopes are 1, 9 and 5; client 1's
    from w = 0 is 3. With weights 1/2 b_r = 0 and |5 - (1 + 3)/2|^2 = 9 = (3 * 2 / 2)^2: the bound is attained. Without
    the distance it would be 0."""
    problem = tiny_quadratics(0.0)
    used = everything_arrives(problem.split)
    known = theory.constants_of(problem, used)
    stale, _ = theory.stale_checks(problem, used, known, np.array([2.0]), np.array([[2.0], [0.0]]), 0.1)
    assert (stale.measured, stale.bound, stale.status) == (9.0, 9.0, "tight")


@THOROUGH
@given(problem=problems(lowest=0.0), trace=st.lists(st.integers(0, 15), min_size=1, max_size=8), **CASE)
def test_no_run_breaks_a_summed_inequality(problem, trace, rule, steps, part, far, lam):
    sets = theory.arrival_sets(problem.split.n_clients)
    used = theory.aggregate(problem.split, sets[np.array(trace) % len(sets)], rule, lam)
    known, start = theory.constants_of(problem, used), Point(np.full(problem.dimension, far))
    gamma = part * FIRST.step_limit(known.smoothness.value, steps)
    rounds = theory.run_rounds(problem, used, start, gamma / 8, steps)
    checks = theory.convex_checks(problem, rounds, known, gamma / 8, steps)
    for theorem in THEOREMS:
        run, _ = theory.trajectory(problem, used, known, start, gamma, steps, theorem)
        checks += theory.summed_checks(run, known, gamma, steps, theorem)
    strength = np.linalg.eigvalsh(problem.mix(problem.split.pooled)[0])[0, 0]
    checks += theory.polyak_checks(run, known, gamma, steps, strength)
    assert [check for check in checks if check.status == "violated"] == []
    assert {"I5 PL", "I6 convex", "I6 convex, by recursion"} <= {c.name for c in checks if c.status != "not applicable"}


def test_the_code_of_the_improved_theorem_is_what_the_symbols_say():
    """a_e, c_e, c_r of the code against the expressions that `theory.proof.improved` certifies, in rational numbers."""
    values = {GAMMA: sp.Rational(3, 40), L: sp.Rational(7, 5)}
    steps = 6
    a, c = terms.drift_factors(0.075, 1.4, steps)
    for e in range(steps):
        stated = ((1 + GAMMA * L) ** e - 1) / L
        summed = sum(GAMMA * (sp.sqrt(k) - sp.sqrt(k - 1)) * (1 + GAMMA * L) ** (e - k) for k in range(1, e + 1))
        np.testing.assert_allclose([a[e], c[e]], [float(sp.sympify(x).subs(values)) for x in (stated, summed)])
    total = sum(sp.sqrt(e) * sp.Float(spread, 30) for e, spread in enumerate(c))
    stated = sp.Rational(1, 2) + L / LOCAL * total
    by_symbols = float(stated.subs(values | {LOCAL: steps}))
    np.testing.assert_allclose(terms.noise_factor(0.075, 1.4, steps), by_symbols, rtol=1e-14)
