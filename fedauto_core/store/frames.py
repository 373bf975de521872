"""Tables that are kept as CSV files with their SHA-256, a folder for each result."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import pandas as pd

from .keys import file_hash
from .writing import replace_folder

HASHES = "hashes.json"
TEXT = dict.fromkeys(("label", "method", "scenario", "trace"), str)  # whatever they look like


def write_frames(folder: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    """Write to a temporary folder beside the target and rename: another process sees all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".writing-{uuid4().hex}"
    temporary.mkdir()
    try:
        for name, frame in frames.items():
            frame.to_csv(temporary / f"{name}.csv", index=False)
        hashes = {name: file_hash(temporary / f"{name}.csv") for name in frames}
        (temporary / HASHES).write_text(json.dumps(hashes), encoding="utf-8")
        replace_folder(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_frames(folder: Path, names: Sequence[str]) -> tuple[pd.DataFrame, ...] | None:
    """The tables `names` of an entry, or None if it is incomplete or damaged."""
    files = [folder / f"{name}.csv" for name in names]
    try:
        hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        intact = [file_hash(file) for file in files] == [hashes[name] for name in names]
    except (OSError, ValueError, KeyError, TypeError):  # missing, cut short, not JSON, JSON of another kind
        return None
    return (
        tuple(pd.read_csv(file, dtype=TEXT, keep_default_na=False, na_values=[""]) for file in files)
        if intact
        else None
    )
