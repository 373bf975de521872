"""FedAvg by Flower's simulation (Beutel et al. 2020), written as its users write it: a `ClientApp` with a torch.nn
network and torch.optim, a `ServerApp` with the strategy FedAvg, and `run_simulation` with one CPU for each client.

Clients take the minibatches that the engine draws. Needs the extra [peers].
"""

import logging
import time

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn.utils import parameters_to_vector

from .engine import CORES
from .plain import TWINS, plain_round, plain_state
from .rounds import Work, minibatches, plain_evaluation, prepared


def client_app(work: Work, seed: int) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, (run,) = prepared(work, seed)  # once per process
        dataset, network = run.federation.dataset, TWINS[work.model](model)
        client = 1 + int(context.node_config["partition-id"])
        state = message.content["arrays"].to_torch_state_dict()
        batches = minibatches(run, work.schedule, message.content["config"]["server-round"] - 1)[client]
        plain_round(network, state, dataset.x_train, dataset.y_train, torch.from_numpy(batches[None]), run.lr)
        metrics = MetricRecord({"num-examples": int(run.federation.counts[client])})
        return Message(RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics}), reply_to=message)

    return app


def server_app(work: Work, seed: int, rounds: list[tuple[float, float]]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        model, (run,) = prepared(work, seed)
        network = TWINS[work.model](model)
        begin = time.perf_counter()

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            nonlocal begin
            w = parameters_to_vector(arrays.to_torch_state_dict().values())
            accuracy, _ = plain_evaluation(network, w, run.federation.dataset, work.schedule)
            now = time.perf_counter()
            rounds.append((now - begin, accuracy))
            begin = now
            return MetricRecord({"accuracy": accuracy})

        start = ArrayRecord(plain_state(model, network, run.w0))
        strategy = FedAvg(fraction_evaluate=0.0)
        strategy.start(grid, start, num_rounds=work.schedule.rounds, evaluate_fn=evaluate)

    return app


def federated_rounds(work: Work, seed: int) -> list[tuple[float, float]]:
    """Seconds and test accuracy of every round, evaluation included."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # an error is raised as well
    rounds: list[tuple[float, float]] = []
    resources = {"init_args": {"num_cpus": CORES}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    clients = prepared(work, seed)[1][0].federation.n_clients
    run_simulation(server_app(work, seed, rounds), client_app(work, seed), clients, backend_config=resources)
    return rounds[1:]  # the first is the start
