"""One kind of error for bad input: it names the value, what is allowed, and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from numbers import Integral, Real


class InputError(ValueError):
    """A value the caller can correct. The command line turns it into exit status 2."""

    def __init__(self, what: str, *, allowed: str, remedy: str) -> None:
        super().__init__(f"{what}. Allowed: {allowed}. Remedy: {remedy}.")
        self._parts = (what, allowed, remedy)

    def __reduce__(self) -> tuple[Callable[[str], InputError], tuple[str]]:
        what, allowed, remedy = self._parts  # the default would call InputError(message): no worker could report one
        return partial(InputError, allowed=allowed, remedy=remedy), (what,)

    def within(self, where: str) -> InputError:
        """The same error, told with the place in which it was found."""
        what, allowed, remedy = self._parts
        return InputError(f"{where}: {what}", allowed=allowed, remedy=remedy)


def require(condition: bool, what: str, *, allowed: str, remedy: str) -> None:
    """Raise `InputError` unless `condition` holds."""
    if not condition:
        raise InputError(what, allowed=allowed, remedy=remedy)


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise `InputError` unless `name` is one of `known`; `kind` is the noun used in the message."""
    names = sorted(known)
    require(
        name in names,
        f"unknown {kind} {name!r}",
        allowed=", ".join(names),
        remedy=f"use one of the listed {kind} names",
    )


def require_number(
    name: str,
    value: object,
    *,
    low: float = 0,
    high: float = inf,
    strict: bool = True,
    whole: bool = False,
    remedy: str = "",
) -> None:
    """Raise `InputError` unless `value` is one finite number (whole: an integer) above `low` and at most `high`.

    strict: False: `low` itself is allowed, too. No bool is a number; NumPy's scalars are. remedy: by default, to bring
    `name` into the range.
    """
    require(
        is_number(value, whole=whole) and (value > low if strict else value >= low) and value <= high,
        f"{name} = {value!r}",
        allowed=f"{'integers' if whole else 'finite numbers'} {'>' if strict else '>='} {low:g}"
        + (f" and <= {high:g}" if high < inf else ""),
        remedy=remedy or f"bring {name} into this range",
    )


def is_number(value: object, *, whole: bool = False) -> bool:
    """Whether it is one finite number (whole: an integer), no bool."""
    return isinstance(value, Integral if whole else Real) and not isinstance(value, bool) and -inf < value < inf
