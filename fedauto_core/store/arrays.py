"""Computed arrays that are kept with their SHA-256."""

import hashlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .writing import locked, write_atomically

DIGEST_BYTES = hashlib.sha256().digest_size


def asked_fresh() -> bool:
    """Whether everything that is computed is to be computed again: FEDAUTO_FRESH=1 (`--fresh`)."""
    return os.environ.get("FEDAUTO_FRESH") == "1"


def cached_array(path: Path, compute: Callable[[], np.ndarray], *, fresh: bool = False) -> np.ndarray:
    """The array stored in `path`; what is not there yet (or `fresh`) is computed and stored.

    Processes that ask at once compute once. A damaged file is reported on stderr and computed again.
    """
    with locked(path.with_suffix(".lock")):
        if path.exists() and not fresh:
            if (array := _read_array(path)) is not None:
                return array
            print(f"{path} is damaged; it is computed again", file=sys.stderr)
        array = compute()
        content = io.BytesIO()
        np.save(content, array)
        write_atomically(path, hashlib.sha256(content.getbuffer()).digest() + content.getvalue())
    return array


def _read_array(path: Path) -> np.ndarray | None:
    """The stored array, or None if the bytes are not those that were written."""
    try:
        with path.open("rb") as file:
            digest = file.read(DIGEST_BYTES)
            if hashlib.file_digest(file, "sha256").digest() != digest:
                return None
            file.seek(DIGEST_BYTES)
            return np.load(file, allow_pickle=False)
    except OSError:  # a folder, or not ours to read
        return None
