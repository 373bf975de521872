"""Judges of answers that are a formula, a function or a list of numbers; numbers and names: `exercises`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import sympy as sp

CASES = 20  # random cases on which a function is tried


def formula_is(vanishes: Callable[..., sp.Expr], symbols: str, hint: str, wrong: Sequence[str]) -> dict[str, Any]:
    """`judge`, `expects` and `wrong` of an exercise whose answer is a SymPy expression.

    vanishes(answer, *symbols): what is zero exactly where the answer is right. symbols: their names, apart by spaces;
    all are positive, whatever the reader's are. wrong: what misconceptions would give.
    """
    known = {name: sp.Symbol(name, positive=True) for name in symbols.split()}
    expects = f"a SymPy expression in {', '.join(known)}"

    def judge(answer: Any, **_: Any) -> str | None:
        if not isinstance(answer, sp.Expr):
            return f"This asks for {expects}, not for {type(answer).__name__}."
        if strange := sorted({symbol.name for symbol in answer.free_symbols} - set(known)):
            return f"Use the symbols {', '.join(known)} only: {', '.join(strange)} must go."
        same = answer.subs({symbol: known[symbol.name] for symbol in answer.free_symbols})
        exact = sp.nsimplify(same, rational=True)  # b**0.5 is the root of b, and 2.0 * x is 2 * x
        return None if vanishes(exact, *known.values()).equals(0) else hint

    def refused(**_: Any) -> list[sp.Expr]:
        return [sp.sympify(text, locals=known) for text in wrong]

    return {"judge": judge, "expects": expects, "wrong": refused}


def function_is(
    right: Callable[..., Any],
    case: Callable[[np.random.Generator], tuple[Any, ...]],
    expects: str,
    hint: str,
    wrong: Iterable[Callable[..., Any]],
    tolerance: float = 1e-6,
) -> dict[str, Any]:
    """`judge`, `expects` and `wrong` of an exercise whose answer is a function that returns a number or an array.

    It is called with the arguments case(rng) of `CASES` random cases, and must return what `right` returns, in shape
    and up to a relative tolerance. wrong: functions that are refused.
    """

    def judge(answer: Any, **_: Any) -> str | None:
        if not callable(answer):
            return f"This asks for {expects}, not for {type(answer).__name__}."
        rng = np.random.default_rng(0)
        for arguments in (case(rng) for _ in range(CASES)):
            expected = np.asarray(right(*arguments))  # before the reader's function, which may change its arguments
            returned, problem = called(answer, *arguments)
            if problem:
                return problem
            if (found := numbers(returned, expected.shape)) is None:
                wanted = f"numbers of shape {expected.shape}" if expected.ndim else "one number"
                return f"This asks for {expects}; yours returned {type(returned).__name__} and not {wanted}."
            if not np.all(np.abs(found - expected) <= tolerance * np.maximum(1.0, np.abs(expected))):
                return hint
        return None

    return {"judge": judge, "expects": expects, "wrong": lambda **_: list(wrong)}


def called(function: Callable[..., Any], *arguments: object) -> tuple[Any, str | None]:
    """What the reader's function returns, and None; or None, and a sentence that says how it failed."""
    try:
        return function(*arguments), None
    except Exception as error:  # whatever the reader wrote
        return None, f"Your function ended in {type(error).__name__} ({error})."


def numbers(answer: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """The answer as finite float64 numbers of this shape; None if it is anything else, such as text."""
    try:
        if np.asarray(answer).dtype.kind in "SU":  # NumPy would read "2" as a number
            return None
        found = np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        return None
    return found if found.shape == shape and np.isfinite(found).all() else None
