"""Adversary, exact worst cases, bent assumptions, mutants: each finds what is there and nothing else."""

import numpy as np
import pytest

from fedauto_core import InputError
from fedauto_core.theory import certificates, falsification, mutation, scalars

FEW = {"tries": 4000, "generations": 4}


def test_the_adversary_finds_the_equality_for_one_step():
    worst = scalars.adversary("first", 1, seed=0, generations=40)
    assert 0.99 < worst.ratio <= 1 + 1e-9 and worst.tried > 1000
    again = scalars.adversary("first", 1, seed=0, generations=40)
    assert worst == again
    with pytest.raises(InputError, match="0 participants"):
        scalars.adversary("first", 1, seed=0, participants=0)
    with pytest.raises(InputError, match="unknown theorem 'second'"):
        scalars.adversary("second", 1, seed=0)


BENT = [bend for bend in falsification.BENDS if bend.needed and bend.how != "they sum to two"]  # E > 1: in notebook 22


@pytest.mark.parametrize("bend", BENT, ids=lambda bend: bend.how)
def test_a_bent_assumption_breaks_the_first_theorem(bend):
    worst = falsification.falsify(bend, 1, seed=0, **FEW)["first"]
    assert worst is not None and worst.measured > worst.bound and worst.instance


@pytest.mark.parametrize("how", ["the theorem as it stands", "they sum to a half"])
def test_what_is_not_needed_survives_the_same_attack(how):
    (bend,) = [b for b in falsification.BENDS if b.how == how]
    for steps in (1, 4):
        assert set(falsification.falsify(bend, steps, seed=1, **FEW).values()) == {None}


def test_a_counterexample_can_be_repeated_from_its_numbers():
    (bend,) = [b for b in falsification.BENDS if b.assumption == "A3 variance"]
    worst = falsification.falsify(bend, 1, seed=0, **FEW)["first"]
    one = scalars.Scalars(*(np.array([worst.instance[f]]) for f in ("curvature", "centre", "share", "beta", "noise")))
    world = scalars.World(**{f: worst.instance[f] for f in scalars.World.__dataclass_fields__})
    measured, bound = scalars.sides(one, worst.instance["theorem"], worst.instance["steps"], world)
    assert measured[0] == pytest.approx(worst.measured) and bound[0] == pytest.approx(worst.bound)
    assert worst.instance["gamma"] == scalars.step_size("first", 1, world)


def test_every_check_passes_on_the_code_as_it_is():
    assert {name: check() for name, check in mutation.CHECKS.items()} == dict.fromkeys(mutation.CHECKS, True)


@pytest.mark.parametrize("mutant", mutation.MUTANTS, ids=lambda m: m.name)
def test_every_mutant_is_caught_and_leaves_no_trace(mutant):
    assert mutation.caught_by(mutant) is not None
    assert all(check() for check in mutation.CHECKS.values())


@pytest.mark.parametrize("case", mutation.COEFFICIENT_MUTANTS, ids=lambda case: case[0])
def test_every_wrong_number_stops_the_proof(case):
    assert mutation.coefficient_caught_by(*case[1:]) is not None


def test_a_mutant_names_a_piece_that_occurs_once():
    with pytest.raises(InputError, match="the piece occurs 0 times"):
        mutation.caught_by(mutation.Mutant(mutation.bounds, "noise_bound", "no such text", ""))


TWO = ([[0.5, 0.5]], [0.5, 0.5])


def test_exact_worst_cases_are_above_what_the_adversary_finds_and_below_one():
    for steps, gamma in ((1, 1.0), (2, 0.25), (3, 1 / 6)):
        for improved in (False, True):
            exact = certificates.exact_ratio(*TWO, gamma, steps, improved).ratio
            assert exact <= 1 + 1e-4 and (steps > 1 or exact > 0.999)
    absent = certificates.exact_ratio([[1.0, 0.0]], [0.5, 0.5], 0.25, 2, True)
    assert absent.ratio > 0.999  # all that arrive are stationary, the absent one is not
    single = certificates.exact_ratio([[1.0]], [1.0], 0.25, 2, True)
    first = certificates.exact_ratio([[1.0]], [1.0], 0.25, 2, False)
    assert first.ratio < single.ratio <= 1 + 1e-4
    assert single.points[0] == 0 < single.points[1] and single.values[0] > single.values[1]


def test_exact_worst_case_notices_a_bound_that_is_too_small():
    assert certificates.worst_case([[1.0, 0.0]], [0.5, 0.5], 1.0, 1, bend=0.9).ratio > 1.001
    assert certificates.worst_case([[1.0, 0.0]], [0.5, 0.5], 1.0, 1, bend=1.0).ratio <= 1 + 1e-4


def test_several_rounds_are_no_worse_than_their_sum():
    turns = [[1.0, 0.0], [0.0, 1.0]]
    assert certificates.worst_case(turns, [0.5, 0.5], 0.25, 2).ratio <= 1 + 1e-4


def test_programs_that_are_too_large_and_a_missing_extra_are_refused(monkeypatch):
    with pytest.raises(InputError, match=r"20 participants with 3 steps in 1 rounds make a Gram matrix of \d+ rows"):
        certificates.worst_case([[0.05] * 20], [0.05] * 20, 0.1, 3)
    monkeypatch.setattr(certificates, "available", lambda: False)
    with pytest.raises(InputError, match=r"pip install -e '\.\[certificates\]'"):
        certificates.worst_case(*TWO, 0.1, 1)
