"""Layers over a stack of M models at once: activations [M, B, ...], parameters [M, *shape].

Every layer also accepts M = 1, where convolutions and norms call the plain torch layer: that is the backend "loop" of
`engine/local.py`. What has its gradient by hand cannot be differentiated twice (`theory/nets.py` has formulas instead).
A frozen weight is kept once, [1, *shape]: layers apply it to the activations of all models as one large batch.
Images travel as [M, B, H, W, channels]. Innermost in memory are the channels or, after a strided convolution, the
batch: in both cases a convolution is a few batched matrix products.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-5  # of the norms, as in torch
NARROW = 12  # up to this many columns the transposed product is several times faster
FEW_CHANNELS = 3  # up to here copying whole k*k patches is cheaper than products with such short rows


class LowRank(NamedTuple):
    """A frozen weight plus a product of small factors, W + scale A B + offset (LoRA, Hu et al. 2022).

    weight: [1, *shape]; a: [M, fan_in, r]; b: [M, r, n_out]; offset: None or [M, fan_in, n_out].
    A kernel [n_out, n_in, k, k] is the matrix whose rows are (n_in, k, k) in this order.
    """

    weight: Tensor
    a: Tensor
    b: Tensor
    scale: float
    offset: Tensor | None = None


Weight = Tensor | LowRank
Weights = Mapping[str, Weight]  # parameter name -> [M, *shape], or [1, *shape] where all models share it


def dense(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """x [M, ..., n_in], weight [M, n_in, n_out], bias [M, n_out] -> [M, ..., n_out]; [1, ...]: one weight for all."""
    if x.ndim > 3:
        return dense(x.flatten(1, -2), weight, bias).unflatten(1, x.shape[1:-1])
    if isinstance(weight, LowRank):
        out = _LowRankDense.apply(x, weight.weight, weight.a, weight.b, weight.scale, bias)
        return out if weight.offset is None else torch.baddbmm(out, x, weight.offset)
    if len(weight) < len(x):
        source = distinct(x)
        rows = source.flatten(0, 1)
        out = rows @ weight[0] if bias is None else torch.addmm(bias[0], rows, weight[0])
        return out.unflatten(0, source.shape[:2]).expand(len(x), -1, -1)
    if bias is None:
        return torch.bmm(x, weight)
    if weight.shape[2] <= NARROW:
        if x.stride(0) == 0:  # inputs that all models share: one product for all of them
            out = torch.addmm(bias.flatten()[:, None], weight.mT.flatten(0, 1), x[0].mT)
            return out.unflatten(0, weight.shape[::2]).mT
        return torch.baddbmm(bias[:, :, None], weight.mT, x.mT).mT
    return torch.baddbmm(bias[:, None], x, weight)


class _LowRankDense(torch.autograd.Function):
    """x W + scale (x A) B + bias with frozen W [1, n_in, n_out] and bias [1, n_out]: x, A and B get gradients.

    Every product is added to the one before it where that lies; autograd would keep each apart and then copy it. The
    narrow ones are formed transposed, which is several times faster.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float, bias: Tensor | None) -> Tensor:
        narrow, out = (a.mT @ x.mT).mT, dense(x, weight, bias)
        ctx.save_for_backward(x, weight, a, b, narrow)
        ctx.scale = scale
        if out.stride(0) == 0:  # all models share their inputs
            out = out.contiguous()
        return out.baddbmm_(narrow, b, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None, None]:
        x, weight, a, b, narrow = ctx.saved_tensors
        g_narrow = (b @ g.mT).mul_(ctx.scale)  # [M, r, ...]
        grad_b = (narrow.mT @ g).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (g.flatten(0, 1) @ weight[0].T).unflatten(0, g.shape[:2]).baddbmm_(g_narrow.mT, a.mT)
        return grad_x, None, (g_narrow @ x).mT, grad_b, None, None


def apply_dense(p: Weights, name: str, x: Tensor) -> Tensor:
    """`dense` with the parameters of layer `name`."""
    return dense(x, p[f"{name}.weight"], p[f"{name}.bias"])


def conv2d(x: Tensor, weight: Weight, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution without bias: x [M, B, H, W, C], weight [M, O, C, k, k] -> [M, B, H', W', O]; one weight for all if
    it is [1, ...]."""
    if isinstance(weight, LowRank):  # as in PEFT: A is a convolution to r channels, B a 1x1 convolution behind it
        convolved, window = partial(conv2d, x, stride=stride, padding=padding), weight.weight.shape[2:]
        out = convolved(weight.weight)
        out = out + weight.scale * dense(convolved(weight.a.mT.unflatten(2, window)), weight.b)
        return out if weight.offset is None else out + convolved(weight.offset.mT.unflatten(2, window))
    if len(weight) < len(x):
        return _as_one_batch(x, lambda images: conv2d(images, weight, stride=stride, padding=padding))
    if len(x) == 1:
        image = x[0].permute(0, 3, 1, 2)
        return F.conv2d(image, weight[0], stride=stride, padding=padding).permute(0, 2, 3, 1)[None]
    models, n_out, n_in, k, _ = weight.shape
    if stride > 1:
        patches = _Patches.apply(distinct(x), k, stride, padding)
        out = torch.bmm(weight.flatten(2), patches.flatten(2).expand(models, -1, -1))
        return out.unflatten(2, patches.shape[2:]).permute(0, 4, 2, 3, 1)
    source = distinct(x)
    if padding:
        source = F.pad(source, (0, 0, padding, padding, padding, padding))
    if n_in > FEW_CHANNELS:
        return _StackedConv.apply(source.expand(models, -1, -1, -1, -1), weight)
    patches = _strips(source, k).unfold(3, k, 1).permute(0, 1, 2, 3, 6, 4, 5)
    rows = patches.flatten(4).flatten(1, 3)  # [M, B * H' * W', k * k * n_in]
    kernel = weight.permute(0, 4, 3, 2, 1).reshape(models, -1, n_out)
    return torch.bmm(rows.expand(models, -1, -1), kernel).unflatten(1, patches.shape[1:4])


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1) -> Tensor:
    """Each channel convolved with a kernel of its own, padded by k // 2: x [M, B, H, W, C], weight [M, C, k, k], bias
    [M, C] -> [M, B, H', W', C]; [1, ...]: one weight for all."""
    if len(weight) < len(x):
        return _as_one_batch(x, lambda images: depthwise_conv2d(images, weight, bias, stride=stride))
    models, channels, k, _ = weight.shape
    images, kernels = x.permute(1, 0, 4, 2, 3).flatten(1, 2), weight.flatten(0, 1)[:, None]
    out = F.conv2d(images, kernels, bias.flatten(), stride=stride, padding=k // 2, groups=models * channels)
    return out.unflatten(1, (models, channels)).permute(1, 0, 3, 4, 2)


def _as_one_batch(x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """layer(x) for a layer that all models share: x [M, B, ...] as a stack of one model with M B images."""
    source = distinct(x)
    out = layer(source.flatten(0, 1)[None])[0].unflatten(0, source.shape[:2])
    return out.expand(len(x), *out.shape[1:])


def distinct(x: Tensor) -> Tensor:
    """x, or x[:1] where all models share their images (an expanded view): what is derived from it is computed once."""
    return x[:1] if x.stride(0) == 0 else x


class _Patches(torch.autograd.Function):
    """Patches [M, C * k * k, H', W', B] of x [M, B, H, W, C]: a strided convolution is one batched product with them.

    The batch is the innermost dimension in memory, so that every copied or summed piece is contiguous.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, stride: int, padding: int) -> Tensor:
        images = F.pad(x.permute(0, 4, 2, 3, 1), (0, 0, padding, padding, padding, padding))
        ctx.geometry = images.shape, k, stride, padding
        return images.unfold(2, k, stride).unfold(3, k, stride).permute(0, 1, 5, 6, 2, 3, 4).flatten(1, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        shape, k, stride, padding = ctx.geometry
        grad = grad.unflatten(1, (-1, k, k))
        height, width = (stride * (size - 1) + 1 for size in grad.shape[4:6])
        total = grad.new_zeros(shape)
        for row, column in product(range(k), range(k)):
            part = total[:, :, row : row + height : stride, column : column + width : stride]
            part.add_(grad[:, :, row, column])
        inside = total[:, :, padding : shape[2] - padding, padding : shape[3] - padding]
        return inside.permute(0, 4, 2, 3, 1), None, None, None


class _StackedConv(torch.autograd.Function):
    """Convolution as one batched matrix product per output column.

    Only the vertical windows are copied (k-fold instead of the k*k-fold of im2col): in strips [M, B, H', W, k, C] the
    k columns under an output column are contiguous, hence a matrix with rows (b, h') and a plain row stride.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        models, n_out, _, k, _ = weight.shape
        strips = _strips(x, k)
        kernel = weight.permute(0, 4, 3, 2, 1).reshape(models, -1, n_out)
        _, batch, height, width = strips.shape[:4]
        out = x.new_empty(models, batch, height, width - k + 1, n_out)
        for column in range(out.shape[3]):
            torch.bmm(_window(strips, column, k), kernel, out=_window(out[..., None, :], column, 1))
        ctx.save_for_backward(strips, kernel)
        ctx.geometry = x.shape, weight.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        strips, kernel = ctx.saved_tensors
        x_shape, (models, n_out, n_in, k, _) = ctx.geometry
        grad = grad.contiguous()
        grad_kernel = torch.zeros_like(kernel)
        grad_strips = torch.zeros_like(strips) if ctx.needs_input_grad[0] else None
        for column in range(grad.shape[3]):
            g = _window(grad[..., None, :], column, 1)
            grad_kernel.baddbmm_(_window(strips, column, k).mT, g)
            if grad_strips is not None:
                _window(grad_strips, column, k).baddbmm_(g, kernel.mT)
        grad_x = None
        if grad_strips is not None:
            grad_x = grad.new_zeros(x_shape)
            for row in range(k):
                grad_x[:, :, row : row + grad.shape[2]] += grad_strips[..., row, :]
        grad_weight = grad_kernel.view(models, k, k, n_in, n_out).permute(0, 4, 3, 2, 1)
        return grad_x, grad_weight


def _strips(x: Tensor, k: int) -> Tensor:
    """Vertical windows [M, B, H', W, k, C] of x [M, B, H, W, C]; one copy for all models where they share x."""
    strips = distinct(x).unfold(2, k, 1).transpose(-1, -2).contiguous()
    return strips.expand(len(x), -1, -1, -1, -1, -1)


def _window(strips: Tensor, column: int, k: int) -> Tensor:
    """The k columns from `column` on of strips [M, B, H', W, a, c] as a matrix [M, B * H', k * a * c] (a view)."""
    return strips[:, :, :, column : column + k].flatten(3).flatten(1, 2)


def group_norm(x: Tensor, scale: Tensor, shift: Tensor, groups: int) -> Tensor:
    """Wu and He (2018): x [M, B, H, W, C], normalised per sample and channel group; scale, shift [M, C] or [1, C]."""
    if len(scale) < len(x):
        return _as_one_batch(x, lambda images: group_norm(images, scale, shift, groups))
    if len(x) == 1:
        image = x[0].permute(0, 3, 1, 2).contiguous()  # torch's channels-last kernel is several times slower
        return F.group_norm(image, groups, scale[0], shift[0], EPSILON).permute(0, 2, 3, 1)[None]
    if x.stride(1) == 1:  # the batch is innermost in memory, as after a strided convolution
        pixels = x.permute(0, 4, 2, 3, 1)
        out = _StackedGroupNorm.apply(pixels.flatten(2, 3), scale[:, :, None], shift[:, :, None], groups, 1)
        return out.view(pixels.shape).permute(0, 4, 2, 3, 1)
    return _StackedGroupNorm.apply(x.flatten(2, 3), scale[:, None], shift[:, None], groups, 2).view(x.shape)


class _StackedGroupNorm(torch.autograd.Function):
    """GroupNorm with one scale and shift per model: few passes over the activations, the rest on their means.

    x is [M, C, H * W, B] with scale and shift [M, C, 1], or [M, B, H * W, C] with [M, 1, C]: `axis` 1 or 2 is that of
    the channels in the latter. All other tensors have these two shapes with the batch in place of the 1.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, groups: int, axis: int) -> Tensor:
        centred = x - _group_mean(x.mean(dim=2), groups, axis)[:, :, None]
        rstd = (_group_mean(centred.square().mean(dim=2), groups, axis) + EPSILON).rsqrt()  # equal within a group
        ctx.save_for_backward(centred, rstd, scale)
        ctx.geometry = groups, axis
        return torch.addcmul(shift.expand_as(rstd).contiguous()[:, :, None], centred, (scale * rstd)[:, :, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """With c the centred input, s its inverse deviation, a the scale and <.> the mean over pixels and a group:
        dx = s (a g - <a g> - c s^2 <a g c>)."""
        centred, rstd, scale = ctx.saved_tensors
        g_mean, gc_mean = g.mean(dim=2), (g * centred).mean(dim=2)
        constant = -rstd * _group_mean(scale * g_mean, *ctx.geometry)
        slope = -(rstd**3) * _group_mean(scale * gc_mean, *ctx.geometry)
        grad_x = torch.addcmul(constant[:, :, None], centred, slope[:, :, None])
        grad_x.addcmul_(g, (scale * rstd)[:, :, None])
        n_pixels, batch_axis = g.shape[2], 3 - ctx.geometry[1]
        grad_scale, grad_shift = (z.sum(dim=batch_axis, keepdim=True) * n_pixels for z in (gc_mean * rstd, g_mean))
        return grad_x, grad_scale, grad_shift, None, None


def _group_mean(x: Tensor, groups: int, axis: int) -> Tensor:
    """x with every entry replaced by the mean of its group of channels along `axis`."""
    grouped = x.unflatten(axis, (groups, -1))
    return grouped.mean(dim=axis + 1, keepdim=True).expand_as(grouped).flatten(axis, axis + 1)


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Ba et al. (2016): x [M, B, tokens, d] normalised over d; scale, shift [M, d] or [1, d]."""
    return torch.addcmul(shift[:, None, None], F.layer_norm(x, x.shape[-1:], eps=epsilon), scale[:, None, None])


def apply_layer_norm(p: Weights, name: str, x: Tensor, epsilon: float = EPSILON) -> Tensor:
    """`layer_norm` with the parameters of layer `name`."""
    return layer_norm(x, p[f"{name}.scale"], p[f"{name}.shift"], epsilon)


def max_pool(x: Tensor) -> Tensor:
    """2x2 maxima: x [M, B, H, W, C] -> [M, B, H // 2, W // 2, C]."""
    pooled = F.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    return pooled.unflatten(0, x.shape[:2])


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Multi-head attention (Vaswani et al. 2017): q, k, v [M, B, tokens, d] -> [M, B, tokens, d]; mask: bool
    [M, B, tokens], False where a key is left out, never for all of them."""
    q, k, v = (z.unflatten(-1, (heads, -1)).transpose(2, 3) for z in (q, k, v))
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask[:, :, None, None], -torch.inf)
    return (torch.softmax(scores, dim=-1) @ v).transpose(2, 3).flatten(-2)


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """`attention` to all tokens, of queries, keys and values that lie side by side: qkv [M, B, tokens, 3 d] ->
    [M, B, tokens, d]."""
    return _SelfAttention.apply(qkv.flatten(0, 1), heads).unflatten(0, qkv.shape[:2])


class _SelfAttention(torch.autograd.Function):
    """qkv [n, tokens, 3 d] -> [n, tokens, d]: one copy to and one from the layout in which a head is a matrix."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        n, tokens, _ = qkv.shape
        split = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        q, k, v = split.view(3, n * heads, tokens, -1)
        scores = q.new_empty(len(q), tokens, tokens).baddbmm_(q, k.mT, beta=0, alpha=q.shape[-1] ** -0.5)
        weights = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(q, k, v, weights)
        return (weights @ v).view(n, heads, tokens, -1).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        """With scores S = s q k' and weights W = softmax(S): dS = W (dW - <dW, W>) for each query."""
        q, k, v, weights = ctx.saved_tensors
        n, tokens, _ = g.shape
        scale = q.shape[-1] ** -0.5
        g = g.unflatten(2, (-1, v.shape[-1])).transpose(1, 2).reshape(v.shape)
        grads = g.new_empty(3, *v.shape)
        torch.bmm(weights.mT, g, out=grads[2])
        slopes = g @ v.mT
        slopes.sub_((slopes * weights).sum(dim=-1, keepdim=True)).mul_(weights)
        grads[0].baddbmm_(slopes, k, beta=0, alpha=scale)
        grads[1].baddbmm_(slopes.mT, q, beta=0, alpha=scale)
        return grads.view(3, n, -1, tokens, v.shape[-1]).permute(1, 3, 0, 2, 4).flatten(2), None
