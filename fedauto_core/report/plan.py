"""What a batch will do: notebooks, their parameters, a profile, and the key that tells whether a result is current."""

import fnmatch
import graphlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from fedauto_core.errors import InputError, require, require_known, require_number
from fedauto_core.store.keys import OPTIONAL_PACKAGES, code_hash, versions

from .folder import content_hash, read_manifest, verdict_files
from .sources import NOTEBOOKS, Notebook, Value, read_notebooks

VARIANT = r"[\w.=,+-]*"
WORKER = "fedauto_core.report.worker"
WORDS = {
    "notebook_sha256": "notebook",
    "parameters": "parameters",
    "code_sha256": "code",
    "versions": "packages",
    "verdicts_sha256": "verdicts",
}
"""Entry of `inputs_of` -> what a reader is told when it changed."""


@dataclass(frozen=True)
class Job:
    """One run of a notebook in a batch, with its final parameters.

    name: the notebook's, or the notebook's with "-variant" behind it where a profile runs it more than once.
    minutes: expected on two cores. parallel: whether its experiments share all cores. after: names of the jobs that
    must have ended before it starts. reads_all: it reads the verdicts of all others (`after: all`), so their hashes
    belong to its key.
    """

    name: str
    notebook: Notebook
    parameters: Mapping[str, Value]
    minutes: float
    parallel: bool = False
    after: tuple[str, ...] = ()
    reads_all: bool = False


def _profile_entry(entry: object, where: str) -> dict[str, object]:
    keys = {"minutes", "parallel", "parameters", "after"}
    require(
        isinstance(entry, dict) and set(entry) <= keys and isinstance(entry.get("parameters", {}), dict),
        f"{where}: {entry!r}",
        allowed="a mapping with minutes, parallel, parameters (a mapping) and after",
        remedy="correct the profile",
    )
    require_number(f"{where}: minutes", entry.get("minutes"), remedy="write the expected minutes on two cores")
    require(
        isinstance(entry.get("parallel", False), bool),
        f"{where}: parallel = {entry.get('parallel')!r}",
        allowed="true or false",
        remedy="write `parallel: true` where the notebook's experiments share all cores",
    )
    return entry


def _read_entries(profile: str, folder: Path) -> dict[str, object]:
    """Job name -> entry, unchecked, of a profile."""
    known = {path.stem: path for path in folder.glob("*.yaml")}
    require(
        bool(known),
        f"no profiles in {folder}",
        allowed="a folder of notebooks with profiles/NAME.yaml in it",
        remedy="name it with --notebooks",
    )
    require_known("profile", profile, known)
    try:
        loader = yaml.SafeLoader(known[profile].read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
        _refuse_repeated_keys(root)
        entries = None if root is None else loader.construct_document(root)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"profile {known[profile].name} cannot be read: {' '.join(str(error).split())}",
            allowed="YAML in UTF-8, every key once",
            remedy="mend the file",
        ) from None
    require(
        isinstance(entries, dict) and entries and all(isinstance(name, str) for name in entries),
        f"profile {known[profile].name} without notebooks",
        allowed="notebook name -> {minutes, parameters}",
        remedy="name at least one notebook",
    )
    return entries


def _refuse_repeated_keys(node: yaml.Node | None) -> None:
    """ValueError, with the line, if a mapping at or below `node` has a key twice: YAML lets the last one win."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if str(key.value) in seen:
                raise ValueError(f"line {line}: key {key.value!r} is already on line {seen[str(key.value)]}")
            seen[str(key.value)] = line
            _refuse_repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item)


def banner(profile: str) -> str:
    """What every page of a profile says on top: that of `smoke` shows that everything runs, and decides nothing."""
    return "Check, not evidence: tiny data, two seeds, short runs (profile smoke)." if profile == "smoke" else ""


def read_profile(profile: str, notebooks_dir: Path = NOTEBOOKS) -> list[Job]:
    """The jobs of notebooks_dir/profiles/<profile>.yaml in the order in which they are started: the longest first."""
    entries, notebooks = _read_entries(profile, notebooks_dir / "profiles"), read_notebooks(notebooks_dir)
    where_from, jobs = f"{profile}.yaml", []
    others = [k for k, entry in entries.items() if not (isinstance(entry, dict) and entry.get("after") == "all")]
    for name, raw in entries.items():
        source, _, variant = name.partition("-")
        require_known("notebook", source, notebooks)
        require(
            re.fullmatch(VARIANT, variant) is not None,
            f"{where_from}: name {name!r}",
            allowed="a notebook's name, or that, a hyphen, and letters, digits or any of _ . = , + - for a variant",
            remedy="rename the variant: its page is a folder of this name",
        )
        where = f"{where_from}, {name}"
        entry, notebook = _profile_entry(raw, where), notebooks[source]
        for key in entry.get("parameters", {}) if notebook.problem is None else ():
            _require_parameter(key, [notebook], where)
        values = {
            key: parameter.check(entry.get("parameters", {}).get(key, parameter.default), where)
            for key, parameter in notebook.parameters.items()
        }
        reads_all = entry.get("after") == "all"
        after = tuple(others) if reads_all else (entry["after"],) if "after" in entry else ()
        for predecessor in after:
            require_known("notebook to wait for", predecessor, [key for key in entries if key != name])
        minutes, parallel = float(entry["minutes"]), entry.get("parallel", False)
        jobs.append(Job(name, notebook, values, minutes, parallel, after, reads_all))
    try:
        graphlib.TopologicalSorter({job.name: job.after for job in jobs}).prepare()
    except graphlib.CycleError as error:
        raise InputError(
            f"{where_from}: {', '.join(sorted({*error.args[1]}))} wait for each other",
            allowed="an order without circles",
            remedy="remove one `after`",
        ) from None
    # Those that share all cores run alone, so they come first: the others then fill the cores side by side.
    return sorted(jobs, key=lambda job: (job.reads_all, not job.parallel, -job.minutes, job.name))


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


def spread(jobs: Sequence[Job], grids: Sequence[str]) -> list[Job]:
    """Every job once for each point of the product of `name=value,value` grids, under a name that says which.
    InputError if a job lacks a parameter, a value does not fit, or two points would have one name."""
    for grid in grids:
        key, equals, values = grid.partition("=")
        require(bool(equals and values), f"--grid {grid!r}", allowed="name=value,value", remedy="write --grid name=1,2")
        for job in jobs:
            _require_parameter(key, [job.notebook], f"--grid, {job.notebook.name}")
        jobs = [
            replace(job, name=f"{job.name}-{_in_a_name(key, value)}", parameters={**job.parameters, key: value})
            for job in jobs
            for value in (job.notebook.parameters[key].check(text, "--grid") for text in values.split(","))
        ]
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    remedy = "take one of them out of the grid"
    require(not twice, f"--grid gives two pages the name {', '.join(twice)}", allowed="one name each", remedy=remedy)
    return list(jobs)


def _in_a_name(key: str, value: Value) -> str:
    return re.sub(r"[^\w.+]+", "_", f"{key}_{value}")


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


def inputs_of(job: Job, out: Path) -> dict[str, object]:
    """Everything that the job's result depends on, as its manifest keeps it: source, parameters, the code that the
    notebook imports or that makes its page, versions and, for `after: all`, the verdicts that it reads."""
    found = {
        "notebook_sha256": hashlib.sha256(job.notebook.source.encode()).hexdigest(),
        "parameters": dict(job.parameters),
        "code_sha256": code_hash({*job.notebook.modules, WORKER}),
        "versions": versions(OPTIONAL_PACKAGES),
    }
    if job.reads_all:
        found["verdicts_sha256"] = {k: content_hash(path) for k, path in verdict_files(out).items() if k != job.name}
    return found


def changes(job: Job, out: Path) -> list[str] | None:
    """What changed since the job's page was written, in words, its own files included: nothing if it is up to date.

    None if there is no page.
    """
    manifest = read_manifest(out / job.name)
    if manifest is None:
        return None
    found = [WORDS[key] for key, value in inputs_of(job, out).items() if manifest.get(key) != value]
    listed = manifest["files"]  # what else lies there is the reader's
    return found + ["files"] * (listed != {name: content_hash(out / job.name / name) for name in listed})
