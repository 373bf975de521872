"""How anything is written: whole or not at all, and by one process at a time."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from fedauto_core.errors import InputError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file by a temporary name in the same folder, made if it is missing: nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid4().hex}.writing")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        if path.is_dir():  # what stands in the way of our own file is damage
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(target: Path, folder: Path) -> None:
    """Put `folder` in the place of `target`, on the same file system. Killed in between, the target is missing, never
    mixed. Where another process does the same at the same time, one of the two stays."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if target.exists():
            return
        if old.exists():
            old.rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, made with its folder; it ends with the process. wait: until whoever holds it is done,
    else BlockingIOError. InputError where no lock can be had, on some network file systems for one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path, timeout=-1 if wait else 0)
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"{path} is held by another process") from None
    except OSError as error:
        raise InputError(
            f"no lock can be had on {path}: {error}",
            allowed="a folder that this user may write, on a file system with locks",
            remedy="choose a folder on a local disk (FEDAUTO_DATA for the cache, --out for the report)",
        ) from error
    try:
        yield
    finally:
        lock.release()
