"""The two editions of the notebooks, and the ways through them."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from notebook_factory import write_notebook

from fedauto_core import __main__ as command
from fedauto_core.errors import InputError
from fedauto_core.report.sources import NOTEBOOKS
from fedauto_core.teaching.books import find_book, numbers
from fedauto_core.teaching.edition import TO_FILL, is_tagged, make_edition, split_solution, write_edition
from fedauto_core.teaching.exercises import BEGIN, END
from fedauto_core.teaching.paths import PATHS, exercise_minutes, paths_page, reading_minutes

SOURCES = {path.name: nbformat.read(path, as_version=4) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
WITH_BOOK = [name for name in SOURCES if name[:2] in numbers()]
SOLVED = f"{BEGIN}\nanswer = 4\n{END}\nexercises.check('03.1', answer)".replace("'", '"')


@pytest.fixture(scope="module")
def editions(tmp_path_factory):
    """edition -> {file name: notebook}, read back from what was written."""
    out = {name: tmp_path_factory.mktemp(name) for name in ("student", "teacher")}
    return {
        name: {path.name: nbformat.read(path, as_version=4) for path in write_edition(name, folder, NOTEBOOKS)}
        for name, folder in out.items()
    }


def solutions(name):
    return [split_solution(cell.source)[1] for cell in SOURCES[name].cells if is_tagged(cell, "solution")]


def test_both_editions_have_every_notebook_valid_and_without_outputs(editions):
    for made in editions.values():
        assert made.keys() == SOURCES.keys()
        for notebook in made.values():
            nbformat.validate(notebook)
            assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
            code = [cell for cell in notebook.cells if cell.cell_type == "code"]
            assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("name", WITH_BOOK)
def test_the_student_edition_holds_no_line_of_a_solution(editions, name):
    lesson = {line.strip() for cell in SOURCES[name].cells if not is_tagged(cell, "solution")
              for line in cell.source.splitlines()}  # fmt: skip
    student = {line.strip() for cell in editions["student"][name].cells for line in cell.source.splitlines()}
    solved = {line.strip() for solution in solutions(name) for line in solution.splitlines()} - {"", ")", "]", "}"}
    assert len(solved) > 5 and solved & student <= lesson
    assert not re.search("SOLUTION|HIDDEN TESTS|For the teacher", json.dumps(editions["student"][name]))
    assert sum(TO_FILL in cell.source for cell in editions["student"][name].cells) == len(solutions(name))


@pytest.mark.parametrize("name", WITH_BOOK)
def test_the_student_predicts_and_the_choices_stay(editions, name):
    (cell,) = (cell for cell in editions["student"][name].cells if is_tagged(cell, "prediction"))
    (source,) = (cell for cell in SOURCES[name].cells if is_tagged(cell, "prediction"))
    assert cell.source.startswith("prediction = ...  # yours, ")
    assert cell.source.partition("#")[2] == source.source.partition("#")[2]


@pytest.mark.parametrize("name", WITH_BOOK)
def test_the_teacher_edition_has_all_solutions_and_a_note_for_each(editions, name):
    cells = editions["teacher"][name].cells
    assert [split_solution(cell.source)[1] for cell in cells if BEGIN in cell.source] == solutions(name)
    book = find_book(name[:2])
    notes = [cell.source for cell in cells if cell.source.startswith("> **For the teacher")]
    assert len(notes) == len(book.exercises)
    for note, exercise in zip(notes, book.exercises.values(), strict=True):
        assert f"{exercise.minutes} minutes" in note and exercise.pitfalls in note and exercise.number in note


@pytest.mark.parametrize("name", WITH_BOOK)
@pytest.mark.parametrize("edition", ["student", "teacher"])
def test_the_metadata_are_those_of_nbgrader(editions, edition, name):
    graded = [(cell, cell.metadata.nbgrader) for cell in editions[edition][name].cells if "nbgrader" in cell.metadata]
    book = find_book(name[:2])
    assert len({about.grade_id for _, about in graded}) == len(graded) == 2 * len(book.exercises)
    tests = [(cell, about) for cell, about in graded if about.grade]
    assert [about.points for _, about in tests] == [exercise.grade for exercise in book.exercises.values()]
    for cell, about in graded:
        assert {"grade", "grade_id", "locked", "schema_version", "solution", "task"} <= set(about)
        assert about.schema_version == 3 and about.locked == about.grade != about.solution and about.task is False
        assert ("exercises.check(" in cell.source) == about.grade
    for cell, _ in tests:
        assert ("### BEGIN HIDDEN TESTS\nassert exercises.book.verdict(" in cell.source) == (edition == "teacher")


def run(notebook, folder, monkeypatch, **parameters):
    """The cells one after the other, in this process."""
    monkeypatch.setenv("FEDAUTO_OUTPUT", str(folder))
    names = {"In": []}  # as in IPython: the page looks its parameters up there
    for cell in notebook.cells:
        if cell.cell_type == "code":
            names["In"].append(cell.source)
            exec(compile(cell.source, cell.id, "exec"), names)
            if is_tagged(cell, "parameters"):
                names |= parameters


def test_an_unanswered_student_edition_runs_and_asks_for_answers(editions, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("fedauto_core.teaching.exercises.display", lambda shown: said.append(shown.data))
    monkeypatch.setattr("fedauto_core.teaching.predictions.display", lambda shown: said.append(shown.data))
    run(editions["student"]["03_fedauto_by_hand.ipynb"], tmp_path, monkeypatch, rounds=2, seeds=1)
    assert said[0].startswith("**Prediction.** You made no prediction")
    assert len(said) == 1 + len(find_book("03").exercises)
    assert all("There is no answer yet" in text for text in said[1:])


def test_the_teacher_edition_runs_with_its_hidden_tests(editions, tmp_path, monkeypatch):
    run(editions["teacher"]["03_fedauto_by_hand.ipynb"], tmp_path, monkeypatch, rounds=2, seeds=1)


def test_links_among_the_notebooks_stay_and_other_files_are_named(tmp_path):
    notebook = tmp_path / "source" / "01_a.ipynb"
    write_notebook(
        notebook.parent, "01_a", "# 01 [b](02_b.ipynb#x) [c](../c/d.md#e) [i](R.md) [f](#f) [g](https://g.org/h)"
    )
    (made,) = write_edition("student", tmp_path / "out" / "class", notebook.parent)
    assert nbformat.read(made, as_version=4).cells[0].source == (
        "# 01 [b](02_b.ipynb#x) c (`c/d.md` in the repository) i (`source/R.md` in the repository) [f](#f) "
        "[g](https://g.org/h)"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SOLVED.replace(f"{END}\n", ""), r"01_a\.ipynb: cell cell-0: solution markers"),
        (SOLVED.replace(f"{BEGIN}\n", ""), "solution markers"),
        (SOLVED.replace(BEGIN, "").replace(END, ""), "solution markers"),
        (SOLVED.replace(BEGIN, f"{END}\n{BEGIN}"), "solution markers"),
        (SOLVED.replace("exercises", "print"), r"0 calls of exercises\.check"),
        (SOLVED.replace("03.1", "03.99"), r"exercise 03\.99 has no entry in its book"),
        (SOLVED.replace("03.1", "99.1"), "unknown book '99'"),
    ],
)
def test_a_notebook_that_cannot_be_cut_is_named_and_nothing_is_written(tmp_path, source, message):
    write_notebook(tmp_path / "source", "01_a", source)
    with pytest.raises(InputError, match=message):
        write_edition("student", tmp_path / "out", tmp_path / "source")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", '{"nbformat": 4}', '{"cells": [{}], "nbformat": 4, "metadata": {}}']
)
def test_a_damaged_notebook_is_named(tmp_path, text):
    (tmp_path / "01_a.ipynb").write_text(text)
    with pytest.raises(InputError, match=r"01_a\.ipynb cannot be read as a notebook"):
        write_edition("student", tmp_path / "out", tmp_path)


def test_what_lies_in_the_folder_is_kept(tmp_path):
    write_notebook(tmp_path / "source", "01_a", "# 01", SOLVED)
    write_notebook(tmp_path / "source", "02_b", "# 02")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    made = write_edition("student", out, tmp_path / "source")
    assert write_edition("student", out, tmp_path / "source") == made and (out / "mine.txt").read_text() == "mine"
    made[1].unlink()
    worked = made[0].read_text().replace("answer = ...", "answer = 3")
    made[0].write_text(worked)
    with pytest.raises(InputError, match=r"other notebooks of the same name: 01_a\.ipynb\."):
        write_edition("student", out, tmp_path / "source")
    assert made[0].read_text() == worked and not made[1].exists()


@pytest.mark.parametrize("other", [None, b"", b"\xff\xfe"], ids=["folder", "empty", "binary"])
def test_whatever_else_bears_the_name_is_kept(tmp_path, other):
    write_notebook(tmp_path / "source", "01_a", "# 01")
    path = tmp_path / "out" / "01_a.ipynb"
    path.parent.mkdir()
    path.mkdir() if other is None else path.write_bytes(other)
    with pytest.raises(InputError, match=r"other notebooks of the same name: 01_a\.ipynb\."):
        write_edition("student", path.parent, tmp_path / "source")
    assert path.is_dir() if other is None else path.read_bytes() == other


def test_bad_input_is_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for line, said in (
        (f"edition pupil --out {tmp_path / 'out'}", "unknown edition 'pupil'"),
        (f"edition student --out {tmp_path / 'file'}", "is a file"),
        (f"edition student --out {tmp_path / 'file' / 'below'}", "notebooks cannot be written into"),
        ("edition student --out /proc/nowhere", "notebooks cannot be written into"),
        (f"edition student --out {tmp_path / 'out'} --notebooks {tmp_path}", "no notebook in"),
    ):
        assert command.main(line.split()) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    assert command.main(["edition", "teacher", "--out", str(tmp_path / "new" / "class")]) == 0
    assert capsys.readouterr().out == f"{len(SOURCES)} notebooks in {tmp_path / 'new' / 'class'}\n"
    with pytest.raises(InputError, match="unknown edition"):
        make_edition(next(iter(SOURCES.values())), "master")


DATA = yaml.safe_load(PATHS.read_text(encoding="utf-8"))


def test_the_paths_are_the_generated_ones(capsys):
    """`python -m fedauto_core paths` prints what belongs between the marks."""
    readme = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- paths:begin -->\n(.*)<!-- paths:end -->", readme, re.S)[1]
    assert command.main(["paths"]) == 0
    assert shown == capsys.readouterr().out == paths_page(NOTEBOOKS) + "\n"


def test_every_notebook_has_a_goal_and_is_in_the_full_course():
    assert sorted(DATA["notebooks"]) == [name[:2] for name in SOURCES]
    assert [path["title"] for path in DATA["paths"] if path["steps"] == "all"] == ["The full course"]
    assert all(about["goal"] for about in DATA["notebooks"].values())


@pytest.mark.parametrize("path", DATA["paths"], ids=lambda path: path["title"])
def test_what_a_notebook_builds_on_comes_before_it(path):
    chosen = sorted(DATA["notebooks"]) if path["steps"] == "all" else path["steps"]
    steps = [step if isinstance(step, str) else step.get("notebook") for step in chosen]
    for place, number in enumerate(steps):
        needs = DATA["notebooks"][number].get("after", ()) if number else ()
        assert not {*needs} & {*steps[place:]}


@pytest.mark.parametrize("path", [path for path in DATA["paths"] if "limit" in path], ids=lambda path: path["title"])
def test_a_path_with_a_limit_keeps_it(path):
    minutes = 0
    for step in path["steps"]:
        if "minutes" in step:
            minutes += step["minutes"]
        else:
            (name,) = (name for name in SOURCES if name[:2] == step["notebook"])
            minutes += reading_minutes(SOURCES[name]) + exercise_minutes(step["notebook"], step["exercises"])
    assert minutes <= path["limit"]


def test_reading_time_grows_with_words_and_lines_and_leaves_the_exercises_out(tmp_path):
    write_notebook(tmp_path, "01_a", "# " + "word " * 1199, "x = 1\n\n" * 100, "# # Exercises", "y = 1\n" * 500)
    notebook = nbformat.read(Path(tmp_path) / "01_a.ipynb", as_version=4)
    assert reading_minutes(notebook) == 75
    notebook.cells[2].source = "## Exercises"
    assert reading_minutes(notebook) == 20


def test_exercises_of_a_path_exist():
    with pytest.raises(InputError, match=r"unknown exercise '03\.99'"):
        exercise_minutes("03", ["03.99"])
