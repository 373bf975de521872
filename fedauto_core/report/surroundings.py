"""What the article tells of that lies in no report: files of the checkout, the notebooks, whether TeX is at hand."""

import shutil
from pathlib import Path

from fedauto_core.store.keys import PACKAGE

from .folder import content_hash

CITATION, LICENCE, PINS = ("CITATION.cff", "LICENSE", "constraints.txt")
FACE = PACKAGE / "__init__.pyi"
"""Lists what others may import."""
TEX = "pdflatex"


def documents(checkout: Path) -> list[Path]:
    """The README and what stands in docs/."""
    return [path for path in (checkout / "README.md", *sorted((checkout / "docs").glob("*.md"))) if path.is_file()]


def test_files(checkout: Path) -> list[Path]:
    """The files of tests."""
    return sorted((checkout / "tests").glob("test_*.py"))


def surroundings(checkout: Path | None, notebooks_dir: Path) -> tuple[object, ...]:
    """All of it, in values that change when it does: hashes of what is read, names of what is counted."""
    read, counted = [FACE, *sorted(notebooks_dir.glob("*.ipynb"))], []
    if checkout is not None:
        read += [checkout / name for name in (CITATION, LICENCE, PINS)]
        counted += [path.name for path in (*documents(checkout), *test_files(checkout))]
    return [(path.name, content_hash(path)) for path in read], counted, shutil.which(TEX) is not None
