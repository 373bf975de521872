"""`python -m fedauto_core.benchmark`: local work and whole rounds against a plain loop, the memory of LoRA, the
server's side and the weights of many; `--peers`: also whole rounds of FedJAX and of Flower's simulation, and FedAuto's
strategy beside Flower's FedAvg."""

import argparse
import os
import sys

import torch

from fedauto_core.data.datasets import load_dataset
from fedauto_core.errors import InputError
from fedauto_core.methods.registry import METHODS, make_method

from .costs import measured
from .engine import BATCH, CLIENTS, CORES, REPETITIONS, print_engine
from .memory import print_memory
from .peers import print_peers
from .plain import CLASSES
from .rounds import print_rounds
from .weights import print_weights

SERVER_CLIENTS, SERVER_PARAMETERS = 100, 1_000_000


def server_side() -> None:
    """One aggregation of every method that the network touches beside a plain weighted mean, the cheapest first."""
    size = f"N = {SERVER_CLIENTS}, P = {SERVER_PARAMETERS:,}"
    print(f"one aggregation at the server, {size}, all arrived, {CORES} threads")
    methods = {name: make_method(name) for name in METHODS if METHODS[name].participation == "network"}
    times = measured(methods, SERVER_CLIENTS, SERVER_PARAMETERS, CLASSES)
    for row in times.sort_values("ratio").itertuples():
        plain = f"plain weighted mean {1000 * row.plain_seconds:.0f} ms"
        print(f"{row.label:<20} {1000 * row.seconds:6.0f} ms  {row.ratio:6.2f}x  {plain}")


def main(peers: bool) -> None:
    torch.set_num_threads(CORES)
    dataset = load_dataset("fashion_mnist")
    sides = f"engine: {CORES} processes x 1 thread, loop: {CORES} threads"
    load = f"load before: {os.getloadavg()[0]:.2f}"
    print(f"Fashion-MNIST, {CLIENTS} clients, batch {BATCH}, one epoch; {sides}; {load}")
    used = CLIENTS * max(case.samples for case in REPETITIONS)
    print_engine(dataset.x_train[:used], dataset.y_train[:used])
    print_rounds()
    print_memory()
    server_side()
    print_weights()
    if peers:
        from .strategies import print_strategies  # Flower is in an extra

        print_peers()
        print_strategies()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fedauto_core.benchmark", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="also FedJAX and Flower's simulation (extra [peers])")
    arguments = parser.parse_args()
    try:
        main(arguments.peers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
