"""Small networks on the CPU by loops that Numba compiles at the first use: the convolutional ones of `CHAINS` by those
of `kernels`, dense layers with ReLUs between, or a single one, by those of `dense_kernels`, and with LoRA the vision
transformer by those of `transformer_kernels`, the last stage of MobileNetV2 by those of `stage_kernels`.

The compiled code is kept in the project's cache, by what it was compiled from. Where Numba is missing or fails, every
function here answers None, says so once in the log, and `engine/local.py` computes the same with torch, to rounding: a
cached result does not say which of the two it came from.
"""

import functools
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedauto_core.errors import InputError, require
from fedauto_core.models.model import Model
from fedauto_core.store.files import cache_folder
from fedauto_core.store.keys import file_hash
from fedauto_core.store.writing import locked

from . import stage, transformer
from .chains import CHAINS, dense_layers, layout, trained_spans

SOURCES = {
    "kernels": ("chains", "kernels", "products", "vectors"),
    "dense_kernels": ("chains", "dense_kernels", "products", "vectors"),
    "stage_kernels": ("chains", "dense_kernels", "products", "stage", "stage_kernels", "vectors"),
    "transformer_kernels": ("attention_kernels", "chains", "products", "transformer", "transformer_kernels", "vectors"),
}  # of the compiled code of each module
DENSE = ("mlp", "softmax")
ADAPTED = {"mobilenet_stage-lora": ("stage_kernels", stage), "vit-lora": ("transformer_kernels", transformer)}
"""Model with LoRA -> the module of its kernels, and what lays it out for them."""


def fits(model: Model, theta: Tensor, x: Tensor, held: Collection[str], backend: str) -> bool:
    """Whether `backend` means the kernels: "compiled" does, "auto" where there is one.

    Raises InputError where "compiled" asks for what no kernel does.
    """
    fitting = (
        (_adapted(model, theta) or (model.name in (*CHAINS, *DENSE) and not held))
        and theta.device.type == x.device.type == "cpu"
        and theta.dtype == x.dtype
        and theta.dtype in (torch.float32, torch.float64)
    )
    require(
        fitting or backend != "compiled",
        f"backend 'compiled' for model {model.name!r} in {theta.dtype} on {theta.device.type}, {len(held)} held",
        allowed=f"{', '.join([*CHAINS, *DENSE])} in float32 or float64 on the CPU, all parameters trained, or vit-lora "
        "behind a frozen embedding or mobilenet_stage-lora, in the type of the frozen weights",
        remedy="choose the backend 'auto'",
    )
    return fitting and backend in ("auto", "compiled")


def _adapted(model: Model, theta: Tensor) -> bool:
    """Whether it is a network with LoRA that a kernel knows."""
    return model.name in ADAPTED and ADAPTED[model.name][1].fits(model, theta)


def updates(
    model: Model,
    start: Tensor,
    x: Tensor,
    y: Tensor,
    batches: Tensor,
    lr: Tensor,
    shrink: Tensor,
    shift: Tensor | None,
    held: Collection[str],
) -> Tensor | None:
    """Deltas [M, P] of E steps w <- shrink_j w + shift_j - lr_j grad F_j(w), as `local.local_updates`.

    lr, shrink: [M]; shift: [M, P] or None for zeros; held: parameters left as they are; the rest as there. None where
    Numba cannot serve.
    """
    _require_below("batches", batches, len(x))
    labels = y[batches]
    _require_below("labels", labels, model.n_classes)
    out = torch.empty_like(start, memory_format=torch.contiguous_format)
    first = start[:1] if start.stride(0) == 0 else start  # of all, where they start from one model
    terms = lr, shrink, out[:0] if shift is None else shift
    spans = (trained_spans(model, held),) if _adapted(model, start) else ()
    return out if _call("train", model, first, x, out, batches, labels, *terms, *spans) else None


def gradients(model: Model, theta: Tensor, x: Tensor, rows: Tensor, targets: Tensor) -> Tensor | None:
    """Gradients [M, P] at theta [M, P] of the mean cross-entropy over x[rows_j] with the targets_j [B, C].

    rows: int64 [M, B]; targets: [M, B, C], of theta's type. None where Numba cannot serve.
    """
    shape = (len(theta), rows.shape[1], model.n_classes)
    require(
        tuple(targets.shape) == shape and len(rows) == len(theta),
        f"targets of shape {tuple(targets.shape)} for {tuple(rows.shape)} rows and {len(theta)} models",
        allowed=f"{shape}",
        remedy="give every model its rows and every row its target",
    )
    _require_below("rows", rows, len(x))
    out = torch.empty_like(theta, memory_format=torch.contiguous_format)
    return out if _call("gradients", model, theta, x, rows, targets, out) else None


def predict(model: Model, theta: Tensor, x: Tensor) -> Tensor | None:
    """Logits [R, n, C] of the models theta [R, P] on x [n, channels, H, W]. None where Numba cannot serve."""
    out = torch.empty(len(theta), len(x), model.n_classes, dtype=theta.dtype)
    return out if _call("logits", model, theta, x, out) else None


def _require_below(name: str, numbers: Tensor, limit: int) -> None:
    """No kernel checks what it reads."""
    if numbers.numel():
        low, high = (int(number) for number in numbers.aminmax())
        require(
            low >= 0 and high < limit,
            f"{name} from {low} to {high}",
            allowed=f"0 to {limit - 1}",
            remedy=f"check the {name} against the data",
        )


_entries: dict[tuple[str, ...], Callable[..., None] | None] = {}  # model, name, number type; None: cannot be compiled


def _call(entry: str, model: Model, theta: Tensor, x: Tensor, *tensors: Tensor) -> bool:
    """Run an entry of a module of kernels on theta [M, P], images and more; False where Numba cannot."""
    given = ADAPTED[model.name][1].input_shape(model) if model.name in ADAPTED else model.input_shape
    require(
        theta.shape[1:] == (model.n_parameters,) and x.shape[1:] == given,
        f"theta of shape {tuple(theta.shape)} and images of shape {tuple(x.shape)} for model {model.name!r}",
        allowed=f"[M, {model.n_parameters}] and [n, {', '.join(map(str, given))}]",
        remedy="pass one flat parameter vector per model, and images of the model's size",
    )
    arrays = [tensor.detach().contiguous().numpy() for tensor in (theta, x, *tensors)]
    module, places = _places(model, arrays[0].dtype, x)
    arguments = *arrays, *places
    key = model.name, entry, arrays[0].dtype.name
    if key not in _entries:
        try:
            _entries[key] = _compile(module, entry, arguments)
        except Exception as error:  # missing, too new, out of memory: whatever it is, torch can serve
            _entries[key] = None
            _report(f"{type(error).__name__}: {error}")
    if (function := _entries[key]) is None:
        return False
    function(*arguments)
    return True


def _places(model: Model, dtype: np.dtype, x: Tensor) -> tuple[str, tuple[Any, ...]]:
    """The module of kernels for a model, and the last arguments of all that is in it for images x."""
    if model.name in ADAPTED:
        module, known = ADAPTED[model.name]
        return module, known.arguments(model, x)
    if model.name in DENSE:
        return "dense_kernels", (dense_layers(model),)
    return "kernels", layout(model).arguments(dtype)


@functools.cache
def _report(reason: str) -> None:
    """Once per reason."""
    logging.getLogger(__name__).warning("no compiled kernels, torch computes the same more slowly: %s", reason)


def _compile(module: str, entry: str, arguments: tuple[Any, ...]) -> Callable[..., None]:
    """An entry of a module of kernels compiled for such arguments by one process, and taken from the cache by the
    others. A cache that cannot be written is done without; so is a damaged one, which is removed."""
    import numba  # takes a second, so only who needs it does

    # They import it too; named here, they count in the keys of results.
    from . import dense_kernels, kernels, stage_kernels, transformer_kernels

    sources = {"kernels": kernels, "dense_kernels": dense_kernels}
    sources |= {"stage_kernels": stage_kernels, "transformer_kernels": transformer_kernels}
    source = sources[module]
    function, types = getattr(source, entry), tuple(map(numba.typeof, arguments))
    hashes = [file_hash(Path(__file__).with_name(f"{name}.py")) for name in SOURCES[module]]
    key = hashlib.sha256(repr([module, entry, types, *hashes]).encode()).hexdigest()
    folder, before = cache_folder() / "kernels" / key[:32], numba.config.CACHE_DIR
    with suppress(InputError, OSError), locked(folder.with_suffix(".lock")):
        try:
            folder.mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # else Numba would write beside the source
            numba.config.CACHE_DIR = str(folder)
            compiled = numba.njit(function, cache=True, error_model="numpy")
            compiled.compile(types)
            return compiled
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            numba.config.CACHE_DIR = before
    compiled = numba.njit(function, error_model="numpy")
    compiled.compile(types)
    return compiled
