"""The two convolutional networks as loops that Numba compiles: `engine/compiled.py` decides when they are used.

Both are two times (convolution, maximum over 2x2 or not, GroupNorm with 4 channels a group, ReLU), then a linear
classifier; which of the two is told by the offsets of `chains.Layout`. A few samples at a time run forward and
backward, so that their activations stay in the caches. Every product is one of `products`, whose left factor is
addressed by offsets: the patches of a convolution are read where they lie.

One thread, no reordering of sums: the numbers do not depend on what else is computed, and a NaN is found in the result.
`train`, `gradients` and `logits` are compiled where they are needed; all of theirs follow `chains.Layout` in their last
four arguments.
"""

import numpy as np

from .chains import EPSILON, LANES
from .products import leaf, multiply, multiply_overlapping, one_hot, part, softmax_residual, step, tighten, widen
from .vectors import (
    add,
    fill,
    fma,
    load,
    mul,
    not_inlined,
    store,
    sum_of_fours,
    where_equal,
    where_larger,
    where_positive,
)


@leaf
def pool(out, candidates, lanes, width, normed, chosen):
    """Maxima of `out` over 2x2 positions into `normed`; `chosen` says which of the candidates they were."""
    not_inlined()
    kind, size = out.dtype.type, len(candidates) // 4
    for q in range(size):
        for lane in lanes:
            largest, which = load(out, candidates[q] + lane), fill(kind(0))
            for c in range(1, 4):
                x = load(out, candidates[c * size + q] + lane)
                which = where_larger(x, largest, fill(kind(c)), which)
                largest = where_larger(x, largest, x, largest)
            store(normed, np.uint64(q * width) + lane, largest)
            store(chosen, np.uint64(q * width) + lane, which)


@leaf
def pool_backward(grad, candidates, lanes, width, chosen, grad_out):
    """Every maximum's gradient to the candidate that it was."""
    not_inlined()
    kind, size = grad.dtype.type, len(candidates) // 4
    for q in range(size):
        for lane in lanes:
            at = np.uint64(q * width) + lane
            g, which = load(grad, at), load(chosen, at)
            for c in range(4):
                store(grad_out, candidates[c * size + q] + lane, where_equal(which, fill(kind(c)), g))


@leaf
def norm_relu(x, deviations, scales, shifts, lanes, places, target):
    """GroupNorm of x [Q * width] in place; scaled, shifted and through the ReLU to `places` of `target`."""
    not_inlined()
    kind = x.dtype.type
    width, size = np.uint64(len(scales)), np.uint64(len(places) * len(scales))
    two, three, four = width + width, width + width + width, width + width + width + width
    share, zero = kind(1 / (4 * len(places))), fill(kind(0))
    for lane in lanes:
        # Four sums each, because the next addition to a sum waits for the last.
        s0 = s1 = s2 = s3 = zero
        at = lane
        while at + three < size:
            s0, s1 = add(s0, load(x, at)), add(s1, load(x, at + width))
            s2, s3 = add(s2, load(x, at + two)), add(s3, load(x, at + three))
            at += four
        while at < size:
            s0 = add(s0, load(x, at))
            at += width
        minus_mean = mul(sum_of_fours(add(add(s0, s1), add(s2, s3))), fill(-share))
        s0 = s1 = s2 = s3 = zero
        at = lane
        while at + three < size:
            d0, d1 = add(load(x, at), minus_mean), add(load(x, at + width), minus_mean)
            d2, d3 = add(load(x, at + two), minus_mean), add(load(x, at + three), minus_mean)
            s0, s1, s2, s3 = fma(d0, d0, s0), fma(d1, d1, s1), fma(d2, d2, s2), fma(d3, d3, s3)
            at += four
        while at < size:
            d0 = add(load(x, at), minus_mean)
            s0 = fma(d0, d0, s0)
            at += width
        total = add(add(s0, s1), add(s2, s3))
        store(deviations, lane, mul(sum_of_fours(total), fill(share)))
        for c in range(lane, lane + np.uint64(LANES)):
            deviations[c] = 1 / np.sqrt(deviations[c] + kind(EPSILON))
        inverse, scale, shift = load(deviations, lane), load(scales, lane), load(shifts, lane)
        at = lane
        for place in places:
            normed = mul(add(load(x, at), minus_mean), inverse)
            store(x, at, normed)
            y = fma(normed, scale, shift)
            store(target, place + lane, where_positive(y, y))
            at += width


@leaf
def norm_relu_backward(x, deviations, scales, lanes, places, active, grad, to, grad_scale, grad_shift):
    """From the gradient with respect to the ReLU's output `active`: that with respect to the norm's input into `to`,
    those of its scale and shift added.

    With x the normalised input, d its inverse deviation, a the scale, <.> the mean over a group, it is
    d (a g - <a g> - x <a g x>).
    """
    not_inlined()
    kind, width = x.dtype.type, np.uint64(len(scales))
    minus_share = fill(kind(-1 / (4 * len(places))))
    for lane in lanes:
        g0 = g1 = gx0 = gx1 = fill(kind(0))  # two sums each, as above
        at, paired = lane, len(places) // 2 * 2
        for q in range(0, paired, 2):
            place, other = places[q] + lane, places[q + 1] + lane
            g = where_positive(load(active, place), load(grad, place))
            h = where_positive(load(active, other), load(grad, other))
            g0, g1 = add(g0, g), add(g1, h)
            gx0, gx1 = fma(g, load(x, at), gx0), fma(h, load(x, at + width), gx1)
            store(to, at, g)
            store(to, at + width, h)
            at += width + width
        for place in places[paired:]:
            g = where_positive(load(active, place + lane), load(grad, place + lane))
            g0, gx0 = add(g0, g), fma(g, load(x, at), gx0)
            store(to, at, g)
        sum_g, sum_gx = add(g0, g1), add(gx0, gx1)
        store(grad_shift, lane, add(load(grad_shift, lane), sum_g))
        store(grad_scale, lane, add(load(grad_scale, lane), sum_gx))
        scale, inverse = load(scales, lane), load(deviations, lane)
        constant = mul(mul(sum_of_fours(mul(scale, sum_g)), minus_share), inverse)
        slope = mul(mul(sum_of_fours(mul(scale, sum_gx)), minus_share), inverse)
        scale = mul(scale, inverse)
        at = lane
        for _ in places:
            store(to, at, fma(scale, load(to, at), fma(slope, load(x, at), constant)))
            at += width


@leaf
def copy(source, start, step, target, to, stride, count):
    """target[to + stride i] = source[start + step i] for i < count; without a sign, as Numba checks for negatives."""
    at, step, to, stride = np.uint64(start), np.uint64(step), np.uint64(to), np.uint64(stride)
    for _ in range(count):
        target[to] = source[at]
        at += step
        to += stride


@leaf
def unpack(theta, layers, head, work):
    """theta [P] into the layouts of the products."""
    not_inlined()
    for layer in layers:
        copy(theta, layer.scale_at, 1, part(work, layer.scale), 0, 1, layer.width)
        copy(theta, layer.shift_at, 1, part(work, layer.shift), 0, 1, layer.width)
        weight, transposed = part(work, layer.weight), part(work, layer.transposed)
        area, start = layer.taps[1] // layer.channels, layer.weight_at
        for o in range(layer.width):
            for i in range(layer.channels):
                copy(theta, start, 1, weight, i * layer.width + o, layer.channels * layer.width, area)
                copy(theta, start, 1, transposed, o * layer.taps[1] + i, layer.channels, area)
                start += area
    copy(theta, head.bias_at, 1, part(work, head.bias), 0, 1, head.classes)
    weight, transposed, features = part(work, head.weight), part(work, head.transposed), head.features[1]
    widen(theta[head.weight_at :], features, head.classes, weight, head.width)
    for c in range(head.classes):
        copy(theta, head.weight_at + c, head.classes, transposed, c * features, 1, features)


@leaf
def pack_gradient(layers, head, work, gradient):
    """All grad_* into the layout of theta."""
    not_inlined()
    for layer in layers:
        copy(part(work, layer.grad_scale), 0, 1, gradient, layer.scale_at, 1, layer.width)
        copy(part(work, layer.grad_shift), 0, 1, gradient, layer.shift_at, 1, layer.width)
        weight, area, to = part(work, layer.grad_weight), layer.taps[1] // layer.channels, layer.weight_at
        for o in range(layer.width):
            for i in range(layer.channels):
                copy(weight, i * layer.width + o, layer.channels * layer.width, gradient, to, 1, area)
                to += area
    copy(part(work, head.grad_bias), 0, 1, gradient, head.bias_at, 1, head.classes)
    weight = part(work, head.grad_weight)
    tighten(weight, head.features[1], head.classes, head.width, gradient[head.weight_at :])


@leaf
def place_image(pixels, margin, image):
    """pixels [channels, side, side] into the middle of `image`, channels last."""
    not_inlined()
    channels, side, _ = pixels.shape
    if channels == 1 and side >= LANES:
        for row in range(side):
            start = (row + margin) * (side + 2 * margin) + margin
            for column in range(0, side, LANES):
                block = min(column, side - LANES)
                store(image, start + block, load(pixels[0, row], block))
        return
    for i in range(channels):
        for row in range(side):
            start = ((row + margin) * (side + 2 * margin) + margin) * channels + i
            copy(pixels[i, row], 0, 1, image, start, channels, side)


@leaf
def layer_forward(layer, s, table, work, target):
    """Output of a layer for sample s into `target`."""
    not_inlined()
    lanes, normed = part(table, layer.lanes), part(work, layer.normed, s)
    out = part(work, layer.out) if layer.pooled else normed
    patches = part(work, layer.images, s), part(table, layer.corners), part(table, layer.taps)
    multiply(*patches, part(work, layer.weight), layer.width, out, part(table, layer.rows), layer.width // LANES, False)
    if layer.pooled:
        pool(out, part(table, layer.candidates), lanes, layer.width, normed, part(work, layer.chosen, s))
    scale, shift, places = part(work, layer.scale), part(work, layer.shift), part(table, layer.places)
    norm_relu(normed, part(work, layer.deviations, s), scale, shift, lanes, places, target)


@leaf
def layer_backward(layer, s, table, work, active, grad):
    """Gradients of a layer's parameters, added, and in grad_out that of its convolution's output."""
    not_inlined()
    lanes, grad_out = part(table, layer.lanes), part(work, layer.grad_out)
    to = part(work, layer.grad_normed) if layer.pooled else grad_out
    normed, deviations = part(work, layer.normed, s), part(work, layer.deviations, s)
    sums = part(work, layer.grad_scale), part(work, layer.grad_shift)
    norm_relu_backward(
        normed, deviations, part(work, layer.scale), lanes, part(table, layer.places), active, grad, to, *sums
    )
    if layer.pooled:
        pool_backward(to, part(table, layer.candidates), lanes, layer.width, part(work, layer.chosen, s), grad_out)
    patches = part(work, layer.images, s), part(table, layer.taps), part(table, layer.corners)
    sums = part(work, layer.grad_weight), part(table, layer.tap_rows)
    multiply(*patches, grad_out, layer.width, *sums, layer.width // LANES, True)


@leaf
def forward(x, samples, layers, head, table, work):
    """Logits of at most S samples of x [n, channels, side, side]."""
    not_inlined()
    first, second = layers
    for s in range(len(samples)):
        place_image(x[samples[s]], first.margin, part(work, first.images, s))
        layer_forward(first, s, table, work, part(work, second.images, s))
        layer_forward(second, s, table, work, part(work, head.images, s))
        logits, bias = part(work, head.logits, s), part(work, head.bias)
        for c in range(head.width):
            logits[c] = bias[c]
    images, rows = work[head.images[0] :], part(table, head.sample_rows)[: len(samples)]
    to = work[head.logits[0] :], part(table, head.class_rows), head.width // LANES
    multiply(images, rows, part(table, head.features), part(work, head.weight), head.width, *to, True)


@leaf
def backward(n_samples, layers, head, table, work):
    """Adds to all grad_* the gradients of the last `forward`, given that with respect to the logits."""
    not_inlined()
    first, second = layers
    logits, rows = work[head.logits[0] :], part(table, head.class_rows)[:n_samples]
    to = work[head.grad_images[0] :], part(table, head.sample_rows), head.features[1] // LANES
    classes, features = part(table, head.class_columns), part(table, head.features)
    multiply(logits, rows, classes, part(work, head.transposed), head.features[1], *to, False)
    images, rows = work[head.images[0] :], part(table, head.sample_rows)[:n_samples]
    to = part(work, head.grad_weight), part(table, head.feature_rows), head.width // LANES
    multiply(images, features, rows, logits, head.logits[1], *to, True)
    for s in range(n_samples):
        scores, sums = part(work, head.logits, s), part(work, head.grad_bias)
        for c in range(head.classes):
            sums[c] += scores[c]
        layer_backward(second, s, table, work, part(work, head.images, s), part(work, head.grad_images, s))
        grad_image, taps = part(work, second.grad_image), part(table, second.tap_blocks)
        grad_image[:] = 0
        grad_out = part(work, second.grad_out), part(table, second.rows), part(table, second.channel)
        to = grad_image, part(table, second.corners), taps
        multiply_overlapping(*grad_out, part(work, second.transposed), second.taps[1], *to)
        layer_backward(first, s, table, work, part(work, second.images, s), grad_image)


@leaf
def loss_gradient(theta, x, samples, targets, layers, head, table, work, gradient):
    """Gradient [P] at theta [P] of the mean cross-entropy over x[samples] with targets [B, C], into `gradient`."""
    not_inlined()
    unpack(theta, layers, head, work)
    part(work, head.sums)[:] = 0
    for begin in range(0, len(samples), head.samples):
        block = samples[begin : begin + head.samples]
        forward(x, block, layers, head, table, work)
        for s in range(len(block)):
            softmax_residual(part(work, head.logits, s), targets[begin + s], len(samples))
        backward(len(block), layers, head, table, work)
    pack_gradient(layers, head, work, gradient)


def train(start, x, out, batches, labels, lr, shrink, shift, layers, head, table, work):
    """Into out [M, P] what E steps w <- shrink w + shift - lr gradient add to start [M, P], or [1, P] for all; shift
    [M, P] or [0, P]."""
    gradient = np.empty(out.shape[1], out.dtype)
    targets = np.zeros((batches.shape[2], head.classes), out.dtype)
    for m in range(len(out)):
        w, begin, own = out[m], start[m % len(start)], shift[m] if len(shift) else lr[:0]
        w[:] = begin
        for e in range(batches.shape[1]):
            one_hot(labels[m, e], targets)
            loss_gradient(w, x, batches[m, e], targets, layers, head, table, work, gradient)
            step(w, gradient, lr[m], shrink[m], own)
        w -= begin


def gradients(theta, x, rows, targets, out, layers, head, table, work):
    """Gradients [M, P] at theta [M, P] of the mean cross-entropy over x[rows[m]] with targets [M, B, C]."""
    for m in range(len(theta)):
        loss_gradient(theta[m], x, rows[m], targets[m], layers, head, table, work, out[m])


def logits(theta, x, out, layers, head, table, work):
    """Logits [R, n, C] of the models theta [R, P] on x [n, channels, side, side]."""
    samples = np.arange(len(x))
    for m in range(len(theta)):
        unpack(theta[m], layers, head, work)
        for begin in range(0, len(x), head.samples):
            block = samples[begin : begin + head.samples]
            forward(x, block, layers, head, table, work)
            for s in range(len(block)):
                out[m, begin + s] = part(work, head.logits, s)[: head.classes]
