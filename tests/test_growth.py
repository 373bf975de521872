"""Growth of a run: the trace, the exponents, and a point of each size."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest

from fedauto_core.benchmark import growth


def test_the_same_number_arrives_in_every_round_and_everyone_in_turn():
    trace = growth.rotating_trace(5, 7, 3)
    assert trace.arrived.sum(axis=1).tolist() == [3] * 5
    assert trace.arrived[0].tolist() == [True] * 3 + [False] * 4 and trace.arrived[:3].any(axis=0).all()


def test_exponents_are_those_of_power_laws_with_intervals_where_there_are_enough_points():
    sizes = np.array([1, 10, 100, 1000])
    noise = np.array([1.0, 1.1, 1.1, 1.0])
    frame = pd.DataFrame({"varied": "N", "size": sizes, "seconds": 3 * sizes**0.5 * noise, "megabytes": 7.0 * sizes})
    seconds, memory = growth.exponents(frame).to_dict("records")
    assert seconds["exponent"] == pytest.approx(0.5) and seconds["low"] < 0.5 < seconds["high"] < 0.6
    assert [memory[name] for name in ("exponent", "low", "high")] == pytest.approx([1, 1, 1], abs=1e-6)
    assert np.isnan(growth.exponents(frame[:2])["low"]).all()


def test_a_point_counts_what_the_run_takes():
    small, large = ({**growth.BASE, "N": 12, "T": 1, "side": side} for side in (8, 32))
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        first, second = pool.map(growth.point, (small, large), (1, 1))
    assert first["P"] == 128 * 65 + 129 * 10 and second["P"] == 128 * 1025 + 129 * 10
    assert first["seconds"] > 0 and second["megabytes"] > 12 * 4 * second["P"] / 1e6 * 0.8  # 11 updates at least
    assert first["megabytes"] < 20  # without the program, whose compiled loops take five times as much
