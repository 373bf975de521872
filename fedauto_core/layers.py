"""Layers over a stack of M models at once: activations [M, B, ...], parameters [M, *shape].

Every layer also accepts M = 1, where it calls the plain torch layer; the "loop" backend of `training.py` is that case.
Images travel as [M, B, H, W, channels] (channels last), so that a convolution is a few batched matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-5  # of the norms, as in torch
FEW_CHANNELS = 3  # up to here copying whole k*k patches is cheaper than products with such short rows


def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, B, n_in], weight [M, n_in, n_out], bias [M, n_out] -> [M, B, n_out]."""
    return torch.baddbmm(bias[:, None], x, weight)


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution without bias: x [M, B, H, W, C], weight [M, O, C, k, k] -> [M, B, H', W', O]."""
    if len(x) == 1:
        image = x[0].permute(0, 3, 1, 2)
        return F.conv2d(image, weight[0], stride=stride, padding=padding).permute(0, 2, 3, 1)[None]
    models, n_out, n_in, k, _ = weight.shape
    source = distinct(x)
    if padding:
        source = F.pad(source, (0, 0, padding, padding, padding, padding))
    if n_in > FEW_CHANNELS:
        return _StackedConv.apply(source.expand(models, -1, -1, -1, -1), weight, stride)
    patches = _strips(source, k, stride).unfold(3, k, stride).permute(0, 1, 2, 3, 6, 4, 5)
    rows = patches.flatten(4).flatten(1, 3)  # [M, B * H' * W', k * k * n_in]
    kernel = weight.permute(0, 4, 3, 2, 1).reshape(models, -1, n_out)
    return torch.bmm(rows.expand(models, -1, -1), kernel).unflatten(1, patches.shape[1:4])


def distinct(x: Tensor) -> Tensor:
    """x, or x[:1] where all models share their images (an expanded view): what is derived from it is computed once."""
    return x[:1] if x.stride(0) == 0 else x


class _StackedConv(torch.autograd.Function):
    """Convolution as one batched matrix product per output column.

    Only the vertical windows are copied (k-fold instead of the k*k-fold of im2col): in strips [M, B, H', W, k, C] the
    k columns under an output column are contiguous, hence a matrix with rows (b, h') and a plain row stride.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        models, n_out, _, k, _ = weight.shape
        strips = _strips(x, k, stride)
        kernel = weight.permute(0, 4, 3, 2, 1).reshape(models, -1, n_out)
        _, batch, height, width = strips.shape[:4]
        out = x.new_empty(models, batch, height, (width - k) // stride + 1, n_out)
        for column in range(out.shape[3]):
            torch.bmm(_window(strips, column * stride, k), kernel, out=_window(out[..., None, :], column, 1))
        ctx.save_for_backward(strips, kernel)
        ctx.geometry = (x.shape, weight.shape, stride)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        strips, kernel = ctx.saved_tensors
        x_shape, (models, n_out, n_in, k, _), stride = ctx.geometry
        grad = grad.contiguous()
        grad_kernel = torch.zeros_like(kernel)
        grad_strips = torch.zeros_like(strips) if ctx.needs_input_grad[0] else None
        for column in range(grad.shape[3]):
            g = _window(grad[..., None, :], column, 1)
            grad_kernel.baddbmm_(_window(strips, column * stride, k).mT, g)
            if grad_strips is not None:
                _window(grad_strips, column * stride, k).baddbmm_(g, kernel.mT)
        grad_x = None
        if grad_strips is not None:
            grad_x = grad.new_zeros(x_shape)
            for row in range(k):
                grad_x[:, :, row : row + stride * (grad.shape[2] - 1) + 1 : stride] += grad_strips[..., row, :]
        grad_weight = grad_kernel.view(models, k, k, n_in, n_out).permute(0, 4, 3, 2, 1)
        return grad_x, grad_weight, None


def _strips(x: Tensor, k: int, stride: int) -> Tensor:
    """Vertical windows [M, B, H', W, k, C] of x [M, B, H, W, C]; one copy for all models where they share x."""
    strips = distinct(x).unfold(2, k, stride).transpose(-1, -2).contiguous()
    return strips.expand(len(x), -1, -1, -1, -1, -1)


def _window(strips: Tensor, column: int, k: int) -> Tensor:
    """The k columns from `column` on of strips [M, B, H', W, a, c] as a matrix [M, B * H', k * a * c] (a view)."""
    return strips[:, :, :, column : column + k].flatten(3).flatten(1, 2)


def group_norm(x: Tensor, scale: Tensor, shift: Tensor, groups: int) -> Tensor:
    """Wu and He (2018): x [M, B, H, W, C], normalised per sample and channel group; scale, shift [M, C]."""
    if len(x) == 1:
        image = x[0].permute(0, 3, 1, 2).contiguous()  # torch's channels-last kernel is several times slower
        return F.group_norm(image, groups, scale[0], shift[0], EPSILON).permute(0, 2, 3, 1)[None]
    return _StackedGroupNorm.apply(x, scale, shift, groups)


class _StackedGroupNorm(torch.autograd.Function):
    """GroupNorm with one scale and shift per model: few passes over the activations, the rest on [M, B, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, groups: int) -> Tensor:
        pixels = x.flatten(2, 3)  # [M, B, H * W, C]
        centred = pixels - _group_mean(pixels.mean(dim=2), groups)[:, :, None]
        rstd = (_group_mean(centred.square().mean(dim=2), groups) + EPSILON).rsqrt()  # [M, B, C], equal within a group
        ctx.save_for_backward(centred, rstd, scale)
        ctx.groups = groups
        return torch.addcmul(shift[:, None, None], centred, (scale[:, None] * rstd)[:, :, None]).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With c the centred input, s its inverse deviation, a the scale and <.> the mean over pixels and a group:
        dx = s (a g - <a g> - c s^2 <a g c>)."""
        centred, rstd, scale = ctx.saved_tensors
        g = grad.flatten(2, 3)
        g_mean, gc_mean = g.mean(dim=2), (g * centred).mean(dim=2)  # [M, B, C]
        a = scale[:, None]
        constant = -rstd * _group_mean(a * g_mean, ctx.groups)
        slope = -(rstd**3) * _group_mean(a * gc_mean, ctx.groups)
        grad_x = torch.addcmul(constant[:, :, None], centred, slope[:, :, None])
        grad_x.addcmul_(g, (a * rstd)[:, :, None])
        n_pixels = g.shape[2]
        return grad_x.view(grad.shape), (gc_mean * rstd).sum(dim=1) * n_pixels, g_mean.sum(dim=1) * n_pixels, None


def _group_mean(x: Tensor, groups: int) -> Tensor:
    """x [M, B, C] with every entry replaced by the mean of its channel group."""
    grouped = x.unflatten(-1, (groups, -1))
    return grouped.mean(dim=-1, keepdim=True).expand_as(grouped).flatten(-2)


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Ba et al. (2016): x [M, B, tokens, d] normalised over d; scale, shift [M, d]."""
    return torch.addcmul(shift[:, None, None], F.layer_norm(x, x.shape[-1:]), scale[:, None, None])


def max_pool(x: Tensor) -> Tensor:
    """2x2 maxima: x [M, B, H, W, C] -> [M, B, H // 2, W // 2, C]."""
    pooled = F.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    return pooled.unflatten(0, x.shape[:2])


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention (Vaswani et al. 2017): q, k, v [M, B, tokens, d] -> [M, B, tokens, d]."""
    q, k, v = (z.unflatten(-1, (heads, -1)).transpose(2, 3) for z in (q, k, v))
    weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
    return (weights @ v).transpose(2, 3).flatten(-2)
