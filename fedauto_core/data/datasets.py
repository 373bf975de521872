"""Datasets and their division among the server and the clients.

A `Federation` is a dataset plus N + 1 disjoint sets of training indices: shard 0 is the server's public data, shards
1..N are the clients'.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits
from torch import Tensor

from fedauto_core.data.partition import FederationSpec, class_counts
from fedauto_core.data.reviews import REVIEW_CLASSES, REVIEWS_SETTINGS, load_reviews
from fedauto_core.errors import require, require_known
from fedauto_core.models.mobilenet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SETTINGS,
    cached_activations,
    load_mobilenet_v2,
    pooled_features,
)
from fedauto_core.seeding import stream
from fedauto_core.store.files import CIFAR10, FASHION_MNIST, MOVIE_REVIEWS, Collection, cache_folder, load_files

# The digits split is part of the dataset, not of an experiment: always drawn from this seed.
DIGITS_SEED = 0
DIGITS_TRAIN_PER_CLASS, DIGITS_TEST_PER_CLASS = 100, 40
SOURCE_TEST_PER_CLASS = 7
COPIES, MAX_SHIFT, MAX_ROTATION = 10, 1.0, 20.0  # augmented copies per image; pixels; degrees
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
FEATURES_TRAIN, FEATURES_TEST = 15_000, 3_000  # the first so many images of CIFAR-10: under a minute on two cores


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images standardised channel by channel (or features of images, or token ids), and labels 0..C-1.

    x_train [n, channels, H, W] (text: [n, 1, 1, tokens]) and x_test float32, y_train [n] and y_test int64;
    class_names: C names; sha256: of the content before standardisation. public: indices of the training samples that
    only the server may have, the clients having the others; None: all may go to anyone.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    class_names: tuple[str, ...]
    sha256: str
    public: np.ndarray | None = None

    @property
    def n_classes(self) -> int:
        return len(self.class_names)


class _Images(NamedTuple):
    """Content before standardisation: uint8 pixels [n, channels, H, W] and labels [n]."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def _statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of uint8 `pixels` [n, channels, H, W], from exact integer sums."""
    per_channel = pixels.size / pixels.shape[1]
    mean = pixels.sum(axis=(0, 2, 3), dtype=np.int64) / per_channel
    second_moment = np.einsum("nchw,nchw->c", pixels, pixels, dtype=np.int64) / per_channel
    return mean, np.sqrt(second_moment - mean**2)


def _dataset(name: str, images: _Images, class_names: tuple[str, ...], reference: np.ndarray | None = None) -> Dataset:
    """Standardise by the channel statistics of `reference` (the training images unless given)."""
    mean, std = _statistics(images.x_train if reference is None else reference)

    def standardise(pixels: np.ndarray) -> Tensor:
        x = torch.from_numpy(pixels).float()
        return x.sub_(torch.tensor(mean).float()[:, None, None]).div_(torch.tensor(std).float()[:, None, None])

    return Dataset(
        name,
        standardise(images.x_train),
        _labels(images.y_train),
        standardise(images.x_test),
        _labels(images.y_test),
        class_names,
        dataset_sha256(name),
    )


def _labels(y: np.ndarray) -> Tensor:
    return torch.from_numpy(y.astype(np.int64))


def _sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _content_sha256(images: _Images) -> str:
    return _sha256(*(str(array.shape).encode() + array.tobytes() for array in images))


def _digits_split() -> tuple[_Images, _Images]:
    """Target task (1,000 train, 400 test, balanced) and pre-training source (the remaining 397), disjoint."""
    bunch = load_digits()
    pixels = (bunch.images * 15).astype(np.uint8)[:, None]  # the 17 grey levels 0..16 as 0..240: exact
    labels = bunch.target
    rng = stream(DIGITS_SEED, "partition", 1)
    end_train, end_test = DIGITS_TRAIN_PER_CLASS, DIGITS_TRAIN_PER_CLASS + DIGITS_TEST_PER_CLASS
    end_source_test = end_test + SOURCE_TEST_PER_CLASS
    per_class = [rng.permutation(np.flatnonzero(labels == c)) for c in range(len(bunch.target_names))]

    def take(start: int, stop: int | None) -> tuple[np.ndarray, np.ndarray]:
        index = np.sort(np.concatenate([members[start:stop] for members in per_class]))
        return pixels[index], labels[index]

    target = _Images(*take(0, end_train), *take(end_train, end_test))
    source = _Images(*take(end_source_test, None), *take(end_test, end_source_test))
    return target, source


def _augmented(pixels: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`COPIES` randomly rotated and shifted copies of each image (bilinear, dark border), with their labels."""
    copies = np.repeat(pixels, COPIES, axis=0)
    angles = np.deg2rad(rng.uniform(-MAX_ROTATION, MAX_ROTATION, len(copies)))
    shifts = rng.uniform(-MAX_SHIFT, MAX_SHIFT, (len(copies), 2))
    centre = (np.array(pixels.shape[2:]) - 1) / 2
    for image, angle, shift in zip(copies[:, 0], angles, shifts, strict=True):
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = affine_transform(image.astype(np.float64), rotation, centre - rotation @ (centre + shift), order=1)
        image[:] = np.rint(moved)
    return copies, np.repeat(labels, COPIES)


@functools.cache
def _digits_images() -> Mapping[str, _Images]:
    """The two datasets made of scikit-learn's digits, by name."""
    target, source = _digits_split()
    rng = stream(DIGITS_SEED, "partition", 2)
    moved = _Images(*_augmented(source.x_train, source.y_train, rng), *_augmented(source.x_test, source.y_test, rng))
    return {"digits": target, "digits_shifted": moved}


def _load_digits(name: str, cache: Path) -> Dataset:
    _, source = _digits_split()
    return _dataset(name, _digits_images()[name], _DIGITS, reference=source.x_train)


def _load_fashion_mnist(name: str, cache: Path) -> Dataset:
    files = load_files(FASHION_MNIST, cache)

    def idx(file: str, header: int) -> np.ndarray:
        return np.frombuffer(bytearray(files[file]), dtype=np.uint8, offset=header)

    images = _Images(
        idx("train-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28),
        idx("train-labels-idx1-ubyte", 8),
        idx("t10k-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28),
        idx("t10k-labels-idx1-ubyte", 8),
    )
    return _dataset(name, images, _FASHION)


def _cifar10_images(cache: Path) -> _Images:
    files = load_files(CIFAR10, cache)

    def records(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.frombuffer(bytearray().join(files[name] for name in names), dtype=np.uint8).reshape(
            -1, 1 + 3 * 32 * 32
        )
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]

    *train, test = CIFAR10.sha256
    return _Images(*records(train), *records([test]))


def _load_cifar10(name: str, cache: Path) -> Dataset:
    return _dataset(name, _cifar10_images(cache), _CIFAR10)


def _grey28(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 colour `pixels` [n, 3, H, W], shrunk to [n, 1, 28, 28] (bilinear, antialiased)."""
    grey = torch.einsum("nchw,c->nhw", torch.from_numpy(pixels).float(), torch.tensor(LUMA))[:, None]
    small = torch.nn.functional.interpolate(grey, size=(28, 28), mode="bilinear", antialias=True)
    return small.round_().clamp_(0, 255).to(torch.uint8).numpy()


def _load_cifar10_grey28(name: str, cache: Path) -> Dataset:
    colour = _cifar10_images(cache)
    images = _Images(_grey28(colour.x_train), colour.y_train, _grey28(colour.x_test), colour.y_test)
    return _dataset(name, images, _CIFAR10)


def _load_cifar10_mobilenet(name: str, cache: Path) -> Dataset:
    images = _cifar10_images(cache)
    x_train = cached_activations(images.x_train[:FEATURES_TRAIN], cache)
    x_test = cached_activations(images.x_test[:FEATURES_TEST], cache)
    if name == "cifar10_mobilenetv2":
        network = load_mobilenet_v2(cache)
        x_train, x_test = (pooled_features(network, x)[:, :, None, None] for x in (x_train, x_test))
    y_train, y_test = _labels(images.y_train[:FEATURES_TRAIN]), _labels(images.y_test[:FEATURES_TEST])
    return Dataset(name, x_train, y_train, x_test, y_test, _CIFAR10, dataset_sha256(name))


def _load_cifar10_imagenet(name: str, cache: Path) -> Dataset:
    images = _cifar10_images(cache)
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = images.x_train[:FEATURES_TRAIN], images.x_test[:FEATURES_TEST]
    x_train, x_test = (torch.from_numpy(part).float().sub_(mean).div_(std) for part in pixels)
    y_train, y_test = _labels(images.y_train[:FEATURES_TRAIN]), _labels(images.y_test[:FEATURES_TEST])
    return Dataset(name, x_train, y_train, x_test, y_test, _CIFAR10, dataset_sha256(name))


def _load_movie_reviews(name: str, cache: Path) -> Dataset:
    reviews = load_reviews(cache)
    tensors = (torch.from_numpy(array) for array in (reviews.x_train, reviews.y_train, reviews.x_test, reviews.y_test))
    return Dataset(name, *tensors, REVIEW_CLASSES, dataset_sha256(name), reviews.public)


_DIGITS = tuple(str(digit) for digit in range(10))
_FASHION = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

DATASETS: Mapping[str, Callable[[str, Path], Dataset]] = {
    "digits": _load_digits,
    "digits_shifted": _load_digits,
    "fashion_mnist": _load_fashion_mnist,
    "cifar10": _load_cifar10,
    "cifar10_grey28": _load_cifar10_grey28,
    "cifar10_mobilenetv2": _load_cifar10_mobilenet,
    "cifar10_mobilenetv2_stage": _load_cifar10_mobilenet,
    "cifar10_imagenet": _load_cifar10_imagenet,
    "movie_reviews": _load_movie_reviews,
}
PUBLISHED: Mapping[str, Collection] = {
    "fashion_mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
    "cifar10_grey28": CIFAR10,
    "cifar10_mobilenetv2": CIFAR10,
    "cifar10_mobilenetv2_stage": CIFAR10,
    "cifar10_imagenet": CIFAR10,
    "movie_reviews": MOVIE_REVIEWS,
}
"""Datasets made of published files, whose hashes are pinned."""


def _settings(name: str) -> list[str]:
    """What besides the files determines a dataset of published files."""
    if name == "movie_reviews":
        return [REVIEWS_SETTINGS]
    if name == "cifar10_imagenet":
        return [f"{FEATURES_TRAIN} {FEATURES_TEST} {IMAGENET_MEAN} {IMAGENET_STD}"]
    return [f"{FEATURES_TRAIN} {FEATURES_TEST} {SETTINGS}"] if "mobilenetv2" in name else []


@functools.cache
def dataset_sha256(name: str) -> str:
    """`load_dataset(name).sha256` without reading any published file: from the pinned hashes, which loading
    verifies, else from the bytes of scikit-learn's digits. InputError for an unknown name."""
    require_known("dataset", name, DATASETS)
    if name in PUBLISHED:
        return _sha256(*(part.encode() for part in (name, *PUBLISHED[name].sha256.values(), *_settings(name))))
    return _content_sha256(_digits_images()[name])


def load_dataset(name: str, cache: Path | None = None) -> Dataset:
    """One of `DATASETS`; files are kept in `cache` (default: FEDAUTO_DATA, else ~/.cache/fedauto).

    "digits" and "digits_shifted" are disjoint parts of scikit-learn's digits and need no download: the second
    is the pre-training source (rotated and shifted copies); both are standardised by the source's statistics.
    "cifar10_grey28" is CIFAR-10 as 28x28 luma, the pre-training source for Fashion-MNIST.
    "cifar10_mobilenetv2_stage" [n, 320, 3, 3] and "cifar10_mobilenetv2" [n, 1280, 1, 1] are what MobileNetV2, trained
    on ImageNet, makes of the first 15,000 training and 3,000 test images of CIFAR-10, enlarged to 96x96, before and
    after its last convolution: for tuning its last stage, or a classifier alone. The scale is one constant each, see
    `mobilenet.py`. Computed once, in about a minute on two cores, then cached (210 MB).
    "cifar10_imagenet" [n, 3, 32, 32] are the same images, standardised by the channel statistics of ImageNet, for the
    whole MobileNetV2.
    "movie_reviews" are token ids [n, 1, 1, 32] for model "minilm": 1,000 IMDB reviews, public, and 4,000 of Rotten
    Tomatoes for training, 1,500 of the latter for the test; for its tokenizer it needs the extra [text].
    InputError for an unknown name, files that are neither cached nor obtainable, or a missing extra.
    """
    require_known("dataset", name, DATASETS)
    return DATASETS[name](name, cache_folder(cache))


@dataclass(frozen=True, eq=False)
class Federation:
    """A dataset and N + 1 disjoint shards: int64 indices into `dataset.x_train`, ascending; shard 0 is the server's."""

    dataset: Dataset
    shards: tuple[np.ndarray, ...]

    @property
    def n_clients(self) -> int:
        return len(self.shards) - 1

    @functools.cached_property
    def class_counts(self) -> np.ndarray:
        """Samples of each participant and class, int64 [N+1, C]."""
        labels = self.dataset.y_train.cpu().numpy()
        return np.stack([np.bincount(labels[shard], minlength=self.dataset.n_classes) for shard in self.shards])

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """n_j, int64 [N+1]."""
        return self.class_counts.sum(axis=1)

    @functools.cached_property
    def alpha(self) -> np.ndarray:
        """Label histograms alpha_j, float64 [N+1, C]; rows sum to one."""
        return self.class_counts / self.counts[:, None]

    @functools.cached_property
    def target(self) -> np.ndarray:
        """alpha_g = sum_j (n_j / n) alpha_j over server and clients, float64 [C]."""
        return self.class_counts.sum(axis=0) / self.counts.sum()


def build_federation(dataset: Dataset, spec: FederationSpec, seed: int) -> Federation:
    """Divide the training samples as `spec` says; the same (dataset, spec, seed) gives the same shards. Where the
    dataset has public samples, the server's are drawn from them and the clients' from the others.

    InputError for impossible specs (see `fedauto_core.data.partition`).
    """
    rng = stream(seed, "partition")
    labels = dataset.y_train.cpu().numpy()

    def pools(members: np.ndarray) -> list[np.ndarray]:
        return [rng.permutation(members[labels[members] == c]) for c in range(dataset.n_classes)]

    everyone = np.arange(len(labels))
    if dataset.public is None:
        common = pools(everyone)
        shards = _dealt(common, class_counts(spec, np.array([*map(len, common)]), rng))
    else:
        private, public = pools(np.setdiff1d(everyone, dataset.public)), pools(dataset.public)
        counts = class_counts(spec, np.array([*map(len, private)]), rng, np.array([*map(len, public)]))
        shards = _dealt(public, counts[:1]) + _dealt(private, counts[1:])
    return Federation(dataset, tuple(np.sort(shard).astype(np.int64) for shard in shards))


def _dealt(pools: list[np.ndarray], counts: np.ndarray) -> list[np.ndarray]:
    """One shard per row of `counts` [n, C]: so many of each class, taken in turn from the class's pool."""
    return [
        np.concatenate([pool[end - count : end] for pool, count, end in zip(pools, *row, strict=True)])
        for row in zip(counts, counts.cumsum(axis=0), strict=True)
    ]


def share_public(federation: Federation, fraction: float, seed: int) -> Federation:
    """The federation after the server gave every client its own random `fraction` of the public samples; the shards
    then overlap (Zhao et al. 2018). InputError for a fraction outside (0, 1]."""
    require(
        0 < fraction <= 1,
        f"shared fraction of the public data = {fraction}",
        allowed="numbers in (0, 1]",
        remedy="use fedavg to share nothing",
    )
    rng, public = stream(seed, "data sharing"), federation.shards[0]
    size = max(1, round(fraction * len(public)))
    gifts = [rng.choice(public, size, replace=False) for _ in federation.shards[1:]]
    clients = [np.sort(np.append(s, gift)) for s, gift in zip(federation.shards[1:], gifts, strict=True)]
    return replace(federation, shards=(public, *clients))


def reported(federation: Federation, epsilon: float, seed: int) -> np.ndarray:
    """Label histograms [N+1, C] as the server learns them: exact for epsilon = inf; else each client adds
    Laplace(2 / epsilon) noise to its class counts (epsilon-differentially private towards the replacement of one
    sample; Dwork et al. 2006), the server cuts them at zero and normalises. epsilon = 0: nothing is reported, and the
    server guesses the uniform histogram. The server knows its own. InputError for a negative epsilon or nan."""
    require(
        epsilon >= 0,
        f"epsilon = {epsilon}",
        allowed="numbers >= 0; inf: exact histograms, 0: none",
        remedy="use 0.1 (private) to 10 (nearly exact)",
    )
    counts = federation.class_counts.astype(float)
    if epsilon == 0:
        counts[1:] = 1.0
    elif epsilon < np.inf:
        noise = stream(seed, "histogram noise").laplace(0.0, 2 / epsilon, counts[1:].shape)
        counts[1:] = np.maximum(counts[1:] + noise, 0.0)
        counts[1:][~counts[1:].any(axis=1)] = 1.0  # nothing left to normalise
    return counts / counts.sum(axis=1, keepdims=True)
