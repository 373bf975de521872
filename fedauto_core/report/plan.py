"""What a batch will do: notebooks, their parameters, a profile, and the key that tells whether a result is current."""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import io
import json
import math
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from fedauto_core.errors import InputError, require, require_known
from fedauto_core.report.record import PARAMETER_TYPES, REPORTS, verdict_files
from fedauto_core.store.keys import core_hash, versions

NOTEBOOKS = REPORTS.parent / "notebooks"
TYPES = {kind.__name__: kind for kind in PARAMETER_TYPES}
PARAMETERS_TAG = "parameters"
Value = bool | int | float | str


@dataclass(frozen=True)
class Parameter:
    """One line `name: kind = default  # help` of a parameters cell."""

    name: str
    kind: str
    default: Value
    help: str

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} = {self.default!r} ({self.help})"

    def check(self, value: object, where: str) -> Value:
        """`value` as this parameter's type; text is parsed. InputError if it does not fit."""
        kind = TYPES[self.kind]
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
            allowed="true or false" if kind is bool else f"one {'finite ' * (kind is float)}{self.kind}",
            remedy=f"the parameter is {self}",
        )
        return result


@dataclass(frozen=True)
class Notebook:
    """A source notebook and what its parameters cell declares."""

    name: str
    path: Path
    source: str
    parameters: Mapping[str, Parameter]


def _parse_parameters(source: str, where: str) -> dict[str, Parameter]:
    help_at = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for line in ast.parse(source).body:
        try:
            name, kind = line.target.id, line.annotation.id
            parameter = Parameter(name, kind, ast.literal_eval(line.value), help_at[line.end_lineno])
            found[name] = replace(parameter, default=parameter.check(parameter.default, where))
        except (AttributeError, ValueError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{where}, parameters cell: cannot read {ast.unparse(line)!r}",
                allowed=f"lines `name: type = literal  # help` with type {', '.join(TYPES)}",
                remedy="move anything else to another cell, and write a help text",
            ) from None
    return found


def read_notebook(path: Path) -> Notebook:
    """Read a source notebook. InputError if cells have no identifiers or the parameters cell is not a plain list."""
    source = path.read_text(encoding="utf-8")
    raw = json.loads(source)
    require(
        all(cell.get("id") for cell in raw["cells"]),
        f"{path.name}: cells without identifiers",
        allowed="notebook format 4.5 or later",
        remedy="open and save it with a current Jupyter",
    )
    cells = [cell for cell in raw["cells"] if PARAMETERS_TAG in cell["metadata"].get("tags", ())]
    require(
        len(cells) <= 1,
        f"{path.name}: {len(cells)} cells tagged {PARAMETERS_TAG!r}",
        allowed="at most one",
        remedy="keep one parameters cell",
    )
    parameters = _parse_parameters("".join(cells[0]["source"]), path.name) if cells else {}
    return Notebook(path.stem, path, source, parameters)


def read_notebooks(folder: Path = NOTEBOOKS) -> dict[str, Notebook]:
    """All notebooks of a folder, by name."""
    return {path.stem: read_notebook(path) for path in sorted(folder.glob("*.ipynb"))}


@dataclass(frozen=True)
class Job:
    """One run of a notebook in a batch, with its final parameters.

    name: the notebook's, or the notebook's with "-variant" behind it where a profile runs it more than once.
    minutes: expected on two cores. processes: how many its experiments can use. after: names of the jobs that must have
    ended before it starts. reads_all: it reads the verdicts of all others (`after: all`), so their hashes belong to
    its key.
    """

    name: str
    notebook: Notebook
    parameters: Mapping[str, Value]
    minutes: float
    processes: int = 1
    after: tuple[str, ...] = ()
    reads_all: bool = False


def _profile_entry(entry: object, where: str) -> dict[str, object]:
    keys = {"minutes", "processes", "parameters", "after"}
    require(
        isinstance(entry, dict) and set(entry) <= keys and isinstance(entry.get("parameters", {}), dict),
        f"{where}: {entry!r}",
        allowed="a mapping with minutes, processes, parameters (a mapping) and after",
        remedy="correct the profile",
    )
    minutes = entry.get("minutes")
    require(
        type(minutes) in (int, float) and 0 < minutes < math.inf,
        f"{where}: minutes {minutes!r}",
        allowed="a positive number",
        remedy="write the expected minutes on two cores",
    )
    processes = entry.get("processes", 1)
    require(
        type(processes) is int and processes >= 1,
        f"{where}: processes {processes!r}",
        allowed="a whole number >= 1",
        remedy="write how many processes its experiments can use",
    )
    return entry


def read_profile(profile: str, notebooks_dir: Path = NOTEBOOKS) -> list[Job]:
    """The jobs of notebooks_dir/profiles/<profile>.yaml in the order in which they are started: the longest first."""
    require_known("profile", profile, [path.stem for path in (notebooks_dir / "profiles").glob("*.yaml")])
    path = notebooks_dir / "profiles" / f"{profile}.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    require(
        isinstance(entries, dict) and entries,
        f"profile {path.name} without notebooks",
        allowed="notebook name -> {minutes, parameters}",
        remedy="name at least one notebook",
    )
    notebooks, jobs = read_notebooks(notebooks_dir), []
    for name, raw in entries.items():
        source = name.partition("-")[0]
        require_known("notebook", source, notebooks)
        where = f"{path.name}, {name}"
        entry, notebook = _profile_entry(raw, where), notebooks[source]
        for key in entry.get("parameters", {}):
            _require_parameter(key, [notebook], where)
        values = {
            key: parameter.check(entry.get("parameters", {}).get(key, parameter.default), where)
            for key, parameter in notebook.parameters.items()
        }
        reads_all = entry.get("after") == "all"
        after = tuple(_not_last(entries)) if reads_all else (entry["after"],) if "after" in entry else ()
        for predecessor in after:
            require_known("notebook to wait for", predecessor, [key for key in entries if key != name])
        jobs.append(Job(name, notebook, values, float(entry["minutes"]), entry.get("processes", 1), after, reads_all))
    _require_startable(jobs, path.name)
    return sorted(jobs, key=lambda job: (job.reads_all, -job.minutes, job.name))


def _not_last(entries: Mapping[str, object]) -> list[str]:
    return [name for name, entry in entries.items() if not (isinstance(entry, dict) and entry.get("after") == "all")]


def _require_startable(jobs: Sequence[Job], where: str) -> None:
    waiting = {job.name: set(job.after) for job in jobs}
    while ready := [name for name, after in waiting.items() if not after & waiting.keys()]:
        for name in ready:
            del waiting[name]
    require(
        not waiting,
        f"{where}: {', '.join(waiting)} wait for each other",
        allowed="an order without circles",
        remedy="remove one `after`",
    )


def _require_parameter(key: str, notebooks: Sequence[Notebook], where: str) -> None:
    names = sorted({name for notebook in notebooks for name in notebook.parameters})
    require(
        key in names,
        f"{where}: unknown parameter {key!r}",
        allowed=", ".join(names) or "none, these notebooks have no parameters",
        remedy="use one of the listed names; `python -m fedauto_core list` shows types and meanings",
    )


def override(jobs: Sequence[Job], settings: Sequence[str]) -> list[Job]:
    """Apply `name=value` settings to every job that has the parameter; InputError if none has it or it does not fit."""
    jobs = list(jobs)
    for setting in settings:
        key, equals, text = setting.partition("=")
        require(bool(equals), f"--set {setting!r}", allowed="name=value", remedy="write --set name=value")
        _require_parameter(key, [job.notebook for job in jobs], "--set")
        jobs = [
            replace(job, parameters={**job.parameters, key: job.notebook.parameters[key].check(text, "--set")})
            if key in job.parameters
            else job
            for job in jobs
        ]
    return jobs


def select(jobs: Sequence[Job], patterns: Sequence[str]) -> list[Job]:
    """The jobs whose name matches a shell pattern (all without patterns); InputError if a pattern matches none."""
    for pattern in patterns:
        require(
            any(fnmatch.fnmatchcase(job.name, pattern) for job in jobs),
            f"--only {pattern!r} matches no notebook of the profile",
            allowed=", ".join(sorted(job.name for job in jobs)),
            remedy="name a notebook, or use a pattern such as '1*'",
        )
    return [job for job in jobs if not patterns or any(fnmatch.fnmatchcase(job.name, p) for p in patterns)]


def job_key(job: Job, threads: int, out: Path) -> str:
    """SHA-256 over source, parameters, core, versions, threads and, for `after: all`, the verdicts that it reads."""
    parts: list[object] = [job.notebook.source, dict(job.parameters), core_hash(), versions(), threads]
    if job.reads_all:
        files = {name: path for name, path in verdict_files(out).items() if name != job.name}
        parts.append({name: path.read_text(encoding="utf-8") for name, path in files.items()})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, object] | None:
    """The manifest of a finished notebook, or None."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def is_current(job: Job, threads: int, out: Path) -> bool:
    """Whether the job's folder holds the result of exactly this job, every file untouched."""
    manifest = read_manifest(out / job.name)
    return (
        manifest is not None
        and manifest["key"] == job_key(job, threads, out)
        and manifest["files"] == file_hashes(out / job.name)
    )


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a notebook's folder except the manifest itself."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }
