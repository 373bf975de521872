"""Exercises of notebook 14: what is sent, what fits into memory, and how costs grow."""

from typing import Any

import numpy as np
import pandas as pd
import sympy

from fedauto_core.benchmark.costs import declared
from fedauto_core.errors import is_number
from fedauto_core.methods.registry import make_method
from fedauto_core.teaching.exercises import Book, Exercise, number_is
from fedauto_core.teaching.judges import formula_is, function_is

TRAFFIC = pd.DataFrame(
    {
        "label": ["fedauto", "fedavg", "scaffold", "fednova", "fedcote_like"],
        "up": [4000, 4000, 8000, 4004, 3000],
        "once": [40, 0, 40, 0, 40],
    }
)


def judge_memory(answer: Any, memory: int, parameters: int, classes: int) -> str | None:
    """So many clients fit, and one more does not, by what the method declares."""
    if not is_number(answer) or answer != int(answer) or answer < 1:
        return "This asks for a whole number of clients, at least one."
    method = {"mifa": make_method("mifa")}
    kept = [declared(method, int(answer) + more, parameters, classes)["server"].item() for more in (0, 1)]
    if kept[0] > memory:
        return "The stored updates of so many clients do not fit. A number takes four bytes."
    return None if kept[1] > memory else "They fit, and those of one more client would fit, too."


def exponent(sizes: np.ndarray, costs: np.ndarray) -> float:
    """Slope of the least-squares line through (log size, log cost)."""
    x = np.log(sizes) - np.log(sizes).mean()
    return float(x @ np.log(costs) / (x @ x))


book = Book(
    Exercise(
        "14.1",
        1,
        5,
        **number_is(
            right=lambda traffic: int((traffic["up"] > traffic.set_index("label").loc["fedavg", "up"]).sum()),
            hint="Compare the column of what goes up with the row of plain averaging.",
            also_wrong=lambda traffic: [
                int((traffic["once"] > 0).sum()),
                int((traffic["up"] != traffic.set_index("label").loc["fedavg", "up"]).sum()),
            ],
        ),
        pitfalls="What is sent once is counted as if it were sent in every round.",
        example={"traffic": TRAFFIC},
    ),
    Exercise(
        "14.2",
        2,
        10,
        judge=judge_memory,
        expects="a whole number of clients",
        wrong=lambda memory, parameters, classes: [memory // parameters, memory // (8 * parameters), 1, 3.5],
        pitfalls="A number is counted as one byte, or as eight; the server's own row is forgotten.",
        example={"memory": 2**30, "parameters": 10**6, "classes": 10},
    ),
    Exercise(
        "14.3",
        2,
        10,
        **number_is(
            right=lambda seconds, plain: 1 + 0.01 * (seconds - plain) / plain,
            hint="Only one of the two parts grows with the model. What remains of the other, relative to it?",
            also_wrong=lambda seconds, plain: [seconds / plain, seconds / plain / 100, 100 * seconds / plain],
        ),
        pitfalls="The whole ratio is divided, although a ratio never falls below one here.",
        example={"seconds": 3.0, "plain": 1.0},
    ),
    Exercise(
        "14.4",
        3,
        15,
        **function_is(
            right=exponent,
            case=lambda rng: (np.cumsum(rng.integers(1, 9, 5)), np.exp(rng.normal(size=5))),
            expects="a function of (sizes, costs) that returns one number",
            hint="On some sizes it differs. Is it the slope of the logarithms, fitted to all points, not the ends?",
            wrong=[
                lambda sizes, costs: np.polyfit(sizes, costs, 1)[0],
                lambda sizes, costs: np.log(costs[-1] / costs[0]) / np.log(sizes[-1] / sizes[0]),
                lambda sizes, costs: np.polyfit(np.log(costs), np.log(sizes), 1)[0],
            ],
        ),
        pitfalls="The values are fitted instead of their logarithms.",
    ),
    Exercise(
        "14.5",
        3,
        10,
        **formula_is(
            vanishes=lambda answer, a, b, s: answer - s * sympy.diff(sympy.log(a + b * s), s),
            symbols="a b s",
            hint="It differs. An exponent is the derivative of log T with respect to log s, which is s T'(s) / T(s).",
            wrong=["b", "b / (a + b*s)", "1", "a / (a + b*s)"],
        ),
        pitfalls="The derivative of T is given, or the factor s is forgotten.",
    ),
)
check = book.check
