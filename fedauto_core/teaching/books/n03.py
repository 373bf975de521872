"""Exercises of notebook 03: FedAuto by hand."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fedauto_core.methods.base import chi2_divergence
from fedauto_core.methods.fedauto import compensation, with_m
from fedauto_core.methods.weights import fedauto_weights, minimise
from fedauto_core.teaching.exercises import Book, Exercise, number_is
from fedauto_core.teaching.judges import function_is

COUNTS = np.array([[5, 3, 2], [20, 0, 0], [10, 10, 0], [0, 20, 0], [0, 5, 15]])  # row 0 = server
WITHOUT = COUNTS - np.outer(np.arange(5) == 0, [0, 0, COUNTS[0, 2]])  # the server has nothing of class 2


def _joined(counts: np.ndarray, arrived: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histograms and samples of the server, the arrived clients and participant m, and the target."""
    rows, target, members = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum(), [0, *arrived]
    extra = compensation(rows[list(arrived)], target, counts[0])
    return *with_m(rows[members], counts.sum(axis=1)[members], extra), target


def _dearer(every: pd.DataFrame) -> int:
    return sum(row["FedAuto"] - row["weights only"] > 1e-12 for _, row in every.iterrows())


def _largest(counts: np.ndarray, lam: float) -> float:
    return float(fedauto_weights(*_joined(counts, [1]), lam).max())


def _spread(counts: np.ndarray, lam: float) -> float:
    rows, sizes, target = _joined(counts, [1, 3])
    return float(fedauto_weights(rows, sizes, target, lam) ** 2 @ (sizes.sum() / sizes))


def _without_m(counts: np.ndarray, lam: float) -> float:
    rows, sizes, target = _joined(counts, [1])
    return float(fedauto_weights(rows[:2], sizes[:2], target, lam).max())


def _draw_mixture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [4], label histograms [4, C] and a target [C], in half of the cases with a class that is not wanted."""
    classes = int(rng.integers(2, 8))
    target = rng.dirichlet(np.ones(classes))
    if rng.random() < 0.5:
        target[rng.integers(classes)] = 0
    return rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(classes), 4), target / target.sum()


def _instance(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A positive definite matrix [n, n] whose minimiser over the simplex lies on its border, and that minimiser."""
    root = rng.normal(size=(n + 1, n)) + np.linspace(0, 2, n)
    return minimise(root), root.T @ root


def _judge_kkt(answer: Callable[..., bool]) -> str | None:
    rng = np.random.default_rng(1)
    for n in (2, 3, 5, 8):
        beta, gram = _instance(rng, n)
        inside = np.linalg.solve(gram, np.ones(n))
        vertex = np.eye(n)[np.diag(gram).argmax()]
        cases = (
            (beta, True, "It refuses the minimiser of a random instance. Some of its weights are zero: look at these."),
            (vertex, False, "It accepts a corner of the simplex that is not the minimiser: which entry is too small?"),
            (np.full(n, 1 / n), False, "It accepts equal weights, which are not optimal: which entries are not equal?"),
            (2 * beta, False, "It accepts weights that do not sum to one, so that they are not on the simplex."),
            (beta / 2, False, "It accepts weights that sum to one half: each sum has to be one, to the tolerance."),
            (0.999 * beta, False, "It accepts weights whose sum falls short of one by far more than the tolerance."),
            (0.999 * beta + 0.001 / n, False, "It accepts weights near the minimiser, off by more than the tolerance."),
        )
        if inside.min() < 0:  # the minimiser on the plane: its gradient is constant, but a weight is negative
            cases += ((inside / inside.sum(), False, "It accepts negative weights, which are not on the simplex."),)
        for weights, right, hint in cases:
            if bool(answer(weights, gram)) is not right:
                return hint
    return None


def _equal_gradient(beta: np.ndarray, gram: np.ndarray) -> bool:
    """The misconception: as without a border, all entries of the gradient are equal."""
    return bool(np.ptp(gram @ beta) < 1e-8)


def _any_sum(beta: np.ndarray, gram: np.ndarray) -> bool:
    """The slip: nothing is asked of the sum, without which it is not enough that no entry is below the value."""
    return bool(beta.min() >= 0 and np.min(gram @ beta - beta @ gram @ beta) >= -1e-8)


def _coarse(sum_tolerance: float, tolerance: float) -> Callable[[np.ndarray, np.ndarray], bool]:
    """The slip: another tolerance than the stated one."""

    def is_optimal(beta: np.ndarray, gram: np.ndarray) -> bool:
        on_simplex = beta.min() >= 0 and abs(beta.sum() - 1) <= sum_tolerance
        return bool(on_simplex and np.min(gram @ beta - beta @ gram @ beta) >= -tolerance)

    return is_optimal


def _judge_round(answer: Callable[..., np.ndarray]) -> str | None:
    rng = np.random.default_rng(2)
    for arrived, held, about in (
        ([1, 3], COUNTS, "when a class is missing"),
        ([1, 2, 3, 4], COUNTS, "when nothing is missing: then there is no participant m"),
        ([4], COUNTS, "when one client arrives"),
        ([1, 3], WITHOUT, "when the server has no sample of the missing class: then there is no participant m"),
        ([1], COUNTS, "when two classes are missing"),
    ):
        counts, lam = held * rng.integers(1, 4), float(rng.uniform(0.02, 0.5))
        w, updates, update_m = rng.normal(size=5), rng.normal(size=(len(counts), 5)), rng.normal(size=5)
        rows, sizes, target = _joined(counts, arrived)
        beta = fedauto_weights(rows, sizes, target, lam)
        sent = np.vstack([updates[[0, *arrived]], update_m])[: len(beta)]
        given = (w.copy(), updates.copy(), update_m.copy(), list(arrived), counts.copy(), lam)  # the reader may change
        came = np.asarray(answer(*given), dtype=float)
        if came.shape != w.shape:
            return f"It returns an array of shape {came.shape}; the next model has that of w, {w.shape}."
        if not np.allclose(came, w + beta @ sent):
            return f"Another model comes out {about}. Go through the steps (a) to (e) once more."
    return None


def _plain_round(
    w: np.ndarray, updates: np.ndarray, update_m: np.ndarray, arrived: list[int], counts: np.ndarray, lam: float
) -> np.ndarray:
    """The misconception: weights by samples, as in plain averaging, of the clients alone."""
    sizes = counts.sum(axis=1)[arrived]
    return w + sizes / sizes.sum() @ updates[arrived]


def _always_m(
    w: np.ndarray, updates: np.ndarray, update_m: np.ndarray, arrived: list[int], counts: np.ndarray, lam: float
) -> np.ndarray:
    """The misconception: the whole server joins once more as participant m."""
    members = [0, *arrived, 0]
    rows, target = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum()
    beta = fedauto_weights(rows[members], counts.sum(axis=1)[members], target, lam)
    return w + beta @ np.vstack([updates[[0, *arrived]], update_m])


def _m_of_missing(
    w: np.ndarray, updates: np.ndarray, update_m: np.ndarray, arrived: list[int], counts: np.ndarray, lam: float
) -> np.ndarray:
    """The misconception: participant m joins for every missing class, as if the server had a sample of each."""
    counts = np.vstack([np.maximum(counts[0], 1), counts[1:]])
    beta = fedauto_weights(*_joined(counts, arrived), lam)
    return w + beta @ np.vstack([updates[[0, *arrived]], update_m])[: len(beta)]


def _level_m(
    w: np.ndarray, updates: np.ndarray, update_m: np.ndarray, arrived: list[int], counts: np.ndarray, lam: float
) -> np.ndarray:
    """The misconception: participant m has as many samples of every missing class."""
    rows, sizes, target = _joined(counts, arrived)
    members = rows[: len(arrived) + 1]
    level = np.where(rows[len(members) :] > 0, 1.0, 0.0)  # of m, if there is one
    rows = np.vstack([members, level / level.sum(axis=1, keepdims=True)])
    return w + fedauto_weights(rows, sizes, target, lam) @ np.vstack([updates[[0, *arrived]], update_m])[: len(rows)]


EXAMPLE = {"every": pd.DataFrame({"weights only": [0.1, 0.2, 0.3, 0.0], "FedAuto": [0.2, 0.1, 0.4, 1e-15]})}

book = Book(
    Exercise(
        number="03.1",
        grade=1,
        minutes=5,
        **number_is(
            right=_dearer,
            hint="Count rows of `every`; where both columns are zero up to rounding, neither is larger.",
            also_wrong=lambda every: [(every["FedAuto"] < every["weights only"]).sum() + len(every), len(every)],
        ),
        pitfalls="Counting differences of 1e-32, which are rounding, or counting where compensation helps.",
        example=EXAMPLE,
    ),
    Exercise(
        number="03.2",
        grade=2,
        minutes=10,
        **number_is(
            right=_largest,
            hint="Are there three members, the server, client 1 and participant m? The target is that of everybody.",
            also_wrong=lambda counts, lam: [1.0, _without_m(counts, lam)],
        ),
        pitfalls="Leaving out participant m, or taking the target of those who arrived instead of everybody's.",
        example={"counts": COUNTS, "lam": 0.1},
    ),
    Exercise(
        number="03.3",
        grade=2,
        minutes=10,
        **number_is(
            right=lambda counts: _spread(counts, 1e-6) / _spread(counts, 0.1),
            hint="Take the ratio of the two sums, the small lambda above; both have the same members and samples.",
            also_wrong=lambda counts: [_spread(counts, 0.1) / _spread(counts, 1e-6), 1e-5, _spread(counts, 1e-6)],
        ),
        pitfalls="Putting lambda into the sum: the variance of the average does not depend on its price.",
        example={"counts": COUNTS},
    ),
    Exercise(
        number="03.4",
        grade=3,
        minutes=10,
        **function_is(
            right=lambda beta, rows, target: chi2_divergence(beta @ rows, target),
            case=_draw_mixture,
            expects="a function of (beta, rows, target) that returns one number",
            hint="On a random instance another number comes out of the formula above. Is it right where the target "
            "of one class is 0?",
            wrong=[
                lambda beta, rows, target: np.sum((beta @ rows - target) ** 2),
                lambda beta, rows, target: np.sum((beta @ rows - target) ** 2 / (beta @ rows)),
                lambda beta, rows, target: np.sum((beta @ rows - target) ** 2 / np.maximum(target, 1e-9)),
                lambda beta, rows, target: np.sum(np.abs(beta @ rows - target)),
                lambda beta, rows, target: chi2_divergence(rows.mean(axis=0), target),
            ],
        ),
        pitfalls="Dividing by the mixture instead of the target, or by a target of zero.",
    ),
    Exercise(
        number="03.5",
        grade=3,
        minutes=20,
        judge=_judge_kkt,
        expects="a function of (beta, gram) that returns True or False",
        wrong=lambda: [
            _equal_gradient,
            lambda beta, gram: True,
            lambda beta, gram: bool(beta.min() >= 0),
            _any_sum,
            _coarse(sum_tolerance=0.3, tolerance=1e-8),
            _coarse(sum_tolerance=1e-8, tolerance=0.05),
        ],
        pitfalls="Asking that the whole gradient be equal, which forgets the weights that are zero.",
    ),
    Exercise(
        number="03.6",
        grade=3,
        minutes=25,
        judge=_judge_round,
        expects="a function of (w, updates, update_m, arrived, counts, lam) that returns the next model",
        wrong=lambda: [_plain_round, _always_m, _m_of_missing, _level_m, lambda w, *others: w],
        pitfalls="The server is forgotten among the members, or participant m joins although nothing is missing.",
    ),
)
check = book.check
