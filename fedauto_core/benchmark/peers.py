"""The same whole rounds by other simulators of federated learning: FedJAX and Flower (`make bench PEERS=1`).

FedAvg with everybody heard, as all of them can run it, from the same start on the same minibatches, every round
evaluated; the accuracy beside the time, seed by seed, shows that it is the same work. Time is per round and seed, on
all cores: the engine, the loop and FedJAX run all seeds at once, a process for each; Flower, whose simulation takes all
cores by itself, runs the first alone. The peers' first round is left out: FedJAX compiles in it, Flower starts its
workers. For the others it is all rounds, as they come.
"""

import importlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing import TimeoutError, get_context
from typing import NamedTuple

import numpy as np

from .engine import BATCH, CLIENTS
from .rounds import SCHEDULE, SEEDS, WORKS, Work, both_sides, workers


class Peer(NamedTuple):
    """`federated_rounds` of `module` gives seconds and test accuracy of every round; seeds: run at once."""

    label: str
    module: str
    seeds: tuple[int, ...]


PEERS = (Peer("FedJAX", "peer_fedjax", SEEDS), Peer("Flower", "peer_flower", SEEDS[:1]))
LIMIT_S = 600.0  # for one experiment
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def everybody(work: Work) -> Work:
    """`work` for all simulators."""
    schedule = replace(SCHEDULE, evaluate_every=1)
    return replace(work, network="F0", methods=("fedavg",), with_server=False, schedule=schedule)


def _peer_rounds(module: str, work: Work, seed: int) -> list[tuple[float, float]]:
    os.environ |= QUIET
    try:
        return importlib.import_module(f".{module}", __package__).federated_rounds(work, seed)
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        raise RuntimeError(f"{type(first).__name__}: {first}") from None


def measured_peer(peer: Peer, work: Work) -> tuple[float, list[float]]:
    """Seconds per round and seed (median), and the test accuracy of each seed at the end. Whatever of the peer is still
    running then, or after LIMIT_S, is ended."""
    with get_context("spawn").Pool(len(peer.seeds)) as pool:
        jobs = pool.starmap_async(_peer_rounds, [(peer.module, work, seed) for seed in peer.seeds], chunksize=1)
        seconds, accuracy = np.array(jobs.get(LIMIT_S)).transpose(2, 0, 1)
    return float(np.median(seconds[:, 1:])) / len(peer.seeds), accuracy[:, -1].tolist()


def _line(work: Work, label: str, seconds: float, engine: float, accuracy: Iterable[float]) -> str:
    times = f"{1000 * seconds:7.1f} ms  {seconds / engine:5.2f}x"
    return f"{work.label:<10} {label:<7} {times}  accuracy {', '.join(f'{value:.4f}' for value in accuracy)}"


def peer_line(peer: Peer, work: Work, engine: float) -> str:
    """Result line of a peer beside the engine's seconds; if it fails, with the reason."""
    try:
        seconds, accuracy = measured_peer(peer, work)
    except (RuntimeError, TimeoutError) as error:
        reason = str(error).partition("\n")[0] or f"no result in {LIMIT_S:.0f} s"
        return f"{work.label:<10} {peer.label:<7} did not run: {reason}"
    return _line(work, peer.label, seconds, engine, accuracy)


def lines(work: Work) -> Iterator[str]:
    """One per simulator, the engine first."""
    with workers([work]) as pool:
        seconds, scores = both_sides(work, pool)
    per_round = {side: taken / work.schedule.rounds / len(SEEDS) for side, taken in seconds.items()}
    engine = per_round["engine"]
    yield from (_line(work, side, per_round[side], engine, (s.accuracy for s in scores[side])) for side in per_round)
    yield from (peer_line(peer, work, engine) for peer in PEERS)


def print_peers() -> None:
    """What `lines` says of every experiment."""
    size = f"{CLIENTS} clients, nothing lost, FedAvg, {SCHEDULE.rounds} rounds"
    each = f"{SCHEDULE.steps} steps of batch {BATCH} and an evaluation in each"
    print(f"other simulators, {size}, {each}; time per round and seed, {len(SEEDS)} seeds on all cores")
    for work in WORKS:
        for line in lines(everybody(work)):
            print(line, flush=True)
