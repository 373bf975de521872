"""A data set: images (or features, or token ids) and labels, for training and for the test."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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


def as_labels(y: np.ndarray) -> Tensor:
    return torch.from_numpy(y.astype(np.int64))


def joint_sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
