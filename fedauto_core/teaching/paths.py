"""Ways through the notebooks, with goals, prerequisites and times: one table per path, from paths.yaml.

Reading time is computed from the notebooks: their words at `WORDS` and their lines of code at `LINES` a minute, rounded
up to `STEP` minutes; the exercises bring the minutes that their book states. Silent reading of non-fiction runs at some
238 words a minute (Brysbaert 2019, Journal of Memory and Language 109); prose with formulas gets half of that here.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml

from fedauto_core.errors import require_known

from .books import find_book, numbers
from .edition import is_tagged

WORDS = 120
LINES = 10
STEP = 5
PATHS = Path(__file__).with_name("paths.yaml")
HEAD = "| notebook | afterwards you can | builds on | reading | exercises |\n| --- | --- | --- | ---: | ---: |"


def reading_minutes(notebook: nbformat.NotebookNode) -> int:
    """Minutes to read the lesson of a notebook, without its exercises."""
    words = lines = 0
    for cell in notebook.cells:
        if cell.source.startswith("## Exercises"):
            break
        if cell.cell_type == "markdown":
            words += len(cell.source.split())
        elif not is_tagged(cell, "parameters"):
            lines += sum(bool(line.strip()) for line in cell.source.splitlines())
    return STEP * math.ceil((words / WORDS + lines / LINES) / STEP)


def exercise_minutes(number: str, chosen: Sequence[str] | None = None) -> int:
    """Minutes of the exercises of notebook `number`: all, or those chosen. Raises InputError for unknown ones."""
    known = find_book(number).exercises if number in numbers() else {}
    for exercise in chosen or ():
        require_known("exercise", exercise, known)
    return sum(exercise.minutes for name, exercise in known.items() if chosen is None or name in chosen)


def paths_page(notebooks_dir: Path) -> str:
    """All paths as Markdown, links as seen from the notebooks' folder. Raises InputError for what paths.yaml names and
    is not there."""
    data = yaml.safe_load(PATHS.read_text(encoding="utf-8"))
    files = {path.name[:2]: path for path in sorted(notebooks_dir.glob("[0-9][0-9]_*.ipynb"))}
    rates = (
        f"Reading times are computed: {WORDS} words and {LINES} lines of code a minute, rounded up to {STEP} minutes "
        "for each notebook; exercises take the minutes that stand with them.\n"
    )
    return "\n".join([rates, *(_path(path, data["notebooks"], files) for path in data["paths"])])


def _path(path: Mapping[str, Any], about: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    rows, reading, solving = [], 0, 0
    for step in sorted(about) if path["steps"] == "all" else path["steps"]:
        step = {"notebook": step} if isinstance(step, str) else step
        if "part" in step:
            rows.append(f"| **{step['part']}** | | | | |")
        elif "do" in step:
            rows.append(f"| | {step['do']} | | {step['minutes']} min | |")
            reading += step["minutes"]
        else:
            row, minutes, more = _notebook(step, about, files)
            rows.append(row)
            reading, solving = reading + minutes, solving + more
    rows.append(f"| together | | | {_time(reading)} | {_time(solving)} |")
    return "\n".join([f"### {path['title']}", "", path["about"], "", HEAD, *rows, ""])


def _notebook(step: Mapping[str, Any], about: Mapping[str, Any], files: Mapping[str, Path]) -> tuple[str, int, int]:
    number, chosen = step["notebook"], step.get("exercises")
    for known in (files, about):
        require_known("notebook", number, known)
    facts, minutes = about[number], reading_minutes(nbformat.read(files[number], as_version=4))
    more = exercise_minutes(number, chosen)
    needs = [*(f"[{other}]({files[other].name})" for other in facts.get("after", ())), facts.get("knows", "")]
    named = ", ".join(chosen) + ": " if chosen else ""
    solving = f"{named}{more} min" if more else ""
    cells = (f"[{files[number].stem}]({files[number].name})", facts["goal"], ", ".join(filter(None, needs)))
    return f"| {' | '.join(cells)} | {minutes} min | {solving} |", minutes, more


def _time(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"
