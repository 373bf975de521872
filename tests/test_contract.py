"""Claim C5, structurally: a method works when it is handed nothing but what the contract lists."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Averaging, Run, Schedule, simulate
from fedauto_core.engine.lane import Lane
from fedauto_core.engine.public import PublicData
from fedauto_core.engine.rounds import _blocks
from fedauto_core.errors import InputError
from fedauto_core.methods import METHODS, Context, Server, fedauto_on, make_method, method_inputs
from fedauto_core.methods.guard import FARTHEST, finite, is_sound
from fedauto_core.models import build_model
from fedauto_core.network import draw_trace, scenario
from fedauto_core.seeding import stream

INPUTS = method_inputs()
DIGITS = load_dataset("digits")
MODEL = build_model("softmax", (1, 8, 8), 10)
FEDERATION = build_federation(DIGITS, FederationSpec(5, 40, 30, "classes", classes_per_client=2), seed=0)
ROUNDS = 4


def listed(function, argument):
    rows = INPUTS[(INPUTS["function"] == function) & (INPUTS["argument"] == argument)]
    return set(rows["member"])


class Only:
    """`value` with some of its members, and the properties that follow from them."""

    def __init__(self, value, members):
        self._value, self._members = value, members | {n for n, v in vars(type(value)).items() if type(v) is property}

    def __getattr__(self, name):
        if name.startswith("__") or name not in self._members:
            raise AttributeError(f"the contract does not list {name!r}")
        return getattr(self._value, name)


def guarded(method):
    """The same method, handed the listed members only."""

    class Guarded(type(method)):
        def init(self, context):
            return super().init(Only(context, listed("init", "context")))

        def aggregate(self, state, w, arrivals, server):
            arrivals = Only(arrivals, listed("aggregate", "arrivals"))
            return super().aggregate(state, w, arrivals, Only(server, listed("aggregate", "server")))

    return Guarded(**{field.name: getattr(method, field.name) for field in fields(method)})


def _run(method):
    trace = draw_trace(scenario("mixed"), rounds=ROUNDS, histograms=FEDERATION.alpha[1:], seed=0)
    return Run("x", method, FEDERATION, trace, MODEL.init(stream(0, "initial model")), 0, 0.1, True)


def run(method):
    return simulate(MODEL, [_run(method)], Schedule(ROUNDS, 2, 8, evaluate_every=1))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_needs_nothing_that_the_contract_does_not_list(name):
    free, fenced = run(make_method(name)), run(guarded(make_method(name)))
    assert free.curves.equals(fenced.curves)


def test_the_list_is_the_contract():
    known = (
        "counts alpha target steps lr with_server w0 seed success_probability long_run_probability marginal_probability"
    )
    assert listed("init", "context") == set(known.split())
    assert listed("aggregate", "arrivals") == {"round", "ids", "deltas", "steps", "lr"}
    assert listed("aggregate", "server") == {"labels", "counts_per_class", "train", "gradient", "logits"}
    assert set(INPUTS.loc[INPUTS["function"] == "aggregate", "argument"]) == {"state", "w", "arrivals", "server"}


def test_the_fence_holds():
    only = Only(replace(_context(), seed=3), {"counts"})
    assert only.counts.tolist() == [1, 2]
    with pytest.raises(AttributeError, match="does not list 'seed'"):
        _ = only.seed
    assert "loss" not in listed("aggregate", "server") and not hasattr(Server, "loss")


def _context():
    alpha = np.full((2, 2), 0.5)
    return Context(np.array([1, 2]), alpha, alpha[0], 1, 0.1, True, torch.zeros(2))


def test_a_method_needs_scores_where_it_says_so():
    """All others do with the server's training."""
    training = {name for name in listed("aggregate", "server") if name in ("counts_per_class", "train")}

    def trains_only(method):
        class Trained(type(method)):
            def aggregate(self, state, w, arrivals, server):
                return super().aggregate(state, w, arrivals, Only(server, training))

        return Trained(**vars(method))

    for name in METHODS:
        if METHODS[name].needs_scores:
            with pytest.raises(AttributeError, match="the contract does not list"):
                run(trains_only(make_method(name)))
        else:
            run(trains_only(make_method(name)))


def test_what_clients_must_do_is_told():
    asked = {name: make_method(name).client_support for name in METHODS if make_method(name).client_support}
    assert asked == {
        **dict.fromkeys(("fedprox", "scaffold", "feddyn", "fedawe", "fedpbc_like"), "local work of its own"),
        **dict.fromkeys(("fednova", "fedcote_like", "centralised"), "other messages than a model"),
        "data_sharing": "training on public samples",
    }
    assert fedauto_on("scaffold").client_support == asked["scaffold"]


KNOWN = {"steps": 3, "lr": 0.1, "with_server": True, "w0": torch.zeros(4)}


def test_what_follows_from_label_counts():
    context = Context.from_counts([[6, 0], [1, 3]], [1, 1], **KNOWN, seed=7)
    assert context.counts.tolist() == [2, 6, 4] and context.n_clients == 2 and context.seed == 7
    assert context.alpha.tolist() == [[0.5, 0.5], [1, 0], [0.25, 0.75]]
    np.testing.assert_allclose(context.target, [8 / 12, 4 / 12])
    assert context.marginal_probability is None  # for oracles, to be added
    noisy = Context.from_counts([[6, 0], [1, 1]], [1, 1], **KNOWN, samples=[2, 4, 10])
    assert noisy.counts.tolist() == [2, 4, 10] and noisy.alpha[2].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(noisy.target, [10 / 16, 6 / 16])


def test_a_server_without_data_and_one_without_clients():
    clients_only = Context.from_counts([[6, 2]], [0, 0], **KNOWN | {"with_server": False})
    assert clients_only.counts.tolist() == [0, 8] and clients_only.target.tolist() == [0.75, 0.25]
    assert np.isfinite(clients_only.alpha).all()
    alone = Context.from_counts(np.zeros((0, 2)), [3, 1], **KNOWN)
    assert alone.n_clients == 0 and alone.target.tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    "change, wrong",
    [
        ({"counts": [[1, 2, 3]]}, r"shape \(1, 3\) at the clients and \(2,\) at the server.*np.bincount"),
        ({"counts": [1, 2]}, r"shape \(2,\) at the clients"),
        ({"server_counts": []}, r"\(0,\) at the server"),
        ({"counts": [[1, 0], [0, 0]]}, r"\[0.0, 0.0\] of client 2.*not all zero.*Remedy"),
        ({"counts": [[1, -1]]}, r"\[1.0, -1.0\] of client 1"),
        ({"counts": [[1, float("nan")]]}, r"nan\] of client 1"),
        ({"server_counts": [float("inf"), 1]}, "of the server"),
        ({"samples": [1, 2]}, r"samples \[1, 2\].*3 finite ones"),
        ({"samples": [1, 0, 2]}, r"samples \[1, 0, 2\].*the clients' > 0"),
        ({"samples": [-1, 1, 2]}, "the server's >= 0"),
        ({"server_counts": [0, 0]}, "0 public samples and 2 clients.*with_server=False"),
        ({"samples": [0, 1, 2]}, "0 public samples and 2 clients"),
        ({"counts": np.zeros((0, 2)), "server_counts": [0, 0], "with_server": False}, "0 public samples and 0 clients"),
        ({"steps": 0}, "steps = 0"),
        ({"lr": -1.0}, "lr = -1.0"),
    ],
)
def test_label_counts_that_are_none_are_refused(change, wrong):
    with pytest.raises(InputError, match=wrong):
        Context.from_counts(**{"counts": [[6, 0], [1, 3]], "server_counts": [1, 1]} | KNOWN | change)


def test_updates_and_steps_are_judged_by_one_guard():
    nan, inf = float("nan"), float("inf")
    updates = torch.tensor([[1.0, 2.0], [nan, 0.0], [inf, -inf], [1e30, 1e30]])
    assert finite(updates).tolist() == [True, False, False, True]
    start = torch.tensor([3.0, 4.0])
    edge = start + torch.tensor([FARTHEST * 6, 0.0])  # 1 + the start's norm of 5
    assert is_sound(start, start) and is_sound(edge, start) and not is_sound(edge + 1, start)
    assert not is_sound(torch.tensor([nan, 0.0]), start) and not is_sound(torch.tensor([inf, 0.0]), start)


def test_terms_of_some_methods_take_no_time_of_the_others():
    schedule, names = Schedule(ROUNDS, 2, 8), ("scaffold", "fedavg", "feddyn", "fedauto", "fedprox")
    lanes = [Lane(Averaging(MODEL), _run(make_method(name)), schedule) for name in names]
    lanes[2].diverged = 1
    stacks = [[task.lane.run.method.name for task in block] for block in _blocks(lanes, schedule, 0)]
    assert stacks == [["fedavg", "fedauto"], ["scaffold", "fedprox"]]


def test_public_data_need_no_run():
    """The same numbers as those of a run on the same samples."""
    lane = Lane(Averaging(MODEL), _run(make_method("fedauto")), Schedule(ROUNDS, 2, 8))
    rows, start = FEDERATION.shards[0], lane.run.w0
    alone = PublicData(MODEL, DIGITS.x_train[rows], DIGITS.y_train[rows], 0.1, 8, 0)
    for server in (lane.server, alone):
        server.start_round(2)
    assert alone.counts_per_class.tolist() == FEDERATION.class_counts[0].tolist()
    assert torch.equal(alone.train(start, 2, classes=[3]), lane.server.train(start, 2, classes=[3]))
    assert torch.equal(alone.gradient(start), lane.server.gradient(start))
    assert torch.equal(alone.logits(start), lane.server.logits(start))
    assert alone.samples == lane.server.samples == 3 * 8
    alone.start_round(2, rate=0.5)
    lane.server.start_round(2)
    torch.testing.assert_close(alone.train(start, 1), 0.5 * lane.server.train(start, 1), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "change, wrong",
    [
        ({"y": torch.tensor([0, 10])}, r"labels \[0, 10\].*0..9"),
        ({"y": torch.tensor([-1, 1])}, r"labels \[-1, 1\]"),
        ({"x": torch.zeros(0, 1, 8, 8), "y": torch.zeros(0, dtype=torch.int64)}, "0 public samples"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"batch": 0}, "batch = 0"),
    ],
)
def test_public_data_that_are_none_are_refused(change, wrong):
    good = {"x": torch.zeros(2, 1, 8, 8), "y": torch.tensor([0, 1]), "lr": 0.1, "batch": 8, "seed": 0}
    with pytest.raises(InputError, match=wrong):
        PublicData(MODEL, **good | change)
