"""FedAuto on Flower: the same global models as in the simulation, and what becomes of bad replies."""

import importlib
import io
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("flwr.app", reason="needs the extra [flower]")

from flower_grid import LINK, UNAVAILABLE, LocalGrid, trains
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Run, Schedule, simulate
from fedauto_core.errors import InputError
from fedauto_core.flower import FedAutoStrategy, MethodStrategy, ServerData, torch_data
from fedauto_core.flower.uploads import read
from fedauto_core.methods import METHODS, Method, fedauto_on, make_method
from fedauto_core.models import build_model
from fedauto_core.network import draw_trace, scenario
from fedauto_core.seeding import stream
from fedauto_core.server.arrays import Layout
from fedauto_core.server.coordinator import obstacle
from fedauto_core.server.roster import Roster

DIGITS = load_dataset("digits")
N, ROUNDS, STEPS, BATCH, LR, SEED = 5, 6, 3, 8, 0.2, 0
FEDERATION = build_federation(DIGITS, FederationSpec(N, 40, 30, "classes", classes_per_client=2), seed=SEED)
MODEL = build_model("softmax", (1, 8, 8), 10)
START = MODEL.init(stream(SEED, "initial model"))
TRACE = draw_trace(scenario("mixed"), rounds=ROUNDS, histograms=FEDERATION.alpha[1:], seed=SEED)
NODE = 100  # participant j runs on node 100 j


class Softmax(nn.Module):
    """The engine's softmax regression with its names and shapes, as a user would write it."""

    def __init__(self):
        super().__init__()
        self.head = nn.ParameterDict({"weight": torch.zeros(64, 10), "bias": torch.zeros(10)})

    def forward(self, x):
        return x.flatten(1) @ self.head["weight"] + self.head["bias"]


def record(w):
    return ArrayRecord({name: Array(part[0].numpy()) for name, part in MODEL.unflatten(w[None]).items()})


def vector(arrays):
    parts = {name: torch.from_numpy(array.numpy().copy())[None] for name, array in arrays.items()}
    return MODEL.flatten(parts)[0]


def drawn(participant, round):
    """Rows [E, B] of its samples in a round (0-based), as the simulation draws them."""
    shard = FEDERATION.shards[participant]
    draws = stream(SEED, "minibatches", round).random((N + 1, STEPS, BATCH))[participant]
    return shard[(draws * len(shard)).astype(np.int64)]


def sgd(state, batches, lr):
    """Plain torch: the state_dict after one step on each of the batches [E, B]."""
    module = Softmax()
    module.load_state_dict(state)
    optimiser = torch.optim.SGD(module.parameters(), lr=lr)
    for rows in batches:
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(DIGITS.x_train[rows]), DIGITS.y_train[rows]).backward()
        optimiser.step()
    return {name: weight.detach() for name, weight in module.state_dict().items()}


def client(participant, labels=True, name=None, counts=None):
    """Flower's usual client; labels: with the lines that tell its label counts (`counts` in their place)."""
    app = ClientApp()
    told = FEDERATION.class_counts[participant].tolist() if counts is None else counts

    @app.train()
    def train(message, context):
        config = message.content["config"]
        state = message.content["arrays"].to_torch_state_dict()
        after = sgd(state, drawn(participant, config["server-round"] - 1), config["lr"])
        metrics = MetricRecord({"num-examples": len(FEDERATION.shards[participant]), "loss": float(participant)})
        return Message(RecordDict({"arrays": ArrayRecord(after), "metrics": metrics}), reply_to=message)

    if labels:

        @app.query()
        def query(message, context):
            content = RecordDict({"m": MetricRecord({"label-counts": told})})
            if name:
                content["c"] = ConfigRecord({"name": name})
            return Message(content, reply_to=message)

    return app


def clients(**options):
    return {NODE * j: client(j, **options) for j in range(1, N + 1)}


def by_trace(node, message):
    """Whether the update of a round gets through; questions always do."""
    return not trains(message) or TRACE.arrived[message.content["config"]["server-round"] - 1, node // NODE - 1]


class ServerTrainer:
    """The simulation's draws: the server's own update comes first in a round, if it takes part, then all others."""

    def __init__(self, takes_part):
        self.takes_part, self.calls = takes_part, {}

    def __call__(self, parameters, classes, steps, config):
        round = config["server-round"] - 1
        call = self.calls[round] = self.calls.get(round, -1 - self.takes_part) + 1
        shard = FEDERATION.shards[0]
        if call < 0:
            batches = drawn(0, round)
        else:
            pool = shard if classes is None else shard[np.isin(DIGITS.y_train[shard].numpy(), classes)]
            draws = stream(SEED, "server minibatches", round, call).random((steps, BATCH))
            batches = pool[(draws * len(pool)).astype(np.int64)]
        after = sgd({name: torch.from_numpy(a) for name, a in parameters.items()}, batches, config["lr"])
        return {name: weight.numpy() for name, weight in after.items()}


PUBLIC = FEDERATION.class_counts[0]
NOTHING = ServerData(np.zeros(10))


def simulated(method, with_server, schedule, **options):
    """The global model after each round of the simulation."""
    models = []

    class Recorded(type(method)):
        def aggregate(self, state, w, arrivals, server):
            after, state = super().aggregate(state, w, arrivals, server)
            models.append(after.clone())
            return after, state

    recorded = Recorded(**vars(method))
    simulate(MODEL, [Run("x", recorded, FEDERATION, TRACE, START, SEED, LR, with_server, **options)], schedule)
    return models


def deployed(strategy, grid, schedule, seconds=5.0):
    """The same on Flower, where the strategy is told the step size as its users tell it."""
    models = []

    class Falling(type(strategy)):
        def configure_train(self, server_round, arrays, config, grid):
            config["lr"] = LR * schedule.rate(server_round - 1)
            return super().configure_train(server_round, arrays, config, grid)

    strategy.__class__ = Falling

    def evaluate(server_round, arrays):
        models.append(vector(arrays))

    strategy.start(grid, record(START), num_rounds=schedule.rounds, timeout=seconds, evaluate_fn=evaluate)
    return models[1:]


FITTING = [name for name in METHODS if not obstacle(METHODS[name]())]
CASES = [(name, True) for name in ("fedavg", "fedauto", "mifa")] + [(name, False) for name in FITTING]


@pytest.mark.parametrize("name, with_server", CASES)
def test_every_round_is_that_of_the_simulation(name, with_server):
    """Updates are lost by one trace, and the step size falls."""
    schedule = Schedule(ROUNDS, STEPS, BATCH, decay=0.5)
    data = ServerData(PUBLIC, ServerTrainer(with_server))
    strategy = MethodStrategy(make_method(name), data, steps=STEPS, with_server=with_server, fraction_evaluate=0)
    grid = LocalGrid(clients(), by_trace, changes=[lambda replies: replies[::-1]])  # in whatever order they come
    got = deployed(strategy, grid, schedule)
    wanted = simulated(make_method(name), with_server, schedule)
    assert not TRACE.arrived.all() and len(got) == len(wanted) == ROUNDS
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine - theirs).abs().max() < 1e-5
    assert (got[-1] - START).abs().max() > 0.01
    arrived = [upload.arrived for upload in strategy.uploads]
    assert np.array(arrived).reshape(ROUNDS, N).tolist() == TRACE.arrived.tolist()


def test_fedauto_with_a_torch_module_at_the_server():
    """The server is no participant: its data are for the compensation alone."""
    schedule, shard = Schedule(ROUNDS, STEPS, BATCH, decay=0.5), FEDERATION.shards[0]
    x, y = DIGITS.x_train[shard], DIGITS.y_train[shard]
    data = torch_data(Softmax(), x, y, 10, lr=1e9, batch=BATCH, seed=SEED)  # the config's step size comes first
    strategy = FedAutoStrategy(data, steps=STEPS, with_server=False, lam=0.5)
    got = deployed(strategy, LocalGrid(clients(), by_trace), schedule)
    wanted = simulated(make_method("fedauto", lam=0.5), False, schedule)
    assert max(float((mine - theirs).abs().max()) for mine, theirs in zip(got, wanted, strict=True)) < 1e-5
    alone = [r for r in range(ROUNDS) if not FEDERATION.class_counts[1:][TRACE.arrived[r]].any(axis=0).all()]
    assert alone  # there were classes to compensate


def test_unchanged_clients_are_those_of_which_no_histogram_is_known(caplog):
    """As in the simulation with epsilon = 0."""
    schedule, method = Schedule(ROUNDS, STEPS, BATCH), make_method("fedauto")
    strategy = MethodStrategy(method, ServerData(PUBLIC, ServerTrainer(True)), steps=STEPS)
    got = deployed(strategy, LocalGrid(clients(labels=False), by_trace), schedule)
    wanted = simulated(method, True, schedule, epsilon=0.0)
    assert max(float((mine - theirs).abs().max()) for mine, theirs in zip(got, wanted, strict=True)) < 1e-5
    said = [text for text in caplog.messages if "guessed to be uniform" in text]
    assert said == [
        f"node {NODE * j}: no label counts; its histogram is guessed to be uniform" for j in range(1, N + 1)
    ]


def fedavg(participants, w=START, round=0):
    """Plain mean of the clients' models, weighted by their samples."""
    state = {name: part[0].clone() for name, part in MODEL.unflatten(w[None]).items()}
    models = [vector(ArrayRecord(sgd(state, drawn(j, round), LR))) for j in participants]
    counts = [len(FEDERATION.shards[j]) for j in participants]
    return sum(n * model for n, model in zip(counts, models, strict=True)) / sum(counts)


ONE = Schedule(1, STEPS, BATCH)


def parts(message):
    (arrays,), (metrics,) = message.content.array_records.values(), message.content.metric_records.values()
    return {name: array.numpy().copy() for name, array in arrays.items()}, dict(metrics)


def remade(message, arrays, metrics, **more):
    records = {"arrays": ArrayRecord({name: Array(a) for name, a in arrays.items()})} | more
    return Message(RecordDict(records | {"metrics": MetricRecord(metrics)}), reply_to=message)


def sends(change):
    """A client whose reply is what `change` makes of its message, arrays and metrics."""
    bad, honest = ClientApp(), client(2)

    @bad.train()
    def train(message, context):
        reply = honest(message, context)
        return change(message, *parts(reply))

    @bad.query()
    def query(message, context):
        return honest(message, context)

    return bad


def with_array(name, make):
    return lambda message, arrays, metrics: remade(message, arrays | {name: make(arrays[name])}, metrics)


def with_metrics(**metrics):
    return lambda message, arrays, old: remade(
        message, arrays, {k: v for k, v in (old | metrics).items() if v != "gone"}
    )


def poisoned(value):
    def make(array):
        array.flat[3] = value
        return array

    return make


def unreadable(data, stype="numpy.ndarray"):
    def change(message, arrays, metrics):
        reply = remade(message, arrays, metrics)
        reply.content["arrays"]["head.bias"] = Array("float32", (10,), stype, data)
        return reply

    return change


def raising(message, arrays, metrics):
    raise RuntimeError("out of memory")


BAD = {
    "a number that is none": (with_array("head.bias", poisoned(np.nan)), "not finite"),
    "an infinite number": (with_array("head.weight", poisoned(np.inf)), "not finite"),
    "a number beyond the model's dtype": (with_array("head.bias", lambda a: a.astype(float) + 1e200), "not finite"),
    "another shape": (with_array("head.weight", lambda a: a[:-1]), r"'head.weight' has shape \(63, 10\)"),
    "the shape of a transpose": (with_array("head.weight", lambda a: a.T), r"shape \(10, 64\)"),
    "complex numbers": (with_array("head.bias", lambda a: a + 1j), "complex"),
    "words": (with_array("head.bias", lambda a: np.full(10, "x")), "dtype <U1"),
    "a name too many": (lambda m, a, t: remade(m, a | {"more": a["head.bias"]}, t), r"\['more'\]"),
    "a name too few": (lambda m, a, t: remade(m, {"head.bias": a["head.bias"]}, t), r"\['head.weight'\]"),
    "no arrays at all": (lambda m, a, t: remade(m, {}, t), "on one side only"),
    "bytes that are no array": (unreadable(b"nonsense"), "cannot be read"),
    "no bytes": (unreadable(b""), "cannot be read"),
    "an archive": (unreadable(b"PK\x05\x06" + bytes(18)), "is none"),
    "another serialisation": (unreadable(b"x", "pickle"), "cannot be read"),
    "two models": (lambda m, a, t: remade(m, a, t, again=ArrayRecord({})), "2 ArrayRecords"),
    "no number of samples": (with_metrics(**{"num-examples": "gone"}), "number of samples None"),
    "no sample": (with_metrics(**{"num-examples": 0}), "number of samples 0"),
    "samples below zero": (with_metrics(**{"num-examples": -3}), "number of samples -3"),
    "a number of samples that is none": (with_metrics(**{"num-examples": float("nan")}), "number of samples nan"),
    "numbers of samples": (with_metrics(**{"num-examples": [1, 2]}), r"number of samples \[1, 2\]"),
    "an exception": (raising, "error 2: .*out of memory"),
}


@pytest.mark.parametrize("change, cause", BAD.values(), ids=BAD)
def test_a_bad_reply_is_a_lost_upload(change, cause, caplog):
    grid = LocalGrid(clients() | {2 * NODE: sends(change)})
    strategy = MethodStrategy(make_method("fedavg"), NOTHING, steps=STEPS)
    (model,) = deployed(strategy, grid, ONE)
    torch.testing.assert_close(model, fedavg([1, 3, 4, 5]), rtol=0, atol=1e-6)
    lost = [upload for upload in strategy.uploads if not upload.arrived]
    assert [upload.client for upload in lost] == ["node 200"] and re.search(cause, lost[0].cause)
    assert any(text.startswith("round 1: an update of node 200 is lost: ") for text in caplog.messages)


def test_the_honest_reply_of_the_same_client_counts():
    grid = LocalGrid(clients() | {2 * NODE: sends(remade)})
    (model,) = deployed(MethodStrategy(make_method("fedavg"), NOTHING, steps=STEPS), grid, ONE)
    torch.testing.assert_close(model, fedavg([1, 2, 3, 4, 5]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("large, kept", [(1e30, False), (1e4, False), (1e2, True)])
def test_a_large_number_is_finite_and_its_step_refused_as_divergence(large, kept, caplog):
    """As in the simulation; the square of the first is not finite."""
    grid = LocalGrid(clients() | {2 * NODE: sends(with_array("head.bias", poisoned(large)))})
    strategy = MethodStrategy(make_method("fedavg"), NOTHING, steps=STEPS)
    (model,) = deployed(strategy, grid, ONE)
    assert all(upload.arrived for upload in strategy.uploads)
    assert bool(model.max() > large / 10) == kept and torch.equal(model, START) != kept
    assert sum("the model stays as it was" in text for text in caplog.messages) == (not kept)


@pytest.mark.parametrize("sent, kept", [(1, True), (60000, False), (1e5, False)])
def test_a_step_is_judged_by_its_floats_as_they_are_sent(sent, kept):
    """A counter may grow as it likes; half precision ends at 65504."""
    start = {"counter": np.array(0), "weight": np.zeros(1, np.float16)}

    @(app := ClientApp()).train()
    def train(message, context):
        arrays = {"counter": np.array(10**6), "weight": np.array([sent], np.float32)}
        return remade(message, arrays, {"num-examples": 1})

    def evaluate(server_round, arrays):
        counters.append(int(arrays["counter"].numpy()))

    counters, strategy = [], MethodStrategy(make_method("fedavg"), NOTHING)
    begin = ArrayRecord({name: Array(array) for name, array in start.items()})
    strategy.start(LocalGrid({1: app}), begin, 1, 1.0, evaluate_fn=evaluate)
    assert counters == [0, 10**6 if kept else 0] and strategy.uploads[0].arrived


def test_what_comes_twice_counts_once(caplog):
    """The same message, and two clients under one name."""
    apps = {100: client(1), 200: client(2), 300: client(3, name="site"), 400: client(4, name="site")}
    grid = LocalGrid(apps, changes=[lambda replies: [*replies, replies[0]]])
    strategy = MethodStrategy(make_method("fedavg"), NOTHING, steps=STEPS)
    (model,) = deployed(strategy, grid, ONE)
    torch.testing.assert_close(model, fedavg([1, 2, 3]), rtol=0, atol=1e-6)
    said = [text for text in caplog.messages if "a second one in the round" in text]
    assert said == [
        f"round 1: an update of {client} is lost: a second one in the round" for client in ("node 100", "site")
    ]
    assert [upload.arrived for upload in strategy.uploads] == [True, True, True, False]


def test_what_nobody_was_asked_for_is_no_upload():
    """An error that the link sends in a node's place, and the update of a node that was not asked."""

    def from_node(node, message):
        message.metadata.__dict__["_src_node_id"] = node
        return message

    def change(replies):
        stranger = from_node(999, Message(replies[0].content, reply_to=replies[0]))
        silence = from_node(LINK, Message(Error(UNAVAILABLE, "message unavailable"), reply_to=replies[1]))
        return [stranger, silence, *(reply for reply in replies if reply.metadata.src_node_id != 2 * NODE)]

    strategy = MethodStrategy(make_method("fedavg"), NOTHING, steps=STEPS)
    (model,) = deployed(strategy, LocalGrid(clients(), changes=[change]), ONE)
    torch.testing.assert_close(model, fedavg([1, 3, 4, 5]), rtol=0, atol=1e-6)
    assert [upload.cause for upload in strategy.uploads] == ["", "silent", "", "", ""]


@pytest.mark.parametrize("apps", [{}, clients()], ids=["no nodes", "silent nodes"])
def test_with_nobody_heard_fedauto_does_its_own_round(apps):
    """The server's update and participant m, who stands in for all classes; the others stay where they are."""
    grid = LocalGrid(apps, lambda node, message: not trains(message))
    data = ServerData(PUBLIC, ServerTrainer(True))
    (model,) = deployed(FedAutoStrategy(data, steps=STEPS), grid, ONE)
    trained = ServerTrainer(True)
    start = {name: part[0].numpy() for name, part in MODEL.unflatten(START[None]).items()}
    config = {"server-round": 1, "lr": LR}
    own, m = (
        MODEL.flatten({k: torch.from_numpy(v)[None] for k, v in trained(start, c, STEPS, config).items()})[0]
        for c in (None, range(10))
    )
    torch.testing.assert_close(model, (own + m) / 2, rtol=0, atol=1e-6)
    (model,) = deployed(MethodStrategy(make_method("fedavg"), NOTHING), grid, ONE)
    assert torch.equal(model, START)


@pytest.mark.parametrize("with_server", [True, False])
@pytest.mark.parametrize("name", FITTING)
def test_with_nobody_known_every_method_keeps_a_sound_model(name, with_server):
    """Whether the server has data of its own, takes part with them, or has none; and its trainer may work in place."""

    def train(parameters, classes, steps, config):
        for array in parameters.values():
            array += 1
        return parameters

    method = make_method(name)
    data = [ServerData(PUBLIC, train)] + [NOTHING] * (method.public_data == Method.public_data)
    for one in data:
        strategy = MethodStrategy(method, one, with_server=with_server)
        moved = (with_server and one.train) or method.public_data != Method.public_data
        got = deployed(strategy, LocalGrid({}), Schedule(2, STEPS, BATCH))
        assert all(model.isfinite().all() for model in got)
        if not moved:
            assert all(torch.equal(model, START) for model in got)
        elif name in ("fedavg", "fedauto"):
            torch.testing.assert_close(got[1], START + 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "counts, why",
    [
        ([3, 4], r"shape \(2,\), for 10 classes"),
        ([float("nan")] * 10, "not finite"),
        ([0] * 10, "without a sample"),
        ([-1] * 10, "without a sample"),
        (7, r"shape \(\), for 10 classes"),
    ],
)
def test_label_counts_that_are_no_histogram_are_guessed_to_be_uniform(counts, why, caplog):
    grid = LocalGrid(clients() | {2 * NODE: client(2, counts=counts)})
    strategy = FedAutoStrategy(ServerData(PUBLIC, ServerTrainer(True)), steps=STEPS)
    (model,) = deployed(strategy, grid, ONE)
    assert model.isfinite().all() and all(upload.arrived for upload in strategy.uploads)
    context = strategy.core.context
    assert context.alpha[2].tolist() == [0.1] * 10
    np.testing.assert_allclose(np.delete(context.alpha, 2, 0), np.delete(FEDERATION.alpha, 2, 0))
    np.testing.assert_array_equal(context.counts, FEDERATION.counts)
    assert any(re.search(f"node 200: .*{why}.*uniform", text) for text in caplog.messages)


def test_noise_below_zero_is_cut_as_in_the_simulation():
    grid = LocalGrid({NODE: client(1, counts=[3.5, -0.5, 1.5, *[0.0] * 7])})
    strategy = FedAutoStrategy(ServerData(PUBLIC, ServerTrainer(True)), steps=STEPS)
    deployed(strategy, grid, ONE)
    assert strategy.core.context.alpha[1].tolist() == [0.7, 0.0, 0.3, *[0.0] * 7]


@pytest.mark.parametrize("times", [1, 2])
def test_who_has_not_told_who_it_is_is_asked_again_once_it_is_heard(times):
    """The question to node 100 is lost once, which costs nothing, or twice; node 200 is never heard at all."""
    asked = {100: 0, 200: 0, 300: 0}

    def reaches(node, message):
        asked[node] += not trains(message)
        return node == 300 or (node == 100 and (trains(message) or asked[100] > times))

    grid = LocalGrid({node: client(node // NODE) for node in asked}, reaches)
    strategy = MethodStrategy(make_method("fedavg"), NOTHING, steps=STEPS, fraction_evaluate=0)
    deployed(strategy, grid, Schedule(3, STEPS, BATCH))
    assert asked == {100: 1 + times, 200: 1, 300: 1}
    first = "it has not told yet who it is" if times == 2 else ""
    causes = [upload.cause for upload in strategy.uploads]
    assert causes == [first, "silent", "", "", "silent", "", "", "silent", ""]


def mifa(rounds):
    """Plain MIFA where client j is heard in the rounds in which it is listed, known from the first of these on."""
    w, table = START, {}
    for round, heard in enumerate(rounds):
        table |= {j: fedavg([j], w, round) - w for j in heard}
        counts = {j: len(FEDERATION.shards[j]) for j in table}
        w = w + sum(n * table[j] for j, n in counts.items()) / sum(counts.values())
    return w


def test_who_joins_late_or_comes_back_under_another_node():
    """Client 3 joins as client 1 leaves, who is another node from the fourth round on: the update that MIFA has stored
    of it counts in between, and is replaced by its own."""
    rounds = [(1, 2), (2, 3), (2, 3), (1, 2, 3)]
    apps = {10 * j: client(j, name=f"site {j}") for j in (1, 2, 3)}
    apps[11] = client(1, name="site 1")
    nodes = [(10, 20), (20, 30), (20, 30), (11, 20, 30)]

    class Changing(LocalGrid):
        def get_node_ids(self):
            return nodes[sum(kind == "round" for _, kind in self.asked)]

    grid = Changing(apps)

    def next_round(server_round, arrays):
        if server_round:
            grid.asked.append((server_round, "round"))
        models.append(vector(arrays))

    models, strategy = [], MethodStrategy(make_method("mifa"), NOTHING, steps=STEPS, fraction_evaluate=0)
    config = ConfigRecord({"lr": LR})
    strategy.start(grid, record(START), len(nodes), 5.0, train_config=config, evaluate_fn=next_round)
    for done in range(len(rounds)):
        torch.testing.assert_close(models[done + 1], mifa(rounds[: done + 1]), rtol=0, atol=1e-6)
    assert strategy.roster.names == ["site 1", "site 2", "site 3"]
    assert sum(kind == "query" for _, kind in grid.asked) == 4  # once for each node


def test_who_comes_back_without_label_counts_keeps_the_old_ones():
    roster = Roster(PUBLIC)
    assert roster.enrol(1, "site", [30.0, *[0] * 9]) == ""
    assert roster.enrol(2, "site", None) == "no label counts; the ones before stay"
    assert roster.context(START, STEPS, LR, True).alpha[1].tolist() == [1.0, *[0.0] * 9]
    assert roster.ids == {1: 1, 2: 1} and roster.name_of(2) == "site" and roster.name_of(3) == "node 3"


def test_what_is_not_known_yet_is_guessed():
    """No number of samples: the mean of the others, the server's among them; no labels: uniform."""
    roster = Roster(np.array([10, 0]))
    for node, labels in enumerate(([0, 30], None, [1, 1, 1])):
        roster.enrol(node, f"site {node}", labels)
    context = roster.context(torch.zeros(3), 1, 0.1, True)
    assert context.counts.tolist() == [10, 30, 20, 20]
    assert context.alpha.tolist() == [[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]]
    np.testing.assert_allclose(context.target, [30 / 80, 50 / 80])
    nobody_else = Roster(np.array([1, 3])).context(torch.zeros(3), 1, 0.1, False)
    assert nobody_else.target.tolist() == [0.25, 0.75] and nobody_else.counts.tolist() == [4]


@pytest.mark.parametrize("name", [name for name in METHODS if obstacle(METHODS[name]())])
def test_methods_that_need_more_are_refused_by_name(name):
    with pytest.raises(InputError, match=rf"^method '{name}': it.*Allowed: fedauto,.*mifa.*Remedy"):
        MethodStrategy(make_method(name), ServerData(PUBLIC, ServerTrainer(True)))


def test_what_is_composed_counts_too():
    with pytest.raises(InputError, match="fedauto_on_scaffold"):
        MethodStrategy(fedauto_on("scaffold"), ServerData(PUBLIC, ServerTrainer(True)))
    data = ServerData(PUBLIC, ServerTrainer(True))
    strategy = MethodStrategy(fedauto_on("server_finetuning"), data, steps=STEPS)
    got = deployed(strategy, LocalGrid(clients(), by_trace), Schedule(2, STEPS, BATCH))
    assert all(model.isfinite().all() for model in got)


@pytest.mark.parametrize("name", ["fedprox", "scaffold", "feddyn", "fedlaw", "feddf", "feddu", "data_sharing"])
def test_these_are_refused(name):
    assert obstacle(make_method(name))


@pytest.mark.parametrize(
    "data, wrong",
    [
        (ServerData(np.zeros(10)), "'fedauto' without public data"),
        (ServerData(PUBLIC), "no function that trains"),
        (ServerData(np.zeros(10), ServerTrainer(True)), "0 public samples, and a function"),
        (ServerData(-PUBLIC, ServerTrainer(True)), "numbers? >= 0"),
        (ServerData(np.array([]), ServerTrainer(True)), "one number"),
    ],
)
def test_public_data_that_are_not_there_are_refused(data, wrong):
    with pytest.raises(InputError, match=wrong):
        FedAutoStrategy(data)


def test_torch_data_are_checked():
    x, y = torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 9])
    assert torch_data(Softmax(), x, y, 10, lr=0.1).counts_per_class.tolist() == [1, 1, *[0] * 7, 1]
    for wrong in ((x, y[:2], 10), (x[:0], y[:0], 10), (x, y, 9), (x, y - 1, 10)):
        with pytest.raises(InputError, match="labels"):
            torch_data(Softmax(), *wrong, lr=0.1)
    with pytest.raises(InputError, match="lr"):
        torch_data(Softmax(), x, y, 10, lr=0.0)


def test_a_step_that_is_not_finite_is_refused(caplog):
    """The server's own update is left out, and what it trains in FedAuto's step ruins the step: the model stays."""

    def diverged(parameters, classes, steps, config):
        return {name: array + np.inf for name, array in parameters.items()}

    strategy = FedAutoStrategy(ServerData(PUBLIC, diverged), steps=STEPS)
    got = deployed(strategy, LocalGrid(clients(), by_trace), Schedule(2, STEPS, BATCH))
    full = [bool(FEDERATION.class_counts[1:][TRACE.arrived[r]].any(axis=0).all()) for r in range(2)]
    assert [bool((after - before).any()) for before, after in zip([START, *got], got, strict=False)] == full
    assert sum("own update is left out: it is not finite" in text for text in caplog.messages) == 2
    assert sum("the model stays as it was" in text for text in caplog.messages) == full.count(False) > 0
    assert all(model.isfinite().all() for model in got)


ARRAYS = {
    "half": np.array([[0.5, -2.0]], np.float16),
    "single": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "double": np.array(1 / 3),
    "counter": np.array(2**52 + 1),
    "small": np.array([-128, 127], np.int8),
    "bytes": np.array([0, 255], np.uint8),
    "large": np.array([2**40], np.uint64),
    "mask": np.array([True, False, True]),
    "none": np.zeros((0, 4), np.float32),
    "turned": np.arange(6.0).reshape(2, 3).T,
}


def test_arrays_are_read_as_flower_reads_them():
    """In place, if NumPy wrote them as nearly always; the others as well."""
    message = Message(RecordDict(), 1, "train")
    message.metadata.__dict__["_message_id"] = "1"
    turned, file = ARRAYS["turned"], io.BytesIO()
    np.lib.format.write_array(file, turned, version=(2, 0))
    records = {"second": Array(str(turned.dtype), turned.shape, "numpy.ndarray", file.getvalue())}
    records |= {name: Array(array) for name, array in ARRAYS.items()}
    content = RecordDict({"arrays": ArrayRecord(records), "metrics": MetricRecord({"num-examples": 1})})
    arrays, _ = read(Message(content, reply_to=message))
    for name, array in (ARRAYS | {"second": turned}).items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)


def test_arrays_of_any_shape_and_dtype_come_back_the_same():
    layout = Layout.of(ARRAYS)
    vector = layout.flatten(dict(reversed(ARRAYS.items())))
    assert vector.dtype == np.float64 and vector.shape == (layout.size,) == (2 + 6 + 1 + 1 + 2 + 2 + 1 + 3 + 0 + 6,)
    back = layout.unflatten(vector)
    assert list(back) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_a_difference_is_that_of_the_vectors_and_its_sum_shows_whether_it_is_finite(value):
    layout, arrays = Layout.of(ARRAYS), ARRAYS | {"single": np.full((1, 2, 3), [0, value, 0], np.float32)}
    vector = np.linspace(-1, 1, layout.size)
    out = np.empty_like(vector)
    total = layout.difference(dict(reversed(arrays.items())), vector, out)
    np.testing.assert_array_equal(out, layout.flatten(arrays) - vector)
    assert np.isfinite(total) == np.isfinite(value) and (value or total == pytest.approx(out.sum()))


def test_the_vector_is_no_wider_than_it_must_be():
    assert Layout.of({"a": ARRAYS["half"], "b": ARRAYS["small"]}).dtype == np.float32
    assert Layout.of({"a": ARRAYS["half"], "b": ARRAYS["counter"]}).dtype == np.float64


@pytest.mark.parametrize(
    "dtype, low, high", [("int8", -128, 127), ("uint8", 0, 255), ("bool", 0, 1), ("int64", -(2**63), 2**63 - 1024)]
)
def test_integers_are_rounded_and_stay_in_range(dtype, low, high):
    layout = Layout.of({"a": np.zeros(5, dtype)})
    got = layout.unflatten(np.array([-1e30, 0.4, 0.6, 1.0, 1e30], layout.dtype))["a"]
    assert got.tolist() == [low, 0, 1, 1, high] and got.dtype == dtype


def test_adapters_alone_are_trained_on_a_frozen_base():
    """What is sent is a part of the module's state; the base stays as it is."""
    base, adapter = nn.Linear(64, 10), nn.Linear(64, 10, bias=False)
    base.requires_grad_(False)

    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.adapter = base, adapter

        def forward(self, x):
            return self.base(x.flatten(1)) + self.adapter(x.flatten(1))

    shard, frozen = FEDERATION.shards[0], base.weight.clone()
    data = torch_data(Adapted(), DIGITS.x_train[shard], DIGITS.y_train[shard], 10, lr=LR, batch=BATCH)
    strategy = FedAutoStrategy(data, steps=STEPS)
    start = {"adapter.weight": np.zeros((10, 64), np.float32)}
    result = strategy.start(LocalGrid({}), ArrayRecord({k: Array(a) for k, a in start.items()}), 1, 1.0)
    assert list(result.arrays) == list(start) and result.arrays["adapter.weight"].numpy().any()
    assert torch.equal(base.weight, frozen)


def test_evaluation_is_the_mean_of_what_is_told():
    """Over the samples; from whoever answers with numbers."""
    app = ClientApp()

    @app.evaluate()
    def evaluate(message, context):
        if context.node_id == 4:
            raise RuntimeError("no test data")
        told = {"num-examples": context.node_id, "accuracy": 0.1 * context.node_id, "own": [1.0]}
        if context.node_id > 4:
            told = {"accuracy": 1.0} | ({"num-examples": 0} if context.node_id == 6 else {})
        return Message(RecordDict({"metrics": MetricRecord(told)}), reply_to=message)

    strategy = MethodStrategy(make_method("fedavg"), NOTHING)
    grid = LocalGrid(dict.fromkeys(range(1, 7), app))
    result = strategy.start(grid, record(START), 1, 1.0)
    assert dict(result.evaluate_metrics_clientapp[1]) == {"accuracy": pytest.approx((0.1 + 0.4 + 0.9) / 6)}
    asked = [node for node, kind in grid.asked if kind == "evaluate"]
    assert asked == [1, 2, 3, 4, 5, 6]
    half = MethodStrategy(make_method("fedavg"), NOTHING, fraction_evaluate=0.5)
    half.start(grid, record(START), 1, 1.0)
    assert sum(kind == "evaluate" for _, kind in grid.asked) == 6 + 3


def test_training_metrics_are_those_of_clients_and_method():
    strategy = FedAutoStrategy(ServerData(PUBLIC, ServerTrainer(True)), steps=STEPS)
    result = strategy.start(LocalGrid(clients()), record(START), 1, 1.0, train_config=ConfigRecord({"lr": LR}))
    told = result.train_metrics_clientapp[1]
    assert told["arrived"] == N and told["loss"] == pytest.approx(3.0) and told["sum_beta"] == pytest.approx(1.0)


def test_a_strategy_that_starts_again_forgets_the_run_before():
    strategy = MethodStrategy(make_method("mifa"), ServerData(PUBLIC, ServerTrainer(True)), steps=STEPS)
    first = deployed(strategy, LocalGrid(clients()), ONE)
    strategy.core.data = strategy.core.data._replace(train=ServerTrainer(True))
    assert torch.equal(deployed(strategy, LocalGrid(clients(), lambda node, message: True), ONE)[0], first[0])
    strategy.core.data = strategy.core.data._replace(train=ServerTrainer(True))
    nobody = deployed(strategy, LocalGrid({}), ONE)[0]
    assert not torch.equal(nobody, first[0]) and strategy.uploads == []


def test_the_lines_of_the_readme_run_in_a_server_app(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "flwr" in block)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    heard = []

    @(app := ClientApp()).train()
    def train(message, context):
        heard.append(message.content["config"]["server-round"])
        arrays, metrics = message.content["arrays"], MetricRecord({"num-examples": 10})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    names["main"](LocalGrid({1: app, 2: app}), Context(0, 0, {}, RecordDict(), {}))
    assert heard == [round for round in range(1, 11) for _ in range(2)]


@pytest.mark.parametrize("dataset", ["digits", "cifar10_mobilenetv2-256"])
def test_the_example_runs_and_says_who_is_missing(dataset, monkeypatch, capsys):
    """Its own run configuration; site 2 is never heard."""
    folder = Path(__file__).parents[1] / "examples" / "flower"
    monkeypatch.syspath_prepend(folder)
    client_app, server_app = (importlib.import_module(f"digits_app.{name}") for name in ("client_app", "server_app"))
    declared = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]
    assert declared["components"] == {f"{m.__name__[11:17]}app": f"{m.__name__}:app" for m in (server_app, client_app)}
    config = declared["config"] | {"dataset": dataset}
    apps = dict.fromkeys(range(config["clients"]), client_app.app)
    grid = LocalGrid(apps, lambda node, message: node != 2 or not trains(message), run_config=config)
    server_app.main(grid, Context(0, 0, {}, RecordDict(), config))
    said = capsys.readouterr().out.splitlines()
    accuracies = [float(line.split()[-1]) for line in said if line.startswith("after round")]
    assert len(accuracies) == 1 + config["rounds"] and accuracies[-1] > 0.6 > 0.2 > accuracies[0]
    assert said[1 + config["rounds"] :] == [
        f"round {r}: site 2 is missing: silent" for r in range(1, 1 + config["rounds"])
    ]
