"""The theorems' assumptions made executable: each constant says how it was obtained (docs/method.md, section 6)."""

from dataclasses import dataclass

import numpy as np

from fedauto_core.errors import require_number

from ..problems.regression import Problem
from ..problems.split import Provenance
from .aggregation import Aggregation


@dataclass(frozen=True)
class Constant:
    """A number of the theorem: equal to its definition, provably on the safe side, or neither (an estimate)."""

    symbol: str
    value: float
    provenance: Provenance
    how: str


@dataclass(frozen=True)
class Constants:
    """L of assumption A1, F_inf of A2, sigma^2 of A3. Raises InputError for L <= 0 or sigma^2 < 0."""

    smoothness: Constant
    sigma2: Constant
    infimum: Constant

    def __post_init__(self) -> None:
        remedy = "use the largest curvature of the aggregated losses and of F"
        require_number("smoothness L", self.smoothness.value, remedy=remedy)
        remedy = "use the variance of a minibatch gradient; 0 means full-batch gradients"
        require_number("sigma^2", self.sigma2.value, strict=False, remedy=remedy)


def constants_of(problem: Problem, aggregation: Aggregation, infimum: Constant | None = None) -> Constants:
    """L over all participants that are aggregated (m included) and F; sigma^2; F_inf, unless it is given."""
    how, rows = problem.provenance, np.vstack([aggregation.rows, problem.split.pooled])
    smoothness = Constant("L", float(max(problem.smoothness(rows))), *how["L"])
    infimum = infimum or Constant("F_inf", problem.infimum(), *how["F_inf"])
    return Constants(smoothness, Constant("sigma^2", problem.sigma2, *how["sigma^2"]), infimum)


def kappa2(problem: Problem, w: np.ndarray) -> Constant:
    """kappa^2 at w: sum_c alpha_g(c) ||grad f_c - grad F||^2."""
    split = problem.split
    by_class = problem.gradients(split.classes(), w) - problem.gradients(split.pooled, w)
    value = float(split.target[split.target > 0] @ np.sum(by_class**2, axis=1))
    return Constant("kappa^2", value, "exact", "at the visited point w, from all class gradients")


def delta2(problem: Problem, aggregation: Aggregation, w: np.ndarray) -> np.ndarray:
    """delta_j^2 at w, [J]: ||grad F_j - sum_c alpha_j(c) grad f_c||^2, exact. It vanishes without feature shift."""
    split = problem.split
    wanted = aggregation.alpha[:, split.target > 0] @ problem.gradients(split.classes(), w)
    return np.sum((problem.gradients(aggregation.rows, w) - wanted) ** 2, axis=1)
