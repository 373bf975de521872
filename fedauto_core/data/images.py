"""Fashion-MNIST and CIFAR-10: as they are, in grey, and as what MobileNetV2 makes of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedauto_core.models.mobilenet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    cached_activations,
    load_mobilenet_v2,
    pooled_features,
)
from fedauto_core.store.files import load_files
from fedauto_core.store.published import CIFAR10, FASHION_MNIST

from .dataset import Dataset, as_labels, joint_sha256

FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
FEATURES_TRAIN, FEATURES_TEST = 15_000, 3_000  # the first so many images of CIFAR-10: under a minute on two cores


class Images(NamedTuple):
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


def standardised(
    name: str, images: Images, class_names: tuple[str, ...], sha256: str, reference: np.ndarray | None = None
) -> Dataset:
    """Standardise by the channel statistics of `reference` (the training images unless given)."""
    mean, std = _statistics(images.x_train if reference is None else reference)

    def standardise(pixels: np.ndarray) -> Tensor:
        x = torch.from_numpy(pixels).float()
        return x.sub_(torch.tensor(mean).float()[:, None, None]).div_(torch.tensor(std).float()[:, None, None])

    return Dataset(
        name,
        standardise(images.x_train),
        as_labels(images.y_train),
        standardise(images.x_test),
        as_labels(images.y_test),
        class_names,
        sha256,
    )


def content_sha256(images: Images) -> str:
    return joint_sha256(*(str(array.shape).encode() + array.tobytes() for array in images))


def load_fashion_mnist(name: str, sha256: str, cache: Path) -> Dataset:
    files = load_files(FASHION_MNIST, cache)

    def idx(file: str, header: int) -> np.ndarray:
        return np.frombuffer(bytearray(files[file]), dtype=np.uint8, offset=header)

    images = Images(
        idx("train-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28),
        idx("train-labels-idx1-ubyte", 8),
        idx("t10k-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28),
        idx("t10k-labels-idx1-ubyte", 8),
    )
    return standardised(name, images, FASHION_CLASSES, sha256)


def _cifar10_images(cache: Path) -> Images:
    files = load_files(CIFAR10, cache)

    def records(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.frombuffer(bytearray().join(files[name] for name in names), dtype=np.uint8).reshape(
            -1, 1 + 3 * 32 * 32
        )
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]

    *train, test = CIFAR10.sha256
    return Images(*records(train), *records([test]))


def load_cifar10(name: str, sha256: str, cache: Path) -> Dataset:
    return standardised(name, _cifar10_images(cache), CIFAR10_CLASSES, sha256)


def _grey28(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 colour `pixels` [n, 3, H, W], shrunk to [n, 1, 28, 28] (bilinear, antialiased)."""
    grey = torch.einsum("nchw,c->nhw", torch.from_numpy(pixels).float(), torch.tensor(LUMA))[:, None]
    small = torch.nn.functional.interpolate(grey, size=(28, 28), mode="bilinear", antialias=True)
    return small.round_().clamp_(0, 255).to(torch.uint8).numpy()


def load_cifar10_grey28(name: str, sha256: str, cache: Path) -> Dataset:
    colour = _cifar10_images(cache)
    images = Images(_grey28(colour.x_train), colour.y_train, _grey28(colour.x_test), colour.y_test)
    return standardised(name, images, CIFAR10_CLASSES, sha256)


def load_cifar10_mobilenet(name: str, sha256: str, cache: Path) -> Dataset:
    images = _cifar10_images(cache)
    x_train = cached_activations(images.x_train[:FEATURES_TRAIN], cache)
    x_test = cached_activations(images.x_test[:FEATURES_TEST], cache)
    if name == "cifar10_mobilenetv2":
        network = load_mobilenet_v2(cache)
        x_train, x_test = (pooled_features(network, x)[:, :, None, None] for x in (x_train, x_test))
    y_train, y_test = as_labels(images.y_train[:FEATURES_TRAIN]), as_labels(images.y_test[:FEATURES_TEST])
    return Dataset(name, x_train, y_train, x_test, y_test, CIFAR10_CLASSES, sha256)


def load_cifar10_imagenet(name: str, sha256: str, cache: Path) -> Dataset:
    images = _cifar10_images(cache)
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = images.x_train[:FEATURES_TRAIN], images.x_test[:FEATURES_TEST]
    x_train, x_test = (torch.from_numpy(part).float().sub_(mean).div_(std) for part in pixels)
    y_train, y_test = as_labels(images.y_train[:FEATURES_TRAIN]), as_labels(images.y_test[:FEATURES_TEST])
    return Dataset(name, x_train, y_train, x_test, y_test, CIFAR10_CLASSES, sha256)
