"""E plain SGD steps for a whole stack of participants at once, and gradients and predictions of a stack.

Participants may come from many simultaneous runs; row j never sees the other rows. Backends with the same numbers to
rounding: "stacked" trains chunks of models together (batched matrix products), "loop" one model after another,
"compiled" with loops by Numba (see `engine/compiled.py`; four models, and the ViT and the last stage of MobileNetV2
with LoRA, on the CPU).
"""

import ctypes
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from fedauto_core.errors import require, require_known, require_number
from fedauto_core.models.layers import dense
from fedauto_core.models.model import Model

from . import compiled
from .gram import gram_pays, gram_updates, head_gradients

Affine = dict[str, tuple[Tensor, Tensor]]  # parameter name -> (shrink, shift)
BACKENDS = ("auto", "compiled", "stacked", "loop")
CHUNK = {"cpu": 10, "cuda": 256}
LOOP_ON_CPU = ("resnet8", "mobilenet_v2")  # their large activations do not fit the caches ten at a time
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def local_updates(
    model: Model,
    start: Tensor,
    x: Tensor,
    y: Tensor,
    batches: Tensor | np.ndarray,
    lr: float | Tensor,
    *,
    linear: Tensor | None = None,
    prox: float | Tensor = 0.0,
    reference: Tensor | None = None,
    frozen: Collection[str] = (),
    backend: str = "auto",
) -> Tensor:
    """Deltas [M, P] = end - start of E SGD steps; participant j minimises, from start_j,

        F_j(w) + <linear_j, w> + prox_j / 2 ||w - reference_j||^2

    where step e uses the mean cross-entropy over the samples batches[j, e].

    start: [M, P], may be an expanded view (it is not changed); x: [n, channels, H, W]; y: int64 [n];
    batches: int64 [M, E, B], indices into x; lr, prox: number or [M]; linear, reference: [M, P] or broadcastable to it
    (reference defaults to start); frozen: parameters held at their start, besides the model's own;
    backend: "auto" is "compiled" where it serves; for "stacked" and "loop" see `chunk_size`.
    Raises InputError on shapes that do not fit, no step, an empty batch or a backend that is unknown or does not serve.
    """
    batches = torch.as_tensor(batches, device=x.device)
    require_known("backend", backend, BACKENDS)
    require(
        batches.ndim == 3 and start.ndim == 2 and len(batches) == len(start),
        f"batches of shape {tuple(batches.shape)} for start of shape {tuple(start.shape)}",
        allowed="batches [M, E, B] and start [M, P] with the same M",
        remedy="give every participant its own row of minibatches",
    )
    for name, size in zip(("local steps", "batch size"), batches.shape[1:], strict=True):
        require_number(name, size, low=1, strict=False, whole=True)
    lr, prox = (torch.as_tensor(v, dtype=start.dtype, device=start.device).expand(len(start)) for v in (lr, prox))
    linear = None if linear is None else linear.expand_as(start)
    reference = start if reference is None else reference.expand_as(start)
    size = chunk_size(model, start.device, backend)
    held = model.frozen.union(frozen)
    if compiled.fits(model, start, x, held, backend):
        plain = linear is None and not bool(prox.any())
        shift = None if plain else _shift(lr[:, None], prox[:, None], reference, linear)
        deltas = compiled.updates(model, start, x, y, batches, lr, 1 - lr * prox, shift, held)
        if deltas is not None:
            return deltas
    by_hand = model.dense_chain and size > 1 and not held
    if by_hand and gram_pays(model, batches):
        return gram_updates(model, start, x, y, batches, lr, prox, linear, reference)
    sgd, leaves = (_dense_chain_sgd, set()) if by_hand else (_autograd_sgd, model.shapes.keys() - held)

    deltas = torch.empty(start.shape, dtype=start.dtype, device=start.device)
    for rows in _chunks(len(start), size):
        parts = model.unflatten(start[rows]).items()
        weights = {name: part.clone().requires_grad_(name in leaves) for name, part in parts}
        gamma, mu = lr[rows, None], prox[rows, None]
        # One step is w <- w - gamma (grad F + linear + mu (w - reference)) = shrink * w + shift - gamma grad F.
        affine: Affine = {}
        if bool(mu.any()) or linear is not None:
            shifts = _shift(gamma, mu, reference[rows], None if linear is None else linear[rows])
            for name, shift in model.unflatten(shifts).items():
                if name not in held:
                    affine[name] = (1 - gamma * mu).view(-1, *[1] * (shift.ndim - 1)), shift
        sgd(model, weights, x, y, batches[rows], lr[rows], affine)
        torch.cat([part.detach().flatten(1) for part in weights.values()], dim=1, out=deltas[rows])
    return deltas.sub_(start)


def _shift(gamma: Tensor, mu: Tensor, reference: Tensor, linear: Tensor | None) -> Tensor:
    """What a step adds to the weights besides the gradient and the shrinking: gamma (mu reference - linear)."""
    if linear is not None and not bool(mu.any()):
        return -gamma * linear
    pull = mu * reference
    return (pull if linear is None else pull.sub_(linear)).mul_(gamma)


def _autograd_sgd(
    model: Model, weights: dict[str, Tensor], x: Tensor, y: Tensor, batches: Tensor, lr: Tensor, affine: Affine
) -> None:
    """The steps of one chunk, in place on those of `weights` that require a gradient: separate leaves, because slices
    of one flat leaf would make autograd allocate a full-size zero gradient each."""
    leaves = [part for part in weights.values() if part.requires_grad]
    models, steps, batch = batches.shape
    # The step size is part of the loss, so models with different step sizes still share one update.
    scale = (lr / batch).repeat_interleave(batch)
    for step in range(steps):
        index = batches[:, step].reshape(-1)
        images = x.index_select(0, index).unflatten(0, (models, batch))
        logits = model.forward(weights, images).flatten(0, 1)
        loss = F.cross_entropy(logits, y.index_select(0, index), reduction="none") @ scale
        gradients = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            for name, (shrink, shift) in affine.items():
                weights[name].mul_(shrink).add_(shift)
            torch._foreach_sub_(leaves, gradients)


def _dense_chain_sgd(
    model: Model, weights: dict[str, Tensor], x: Tensor, y: Tensor, batches: Tensor, lr: Tensor, affine: Affine
) -> None:
    """The same for dense layers with ReLUs between, by hand: each weight is updated by the very product that forms its
    gradient, which is never stored (a third less time for the MLP)."""
    models, steps, batch = batches.shape
    one_hot = torch.eye(model.n_classes, dtype=x.dtype, device=x.device)
    scale = (lr / batch)[:, None, None]
    for step in range(steps):
        index = batches[:, step].reshape(-1)
        inputs = [x.index_select(0, index).view(models, batch, -1)]
        for name in model.dense_chain:
            out = dense(inputs[-1], weights[f"{name}.weight"], weights[f"{name}.bias"])
            inputs.append(out.relu_() if name != model.dense_chain[-1] else out)
        # d loss / d logits = (softmax - one-hot) / B, here times the step size.
        labels = one_hot.index_select(0, y.index_select(0, index)).view(models, batch, -1)
        grad = (inputs.pop().softmax(dim=-1) - labels).mul_(scale)
        for name in reversed(model.dense_chain):
            weight, bias, layer_input = weights[f"{name}.weight"], weights[f"{name}.bias"], inputs.pop()
            below = torch.bmm(grad, weight.mT).mul_(layer_input > 0) if inputs else None
            for part in (f"{name}.weight", f"{name}.bias") if affine else ():
                shrink, shift = affine[part]
                weights[part].mul_(shrink).add_(shift)
            weight.baddbmm_(layer_input.mT, grad, alpha=-1)
            bias.sub_(grad.sum(dim=1))
            grad = below


def loss_gradients(model: Model, theta: Tensor, x: Tensor, rows: Tensor | np.ndarray, targets: Tensor) -> Tensor:
    """Gradients [M, P] at theta [M, P] of the mean cross-entropy of model j over the samples x[rows[j]], along all
    parameters, the frozen ones too.

    rows: int64 [M, B], indices into x [n, channels, H, W]; targets: [M, B, C], probabilities of the classes.
    """
    rows = torch.as_tensor(rows, device=x.device)
    if compiled.fits(model, theta, x, model.frozen, "auto"):
        gradients = compiled.gradients(model, theta, x, rows, targets)
        if gradients is not None:
            return gradients
    if model.dense_chain == ("head",):
        return head_gradients(model, theta, x, rows, targets)
    gradients = torch.empty_like(theta)
    for part in _chunks(len(theta), chunk_size(model, theta.device)):
        leaves = {name: weight.detach().requires_grad_() for name, weight in model.unflatten(theta[part]).items()}
        images = x.index_select(0, rows[part].flatten()).unflatten(0, rows[part].shape)
        logits = model.forward(leaves, images).flatten(0, 1)
        loss = F.cross_entropy(logits, targets[part].flatten(0, 1), reduction="sum") / rows.shape[1]
        slopes = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        torch.cat([slope.flatten(1) for slope in slopes], dim=1, out=gradients[part])
    return gradients


@torch.no_grad()
def predict(model: Model, theta: Tensor, x: Tensor, chunk: int | None = None) -> Tensor:
    """Logits [R, n, C] of the models theta [R, P] on the same images x [n, channels, H, W], `chunk` images at a time
    (None: 100, or 500 where dense layers are all there is, since their activations are small).

    The images are shared: x is never copied per model.
    """
    chunk = (500 if model.dense_chain else 100) if chunk is None else chunk
    require_number("chunk", chunk, low=1, strict=False, whole=True, remedy="choose a number of images per step")
    if compiled.fits(model, theta, x, model.frozen, "auto") and (done := compiled.predict(model, theta, x)) is not None:
        return done
    logits = torch.empty(len(theta), len(x), model.n_classes, dtype=theta.dtype, device=theta.device)
    for rows in _chunks(len(theta), chunk_size(model, theta.device, "auto")):
        weights = model.unflatten(theta[rows])
        for images in _chunks(len(x), chunk):
            part = x[images]
            logits[rows, images] = model.forward(weights, part.expand(len(theta[rows]), *part.shape))
    return logits


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor, chunk: int = 100) -> Tensor:
    """function(x) for a function of images x [n, ...] that treats each by itself, `chunk` images at a time."""
    return torch.cat([function(part) for part in x.split(chunk)])


def chunk_size(model: Model, device: torch.device, backend: str = "auto") -> int:
    """Models trained together, all that `backend` decides: "loop" is 1, "stacked" is as many as the memory hierarchy
    likes (CHUNK on the device's type), and the others are "stacked" except for LOOP_ON_CPU on the CPU."""
    if backend == "loop" or (backend != "stacked" and device.type == "cpu" and model.name in LOOP_ON_CPU):
        return 1
    return CHUNK[device.type]


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch and NumPy on one thread meanwhile. Another number would sum in another order, so that results depended on
    it, and beside a busy process several threads take ten times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def prepare_worker() -> None:
    """Call once in each of several processes that train side by side, one per core."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Call once in a process that trains: freed memory stays with the process (glibc would hand every large activation
    back and fault it in again at each step)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _chunks(n: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, n, size))
