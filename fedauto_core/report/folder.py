"""A report on disk: which file lies where, and what may be believed of it.

A report is a folder with one folder per notebook, its page. What a program reads back (the manifest, the products, the
verdicts) may have been damaged by a full disk or a hand; it counts as not there then, and one line says so.
"""

import functools
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from fedauto_core.store.keys import file_hash
from fedauto_core.store.writing import write_atomically

from .sources import CHECKOUT

REPORTS = (CHECKOUT or Path.cwd()) / "reports"
"""Where reports go unless told otherwise: into the checkout, or without one into the current folder."""
NUMBER = (int, float)
MANIFEST_NAME = "manifest.json"
STATE = (MANIFEST_NAME, "products.json", "verdicts.json")
"""Files of a page that a program reads back; a page has at least one."""
MANIFEST = {"parameters": dict, "seconds": NUMBER, "peak_mib": (*NUMBER, NoneType), "files": dict}
PRODUCT = {"slug": str, "kind": str, "caption": str}
T = TypeVar("T")


def log_file(report: Path, name: str) -> Path:
    """Where the batch explains why notebook `name` failed; the file exists only then."""
    return report / "logs" / f"{name}.log"


def clear(path: Path) -> None:
    """Take away whatever lies at `path`, file or folder."""
    if path.is_file() or path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def work_folder(report: Path) -> Path:
    """Where unfinished results grow; on the same file system as the report, so that they can be renamed into it."""
    return report / ".work"


def verdict_files(report: Path) -> dict[str, Path]:
    """Notebook name -> its verdicts.json, of finished pages; not of notebooks whose last run failed: what they left may
    be out of date."""
    files = {path.parent.name: path for path in sorted(report.glob("*/verdicts.json"))}
    return {
        name: path for name, path in files.items() if not log_file(report, name).exists() and read_manifest(path.parent)
    }


def content_hash(path: Path) -> str:
    """SHA-256 of a file; a folder in its place has none."""
    return file_hash(path) if path.is_file() else "not a file"


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every result in the folder of a page, by its path in there: of all files but the manifest itself and
    the HTML page, which is written from the results."""
    left_out = {MANIFEST_NAME, f"{folder.name}.html"}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: content_hash(folder / name) for name in names if name not in left_out}


def place_page(new: Path, page: Path) -> None:
    """Move the files of `new`, a finished page, into the folder `page` of a report, on the same file system.

    Only what the page's manifest lists is replaced or taken away: files that a reader put there stay, under another
    name (.kept) where the new page needs theirs; with a damaged manifest, or none, every file counts as a reader's.
    The manifest comes last. Killed in between, the old one stands, whose hashes do not fit, so that the page counts as
    out of date.
    """
    if page.is_file() or page.is_symlink():
        _keep(page)
    page.mkdir(parents=True, exist_ok=True)
    listed, coming = (read_manifest(page) or {"files": {}})["files"], file_hashes(new)
    for name in listed:
        if name not in coming:
            clear(page / name)
    for name, content in coming.items():
        if name not in listed and (page / name).exists() and content_hash(page / name) != content:
            _keep(page / name)
        _move(new / name, page / name)
    _move(new / MANIFEST_NAME, page / MANIFEST_NAME)


def _keep(path: Path) -> None:
    """Rename what a reader has left in the place of a page or of one of its files; an earlier one so kept stays."""
    names = itertools.chain([f"{path.name}.kept"], (f"{path.name}.kept{number}" for number in itertools.count(2)))
    kept = next(name for name in names if not os.path.lexists(path.with_name(name)))
    path.rename(path.with_name(kept))
    _tell(f"{path} is not known to be the report's; kept as {kept}")


def _move(file: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    file.replace(target)


def write_json(path: Path, value: object) -> None:
    """Stable JSON: sorted keys, two spaces, no NaN or infinity (they are not JSON)."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n")


def read_state(path: Path, parse: Callable[[Any], T]) -> T | None:
    """What `parse` makes of a JSON file of the report; None if it is not there. `parse` raises ValueError for JSON that
    is not what the file should hold."""
    try:
        if path.exists() or path.parent.is_file():
            return parse(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        _tell(f"{path} is damaged and counts as not there: {error}")
    return None


@functools.cache  # once, however often the file is looked at
def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def of_shape(value: object, shape: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """`value` if it is a mapping with these entries of these types, maybe others; else ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} instead of a mapping")
    for key, kind in shape.items():
        if not isinstance(value.get(key), kind):
            raise ValueError(f"entry {key!r} is {value.get(key)!r}")
    return value


def rows_of_shape(value: object, shape: Mapping[str, type | tuple[type, ...]]) -> list[dict[str, Any]]:
    """`value` if it is a list of mappings as `of_shape` wants them; else ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{type(value).__name__} instead of a list")
    return [of_shape(row, shape) for row in value]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What is known of a finished page (`plan.inputs_of`, seconds, peak memory, the hashes of its files), or None."""
    return read_state(folder / MANIFEST_NAME, _manifest)


def _manifest(value: object) -> dict[str, Any]:
    found = of_shape(value, MANIFEST)
    if outside := [name for name in found["files"] if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"it lists {outside[0]!r}, which is not in the page's folder")
    return found


def intact(folder: Path, name: str) -> bool:
    """Whether a file of a page is there, and as the page's manifest says."""
    manifest, path = read_manifest(folder), folder / name
    return manifest is not None and path.is_file() and content_hash(path) == manifest["files"].get(name)


def read_products(folder: Path) -> list[dict[str, str]]:
    """Slug, kind and caption of every figure and table of a page, in the order in which they were shown."""
    return read_state(folder / "products.json", lambda value: rows_of_shape(value, PRODUCT)) or []
