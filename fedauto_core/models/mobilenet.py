"""MobileNetV2 (Sandler et al. 2018) pre-trained on ImageNet: the network, and its activations on small images."""

import hashlib
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from fedauto_core.store.arrays import cached_array
from fedauto_core.store.files import cache_folder, load_files
from fedauto_core.store.keys import meaning_hash
from fedauto_core.store.published import MOBILENET_V2

# Table 2 of the paper: expansion, output channels, repetitions, stride of the first repetition.
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM_CHANNELS, LAST_CHANNELS, IMAGENET_CLASSES = 32, 1280, 1000
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 96  # pixels; linear probes of frozen features on CIFAR-10 reach .53 at 32 pixels, .69 at 64, .78 at 96
TRUNK_SHAPE = (320, SIDE // 32, SIDE // 32)
# Measured on 15,000 CIFAR-10 images. The trunk's activations have root mean square .26. The second moment of the pooled
# features has largest eigenvalue 812, and the cross-entropy curves by at most half of that; divided by 5 the curvature
# is at most 16, plain SGD is stable up to steps of .1 and learns well from .01 to 1, without statistics per feature.
TRUNK_SCALE, POOLED_SCALE = 0.26, 5.0
BATCH, MOST_WORKERS = 16, 8  # small batches keep the activations in the processor's cache
SETTINGS = repr((*MOBILENET_V2.sha256.items(), SIDE, IMAGENET_MEAN, IMAGENET_STD, TRUNK_SCALE, POOLED_SCALE))
"""What determines the activations of given pixels."""


def _conv_norm(n_in: int, n_out: int, k: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(n_in, n_out, k, stride, padding=k // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(n_out)]


def _conv_norm_relu6(n_in: int, n_out: int, k: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(*_conv_norm(n_in, n_out, k, stride, groups), nn.ReLU6())


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; added to the input where shapes agree (Fig. 3b, 4d)."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * n_in
        expand = [_conv_norm_relu6(n_in, wide)] if expansion > 1 else []
        depthwise = _conv_norm_relu6(wide, wide, 3, stride, groups=wide)
        self.conv = nn.Sequential(*expand, depthwise, *_conv_norm(wide, n_out))
        self.residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Width 1.0, 1,000 classes; parameter names as in the official weights file."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm_relu6(3, STEM_CHANNELS, 3, stride=2)]
        n_in = STEM_CHANNELS
        for expansion, n_out, repetitions, stride in BLOCKS:
            for repetition in range(repetitions):
                layers.append(InvertedResidual(n_in, n_out, stride if repetition == 0 else 1, expansion))
                n_in = n_out
        layers.append(_conv_norm_relu6(n_in, LAST_CHANNELS))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST_CHANNELS, IMAGENET_CLASSES))

    def trunk(self, images: Tensor) -> Tensor:
        """Output [n, 320, H / 32, W / 32] of the last inverted residual for images [n, 3, H, W]."""
        return self.features[:-1](images)

    def stage(self, activations: Tensor) -> Tensor:
        """Pooled output [n, 1280] of the last 1x1 convolution for the trunk's activations [n, 320, h, w]."""
        return self.features[-1](activations).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.stage(self.trunk(images)))


def load_mobilenet_v2(cache: Path | None = None) -> MobileNetV2:
    """The network with the official ImageNet weights, frozen, in evaluation mode; cache as for `load_dataset`.

    InputError if the weights file is neither cached nor obtainable.
    """
    (content,) = load_files(MOBILENET_V2, cache_folder(cache)).values()
    network = MobileNetV2()
    network.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # a quarter faster on a CPU


def prepare(pixels: np.ndarray) -> Tensor:
    """uint8 pixels [n, 3, H, W] as the network's input [n, 3, SIDE, SIDE]: enlarged (bilinear), normalised."""
    images = F.interpolate(torch.from_numpy(pixels).float() / 255, size=(SIDE, SIDE), mode="bilinear")
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def _in_batches(function: Callable[[slice], Tensor], out: Tensor) -> Tensor:
    """Fill out[rows] = function(rows), with a progress bar if stderr is a terminal.

    Several batches at a time, each on one torch thread: the result has the same bits however many cores there are and
    whatever the caller's number of threads, and a busy machine does not stall it.
    """
    slices = [slice(first, first + BATCH) for first in range(0, len(out), BATCH)]

    def fill(rows: slice) -> None:
        with torch.no_grad():  # a thread's own state
            out[rows] = function(rows)

    threads, workers = torch.get_num_threads(), min(os.cpu_count() or 1, MOST_WORKERS)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in tqdm(pool.map(fill, slices), desc="MobileNetV2", total=len(slices), unit="batch", disable=None):
                pass
    finally:
        torch.set_num_threads(threads)
    return out


def trunk_activations(network: MobileNetV2, pixels: np.ndarray) -> Tensor:
    """`network.trunk` of uint8 pixels [n, 3, H, W], divided by TRUNK_SCALE: float32 [n, 320, 3, 3]; some 400 images a
    second on two cores."""
    out = torch.empty(len(pixels), *TRUNK_SHAPE)
    return _in_batches(lambda rows: network.trunk(prepare(pixels[rows])) / TRUNK_SCALE, out)


def pooled_features(network: MobileNetV2, activations: Tensor) -> Tensor:
    """`network.stage` of what `trunk_activations` gave, divided by POOLED_SCALE: float32 [n, 1280]."""
    out = torch.empty(len(activations), LAST_CHANNELS)
    return _in_batches(lambda rows: network.stage(activations[rows] * TRUNK_SCALE) / POOLED_SCALE, out)


def cached_activations(pixels: np.ndarray, cache: Path | None = None) -> Tensor:
    """`trunk_activations` of the official weights, from the cache's folder "activations" if they are there.

    The key holds pixels, weights, settings, this module's code and the version of torch, so nothing stale is found; a
    damaged file is reported on stderr and computed again, and processes that ask at once compute once.
    """
    parts = [pixels.tobytes(), meaning_hash(Path(__file__)).encode(), SETTINGS.encode(), torch.__version__.encode()]
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:24]
    path = cache_folder(cache) / "activations" / f"mobilenet_v2-{len(pixels)}-{key}.npy.sha256"
    return torch.from_numpy(cached_array(path, lambda: trunk_activations(load_mobilenet_v2(cache), pixels).numpy()))


def stage_parameters(network: MobileNetV2) -> dict[str, Tensor]:
    """`network.stage` as the parameters of model "mobilenet_stage" except its head, by name: the standard deviations of
    the batch norm and TRUNK_SCALE in the 1x1 convolution [320, 1280], its means in the shift [1280]."""
    conv, norm, _ = network.features[-1]
    deviation = torch.sqrt(norm.running_var + norm.eps)
    return {
        "conv.weight": conv.weight.flatten(1).T * TRUNK_SCALE / deviation,
        "conv.scale": norm.weight,
        "conv.shift": norm.bias - norm.weight * norm.running_mean / deviation,
    }
