"""Exact worst cases where the numbers of the program lie far apart: the right ratio, or a refusal."""

import math

import pytest

from fedauto_core.errors import InputError
from fedauto_core.theory.attack.exact import LEAST_STEP, worst_case
from fedauto_core.theory.bound.first import FIRST

EVERYBODY = ([[0.5, 0.5]], [0.5, 0.5])
FALSE = ([[1.0, 0.0]], [0.5, 0.5])


def test_a_small_step_gives_the_ratio_of_the_formula_and_finds_a_false_inequality():
    pytest.importorskip("PEPit")
    assert worst_case(*EVERYBODY, LEAST_STEP, 1).ratio == pytest.approx(1 / (2 - LEAST_STEP), rel=1e-4)
    assert worst_case(*FALSE, 10 * LEAST_STEP, 1, FIRST, 0.0).ratio == math.inf


@pytest.mark.parametrize("gamma", [1e-4, 1e-7, 1e-8, 0.0, -0.1, math.nan])
@pytest.mark.parametrize("case", [EVERYBODY, FALSE])
def test_a_smaller_step_is_refused_instead_of_answered_wrongly(case, gamma):
    with pytest.raises(
        InputError, match=rf"gamma = {gamma!r}\. Allowed: finite numbers >= 0\.001\. Remedy: take a larger"
    ):
        worst_case(*case, gamma, 1)
