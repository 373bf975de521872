"""Costs: declared expressions against what the methods really keep, and the evaluation in bytes."""

import pytest

from fedauto_core.benchmark.costs import BYTES, declared, measured
from fedauto_core.methods import METHODS, make_method

NETWORKED = {name: make_method(name) for name in METHODS if METHODS[name].participation == "network"}


@pytest.mark.parametrize("name", list(NETWORKED))
def test_declared_memory_is_the_memory_kept(name):
    """Of N clients and the server that takes part. Samples (D numbers each) are data, not memory of the rule."""
    n, p, c = 7, 50, 4
    one = {name: NETWORKED[name]}
    (row,) = declared(one, n, p, c, d=0).to_dict("records")
    (kept,) = measured(one, n, p, c, repetitions=1)["kept"]
    assert row["server"] + row["clients"] == kept


def test_costs_in_bytes_by_hand():
    rows = declared({"fedauto": make_method("fedauto"), "fedawe": make_method("fedawe")}, 10, 1000, 4).set_index(
        "label"
    )
    assert rows.loc["fedauto", ["up", "down", "once", "server", "clients"]].tolist() == [4000, 4000, 16, 0, 0]
    assert all(kind.kind == "i" for kind in rows.dtypes)
    assert rows.loc["fedawe", "clients"] == BYTES * 11 * 1001


def test_measurement_reports_every_size():
    (row,) = measured({"fedavg": make_method("fedavg")}, 3, 20, 2, repetitions=2).to_dict("records")
    assert (row["N"], row["P"], row["C"], row["kept"]) == (3, 20, 2, 0) and row["seconds"] > 0
    assert row["ratio"] == pytest.approx(row["seconds"] / row["plain_seconds"])
