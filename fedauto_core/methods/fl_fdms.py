"""FL-FDMS: a missing client is replaced by its friend, the arrived client whose updates resembled its own most.

Wang & Xu, "Friends to help: saving federated learning from client dropout", arXiv 2205.13222 (2022). Assumes that a
missing client has a friend (a client with similar data) among the arrived; knows nothing of the network. Memory: two
N x N tables of numbers at the server, no models; no extra traffic. Differs from the paper in: data weights p_j instead
of 1 / N; nobody is promised a first round in which all are heard, nor a friend among the arrived. A missing client who
was never heard together with any of the arrived is left out and the weights of the others are scaled up: a stranger's
update would be no better than the average, and this makes the method FedAvg as long as nothing is known. Where the
server takes part its update is averaged as the others are, but friends are clients, as in the paper: the server is
heard in every round and would stand in for everybody without a better friend.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .base import Arrivals, Context, Cost, Server, State, data_weights, weighted_step
from .step_length import StepLength


def cosines(deltas: Tensor) -> np.ndarray:
    """cos(Delta_i, Delta_j), [K, K] for deltas [K, P]; 0 where one of them vanishes."""
    gram = (deltas @ deltas.T).double().cpu().numpy()
    norms = np.sqrt(np.diag(gram))
    return np.clip(gram / np.maximum(np.outer(norms, norms), np.finfo(float).tiny), -1, 1)


@dataclass(frozen=True)
class FLFDMS(StepLength):
    """M_ij: mean of (cos(Delta_i, Delta_j) + 1) / 2 over the rounds in which both arrived (-1 before the first).

    w_{t+1} = w_t + eta_g sum_i p_i Delta_{f(i)} / sum_i p_i, f(i) = i if i arrived, else the arrived client j with the
    largest M_ij.
    """

    name = "fl_fdms"
    source = "Wang & Xu 2022"
    family = "stored updates"
    contest = "aggregation"
    cost = Cost(server="2 * (N + 1)**2")
    assumes = "a similar client arrives"

    def init(self, context: Context) -> State:
        shape = (context.n_clients + 1,) * 2
        return State(context, {"similarity": np.full(shape, -1.0), "met": np.zeros(shape, int)})

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, p = arrivals.ids, data_weights(state.context)
        if not len(ids):
            return w, state.next(log={})
        # M_ij <- M_ij + ((cos_ij + 1) / 2 - M_ij) / (rounds in which i and j were heard together)
        similarity, met, pairs = state.memory["similarity"].copy(), state.memory["met"].copy(), np.ix_(ids, ids)
        met[pairs] += 1
        similarity[pairs] += ((cosines(arrivals.deltas) + 1) / 2 - similarity[pairs]) / met[pairs]
        # beta_k = eta_g (p_k + sum of p_i over the missing i whose friend is k) / (the same, summed over k)
        missing = np.setdiff1d(np.flatnonzero(p), ids)
        known = np.where(ids > 0, similarity[np.ix_(missing, ids)], -1.0)
        friend, has_friend = known.argmax(axis=1), known.max(axis=1) >= 0
        share = p[ids]
        np.add.at(share, friend[has_friend], p[missing[has_friend]])
        w, state = weighted_step(state, w, arrivals, self.server_lr * share / share.sum())
        log = {"substituted": float(has_friend.sum()), "left_out": float((~has_friend).sum())}
        return w, state.noted(log, similarity=similarity, met=met)
