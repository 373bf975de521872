"""Both backends against torch.nn modules with torch.optim.SGD, and the terms of the local objective by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedauto_core.benchmark.plain import TWINS
from fedauto_core.engine import local_updates, predict
from fedauto_core.engine.local import loss_gradients
from fedauto_core.errors import InputError
from fedauto_core.models import ARCHITECTURES, Model, build_model
from fedauto_core.models.mobilenet import MobileNetV2

BACKENDS = ("stacked", "loop")

IMAGE_MODELS = [name for name, entry in ARCHITECTURES.items() if not entry.text]  # tests/test_minilm.py has the other


def conv_norm(n_in: int, n_out: int, k: int, **geometry: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, k, bias=False, **geometry), nn.GroupNorm(n_out // 4, n_out)]


class PlainResNet(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(1, 16, 3, padding=1), nn.ReLU())
        self.bodies, self.skips = nn.ModuleList(), nn.ModuleList()
        stages = [[(n_in, n_out)] + [(n_out, n_out)] * (blocks - 1) for n_in, n_out in ((16, 16), (16, 32), (32, 64))]
        for n_in, n_out in (widths for stage in stages for widths in stage):
            stride = n_out // n_in
            first = [*conv_norm(n_in, n_out, 3, stride=stride, padding=1), nn.ReLU()]
            self.bodies.append(nn.Sequential(*first, *conv_norm(n_out, n_out, 3, padding=1)))
            self.skips.append(nn.Conv2d(n_in, n_out, 1, stride=2, bias=False) if stride > 1 else nn.Identity())
        self.head = nn.Linear(64, 10)

    def in_order(self) -> list[nn.Parameter]:
        stages = [p for pair in zip(self.bodies, self.skips, strict=True) for part in pair for p in part.parameters()]
        return [*self.stem.parameters(), *stages, *self.head.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for body, skip in zip(self.bodies, self.skips, strict=True):
            x = torch.relu(body(x) + skip(x))
        return self.head(x.mean(dim=(2, 3)))


class PlainStage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Linear(1, 1280, bias=False), nn.Linear(1280, 10)
        self.scale, self.shift = nn.Parameter(torch.ones(1280)), nn.Parameter(torch.zeros(1280))

    def in_order(self) -> list[nn.Parameter]:
        return [self.conv.weight, self.scale, self.shift, *self.head.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        positions = self.conv(x.flatten(2).mT) * self.scale + self.shift
        return self.head(F.relu6(positions).mean(dim=1) / 5.0)


class PlainMobileNet(nn.Module):
    """In evaluation mode, with statistics that change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = MobileNetV2().features, nn.Linear(1280, 10)
        self.features[0][0] = nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False)
        for norm in (module for module in self.features.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.eps = 0.0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        images = F.interpolate(x, size=(96, 96), mode="bilinear")
        return self.head(self.features(images).mean(dim=(2, 3)) / 5.0)


def plain_network(model: Model) -> nn.Module:
    """The benchmark's twin, or one of those that only this test needs."""
    others = {
        "resnet8": partial(PlainResNet, 1),
        "resnet20": partial(PlainResNet, 3),
        "mobilenet_stage": PlainStage,
        "mobilenet_v2": PlainMobileNet,
    }
    return TWINS[model.name](model) if model.name in TWINS else others[model.name]()


def plain_end(model: Model, theta: Tensor, x: Tensor, y: Tensor, batches: Tensor, lr: float) -> Tensor:
    """Flat weights of the torch.nn twin after torch.optim.SGD over batches [E, B]."""
    network = plain_network(model).to(theta.dtype)
    parameters = network.in_order() if hasattr(network, "in_order") else list(network.parameters())
    dense = [name.endswith(".weight") and len(shape) == 2 for name, shape in model.shapes.items()]
    with torch.no_grad():
        for is_dense, target, part in zip(dense, parameters, model.unflatten(theta[None]).values(), strict=True):
            target.copy_((part[0].T if is_dense else part[0]).reshape(target.shape))
    optimiser = torch.optim.SGD(parameters, lr=lr)
    for index in batches:
        optimiser.zero_grad()
        F.cross_entropy(network(x[index]), y[index]).backward()
        optimiser.step()
    ends = [(p.flatten(1).T if is_dense else p).flatten() for is_dense, p in zip(dense, parameters, strict=True)]
    return torch.cat(ends).detach()


def task(name: str, models: int, steps: int = 3, batch: int = 4, side: int = 8, dtype: torch.dtype = torch.float32):
    """model, start [M, P], x, y, batches of random numbers; the starts differ between the models."""
    rng = np.random.default_rng(0)
    model = build_model(name, (1, side, side), 10)
    start = torch.stack([model.init(rng) for _ in range(models)]).to(dtype)
    x = torch.from_numpy(rng.standard_normal((30, 1, side, side))).to(dtype)
    y = torch.from_numpy(rng.integers(0, 10, 30))
    return model, start, x, y, torch.from_numpy(rng.integers(0, 30, (models, steps, batch)))


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_both_backends_equal_torch_modules_with_torch_sgd(name: str) -> None:
    """In double: the rounding of float32 moves units of the deep networks across the kinks of their ReLUs."""
    model, start, x, y, batches = task(name, models=3, steps=2, dtype=torch.float64, side=16)
    lr = torch.tensor([0.05, 0.1, 0.02])
    ends = [plain_end(model, start[j], x, y, batches[j], float(lr[j])) for j in range(3)]
    expected = torch.stack(ends) - start
    assert expected.abs().max() > 1e-3
    for backend in (*BACKENDS, "auto"):
        deltas = local_updates(model, start, x, y, batches, lr, backend=backend)
        assert (deltas - expected).abs().max() <= 1e-10, backend


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_a_row_does_not_depend_on_its_company(name: str) -> None:
    model, start, x, y, batches = task(name, models=3, steps=2, dtype=torch.float64, side=16)
    together = local_updates(model, start, x, y, batches, 0.1, backend="stacked")
    for j in range(3):
        alone = local_updates(model, start[j, None], x, y, batches[j, None], 0.1, backend="stacked")
        assert (alone[0] - together[j]).abs().max() <= 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_models_than_a_chunk_keep_their_order(backend: str) -> None:
    model, start, x, y, batches = task("softmax", models=43)
    deltas = local_updates(model, start, x, y, batches, 0.1, backend=backend)
    backwards = local_updates(model, start.flip(0), x, y, batches.flip(0), 0.1, backend=backend)
    assert (deltas - backwards.flip(0)).abs().max() <= 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_and_proximal_terms_by_hand(backend: str) -> None:
    """Softmax regression: grad = x' (softmax(x W + b) - one-hot(y)) / B, plus linear + prox (w - reference)."""
    model, start, x, y, batches = task("softmax", models=2, dtype=torch.float64)
    rng = np.random.default_rng(1)
    linear, reference = (torch.from_numpy(rng.standard_normal(start.shape)) for _ in range(2))
    lr, prox = torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0.0, 0.7], dtype=torch.float64)
    ends = start.clone()
    for j in range(2):
        for index in batches[j]:
            pixels, w = x[index].flatten(1), ends[j]
            residual = torch.softmax(pixels @ w[:640].view(64, 10) + w[640:], dim=1) - F.one_hot(y[index], 10)
            gradient = torch.cat([(pixels.T @ residual).flatten(), residual.sum(0)]) / len(index)
            ends[j] = w - lr[j] * (gradient + linear[j] + prox[j] * (w - reference[j]))
    terms = {"linear": linear, "prox": prox, "reference": reference}
    deltas = local_updates(model, start, x, y, batches, lr, **terms, backend=backend)
    assert (deltas - (ends - start)).abs().max() <= 1e-12


def test_proximal_term_pulls_to_the_start_by_default_and_linear_term_works_alone() -> None:
    model, start, x, y, batches = task("softmax", models=2, dtype=torch.float64)
    default = local_updates(model, start, x, y, batches, 0.1, prox=0.5)
    assert torch.equal(default, local_updates(model, start, x, y, batches, 0.1, prox=0.5, reference=start))
    assert default.norm() < local_updates(model, start, x, y, batches, 0.1).norm()
    one_step = batches[:, :1]
    shifted = local_updates(model, start, x, y, one_step, 0.1, linear=torch.ones_like(start))
    assert torch.allclose(shifted, local_updates(model, start, x, y, one_step, 0.1) - 0.1, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_expanded_start_is_not_changed(backend: str) -> None:
    model, start, x, y, batches = task("mlp", models=3)
    w = start[0].clone()
    expanded = local_updates(model, w.expand(3, -1), x, y, batches, 0.1, backend=backend)
    assert torch.equal(w, start[0])
    assert torch.equal(expanded, local_updates(model, w.repeat(3, 1), x, y, batches, 0.1, backend=backend))


def test_index_arrays_of_numpy_are_accepted() -> None:
    model, start, x, y, batches = task("softmax", models=2)
    expected = local_updates(model, start, x, y, batches, 0.1)
    assert torch.equal(local_updates(model, start, x, y, batches.numpy(), 0.1), expected)


@pytest.mark.parametrize(("name", "models"), [*((name, 2) for name in IMAGE_MODELS), ("softmax", 43)])
def test_gradients_of_a_stack_equal_those_of_each_model_alone(name: str, models: int) -> None:
    """Along the frozen parameters as well; 43 are more than a chunk."""
    model, start, x, _, batches = task(name, models, dtype=torch.float64, side=16)
    model, rows = replace(model, frozen=frozenset([next(iter(model.shapes))])), batches[:, 0]
    targets = torch.from_numpy(np.random.default_rng(2).dirichlet(np.ones(10), rows.shape))
    gradients = loss_gradients(model, start, x, rows.numpy(), targets)
    for j in range(models):
        leaf = start[j, None].clone().requires_grad_()
        logits = model.forward(model.unflatten(leaf), x[rows[j]][None])[0]
        (expected,) = torch.autograd.grad(F.cross_entropy(logits, targets[j]), leaf)
        assert expected.abs().max() > 1e-3 and (gradients[j] - expected[0]).abs().max() <= 1e-10


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_prediction_equals_one_model_and_one_image_at_a_time(name: str) -> None:
    model, start, x, _, _ = task(name, models=3, side=16)
    logits = predict(model, start, x, chunk=7)
    assert logits.shape == (3, 30, 10)
    for j in range(3):
        each = [model.forward(model.unflatten(start[j, None]), image[None, None])[0, 0] for image in x]
        assert (logits[j] - torch.stack(each)).abs().max() <= 1e-4


def test_bad_input_is_refused() -> None:
    model, start, x, y, batches = task("softmax", models=2)
    with pytest.raises(InputError, match="local steps = 0"):
        local_updates(model, start, x, y, batches[:, :0], 0.1)
    with pytest.raises(InputError, match="batch size = 0"):
        local_updates(model, start, x, y, batches[:, :, :0], 0.1)
    with pytest.raises(InputError, match="give every participant its own row of minibatches"):
        local_updates(model, start, x, y, batches[:1], 0.1)
    with pytest.raises(InputError, match=r"unknown backend 'vmap'.*auto, compiled, loop, stacked"):
        local_updates(model, start, x, y, batches, 0.1, backend="vmap")
    with pytest.raises(InputError, match="chunk = 0"):
        predict(model, start, x, chunk=0)
