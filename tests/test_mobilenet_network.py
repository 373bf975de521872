"""The whole MobileNetV2 over a stack of models against the module in evaluation mode; its frozen trunk under LoRA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedauto_core.engine import local_updates
from fedauto_core.models import LoRA, Model, adapt, build_model
from fedauto_core.models.mobilenet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    POOLED_SCALE,
    MobileNetV2,
    load_mobilenet_v2,
    prepare,
)
from fedauto_core.models.mobilenet_stack import enlarged, network_parameters

MODEL = build_model("mobilenet_v2", (3, 32, 32), 10)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def network(seed: int) -> MobileNetV2:
    """Random weights, scales and shifts, with the statistics of a random batch."""
    torch.manual_seed(seed)
    module = MobileNetV2().train()
    for norm in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.uniform_(norm.bias, -1.0, 1.0)
    with torch.no_grad():
        module(torch.randn(4, 3, 96, 96))
    return module.eval()


def weights(module: MobileNetV2) -> dict[str, Tensor]:
    """All parameters of `MODEL`, with the first ten classes of the module's classifier as its head."""
    head = module.classifier[1]
    rows = {"head.weight": head.weight[:10].T * POOLED_SCALE, "head.bias": head.bias[:10]}
    return network_parameters(module) | rows


def flat(module: MobileNetV2) -> Tensor:
    parts = weights(module)
    return torch.cat([parts[name].detach().flatten() for name in MODEL.shapes])


def logits(module: MobileNetV2, x: Tensor) -> Tensor:
    return module(F.interpolate(x, size=(96, 96), mode="bilinear"))[:, :10]


@pytest.mark.parametrize("models", [1, 2])
def test_the_network_equals_the_module(models: int) -> None:
    modules, x = [network(seed) for seed in range(models)], normal(models, 3, 3, 32, 32).float()
    theta = torch.stack([flat(module) for module in modules])
    expected = torch.stack([logits(module, images) for module, images in zip(modules, x, strict=True)])
    assert torch.allclose(MODEL.forward(MODEL.unflatten(theta), x), expected, atol=1e-4)
    alike = torch.stack([logits(module, x[0]) for module in modules])
    shared_images = x[:1].expand(models, -1, -1, -1, -1)
    assert torch.allclose(MODEL.forward(MODEL.unflatten(theta), shared_images), alike, atol=1e-4)
    assert {0, 6} < set(modules[0].features[0](x[0]).unique().tolist())  # ReLU6 acts at both ends


def test_models_may_share_weights_and_images() -> None:
    module, x = network(0), normal(2, 3, 3, 32, 32).float()
    shared = MODEL.unflatten(flat(module)[None])
    expected = torch.stack([logits(module, images) for images in x])
    assert torch.allclose(MODEL.forward(shared, x), expected, atol=1e-4)
    one = x[:1].expand(2, -1, -1, -1, -1)
    assert torch.allclose(MODEL.forward(shared, one), expected[:1].expand(2, -1, -1), atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_equal_those_of_the_module(shared: bool) -> None:
    """With respect to every parameter of the modules, through `network_parameters`."""
    modules = [network(0).double()] if shared else [network(seed).double() for seed in range(2)]
    x, probe = normal(2, 1, 3, 32, 32), normal(2, 1, 10, seed=1)
    leaves = [leaf for module in modules for leaf in module.parameters()]
    parts = [weights(module) for module in modules]
    ours = MODEL.forward({name: torch.stack([part[name] for part in parts]) for name in MODEL.shapes}, x)
    theirs = torch.stack([logits(modules[0 if shared else m], x[m]) for m in range(2)])
    assert torch.allclose(ours, theirs, atol=1e-10)
    got, expected = (torch.autograd.grad((out * probe).sum(), leaves) for out in (ours, theirs))
    for one, other in zip(got, expected, strict=True):
        assert other.abs().max() > 0
        assert torch.allclose(one, other, atol=1e-8 * float(other.abs().max()))


def test_the_official_network_and_its_first_step() -> None:
    """Images standardised first and enlarged in the network's first step are what `prepare` gives."""
    module, model = load_mobilenet_v2(), build_model("mobilenet_v2", (3, 32, 32), 1000)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    x = ((torch.from_numpy(pixels).float() / 255 - mean) / std)[None]
    assert torch.allclose(enlarged(x)[0].permute(0, 3, 1, 2), prepare(pixels), atol=1e-5)
    head = module.classifier[1]
    parts = network_parameters(module) | {"head.weight": head.weight.T * POOLED_SCALE, "head.bias": head.bias}
    stack = {name: part[None] for name, part in parts.items()}
    first = model.steps[0].apply(stack, x)[0].permute(0, 3, 1, 2)
    assert torch.allclose(first, module.features[0](prepare(pixels)), atol=1e-5)
    assert torch.allclose(model.forward(stack, x)[0], module(prepare(pixels)), atol=1e-4)


def merged(model: Model, theta: Tensor, lora: LoRA, factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The whole weights that the factors of one adapted model stand for."""
    whole = dict(model.unflatten(theta[None]))
    for name in factors:
        layer, _, kind = name.rpartition(".")
        if kind == "A":
            weight = whole[f"{layer}.weight"]
            change = lora.scale * factors[name] @ factors[f"{layer}.B"] + factors[f"{layer}.offset"]
            whole[f"{layer}.weight"] = weight + (change if weight.ndim == 3 else change.mT.view_as(weight))
    return whole | {name: part for name, part in factors.items() if name.startswith("head.")}


@pytest.mark.parametrize(
    ("targets", "n_frozen", "layers"),
    [
        (("block16.*", "last"), 17, ["block16.expand", "block16.project", "last"]),
        (("last",), 18, ["last"]),
        (("stem", "block0.*"), 0, ["stem", "block0.project"]),
    ],
)
def test_lora_runs_the_first_blocks_once(targets: tuple[str, ...], n_frozen: int, layers: list[str]) -> None:
    """At the start (B = 0) the adapted network is the whole one; later, that with the factors' products added."""
    lora, theta, x = LoRA(4, 8, targets), flat(network(0)), normal(3, 3, 32, 32).float()
    adapted = adapt(MODEL, theta, lora, offsets=True)
    assert adapted.n_frozen == n_frozen and list(adapted.layers) == layers
    inputs = adapted.trunk(x)
    assert inputs.shape[1:] == {0: (3, 32, 32), 17: (3, 3, 160), 18: (3, 3, 320)}[n_frozen]
    starts = [adapted.model.init(np.random.default_rng(seed)) for seed in range(2)]
    parts = adapted.model.unflatten(torch.stack(starts)) | {
        name: part.expand(2, *part.shape[1:]) for name, part in MODEL.unflatten(theta[None]).items() if "head." in name
    }
    shared = inputs.expand(2, *inputs.shape)
    whole = MODEL.forward(MODEL.unflatten(theta[None]), x[None])
    assert torch.allclose(adapted.model.forward(parts, shared), whole.expand(2, -1, -1), atol=1e-4)
    for name in parts:
        if name.endswith((".B", ".offset")):
            parts[name] = 0.02 * normal(*parts[name].shape, seed=len(name)).float()
    later = adapted.model.forward(parts, shared)
    for m in range(2):
        factors = {name: part[m, None] for name, part in parts.items()}
        expected = MODEL.forward(merged(MODEL, theta, lora, factors), x[None])[0]
        assert torch.allclose(later[m], expected, atol=1e-4)
    assert (later - whole).abs().max() > 0.01


def test_factors_train_alike_one_by_one_and_stacked() -> None:
    adapted = adapt(MODEL, flat(network(0)), LoRA(4, 8, ("block16.*", "last")))
    x, y = adapted.trunk(normal(12, 3, 32, 32).float()), torch.arange(12) % 10
    batches = np.random.default_rng(1).integers(0, 12, (3, 2, 4))
    start = adapted.model.init(np.random.default_rng(0)).expand(3, -1)
    ends = (local_updates(adapted.model, start, x, y, batches, 0.01, backend=name) for name in ("stacked", "loop"))
    stacked, loop = ends
    assert torch.allclose(stacked, loop, atol=1e-5)
    assert all(part.abs().max() > 0 for part in adapted.model.unflatten(stacked).values())
