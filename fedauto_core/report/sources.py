"""Source notebooks: where they lie, the parameters that they declare, the modules of the core that they import."""

import ast
import contextlib
import io
import json
import math
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, get_args

from fedauto_core.errors import InputError, require
from fedauto_core.store.keys import PACKAGE, imported

from .plain import plain

CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "notebooks" / "profiles").is_dir() else None
NOTEBOOKS = CHECKOUT / "notebooks" if CHECKOUT else PACKAGE / "_notebooks"
"""Beside the package in a checkout; an installed package brings its own along."""
Value = bool | int | float | str
TYPES = {kind.__name__: kind for kind in get_args(Value)}
PARAMETERS_TAG = "parameters"
PLAIN_LINES = {
    "allowed": f"lines `name: type = literal  # help` with type {', '.join(TYPES)}",
    "remedy": "move anything else to another cell, and write a help text",
}
MAGIC = re.compile(r"^(\s*)(?:[\w, ]+=\s*)?[%!].*$", re.MULTILINE)


@dataclass(frozen=True)
class Parameter:
    """One line `name: kind = default  # help` of a parameters cell."""

    name: str
    kind: type
    default: Value
    help: str

    def __str__(self) -> str:
        return f"{self.name}: {self.kind.__name__} = {self.default!r} ({self.help})"

    def check(self, value: object, where: str) -> Value:
        """`value` as this parameter's type; text is parsed. InputError if it does not fit."""
        kind = self.kind
        try:
            if isinstance(value, str):
                result = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
            else:
                result = float(value) if kind is float and type(value) is int else value
            fits = type(result) is kind and (kind is not float or math.isfinite(result))
        except (ValueError, KeyError):
            fits = False
        require(
            fits,
            f"{where}: value {value!r} for the parameter {self.name}",
            allowed="true or false" if kind is bool else f"one {'finite ' * (kind is float)}{kind.__name__}",
            remedy=f"the parameter is {self}",
        )
        return result


@dataclass(frozen=True)
class Notebook:
    """A source notebook, what its parameters cell declares, and the modules of the core that its code imports.

    title: its first heading. problem: why it cannot be read, if so; all else is empty then.
    """

    name: str
    source: str = ""
    title: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    problem: InputError | None = None


def declared(cell: str) -> tuple[str, ...]:
    """The names in a cell that holds nothing but lines `name: type = ...` of a parameters cell; else none."""
    try:
        lines = ast.parse(cell).body
    except (SyntaxError, ValueError):
        return ()
    plain = [line for line in lines if isinstance(line, ast.AnnAssign) and ast.unparse(line.annotation) in TYPES]
    return tuple(ast.unparse(line.target) for line in plain) if len(plain) == len(lines) else ()


def _parse_parameters(source: str, where: str) -> dict[str, Parameter]:
    try:
        lines = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{where}, parameters cell: {error}", **PLAIN_LINES) from None
    help_at = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for line in lines:
        try:
            name, kind = line.target.id, TYPES[line.annotation.id]
            parameter = Parameter(name, kind, ast.literal_eval(line.value), help_at[line.end_lineno])
        except (AttributeError, ValueError, KeyError):
            what = f"{where}, parameters cell: cannot read {ast.unparse(line)!r}"
            raise InputError(what, **PLAIN_LINES) from None
        found[name] = replace(parameter, default=parameter.check(parameter.default, where))
    return found


class _Cell(NamedTuple):
    kind: str
    id: str | None
    tags: list[str]
    text: str


def _read_cells(path: Path) -> tuple[str, list[_Cell]]:
    """The text of a notebook's file, and its cells."""
    try:
        source = path.read_text(encoding="utf-8-sig")  # an editor may have put a byte-order mark in front
        return source, [
            _Cell(cell["cell_type"], cell.get("id"), list(cell["metadata"].get("tags", ())), "".join(cell["source"]))
            for cell in json.loads(source)["cells"]
        ]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path.name} cannot be read: {type(error).__name__}: {error}",
            allowed="a notebook of format 4.5 or later: JSON in UTF-8",
            remedy="mend it, or take it out of the folder",
        ) from None


def _imported_modules(cells: Sequence[_Cell]) -> tuple[str, ...]:
    """What the code cells import from the core. IPython's own lines do not count, nor do cells in other languages."""
    found: set[str] = set()
    for cell in cells:
        for text in (cell.text, MAGIC.sub(r"\1pass", cell.text)) if cell.kind == "code" else ():
            with contextlib.suppress(SyntaxError, ValueError):
                found.update(imported(text))
                break
    return tuple(sorted(found))


def read_notebook(path: Path) -> Notebook:
    """Read a source notebook. InputError if it is none, lacks cell identifiers, or has no plain parameters cell."""
    source, cells = _read_cells(path)
    require(
        all(cell.id for cell in cells),
        f"{path.name}: cells without identifiers",
        allowed="notebook format 4.5 or later",
        remedy="open and save it with a current Jupyter",
    )
    tagged = [cell for cell in cells if PARAMETERS_TAG in cell.tags]
    require(
        len(tagged) <= 1,
        f"{path.name}: {len(tagged)} cells tagged {PARAMETERS_TAG!r}",
        allowed="at most one",
        remedy="keep one parameters cell",
    )
    parameters = _parse_parameters(tagged[0].text, path.name) if tagged else {}
    prose = "\n".join(cell.text for cell in cells if cell.kind == "markdown")
    heading = re.search(r"^# (.+)$", prose, re.MULTILINE)
    return Notebook(path.stem, source, plain(heading[1]) if heading else "", parameters, _imported_modules(cells))


def read_notebooks(folder: Path = NOTEBOOKS) -> dict[str, Notebook]:
    """All notebooks of a folder, by name; one that cannot be read has its `problem`. InputError if there are none."""
    found = {}
    for path in sorted(folder.glob("*.ipynb")):
        try:
            found[path.stem] = read_notebook(path)
        except InputError as error:
            found[path.stem] = Notebook(path.stem, problem=error)
    require(
        bool(found),
        f"no notebooks in {folder}",
        allowed="a folder with NAME.ipynb and profiles/NAME.yaml",
        remedy="name it with --notebooks",
    )
    return found
