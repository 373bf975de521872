"""FedAvg by FedJAX (Ro, Suresh and Wu 2021), written as its users write it: a Haiku network, `federated_averaging`.

Its batching hands out a data set in order if shuffling is skipped, so a client's data set in a round are the E * B
samples that the engine draws there. Needs the extra [peers].
"""

import time
from collections.abc import Callable

import fedjax
import haiku as hk
import jax
import numpy as np
from torch import Tensor

from fedauto_core.models.architectures import CHANNELS_PER_GROUP
from fedauto_core.models.model import Model

from .plain import CLASSES
from .rounds import Work, minibatches, prepared

jax.tree_map = jax.tree.map  # FedJAX 0.0.17, its last release, calls it by the name that JAX has dropped since

ROLES = {"weight": "w", "bias": "b", "scale": "scale", "shift": "offset"}


def mlp(x: jax.Array) -> jax.Array:
    return hk.Linear(CLASSES, name="head")(jax.nn.relu(hk.Linear(128, name="hidden")(hk.Flatten()(x))))


def cnn_small(x: jax.Array) -> jax.Array:
    for layer, width in (("1", 8), ("2", 16)):
        x = hk.Conv2D(width, 3, stride=2, padding=(1, 1), with_bias=False, name=f"conv{layer}")(x)
        x = jax.nn.relu(hk.GroupNorm(width // CHANNELS_PER_GROUP, name=f"norm{layer}")(x))
    return hk.Linear(CLASSES, name="head")(hk.Flatten()(x))


def softmax(x: jax.Array) -> jax.Array:
    return hk.Linear(CLASSES, name="head")(hk.Flatten()(x))


NETWORKS: dict[str, Callable[[jax.Array], jax.Array]] = {"mlp": mlp, "cnn_small": cnn_small, "softmax": softmax}


def channels_last(x: Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def haiku_start(model: Model, w0: Tensor) -> fedjax.Params:
    """The start w0 [P] as Haiku stores it: kernels as [k, k, n_in, n_out]."""
    start: dict[str, dict[str, jax.Array]] = {}
    for name, (part,) in model.unflatten(w0[None]).items():
        layer, role = name.split(".")
        value = part.permute(2, 3, 1, 0) if part.ndim == 4 else part
        start.setdefault(layer, {})[ROLES[role]] = jax.numpy.array(value.numpy())
    return start


def federated_rounds(work: Work, seed: int) -> list[tuple[float, float]]:
    """Seconds and test accuracy of every round, evaluation included."""
    engine_model, (run,) = prepared(work, seed)
    dataset, schedule = run.federation.dataset, work.schedule
    x, y = channels_last(dataset.x_train), dataset.y_train.numpy()
    used = slice(*(schedule.test or (None,)))
    test = fedjax.ClientDataset({"x": channels_last(dataset.x_test[used]), "y": dataset.y_test[used].numpy()})
    model = fedjax.create_model_from_haiku(
        hk.transform(lambda batch: NETWORKS[work.model](batch["x"])),
        sample_batch={"x": x[:1], "y": y[:1]},
        train_loss=lambda batch, scores: fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], scores),
        eval_metrics={"accuracy": fedjax.metrics.Accuracy()},
    )
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        client_optimizer=fedjax.optimizers.sgd(run.lr),
        server_optimizer=fedjax.optimizers.sgd(1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(batch_size=schedule.batch, skip_shuffle=True),
    )
    state, key = algorithm.init(haiku_start(engine_model, run.w0)), jax.random.PRNGKey(seed)
    rounds = []
    for r in range(schedule.rounds):
        begin = time.perf_counter()
        rows = minibatches(run, schedule, r)[1:].reshape(run.federation.n_clients, -1)
        key, *keys = jax.random.split(key, 1 + len(rows))
        data = [fedjax.ClientDataset({"x": x[row], "y": y[row]}) for row in rows]
        state, _ = algorithm.apply(state, list(zip(range(len(rows)), data, keys, strict=True)))
        scores = fedjax.evaluate_model(model, state.params, test.padded_batch(batch_size=100))
        accuracy = float(scores["accuracy"])  # waits for all that was dispatched
        rounds.append((time.perf_counter() - begin, accuracy))
    return rounds
