"""How many seconds of computing the cache has saved, told to whoever asks: the batch names a file for it in
FEDAUTO_SAVED, so that a page can say how long it takes when everything is computed."""

import contextlib
import math
import os
from pathlib import Path

SECONDS = "seconds.txt"


def keep_seconds(entry: Path, seconds: float) -> None:
    """Write beside a result of the cache, in its folder, how long it took."""
    with contextlib.suppress(FileNotFoundError):  # another process has just put the same result in its place
        (entry / SECONDS).write_text(f"{seconds:.3f}\n", encoding="utf-8")


def kept_seconds(entry: Path) -> float:
    """How long a result of the cache took; NaN if nobody knows."""
    try:
        return float((entry / SECONDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return math.nan


def tell_saved(seconds: float) -> None:
    """Leave word of so many seconds, NaN if nobody knows how many; nothing where nobody asks."""
    if place := os.environ.get("FEDAUTO_SAVED"):
        with open(place, "a", encoding="utf-8") as file:
            file.write(f"{seconds:.3f}\n")


def read_saved(place: Path) -> float:
    """The sum of what was told in a file; NaN if a part of it is not known."""
    return math.fsum(map(float, place.read_text(encoding="utf-8").split())) if place.exists() else 0.0
