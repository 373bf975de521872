"""Scikit-learn's digits, divided into a target task and a disjoint, distorted source for pre-training."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform

from fedauto_core.seeding import stream

from .dataset import Dataset
from .images import Images, standardised

# The digits split is part of the dataset, not of an experiment: always drawn from this seed.
DIGITS_SEED = 0
TRAIN_PER_CLASS, TEST_PER_CLASS, SOURCE_TEST_PER_CLASS = 100, 40, 7
CLASSES = tuple("0123456789")
COPIES, MAX_SHIFT, MAX_ROTATION = 10, 1.0, 20.0  # augmented copies per image; pixels; degrees


def all_digits() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's digits as they come: grey levels 0 to 16, float64 [1797, 8, 8], and labels [1797]."""
    import sklearn.datasets  # takes a second and a half, so only who needs it does

    bunch = sklearn.datasets.load_digits()
    return bunch.images, bunch.target


def _digits_split() -> tuple[Images, Images]:
    """Target task (1,000 train, 400 test, balanced) and pre-training source (the remaining 397), disjoint."""
    levels, labels = all_digits()
    pixels = (levels * 15).astype(np.uint8)[:, None]  # 0 to 240: exact
    rng = stream(DIGITS_SEED, "partition", 1)
    ends = np.cumsum((TRAIN_PER_CLASS, TEST_PER_CLASS, SOURCE_TEST_PER_CLASS))
    per_class = [np.split(rng.permutation(np.flatnonzero(labels == c)), ends) for c in range(len(CLASSES))]
    parts = [np.sort(np.concatenate(members)) for members in zip(*per_class, strict=True)]
    train, test, source_test, source_train = ((pixels[index], labels[index]) for index in parts)
    return Images(*train, *test), Images(*source_train, *source_test)


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
def digits_images() -> Mapping[str, Images]:
    """The two datasets made of scikit-learn's digits, by name."""
    target, source = _digits_split()
    rng = stream(DIGITS_SEED, "partition", 2)
    moved = Images(*_augmented(source.x_train, source.y_train, rng), *_augmented(source.x_test, source.y_test, rng))
    return {"digits": target, "digits_shifted": moved}


def load_digits(name: str, sha256: str, cache: Path) -> Dataset:
    _, source = _digits_split()
    return standardised(name, digits_images()[name], CLASSES, sha256, reference=source.x_train)
