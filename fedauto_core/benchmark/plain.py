"""What a textbook FedAvg does: a torch.nn.Module, torch.optim.SGD, one client after another.

LoRA as in Hu et al. (2022): beside each adapted linear layer, which is frozen, the product of two small ones. The base
is shared, and every step passes through all of it.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from fedauto_core.models.adapters import LoRA, adapted_layers
from fedauto_core.models.architectures import CHANNELS_PER_GROUP, VIT_GRID, VIT_HEADS, VIT_LAYERS, VIT_WIDTH
from fedauto_core.models.model import Model, build_model
from fedauto_core.seeding import stream

INPUT_SHAPE, CLASSES = (1, 28, 28), 10


@dataclass(frozen=True)
class Case:
    """A model all of whose parameters are trained or, with `lora`, its factors and head.

    samples: of each client; features: how many random ones take the place of an image (0: images); methods: how many
    models each client trains on the same minibatches, as in a comparison.
    """

    label: str
    model: str
    samples: int
    lora: LoRA | None = None
    features: int = 0
    methods: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.features, 1, 1) if self.features else INPUT_SHAPE

    def base(self) -> tuple[Model, Tensor]:
        """The whole model and its start, which `lora` leaves frozen."""
        model = build_model(self.model, self.input_shape, CLASSES)
        return model, model.init(stream(0, "initial model"))


class Patches(nn.Module):
    """Images [B, 1, H, W] -> tokens [B, 16, pixels of a patch]."""

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[-1] // VIT_GRID
        return F.unfold(x, side, stride=side).mT


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(VIT_GRID**2, VIT_WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        d = VIT_WIDTH
        self.norm1, self.qkv, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.norm2, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (z.unflatten(-1, (VIT_HEADS, -1)).transpose(1, 2) for z in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class TokenMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class LowRankLinear(nn.Module):
    """A frozen linear layer plus two small ones."""

    def __init__(self, linear: nn.Linear, lora: LoRA) -> None:
        super().__init__()
        self.linear, self.scale = linear, lora.scale
        self.a = nn.Linear(linear.in_features, lora.rank, bias=False)
        self.b = nn.Linear(lora.rank, linear.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.scale * self.b(self.a(x))


class ChannelsLast(nn.Module):
    """Activations [B, channels, H, W] -> [B, H * W * channels], as the models' classifiers read them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def plain_head(model: Model) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(model.input_shape), model.n_classes))


def plain_mlp(model: Model) -> nn.Sequential:
    hidden = nn.Linear(prod(model.input_shape), 128)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(128, model.n_classes))


def norm_relu(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(width // CHANNELS_PER_GROUP, width), nn.ReLU()


def plain_cnn(model: Model) -> nn.Sequential:
    channels, side, _ = model.input_shape
    first, second = (nn.Conv2d(n_in, n_out, 5, bias=False) for n_in, n_out in ((channels, 16), (16, 32)))
    layers = first, nn.MaxPool2d(2), *norm_relu(16), second, nn.MaxPool2d(2), *norm_relu(32)
    return nn.Sequential(*layers, ChannelsLast(), nn.Linear((((side - 4) // 2 - 4) // 2) ** 2 * 32, model.n_classes))


def plain_cnn_small(model: Model) -> nn.Sequential:
    channels, side, _ = model.input_shape
    convolutions = ((channels, 8), (8, 16))
    first, second = (nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False) for n_in, n_out in convolutions)
    layers = first, *norm_relu(8), second, *norm_relu(16)
    return nn.Sequential(*layers, ChannelsLast(), nn.Linear(((side + 3) // 4) ** 2 * 16, model.n_classes))


def plain_vit(model: Model) -> nn.Sequential:
    channels, side, _ = model.input_shape
    layers = {f"layer{i}": Layer() for i in range(VIT_LAYERS)}
    first = {
        "patches": Patches(),
        "embed": nn.Linear(channels * (side // VIT_GRID) ** 2, VIT_WIDTH),
        "position": Positions(),
    }
    last = {"norm": nn.LayerNorm(VIT_WIDTH), "mean": TokenMean(), "head": nn.Linear(VIT_WIDTH, model.n_classes)}
    return nn.Sequential(OrderedDict(first | layers | last))


TWINS: dict[str, Callable[[Model], nn.Sequential]] = {
    "softmax": plain_head,
    "mlp": plain_mlp,
    "cnn": plain_cnn,
    "cnn_small": plain_cnn_small,
    "vit": plain_vit,
}


def plain_network(case: Case) -> nn.Sequential:
    """The twin of `case`; what it does not train does not require a gradient."""
    model, theta = case.base()
    network = TWINS[case.model](model)
    if case.lora is not None:
        network.load_state_dict(plain_state(model, network, theta))
        network.requires_grad_(False)
        for layer in adapted_layers(model, case.lora):
            network.set_submodule(layer, LowRankLinear(network.get_submodule(layer), case.lora))
        network.get_submodule("head").requires_grad_(True)
    return network


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def plain_state(model: Model, network: nn.Module, theta: Tensor) -> dict[str, Tensor]:
    """theta [P] as what the plain twin trains: it stores a dense layer as [n_out, n_in]."""
    state = {}
    parts = model.unflatten(theta[None]).items()
    for (name, part), (key, target) in zip(parts, trainable(network).items(), strict=True):
        value = part[0]
        value = value.T if value.ndim == 2 and name != "position" else value
        state[key] = value.reshape(target.shape).contiguous()
    return state


def plain_round(
    network: nn.Module, w: dict[str, Tensor], x: Tensor, y: Tensor, batches: Tensor, lr: float
) -> list[Tensor]:
    """Every client in turn: load w, one SGD step per minibatch of batches [M, E, B]; flat end weights per client."""
    ends = []
    parameters = list(trainable(network).values())
    for client in batches:
        network.load_state_dict(w, strict=False)  # what is frozen stays
        optimiser = torch.optim.SGD(parameters, lr=lr)
        for index in client:
            optimiser.zero_grad()
            F.cross_entropy(network(x[index]), y[index]).backward()
            optimiser.step()
        ends.append(parameters_to_vector(parameters).detach())
    return ends
