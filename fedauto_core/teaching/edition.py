"""The two editions of the notebooks: `student` has cells to fill, `teacher` has the solutions and what goes wrong.

Both carry the cell metadata of nbgrader (schema version 3); the teacher's has its markers, too, and its test cells fail
on a wrong answer. Only the student's may be given out: what nbgrader releases of the teacher's lacks the solutions, but
keeps the notes and the author's prediction.
"""

import os
import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from fedauto_core.errors import InputError, require, require_known
from fedauto_core.store.writing import write_atomically

from .books import find_book
from .exercises import BEGIN, END, GRADES, Exercise

EDITIONS = ("student", "teacher")
TO_FILL = "answer = ...  # your answer here"
PREDICTION = re.compile(r"^prediction = .*?(?=\s*#|$)", re.MULTILINE)
LINK = re.compile(r"!?\[([^\]]*)\]\((?!#|[a-z]+:)([^)#\s]+)[^)\s]*\)")
CHECK = re.compile(r'^exercises\.check\(\s*"(\d\d\.\d+)"', re.MULTILINE)


def split_solution(source: str) -> tuple[str, str, str]:
    """What stands before, between and after the two markers of a cell's code.

    Raises InputError unless each stands once, alone on its line, and in this order.
    """
    lines = source.split("\n")
    found = [(number, line) for number, line in enumerate(lines) if re.search(r"#\s*(BEGIN|END) SOLUTION", line)]
    require(
        [line for _, line in found] == [BEGIN, END],
        f"solution markers {[line for _, line in found]}",
        allowed=f"one line {BEGIN!r}, and below it one line {END!r}",
        remedy="put the markers around the solution",
    )
    first, last = (number for number, _ in found)
    return "\n".join(lines[:first]), "\n".join(lines[first + 1 : last]), "\n".join(lines[last + 1 :])


def is_tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    """Whether a cell has the tag."""
    return tag in cell.metadata.get("tags", ())


def exercise_number(source: str) -> str:
    """Which exercise a solution cell checks, such as "03.2". Raises InputError unless it is one."""
    checked = CHECK.findall(source)
    require(
        len(checked) == 1,
        f"{len(checked)} calls of exercises.check in a solution cell",
        allowed='one, as exercises.check("03.2", answer)',
        remedy="give every exercise a cell of its own",
    )
    return checked[0]


def make_edition(notebook: nbformat.NotebookNode, edition: str) -> nbformat.NotebookNode:
    """A new notebook: the edition of a source notebook, without outputs. edition: one of `EDITIONS`.

    Raises InputError for unbalanced markers and for exercises that the book lacks.
    """
    require_known("edition", edition, EDITIONS)
    made = nbformat.v4.new_notebook(metadata=notebook.metadata)
    for cell in notebook.cells:
        try:
            made.cells.extend(_cells(cell.copy(), edition))
        except InputError as error:
            raise error.within(f"cell {cell.id}") from None
    return made


def _cells(cell: nbformat.NotebookNode, edition: str) -> list[nbformat.NotebookNode]:
    if cell.cell_type != "code":
        return [cell]
    cell.outputs, cell.execution_count = [], None
    if is_tagged(cell, "solution") or "SOLUTION" in cell.source or CHECK.search(cell.source):
        return _exercise(cell, edition)
    if is_tagged(cell, "prediction") and edition == "student":
        cell.source = PREDICTION.sub("prediction = ...", cell.source)
    return [cell]


def _exercise(cell: nbformat.NotebookNode, edition: str) -> list[nbformat.NotebookNode]:
    """A solution cell as two: one to be filled, and one that is locked and checks."""
    before, solution, after = split_solution(cell.source)
    number = exercise_number(after)
    exercise, name = find_book(number[:2]).exercises.get(number), number.replace(".", "-")
    require(
        exercise is not None,
        f"exercise {number} has no entry in its book",
        allowed="exercises of the book",
        remedy=f"write it in fedauto_core/teaching/books/n{number[:2]}.py",
    )
    student = edition == "student"
    middle = TO_FILL if student else f"{BEGIN}\n{solution}\n{END}"
    check = after.strip() if student else f"{after.strip()}\n{_hidden(after)}"
    cells = [
        new_code_cell("\n".join(filter(None, (before, middle))), id=cell.id, metadata=_graded(f"exercise-{name}", 0)),
        new_code_cell(check, id=f"check-{name}", metadata=_graded(f"check-{name}", exercise.grade)),
    ]
    return cells if student else [*cells, new_markdown_cell(_note(exercise), id=f"note-{name}")]


def _hidden(check: str) -> str:
    """nbgrader gives the points of a test cell that raises nothing; the reader's own check only says a sentence."""
    call = check[check.index("exercises.check(") :].strip().replace("exercises.check(", "exercises.book.verdict(", 1)
    return f"### BEGIN HIDDEN TESTS\nassert {call} is None\n### END HIDDEN TESTS"


def _graded(name: str, points: int) -> dict[str, object]:
    """Metadata of nbgrader: a cell to be filled (no points), or a locked test cell."""
    test = points > 0
    about = {"grade": test, "grade_id": name, "locked": test, "schema_version": 3, "solution": not test, "task": False}
    return {"nbgrader": about | ({"points": points} if test else {})}


def _note(exercise: Exercise) -> str:
    return (
        f"> **For the teacher, {exercise.number}.** Grade {exercise.grade}: {GRADES[exercise.grade]}; "
        f"{exercise.minutes} minutes. The answer is {exercise.expects}. What usually goes wrong: {exercise.pitfalls}"
    )


def write_edition(edition: str, out: Path, notebooks_dir: Path) -> list[Path]:
    """Write the edition of every notebook of a folder into `out`, once all are made; other files there are kept.

    Raises InputError for an unknown edition, a folder without notebooks or with a damaged one, markers that are not
    balanced, a notebook in `out` that is another than the one to be written (somebody may have worked in it), and an
    `out` that cannot be read or written.
    """
    require_known("edition", edition, EDITIONS)
    sources = sorted(notebooks_dir.glob("*.ipynb"))
    require(
        bool(sources),
        f"no notebook in {notebooks_dir}",
        allowed="a folder with *.ipynb files",
        remedy="name the folder of the source notebooks",
    )
    texts = {out / path.name: _text(path, edition) for path in sources}
    try:
        _require_free(texts, out)
        for path, text in texts.items():
            write_atomically(path, text)
    except OSError as error:
        raise InputError(
            f"notebooks cannot be written into {out}: {error}",
            allowed="a folder that can be made, read and written",
            remedy="name another folder",
        ) from None
    return list(texts)


def _text(path: Path, edition: str) -> str:
    try:
        source = nbformat.read(path, as_version=4)
        nbformat.validate(source)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise InputError(
            f"{path} cannot be read as a notebook ({str(error).splitlines()[0]})",
            allowed="Jupyter notebooks of format 4",
            remedy="mend it, or take it out of the folder",
        ) from None
    try:
        made = make_edition(source, edition)
    except InputError as error:
        raise error.within(path.name) from None
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(lambda found: _from_elsewhere(found, path.parent), cell.source)
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def _from_elsewhere(link: re.Match[str], notebooks_dir: Path) -> str:
    """A link as a class gets it: the notebooks lie side by side again, but other files of the repository are only
    named, as the edition is handed on without them."""
    text, target = link.groups()
    if target.endswith(".ipynb") and "/" not in target:
        return link[0]
    folder = notebooks_dir.resolve()
    return f"{text} (`{Path(os.path.relpath(folder / target, folder.parent)).as_posix()}` in the repository)"


def _require_free(texts: dict[Path, str], out: Path) -> None:
    require(
        not out.exists() or out.is_dir(),
        f"{out} is a file",
        allowed="a folder, or a path where nothing is",
        remedy="name another folder",
    )
    there = {path: text.encode() for path, text in texts.items() if path.exists()}
    changed = [path.name for path, content in there.items() if not path.is_file() or path.read_bytes() != content]
    require(
        not changed,
        f"{out} has other notebooks of the same name: {', '.join(changed)}",
        allowed="a new folder, or one where these are as this command left them",
        remedy="name another folder, or move them away: they may hold somebody's work",
    )
