"""Judges of formulas and functions: what is right in another form is right, and whatever goes wrong gets a sentence."""

import numpy as np
import pytest
import sympy as sp
from scipy import stats

from fedauto_core.teaching.books import n00, n03, n05, n10, n12, n16, n20, n21, n22, n23, n24, n31
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
     (lambda a: "Well done", "This asks for a function of a number; yours returned str and not one number."),
     (lambda a: str(2 * a), "This asks for a function of a number; yours returned str and not one number."),
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


def in_place(function):
    """The same function, which computes in the reader's arrays: it fills them with zeros once it has its answer."""

    def changed(*arrays):
        answer = function(*arrays)
        for array in arrays:
            array[:] = 0
        return answer

    return changed


def overwritten(fill, answer):
    """A function that makes its arrays such that its answer would be right."""

    def changed(*arrays):
        fill(*arrays)
        return answer(*arrays)

    return changed


@pytest.mark.parametrize(
    ("book", "number", "right", "fill", "answer"),
    [(n00, "00.4", lambda counts: counts.sum(axis=0) / counts.sum(),
      lambda counts: counts.fill(1), lambda counts: np.full(counts.shape[1], 1 / counts.shape[1])),
     (n03, "03.4", lambda b, r, t: np.sum((b @ r - t)[t > 0] ** 2 / t[t > 0]),
      lambda b, r, t: np.copyto(t, b @ r), lambda b, r, t: 0.0),
     (n05, "05.5", lambda a, p, q: np.where(a, p / q, 0) / (p / q)[a].sum(),
      lambda a, p, q: np.copyto(p, q), lambda a, p, q: a / a.sum()),
     (n31, "31.4", lambda v, c: v @ [np.prod([p if k >> i & 1 else 1 - p for i, p in enumerate(c)])
                                     for k in range(len(v))],
      lambda v, c: v.fill(0), lambda v, c: 0.0)],
    ids=["00.4", "03.4", "05.5", "31.4"],
)  # fmt: skip
def test_a_function_may_change_its_arrays_and_gains_nothing_by_it(book, number, right, fill, answer):
    judged = book.book.exercises[number].verdict
    assert judged(right) is None and judged(in_place(right)) is None
    assert judged(overwritten(fill, answer)) == judged(lambda *arrays: answer(*arrays)) is not None


@pytest.mark.parametrize("drawn", [1, 2, 7, 50, 51])
def test_the_sampling_error_is_right_for_odd_numbers_as_well(drawn):
    count = np.arange(drawn + 1)
    mean = stats.binom.pmf(count, drawn, 0.5) @ np.abs(count / drawn - 0.5)
    assert n16.book.exercises["16.3"].verdict(mean, drawn=drawn) is None


def test_a_number_of_seeds_may_be_a_float():
    seeds = n10.book.exercises["10.5"]
    (right,) = (n for n in range(2, 1000) if seeds.verdict(n, **seeds.example) is None)
    assert seeds.verdict(float(right), **seeds.example) is None and seeds.verdict(right + 0.5, **seeds.example)


def test_an_instance_that_does_not_move_is_told_so():
    said = n31.book.exercises["31.3"].verdict(n31.ROUGH | {"curvature": [1, 1], "centre": [0, 0]})
    assert said == "Both sides are zero on your instance: at w = 0 no loss has a slope."


GAMMA, L, E, S, B, D, SMALL_E = sp.symbols("gamma L E s b D e")
Q1, Q2, U1, U2 = sp.symbols("q1 q2 u1 u2", positive=True)
RIGHT = [
    (n05, "05.4", (Q1 * (1 - Q2 / 2) * U1 + Q2 * (1 - Q1 / 2) * U2) / (Q1 + Q2 - Q1 * Q2), {}),
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


@pytest.mark.parametrize(("book", "number"), [(n21, "21.2"), (n24, "24.4")])
def test_a_sentence_that_the_reader_s_function_returns_is_no_hint(book, number):
    hint = book.book.exercises[number].verdict(lambda _: "Well done")
    assert hint and "Well done" not in hint
    ended = book.book.exercises[number].verdict(lambda _: 1 / 0)
    assert ended == "Your function ended in ZeroDivisionError (division by zero)."


def test_a_check_notices_with_an_error_but_not_with_a_sentence():
    notices = {number: answer for _, number, answer, _ in RIGHT}["24.4"]
    verdict = n24.book.exercises["24.4"].verdict
    assert verdict(lambda f: notices(f) and 1 / 0) is None
    assert verdict(lambda f: notices(f) and "wrong") == "Your check must return True or False in every case."
