"""The benchmark's plain loop computes what the engine computes, and its memory meter sees its own process alone."""

import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from fedauto_core.benchmark.engine import DOUBLE_TOLERANCE, REPETITIONS, difference_in_double, trained
from fedauto_core.benchmark.memory import ACTIVATIONS, ADAPTER, averaging_and_start, made_up, peak_growth, simulated
from fedauto_core.benchmark.peers import Peer, peer_line
from fedauto_core.benchmark.plain import plain_network, trainable
from fedauto_core.benchmark.rounds import Work, engine_rounds, plain_rounds
from fedauto_core.benchmark.weights import LAM, MAX_DIFFERENCE, plain_weights, problem
from fedauto_core.engine import Run, Schedule
from fedauto_core.methods import make_method
from fedauto_core.methods.weights import FEW, fedauto_weights
from fedauto_core.models import build_model
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.seeding import stream


@pytest.mark.parametrize("case", REPETITIONS, ids=lambda case: case.label)
def test_both_sides_agree_in_double(case):
    """From factors that are all non-zero, so that each of them has a gradient at once."""
    rng = np.random.default_rng(0)
    theta = torch.from_numpy(0.1 * rng.standard_normal(trained(case).model.n_parameters))
    x, y = torch.from_numpy(rng.standard_normal((9, *case.input_shape))), torch.from_numpy(rng.integers(0, 10, 9))
    batches = torch.from_numpy(rng.integers(0, 9, (2, 3, 4)))
    assert difference_in_double(case, theta, x, y, batches) < DOUBLE_TOLERANCE


def test_the_loop_trains_factors_and_head_alone():
    case = next(case for case in REPETITIONS if case.lora is not None and len(trained(case).model.shapes) == 6)
    names = ["layer3.qkv.a.weight", "layer3.qkv.b.weight", "layer3.out.a.weight", "layer3.out.b.weight"]
    assert list(trainable(plain_network(case))) == [*names, "head.weight", "head.bias"]
    whole = plain_network(replace(case, lora=None))
    assert len(trainable(whole)) == len(build_model("vit", (1, 28, 28), 10).shapes)


def test_the_weights_agree_with_the_programme_written_out_for_nnls():
    data = problem(100)
    ours, theirs = fedauto_weights(*data, LAM), plain_weights(*data)
    assert len(ours) > FEW and np.abs(ours - theirs).max() < MAX_DIFFERENCE
    # Half of the clients do not match the target as they are.
    assert np.abs(ours - data[1] / data[1].sum()).max() > 1e-4


def test_made_up_inputs_fit_the_adapted_step():
    averaging, start = averaging_and_start(ADAPTER)
    data = made_up(2, ACTIVATIONS).dataset
    logits = averaging.model.forward(averaging.model.unflatten(start[None]), data.x_test[None])
    assert logits.shape == (1, 10, 10) and len(data.x_train) == 15


@pytest.mark.parametrize("with_server", [True, False])
@pytest.mark.parametrize("shape, name", [((1, 28, 28), "mlp"), ((1, 28, 28), "cnn_small"), ((12, 1, 1), "softmax")])
def test_whole_rounds_of_both_sides_agree(shape, name, with_server):
    """Some clients are lost in every round and classes are missing, so that FedAuto's server trains as well."""
    federation, schedule = made_up(4, shape), Schedule(rounds=4, steps=3, batch=4, evaluate_every=4)
    model, half = build_model(name, shape, 10), Scenario("half", "bernoulli", (("probability", 0.5),))
    trace = draw_trace(half, rounds=schedule.rounds, histograms=federation.alpha[1:], seed=1)
    w0 = model.init(stream(0, "initial model"))
    runs = [Run(m, make_method(m), federation, trace, w0, 0, 0.05, with_server) for m in ("fedavg", "fedauto")]
    ours, theirs = engine_rounds(model, runs, schedule), [plain_rounds(model, run, schedule) for run in runs]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert min(score.distance for score in ours) > 0.01 and abs(ours[0].loss - ours[1].loss) > 1e-3


def test_strategies_of_flower_are_measured_on_the_same_replies(monkeypatch, capsys):
    strategies = pytest.importorskip("fedauto_core.benchmark.strategies", reason="needs the extra [flower]")
    monkeypatch.setattr(strategies, "SHAPES", {"weight": (4, 3)})
    seconds = strategies.server_rounds(2)
    assert set(seconds) == {"FedAvg", "FedAuto"} and all(s.shape == (2, 2, 2) for s in seconds.values())
    assert all((s > 0).all() for s in seconds.values())
    taken = {"FedAuto": np.full((3, 2, 2), [0.3, 0.12]), "FedAvg": np.full((3, 2, 2), [0.2, 0.1])}
    monkeypatch.setattr(strategies, "server_rounds", lambda: taken)
    strategies.print_strategies()
    assert re.findall(r"(\w+) of .*: (\d+) and (\d+) (ms.*), (\S+)x", capsys.readouterr().out) == [
        ("aggregate_train", "300", "200", "ms", "1.50"),
        ("aggregate_train", "120", "100", "ms of the processor", "1.20"),
        ("configure_train", "600", "400", "ms", "1.50"),
        ("configure_train", "240", "200", "ms of the processor", "1.20"),
    ]


def test_a_peer_that_fails_says_so_in_its_line():
    line = peer_line(Peer("Nobody", "peer_nobody", (0,)), Work("digits", "digits", "softmax", 0.1), 1.0)
    missing = "No module named 'fedauto_core.benchmark.peer_nobody'"
    assert line == f"digits     Nobody  did not run: ModuleNotFoundError: {missing}"


def hold_40_megabytes():
    np.ones(5_000_000)


def in_a_process_of_its_own(function, *arguments):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_growth_counts_what_is_freed_again():
    assert 39e6 < in_a_process_of_its_own(peak_growth, hold_40_megabytes) < 60e6
    assert in_a_process_of_its_own(peak_growth, int) < 5e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_with_adapters_does_not_hold_a_model_per_client():
    """Twenty more clients: 2 MB of adapters a copy; as many models would be 178 MB a copy."""
    few, many = (in_a_process_of_its_own(simulated, "fedavg", ADAPTER, n) for n in (20, 40))
    assert many - few < 60e6
