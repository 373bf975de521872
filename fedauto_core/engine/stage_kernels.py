"""The last stage of MobileNetV2 with LoRA as loops that Numba compiles, where `engine/compiled.py` decides so.

A few samples at a time run forward and backward, so that their activations stay in the second cache. Rows are
positions of samples, [samples * positions]. Every product is one of `products`.

`train`, `gradients` and `logits` are compiled where they are needed; their last two arguments are `stage.arguments`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .chains import LANES
from .dense_kernels import multiples, zeros
from .products import descend, inner, leaf, multiply, multiply_rows, one_hot, put, softmax_residual, tighten, widen
from .vectors import add, fill, load, mul, not_inlined, store, where_positive, where_smaller

SAMPLES = 5  # that run together
SCORED = 100  # that all models score one after another: what is kept of them (5 MB) stays in the third cache


class Room(NamedTuple):
    """Scratch of a kernel, all flat."""

    a: NDArray  # [channels, padded rank]; padding is never read as such, so here and in `head` it may be anything
    a_sums: NDArray  # its gradient
    b: NDArray  # [rank, width], times its scale and the channels'
    offset: NDArray  # [channels, width] or [0], times the channels' scale
    head: NDArray  # [width, padded]
    head_sums: NDArray
    head_turned: NDArray  # [classes, width]
    bias: NDArray  # [padded]
    low: NDArray  # [rows, padded rank]: x A, and on the way back the gradient with respect to it
    low_slope: NDArray
    wide: NDArray  # [rows, width]: what the factors add to the convolution, the slope of the ReLU6, then the gradient
    pooled: NDArray  # [samples, width], later the gradient with respect to it
    scores: NDArray  # [samples, padded], the logits and later the gradient with respect to them


@inner
def room_for(net, like):
    rows, size = SAMPLES * net.positions, net.channels * net.padded_rank
    return Room(
        zeros(size, like),
        zeros(size, like),
        zeros(net.rank * net.width, like),
        zeros(net.channels * net.width if net.offset_at >= 0 else 0, like),
        zeros(net.width * net.padded, like),
        zeros(net.width * net.padded, like),
        zeros(net.classes * net.width, like),
        zeros(net.padded, like),
        zeros(rows * net.padded_rank, like),
        zeros(rows * net.padded_rank, like),
        zeros(rows * net.width, like),
        zeros(SAMPLES * net.width, like),
        zeros(SAMPLES * net.padded, like),
    )


@leaf
def merge(theta, net, frozen, room):
    """Padded factors, scaled offset and padded head as theta [P] has them."""
    not_inlined()
    scale = fill(theta.dtype.type(net.lora_scale))
    widen(theta[net.a_at :], net.channels, net.rank, room.a, net.padded_rank)
    for c in range(net.rank):
        for k in range(0, net.width, LANES):
            at = c * net.width + k
            store(room.b, at, mul(mul(scale, load(theta, net.b_at + at)), load(frozen.scale, k)))
    if net.offset_at >= 0:
        for i in range(net.channels):
            for k in range(net.width):
                at = i * net.width + k
                room.offset[at] = theta[net.offset_at + at] * frozen.scale[k]
    head = theta[net.head_at :]
    widen(head, net.width, net.classes, room.head, net.padded)
    for c in range(net.classes):
        for k in range(net.width):
            room.head_turned[c * net.width + k] = head[k * net.classes + c]
    put(theta[net.bias_at :][: net.classes], room.bias)


@inner
def rows_of(samples, net):
    """Where in the images [n, channels, positions] each position of each sample begins."""
    rows = np.empty(len(samples) * net.positions, np.uint64)
    for s in range(len(samples)):
        for p in range(net.positions):
            rows[s * net.positions + p] = samples[s] * net.channels * net.positions + p
    return rows


@inner
def make_ready(pixels, samples, net, frozen):
    """What the frozen convolution makes of those of `samples` that it has not seen."""
    not_inlined()
    for s in range(len(samples)):
        n = samples[s]
        if not frozen.ready[n]:
            kept = frozen.kept[n * net.positions * net.width :][: net.positions * net.width]
            for p in range(net.positions):
                put(frozen.shift, kept[p * net.width :])
            sources = pixels, rows_of(samples[s : s + 1], net), multiples(net.channels, net.positions)
            to = kept, multiples(net.positions, net.width), net.width // LANES
            multiply(*sources, frozen.weight, net.width, *to, True)
            frozen.ready[n] = True


@leaf
def pool(samples, net, frozen, room):
    """Means over positions of the ReLU6 of what the adapted convolution makes of `samples`; its slope is left in
    room.wide."""
    not_inlined()
    number = room.wide.dtype.type
    none, ones, sixes, share = fill(number(0)), fill(number(1)), fill(number(6)), fill(number(net.share))
    size = net.positions * net.width
    for s in range(len(samples)):
        kept = frozen.kept[samples[s] * size :][:size]
        for c in range(0, net.width, LANES):
            total = none
            for p in range(net.positions):
                at = s * size + p * net.width + c
                y = add(load(kept, p * net.width + c), load(room.wide, at))
                total = add(total, where_positive(y, where_smaller(y, sixes, y, sixes)))
                store(room.wide, at, where_positive(y, where_smaller(y, sixes, ones, none)))
            store(room.pooled, s * net.width + c, mul(total, share))


@inner
def forward(pixels, samples, rows, net, frozen, room):
    """Logits [samples, padded] of at most SAMPLES of the images, whose rows they are."""
    not_inlined()
    make_ready(pixels, samples, net, frozen)
    width, rank = net.width, net.padded_rank
    by_channel, by_row = multiples(net.channels, net.positions), multiples(len(rows), width)
    by_rank, blocks = multiples(len(rows), rank), width // LANES
    to = room.low, by_rank, rank // LANES
    multiply(pixels, rows, by_channel, room.a, rank, *to, False)
    multiply(room.low, by_rank, multiples(net.rank, 1), room.b, width, room.wide, by_row, blocks, False)
    if net.offset_at >= 0:
        multiply(pixels, rows, by_channel, room.offset, width, room.wide, by_row, blocks, True)
    pool(samples, net, frozen, room)
    for s in range(len(samples)):
        put(room.bias, room.scores[s * net.padded :])
    sources = room.pooled, multiples(len(samples), width), multiples(width, 1)
    to = room.scores, multiples(len(samples), net.padded), net.padded // LANES
    multiply(*sources, room.head, net.padded, *to, True)


@inner
def head_backward(count, net, room, gradient):
    """Adds the gradient of the head to its padded sums and that of its bias to `gradient` [P]; that of the pooled
    features goes into their place."""
    not_inlined()
    width, by_class = net.width, multiples(count, net.padded)
    sources = room.pooled, multiples(width, 1), multiples(count, width)
    to = room.head_sums, multiples(width, net.padded), net.padded // LANES
    multiply(*sources, room.scores, net.padded, *to, True)
    for s in range(count):
        for c in range(net.classes):
            gradient[net.bias_at + c] += room.scores[s * net.padded + c]
    to = room.pooled, multiples(count, width), width // LANES
    multiply(room.scores, by_class, multiples(net.classes, 1), room.head_turned, width, *to, False)


@inner
def backward(pixels, rows, count, offsets, net, room, gradient):
    """Adds the gradients of the last `forward` to `gradient` [P] and to padded sums, given that with respect to the
    logits in their place; the channels' scales are left to `unpad`."""
    not_inlined()
    head_backward(count, net, room, gradient)
    width, rank = net.width, net.padded_rank
    share = fill(room.wide.dtype.type(net.share))
    for s in range(count):
        for c in range(0, width, LANES):
            slope = mul(load(room.pooled, s * width + c), share)
            for p in range(net.positions):
                at = (s * net.positions + p) * width + c
                store(room.wide, at, mul(load(room.wide, at), slope))
    by_row, by_rank = multiples(len(rows), width), multiples(len(rows), rank)
    by_channel = multiples(net.channels, net.positions)
    blocks, blocks_low = width // LANES, rank // LANES
    multiply_rows(room.wide, by_row, room.b, multiples(net.rank, width), width, room.low_slope, by_rank)
    to = room.a_sums, multiples(net.channels, rank), blocks_low
    multiply(pixels, by_channel, rows, room.low_slope, rank, *to, True)
    to = gradient[net.b_at :], multiples(net.rank, width), blocks
    multiply(room.low, multiples(net.rank, 1), by_rank, room.wide, width, *to, True)
    if offsets and net.offset_at >= 0:
        to = gradient[net.offset_at :], multiples(net.channels, width), blocks
        multiply(pixels, by_channel, rows, room.wide, width, *to, True)


@leaf
def unpad(offsets, net, frozen, room, gradient):
    """Padded sums, which are then zero again, into `gradient` [P], and the scales into those of B and the offset."""
    not_inlined()
    scale = fill(gradient.dtype.type(net.lora_scale))
    tighten(room.a_sums, net.channels, net.rank, net.padded_rank, gradient[net.a_at :])
    for c in range(net.rank):
        for k in range(0, net.width, LANES):
            at = net.b_at + c * net.width + k
            store(gradient, at, mul(load(gradient, at), mul(scale, load(frozen.scale, k))))
    if offsets and net.offset_at >= 0:
        for i in range(net.channels):
            for k in range(net.width):
                gradient[net.offset_at + i * net.width + k] *= frozen.scale[k]
    tighten(room.head_sums, net.width, net.classes, net.padded, gradient[net.head_at :])
    room.a_sums[:] = 0
    room.head_sums[:] = 0


@inner
def loss_gradient(theta, pixels, samples, targets, offsets, net, frozen, room, gradient):
    """Gradient [P] at theta [P] of the mean cross-entropy over `samples` of the images with targets [B, C], into
    `gradient`; that of the offset is zero unless `offsets`."""
    not_inlined()
    merge(theta, net, frozen, room)
    gradient[:] = 0
    for begin in range(0, len(samples), SAMPLES):
        block = samples[begin : begin + SAMPLES]
        rows = rows_of(block, net)
        forward(pixels, block, rows, net, frozen, room)
        for s in range(len(block)):
            softmax_residual(room.scores[s * net.padded :][: net.padded], targets[begin + s], len(samples))
        backward(pixels, rows, len(block), offsets, net, room, gradient)
    unpad(offsets, net, frozen, room, gradient)


def train(start, x, out, batches, labels, lr, shrink, shift, spans, net, frozen):
    """Into out [M, P] what E steps w <- shrink w + shift - lr gradient add to start [M, P], or [1, P] for all, within
    the `spans` [n, 2]; shift [M, P] or [0, P]."""
    room, pixels = room_for(net, out), x.reshape(-1)
    gradient = np.empty(out.shape[1], out.dtype)
    targets = np.zeros((batches.shape[2], net.classes), out.dtype)
    # What is kept of an image is large: models that draw the same ones come one behind the other.
    for m in np.argsort(batches[:, 0, 0]):
        w, begin, own = out[m], start[m % len(start)], shift[m] if len(shift) else lr[:0]
        w[:] = begin
        for e in range(batches.shape[1]):
            one_hot(labels[m, e], targets)
            loss_gradient(w, pixels, batches[m, e], targets, False, net, frozen, room, gradient)
            descend(w, gradient, lr[m], shrink[m], own, spans)
        w -= begin


def gradients(theta, x, rows, targets, out, net, frozen):
    """Gradients [M, P] at theta [M, P] of the mean cross-entropy over x[rows[m]] with targets [M, B, C]."""
    room, pixels = room_for(net, out), x.reshape(-1)
    for m in range(len(theta)):
        loss_gradient(theta[m], pixels, rows[m], targets[m], True, net, frozen, room, out[m])


def logits(theta, x, out, net, frozen):
    """Logits [R, n, C] of the models theta [R, P] on x [n, channels, side, side]."""
    room, pixels = room_for(net, out), x.reshape(-1)
    samples = np.arange(len(x))
    for chunk in range(0, len(x), SCORED):
        last = min(chunk + SCORED, len(x))
        for m in range(len(theta)):
            merge(theta[m], net, frozen, room)
            for begin in range(chunk, last, SAMPLES):
                block = samples[begin : min(begin + SAMPLES, last)]
                forward(pixels, block, rows_of(block, net), net, frozen, room)
                for s in range(len(block)):
                    out[m, begin + s] = room.scores[s * net.padded :][: net.classes]
