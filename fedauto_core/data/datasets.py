"""The data sets by name: where their files are pinned, what identifies them, how they are loaded."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fedauto_core.errors import require_known
from fedauto_core.models.mobilenet import IMAGENET_MEAN, IMAGENET_STD, SETTINGS
from fedauto_core.store.files import Collection, cache_folder
from fedauto_core.store.published import CIFAR10, FASHION_MNIST, MOVIE_REVIEWS

from .dataset import Dataset, joint_sha256
from .digits import digits_images, load_digits
from .images import (
    COMPONENTS,
    COMPONENTS_FROM,
    FEATURES_TEST,
    FEATURES_TRAIN,
    content_sha256,
    load_cifar10,
    load_cifar10_components,
    load_cifar10_grey28,
    load_cifar10_imagenet,
    load_cifar10_mobilenet,
    load_fashion_mnist,
)
from .reviews import REVIEWS_SETTINGS, load_movie_reviews


class Entry(NamedTuple):
    """load(name, sha256, cache folder); files: the published ones it is made of (None: scikit-learn's digits);
    settings: what besides them determines it."""

    load: Callable[[str, str, Path], Dataset]
    files: Collection | None = None
    settings: tuple[str, ...] = ()


_SHARE = f"{FEATURES_TRAIN} {FEATURES_TEST}"
_MOBILENET = Entry(load_cifar10_mobilenet, CIFAR10, (f"{_SHARE} {SETTINGS}",))
DATASETS: Mapping[str, Entry] = {
    "digits": Entry(load_digits),
    "digits_shifted": Entry(load_digits),
    "fashion_mnist": Entry(load_fashion_mnist, FASHION_MNIST),
    "cifar10": Entry(load_cifar10, CIFAR10),
    "cifar10_grey28": Entry(load_cifar10_grey28, CIFAR10),
    "cifar10_mobilenetv2": _MOBILENET,
    "cifar10_mobilenetv2-256": Entry(
        load_cifar10_components, CIFAR10, (*_MOBILENET.settings, f"{COMPONENTS} {COMPONENTS_FROM}")
    ),
    "cifar10_mobilenetv2_stage": _MOBILENET,
    "cifar10_imagenet": Entry(load_cifar10_imagenet, CIFAR10, (f"{_SHARE} {IMAGENET_MEAN} {IMAGENET_STD}",)),
    "movie_reviews": Entry(load_movie_reviews, MOVIE_REVIEWS, (REVIEWS_SETTINGS,)),
}


@functools.cache
def dataset_sha256(name: str) -> str:
    """`load_dataset(name).sha256` without reading any published file: from the pinned hashes, which loading
    verifies, else from the bytes of scikit-learn's digits. InputError for an unknown name."""
    require_known("dataset", name, DATASETS)
    entry = DATASETS[name]
    if entry.files is None:
        return content_sha256(digits_images()[name])
    return joint_sha256(*(part.encode() for part in (name, *entry.files.sha256.values(), *entry.settings)))


def load_dataset(name: str, cache: Path | None = None) -> Dataset:
    """The data set called `name`.

    "digits" and "digits_shifted" are disjoint parts of scikit-learn's digits and need no download: the second
    is the pre-training source (rotated and shifted copies); both are standardised by the source's statistics.
    "cifar10_grey28" is CIFAR-10 as 28x28 luma, the pre-training source for Fashion-MNIST.
    "cifar10_mobilenetv2_stage" [n, 320, 3, 3] and "cifar10_mobilenetv2" [n, 1280, 1, 1] are what MobileNetV2, trained
    on ImageNet, makes of the first 15,000 training and 3,000 test images of CIFAR-10, enlarged to 96x96, before and
    after its last convolution: for tuning its last stage, or a classifier alone. The scale is one constant each, see
    `mobilenet.py`. Computed once, in about a minute on two cores, then cached (210 MB). "cifar10_mobilenetv2-256"
    [n, 256, 1, 1] are the principal components of the latter, fitted on 5,000 further training images that
    nobody has, public ones if you like; a linear probe on them loses less than a point.
    "cifar10_imagenet" [n, 3, 32, 32] are the same images, standardised by the channel statistics of ImageNet, for the
    whole MobileNetV2.
    "movie_reviews" are token ids [n, 1, 1, 32] for model "minilm": 1,000 IMDB reviews, public, and 4,000 of Rotten
    Tomatoes for training, 1,500 of the latter for the test; for its tokenizer it needs the extra [text].

    Parameters
    ----------
    name : one of `DATASETS`
    cache : folder in which files are kept, by default FEDAUTO_DATA, else ~/.cache/fedauto

    Raises
    ------
    InputError : for an unknown name, files that are neither cached nor obtainable, or a missing extra
    """
    require_known("dataset", name, DATASETS)
    return DATASETS[name].load(name, dataset_sha256(name), cache_folder(cache))
