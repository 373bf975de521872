"""Exercises that check themselves: right, or wrong with a hint, never the solution.

A notebook takes its book from `teaching.books`, poses an exercise in a Markdown cell (`### Exercise 03.2`, with its
hint folded), and solves it in the code cell below, between the markers that the student edition cuts out:

    ### BEGIN SOLUTION
    answer = chi2_divergence(mixture, target)
    ### END SOLUTION
    exercises.check("03.2", answer)

What the right answer is comes from code: from the facts that the notebook hands over (its tables), or from the core.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from IPython.display import Markdown, display

from fedauto_core.errors import InputError, is_number, require_known

GRADES = {1: "read a figure or a table", 2: "change a parameter and explain", 3: "write code or a step of a proof"}
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
FACTS = Mapping[str, Any]


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Parameters
    ----------
    number : notebook and exercise, such as "03.2"
    grade : a key of `GRADES`
    minutes : what a second-year student needs
    judge : judge(answer, **facts) -> None where it is right, else one sentence that helps and does not solve; it may
        raise whatever a wrong type makes it raise
    expects : what kind of answer, as the end of "This asks for ..."
    wrong : wrong(**facts) -> plausible wrong answers, all refused (a test)
    pitfalls : what usually goes wrong, for the teacher
    example : facts for the tests, where the judge needs any
    right : right(**facts) -> the answer, where it is a number or a name; no hint may hold it (a test)
    """

    number: str
    grade: int
    minutes: int
    judge: Callable[..., str | None]
    expects: str
    wrong: Callable[..., Iterable[object]]
    pitfalls: str
    example: FACTS = field(default_factory=dict)
    right: Callable[..., float | str] | None = None

    def verdict(self, answer: object, **facts: object) -> str | None:
        """None where the answer is right, else a sentence: never an error, whatever the answer is."""
        if answer is None or answer is ... or (isinstance(answer, str) and not answer):  # an empty list may be right
            return f"There is no answer yet. This asks for {self.expects}."
        try:
            return self.judge(answer, **facts)
        except InputError as error:  # the core says itself what is wrong with a value
            return f"This asks for {self.expects}. {error}"
        except Exception as error:  # the reader's own code runs in here
            ended = f"{type(error).__name__}: {error}".rstrip(".")
            return f"This asks for {self.expects}; with your answer the check ended in {ended}."


class Book:
    """The exercises of one notebook, by number."""

    def __init__(self, *exercises: Exercise) -> None:
        self.exercises = {exercise.number: exercise for exercise in exercises}

    def check(self, number: str, answer: object, **facts: object) -> None:
        """Say whether the answer is right, with a hint where it is not. facts: what the judge of this exercise reads.

        Raises InputError for an exercise that does not exist.
        """
        hint = self.verdict(number, answer, **facts)
        display(Markdown(f"**Exercise {number}: " + ("right.**" if hint is None else f"not yet.** {hint}")))

    def verdict(self, number: str, answer: object, **facts: object) -> str | None:
        """`Exercise.verdict` of the exercise of that number. Raises InputError for one that does not exist."""
        require_known("exercise", number, self.exercises)
        return self.exercises[number].verdict(answer, **facts)


def number_is(
    right: Callable[..., float],
    hint: str,
    tolerance: float = 0.01,
    also_wrong: Callable[..., Iterable[float]] | None = None,
) -> dict[str, Any]:
    """`judge`, `expects`, `wrong` and `right` of an exercise whose answer is a number: right(**facts), to a relative
    tolerance (of 0: an absolute one), and exactly where it returns an integer, which is a count. also_wrong(**facts):
    what a misconception would give."""

    def judge(answer: Any, **facts: Any) -> str | None:
        if not is_number(answer := answer.item() if isinstance(answer, np.generic) else answer):
            return f"This asks for one number, not for {type(answer).__name__}."
        expected = right(**facts)
        allowed = 0.0 if is_number(expected, whole=True) else tolerance
        return None if math.isclose(answer, expected, rel_tol=allowed, abs_tol=allowed * (expected == 0)) else hint

    def wrong(**facts: Any) -> list[float]:
        expected = right(**facts)
        near = [expected * 1.1, -expected, expected + 1] if expected else [1.0, -1.0]
        return [*near, *(also_wrong(**facts) if also_wrong else ())]

    return {"judge": judge, "expects": "one number", "wrong": wrong, "right": right}


def choice_is(right: Callable[..., str], among: Callable[..., Collection[str]], hint: str) -> dict[str, Any]:
    """`judge`, `expects`, `wrong` and `right` of an exercise whose answer is one of some names: right(**facts) of
    among(**facts)."""

    def judge(answer: Any, **facts: Any) -> str | None:
        names = sorted(among(**facts))
        if answer not in names:
            return f"This asks for one of: {', '.join(names)}."
        return None if answer == right(**facts) else hint

    def wrong(**facts: Any) -> list[str]:
        return [name for name in among(**facts) if name != right(**facts)]

    return {"judge": judge, "expects": "one of the names", "wrong": wrong, "right": right}
