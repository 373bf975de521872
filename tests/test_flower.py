"""FedAuto on Flower: the same global models as in the simulation, and what becomes of bad replies."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

flwr_app = pytest.importorskip("flwr.app", reason="needs Flower: pip install -e '.[flower]'")

from flower_grid import LINK, UNAVAILABLE, LocalGrid, trains  # noqa: E402
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from fedauto_core.data import FederationSpec, build_federation, load_dataset  # noqa: E402
from fedauto_core.engine import Run, Schedule, simulate  # noqa: E402
from fedauto_core.errors import InputError  # noqa: E402
from fedauto_core.flower import FedAutoStrategy, MethodStrategy, ServerData, torch_data  # noqa: E402
from fedauto_core.flower.arrays import Layout  # noqa: E402
from fedauto_core.flower.strategy import obstacle  # noqa: E402
from fedauto_core.methods import METHODS, fedauto_on, make_method  # noqa: E402
from fedauto_core.models import build_model  # noqa: E402
from fedauto_core.network import draw_trace, scenario  # noqa: E402
from fedauto_core.seeding import stream  # noqa: E402

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


def simulated(method, with_server, schedule):
    """The global model after each round of the simulation."""
    models = []

    class Recorded(type(method)):
        def aggregate(self, state, w, arrivals, server):
            after, state = super().aggregate(state, w, arrivals, server)
            models.append(after.clone())
            return after, state

    recorded = Recorded(**vars(method))
    simulate(MODEL, [Run("x", recorded, FEDERATION, TRACE, START, SEED, LR, with_server)], schedule)
    return models


def deployed(strategy, grid, schedule, start=START):
    """The same on Flower, where the strategy is told the step size as its users tell it."""
    models = []

    class Falling(type(strategy)):
        def configure_train(self, server_round, arrays, config, grid):
            config["lr"] = LR * schedule.rate(server_round - 1)
            return super().configure_train(server_round, arrays, config, grid)

    strategy.__class__ = Falling

    def evaluate(server_round, arrays):
        models.append(vector(arrays))

    strategy.start(grid, record(start), num_rounds=schedule.rounds, timeout=5.0, evaluate_fn=evaluate)
    return models[1:]


CASES = [(name, True) for name in ("fedavg", "fedauto", "mifa")] + [
    (name, False) for name in METHODS if not obstacle(METHODS[name]())
]


@pytest.mark.parametrize("name, with_server", CASES)
def test_every_round_is_that_of_the_simulation(name, with_server):
    """Updates are lost by one trace, and the step size falls."""
    schedule = Schedule(ROUNDS, STEPS, BATCH, decay=0.5)
    data = ServerData(PUBLIC, ServerTrainer(with_server))
    strategy = MethodStrategy(make_method(name), data, steps=STEPS, with_server=with_server, fraction_evaluate=0)
    got = deployed(strategy, LocalGrid(clients(), by_trace), schedule)
    wanted = simulated(make_method(name), with_server, schedule)
    assert not TRACE.arrived.all() and len(got) == len(wanted) == ROUNDS
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine - theirs).abs().max() < 1e-5
    assert (got[-1] - START).abs().max() > 0.01
    arrived = [upload.arrived for upload in strategy.uploads]
    assert np.array(arrived).reshape(ROUNDS, N).tolist() == TRACE.arrived.tolist()
