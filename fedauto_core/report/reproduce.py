"""A page is computed anew, nothing taken from the cache of experiments, and held against the one that is there.

What may be expected depends on the machine: with the same packages on the same machine the same bytes; with others the
same numbers to rounding, as long as no run is chaotic; in any case the same conclusion, that is, the old interval of
every verdict holds the new effect.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from fedauto_core.errors import InputError, require_known

from .batch import run_report
from .compare import pairs
from .folder import REPORTS, file_hashes, read_manifest
from .judging import read_table
from .plan import read_profile
from .sources import NOTEBOOKS
from .verdicts import read_verdicts, subject

CLASSES = ("bit-identical", "to rounding", "statistical", "different")
"""From the strictest to none. bit-identical: every CSV file and every verdict. to rounding: numbers differ by less than
`ROUNDING`. statistical: the old interval of every verdict holds the new effect."""
ROUNDING = 1e-5  # relative to the largest number of the column


class Difference(NamedTuple):
    """A file of a page and the strictest of `CLASSES` that it belongs to; what: where it differs most."""

    file: str
    kind: str
    what: str = ""


def run_reproduce(
    name: str,
    profile: str,
    *,
    at_least: str = "statistical",
    report: Path | None = None,
    out: Path | None = None,
    jobs: int | None = None,
    notebooks_dir: Path = NOTEBOOKS,
) -> int:
    """Run the page `name` again, with the parameters that it was made with, and print how it differs.

    Returns 0 if it is reproduced as strictly as `at_least` (one of `CLASSES`), 1 if not, else the status of the run.
    report: where the page is, by default reports/PROFILE; out: where it is made anew, by default
    reports/scratch/reproduced. InputError for a page that is not there or that reads other pages.
    """
    require_known("class", at_least, CLASSES[:-1])
    here, new = report or REPORTS / profile, out or REPORTS / "scratch" / "reproduced"
    alone = {job.name: job for job in read_profile(profile, notebooks_dir) if not job.reads_all}
    require_known("page that reads no others", name, alone)
    manifest = read_manifest(here / name)
    if manifest is None:
        raise InputError(
            f"no finished page {name} in {here}",
            allowed="a page that was run",
            remedy=f"run `report --profile {profile} --only {name}` first",
        )
    settings = [
        f"{key}={value}" for key, value in manifest["parameters"].items() if alone[name].parameters.get(key) != value
    ]
    options = {"jobs": jobs, "fresh": True, "notebooks_dir": notebooks_dir}
    if status := run_report(profile, only=[name], settings=settings, out=new, **options):
        return status
    found = differences(here / name, new / name)
    kind = page_class(found)
    for one in found:
        if one.kind != CLASSES[0]:
            print(f"{one.file}: {one.kind}{f', {one.what}' if one.what else ''}")
    same = sum(one.kind == CLASSES[0] for one in found)
    print(f"{name}: {kind} ({same} of {len(found)} files and verdicts bit-identical; asked for: {at_least})")
    again = read_manifest(new / name) or {}
    for key, text in (("code_sha256", "code"), ("notebook_sha256", "notebook"), ("versions", "packages")):
        if manifest.get(key) != again.get(key):
            print(f"other {text} than then{_versions(manifest.get(key), again.get(key))}")
    return int(CLASSES.index(kind) > CLASSES.index(at_least))


def _versions(then: object, now: object) -> str:
    if not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        return ""
    return ": " + ", ".join(f"{k} {then.get(k)} → {now.get(k)}" for k in {**then, **now} if then.get(k) != now.get(k))


def differences(old: Path, new: Path) -> list[Difference]:
    """Every CSV file and every verdict of a page, and how the new one differs from the old one."""
    then, now = (
        {name: digest for name, digest in file_hashes(page).items() if name.endswith(".csv")} for page in (old, new)
    )
    found = []
    for name in sorted({*then, *now}):
        if name not in then or name not in now:
            found.append(Difference(name, "different", f"only in the {'new' if name in now else 'old'} page"))
        elif then[name] == now[name]:
            found.append(Difference(name, "bit-identical"))
        else:
            found.append(Difference(name, *_frames(read_table(old / name), read_table(new / name))))
    for a, b in pairs(read_verdicts(old), read_verdicts(new)):
        name = f"verdict on {(a or b).claim}, {subject(a or b)}"
        if a is None or b is None:
            found.append(Difference(name, "different", f"only in the {'old' if b is None else 'new'} page"))
        elif a == b:
            found.append(Difference(name, "bit-identical"))
        else:
            said = f"[{a.mark}] {a.effect:.4g} [{a.low:.4g}, {a.high:.4g}] then, [{b.mark}] {b.effect:.4g} now"
            refuted = a.mark != b.mark and "¬Re" in (a.mark, b.mark)
            ends = [(a.effect, b.effect), (a.low, b.low), (a.high, b.high)]
            near = all(math.isclose(*pair, rel_tol=ROUNDING, abs_tol=ROUNDING) for pair in ends)
            holds = "statistical" if a.low <= b.effect <= a.high and not refuted else "different"
            found.append(Difference(name, "to rounding" if near and a.mark == b.mark else holds, said))
    return found


def _frames(old: pd.DataFrame, new: pd.DataFrame) -> tuple[str, str]:
    """Class of a table and what differs most in it."""
    if list(old.columns) != list(new.columns) or len(old) != len(new):
        return "different", f"{old.shape[0]} x {old.shape[1]} then, {new.shape[0]} x {new.shape[1]} now"
    largest, where = 0.0, ""
    for column in old.columns:
        a, b = old[column], new[column]
        if not (is_numeric_dtype(a) and is_numeric_dtype(b)):
            if not a.equals(b):
                return "different", f"other values in the column {column!r}"
            continue
        a, b = a.to_numpy(float), b.to_numpy(float)
        other = (a != b) & ~(np.isnan(a) & np.isnan(b))
        apart = np.abs(np.subtract(a, b, out=np.zeros(len(a)), where=other))
        finite = np.abs(a[np.isfinite(a)])
        relative = float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)) / max(finite.max(initial=0.0), ROUNDING)
        if relative > largest:
            largest, where = relative, f"up to {relative:.1g} of the largest number in the column {column!r}"
    return ("to rounding" if largest < ROUNDING else "different"), where


def page_class(found: list[Difference]) -> str:
    """The strictest class that holds for the whole page. Where a CSV file differs, only verdicts that all hold make it
    statistical: a page without verdicts is different."""
    worst = max((CLASSES.index(one.kind) for one in found), default=0)
    verdicts = [one for one in found if not one.file.endswith(".csv")]
    if worst == len(CLASSES) - 1 and verdicts and all(one.kind != "different" for one in verdicts):
        return "statistical"
    return CLASSES[worst]
