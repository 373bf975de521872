"""Adversary, exact worst cases, bent assumptions, mutants: each finds what is there and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from fedauto_core import InputError, theory
from fedauto_core.theory import FIRST, IMPROVED, THEOREMS
from fedauto_core.theory.attack import bent_steps, bent_theorem, exact, mutation, scalars, search
from fedauto_core.theory.bound import terms

TWO = ([[0.5, 0.5]], [0.5, 0.5])
FEW = {"tries": 4000, "generations": 4}


def test_the_adversary_finds_the_equality_for_one_step():
    worst = scalars.adversary(FIRST, 1, seed=0, generations=40)
    assert 0.99 < worst.ratio <= 1 + 1e-9 and worst.tried > 1000
    again = scalars.adversary(FIRST, 1, seed=0, generations=40)
    assert worst == again
    with pytest.raises(InputError, match="participants = 0"):
        scalars.adversary(FIRST, 1, seed=0, participants=0)


@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
def test_the_adversary_of_arrival_sets_comes_close_and_its_instance_can_be_repeated(rule):
    worst = search.set_adversary(rule, FIRST, 1, seed=0, clients=2, classes=2, generations=12)
    assert 0.9 < worst.ratio <= 1 and worst.tried % 4 == 0
    case = worst.instance
    split = theory.Split(np.array(case["counts"]))
    h, u = (np.array(case[name])[split.label] for name in ("curvature", "centre"))
    problem = theory.Quadratics(split, h[:, None, None], u[:, None], case["noise"])
    arrived = np.isin(np.arange(1, 3), case["arrive"])[None]
    used = theory.aggregate(split, arrived, rule)
    everybody = theory.aggregate(split, theory.arrival_sets(2), rule)  # L is that of all participants there may be
    smoothness = max(problem.smoothness(np.vstack([everybody.rows, split.pooled])))
    assert case["gamma"] <= FIRST.step_limit(smoothness, 1)
    outcome = problem.round(theory.Point(np.zeros(1)), used.rows, used.beta, case["gamma"], 1)
    known = theory.Constants(
        theory.Constant("L", smoothness, "exact", ""),
        theory.Constant("sigma^2", problem.sigma2, "exact", ""),
        search.ANY,
    )
    terms = theory.round_terms(outcome, used, known, case["gamma"], 1)
    assert terms["measured"][0] == pytest.approx(worst.measured) and terms["bound"][0] == pytest.approx(worst.bound)


def test_the_adversary_of_arrival_sets_refuses_what_it_cannot_search():
    with pytest.raises(InputError, match="unknown aggregation method 'FedProx'"):
        search.set_adversary("FedProx", FIRST, 1, seed=0)
    with pytest.raises(InputError, match="clients = 0"):
        search.set_adversary("FedAvg", FIRST, 1, seed=0, clients=0)


def test_a_single_step_breaks_right_beyond_its_limit_and_more_steps_later():
    factors = np.array([0.5, 1.0, 1.1, 3.0])
    one, two = (scalars.breaking_steps(FIRST, steps, factors, seed=0, tries=4000) for steps in (1, 2))
    assert not one[:2].any() and one[2] > 0 and one[3] > one[2]
    assert not two[:2].any()


@pytest.mark.parametrize("step", bent_steps.STEP_BENDS, ids=lambda s: f"{s.inequality}: {s.assumption}")
def test_a_single_inequality_stands_as_stated_and_falls_where_expected(step):
    assert not step.stated().ratio > 1
    found = step.broken()
    assert (found is not None) == step.needed
    if found:
        assert found.measured > found.bound and found.instance


def test_the_instances_of_the_improved_steps_are_equalities():
    tight = (
        "I3 drift",
        "I4 bias",
        "LoRA smoothness",
        "S1 descent",
        "S3 noise",
        "S5 bias",
        "S6 summed",
        "missing class",
    )
    for step in bent_steps.STEP_BENDS:
        if step.inequality in tight and "past noise" not in step.how:
            assert step.stated().ratio == pytest.approx(1, abs=1e-5)


def test_a_violation_at_any_of_three_theta_is_seen(monkeypatch):
    """The search must not stop at a ratio that the theorem allows: it would assume what it is to test."""
    case = exact.worst_case(*TWO, 0.25, 2)
    ratios = {0.001: 0.9995, 0.3: 1.5, 3.0: 0.5}
    monkeypatch.setattr(exact, "improved_at", lambda theta: theta)
    monkeypatch.setattr(exact, "worst_case", lambda *args: replace(case, ratio=ratios[args[-1]]))
    assert exact.exact_ratio(*TWO, 0.25, 2, IMPROVED).ratio == 1.5


BENT = [bend for bend in bent_theorem.BENDS if bend.needed and bend.how != "they sum to two"]  # E > 1: in notebook 24


@pytest.mark.parametrize("bend", BENT, ids=lambda bend: bend.how)
def test_a_bent_assumption_breaks_the_first_theorem(bend):
    worst = bent_theorem.falsify(bend, FIRST, 1, seed=0, **FEW)
    assert worst is not None and worst.measured > worst.bound and worst.instance


@pytest.mark.parametrize("how", ["the theorem as it stands", "they sum to a half"])
def test_what_is_not_needed_survives_the_same_attack(how):
    (bend,) = [b for b in bent_theorem.BENDS if b.how == how]
    for steps in (1, 4):
        assert [bent_theorem.falsify(bend, theorem, steps, seed=1, **FEW) for theorem in THEOREMS] == [None, None]


def test_a_counterexample_can_be_repeated_from_its_numbers():
    (bend,) = [b for b in bent_theorem.BENDS if b.assumption == "A3 variance"]
    worst = bent_theorem.falsify(bend, FIRST, 1, seed=0, **FEW)
    one = scalars.Scalars(*(np.array([worst.instance[f]]) for f in ("curvature", "centre", "share", "beta", "noise")))
    world = scalars.World(**{f: worst.instance[f] for f in scalars.World.__dataclass_fields__})
    measured, bound = scalars.sides(one, FIRST, worst.instance["steps"], world)
    assert measured[0] == pytest.approx(worst.measured) and bound[0] == pytest.approx(worst.bound)
    assert worst.instance["gamma"] == scalars.step_size(FIRST, 1, world)


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.name)
def test_an_adversary_sees_the_same_bits_as_the_formulas_in_bulk(theorem):
    for steps, world in (
        (1, scalars.World()),
        (5, scalars.World(common_noise=True)),
        (3, scalars.World(noise_mean=1.0)),
    ):
        worst = scalars.adversary(theorem, steps, 0, world, generations=2)
        fields = ("curvature", "centre", "share", "beta", "noise")
        twice = scalars.Scalars(*(np.array([worst.instance[field]] * 2) for field in fields))
        world = scalars.World(**{name: worst.instance[name] for name in scalars.World.__dataclass_fields__})
        measured, bound = scalars.sides(twice, theorem, steps, world)
        assert measured.tolist() == [worst.measured] * 2 and bound.tolist() == [worst.bound] * 2


def test_every_check_passes_on_the_code_as_it_is():
    assert {name: check() for name, check in mutation.CHECKS.items()} == dict.fromkeys(mutation.CHECKS, True)


MADE = [mutant for function in mutation.TARGETS for mutant in mutation.mutants_of(function)]


def test_the_generator_makes_every_kind_of_slip():
    made = {mutant.what.partition(": ")[2] for mutant in mutation.mutants_of(terms.missing_class)}
    assert made == {
        "mass / (1 - mass) -> mass * (1 - mass)", "1 - mass -> 1 + mass", "1 - mass -> 1", "1 - mass -> mass",
        "1 -> 1.1", "1 -> 0.9", "mass < 1 -> mass > 1",
    }  # fmt: skip
    assert len(MADE) > 500 and len({mutant.function for mutant in MADE}) == len(mutation.TARGETS)


def test_a_sample_of_mutants_is_caught_and_leaves_no_trace():
    sample = MADE[::12]
    noticed = [mutation.caught_by(mutant) is not None for mutant in sample]
    assert np.mean(noticed) > 0.85
    assert all(check() for check in mutation.CHECKS.values())


def test_an_error_of_a_tenth_is_noticed_in_every_function_of_terms():
    of_terms = [m for m in MADE if m.function.__module__.endswith("bound.terms") and m.what[-1].isdigit()]
    sample = [m for m in of_terms if m.what.rpartition("-> ")[2].replace(".", "", 1).isdigit()][::3]
    assert len(sample) > 15 and [m.what for m in sample if mutation.caught_by(m) is None] == []


def bias_without_its_factor(skew, shift):
    return skew + shift


def kappa2_of_equal_classes(problem, w):
    by_class = problem.gradients(problem.split.classes(), w) - problem.gradients(problem.split.pooled, w)
    return Constant("kappa^2", float(np.mean(np.sum(by_class**2, axis=1))), "exact", "")  # noqa: F821


def constants_without_m(problem, aggregation, infimum=None):
    how, rows = problem.provenance, np.vstack([problem.split.participants, problem.split.pooled])
    infimum = infimum or Constant("F_inf", problem.infimum(), *how["F_inf"])  # noqa: F821
    smoothness = Constant("L", float(max(problem.smoothness(rows))), *how["L"])  # noqa: F821
    return Constants(smoothness, Constant("sigma^2", problem.sigma2, *how["sigma^2"]), infimum)  # noqa: F821


def softmax_of_a_quarter(self, rows):
    roots = (np.sqrt(row[row > 0])[:, None] * self.features[row > 0] for row in rows)
    return 0.25 * np.array([np.linalg.norm(root, ord=2) ** 2 for root in roots]) + 2.0 * self.regulariser


def regulariser_of_one(self, rows):
    roots = (np.sqrt(row[row > 0])[:, None] * self.features[row > 0] for row in rows)
    return 0.5 * np.array([np.linalg.norm(root, ord=2) ** 2 for root in roots]) + 1.0 * self.regulariser


def unweighted_target(self):
    return self.alpha.mean(axis=0)


def doubled_terms(self, bias2, drift, sigma2, beta2, gamma, smoothness, steps):
    errors = self.errors(bias2, drift, smoothness, steps)
    noise = self.noise(sigma2, beta2, gamma, smoothness, steps)
    return {name: gamma * steps * error for name, error in errors.items()} | {"noise": 2 * noise}


SLIPS = {
    terms.first_bias: (bias_without_its_factor,),
    theory.kappa2: (kappa2_of_equal_classes,),
    theory.constants_of: (constants_without_m,),
    theory.SoftmaxRegression.smoothness: (softmax_of_a_quarter, regulariser_of_one),
    theory.Split.target.fget: (unweighted_target,),
    theory.Theorem.terms: (doubled_terms,),
}


@pytest.mark.parametrize(("right", "wrong"), [(right, w) for right, some in SLIPS.items() for w in some])
def test_slips_that_no_check_of_an_earlier_list_noticed(right, wrong):
    assert mutation.caught_by(mutation.Mutant(right, wrong.__code__, "")) is not None


@pytest.mark.parametrize("case", mutation.COEFFICIENT_MUTANTS, ids=lambda case: case[0])
def test_every_wrong_number_stops_the_proof(case):
    assert mutation.coefficient_caught_by(*case[1:]) is not None


def test_exact_worst_cases_are_above_what_the_adversary_finds_and_below_one():
    for steps, gamma in ((1, 1.0), (2, 0.25), (3, 1 / 6)):
        for theorem in THEOREMS:
            ratio = exact.exact_ratio(*TWO, gamma, steps, theorem).ratio
            assert ratio <= 1 + 1e-4 and (steps > 1 or ratio > 0.999)
    absent = exact.exact_ratio([[1.0, 0.0]], [0.5, 0.5], 0.25, 2, IMPROVED)
    assert absent.ratio > 0.999  # all that arrive are stationary, the absent one is not
    single = exact.exact_ratio([[1.0]], [1.0], 0.25, 2, IMPROVED)
    first = exact.exact_ratio([[1.0]], [1.0], 0.25, 2, FIRST)
    assert first.ratio < single.ratio <= 1 + 1e-4
    place, _, value = single.visits[0].T
    assert np.all(np.diff(place) > 0) and np.all(np.diff(value) < 0) and single.off_line < 1e-3


def test_the_worst_loss_is_drawn_through_all_that_was_asked_of_it():
    """A zigzag that a parabola cannot follow: values and slopes are met, and the curvature stays within L."""
    x = np.linspace(-2, 3, 4001)
    for visits in (
        exact.worst_case([[1.0]], [1.0], 0.25, 2).visits[0],
        np.array([[0.0, 0.0, 0.0], [1.0, 0.5, 0.1]]),  # x^2/2 would have slope 1 at 1
    ):
        drawn = exact.smooth_interpolant(visits, x)
        np.testing.assert_allclose(np.interp(visits[:, 0], x, drawn), visits[:, 2], atol=1e-5)
        np.testing.assert_allclose(np.interp(visits[:, 0], x, np.gradient(drawn, x)), visits[:, 1], atol=2e-3)
        coarse = drawn[::40]
        assert np.abs(np.diff(coarse, 2) / (x[40] - x[0]) ** 2).max() <= 1 + 1e-3


def test_exact_worst_case_notices_a_bound_that_is_too_small():
    assert exact.worst_case([[1.0, 0.0]], [0.5, 0.5], 1.0, 1, bend=0.9).ratio > 1.001
    assert exact.worst_case([[1.0, 0.0]], [0.5, 0.5], 1.0, 1, bend=1.0).ratio <= 1 + 1e-4


def test_several_rounds_are_no_worse_than_their_sum():
    turns = [[1.0, 0.0], [0.0, 1.0]]
    assert exact.worst_case(turns, [0.5, 0.5], 0.25, 2).ratio <= 1 + 1e-4


def test_programs_that_are_too_large_and_a_missing_extra_are_refused(monkeypatch):
    with pytest.raises(InputError, match=r"size of the Gram matrix of 20 participants with 3 steps in 1 rounds = \d+"):
        exact.worst_case([[0.05] * 20], [0.05] * 20, 0.1, 3)
    monkeypatch.setattr(exact, "available", lambda: False)
    with pytest.raises(InputError, match=r"pip install -e '\.\[certificates\]'"):
        exact.worst_case(*TWO, 0.1, 1)
