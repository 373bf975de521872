"""Pre-training at the server, with checkpoints cached by content; published weights as the other start.

A checkpoint's key hashes everything that determines it, so a stale one is never found; its file carries its own
SHA-256, so a damaged one is never used.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedauto_core.data.dataset import Dataset
from fedauto_core.data.datasets import dataset_sha256, load_dataset
from fedauto_core.data.reviews import REVIEW_CLASSES, TOKENS
from fedauto_core.errors import require, require_number
from fedauto_core.models.minilm import minilm_parameters
from fedauto_core.models.mobilenet import LAST_CHANNELS, TRUNK_SHAPE, load_mobilenet_v2, stage_parameters
from fedauto_core.models.mobilenet_stack import network_parameters
from fedauto_core.models.model import Model, build_model, head_of
from fedauto_core.seeding import stream
from fedauto_core.store.arrays import asked_fresh, cached_array
from fedauto_core.store.files import Collection, cache_folder
from fedauto_core.store.keys import code_hash, installed
from fedauto_core.store.published import MINILM, MOBILENET_V2

from .local import loss_gradients, one_thread, predict

IMAGENET, SENTENCE_TRANSFORMERS = "imagenet", "sentence-transformers"
"""The `source` of published weights: MobileNetV2, or the part that follows its frozen trunk, see `mobilenet.py`; the
encoder MiniLM-L6, see `minilm.py`."""


class Published(NamedTuple):
    """Published weights as a start for inputs of one shape; load(data folder): parameters by name, no head."""

    input_shape: tuple[int, int, int]
    n_classes: int
    files: Collection
    load: Callable[[Path | None], Mapping[str, Tensor]]


PUBLISHED: Mapping[str, Mapping[str, Published]] = {
    IMAGENET: {  # for the 10 classes of CIFAR-10
        "softmax": Published((LAST_CHANNELS, 1, 1), 10, MOBILENET_V2, lambda data: {}),
        "mobilenet_stage": Published(
            TRUNK_SHAPE, 10, MOBILENET_V2, lambda data: stage_parameters(load_mobilenet_v2(data))
        ),
        "mobilenet_v2": Published(
            (3, 32, 32), 10, MOBILENET_V2, lambda data: network_parameters(load_mobilenet_v2(data))
        ),
    },
    SENTENCE_TRANSFORMERS: {"minilm": Published((1, 1, TOKENS), len(REVIEW_CLASSES), MINILM, minilm_parameters)},
}
"""Source -> model -> weights."""


@dataclass(frozen=True)
class Pretraining:
    """Everything that determines a pre-trained model: `model` trained on the dataset `source`.

    Or, with source = IMAGENET and epochs = 0, published weights, untrained here: "mobilenet_v2" for the dataset
    "cifar10_imagenet", "mobilenet_stage" for "cifar10_mobilenetv2_stage", "softmax" (of which only the fresh
    head is left) for "cifar10_mobilenetv2" and "cifar10_mobilenetv2-256". With source = SENTENCE_TRANSFORMERS: "minilm"
    for "movie_reviews".

    Parameters
    ----------
    model : one of `ARCHITECTURES`
    source : one of `DATASETS`, IMAGENET or SENTENCE_TRANSFORMERS
    epochs : passes over the training images, or 0
    lr : first step size; it falls to 0 along half a cosine
    batch : minibatch size
    momentum : of heavy-ball SGD, in [0, 1)
    seed : of the initial weights and the minibatches
    """

    model: str
    source: str
    epochs: int
    lr: float = 0.02
    batch: int = 64
    momentum: float = 0.9
    seed: int = 0


@one_thread()
def pretrain(
    model: Model, dataset: Dataset, *, epochs: int, lr: float, batch: int, momentum: float, seed: int
) -> Tensor:
    """theta [P] after `epochs` passes of SGD with heavy-ball momentum over the training images, the step size falling
    from lr to 0 along half a cosine (Loshchilov and Hutter 2017). An incomplete last minibatch is left out.

    Raises InputError if the images do not fit the model or a number is out of range.
    """
    n = len(dataset.x_train)
    require(
        tuple(dataset.x_train.shape[1:]) == model.input_shape,
        f"images of shape {tuple(dataset.x_train.shape[1:])} for a model of input {model.input_shape}",
        allowed="equal shapes",
        remedy="build the model for this dataset",
    )
    require_number("epochs", epochs, low=1, strict=False, whole=True)
    require_number("batch", batch, low=1, high=n, strict=False, whole=True)
    require_number("lr", lr)
    require(0 <= momentum < 1, f"momentum = {momentum}", allowed="numbers in [0, 1)", remedy="use 0.9, or 0 for none")
    rng, x = stream(seed, "pretraining"), dataset.x_train
    theta = model.init(rng)[None].to(x.device)
    velocity = torch.zeros_like(theta)
    one_hot = F.one_hot(dataset.y_train, model.n_classes).to(x.dtype)
    steps = n // batch
    for epoch in range(epochs):
        order = torch.from_numpy(rng.permutation(n)).to(x.device)
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch][None]
            velocity.mul_(momentum).add_(loss_gradients(model, theta, x, index, one_hot[index]))
            theta.sub_(velocity, alpha=lr * 0.5 * (1 + math.cos(math.pi * (epoch * steps + step) / (epochs * steps))))
    return theta[0]


def pretrained(description: Pretraining, cache: Path | None = None) -> Tensor:
    """theta [P] of `pretrain`, from the checkpoint folder if it is there, or of the published weights (float32, CPU).

    cache: the data folder, default FEDAUTO_DATA or ~/.cache/fedauto; checkpoints are kept in its sub-folder of that
    name, and finding one there reads no images. Processes that ask at once train once. The environment variable
    FEDAUTO_FRESH=1 trains anew. A damaged file is reported on stderr and computed again. InputError for published
    weights of another model, or asked to be trained, or that are neither cached nor obtainable.
    """
    if description.source in PUBLISHED:
        published = _published(description)
        model = build_model(description.model, published.input_shape, published.n_classes)
        parts = published.load(cache)  # the head is zeros, which `with_fresh_head` replaces
        return torch.cat([parts.get(name, torch.zeros(shape)).flatten() for name, shape in model.shapes.items()])
    folder = cache_folder(cache) / "checkpoints"
    path = folder / f"{description.model}-{description.source}-{checkpoint_key(description)[:24]}.npy.sha256"
    fresh = asked_fresh()
    return torch.from_numpy(cached_array(path, lambda: _trained(description, cache).numpy(), fresh=fresh))


def _trained(description: Pretraining, cache: Path | None) -> Tensor:
    dataset = load_dataset(description.source, cache)
    model = build_model(description.model, tuple(dataset.x_train.shape[1:]), dataset.n_classes)
    settings = {name: value for name, value in asdict(description).items() if name not in ("model", "source")}
    return pretrain(model, dataset, **settings).cpu()


def _published(description: Pretraining) -> Published:
    known = PUBLISHED[description.source]
    require(
        description.model in known and description.epochs == 0,
        f"pre-training of model {description.model!r} on {description.source!r} for {description.epochs} epochs",
        allowed=f"models {', '.join(known)} with epochs = 0",
        remedy="these weights are published, not trained here: name one of these models, or a dataset to train on",
    )
    return known[description.model]


def checkpoint_key(description: Pretraining) -> str:
    """SHA-256 of all that determines a checkpoint: description, data, the code that trains, and the versions of torch,
    NumPy and Numba. InputError for an unknown source, or published weights of another model."""
    environment = [torch.__version__, np.__version__, installed("numba")]
    published = description.source in PUBLISHED
    content = dict(_published(description).files.sha256) if published else dataset_sha256(description.source)
    # Without the store: how files are kept does not change what is in them.
    code = code_hash([__name__], without=["fedauto_core.store"], wording=False)
    identity = [asdict(description), content, code, environment]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def with_fresh_head(model: Model, theta: Tensor, rng: np.random.Generator) -> Tensor:
    """Copy of theta [P] whose classifier ("head.*") is drawn anew: the start of fine-tuning on another label set, for
    which the old classifier means nothing even where the number of classes agrees. Of a model that is a classifier
    alone nothing is left, so theta may be that of other inputs."""
    fresh = model.unflatten(model.init(rng)[None].to(theta))
    kept = {} if head_of(fresh).keys() == fresh.keys() else model.unflatten(theta[None])
    return model.flatten(kept | head_of(fresh))[0]


def accuracy(model: Model, theta: Tensor, dataset: Dataset) -> float:
    """Share of the test images that theta [P] classifies correctly."""
    return float((predict(model, theta[None], dataset.x_test)[0].argmax(dim=1) == dataset.y_test).double().mean())
