"""fedauto_core.theory: the checks of the bound, their statuses, and what is refused."""

from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from theory_cases import N_CLIENTS, constant, everything_arrives, isotropic, quadratics, tiny_quadratics

from fedauto_core import InputError, theory
from fedauto_core.theory import FIRST, Check, Constants, Point, Quadratics, Round, Split
from fedauto_core.theory.bound import terms

# The per-round inequality


@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_no_violation_over_all_arrival_sets_on_quadratics(rule, steps, shift):
    for seed in range(2):
        problem = quadratics(seed, feature_shift=shift)
        weights = theory.aggregate(problem.split, theory.arrival_sets(N_CLIENTS), rule)
        known = theory.constants_of(problem, weights)
        limit = theory.FIRST.step_limit(known.smoothness.value, steps)
        for fraction, w in product((0.1, 1.0), (np.zeros(4), 3 * np.ones(4))):
            checks = theory.round_checks(problem, weights, known, Point(w), fraction * limit, steps)
            checks += theory.drift_checks(problem, weights, known, Point(w), fraction * limit, steps)
            checks += theory.bias_checks(problem, weights, w, FIRST)
            assert {check.status for check in checks} <= {"tight", "valid", "not applicable"}
            counts = theory.tally(theory.as_frame(checks)).set_index("name")
            assert counts.loc[f"round, E = {steps}", "not_applicable"] == 0
            assert counts.loc["S5 bias, no feature shift", "not_applicable"] == (256 if shift else 0)


@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
@pytest.mark.parametrize("regulariser", [0.0, 0.01])
def test_no_violation_over_all_arrival_sets_on_digits(rule, regulariser):
    problem = theory.softmax_regression(0, theory.skewed_split(0), regulariser)
    weights = theory.aggregate(problem.split, theory.arrival_sets(N_CLIENTS), rule)
    known = theory.constants_of(problem, weights)
    for steps in (1, 5):
        limit = theory.FIRST.step_limit(known.smoothness.value, steps)
        checks = theory.round_checks(problem, weights, known, Point(np.zeros(650)), limit, steps)
        assert {check.status for check in checks} == {"valid"}


def test_descent_lemma_is_tight_for_isotropic_quadratics_and_valid_for_digits():
    moves = np.random.default_rng(0).standard_normal((20, 650))
    for problem, w, status in (
        (isotropic(), np.ones(4), "tight"),
        (theory.softmax_regression(0, theory.skewed_split(0), 0.05), np.zeros(650), "valid"),
    ):
        known = theory.constants_of(problem, everything_arrives(problem.split))
        checks = theory.descent_checks(problem, known, w, moves[:, : len(w)])
        assert {check.status for check in checks} == {status}
    smaller = replace(known, smoothness=constant("L", 0.9))
    assert theory.descent_checks(isotropic(), smaller, np.ones(4), moves[:, :4])[0].status == "violated"


def test_single_step_bound_is_tight_and_notices_a_smaller_constant():
    problem = isotropic(noise=0.4)
    weights = theory.aggregate(problem.split, theory.arrival_sets(N_CLIENTS), "FedAvg")
    known, point = theory.constants_of(problem, weights), Point(np.full(4, 0.3))
    checks = theory.round_checks(problem, weights, known, point, 1.0, 1)
    assert {check.status for check in checks} == {"tight"}
    for name in ("bias", "noise"):
        mutant = replace(theory.SINGLE_STEP, **{name: getattr(theory.SINGLE_STEP, name) * Fraction(9, 10)})
        wrong = theory.first_theorem(single=mutant)
        mutated = theory.round_checks(problem, weights, known, point, 1.0, 1, wrong)
        assert "violated" in {check.status for check in mutated}


def test_general_bound_notices_a_missing_noise_term():
    problem = isotropic(noise=2.0)
    weights = everything_arrives(problem.split)
    known = theory.constants_of(problem, weights)
    minimum = np.linalg.solve(*(mix[0] for mix in problem.mix(problem.split.pooled)[:2]))
    mutant = theory.first_theorem(replace(theory.GENERAL, noise=Fraction(1, 10)))
    for theorem, status in ((FIRST, "valid"), (mutant, "violated")):
        (check,) = theory.round_checks(problem, weights, known, Point(minimum), 0.01, 2, theorem)
        assert check.status == status


def test_inadmissible_step_size_is_not_applicable_even_where_the_inequality_fails():
    problem = isotropic()
    weights = everything_arrives(problem.split)
    known = theory.constants_of(problem, weights)
    for steps in (1, 5):
        limit = theory.FIRST.step_limit(known.smoothness.value, steps)
        for factor in (1.01, 4.0):
            (check,) = theory.round_checks(problem, weights, known, Point(np.ones(4)), factor * limit, steps)
            assert check.status == "not applicable"
            (drift, *_) = theory.drift_checks(problem, weights, known, Point(np.ones(4)), factor * limit, steps)
            assert drift.status == ("not applicable" if steps > 1 else "valid")
    (check,) = theory.round_checks(problem, weights, known, Point(np.ones(4)), 4.0, 1)
    assert check.measured > check.bound


def test_step_limit_by_hand():
    assert theory.FIRST.step_limit(2.0, 1) == 0.5 and theory.FIRST.step_limit(2.0, 5) == 0.05


def test_terms_of_the_round_by_hand():
    problem = tiny_quadratics(noise=0.0)
    weights = everything_arrives(problem.split)  # beta = 1/2, 1/2
    known = Constants(constant("L", 2.0), constant("sigma^2", 0.5), constant("F_inf", 0.0))
    drift = FIRST.drift(0.5, np.array([3.0, 6.0]), 0.05, 2.0, 5)
    # gamma^2 (2 * 4 * 0.5 + 4/3 * 4 * 9 * |grad F_j|^2)
    assert drift == pytest.approx([0.0025 * (4 + 144), 0.0025 * (4 + 288)])
    outcome = Round(7.0, np.array([6.5]), 0.8, np.array([0.3]), np.array([3.0, 6.0]), np.zeros(2), ())
    found = {name: value[0] for name, value in theory.round_terms(outcome, weights, known, 0.05, 5).items()}
    # gamma E / 2 = 0.125; D_r = 0.55; L gamma^2 E sigma^2 sum beta^2 = 2 * 0.0025 * 5 * 0.5 * 0.5
    expected = {"measured": 0.1, "progress": 0.5, "bias": 0.075, "drift": 0.55, "noise": 0.00625, "bound": 1.13125}
    assert found == pytest.approx(expected)


def test_noise_bound_is_an_equality_for_additive_noise():
    problem = tiny_quadratics(noise=0.8)
    beta = np.array([[0.7, 0.3]])
    flat = Quadratics(problem.split, np.zeros((2, 1, 1)), problem.centre, 0.8)
    (after,) = flat.round(Point(np.zeros(1)), flat.split.participants, beta, 0.1, 3).after
    # Without curvature w_r - E w_r = gamma E (G - H).
    assert after.cov[0, 0] / (0.1 * 3) ** 2 == pytest.approx(terms.noise_bound(0.64, beta, 3)[0])


def test_bias_bound_by_hand():
    problem = tiny_quadratics(noise=0.0)
    weights = replace(everything_arrives(problem.split), beta=np.array([[0.7, 0.3]]))
    plain, general = theory.bias_checks(problem, weights, np.array([0.0]), FIRST)
    # F' = 1, 0.7 F_0' + 0.3 F_1' = 0.2; kappa^2 = 4, chi2 = 2 * 0.2^2 / 0.5.
    assert plain.measured == pytest.approx(0.64) and plain.bound == pytest.approx(4 * 0.16)
    assert plain.status == "tight" and general.status == "valid" and general.ratio == pytest.approx(0.5)


# Minibatch noise, whole runs


@pytest.mark.parametrize("steps", [1, 2])
def test_enumerated_minibatch_noise_keeps_every_bound(steps):
    problem = theory.softmax_regression(1, Split(np.array([[1, 1, 1], [3, 0, 0], [0, 2, 1]])), 0.01)
    for arrived in theory.arrival_sets(2):
        for rule in ("FedAvg", "FedAuto"):
            weights = theory.aggregate(problem.split, arrived[None], rule).pick(0)
            known = theory.constants_of(problem, weights)
            limit = theory.FIRST.step_limit(known.smoothness.value, steps)
            w = 0.1 * np.random.default_rng(0).standard_normal(65 * 3)
            checks, sigma2 = theory.enumerated_checks(problem, weights, known, w, limit, steps)
            assert {check.status for check in checks} <= {"tight", "valid"}
            assert 0 < sigma2.value <= 2 * np.max(np.sum(problem.features**2, axis=1))


def test_enumeration_of_a_single_sample_each_has_no_noise():
    problem = theory.softmax_regression(1, Split(np.array([[1, 0], [0, 1]])))
    weights = everything_arrives(problem.split)
    known = theory.constants_of(problem, weights)
    limit = theory.FIRST.step_limit(known.smoothness.value, 3)
    checks, sigma2 = theory.enumerated_checks(problem, weights, known, np.zeros(130), limit, 3)
    (full_batch,) = theory.round_checks(problem, weights, known, Point(np.zeros(130)), limit, 3)
    assert sigma2.value == 0
    assert (checks[-1].measured, checks[-1].bound) == pytest.approx((full_batch.measured, full_batch.bound))


TRACES = {
    "all": np.ones((12, N_CLIENTS), dtype=bool),
    "nobody": np.zeros((12, N_CLIENTS), dtype=bool),
    "half": np.tile(np.arange(N_CLIENTS) < 4, (12, 1)),
    "round robin": np.eye(N_CLIENTS, dtype=bool)[np.arange(12) % N_CLIENTS],
}


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
def test_summed_bound_along_runs(trace, rule):
    split = theory.skewed_split(0)
    for problem, w in (
        (theory.random_quadratics(0, split), 3 * np.ones(4)),
        (theory.softmax_regression(0, split, 0.01), np.zeros(650)),
    ):
        weights = theory.aggregate(split, TRACES[trace], rule)
        known = theory.constants_of(problem, weights)
        for steps in (1, 5):
            gamma = theory.FIRST.step_limit(known.smoothness.value, steps)
            run, _ = theory.trajectory(problem, weights, known, Point(w), gamma, steps)
            assert np.all(run["measured"] <= run["bound"])
            checks = theory.summed_checks(run, known, gamma, steps)
            assert len(checks) == 12 and {check.status for check in checks} == {"valid"}
            too_large = theory.summed_checks(run, known, 2 * gamma, steps)
            assert {check.status for check in too_large} == {"not applicable"}


def test_summed_bound_is_the_sum_of_the_rounds():
    problem = quadratics()
    weights = theory.aggregate(problem.split, TRACES["round robin"], "FedAuto")
    known = theory.constants_of(problem, weights)
    gamma = theory.FIRST.step_limit(known.smoothness.value, 5)
    run, _ = theory.trajectory(problem, weights, known, Point(np.ones(4)), gamma, 5)
    np.testing.assert_allclose(run["value_after"][:-1], run["value"][1:])
    last = theory.summed(run, known, gamma, 5).iloc[-1]
    left = run["value_after"].iloc[-1] - known.infimum.value
    assert last["bound"] == pytest.approx((run["bound"].sum() + left) * 2 / (gamma * 5 * 12))


# Statuses and bad input


@pytest.mark.parametrize(
    ("measured", "bound", "applicable", "status"),
    [
        (1.0, 2.0, True, "valid"),
        (2.0, 2.0, True, "tight"),
        (2.1, 2.0, True, "violated"),
        (float("nan"), 2.0, True, "violated"),
        (1.0, 2.0, False, "not applicable"),
        (3.0, 2.0, False, "not applicable"),
    ],
)
def test_status(measured, bound, applicable, status):
    assert Check.of("name", "equation", measured, bound, applicable).status == status


def test_rounding_is_forgiven_at_the_scale_of_what_was_subtracted_and_no_further():
    assert Check.of("name", "equation", 1e-16, 0.0, scale=1.0).status == "valid"
    assert Check.of("name", "equation", 1e-8, 0.0, scale=1.0).status == "violated"
    assert np.isnan(Check.of("name", "equation", 0.0, 0.0).ratio)
    assert Check.of("name", "equation", 1.0, 0.0).ratio == np.inf


def test_tally_by_hand():
    checks = [
        Check.of("a", "", m, 4.0, ok) for m, ok in ((1.0, True), (2.0, True), (5.0, True), (4.0, True), (9.0, False))
    ]
    row = theory.tally(theory.as_frame(checks, kind="k"), ["kind", "name"]).iloc[0]
    assert [row["kind"], row["name"]] == ["k", "a"]
    assert [row[c] for c in ("tried", "tight", "valid", "violated", "not_applicable")] == [5, 1, 2, 1, 1]
    assert [row["worst_ratio"], row["median_ratio"]] == [1.25, 0.75]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, w, k: theory.round_checks(p, w, k, Point(np.ones(4)), 0.1, 0), "E = 0.*integers >= 1"),
        (lambda p, w, k: theory.round_checks(p, w, k, Point(np.ones(4)), -0.1, 1), "gamma = -0.1.*numbers > 0"),
        (lambda p, w, k: theory.trajectory(p, w, k, Point(np.ones(4)), 0.1, 0), "E = 0"),
        (lambda p, w, k: theory.drift_checks(p, w, k, Point(np.ones(4)), float("nan"), 1), "gamma = nan"),
        (lambda p, w, k: replace(w, beta=w.beta * 1.1), "beta is not in the simplex.*divide the weights"),
        (lambda p, w, k: replace(w, beta=np.array([[1.5, -0.5] + 7 * [0.0]])), "beta is not in the simplex"),
        (lambda p, w, k: replace(p, noise=-1.0), "noise sigma = -1.0.*>= 0"),
        (lambda p, w, k: replace(k, sigma2=constant("sigma^2", -1.0)), r"sigma\^2 = -1.0"),
        (lambda p, w, k: replace(k, smoothness=constant("L", 0.0)), "smoothness L = 0.0"),
        (lambda p, w, k: replace(p, hessian=p.hessian + np.triu(np.ones((4, 4)), 1)), "not symmetric"),
        (lambda p, w, k: replace(p, hessian=-p.hessian).infimum(), "not bounded below"),
        (
            lambda p, w, k: theory.aggregate(p.split, np.ones((1, 9), dtype=bool), "FedAvg"),
            r"arrivals of shape \(1, 9\)",
        ),
        (
            lambda p, w, k: theory.aggregate(p.split, np.ones((1, 8), dtype=bool), "FedBest"),
            "unknown aggregation method 'FedBest'",
        ),
        (lambda p, w, k: Split(np.array([[0, 0], [1, 1]])), "at least one sample"),
        (lambda p, w, k: theory.skewed_split(0, n_clients=0), "n_clients = 0"),
        (lambda p, w, k: theory.softmax_regression(0, theory.skewed_split(0, per_class=100)), "samples of label"),
        (lambda p, w, k: theory.softmax_regression(0, p.split, regulariser=-1.0), "mu = -1.0"),
    ],
)
def test_bad_input_is_named(call, message):
    problem = quadratics()
    weights = everything_arrives(problem.split)
    known: Constants = theory.constants_of(problem, weights)
    with pytest.raises(InputError, match=message):
        call(problem, weights, known)


def test_enumeration_refuses_what_it_cannot_finish():
    problem = theory.softmax_regression(0, theory.skewed_split(0))
    weights = theory.aggregate(problem.split, theory.arrival_sets(N_CLIENTS), "FedAvg")
    known = theory.constants_of(problem, weights)
    with pytest.raises(InputError, match="aggregations to enumerate = 256"):
        theory.enumerated_checks(problem, weights, known, np.zeros(650), 0.01, 1)
    with pytest.raises(InputError, match="minibatch outcomes to enumerate"):
        theory.enumerated_checks(problem, weights.pick(255), known, np.zeros(650), 0.01, 1)
