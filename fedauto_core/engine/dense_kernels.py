"""Dense layers with ReLUs between as loops that Numba compiles: `engine/compiled.py` decides when they are used.

One model after another takes all its steps, so that its weights stay in the second cache: they are copied once to the
start of a line of the caches, with the classifier's columns padded to whole blocks of lanes. A weight is updated by the
very product that forms its gradient, which is never stored. Every product is `products.multiply`.

`train`, `gradients` and `logits` are compiled where they are needed, with `layers` as their last argument.
"""

import numpy as np

from .chains import LANES, LINE
from .products import inner, leaf, multiply, one_hot, put, softmax_residual, tighten, whole_rows, widen
from .vectors import add, fill, load, mul, not_inlined, store, where_positive

SAMPLES = 64  # whose logits are computed together


@inner
def zeros(size, like):
    """From the start of a line of the caches."""
    item = like.itemsize
    memory = np.zeros(size + LINE // item, like.dtype)
    return memory[(-memory.ctypes.data % LINE) // item :][:size]


@inner
def copies(layers, like):
    """Room for a padded theta."""
    last = layers[len(layers) - 1]
    return zeros(last.bias + last.width, like)


@inner
def multiples(count, stride):
    """0, stride, 2 stride, ... as offsets [count]."""
    found = np.empty(count, np.uint64)
    for i in range(count):
        found[i] = i * stride
    return found


@leaf
def padded(theta, layers, w):
    """theta [P] into w as the products read it. What fills up a block is whatever was there: it reaches the padded
    columns of the logits only, which `softmax_residual` sets to zero and `logits` leaves out."""
    for layer in layers:
        widen(theta[layer.weight_at :], layer.n_in, layer.n_out, w[layer.weight :], layer.width)
        put(theta[layer.bias_at :][: layer.n_out], w[layer.bias :])


@leaf
def unpadded(w, layers, theta):
    """w into theta [P], the inverse of `padded`."""
    for layer in layers:
        tighten(w[layer.weight :], layer.n_in, layer.n_out, layer.width, theta[layer.weight_at :])
        put(w[layer.bias :][: layer.n_out], theta[layer.bias_at :])


@leaf
def shifted(layer, shrink, shift, weight, bias):
    """A layer's weights [n_in, width] and bias [width], shrunk and shifted by its part of shift [P]."""
    not_inlined()
    whole, at = whole_rows(layer.n_in, layer.n_out, layer.width), layer.weight_at
    for i in range(layer.n_in):
        row = i * layer.width
        if i < whole:
            for c in range(0, layer.width, LANES):
                store(weight, row + c, add(mul(fill(shrink), load(weight, row + c)), load(shift, at + c)))
        else:
            for c in range(layer.n_out):
                weight[row + c] = shrink * weight[row + c] + shift[at + c]
        at += layer.n_out
    for c in range(layer.n_out):
        bias[c] = shrink * bias[c] + shift[layer.bias_at + c]


@inner
def output_of(outputs, layer, samples):
    """[samples * width]."""
    return outputs[samples * layer.before : samples * (layer.before + layer.width)]


@inner
def input_of(pixels, offsets, layers, i, outputs):
    """What layer i reads, and where in it each sample begins."""
    if i == 0:
        return pixels, offsets
    return output_of(outputs, layers[i - 1], len(offsets)), multiples(len(offsets), layers[i - 1].width)


@inner
def forward(pixels, offsets, layers, w, outputs):
    """Outputs of all layers, the logits last, for the samples that begin at `offsets` [B] in `pixels`."""
    not_inlined()
    for i in range(len(layers)):
        layer = layers[i]
        out = output_of(outputs, layer, len(offsets))
        for b in range(len(offsets)):
            put(w[layer.bias :][: layer.width], out[b * layer.width :])
        sources, rows = input_of(pixels, offsets, layers, i, outputs)
        to = out, multiples(len(offsets), layer.width), layer.width // LANES
        multiply(sources, rows, multiples(layer.n_in, 1), w[layer.weight :], layer.width, *to, True)
        if i < len(layers) - 1:
            for at in range(0, len(out), LANES):
                y = load(out, at)
                store(out, at, where_positive(y, y))


@inner
def add_gradient(pixels, offsets, targets, layers, w, outputs, slopes, factor, shrink, shift, sums):
    """sums += factor times the gradient at w, padded as w, of the mean cross-entropy with `targets` [B, C] over samples
    as in `forward`. `sums` may be w itself, which is then first shrunk and shifted: shift [P], or [0] for neither.

    outputs, slopes: scratch of a number for each output of each sample.
    """
    not_inlined()
    forward(pixels, offsets, layers, w, outputs)
    size, last = len(targets), layers[len(layers) - 1]
    scores, slope = output_of(outputs, last, size), output_of(slopes, last, size)
    for b in range(size):
        softmax_residual(scores[b * last.width :][: last.width], targets[b], size)
    for i in range(len(scores)):
        slope[i] = factor * scores[i]
    for down in range(len(layers)):
        i = len(layers) - 1 - down
        layer = layers[i]
        slope = output_of(slopes, layer, size)
        samples = multiples(size, layer.width)
        if i > 0:
            transposed = np.empty(layer.n_out * layer.n_in, w.dtype)
            for k in range(layer.n_in):
                for c in range(layer.n_out):
                    transposed[c * layer.n_in + k] = w[layer.weight + k * layer.width + c]
            below, active = output_of(slopes, layers[i - 1], size), output_of(outputs, layers[i - 1], size)
            to = below, multiples(size, layer.n_in), layer.n_in // LANES
            multiply(slope, samples, multiples(layer.n_out, 1), transposed, layer.n_in, *to, False)
            for at in range(0, len(below), LANES):
                store(below, at, where_positive(load(active, at), load(below, at)))
        weight, bias = sums[layer.weight :], sums[layer.bias :][: layer.width]
        if len(shift):
            shifted(layer, shrink, shift, weight, bias)
        for b in range(size):
            for c in range(layer.width):
                bias[c] += slope[b * layer.width + c]
        sources, columns = input_of(pixels, offsets, layers, i, outputs)
        to = weight, multiples(layer.n_in, layer.width), layer.width // LANES
        multiply(sources, multiples(layer.n_in, 1), columns, slope, layer.width, *to, True)


def train(start, x, out, batches, labels, lr, shrink, shift, layers):
    """Into out [M, P] what E steps w <- shrink w + shift - lr gradient add to start [M, P], or [1, P] for all; shift
    [M, P] or [0, P]."""
    pixels, last = x.reshape(-1), layers[len(layers) - 1]
    size = batches.shape[2]
    outputs = zeros(size * (last.before + last.width), start)
    slopes = zeros(len(outputs), start)
    targets, none = np.zeros((size, last.n_out), start.dtype), lr[:0]
    w = copies(layers, start)
    for m in range(len(out)):
        begin, own = start[m % len(start)], shift[m] if len(shift) else none
        padded(begin, layers, w)
        for e in range(batches.shape[1]):
            one_hot(labels[m, e], targets)
            offsets = batches[m, e].astype(np.uint64) * np.uint64(layers[0].n_in)
            add_gradient(pixels, offsets, targets, layers, w, outputs, slopes, -lr[m], shrink[m], own, w)
        unpadded(w, layers, out[m])
        out[m] -= begin


def gradients(theta, x, rows, targets, out, layers):
    """Gradients [M, P] at theta [M, P] of the mean cross-entropy over x[rows[m]] with targets [M, B, C]."""
    pixels, last = x.reshape(-1), layers[len(layers) - 1]
    one = theta.dtype.type(1)
    outputs = zeros(rows.shape[1] * (last.before + last.width), theta)
    slopes = zeros(len(outputs), theta)
    w, sums = copies(layers, theta), copies(layers, theta)
    for m in range(len(theta)):
        padded(theta[m], layers, w)
        sums[:] = 0
        offsets = rows[m].astype(np.uint64) * np.uint64(layers[0].n_in)
        add_gradient(pixels, offsets, targets[m], layers, w, outputs, slopes, one, one, theta[m, :0], sums)
        unpadded(sums, layers, out[m])


def logits(theta, x, out, layers):
    """Logits [R, n, C] of the models theta [R, P] on x [n, channels, side, side]."""
    pixels, last = x.reshape(-1), layers[len(layers) - 1]
    outputs = zeros(SAMPLES * (last.before + last.width), theta)
    w = copies(layers, theta)
    for m in range(len(theta)):
        padded(theta[m], layers, w)
        for begin in range(0, len(x), SAMPLES):
            offsets = multiples(min(SAMPLES, len(x) - begin), layers[0].n_in) + np.uint64(begin * layers[0].n_in)
            forward(pixels, offsets, layers, w, outputs)
            scores = output_of(outputs, last, len(offsets))
            for s in range(len(offsets)):
                out[m, begin + s] = scores[s * last.width :][: last.n_out]
