"""fedauto_core.theory.proof.first: every proof step holds, and holds only with the theorem's own numbers."""

from dataclasses import replace
from fractions import Fraction

import pytest
import sympy as sp

from fedauto_core import InputError
from fedauto_core.theory import GENERAL, PROOFS, SINGLE_STEP, Proof, prove
from fedauto_core.theory.proof import first as proof


@pytest.mark.parametrize("step", PROOFS)
def test_proof_step_holds(step):
    assert PROOFS[step]().holds


@pytest.mark.parametrize("factor", [Fraction(9, 10), Fraction(11, 10)])
@pytest.mark.parametrize(
    ("step", "numbers", "name"),
    [
        (proof.one_round, GENERAL, "step"),
        (proof.one_round, GENERAL, "bias"),
        (proof.one_round, GENERAL, "drift"),
        (proof.one_round, GENERAL, "noise"),
        (proof.one_round, SINGLE_STEP, "step"),
        (proof.one_round, SINGLE_STEP, "bias"),
        (proof.one_round, SINGLE_STEP, "noise"),
        (proof.drift, GENERAL, "step"),
        (proof.drift, GENERAL, "drift_noise"),
        (proof.drift, GENERAL, "drift_gradient"),
        (proof.best_lambda, GENERAL, "bias"),
        (proof.telescoping, GENERAL, "noise"),
        (proof.telescoping, SINGLE_STEP, "noise"),
    ],
)
def test_a_changed_number_is_noticed(step, numbers, name, factor):
    mutant = replace(numbers, **{name: getattr(numbers, name) * factor})
    assert step(numbers).holds and not step(mutant).holds


@pytest.mark.parametrize("terms", [2, 3, 6])
def test_jensen_for_several_lengths(terms):
    assert proof.jensen(terms).holds


def test_a_proof_with_a_residual_does_not_hold():
    x = sp.Symbol("x")
    assert Proof("", "", ((x + 1) ** 2 - x**2 - 2 * x - 1,)).holds
    assert not Proof("", "", (sp.Integer(0), x)).holds


def test_prove_lists_the_remainders_and_refuses_what_is_unknown_or_false(monkeypatch):
    frame = prove("S2 polarisation", "S4 drift")
    assert frame["remainders"].tolist() == ["0", "0, 0, 0, 0"]
    with pytest.raises(InputError, match=r"unknown proof step 'S7'.*S1 descent lemma"):
        prove("S7")
    monkeypatch.setitem(PROOFS, "S7", lambda: Proof("S7", "false", (sp.Integer(1),)))
    with pytest.raises(ArithmeticError, match="S7 is not certified"):
        prove("S7")
