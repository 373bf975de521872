"""The central optimum: what one learner reaches who holds everybody's data and trains to the end.

A bound that no schedule limits, drawn as a line. It minimises the training loss F = sum_j (n_j / n) F_j; a run that
stops earlier may overfit less, and so have the higher test accuracy.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor

from fedauto_core.data.federation import Federation
from fedauto_core.errors import require_number
from fedauto_core.models.model import Model
from fedauto_core.seeding import stream
from fedauto_core.store.arrays import asked_fresh, cached_array
from fedauto_core.store.files import cache_folder
from fedauto_core.store.keys import code_hash, installed

from .local import local_updates, one_thread
from .spec import Schedule

FLAT = 1e-6  # largest entry of the gradient at an optimum of softmax regression


def softmax_optimum(x: np.ndarray, y: np.ndarray, n_classes: int) -> np.ndarray:
    """Weights and biases [(D + 1) C] that minimise the mean cross-entropy of softmax regression, a convex problem, over
    features x [n, D] with labels y [n], by L-BFGS in float64 until no entry of the gradient is above FLAT.

    Where a hyperplane separates the classes the minimum lies at infinity, and this is a point on the way that is as
    flat. ArithmeticError if the solver stops before.
    """
    features = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    one_hot = np.eye(n_classes)[y]

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(features @ theta.reshape(-1, n_classes), axis=1)
        return -np.sum(one_hot * log_p) / len(x), (features.T @ (np.exp(log_p) - one_hot)).ravel() / len(x)

    start, options = np.zeros(features.shape[1] * n_classes), {"maxiter": 100_000, "maxfun": 200_000, "maxcor": 30}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options | {"ftol": 0.0, "gtol": FLAT})
    if not (steepest := np.abs(loss(found.x)[1]).max()) <= FLAT:
        raise ArithmeticError(f"no optimum of softmax regression found: gradient {steepest:.1e} ({found.message})")
    return found.x


@one_thread()
def long_run(
    model: Model, federation: Federation, w0: Tensor, *, lr: float, epochs: int, batch: int, seed: int
) -> Tensor:
    """theta [P] after `epochs` passes of SGD from w0 [P] over the samples of server and clients, the step size falling
    from lr to 0 along half a cosine, epoch by epoch. An incomplete last minibatch is left out.

    Raises InputError for a number out of range.
    """
    pooled, dataset = np.concatenate(federation.shards), federation.dataset
    require_number("batch", batch, low=1, high=len(pooled), strict=False, whole=True)
    require_number("lr", lr)
    schedule, rng, theta = Schedule(epochs, decay=1.0), stream(seed, "pretraining"), w0[None]
    for epoch in range(epochs):
        batches = rng.permutation(pooled)[: len(pooled) // batch * batch].reshape(1, -1, batch)
        data = dataset.x_train, dataset.y_train, batches
        theta = theta + local_updates(model, theta, *data, lr * schedule.rate(epoch))
    return theta[0]


def central_optimum(
    model: Model,
    federation: Federation,
    w0: Tensor,
    *,
    exact: bool = True,
    lr: float = 0.1,
    epochs: int = 200,
    batch: int = 32,
    seed: int = 0,
    cache: Path | None = None,
) -> Tensor:
    """theta [P] of one learner on the data of server and clients, trained to the end: of the model "softmax" the
    optimum itself (`softmax_optimum`), of any other what a `long_run` from w0 [P] reaches.

    exact: False: a long run for the model "softmax" as well, of higher test accuracy where the optimum overfits.
    lr, epochs, batch, seed: of the long run. cache: the data folder, as in `pretrained`; found there by all that
    determines it, computed anew with FEDAUTO_FRESH=1.
    """
    pooled, dataset = np.concatenate(federation.shards), federation.dataset
    x, y = (part[pooled].cpu().numpy() for part in (dataset.x_train, dataset.y_train))
    exact, settings = exact and model.name == "softmax", {"lr": lr, "epochs": epochs, "batch": batch, "seed": seed}
    used = [x, y] if exact else [x, y, w0.cpu().numpy()]
    content = [hashlib.sha256(part.tobytes()).hexdigest() for part in used]
    environment = [torch.__version__, np.__version__, installed("scipy"), installed("numba")]
    identity = [model.name, dataset.n_classes, {} if exact else settings, content]
    identity += [code_hash([__name__], wording=False), environment]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]

    def compute() -> np.ndarray:
        if exact:
            return softmax_optimum(x.reshape(len(x), -1), y, dataset.n_classes).astype(np.float32)
        return long_run(model, federation, w0, **settings).cpu().numpy()

    path = cache_folder(cache) / "central" / f"{model.name}-{name}.npy.sha256"
    return torch.from_numpy(cached_array(path, compute, fresh=asked_fresh())).to(w0)
