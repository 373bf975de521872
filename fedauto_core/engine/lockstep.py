"""Functions that ask questions on their way, run in lockstep: what several ask at the same point is answered as one.

A function calls `ask` and gets the answer, as from any other call; nothing in it shows that it was set aside meanwhile.
Each runs in a greenlet of its own, in one thread and one after another: only a question hands control to the next.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from greenlet import getcurrent, greenlet

Asked, Answer, Result = TypeVar("Asked"), TypeVar("Answer"), TypeVar("Result")


class _Question(NamedTuple):
    """answer: gives the answers to a list of such questions; only those of one group may share a list."""

    answer: Callable[[list], Sequence]
    group: Hashable
    asked: object


class _Asker(greenlet):
    """A function on its way in `in_lockstep`: hands a question to its parent and is resumed with the answer."""


def ask(answer: Callable[[list[Asked]], Sequence[Answer]], group: Hashable, asked: Asked) -> Answer:
    """answer([asked, ...])[0], where the list holds what all askers of `in_lockstep` ask at this point of the same
    `answer` and `group`; outside of it, `asked` alone."""
    asker = getcurrent()
    if isinstance(asker, _Asker):
        return asker.parent.switch(_Question(answer, group, asked))
    return answer([asked])[0]


def in_lockstep(functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of `functions`, each of which may `ask`. An error in one of them or in an answer ends them all."""
    askers = [_Asker(function) for function in functions]
    try:
        said = [asker.switch() for asker in askers]  # a question, or the result of one that is done
        while waiting := [i for i, asker in enumerate(askers) if not asker.dead]:
            groups: dict[tuple[object, Hashable], list[int]] = {}
            for i in waiting:
                groups.setdefault((said[i].answer, said[i].group), []).append(i)
            for (answer, _), together in groups.items():
                answers = answer([said[i].asked for i in together])
                for i, one in zip(together, answers, strict=True):
                    said[i] = askers[i].switch(one)
        return said
    finally:
        for asker in askers:  # after an error some still wait; those that are done stay so
            with suppress(Exception):  # whatever one says to that, the error that ended them all is the one to see
                asker.throw()
