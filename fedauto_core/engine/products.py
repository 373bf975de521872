"""What the loops share that Numba compiles: their products, the two ends of a loss, and a step."""

import numpy as np
from numba import njit

from .chains import LANES
from .vectors import MANY_ROWS, eight_by_one, four_by_one, four_by_two, many_by_two, not_inlined

inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)  # not called from Python


@inner
def part(flat, span, s=0):
    """The part of sample s."""
    return flat[span[0] + s * span[1] : span[0] + (s + 1) * span[1]]


@inner
def multiply(a, rows, columns, b, width, c, to_rows, to_columns, accumulate):
    """c[to_rows[m] + to_columns[n] + lane] (+)= sum over k of a[rows[m] + columns[k]] * b[k, LANES n + lane].

    All are flat; b is [K, width]. Tiles are as many rows by two blocks of lanes as there are registers for their sums,
    and 8 rows by one for an odd block; the last rows come by fours. No place may occur twice among the rows and blocks
    of a tile, which computes its last row again where it sticks out; between tiles it may.
    """
    not_inlined()
    paired = len(to_columns) // 2 * 2
    for n in range(0, paired, 2):
        m, at, left, right = 0, np.uint64(LANES * n), to_columns[n], to_columns[n + 1]
        while len(rows) - m > 4:
            many_by_two(a, rows, m, columns, b, at, width, c, to_rows, left, right, accumulate)
            m += MANY_ROWS
        while m < len(rows):
            four_by_two(a, rows, m, columns, b, at, width, c, to_rows, left, right, accumulate)
            m += 4
    if paired < len(to_columns):
        m, at, block = 0, np.uint64(LANES * paired), to_columns[paired]
        while len(rows) - m > 4:
            eight_by_one(a, rows, m, columns, b, at, width, c, to_rows, block, block, accumulate)
            m += 8
        while m < len(rows):
            four_by_one(a, rows, m, columns, b, at, width, c, to_rows, block, block, accumulate)
            m += 4


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
    """w <- shrink w + shift - lr gradient within the `spans` [n, 2]; all [P], shift maybe [0] for neither."""
    for i in range(len(spans)):
        for k in range(spans[i, 0], spans[i, 1]):
            if len(shift):
                w[k] = shrink * w[k] + shift[k]
            w[k] -= lr * gradient[k]
