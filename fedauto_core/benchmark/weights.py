"""FedAuto's weights as a user gets them against the same programme written out for nnls, on one thread.

Half of the clients arrive, and the target is the mixture of all of them. Both sides take turns within one run; printed
are the medians and the largest difference between the weights. A difference above MAX_DIFFERENCE ends the program.
"""

import time

import numpy as np
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from fedauto_core.methods.weights import fedauto_weights
from fedauto_core.seeding import stream

CLASSES, LAM = 100, 0.1
MAX_DIFFERENCE = 1e-9

REPETITIONS = {100: 15, 1000: 3, 10_000: 5}
NNLS_UP_TO = 1000  # arrived; its time grows with their cube, to about half an hour for 10,000

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]


def problem(arrived: int) -> Problem:
    """Histograms [K, CLASSES] and samples [K] of the arrived, and the target [CLASSES]."""
    rng = stream(0, "theory", arrived)
    alpha, counts = rng.dirichlet(np.full(CLASSES, 0.3), 2 * arrived), rng.integers(10, 1000, 2 * arrived)
    return alpha[:arrived], counts[:arrived], counts @ alpha / counts.sum()


def plain_weights(alpha: np.ndarray, counts: np.ndarray, target: np.ndarray) -> np.ndarray:
    """beta proportional to the b >= 0 with the least |R b|^2 + (sum b - 1)^2; R as in docs/method.md, section 4."""
    rows = np.vstack(
        [
            (alpha - target).T / np.sqrt(target)[:, None],
            np.diag(np.sqrt(LAM * counts.sum() / counts)),
            np.ones(len(alpha)),
        ]
    )
    b, _ = nnls(rows, np.append(np.zeros(len(rows) - 1), 1.0))
    return b / b.sum()


def print_weights() -> None:
    """One line per number of arrived participants."""
    print(f"FedAuto's weights, {CLASSES} classes, lambda {LAM}, half of the clients arrived, 1 thread")
    for arrived, repetitions in REPETITIONS.items():
        data, affordable, taken = problem(arrived), arrived <= NNLS_UP_TO, []
        with threadpool_limits(1):
            for _ in range(repetitions):
                begin = time.perf_counter()
                ours = fedauto_weights(*data, LAM)
                middle = time.perf_counter()
                theirs = plain_weights(*data) if affordable else ours
                taken.append((middle - begin, time.perf_counter() - middle))
        own, plain = 1000 * np.median(taken, axis=0)
        difference = float(np.abs(ours - theirs).max())
        if difference > MAX_DIFFERENCE:
            raise ArithmeticError(f"{arrived} arrived: fedauto_weights and nnls differ by {difference:.1e}")
        against = (
            f"nnls {plain:7.1f} ms  {plain / own:7.1f}x  max|diff| {difference:.0e}" if affordable else "nnls not run"
        )
        print(f"{f'{arrived:,} arrived':<20} {own:7.1f} ms  {against}", flush=True)
