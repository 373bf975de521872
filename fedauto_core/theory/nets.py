"""The theorem's constants along real training runs: estimates, for networks have no certified ones.

A run is recorded by a method that does what it did and remembers each round. At a recorded round everything follows
from the mean gradient of each cell (participant, class): F_j, f_c, F and participant m are mixtures of cells.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedauto_core.data.federation import Federation
from fedauto_core.errors import require, require_number
from fedauto_core.methods import fedauto
from fedauto_core.methods.base import Arrivals, Context, Method, Server, State, chi2_divergence
from fedauto_core.methods.fedauto import FedAuto
from fedauto_core.methods.weights import fedauto_weights
from fedauto_core.models import layers
from fedauto_core.models.model import Model

from .bound.first import FIRST
from .bound.improved import IMPROVED, THEOREMS
from .problems.curvature import largest_curvature

CURVATURE_TOLERANCE = 1e-4  # for 32-bit products: the curvature is then right to about 1e-6
ASKED, PARTICIPANT_IMAGES = 3, 100  # participants whose curvature and noise are measured, and images for the former


@dataclass(frozen=True, eq=False)
class Visit:
    """Round (from 0), broadcast model w [P], ids of those heard [K], their weights [K], or [K+1] with participant m;
    the model [P] after it, and the round's step size."""

    round: int
    w: Tensor
    ids: np.ndarray
    weights: np.ndarray | None
    after: Tensor
    lr: float


def recorded(method: Method, visits: list[Visit]) -> Method:
    """The same method, which appends a `Visit` to `visits` in every round."""

    class Recorded(type(method)):  # type: ignore[misc]
        def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
            after, next_state = super().aggregate(state, w, arrivals, server)
            step = Visit(arrivals.round, w.clone(), arrivals.ids, next_state.weights, after.clone(), arrivals.lr)
            visits.append(step)
            return after, next_state

    return Recorded(**{field.name: getattr(method, field.name) for field in fields(method)})


@dataclass(frozen=True)
class FedAutoByTheBound(FedAuto):
    """FedAuto whose module 2 is the bound's own programme (docs/method.md, 5.4): chi^2 + lam sum_j beta_j^2, where
    FedAuto has lam sum_j beta_j^2 n_A / n_j. InputError for another divergence, or weights that do not adapt."""

    name = "fedauto_by_the_bound"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.adaptive and self.divergence == "chi2",
            f"adaptive={self.adaptive}, divergence={self.divergence!r}",
            allowed="adaptive weights and chi2: the bound has no others",
            remedy="leave both out",
        )

    def modules(
        self, context: Context, ids: np.ndarray
    ) -> tuple[np.ndarray, Callable[..., np.ndarray], Callable[..., np.ndarray]]:
        target, compensate, _ = super().modules(context, ids)
        return target, compensate, self._weights

    def _weights(self, alpha: np.ndarray, counts: np.ndarray, target: np.ndarray) -> np.ndarray:
        alike = np.ones(len(alpha))  # then n_A / n_j is their number
        return fedauto_weights(alpha, alike, target, self.lam / len(alpha))


def _loss(model: Model, federation: Federation, images: np.ndarray) -> Callable[[Tensor], Tensor]:
    x, y = federation.dataset.x_train[images], federation.dataset.y_train[images]
    return lambda w: functional.cross_entropy(model.forward(model.unflatten(w[None]), x[None])[0], y)


def _low_rank_dense(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    return layers.dense(x, weight, bias) + scale * (x @ a) @ b


def _self_attention(qkv: Tensor, heads: int) -> Tensor:
    parts = (part[None] for part in qkv.chunk(3, dim=-1))
    return layers.attention(*parts, heads, torch.ones(1, *qkv.shape[:2], dtype=torch.bool))[0]


@contextmanager
def _differentiable_twice() -> Iterator[None]:
    """Meanwhile the layers whose gradients `models.layers` has by hand are formulas: autograd cannot differentiate a
    gradient by hand, and would leave its share out of second derivatives without a word."""
    by_hand = layers._LowRankDense, layers._SelfAttention
    formulas = (SimpleNamespace(apply=formula) for formula in (_low_rank_dense, _self_attention))
    layers._LowRankDense, layers._SelfAttention = formulas
    try:
        yield
    finally:
        layers._LowRankDense, layers._SelfAttention = by_hand


@_differentiable_twice()
def network_curvature(loss: Callable[[Tensor], Tensor], w: Tensor) -> float:
    """`largest_curvature` of a network's loss at w [P]."""
    return largest_curvature(loss, w, CURVATURE_TOLERANCE)


def _slope(model: Model, federation: Federation, w: Tensor, images: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean loss of some images and its gradient [P]."""
    point = w.detach().requires_grad_()
    value = _loss(model, federation, images)(point)
    (slope,) = torch.autograd.grad(value, point)
    return float(value.detach()), slope.cpu().numpy().astype(np.float64)


def estimates(
    model: Model, federation: Federation, visit: Visit, batch: int, rng: np.random.Generator, images: int = 500
) -> dict[str, float]:
    """L, sigma^2, kappa^2, mean delta^2, chi^2, b_r, F, |grad F|^2 and sum_j beta_j |grad F_j|^2 at a recorded round.

    "L of F": largest |curvature| of F on `images` of its samples; L: the largest of that and of the losses of (at most
    three, random) participants heard, on 100 samples each; sigma^2: variance of their minibatches of `batch`, mean,
    from eight draws; all others on all samples. InputError for a method whose step is not a weighted sum of uploads.
    """
    allowed, remedy = "methods whose step is a weighted sum of what arrived", "record another method"
    require(visit.weights is not None, "a method without weights", allowed=allowed, remedy=remedy)

    gradient = partial(_slope, model, federation, visit.w)
    labels = federation.dataset.y_train.cpu().numpy()
    counts, target = federation.class_counts.astype(float), federation.target
    cells, values = np.zeros((*counts.shape, visit.w.numel())), np.zeros(counts.shape)
    for j, shard in enumerate(federation.shards):
        for c in np.flatnonzero(counts[j]):
            values[j, c], cells[j, c] = gradient(shard[labels[shard] == c])
    total = counts.sum()
    pooled = np.einsum("jc,jcp->p", counts, cells) / total
    classes = np.einsum("jc,jcp->cp", counts, cells) / np.maximum(counts.sum(axis=0), 1)[:, None]
    alpha = federation.alpha[visit.ids]
    own = np.einsum("jc,jcp->jp", alpha, cells[visit.ids])
    if len(visit.weights) > len(visit.ids):  # participant m of FedAuto's module 1
        n_m = fedauto.compensation(alpha[visit.ids > 0], target, counts[0])
        alpha, _ = fedauto.with_m(alpha, counts[visit.ids].sum(axis=1), n_m)
        own = np.vstack([own, alpha[-1] @ cells[0]])
    beta = visit.weights
    shift = np.sum((own - alpha @ classes) ** 2, axis=1)
    everyone = rng.choice(np.concatenate(federation.shards), min(images, int(total)), replace=False)
    asked = [federation.shards[j] for j in visit.ids[rng.permutation(len(visit.ids))[:ASKED]]]
    few = [rng.choice(shard, min(PARTICIPANT_IMAGES, len(shard)), replace=False) for shard in asked]
    pooled_curvature, *own_curvature = (
        network_curvature(_loss(model, federation, chosen), visit.w) for chosen in (everyone, *few)
    )
    drawn = [[gradient(rng.choice(shard, batch))[1] for _ in range(8)] for shard in asked]
    return {
        "L": max(pooled_curvature, *own_curvature),
        "L of F": pooled_curvature,
        "sigma2": float(np.mean([np.sum(np.var(slopes, axis=0, ddof=1)) for slopes in drawn])),
        "kappa2": float(target @ np.sum((classes - pooled) ** 2, axis=1)),
        "delta2": float(beta @ shift / beta.sum()),
        "chi2": float(chi2_divergence(beta @ alpha, target)),
        "sum beta2": float(np.sum(beta**2)),
        "b": float(np.sum((pooled - beta @ own) ** 2)),
        "F": float((counts * values).sum() / total),
        "gradient2": float(pooled @ pooled),
        "gradients2": float(beta @ np.sum(own**2, axis=1)),
    }


def round_bound(found: dict[str, float], gamma: float, steps: int) -> dict[str, object]:
    """Error terms of both theorems over gamma E / 2 from `estimates` (so in the units of |grad F|^2), gamma over the
    first theorem's limit, and the status of either theorem: "estimate", or "not applicable" for a step that is too
    large, where the terms promise nothing. drift: as if all participants had the root mean square gradient."""
    b, smoothness, sigma2, size = found["b"], found["L"], found["sigma2"], np.array([found["gradients2"]])
    first, improved = (float(t.drift(sigma2, size, gamma, smoothness, steps)[0]) for t in THEOREMS)
    noise = FIRST.noise(sigma2, found["sum beta2"], gamma, smoothness, steps) / (gamma * steps / 2)
    covered = {t.name: "estimate" if t.covers(gamma, smoothness, steps) else "not applicable" for t in THEOREMS}
    error = float(IMPROVED.errors(b, improved, smoothness, steps)["error"])
    over = {"step over limit": gamma / FIRST.step_limit(smoothness, steps)}
    return FIRST.errors(b, first, smoothness, steps) | {"noise": float(noise), "improved error": error} | over | covered


def estimate_after_the_fact(
    model: Model, federation: Federation, visit: Visit, steps: int, rng: np.random.Generator, images: int = 500,
    looks: int = 3,
) -> dict[str, object]:  # fmt: skip
    """The bound after the fact (`theory.posterior`) of a round of a network, where the curvature on the way is not
    certified: "L", the largest |curvature| of F on `images` of its samples at `looks` places of the segment, ends
    included. It may be too small, from fewer samples and between the places, so the status is "estimate", or "not met"
    where both sides contradict it, and never more.

    F and grad F are on all samples. Numbers: round, measured, bound and what it consists of (progress, error,
    curvature), L, and "L met", the curvature that F's rise over its slope really had: the bound holds if and only if L
    is no less. InputError for fewer than two places, or a round that has not moved.
    """
    require_number("places of the segment", looks, low=2, strict=False, whole=True)
    move, scale = (visit.after - visit.w).cpu().numpy().astype(np.float64), visit.lr * steps
    size2 = float(move @ move)
    what, remedy = "a round after which the model is where it was", "look at another round"
    require(size2 > 0, what, allowed="rounds that move the model", remedy=remedy)
    shares = federation.counts / federation.counts.sum()
    ends = []
    for w in (visit.w, visit.after):
        pairs = [_slope(model, federation, w, shard) for shard in federation.shards]
        ends.append((shares @ [value for value, _ in pairs], shares @ np.array([slope for _, slope in pairs])))
    (before, gradient), (after, _) = ends
    everyone = np.concatenate(federation.shards)
    loss = _loss(model, federation, rng.choice(everyone, min(images, len(everyone)), replace=False))
    places = (visit.w + t * (visit.after - visit.w) for t in np.linspace(0, 1, looks).tolist())
    largest = max(network_curvature(loss, place) for place in places)
    parts = {
        "progress": float(before - after),
        "error": float(np.sum((scale * gradient + move) ** 2)) / (2 * scale),
        "curvature": (largest * scale - 1) * size2 / (2 * scale),
    }
    sides = {"measured": scale / 2 * float(gradient @ gradient), **parts, "bound": sum(parts.values())}
    met = 2 * (after - before - float(gradient @ move)) / size2
    status = "estimate" if sides["measured"] <= sides["bound"] else "not met"
    return {"round": visit.round + 1, **sides, "L": largest, "L met": met, "status": status}
