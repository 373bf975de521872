"""One run as it goes through the rounds: who is heard, with which minibatches, and the step that follows."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedauto_core.data.federation import reported, share_public
from fedauto_core.methods.base import Arrivals, Context, State
from fedauto_core.methods.guard import is_sound
from fedauto_core.seeding import stream

from .averaging import Averaging
from .public import PublicData
from .spec import Run, Schedule


class Lane:
    """A run in progress: current model, method state, and the round in which it diverged (0: none)."""

    def __init__(self, averaging: Averaging, run: Run, schedule: Schedule) -> None:
        self.averaging, self.run, self.schedule = averaging, run, schedule
        self.w, self.diverged = run.w0, 0
        work = run.method.participation == "server" or (run.with_server and run.method.participation != "pooled")
        self.server_work = work * schedule.steps * schedule.batch  # as a participant, per round
        federation, data = run.federation, run.federation.dataset
        sgd = run.lr, schedule.batch, run.seed
        self.server = PublicData(averaging, data.x_train, data.y_train, *sgd, rows=federation.shards[0])
        if run.method.public_share:
            federation = share_public(federation, run.method.public_share, run.seed)
        self.shards, self.pooled = federation.shards, np.concatenate(run.federation.shards)
        told = reported(federation, run.epsilon, run.seed)
        context = Context.from_counts(
            told[1:],
            told[0],
            steps=schedule.steps,
            lr=run.lr,
            with_server=run.with_server,
            w0=run.w0,
            samples=federation.counts,
            seed=run.seed,
        )
        if run.method.needs_network_knowledge:
            context = replace(
                context,
                success_probability=run.trace.success_probability,
                long_run_probability=run.trace.long_run_probability,
                marginal_probability=run.trace.marginal_probability,
            )
        self.state: State = run.method.init(context)

    def heard(self, round: int) -> np.ndarray:
        """Ids of those whose update reaches the method in this round, ascending, 0 = server."""
        run = self.run
        if run.method.participation in ("server", "pooled"):
            return np.zeros(1, dtype=np.int64)
        ideal = run.method.participation == "ideal"
        clients = 1 + (np.arange(run.federation.n_clients) if ideal else np.flatnonzero(run.trace.arrived[round]))
        return np.concatenate([[0], clients]) if run.with_server else clients

    def lr(self, round: int) -> float:
        """Step size gamma_r of this round."""
        return self.run.lr * self.schedule.rate(round)

    def batches(self, ids: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Indices [K, E, B] into the training data, uniform with replacement from each participant's shard. One learner
        on all data draws as many minibatches from all of them as everybody does in the ideal network, [1, (N+1) E, B].
        """
        if self.run.method.participation == "pooled":
            everyone = np.concatenate(draws[0 if self.run.with_server else 1 : len(self.shards)])[None]
            return self.pooled[(everyone * len(self.pooled)).astype(np.int64)]
        return np.stack([self.shards[j][(draws[j] * len(self.shards[j])).astype(np.int64)] for j in ids])

    def steps(self, schedule: Schedule, round: int, ids: np.ndarray) -> np.ndarray:
        """SGD steps that each of `ids` takes in this round, [K]; the server takes E, one learner on all data as many as
        everybody together."""
        if self.run.method.participation == "pooled":
            return np.array([schedule.steps * (self.run.federation.n_clients + self.run.with_server)])
        if not schedule.least_steps:
            return np.full(len(ids), schedule.steps)
        rng = stream(self.run.seed, "local work", round)
        drawn = rng.integers(schedule.least_steps, schedule.steps, self.run.federation.n_clients + 1, endpoint=True)
        return np.where(ids == 0, schedule.steps, drawn[ids])

    def step(self, arrivals: Arrivals) -> dict[str, float]:
        """Aggregate; a step that is not finite or leads far off is refused and the run stands still from then on."""
        round, ids = arrivals.round, arrivals.ids
        self.server.start_round(round, self.schedule.rate(round))
        self.server.samples += self.server_work
        w, state = self.run.method.aggregate(self.state, self.w, arrivals, self.server)
        if is_sound(w, self.run.w0):
            log = self._log(state, arrivals)
            self.w, self.state = self.averaging.after_step(self.w, w, round), state
        else:
            self.diverged, log = round + 1, {}
        heard = {"arrived": float(np.count_nonzero(ids)), "server_samples": float(self.server.samples)}
        return heard | state.log | log

    def judged(self) -> Tensor:
        """The current model [P] as its method would have it evaluated."""
        return self.run.method.judged(self.state, self.w)

    def _log(self, state: State, arrivals: Arrivals) -> dict[str, float]:
        """What the averaging says of the step, given the weights of all that was averaged in it; and, as
        "plain_...", of the step that weights n_j / n_A would have made of the same uploads."""
        weights, deltas = state.weights, arrivals.deltas
        if weights is None:
            return {}
        counts = self.run.federation.counts[arrivals.ids]
        plain = self.averaging.log(self.w, counts / counts.sum(), deltas)
        if len(weights) > len(deltas):
            deltas = torch.cat([deltas, self.server.trained[None]])
        own = self.averaging.log(self.w, weights, deltas)
        return own | {f"plain_{name}": value for name, value in plain.items()}

    def distance(self, w: Tensor) -> float:
        return float((w - self.run.w0).norm())
