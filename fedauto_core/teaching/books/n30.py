"""Exercises of notebook 30: reading verdicts, luck among many claims, and what the undecided ones hold back."""

import math

import pandas as pd

from fedauto_core.report.verdicts import PAPER, combine_marks
from fedauto_core.teaching.exercises import Book, Exercise, number_is
from fedauto_core.teaching.judges import function_is

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
            right=lambda claims, level: -math.expm1(math.log1p(-level) / claims),
            case=lambda rng: (int(rng.integers(1, 30)), float(rng.uniform(0.001, 0.2))),
            expects="a function of (claims, level) that returns the level of each claim",
            hint="For some numbers it differs. Set the result of exercise 30.2 equal to the level.",
            wrong=[
                lambda claims, level: level / claims,
                lambda claims, level: level,
                lambda claims, level: 1 - (1 - level) ** claims,
                lambda claims, level: level ** (1 / claims),
            ],
        ),
        pitfalls="The level is divided by the number of claims, which is Bonferroni's, a little stricter.",
    ),
)
check = book.check
