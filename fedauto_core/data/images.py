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
    trunk_activations,
)
from fedauto_core.store.arrays import cached_array
from fedauto_core.store.files import load_files
from fedauto_core.store.keys import code_hash
from fedauto_core.store.published import CIFAR10, FASHION_MNIST

from .dataset import Dataset, as_labels, joint_sha256

FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
FEATURES_TRAIN, FEATURES_TEST = 15_000, 3_000  # the first n images of CIFAR-10: under a minute on two cores
COMPONENTS, COMPONENTS_FROM = 256, (15_000, 20_000)  # fitted on these training images, which no participant has


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
    statistics = _statistics(images.x_train if reference is None else reference)
    return _scaled(name, images, *(torch.tensor(values).float() for values in statistics), class_names, sha256)


def _scaled(name: str, images: Images, mean: Tensor, std: Tensor, class_names: tuple[str, ...], sha256: str) -> Dataset:
    """(pixels - mean) / std with mean, std [channels]."""
    pixels = (torch.from_numpy(part).float() for part in (images.x_train, images.x_test))
    x_train, x_test = (x.sub_(mean[:, None, None]).div_(std[:, None, None]) for x in pixels)
    return Dataset(name, x_train, as_labels(images.y_train), x_test, as_labels(images.y_test), class_names, sha256)


def content_sha256(images: Images) -> str:
    return joint_sha256(*(str(array.shape).encode() + array.tobytes() for array in images))


def load_fashion_mnist(name: str, sha256: str, cache: Path) -> Dataset:
    files = load_files(FASHION_MNIST, cache)

    def part(name: str) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.frombuffer(bytearray(files[f"{name}-images-idx3-ubyte"]), dtype=np.uint8, offset=16)
        labels = np.frombuffer(bytearray(files[f"{name}-labels-idx1-ubyte"]), dtype=np.uint8, offset=8)
        return pixels.reshape(-1, 1, 28, 28), labels

    return standardised(name, Images(*part("train"), *part("t10k")), FASHION_CLASSES, sha256)


def cifar10_images(cache: Path) -> Images:
    files = load_files(CIFAR10, cache)

    def records(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        content = bytearray().join(files[name] for name in names)
        rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]

    *train, test = CIFAR10.sha256
    return Images(*records(train), *records([test]))


def load_cifar10(name: str, sha256: str, cache: Path) -> Dataset:
    return standardised(name, cifar10_images(cache), CIFAR10_CLASSES, sha256)


def _grey28(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 colour `pixels` [n, 3, H, W], shrunk to [n, 1, 28, 28] (bilinear, antialiased)."""
    grey = torch.einsum("nchw,c->nhw", torch.from_numpy(pixels).float(), torch.tensor(LUMA))[:, None]
    small = torch.nn.functional.interpolate(grey, size=(28, 28), mode="bilinear", antialias=True)
    return small.round_().clamp_(0, 255).to(torch.uint8).numpy()


def load_cifar10_grey28(name: str, sha256: str, cache: Path) -> Dataset:
    colour = cifar10_images(cache)
    images = Images(_grey28(colour.x_train), colour.y_train, _grey28(colour.x_test), colour.y_test)
    return standardised(name, images, CIFAR10_CLASSES, sha256)


def _first_images(cache: Path) -> Images:
    train, test = slice(FEATURES_TRAIN), slice(FEATURES_TEST)
    x_train, y_train, x_test, y_test = cifar10_images(cache)
    return Images(x_train[train], y_train[train], x_test[test], y_test[test])


def load_cifar10_mobilenet(name: str, sha256: str, cache: Path) -> Dataset:
    images = _first_images(cache)
    x_train, x_test = (cached_activations(pixels, cache) for pixels in (images.x_train, images.x_test))
    if name == "cifar10_mobilenetv2":
        network = load_mobilenet_v2(cache)
        x_train, x_test = (pooled_features(network, x)[:, :, None, None] for x in (x_train, x_test))
    return Dataset(name, x_train, as_labels(images.y_train), x_test, as_labels(images.y_test), CIFAR10_CLASSES, sha256)


def principal_components(features: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and first n principal components [D, n] of features [samples, D], in double; the
    largest entry of each component, by magnitude, is positive."""
    mean = features.double().mean(dim=0)
    centred = features.double() - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    vectors = vectors[:, -n:].flip(1)
    return mean, vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()


def load_cifar10_components(name: str, sha256: str, cache: Path) -> Dataset:
    """The features of "cifar10_mobilenetv2" along the COMPONENTS directions in which they vary most, about their mean.

    Mean and directions are fitted, without labels, on public training images that no data set of features holds: no
    image of a client's, the server's or the test takes part. Neither whitened nor scaled: distances between images stay
    what they are with all features but for what is left out, and so do suitable step sizes.
    """
    public, images = cifar10_images(cache).x_train[slice(*COMPONENTS_FROM)], _first_images(cache)

    def computed() -> np.ndarray:
        network, whole = load_mobilenet_v2(cache), load_cifar10_mobilenet("cifar10_mobilenetv2", sha256, cache)
        features = pooled_features(network, trunk_activations(network, public))
        mean, vectors = principal_components(features, COMPONENTS)
        parts = (part.flatten(1).double() for x in (whole.x_train, whole.x_test) for part in x.split(1000))
        return torch.cat([(part - mean) @ vectors for part in parts]).float().numpy()

    code = code_hash([__name__], wording=False)
    pixels = (part.tobytes() for part in (public, images.x_train, images.x_test))
    key = joint_sha256(*pixels, code.encode(), torch.__version__.encode())[:24]
    path = cache / "activations" / f"mobilenet_v2-components-{key}.npy.sha256"
    x = torch.from_numpy(cached_array(path, computed))[:, :, None, None]
    x_train, x_test = x.split([len(images.x_train), len(images.x_test)])
    return Dataset(name, x_train, as_labels(images.y_train), x_test, as_labels(images.y_test), CIFAR10_CLASSES, sha256)


def load_cifar10_imagenet(name: str, sha256: str, cache: Path) -> Dataset:
    mean, std = (255 * torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return _scaled(name, _first_images(cache), mean, std, CIFAR10_CLASSES, sha256)
