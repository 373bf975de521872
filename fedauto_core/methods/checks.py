"""The checks of hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any

import numpy as np

from fedauto_core.errors import require
from fedauto_core.methods.base import Method


def is_finite(value: object) -> bool:
    """Whether it is a number (no bool) other than nan and the infinities."""
    return isinstance(value, Real) and not isinstance(value, bool) and -np.inf < value < np.inf


def _check(method: Method, name: str, valid: Callable[[Any], bool], allowed: str, remedy: str) -> None:
    """InputError, with the method's fields, unless hyper-parameter `name` is `valid`."""
    value = getattr(method, name)
    known = ", ".join(field.name for field in fields(method))
    require(
        valid(value),
        f"{method.name}: {name} = {value!r}",
        allowed=allowed,
        remedy=f"{remedy}; fields of {method.name}: {known}",
    )


def check_number(method: Method, name: str, inside: Callable[[float], bool], allowed: str, remedy: str) -> None:
    """Refuse a hyper-parameter that is not a finite number `inside` the `allowed` range."""
    _check(method, name, lambda value: is_finite(value) and bool(inside(value)), allowed, remedy)


def check_positive(method: Method, name: str) -> None:
    """Refuse a hyper-parameter that is not a finite number above zero."""
    check_number(method, name, lambda value: value > 0, "finite numbers > 0", f"choose a positive {name}")


def check_share(method: Method, name: str, remedy: str) -> None:
    """Refuse a hyper-parameter that is not a number in (0, 1]."""
    check_number(method, name, lambda value: 0 < value <= 1, "numbers in (0, 1]", remedy)


def check_integer(method: Method, name: str, least: int) -> None:
    """Refuse a hyper-parameter that is not an integer (no bool) of at least `least`."""
    _check(
        method,
        name,
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
        f"integers >= {least}",
        f"choose an integer {name}",
    )


def check_choice(method: Method, name: str, choices: Sequence[str | bool]) -> None:
    """Refuse a hyper-parameter that is none of `choices`; 0 and 1 are no booleans."""
    _check(
        method,
        name,
        lambda value: any(isinstance(value, type(choice)) and value == choice for choice in choices),
        ", ".join(map(repr, choices)),
        f"use one of the listed values of {name}",
    )
