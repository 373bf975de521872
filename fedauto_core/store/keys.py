"""What a number depends on besides its spec: the project's source code and the package versions."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).parent
NUMERIC_PACKAGES = ("torch", "numpy", "scipy", "sympy", "pandas", "scikit-learn", "matplotlib", "seaborn")

# Rooms that only look at finished frames; changing them cannot change a simulated number.
DOWNSTREAM = (
    "theory",
    "tuning",
    "tuned",
    "claims",
    "figures",
    "record",
    "plan",
    "worker",
    "batch",
    "pages",
    "report",
    "costs",
    "benchmark",
    "__main__",
)

# Rooms that a simulation meets through the traces alone, whose content is part of an experiment's key.
UPSTREAM = ("network", "traces", "radio")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def core_hash(scope: str = "all") -> str:
    """SHA-256 over the source of every module and the stored tuning ("all"), or over the modules that can influence a
    simulation ("experiment")."""
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("tuned/*.csv")]):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if scope == "experiment" and room in (*DOWNSTREAM, *UPSTREAM):
            continue
        digest.update(f"{path.relative_to(PACKAGE).as_posix()} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of the packages that can change a number, and of Python."""
    return {"python": platform.python_version()} | {name: version(name) for name in NUMERIC_PACKAGES}
