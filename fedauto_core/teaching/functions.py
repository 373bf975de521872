"""Judges of answers that are code or a step of a proof: a function on random instances, an expression of SymPy."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import sympy

INSTANCES = 25  # on which a function is tried


def function_is(
    right: Callable[..., Any],
    draw: Callable[[np.random.Generator], tuple[Any, ...]],
    asks: str,
    hint: str,
    also_wrong: Iterable[Callable[..., Any]],
) -> dict[str, Any]:
    """`judge`, `expects` and `wrong` of an exercise whose answer is a function: on every instance it must return what
    `right` does, to a relative 1e-6; names must be the same.

    draw(rng) -> the arguments of one instance. asks: the function, as in "a function of (x) that returns ...".
    """

    def judge(answer: Any, **facts: Any) -> str | None:
        if not callable(answer):
            return f"This asks for {asks}, not for {type(answer).__name__}."
        for instance in (draw(np.random.default_rng(k)) for k in range(INSTANCES)):
            expected = right(*deepcopy(instance))
            try:
                agrees = same(answer(*instance), expected)
            except Exception as error:  # the reader's own code
                return f"On a random instance your function ended in {type(error).__name__} ({error})."
            if not agrees:
                return hint
        return None

    return {"judge": judge, "expects": asks, "wrong": lambda **facts: [*also_wrong]}


def same(found: object, expected: Any) -> bool:
    """Equal names, or numbers of the same shape that agree to a relative 1e-6."""
    if isinstance(expected, str):
        return isinstance(found, str) and found == expected
    return np.shape(found) == np.shape(expected) and np.allclose(found, expected, rtol=1e-6, atol=1e-9)


def expression_is(right: sympy.Expr, hint: str, also_wrong: Iterable[sympy.Expr]) -> dict[str, Any]:
    """`judge`, `expects` and `wrong` of an exercise whose answer is an expression: equal to `right` for SymPy, whatever
    is assumed of the symbols that the reader made."""
    names = ", ".join(sorted(symbol.name for symbol in right.free_symbols))
    asks = f"an expression of SymPy in {names}"

    def judge(answer: Any, **facts: Any) -> str | None:
        if not isinstance(answer, sympy.Expr):
            return f"This asks for {asks}, not for {type(answer).__name__}."
        plain = answer.subs({symbol: sympy.Symbol(symbol.name) for symbol in answer.free_symbols})
        if strange := sorted(symbol.name for symbol in plain.free_symbols - right.free_symbols):
            return f"This asks for {asks}; yours also has {', '.join(strange)}."
        return None if sympy.simplify(plain - right) == 0 else hint

    return {"judge": judge, "expects": asks, "wrong": lambda **facts: [*also_wrong]}
