"""Exercises of notebook 30: reading verdicts, luck among many claims, and how marks combine."""

from collections import Counter

import numpy as np
import pandas as pd

from fedauto_core.report.verdicts import MARKS, PAPER, combine_marks
from fedauto_core.teaching.exercises import Book, Exercise, number_is
from fedauto_core.teaching.functions import function_is

EVERY = pd.DataFrame(
    {
        "claim": ["C2", "C2", "C2", "C4", "C4", "C6", "C6"],
        "mark": ["[Re]", "[~]", "[¬Re]", "[Re]", "[~]", "[own]", "[~]"],
        "evidence": ["comparisons", "comparisons", "comparisons", "gains", "gains", "ladder", PAPER],
    }
)


def changed(every: pd.DataFrame) -> int:
    """Claims whose mark is another one without the undecided verdicts."""
    spoken = every[every["evidence"] != PAPER].groupby("claim")["mark"].agg(lambda marks: {*marks.str.strip("[]")})
    return sum(combine_marks(marks) != combine_marks(marks - {"~"}) for marks in spoken)


def draw_marks(rng: np.random.Generator) -> tuple[list[str]]:
    """One to five marks."""
    return (rng.choice(MARKS, rng.integers(1, 6)).tolist(),)


def sternest(marks: list[str]) -> str:
    """[~] is put above [¬Re]."""
    return "~" if "~" in marks else combine_marks(marks)


book = Book(
    Exercise(
        "30.1",
        1,
        3,
        **number_is(
            right=lambda every: int((every["mark"] == "[~]").sum()),
            hint="Each row of the table is one verdict; the sign of what is undecided stands in the legend.",
            also_wrong=lambda every: [every.loc[every["mark"] == "[~]", "claim"].nunique() + 0.5, len(every)],
        ),
        pitfalls="Claims are counted instead of verdicts.",
        example={"every": EVERY},
    ),
    Exercise(
        "30.2",
        2,
        10,
        **number_is(
            right=lambda claims, level: 1 - (1 - level) ** claims,
            hint="The chance that none of them errs is a product. What is left of one?",
            also_wrong=lambda claims, level: [level, claims * level, (1 - level) ** claims],
        ),
        pitfalls="The chances are added up, which is an upper bound and not the probability.",
        example={"claims": 8, "level": 0.05},
    ),
    Exercise(
        "30.3",
        2,
        10,
        **number_is(
            right=changed,
            hint="One [¬Re] decides whatever stands beside it, and a claim with nothing else stays undecided.",
            also_wrong=lambda every: [int((every["mark"] == "[~]").sum()), every["claim"].nunique()],
        ),
        pitfalls="Claims with a [¬Re] are counted; they stay as they are.",
        example={"every": EVERY},
    ),
    Exercise(
        "30.4",
        3,
        15,
        **function_is(
            right=combine_marks,
            draw=draw_marks,
            asks="a function of (marks) that returns one mark",
            hint="For some marks it differs. In which order must you look for them?",
            also_wrong=[
                lambda marks: Counter(marks).most_common(1)[0][0],
                sternest,
                lambda marks: "Re" if {*marks} == {"Re"} else "¬Re",
                lambda marks: marks[0],
            ],
        ),
        pitfalls="A majority decides, or [~] is looked for before [¬Re].",
    ),
)
check = book.check
