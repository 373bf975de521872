"""Measurements of the core itself: `python -m fedauto_core.benchmark`."""
