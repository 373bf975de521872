"""The reviewer's checklist, in the style of artifact evaluation: every row is found by code, met or not."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from fedauto_core.errors import InputError

from .evidence import Row, Status
from .folder import read_manifest
from .site import Site
from .sources import CHECKOUT, Notebook, read_notebooks
from .surroundings import CITATION, FACE, LICENCE, PINS, documents, test_files
from .verdicts import OWN
from .verify import verified

AVAILABLE, FUNCTIONAL, REUSABLE, REPRODUCED = "available", "functional", "reusable", "results reproduced"
SEEDS = 5
"""Fewer are too few for an interval that decides."""


class Check(NamedTuple):
    """One row. badge: which one it counts for; asked: the criterion; found: what is there; met: "yes" or "no"."""

    badge: str
    asked: str
    found: str
    met: str


def _check(badge: str, asked: str, found: str, met: bool) -> Check:
    return Check(badge, asked, found, "yes" if met else "no")


def checks(site: Site, rows: Sequence[Row], statuses: Sequence[Status]) -> list[Check]:
    """All rows, for a report whose claims.md is written."""
    return [
        *_available(CHECKOUT),
        *_functional(CHECKOUT, site, statuses),
        *_reusable([*read_notebooks(site.notebooks_dir).values()]),
        *_reproduced(site.out, statuses, rows),
    ]


def _available(checkout: Path | None) -> Iterator[Check]:
    """Of the files of a checkout; an installed package has none of them."""
    if checkout is None:
        yield _check(AVAILABLE, "the sources are at hand", "an installed package, no checkout", False)
        return
    path = checkout / CITATION
    said = _citation(path)
    licence, named = (checkout / LICENCE).is_file(), said.get("license")
    found = f"{LICENCE if licence else f'no file {LICENCE}'}, {named or f'no name in {CITATION}'}"
    yield _check(AVAILABLE, "a licence allows use and change", found, licence and bool(named))
    yield _check(AVAILABLE, "it says how to cite it", path.name if said else f"no readable {path.name}", bool(said))
    for asked, key in (("a public address of the code", "repository-code"), ("an archive with a DOI", "doi")):
        yield _check(AVAILABLE, asked, said.get(key) or f"none in {path.name}", bool(said.get(key)))


def _citation(path: Path) -> Mapping[str, object]:
    """What CITATION.cff says; nothing where there is none, or none that can be read."""
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (ValueError, yaml.YAMLError):
        return {}
    return said if isinstance(said, dict) else {}


def _functional(checkout: Path | None, site: Site, statuses: Sequence[Status]) -> Iterator[Check]:
    shown = len(site.entries)
    found = f"{shown} of {len(statuses)} notebooks of the profile have a page"
    yield _check(FUNCTIONAL, "complete: everything was run", found, shown == len(statuses))
    if checkout is not None:
        pages = documents(checkout)
        yield _check(FUNCTIONAL, "documented", ", ".join(path.name for path in pages) or "nothing", bool(pages))
        tests = len(test_files(checkout))
        yield _check(FUNCTIONAL, "tested", f"{tests} files of tests", tests > 0)
        pins = checkout / PINS
        pinned = len(re.findall(r"^\w.*==", pins.read_text(encoding="utf-8"), re.M)) if pins.is_file() else 0
        yield _check(FUNCTIONAL, "packages pinned", f"{pinned} packages in {PINS}", pinned > 0)
    manifests = [read_manifest(site.out / entry.name) or {} for entry in site.entries]
    kinds = {repr(sorted(manifest.get("versions", {}).items())) for manifest in manifests}
    yield _check(FUNCTIONAL, "one environment for all pages", f"sets of versions: {len(kinds)}", len(kinds) == 1)


def _reusable(notebooks: Sequence[Notebook]) -> Iterator[Check]:
    readable = [notebook for notebook in notebooks if notebook.problem is None]
    found = f"{sum(len(one.parameters) for one in readable)} in {len(readable)} of {len(notebooks)} notebooks"
    yield _check(REUSABLE, "parameters with type, default and help", found, len(readable) == len(notebooks))
    face = re.findall(r"^from .* import \w+ as (\w+)$", FACE.read_text(encoding="utf-8"), re.M)
    yield _check(REUSABLE, "what others may import has a public face", f"{len(face)} names", bool(face))


def _reproduced(report: Path, statuses: Sequence[Status], rows: Sequence[Row]) -> Iterator[Check]:
    try:
        found = verified(report)
    except InputError:
        yield _check(REPRODUCED, "pages to check", "none in this report", False)
        return
    text = f"{len(found.differences)} differences on {len(found.pages)} pages"
    yield _check(REPRODUCED, "hashes and verdicts are those of the files", text, not found.differences)
    every = found.recomputed + len(found.without_rule)
    text = f"{found.recomputed} of {every} verdicts"
    yield _check(REPRODUCED, "verdicts follow from CSV files", text, found.recomputed == every > 0)
    fresh = [status for status in statuses if status.state == "ok"]
    text = f"{len(fresh)} of {len(statuses)} pages are by today's notebooks, code and packages"
    yield _check(REPRODUCED, "up to date", text, len(fresh) == len(statuses))
    known = [status.fresh_seconds for status in statuses if status.fresh_seconds is not None]
    text = f"{math.fsum(known) / 60:.0f} minutes, known of {len(known)} of {len(statuses)} pages"
    yield _check(REPRODUCED, "the time that it takes is known", text, len(known) == len(statuses))
    told = [(read_manifest(report / status.name) or {}).get("machine") for status in fresh]
    machines = {repr(machine) for machine in told if machine}
    text = f"kinds in the manifests: {len(machines)}"
    yield _check(REPRODUCED, "computed on more than one kind of machine", text, len(machines) > 1)
    seeds = [row.verdict.seeds for row in rows if row.verdict.claim not in OWN]
    text = f"{min(seeds)} to {max(seeds)} seeds behind a verdict" if seeds else "no verdicts"
    yield _check(REPRODUCED, "seeds enough for an interval", text, bool(seeds) and min(seeds) >= SEEDS)
