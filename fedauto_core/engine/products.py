"""What the loops share that Numba compiles: their products, the two ends of a loss, and a step."""

from collections.abc import Callable

import numpy as np
from numba import njit

from .chains import LANES
from .vectors import (
    AVX512,
    MANY_ROWS,
    eight_by_one,
    eight_by_one_apart,
    fill,
    fma,
    four_by_four,
    four_by_one,
    four_by_one_apart,
    four_by_two,
    four_by_two_apart,
    load,
    many_by_four,
    many_by_two,
    many_by_two_apart,
    not_inlined,
    store,
    sum_of_eights,
)

inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)  # not called from Python
leaf = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)
"""The same for what makes and returns no arrays: it counts no references, which takes as long as a small product. Whom
it calls is such a function too, or inlined."""
inlined = njit(inline="always")  # what returns a part of an array


@inlined
def part(flat, span, s=0):
    """The part of sample s."""
    return flat[span[0] + s * span[1] : span[0] + (s + 1) * span[1]]


def _strip(name: str, many: Callable[..., None], count: int, four: Callable[..., None]) -> Callable[..., None]:
    """All rows of the columns of a tile: `count` at a time by `many`, the last ones by `four`. to_columns: where the
    blocks begin in a row of c, if they are apart; other tiles do not read it.

    name: of no other one. Numba tells compiled functions apart by their names and a number that each process counts for
    itself. Loaded from the cache, kernels that two processes have compiled would else call each other's strips.
    """

    def strip(a, rows, columns, b, n, width, c, to_rows, to_columns, accumulate):
        m = 0
        while len(rows) - m > 4:
            many(a, rows, m, columns, b, n, width, c, to_rows, to_columns, accumulate)
            m += count
        while m < len(rows):
            four(a, rows, m, columns, b, n, width, c, to_rows, to_columns, accumulate)
            m += 4

    strip.__qualname__ = name
    return leaf(strip)


four_blocks = _strip("four_blocks", many_by_four, MANY_ROWS, four_by_four)
two_blocks = _strip("two_blocks", many_by_two, MANY_ROWS, four_by_two)
one_block = _strip("one_block", eight_by_one, 8, four_by_one)
two_apart = _strip("two_apart", many_by_two_apart, MANY_ROWS, four_by_two_apart)
one_apart = _strip("one_apart", eight_by_one_apart, 8, four_by_one_apart)


@leaf
def multiply(a, rows, columns, b, width, c, to_rows, blocks, accumulate):
    """c[to_rows[m] + LANES n + lane] (+)= sum over k of a[rows[m] + columns[k]] * b[k, LANES n + lane], n < blocks.

    All are flat; b is [K, width]. No place of c may occur twice. Tiles are as many rows by two blocks of lanes as there
    are registers for their sums, with AVX-512 by four while there are as many, so that a number of `a` is loaded once
    for two products, and 8 rows by one for an odd block; the last rows come by fours.
    """
    not_inlined()
    n = 0
    if AVX512 and b.itemsize == 4:  # of doubles the sums of four blocks do not fit
        while blocks - n >= 4:
            four_blocks(a, rows, columns, b, n, width, c, to_rows, blocks, accumulate)
            n += 4
    while blocks - n >= 2:
        two_blocks(a, rows, columns, b, n, width, c, to_rows, blocks, accumulate)
        n += 2
    if n < blocks:
        one_block(a, rows, columns, b, n, width, c, to_rows, blocks, accumulate)


@leaf
def multiply_overlapping(a, rows, columns, b, width, c, to_rows, to_columns):
    """What `multiply` adds to c, the n-th block at to_columns[n] instead of LANES n. A place may occur in several rows
    and blocks, but only once in MANY_ROWS (or 8) neighbouring rows of two neighbouring blocks: a tile reads all its
    places before it writes one."""
    not_inlined()
    n = 0
    while len(to_columns) - n >= 2:
        two_apart(a, rows, columns, b, n, width, c, to_rows, to_columns, True)
        n += 2
    if n < len(to_columns):
        one_apart(a, rows, columns, b, n, width, c, to_rows, to_columns, True)


@inner
def multiply_rows(a, rows, b, others, length, c, to_rows):
    """c[to_rows[m] + n] = sum over k < length, whole vectors, of a[rows[m] + k] * b[others[n] + k].

    Tiles of three rows by two; those that are missing at the ends repeat the last one.
    """
    not_inlined()
    sums = np.empty(LANES, c.dtype)
    for m in range(0, len(rows), 3):
        last = len(rows) - 1
        x0, x1, x2 = rows[m], rows[min(m + 1, last)], rows[min(m + 2, last)]
        for n in range(0, len(others), 2):
            y0, y1 = others[n], others[min(n + 1, len(others) - 1)]
            s00 = s01 = s10 = s11 = s20 = s21 = fill(c.dtype.type(0))
            for k in range(np.uint64(0), np.uint64(length), np.uint64(LANES)):
                v0, v1 = load(b, y0 + k), load(b, y1 + k)
                u0, u1, u2 = load(a, x0 + k), load(a, x1 + k), load(a, x2 + k)
                s00, s01 = fma(u0, v0, s00), fma(u0, v1, s01)
                s10, s11 = fma(u1, v0, s10), fma(u1, v1, s11)
                s20, s21 = fma(u2, v0, s20), fma(u2, v1, s21)
            for i, (left, right) in enumerate(((s00, s01), (s10, s11), (s20, s21))):
                if m + i <= last:
                    store(sums, 0, sum_of_eights(left))
                    c[to_rows[m + i] + n] = sums[0]
                    if n + 1 < len(others):
                        store(sums, 0, sum_of_eights(right))
                        c[to_rows[m + i] + n + 1] = sums[0]


@leaf
def put(source, target):
    """target[: len(source)] = source, for which Numba would take memory in case they overlap."""
    for i in range(len(source)):
        target[i] = source[i]


@leaf
def whole_rows(rows, columns, width):
    """How many of the first rows of a matrix [rows, columns] may be read or written `width` numbers at a time, which
    reaches into the next rows: no further than the matrix."""
    return max(0, (rows * columns - width) // columns + 1)


@leaf
def widen(source, rows, columns, target, width):
    """A matrix [rows, columns] into [rows, width] of whole vectors, both flat. What fills up a row is what follows in
    the source, or was there before."""
    not_inlined()
    whole, at, to = whole_rows(rows, columns, width), np.uint64(0), np.uint64(0)
    for i in range(rows):
        if i < whole:
            for c in range(np.uint64(0), np.uint64(width), np.uint64(LANES)):
                store(target, to + c, load(source, at + c))
        else:
            put(source[at:][:columns], target[to:])
        at += np.uint64(columns)
        to += np.uint64(width)


@leaf
def tighten(source, rows, columns, width, target):
    """The inverse of `widen`."""
    not_inlined()
    whole, at, to = whole_rows(rows, columns, width), np.uint64(0), np.uint64(0)
    for i in range(rows):
        if i < whole:  # the rows go upwards: what filled up this one is overwritten by the next ones
            for c in range(np.uint64(0), np.uint64(width), np.uint64(LANES)):
                store(target, to + c, load(source, at + c))
        else:
            put(source[at:][:columns], target[to:])
        at += np.uint64(width)
        to += np.uint64(columns)


@leaf
def one_hot(labels, targets):
    """labels [B] into targets [B, C]."""
    targets[:] = 0
    for b in range(len(targets)):
        targets[b, labels[b]] = 1


@leaf
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


@leaf
def step(w, gradient, lr, shrink, shift):
    """w [P] <- shrink w + shift [P] - lr gradient [P]; shift [0]: w - lr gradient."""
    for k in range(len(shift)):
        w[k] = shrink * w[k] + shift[k]
    for k in range(len(w)):
        w[k] -= lr * gradient[k]


@leaf
def descend(w, gradient, lr, shrink, shift, spans):
    """`step` within the `spans` [n, 2]."""
    for i in range(len(spans)):
        begin, end = spans[i]
        step(w[begin:end], gradient[begin:end], lr, shrink, shift[begin:end])
