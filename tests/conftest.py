"""What holds for all tests."""

import sys
from pathlib import Path

import pytest

LONGEST = ("test_cluster", "test_smoke", "test_trials")


def pytest_configure(config):
    """A worker of pytest-xdist counts as a script, as pytest by itself does: `experiments.running.available` gives one
    process to scripts, and its pool of more would keep the cache folder of the first test for all others."""
    if hasattr(config, "workerinput"):
        sys.modules["__main__"].__file__ = str(Path(pytest.__file__).with_name("__main__.py"))


def pytest_collection_modifyitems(items):
    """The files that take minutes come first: else one of two workers ends long before the other."""
    assert all(Path(__file__).with_name(f"{name}.py").is_file() for name in LONGEST)
    items.sort(key=lambda item: item.path.stem not in LONGEST)
