"""How far a long computation is, told to whoever watches: the batch names a file for it in FEDAUTO_PROGRESS."""

import contextlib
import json
import os
from pathlib import Path

from .writing import write_atomically


def tell(done: int, total: int) -> None:
    """Leave word that `done` parts of `total` are done; nothing where nobody watches."""
    if place := os.environ.get("FEDAUTO_PROGRESS"):
        with contextlib.suppress(OSError):  # a full disk must not end a computation over what is only shown
            write_atomically(Path(place), json.dumps([done, total]))
