"""The table of stored updates that MIFA and FedVARP keep: the last one of everybody."""

from typing import Any

import numpy as np
import torch

from .base import Arrivals, Context, State, lr_factor, mixture_log


def empty_table(context: Context) -> dict[str, Any]:
    """updates: zeros [N+1, P]; last: the round in which each participant was last heard, -1 for never, [N+1]."""
    n = context.n_clients + 1
    return {"updates": context.w0.new_zeros(n, len(context.w0)), "last": np.full(n, -1)}


def stored(state: State, arrivals: Arrivals) -> dict[str, Any]:
    """The table with the rows of those who arrived replaced by Delta_k gamma_1 / gamma_r, so that all rows are updates
    of one step size, the first; the others' stay as they are."""
    rows = torch.from_numpy(arrivals.ids).to(arrivals.deltas.device)
    last = state.memory["last"].copy()
    last[arrivals.ids] = arrivals.round
    updates = arrivals.deltas / lr_factor(state, arrivals)
    return {"updates": state.memory["updates"].index_copy(0, rows, updates), "last": last}


def table_log(state: State, beta: np.ndarray, last: np.ndarray) -> dict[str, float]:
    """`mixture_log` of weights beta [N+1] over everyone heard so far."""
    known = last >= 0
    return mixture_log(beta[known], state.context.alpha[known], state.context.target)
