"""The exercises of all books: what is wrong is refused with a sentence, what a notebook poses is what its book has."""

import itertools
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from fedauto_core.errors import InputError, is_number, require_known
from fedauto_core.methods.fedauto import compensation
from fedauto_core.methods.weights import fedauto_weights
from fedauto_core.teaching import predictions
from fedauto_core.teaching.books import find_book, numbers
from fedauto_core.teaching.edition import exercise_number, is_tagged, split_solution
from fedauto_core.teaching.exercises import GRADES, Book, Exercise, choice_is, number_is
from fedauto_core.theory.kit import claim

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = {path.name[:2]: path for path in sorted(FOLDER.glob("*.ipynb"))}
BOOKS = {number: find_book(number) for number in numbers()}
EXERCISES = [exercise for book in BOOKS.values() for exercise in book.exercises.values()]
ODD = [None, ..., "", [], {}, object(), float("nan"), lambda *_: None, lambda: 1 / 0, True, "nonsense", -1e300,
       np.array([]), np.full((2, 3), np.nan), pd.DataFrame(), [[1], [1, 2]], b"x", int, range(0)]  # fmt: skip
HEADING = re.compile(r"### Exercise (\d\d\.\d+)\n+\*Grade (\d), (\d+) minutes\.\*")


def is_sentence(text):
    return isinstance(text, str) and len(text.split()) >= 4 and text.rstrip().endswith((".", "?"))


@pytest.fixture(params=EXERCISES, ids=lambda exercise: exercise.number)
def exercise(request):
    return request.param


@pytest.fixture(params=BOOKS)
def cells(request):
    """The number of a notebook that has a book, and its cells."""
    return request.param, nbformat.read(PATHS[request.param], as_version=4).cells


def test_what_is_plausible_and_wrong_is_refused_with_a_sentence(exercise):
    wrong = list(exercise.wrong(**exercise.example))
    assert len(wrong) >= 1
    for answer in wrong:
        said = exercise.verdict(answer, **exercise.example)
        assert is_sentence(said) and "check ended in" not in said, (answer, said)


def test_odd_answers_get_a_sentence(exercise):
    for answer in ODD:
        assert is_sentence(exercise.verdict(answer, **exercise.example)), answer


def test_what_an_exercise_says_of_itself(exercise):
    assert exercise.grade in GRADES and 1 <= exercise.minutes <= 60
    assert exercise.expects and not exercise.expects.endswith(".") and is_sentence(exercise.pitfalls)


def test_the_right_number_or_name_is_accepted(exercise):
    if exercise.right:
        assert exercise.verdict(exercise.right(**exercise.example), **exercise.example) is None


def test_each_book_has_three_to_six_exercises_of_its_own_notebook():
    for number, book in BOOKS.items():
        assert 3 <= len(book.exercises) <= 6 and number in PATHS
        assert list(book.exercises) == [f"{number}.{k}" for k in range(1, len(book.exercises) + 1)]


def posed(cells):
    """(statement, code) of every solution cell, with the Markdown cell above it."""
    found = itertools.pairwise(cells)
    return [(above.source, cell.source) for above, cell in found if is_tagged(cell, "solution")]


def hint_of(statement):
    return re.search(r"<details><summary>Hint</summary>\n\n(.+?)\n+</details>", statement, re.S)[1]


def test_a_notebook_poses_what_its_book_has(cells):
    number, cells = cells
    stated = [(m[1], int(m[2]), int(m[3])) for statement, _ in posed(cells) for m in [HEADING.match(statement)]]
    assert stated == [(e.number, e.grade, e.minutes) for e in BOOKS[number].exercises.values()]
    assert [exercise_number(code) for _, code in posed(cells)] == list(BOOKS[number].exercises)
    assert any(f"from fedauto_core.teaching.books import n{number} as exercises" in cell.source for cell in cells)


def test_the_markers_of_every_solution_are_there(cells):
    _, cells = cells
    marked = [cell for cell in cells if cell.cell_type == "code" and "exercises.check(" in cell.source]
    assert all(is_tagged(cell, "solution") for cell in marked)
    assert [cell for cell in cells if is_tagged(cell, "solution") or "SOLUTION" in cell.source] == marked
    for cell in marked:
        before, solution, after = split_solution(cell.source)
        assert re.search(r"^answer = ", solution, re.M) and "answer = " not in before + after


def test_the_exercises_are_the_last_section_before_the_provenance(cells):
    _, cells = cells
    start = next(k for k, cell in enumerate(cells) if cell.source.startswith("## Exercises"))
    section = cells[start + 1 : -1]
    assert [is_tagged(cell, "solution") for cell in section] == [False, True] * len(posed(cells))


def test_no_hint_holds_the_answer(cells):
    number, cells = cells
    for statement, code in posed(cells):
        exercise = BOOKS[number].exercises[exercise_number(code)]
        if exercise.right is None:
            continue
        right = exercise.right(**exercise.example)
        wrong = next(iter(exercise.wrong(**exercise.example)))
        for text in (hint_of(statement), exercise.verdict(wrong, **exercise.example)):
            if is_number(right):
                shown = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]
                assert not any(math.isclose(n, right, rel_tol=0.01) for n in shown), (exercise.number, text)
            else:
                assert f'"{right}"' not in text and f"*{right}*" not in text


def test_a_prediction_is_made_and_compared(cells):
    _, cells = cells
    made = [k for k, cell in enumerate(cells) if is_tagged(cell, "prediction")]
    held = [k for k, cell in enumerate(cells) if "predictions.compare(" in cell.source]
    assert len(made) == 1 and len(held) == 1 and made[0] < held[0]
    assert "**Predict before you run.**" in cells[made[0] - 1].source
    assert re.match(r"^prediction = .+  # yours, ", cells[made[0]].source)


@pytest.mark.parametrize(
    "source",
    ["answer = 1", "### BEGIN SOLUTION\nanswer = 1", "### END SOLUTION\n### BEGIN SOLUTION", "## BEGIN SOLUTION",
     "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "### BEGIN SOLUTION\nx\n  ### END SOLUTION"],
)  # fmt: skip
def test_a_solution_without_its_markers_is_refused(source):
    with pytest.raises(InputError, match="solution markers"):
        split_solution(source)


def test_a_solution_is_split_at_its_markers():
    assert split_solution("a\n### BEGIN SOLUTION\nb\nc\n### END SOLUTION\nd") == ("a", "b\nc", "d")


def one(**parts):
    given = {"number": "99.1", "grade": 1, "minutes": 5, "pitfalls": "Haste."} | parts
    return Exercise(**given)


@pytest.fixture
def said(monkeypatch):
    """What is shown to the reader, one text after the other."""
    shown = []
    for module in ("exercises", "predictions"):
        monkeypatch.setattr(f"fedauto_core.teaching.{module}.display", lambda text: shown.append(text.data))
    return shown


def test_a_check_says_right_or_not_yet(said):
    book = Book(one(**number_is(right=lambda table: table["x"].max(), hint="Read the column again.")))
    for answer in (2.001, np.float32(2), 3, "two", ...):
        book.check("99.1", answer, table=pd.DataFrame({"x": [1.0, 2.0]}))
    assert said == [
        *["**Exercise 99.1: right.**"] * 2,
        "**Exercise 99.1: not yet.** Read the column again.",
        "**Exercise 99.1: not yet.** This asks for one number, not for str.",
        "**Exercise 99.1: not yet.** There is no answer yet. This asks for one number.",
    ]
    with pytest.raises(InputError, match=r"unknown exercise '99\.2'"):
        book.check("99.2", 1)


def test_a_count_is_judged_exactly():
    book = one(**number_is(right=lambda table: table["x"].sum(), hint="Count the rows of the table once more."))
    counts, shares = ({"table": pd.DataFrame({"x": values})} for values in ([150, 50], [150.0, 50.0]))
    assert all(book.verdict(right, **counts) is None for right in (200, 200.0, np.int64(200)))
    assert "once more" in book.verdict(201, **counts) and book.verdict(201, **shares) is None


def test_an_empty_list_may_be_right():
    lie = BOOKS["31"].exercises["31.2"]
    roomy = lie.example | {"known": claim(lie.example["known"], "A1 smoothness", 100.0)}
    assert lie.verdict([], **roomy) is None and "One of those" in lie.verdict(["S1 descent"], **roomy)
    assert "that you do not name" in lie.verdict([], **lie.example)
    assert all(lie.verdict(wrong, **roomy) for wrong in lie.wrong(**roomy))


def test_a_name_is_one_of_the_names():
    book = one(**choice_is(right=lambda: "b", among=lambda: ["a", "b"], hint="Look at the second bar once more."))
    assert book.verdict("b") is None and "second bar" in book.verdict("a") and "one of: a, b" in book.verdict("c")


def test_what_a_readers_function_raises_is_a_sentence():
    called = one(judge=lambda answer: answer(), expects="a function", wrong=lambda: [])
    assert "ZeroDivisionError" in called.verdict(lambda: 1 / 0)
    known = one(judge=lambda answer: require_known("rule", answer, ["a"]), expects="a rule", wrong=lambda: [])
    assert known.verdict("b").startswith("This asks for a rule. unknown rule 'b'. Allowed: a. Remedy: ")


BOTH = ("less", "more")


@pytest.mark.parametrize(
    ("prediction", "came_out", "choices", "text"),
    [
        ("more", "more", BOTH, "You predicted *more*, and so it came out."),
        ("less", "more", BOTH, "You predicted *less*; it came out *more*."),
        (2, 2.5, (), "You predicted 2, and so it came out 2.5."),
        (1, 2.5, (), "You predicted 1; it came out 2.5."),
        (..., "more", BOTH, "You made no prediction; it is one of: less, more."),
        ("x", 1.0, (), "Your prediction 'x' is not a number."),
        ([], "less", BOTH, "Your prediction [] is not one of: less, more."),
    ],
)
def test_a_prediction_is_held_against_what_came_out(said, prediction, came_out, choices, text):
    predictions.compare(prediction, came_out, "For a reason.", choices, margin=0.5)
    assert said == [f"**Prediction.** {text} For a reason."]


def test_a_round_that_overwrites_its_model_is_right():
    solution = next(code for _, code in posed(nbformat.read(PATHS["03"], as_version=4).cells) if '"03.6"' in code)
    names = {"np": np, "compensation": compensation, "fedauto_weights": fedauto_weights}
    exec(split_solution(solution)[1], names)

    def overwriting(w, *others):
        w += names["one_round"](w, *others) - w
        return w

    assert BOOKS["03"].verdict("03.6", overwriting) is None


def test_optimality_may_be_tested_without_the_sum_if_the_gradient_is_tested_from_both_sides():
    def is_optimal(beta, gram):
        slack = gram @ beta - beta @ gram @ beta
        return beta.min() >= 0 and slack.min() >= -1e-8 and np.abs(slack * beta).max() <= 1e-8

    assert BOOKS["03"].verdict("03.5", is_optimal) is None


def test_a_book_that_is_not_there():
    with pytest.raises(InputError, match="unknown book '99'"):
        find_book("99")
