"""What the loops share that Numba compiles: their products, the two ends of a loss, and a step."""

from collections.abc import Callable

import numpy as np
from numba import njit

from .vectors import (
    AVX512,
    MANY_ROWS,
    eight_by_one,
    four_by_four,
    four_by_one,
    four_by_two,
    many_by_four,
    many_by_two,
    not_inlined,
)

inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)  # not called from Python


@inner
def part(flat, span, s=0):
    """The part of sample s."""
    return flat[span[0] + s * span[1] : span[0] + (s + 1) * span[1]]


def _strip(many: Callable[..., None], count: int, four: Callable[..., None]) -> Callable[..., None]:
    """All rows of the columns of a tile: `count` at a time by `many`, the last ones by `four`."""

    @inner
    def strip(a, rows, columns, b, n, width, c, to_rows, to_columns, accumulate):
        m = 0
        while len(rows) - m > 4:
            many(a, rows, m, columns, b, n, width, c, to_rows, to_columns, accumulate)
            m += count
        while m < len(rows):
            four(a, rows, m, columns, b, n, width, c, to_rows, to_columns, accumulate)
            m += 4

    return strip


four_blocks = _strip(many_by_four, MANY_ROWS, four_by_four)
two_blocks = _strip(many_by_two, MANY_ROWS, four_by_two)
one_block = _strip(eight_by_one, 8, four_by_one)


@inner
def multiply(a, rows, columns, b, width, c, to_rows, to_columns, accumulate):
    """c[to_rows[m] + to_columns[n] + lane] (+)= sum over k of a[rows[m] + columns[k]] * b[k, LANES n + lane].

    All are flat; b is [K, width]. No place of c may occur twice. Tiles are as many rows by two blocks of lanes as there
    are registers for their sums, with AVX-512 by four while there are as many, so that a number of `a` is loaded once
    for two products, and 8 rows by one for an odd block; the last rows come by fours.
    """
    not_inlined()
    n = 0
    if AVX512 and b.itemsize == 4:  # of doubles the sums of four blocks do not fit
        while len(to_columns) - n >= 4:
            four_blocks(a, rows, columns, b, n, width, c, to_rows, to_columns, accumulate)
            n += 4
    narrow(a, rows, columns, b, n, width, c, to_rows, to_columns, accumulate)


@inner
def multiply_overlapping(a, rows, columns, b, width, c, to_rows, to_columns):
    """What `multiply` adds to c, whose places may occur in several rows and blocks, but only once in MANY_ROWS (or 8)
    neighbouring rows of two neighbouring blocks: a tile reads all its places before it writes one."""
    narrow(a, rows, columns, b, 0, width, c, to_rows, to_columns, True)


@inner
def narrow(a, rows, columns, b, n, width, c, to_rows, to_columns, accumulate):
    """The columns from block n on, by tiles of two blocks, and of one for an odd block."""
    not_inlined()
    while len(to_columns) - n >= 2:
        two_blocks(a, rows, columns, b, n, width, c, to_rows, to_columns, accumulate)
        n += 2
    if n < len(to_columns):
        one_block(a, rows, columns, b, n, width, c, to_rows, to_columns, accumulate)


@inner
def one_hot(labels, targets):
    """labels [B] into targets [B, C]."""
    targets[:] = 0
    for b in range(len(targets)):
        targets[b, labels[b]] = 1


@inner
def softmax_residual(scores, target, size):
    """Gradient with respect to logits of their cross-entropy with `target`, divided by `size`, in their place."""
    not_inlined()
    largest = scores[0]
    for c in range(len(target)):
        largest = max(largest, scores[c])
    total = mass = scores.dtype.type(0)
    for c in range(len(target)):
        scores[c] = np.exp(scores[c] - largest)
        total += scores[c]
        mass += target[c]
    for c in range(len(target)):
        scores[c] = (scores[c] * (mass / total) - target[c]) / size
    scores[len(target) :] = 0


@inner
def descend(w, gradient, lr, shrink, shift, spans):
    """w [P] <- shrink w + shift [P] - lr gradient [P] within the `spans` [n, 2]; shift [0]: w - lr gradient."""
    for i in range(len(spans)):
        for k in range(spans[i, 0], spans[i, 1]):
            if len(shift):
                w[k] = shrink * w[k] + shift[k]
            w[k] -= lr * gradient[k]
