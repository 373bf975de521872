"""Norms and attention of a vision transformer as loops that Numba compiles, which know nothing of LoRA: parts of
`transformer_kernels`."""

import numpy as np

from .chains import EPSILON, LANES
from .products import leaf, multiply, part
from .vectors import add, fill, fma, load, mul, not_inlined, store, sum_of_eights


@leaf
def norm(x, scale, shift, width, normed, deviations, to):
    """LayerNorm of every row of x [rows, width]; `normed`: before scale and shift."""
    not_inlined()
    kind = x.dtype.type
    share, zero = kind(1 / width), fill(kind(0))
    for begin in range(0, len(x), width):
        total = zero
        for at in range(begin, begin + width, LANES):
            total = add(total, load(x, at))
        minus_mean = mul(sum_of_eights(total), fill(-share))
        total = zero
        for at in range(begin, begin + width, LANES):
            centred = add(load(x, at), minus_mean)
            total = fma(centred, centred, total)
        store(normed, begin, mul(sum_of_eights(total), fill(share)))
        inverse = kind(1 / np.sqrt(normed[begin] + kind(EPSILON)))
        deviations[begin // width] = inverse
        for at in range(begin, begin + width, LANES):
            found = mul(add(load(x, at), minus_mean), fill(inverse))
            store(normed, at, found)
            store(to, at, fma(found, load(scale, at - begin), load(shift, at - begin)))


@leaf
def norm_backward(slope, scale, width, normed, deviations, to):
    """to [rows, width] += the gradient with respect to the norm's input, from `slope`, that with respect to its output:
    with x the normalised input, d its inverse deviation, a the scale, <.> a row's mean, d (a g - <a g> - x <a g x>)."""
    not_inlined()
    kind = slope.dtype.type
    minus_share, zero = fill(kind(-1 / width)), fill(kind(0))
    for begin in range(0, len(to), width):
        plain = along = zero
        for at in range(begin, begin + width, LANES):
            g = mul(load(slope, at), load(scale, at - begin))
            plain, along = add(plain, g), fma(g, load(normed, at), along)
        constant, steep = mul(sum_of_eights(plain), minus_share), mul(sum_of_eights(along), minus_share)
        inverse = fill(deviations[begin // width])
        for at in range(begin, begin + width, LANES):
            g = fma(load(slope, at), load(scale, at - begin), fma(steep, load(normed, at), constant))
            store(to, at, fma(g, inverse, load(to, at)))


@leaf
def softmax(x, size, scale):
    """Every row of x [size, size] becomes the softmax of scale x."""
    not_inlined()
    for row in range(size):
        scores = x[row * size :][:size]
        largest = scores[0]
        for j in range(size):
            largest = max(largest, scores[j])
        total = x.dtype.type(0)
        for j in range(size):
            scores[j] = np.exp(scale * (scores[j] - largest))
            total += scores[j]
        inverse = x.dtype.type(1 / total)
        for j in range(size):
            scores[j] *= inverse


@leaf
def softmax_backward(slopes, weights, size, scale):
    """slopes [size, size], the gradient with respect to a softmax's rows W, becomes that with respect to the scores
    before their scale: scale W (g - <g, W>)."""
    not_inlined()
    kind = slopes.dtype.type
    for begin in range(0, size * size, size):
        along = fill(kind(0))
        for at in range(begin, begin + size, LANES):
            along = fma(load(slopes, at), load(weights, at), along)
        minus = mul(sum_of_eights(along), fill(kind(-1)))
        for at in range(begin, begin + size, LANES):
            store(slopes, at, mul(mul(load(weights, at), add(load(slopes, at), minus)), fill(kind(scale))))


@leaf
def turn_head(head, n_rows, depth, stride, to):
    """to [depth, n_rows] <- the first `depth` of every `stride` numbers."""
    not_inlined()
    for j in range(n_rows):
        for k in range(depth):
            to[k * n_rows + j] = head[j * stride + k]


@leaf
def attention(qkv, attended, mixed, samples, net, table, work):
    """mixed [rows, width] from qkv [rows, 3 width], all heads of each sample by themselves."""
    not_inlined()
    width, tokens, depth = net.width, net.tokens, net.width // net.heads
    wide, narrow = part(table, net.widths, 2)[:tokens], part(table, net.widths, 0)[:tokens]
    across, ones = part(table, net.by_token), part(table, net.ones)
    turned, scale = part(work, net.turned), qkv.dtype.type(1 / np.sqrt(depth))
    for s in range(samples):
        for h in range(net.heads):
            query = qkv[s * tokens * 3 * width + h * depth :]
            weights = attended[(s * net.heads + h) * tokens**2 :][: tokens**2]
            turn_head(query[width:], tokens, depth, 3 * width, turned)
            multiply(query, wide, ones[:depth], turned, tokens, weights, across, tokens // LANES, False)
            softmax(weights, tokens, scale)
            values, to = query[2 * width :], mixed[s * tokens * width + h * depth :]
            multiply(weights, across, ones[:tokens], values, 3 * width, to, narrow, depth // LANES, False)


@leaf
def attention_backward(qkv, attended, slope, to, samples, net, table, work):
    """to [rows, 3 width]: the gradient with respect to qkv, from `slope` [rows, width], that with respect to what the
    attention gives."""
    not_inlined()
    width, tokens, depth = net.width, net.tokens, net.width // net.heads
    wide, narrow = part(table, net.widths, 2)[:tokens], part(table, net.widths, 0)[:tokens]
    across, ones = part(table, net.by_token), part(table, net.ones)
    each, blocks = ones[:tokens], depth // LANES
    turned, slopes, scale = part(work, net.turned), part(work, net.slopes), 1 / np.sqrt(depth)
    for s in range(samples):
        for h in range(net.heads):
            begin = s * tokens * 3 * width + h * depth
            query, g = qkv[begin:], slope[s * tokens * width + h * depth :]
            weights = attended[(s * net.heads + h) * tokens**2 :][: tokens**2]
            multiply(weights, each, across, g, width, to[begin + 2 * width :], wide, blocks, False)
            turn_head(query[2 * width :], tokens, depth, 3 * width, turned)
            multiply(g, narrow, ones[:depth], turned, tokens, slopes, across, tokens // LANES, False)
            softmax_backward(slopes, weights, tokens, scale)
            multiply(slopes, across, each, query[width:], 3 * width, to[begin:], wide, blocks, False)
            multiply(slopes, each, across, query, 3 * width, to[begin + width :], wide, blocks, False)
