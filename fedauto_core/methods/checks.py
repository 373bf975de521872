"""The checks of hyper-parameters."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from fedauto_core.errors import is_number, require, require_number

from .base import Method


def _name(method: Method, name: str) -> str:
    return f"{method.name}: {name}"


def fields_of(method: Method) -> str:
    """The end of a remedy: the fields that there are."""
    return f"; fields of {method.name}: {', '.join(field.name for field in fields(method))}"


def check_number(method: Method, name: str, inside: Callable[[float], bool], allowed: str, remedy: str) -> None:
    """Refuse a hyper-parameter that is not a finite number `inside` the `allowed` range."""
    value = getattr(method, name)
    require(
        is_number(value) and bool(inside(value)),
        f"{_name(method, name)} = {value!r}",
        allowed=allowed,
        remedy=remedy + fields_of(method),
    )


def check_positive(method: Method, name: str) -> None:
    """Refuse a hyper-parameter that is not a finite number above zero."""
    remedy = f"choose a positive {name}{fields_of(method)}"
    require_number(_name(method, name), getattr(method, name), remedy=remedy)


def check_share(method: Method, name: str, remedy: str) -> None:
    """Refuse a hyper-parameter that is not a number in (0, 1]."""
    require_number(_name(method, name), getattr(method, name), high=1, remedy=remedy + fields_of(method))


def check_integer(method: Method, name: str, least: int) -> None:
    """Refuse a hyper-parameter that is not an integer (no bool) of at least `least`."""
    remedy = f"choose an integer {name}{fields_of(method)}"
    require_number(_name(method, name), getattr(method, name), low=least, strict=False, whole=True, remedy=remedy)


def check_choice(method: Method, name: str, choices: Sequence[str | bool]) -> None:
    """Refuse a hyper-parameter that is none of `choices`; 0 and 1 are no booleans."""
    value = getattr(method, name)
    require(
        any(isinstance(value, type(choice)) and value == choice for choice in choices),
        f"{_name(method, name)} = {value!r}",
        allowed=", ".join(map(repr, choices)),
        remedy=f"use one of the listed values of {name}{fields_of(method)}",
    )
