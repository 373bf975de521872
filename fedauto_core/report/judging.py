"""Verdicts computed from a page's own CSV files, and kept with what it takes to compute them again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fedauto_core.store.frames import TEXT

from .verdicts import Verdict


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file of a page; what is empty is missing, and a label is a text whatever it looks like."""
    return pd.read_csv(path, dtype=TEXT, keep_default_na=False, na_values=[""])


def judged(
    folder: Path, rule: Callable[..., Verdict], tables: Mapping[str, str], options: Mapping[str, object]
) -> Verdict:
    """The verdict that `rule` gives on the page in `folder`, with its `basis`.

    tables: parameter of the rule -> slug of the CSV file that it reads. options: the other arguments, plain values.
    """
    basis = {"rule": rule.__name__, "tables": dict(tables), "options": dict(options)}
    kept = json.loads(json.dumps(basis, sort_keys=True))  # as verdicts.json will hold it
    frames = {parameter: read_table(folder / f"{slug}.csv") for parameter, slug in tables.items()}
    return replace(rule(**frames, **kept["options"]), basis=kept)
