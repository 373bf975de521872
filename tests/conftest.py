"""What holds for all tests."""

import sys
from pathlib import Path

import pytest


def pytest_configure(config):
    """A worker of pytest-xdist counts as a script, as pytest by itself does: `experiments.running.available` gives one
    process to scripts, and its pool of more would keep the cache folder of the first test for all others."""
    if hasattr(config, "workerinput"):
        sys.modules["__main__"].__file__ = str(Path(pytest.__file__).with_name("__main__.py"))
