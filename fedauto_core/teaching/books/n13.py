"""Exercises of notebook 13: parts of FedAuto, divergences, unequal work, and noise on histograms."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import function_is

PARTS = pd.DataFrame(
    {
        "scenario": ["mixed"] * 3 + ["blackout"] * 3,
        "rival": ["lambda: 10", "divergence: l2", "target: clients"] * 2,
        "mean": [0.5, 0.0, 0.1, -1.2, 0.0, 0.3],
    }
)
DUELS = pd.DataFrame({"rival": ["fedavg"] * 2 + ["server_finetuning"] * 3, "mean": [-1.0, 0.5, -0.2, -0.6, 1.5]})
INSTANCE = {
    "alpha": np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.2, 0.2, 0.6]]),
    "counts": np.array([100, 200, 300]),
    "target": np.array([0.6, 0.2, 0.2]),
}


def weights(alpha: np.ndarray, counts: np.ndarray, scale: np.ndarray, target: np.ndarray, lam: float) -> np.ndarray:
    """Module 2 with sum_c (m_c - t_c)^2 / scale_c, by a general solver that knows nothing of the core's."""

    def objective(beta: np.ndarray) -> float:
        return float(((beta @ alpha - target) ** 2 / scale).sum() + lam * (beta**2 * counts.sum() / counts).sum())

    start, whole = np.full(len(counts), 1 / len(counts)), {"type": "eq", "fun": lambda beta: beta.sum() - 1}
    look = {"bounds": [(0, 1)] * len(counts), "constraints": whole, "options": {"ftol": 1e-14, "maxiter": 500}}
    return minimize(objective, start, method="SLSQP", **look).x


def apart(alpha: np.ndarray, counts: np.ndarray, target: np.ndarray, lam: float = 0.1) -> float:
    """Total variation between the weights of chi-square and those of L2."""
    level = np.full(len(target), 1 / len(target))
    both = [weights(alpha, counts, scale, target, lam) for scale in (target, level)]
    return float(0.5 * np.abs(both[0] - both[1]).sum())


def normalised(counts: np.ndarray, steps: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """FedNova's step: the mean of the updates per local step, times the mean number of local steps."""
    share = counts / counts.sum()
    return (share @ steps) * (share @ (deltas / steps[:, None]))


def draw_work(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample counts [K], local steps [K] and updates [K, P]."""
    k = int(rng.integers(2, 6))
    return rng.integers(50, 500, k), rng.integers(1, 11, k), rng.normal(size=(k, 4))


def won_by(duels: pd.DataFrame) -> int:
    """Configurations in which server fine-tuning ends above FedAuto."""
    return int(((duels["rival"] == "server_finetuning") & (duels["mean"] < 0)).sum())


def farthest(parts: pd.DataFrame) -> str:
    """The variant whose mean difference is largest, in any scenario and either way."""
    return parts.loc[parts["mean"].abs().idxmax(), "rival"]


book = Book(
    Exercise(
        "13.1",
        1,
        5,
        **choice_is(
            right=farthest,
            among=lambda parts: set(parts["rival"]),
            hint="A variant can be far off on either side: above zero the reference is better, below it the variant.",
        ),
        pitfalls="Only positive differences are looked at, or only one scenario.",
        example={"parts": PARTS},
    ),
    Exercise(
        "13.2",
        1,
        5,
        **number_is(
            right=won_by,
            hint="One row is one configuration in one scenario. The difference is FedAuto minus rival.",
            also_wrong=lambda duels: [
                int((duels["mean"] < 0).sum()),
                int(((duels["rival"] == "server_finetuning") & (duels["mean"] > 0)).sum()),
            ],
        ),
        pitfalls="The sign is read the wrong way, or other rivals are counted, too.",
        example={"duels": DUELS},
    ),
    Exercise(
        "13.3",
        2,
        15,
        **number_is(
            right=apart,
            hint="Solve twice with the same target, counts and lambda; then halve the sum of absolute differences.",
            also_wrong=lambda alpha, counts, target: [0.0, 2 * apart(alpha, counts, target)],
        ),
        pitfalls="The target is left uniform, where both divergences are one.",
        example=INSTANCE,
    ),
    Exercise(
        "13.4",
        2,
        10,
        **number_is(
            right=lambda samples, skew: 2 * skew / samples,
            hint="Set the mean absolute value of the noise equal to the count of one class that a client holds.",
            also_wrong=lambda samples, skew: [skew / samples, 2 / samples, 8**0.5 * skew / samples],
        ),
        pitfalls="The scale is taken for one changed count; replacing a sample changes two.",
        example={"samples": 500, "skew": 2},
    ),
    Exercise(
        "13.5",
        3,
        20,
        **function_is(
            right=normalised,
            case=draw_work,
            expects="a function of (counts, steps, deltas) that returns the server's step, as long as one update",
            hint="On some instances it differs. What does it return if all send the same update per local step?",
            wrong=[
                lambda counts, steps, deltas: counts / counts.sum() @ deltas,
                lambda counts, steps, deltas: counts / counts.sum() @ (deltas / steps[:, None]),
                lambda counts, steps, deltas: counts / counts.sum() @ (deltas / steps[:, None]) * steps.mean(),
            ],
        ),
        pitfalls="The mean number of steps is forgotten, so the step is as short as that of one local step.",
    ),
)
check = book.check
