"""A small vision transformer with LoRA as loops that Numba compiles: `engine/compiled.py` decides when they are used.

What is frozen is shared. Of an adapted layer W + scale A B (+ offset) is formed once per step and model, so that on
both ways it costs one product, as a frozen layer does; the factors' gradients take four narrow ones. A few samples at a
time run forward and backward, so that their activations stay in the second cache. Every product is `products.multiply`.

`train`, `gradients` and `logits` are compiled where they are needed; their last five arguments are
`transformer.arguments`: net, layers, table, frozen [Q], work.
"""

import numpy as np

from .attention_kernels import attention, attention_backward, norm, norm_backward
from .chains import LANES
from .products import descend, inlined, leaf, multiply, one_hot, part, put, softmax_residual, tighten, widen
from .transformer import SAMPLES, BlockLayer
from .vectors import add, fill, fma, load, mul, not_inlined, store, where_positive

QKV, OUT, UP, DOWN = range(4)  # in `transformer.DENSE`


@leaf
def layer_of(layers, i):
    z = layers[i]
    return BlockLayer(z[0], z[1], z[2], z[3], z[4], z[5], z[6], z[7], z[8], z[9], z[10])


@leaf
def transpose(source, n_rows, n_columns, to):
    """to [n_columns, n_rows] <- source [n_rows, n_columns]."""
    not_inlined()
    for i in range(n_rows):
        for j in range(n_columns):
            to[j * n_rows + i] = source[i * n_columns + j]


@inlined
def strides(n, net, table):
    """Offsets of rows of n numbers, a multiple of the width."""
    return part(table, net.widths, n // net.width - 1)


@leaf
def begin_work(net, layers, frozen, work):
    """Frozen weights and their transposes into `work`."""
    weights, transposed = part(work, net.weights), part(work, net.transposed)
    put(frozen, weights)
    for i in range(len(layers)):
        layer = layer_of(layers, i)
        transpose(frozen[layer.weight :], layer.n_in, layer.n_out, transposed[layer.weight :])


@inlined
def low_rank(layer, net, work):
    """A [n_in, padded rank], its gradient, and scale B' [n_out, padded rank]."""
    padded, size = part(work, net.factors)[layer.padded_at :], layer.n_in * net.rank
    return padded[:size], padded[size : 2 * size], padded[2 * size : 2 * size + layer.n_out * net.rank]


@leaf
def merge_layer(theta, layer, net, table, frozen, work):
    """An adapted layer's weight as theta [P] has it, and its padded factors."""
    not_inlined()
    n_in, n_out, r, scale = layer.n_in, layer.n_out, layer.rank, theta.dtype.type(net.lora_scale)
    (a, _, scaled_b), b = low_rank(layer, net, work), theta[layer.b_at :][: r * n_out]
    w = part(work, net.weights)[layer.weight :][: n_in * n_out]
    put(frozen[layer.weight :][: n_in * n_out], w)
    if layer.offset_at >= 0:
        offset = theta[layer.offset_at :]
        for k in range(n_in * n_out):
            w[k] += offset[k]
    for c in range(r):
        for k in range(n_out):
            scaled_b[k * net.rank + c] = scale * b[c * n_out + k]
        for k in range(n_in):
            a[k * net.rank + c] = scale * theta[layer.a_at + k * r + c]
    factors = a, part(table, net.ranks)[:n_in], part(table, net.ones)[:r], b, n_out
    multiply(*factors, w, strides(n_out, net, table)[:n_in], n_out // LANES, True)
    for c in range(r):
        for k in range(n_in):
            a[k * net.rank + c] = theta[layer.a_at + k * r + c]
    transpose(w, n_in, n_out, part(work, net.transposed)[layer.weight :])


@leaf
def merge(theta, net, layers, table, frozen, work):
    """Adapted layers and the head as theta [P] has them."""
    not_inlined()
    for i in range(4 * net.first, len(layers)):
        layer = layer_of(layers, i)
        if layer.rank:
            merge_layer(theta, layer, net, table, frozen, work)
    weight, head, classes = theta[net.head_weight :], part(work, net.head), net.classes
    widen(weight, net.width, classes, head, net.padded)
    transpose(weight, net.width, classes, part(work, net.head_transposed))
    put(theta[net.head_bias :][:classes], part(work, net.bias))


@leaf
def dense(x, layer, to, rows, accumulate, net, table, work):
    """to [rows, n_out] = x [rows, n_in] W + bias, or += that."""
    not_inlined()
    weights, n_in, n_out = part(work, net.weights), layer.n_in, layer.n_out
    for row in range(rows):
        for at in range(0, n_out, LANES):
            start = load(weights, layer.bias + at)
            if accumulate:
                start = add(load(to, row * n_out + at), start)
            store(to, row * n_out + at, start)
    sources = x, strides(n_in, net, table)[:rows], part(table, net.ones)[:n_in]
    places = to, strides(n_out, net, table)[:rows], n_out // LANES
    multiply(*sources, weights[layer.weight :], n_out, *places, True)


@inlined
def normed_input(x, layer, n, net, work):
    """What a layer that has a norm before it reads, the n-th norm."""
    scale, shift = part(work, net.weights)[layer.scale :], part(work, net.weights)[layer.shift :]
    to = part(work, net.inputs, n)
    norm(x, scale, shift, net.width, part(work, net.normed, n), part(work, net.deviations, n), to)
    return to


@leaf
def block_forward(i, samples, net, layers, table, work):
    """A block, in the place of its input."""
    not_inlined()
    rows = samples * net.tokens
    stream, qkv, mixed = part(work, net.stream)[: rows * net.width], part(work, net.qkv, i), part(work, net.mixed, i)
    layer = layer_of(layers, 4 * i + QKV)
    dense(normed_input(stream, layer, 2 * i, net, work), layer, qkv, rows, False, net, table, work)
    attention(qkv, part(work, net.attended, i), mixed, samples, net, table, work)
    dense(mixed, layer_of(layers, 4 * i + OUT), stream, rows, True, net, table, work)
    layer, hidden = layer_of(layers, 4 * i + UP), part(work, net.hidden, i)
    dense(normed_input(stream, layer, 2 * i + 1, net, work), layer, hidden, rows, False, net, table, work)
    for at in range(0, rows * layer.n_out, LANES):
        y = load(hidden, at)
        store(hidden, at, where_positive(y, y))
    dense(hidden, layer_of(layers, 4 * i + DOWN), stream, rows, True, net, table, work)


@leaf
def pool_tokens(x, samples, tokens, width, pooled):
    """pooled [samples, width]: means over the tokens of x [samples, tokens, width]."""
    share, size = fill(x.dtype.type(1 / tokens)), tokens * width
    for s in range(samples):
        for lane in range(0, width, LANES):
            total = mul(load(x, s * size + lane), share)
            for at in range(s * size + width + lane, (s + 1) * size, width):
                total = fma(load(x, at), share, total)
            store(pooled, s * width + lane, total)


@leaf
def forward(x, samples, net, layers, table, work):
    """Logits [samples, padded classes] of at most SAMPLES of x [n, tokens, width]."""
    not_inlined()
    size, width, count, weights = net.tokens * net.width, net.width, len(samples), part(work, net.weights)
    stream, n = part(work, net.stream)[: count * size], 2 * net.blocks
    for s in range(count):
        put(x[samples[s]].reshape(-1), stream[s * size :])
    for i in range(net.first, net.blocks):
        block_forward(i, count, net, layers, table, work)
    last, pooled, scores = part(work, net.inputs, n), part(work, net.pooled), part(work, net.scores)
    kept = part(work, net.normed, n), part(work, net.deviations, n)
    norm(stream, weights[net.scale :], weights[net.shift :], width, *kept, last)
    pool_tokens(last, count, net.tokens, width, pooled)
    for s in range(count):
        put(part(work, net.bias), scores[s * net.padded :])
    sources = pooled, part(table, net.widths)[:count], part(table, net.ones)[:width]
    to = scores, part(table, net.by_class)[:count], net.padded // LANES
    multiply(*sources, part(work, net.head), net.padded, *to, True)


@leaf
def add_factors(x, slope, layer, rows, offsets, net, table, work, gradient):
    """Adds the gradients of an adapted layer's factors: that of A to its padded sums, those of B (but for the scale)
    and, if `offsets`, of the offset to `gradient` [P]; x [rows, n_in]: its input, slope [rows, n_out]: that of its
    output."""
    not_inlined()
    n_in, n_out, rank = layer.n_in, layer.n_out, net.rank
    a, sums, scaled_b = low_rank(layer, net, work)
    rows_in, rows_out, rows_low = strides(n_in, net, table), strides(n_out, net, table), part(table, net.ranks)
    ones = part(table, net.ones)
    blocks_low, blocks_out = rank // LANES, n_out // LANES
    low_x, low_slope = part(work, net.narrow, 0), part(work, net.narrow, 1)
    multiply(x, rows_in[:rows], ones[:n_in], a, rank, low_x, rows_low[:rows], blocks_low, False)
    multiply(slope, rows_out[:rows], ones[:n_out], scaled_b, rank, low_slope, rows_low[:rows], blocks_low, False)
    multiply(x, ones[:n_in], rows_in[:rows], low_slope, rank, sums, rows_low[:n_in], blocks_low, True)
    to = gradient[layer.b_at :], rows_out[: layer.rank], blocks_out
    multiply(low_x, ones[: layer.rank], rows_low[:rows], slope, n_out, *to, True)
    if offsets and layer.offset_at >= 0:
        to = gradient[layer.offset_at :], rows_out[:n_in], blocks_out
        multiply(x, ones[:n_in], rows_in[:rows], slope, n_out, *to, True)


@leaf
def layer_backward(x, slope, layer, to, is_last, rows, offsets, net, table, work, gradient):
    """Gradients of a layer, if it is adapted, and, unless it `is_last` on the way back, that with respect to its input
    x into `to` [rows, n_in]."""
    not_inlined()
    if layer.rank:
        add_factors(x, slope, layer, rows, offsets, net, table, work, gradient)
    if not is_last:
        n_in, n_out = layer.n_in, layer.n_out
        sources = slope, strides(n_out, net, table)[:rows], part(table, net.ones)[:n_out]
        places = to, strides(n_in, net, table)[:rows], n_in // LANES
        multiply(*sources, part(work, net.transposed)[layer.weight :], n_in, *places, False)


@leaf
def norm_of_stream(slope, scale, n, net, work, stream):
    """Adds to the stream's gradient what comes through the n-th norm."""
    weights = part(work, net.weights)
    norm_backward(slope, weights[scale:], net.width, part(work, net.normed, n), part(work, net.deviations, n), stream)


@leaf
def block_backward(i, samples, lowest, offsets, net, layers, table, work, gradient):
    """Gradients of a block's adapted layers, down to its dense layer number `lowest` (-1: and that of its input, in the
    place of that of its output)."""
    not_inlined()
    rows, hidden = samples * net.tokens, part(work, net.hidden, i)
    stream, wide, below = part(work, net.stream)[: rows * net.width], part(work, net.wide), part(work, net.below)
    layer = layer_of(layers, 4 * i + DOWN)
    layer_backward(hidden, stream, layer, wide, lowest == DOWN, rows, offsets, net, table, work, gradient)
    if lowest == DOWN:
        return
    for at in range(0, rows * layer.n_in, LANES):
        store(wide, at, where_positive(load(hidden, at), load(wide, at)))
    layer, x = layer_of(layers, 4 * i + UP), part(work, net.inputs, 2 * i + 1)
    layer_backward(x, wide, layer, below, lowest == UP, rows, offsets, net, table, work, gradient)
    if lowest == UP:
        return
    norm_of_stream(below, layer.scale, 2 * i + 1, net, work, stream)
    layer, x = layer_of(layers, 4 * i + OUT), part(work, net.mixed, i)
    layer_backward(x, stream, layer, below, lowest == OUT, rows, offsets, net, table, work, gradient)
    if lowest == OUT:
        return
    kept = part(work, net.qkv, i), part(work, net.attended, i)
    attention_backward(*kept, below, wide, samples, net, table, work)
    layer, x = layer_of(layers, 4 * i + QKV), part(work, net.inputs, 2 * i)
    layer_backward(x, wide, layer, below, lowest == QKV, rows, offsets, net, table, work, gradient)
    if lowest == QKV:
        return
    norm_of_stream(below, layer.scale, 2 * i, net, work, stream)


@leaf
def head_backward(count, net, table, work, gradient):
    """Adds the gradient of the head to its padded sums and that of its bias to `gradient` [P]; that of the pooled
    tokens goes into their place."""
    not_inlined()
    pooled, scores, width = part(work, net.pooled), part(work, net.scores), net.width
    by_class, by_width, ones = part(table, net.by_class), part(table, net.widths), part(table, net.ones)
    to = part(work, net.head_sums), by_class[:width], net.padded // LANES
    multiply(pooled, ones[:width], by_width[:count], scores, net.padded, *to, True)
    for s in range(count):
        for c in range(net.classes):
            gradient[net.head_bias + c] += scores[s * net.padded + c]
    sources = scores, by_class[:count], ones[: net.classes], part(work, net.head_transposed), width
    multiply(*sources, pooled, by_width[:count], width // LANES, False)


@leaf
def backward(count, offsets, net, layers, table, work, gradient):
    """Adds the gradients of the last `forward` to `gradient` [P] and to padded sums, given that with respect to the
    logits in their place."""
    not_inlined()
    width, size, below, pooled = net.width, net.tokens * net.width, part(work, net.below), part(work, net.pooled)
    head_backward(count, net, table, work, gradient)
    share = fill(work.dtype.type(1 / net.tokens))
    for s in range(count):
        for lane in range(0, width, LANES):
            slope = mul(load(pooled, s * width + lane), share)
            for at in range(s * size + lane, (s + 1) * size, width):
                store(below, at, slope)
    stream = part(work, net.stream)[: count * size]
    stream[:] = 0
    norm_of_stream(below, net.scale, 2 * net.blocks, net, work, stream)
    for back in range(net.blocks - net.first):
        i = net.blocks - 1 - back
        lowest = net.lowest if i == net.first else -1
        block_backward(i, count, lowest, offsets, net, layers, table, work, gradient)


@leaf
def unpad(net, layers, work, gradient):
    """Padded sums, which are then zero again, and the scale of B's into `gradient` [P]."""
    not_inlined()
    scale, head_sums = gradient.dtype.type(net.lora_scale), part(work, net.head_sums)
    for i in range(4 * net.first, len(layers)):
        layer = layer_of(layers, i)
        if layer.rank:
            _, sums, _ = low_rank(layer, net, work)
            tighten(sums, layer.n_in, layer.rank, net.rank, gradient[layer.a_at :])
            sums[:] = 0
            for k in range(layer.rank * layer.n_out):
                gradient[layer.b_at + k] *= scale
    tighten(head_sums, net.width, net.classes, net.padded, gradient[net.head_weight :])
    head_sums[:] = 0


@leaf
def loss_gradient(theta, x, samples, targets, offsets, net, layers, table, frozen, work, gradient):
    """Gradient [P] at theta [P] of the mean cross-entropy over x[samples] with targets [B, C], into `gradient`; that of
    offsets is zero unless `offsets`."""
    not_inlined()
    merge(theta, net, layers, table, frozen, work)
    gradient[:] = 0
    for begin in range(0, len(samples), SAMPLES):
        block = samples[begin : begin + SAMPLES]
        forward(x, block, net, layers, table, work)
        for s in range(len(block)):
            scores = part(work, net.scores)[s * net.padded :][: net.padded]
            softmax_residual(scores, targets[begin + s], len(samples))
        backward(len(block), offsets, net, layers, table, work, gradient)
    unpad(net, layers, work, gradient)


def train(start, x, out, batches, labels, lr, shrink, shift, spans, net, layers, table, frozen, work):
    """Into out [M, P] what E steps w <- shrink w + shift - lr gradient add to start [M, P], or [1, P] for all, within
    the `spans` [n, 2]; shift [M, P] or [0, P]."""
    begin_work(net, layers, frozen, work)
    gradient = np.empty(out.shape[1], out.dtype)
    targets = np.zeros((batches.shape[2], net.classes), out.dtype)
    for m in range(len(out)):
        w, begin, own = out[m], start[m % len(start)], shift[m] if len(shift) else lr[:0]
        w[:] = begin
        for e in range(batches.shape[1]):
            one_hot(labels[m, e], targets)
            loss_gradient(w, x, batches[m, e], targets, False, net, layers, table, frozen, work, gradient)
            descend(w, gradient, lr[m], shrink[m], own, spans)
        w -= begin


def gradients(theta, x, rows, targets, out, net, layers, table, frozen, work):
    """Gradients [M, P] at theta [M, P] of the mean cross-entropy over x[rows[m]] with targets [M, B, C]."""
    begin_work(net, layers, frozen, work)
    for m in range(len(theta)):
        loss_gradient(theta[m], x, rows[m], targets[m], True, net, layers, table, frozen, work, out[m])


def logits(theta, x, out, net, layers, table, frozen, work):
    """Logits [R, n, C] of the models theta [R, P] on x [n, tokens, width]."""
    begin_work(net, layers, frozen, work)
    samples = np.arange(len(x))
    for m in range(len(theta)):
        merge(theta[m], net, layers, table, frozen, work)
        for begin in range(0, len(x), SAMPLES):
            block = samples[begin : begin + SAMPLES]
            forward(x, block, net, layers, table, work)
            for s in range(len(block)):
                out[m, begin + s] = part(work, net.scores)[s * net.padded :][: net.classes]
