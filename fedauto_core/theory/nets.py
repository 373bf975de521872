"""The theorem's constants along real training runs: estimates, for networks have no certified ones.

A run is recorded by a method that does what it did and remembers each round. At a recorded round everything follows
from the mean gradient of each cell (participant, class): F_j, f_c, F and participant m are mixtures of cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedauto_core.data import Federation
from fedauto_core.errors import require
from fedauto_core.methods.base import Arrivals, Method, Server, State, chi2_divergence
from fedauto_core.models import Model
from fedauto_core.theory.bounds import GENERAL, drift_bound
from fedauto_core.theory.curvature import largest_curvature
from fedauto_core.theory.improved import improved_drift

CURVATURE_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Visit:
    """Round (from 0), broadcast model w [P], ids of those heard [K], their weights [K], or [K+1] with participant m."""

    round: int
    w: Tensor
    ids: np.ndarray
    weights: np.ndarray | None


def recorded(method: Method, visits: list[Visit]) -> Method:
    """The same rule, which appends a `Visit` to `visits` in every round."""

    class Recorded(type(method)):  # type: ignore[misc]
        def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
            after, next_state = super().aggregate(state, w, arrivals, server)
            visits.append(Visit(arrivals.round, w.clone(), arrivals.ids, next_state.weights))
            return after, next_state

    return Recorded(**{field.name: getattr(method, field.name) for field in fields(method)})


def _loss(model: Model, federation: Federation, images: np.ndarray) -> Callable[[Tensor], Tensor]:
    x, y = federation.dataset.x_train[images], federation.dataset.y_train[images]

    def mean(w: Tensor) -> Tensor:
        return functional.cross_entropy(model.forward(model.unflatten(w[None]), x[None])[0], y)

    return mean


def _gradient(loss: Callable[[Tensor], Tensor], w: Tensor) -> tuple[float, np.ndarray]:
    point = w.detach().requires_grad_()
    value = loss(point)
    (slope,) = torch.autograd.grad(value, point)
    return float(value.detach()), slope.cpu().numpy().astype(np.float64)


def estimates(
    model: Model, federation: Federation, visit: Visit, batch: int, rng: np.random.Generator, images: int = 500
) -> dict[str, float]:
    """L, sigma^2, kappa^2, mean delta^2, chi^2, b_r, F, |grad F|^2 and sum_j beta_j |grad F_j|^2 at a recorded round.

    L: largest |curvature| of F on `images` of its samples; sigma^2: variance of minibatches of `batch`, mean over those
    heard; all others on all samples. InputError for a rule whose step is not a weighted sum of uploads.
    """
    require(
        visit.weights is not None,
        "a rule without weights",
        allowed="rules whose step is a weighted sum of what arrived",
        remedy="record another rule",
    )
    labels = federation.dataset.y_train.cpu().numpy()
    counts, target = federation.class_counts.astype(float), federation.target
    cells = np.zeros((*counts.shape, visit.w.numel()))
    values = np.zeros(counts.shape)
    for j, shard in enumerate(federation.shards):
        for c in np.flatnonzero(counts[j]):
            values[j, c], cells[j, c] = _gradient(_loss(model, federation, shard[labels[shard] == c]), visit.w)
    total = counts.sum()
    pooled = np.einsum("jc,jcp->p", counts, cells) / total
    classes = np.einsum("jc,jcp->cp", counts, cells) / np.maximum(counts.sum(axis=0), 1)[:, None]
    alpha = federation.alpha[visit.ids]
    own = np.einsum("jc,jcp->jp", alpha, cells[visit.ids])
    if len(visit.weights) > len(visit.ids):  # participant m: the server's samples of the classes no client sent
        missing = np.where((alpha[visit.ids > 0] > 0).any(axis=0) | (target == 0), 0.0, counts[0])
        alpha = np.vstack([alpha, missing / missing.sum()])
        own = np.vstack([own, alpha[-1] @ cells[0]])
    beta = visit.weights
    shift = np.sum((own - alpha @ classes) ** 2, axis=1)
    everyone = rng.choice(np.concatenate(federation.shards), min(images, int(total)), replace=False)
    return {
        "L": largest_curvature(_loss(model, federation, everyone), visit.w, CURVATURE_TOLERANCE),
        "sigma2": _noise(model, federation, visit, batch, rng),
        "kappa2": float(target @ np.sum((classes - pooled) ** 2, axis=1)),
        "delta2": float(beta @ shift / beta.sum()),
        "chi2": float(chi2_divergence(beta @ alpha, target)),
        "sum beta2": float(np.sum(beta**2)),
        "b": float(np.sum((pooled - beta @ own) ** 2)),
        "F": float((counts * values).sum() / total),
        "gradient2": float(pooled @ pooled),
        "gradients2": float(beta @ np.sum(own**2, axis=1)),
    }


def _noise(
    model: Model, federation: Federation, visit: Visit, batch: int, rng: np.random.Generator, draws: int = 8
) -> float:
    """Variance of a minibatch gradient, mean over (at most three of) those heard."""
    variances = []
    for j in visit.ids[rng.permutation(len(visit.ids))[:3]]:
        shard = federation.shards[j]
        drawn = [_gradient(_loss(model, federation, rng.choice(shard, batch)), visit.w)[1] for _ in range(draws)]
        variances.append(np.sum(np.var(drawn, axis=0, ddof=1)))
    return float(np.mean(variances))


def round_bound(found: dict[str, float], gamma: float, steps: int) -> dict[str, float]:
    """Error terms of both theorems over gamma E / 2 from `estimates` (so in the units of |grad F|^2), and gamma over
    the first theorem's limit. drift: as if all participants had the root mean square gradient."""
    smoothness, sigma2 = found["L"], found["sigma2"]
    size = np.array([found["gradients2"]])
    first = float(drift_bound(sigma2, size, gamma, steps)[0])
    second = float(improved_drift(sigma2, size, gamma, smoothness, steps)[0])
    return {
        "bias": float(GENERAL.bias) * found["b"],
        "drift": float(GENERAL.drift) * smoothness**2 * first,
        "noise": 2 * smoothness * gamma * sigma2 * found["sum beta2"],
        "improved error": (np.sqrt(found["b"]) + smoothness * np.sqrt(second)) ** 2,
        "step over limit": 2 * gamma * smoothness * steps,
    }
