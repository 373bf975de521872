"""Judges of formulas and functions: what is right in another form is right, and whatever goes wrong gets a sentence."""

import numpy as np
import pytest
import sympy as sp

from fedauto_core.teaching.books import n12, n20, n21, n22, n23, n24
from fedauto_core.teaching.judges import formula_is, function_is, numbers

x, y = sp.symbols("x y")
SQUARE = formula_is(lambda answer, x, y: answer - (x + y) ** 2, symbols="x y", hint="Multiply.", wrong=("x**2 + y**2",))
DOUBLE = function_is(
    lambda a: 2 * a, lambda rng: (rng.normal(),), expects="a function of a number", hint="Add.", wrong=(lambda a: a,)
)


@pytest.mark.parametrize(
    "answer", [(x + y) ** 2, x**2 + 2 * x * y + y**2, (x**2 - y**2) * (x + y) / (x - y), (x + y) ** 2.0]
)
def test_a_formula_is_right_in_every_form_and_with_symbols_of_any_kind(answer):
    assert SQUARE["judge"](answer) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [(x**2 + y**2, "Multiply."), ("(x + y)**2", "This asks for a SymPy expression in x, y, not for str."),
     (x + sp.Symbol("z"), "Use the symbols x, y only: z must go."), (sp.nan, "Multiply.")],
)  # fmt: skip
def test_another_formula_gets_a_sentence(answer, said):
    assert SQUARE["judge"](answer) == said


@pytest.mark.parametrize(
    ("answer", "said"),
    [(lambda a: a + a, None), (lambda a: np.float32(2 * a), None), (lambda a: 3 * a, "Add."),
     (lambda a: [2 * a], "This asks for a function of a number; yours returned list and not one number."),
     (lambda a: 1 / 0, "Your function ended in ZeroDivisionError (division by zero)."),
     (7, "This asks for a function of a number, not for int.")],
)  # fmt: skip
def test_a_function_is_tried(answer, said):
    judged = DOUBLE["judge"](answer)
    assert judged == said or (said is None and judged is None)


@pytest.mark.parametrize("answer", [[1, np.nan], [1, np.inf], [1], [[1, 2]], "ab", None, ["a", "b"], [[1], [1, 2]]])
def test_two_numbers_are_two_finite_numbers(answer):
    assert numbers([1, 2], (2,)).tolist() == [1.0, 2.0]
    assert numbers(answer, (2,)) is None


GAMMA, L, E, S, B, D, SMALL_E = sp.symbols("gamma L E s b D e")
RIGHT = [
    (n20, "20.2", GAMMA * S * (1 - L * GAMMA / 2), {}),
    (n20, "20.3", (L * GAMMA * E - sp.Rational(1, 2)) * GAMMA * E, {}),
    (n20, "20.5", [0.625, 0.375, 0.0], n20.book.exercises["20.5"].example),
    (n21, "21.2", lambda sets: np.where(sets.all(axis=1) | ~sets.any(axis=1), 0.5, 0.0), {}),
    (n21, "21.4", lambda n, u, heard: (n * u * heard).sum() / (n * heard).sum(), {}),
    (n12, "12.3", 2.0**x + 1, {}),
    (n22, "22.3", L * sp.sqrt(D) - sp.sqrt(B), {}),
    (n22, "22.3", B**0.5 - L * D**0.5, {}),
    (n22, "22.4", (GAMMA * L + 1) ** SMALL_E - 1, {}),
    (n22, "22.5", np.array([0.0, -3.0]), {}),
    (n23, "23.3", lambda p, z: p @ (z - p @ z) ** 2, {}),
    (n23, "23.4", (L * GAMMA**2 * E**2 - GAMMA * E) / 2, {}),
    (n24, "24.3", {"curvature": [0.9, 0.9], "centre": [1, 2], "share": [0.5, 0.5], "beta": [0.5, 0.5], "noise": 0}, {}),
    (n24, "24.4", lambda f: any(abs(f(a) * (1 - a) - a) > 1e-9 for a in (0.2, 0.35, 0.6)), {}),
]


@pytest.mark.parametrize(("book", "number", "answer", "facts"), RIGHT, ids=[case[1] for case in RIGHT])
def test_answers_other_than_the_notebook_s_are_right_as_well(book, number, answer, facts):
    assert book.book.exercises[number].verdict(answer, **facts) is None
