"""FedAuto's module 2: the exact minimiser over the simplex of a divergence plus the variance of the aggregate.

    minimise over beta   D(sum_j beta_j alpha_j, alpha_g)  +  lambda sum_j beta_j^2 n_A / n_j

    chi2   D = sum_c (m_c - t_c)^2 / t_c                over classes with t_c > 0
    l2     D = C_g sum_c (m_c - t_c)^2                  C_g: number of classes with t_c > 0
    kl     D = 2 sum_c (m_c log(m_c / t_c) - m_c + t_c) over classes with t_c > 0

for the mixture m = sum_j beta_j alpha_j and the target t = alpha_g. The factors make one lambda mean the same for all
three: l2 equals chi2 for a uniform target, kl equals chi2 to second order at m = t. kl is 2 KL(m || t) where m has no
mass outside the target's classes (the last two terms then cancel); the reverse, KL(t || m), would be infinite, for all
weights alike, whenever no arrived participant holds one of the classes. Origin: reconstruction, docs/method.md,
section 4.
"""

from contextlib import suppress

import numpy as np
from scipy.optimize import brentq, nnls

from fedauto_core.errors import require, require_known, require_number

from .simplex import minimise_low_rank

DIVERGENCES = ("chi2", "l2", "kl")
KKT_TOLERANCE = 1e-10
KL_TOLERANCE = 1e-8  # rounding of logarithms of small shares may stop Newton's method before KKT_TOLERANCE
NEWTON_STEPS = 100
FEW = 80  # participants up to which `minimise` is as fast as `minimise_low_rank`
SMALLEST = 1e-100  # share of a class in the mixture, inside the logarithm, also where no arrived participant holds it


def _check(alpha: np.ndarray, counts: np.ndarray, target: np.ndarray, lam: float, divergence: str) -> None:
    require(
        alpha.ndim == 2 and len(alpha) > 0 and counts.shape == alpha.shape[:1] and target.shape == alpha.shape[1:],
        f"shapes alpha {alpha.shape}, counts {counts.shape}, target {target.shape} do not fit",
        allowed="alpha [K, C], counts [K], target [C] with K >= 1",
        remedy="pass one label histogram and one sample count per arrived participant",
    )
    require(
        bool(np.all(np.isfinite(counts)) and np.all(counts > 0)),
        f"sample counts {counts.tolist()}",
        allowed="finite numbers > 0",
        remedy="leave out participants without samples",
    )
    for name, rows in (("alpha", alpha), ("target", target[None])):
        simplex = np.all(np.isfinite(rows)) and np.all(rows >= 0) and np.allclose(rows.sum(axis=1), 1.0, atol=1e-6)
        require(
            bool(simplex),
            f"{name} is not a probability histogram",
            allowed="non-negative entries that sum to one",
            remedy="divide the label counts by their sum",
        )
    require_number("lambda", lam, remedy="use a small positive value such as 1e-6 for pure label matching")
    require_known("divergence", divergence, DIVERGENCES)


def kkt_residual(beta: np.ndarray, gram: np.ndarray) -> float:
    """Largest violation of the optimality conditions of min beta' G beta over the simplex, relative to max |G|.

    At the optimum every gradient entry is >= the value beta' G beta, with equality where beta > 0.
    """
    return _violation(beta, gram @ beta) / float(np.abs(gram).max())


def _violation(beta: np.ndarray, gradient: np.ndarray) -> float:
    slack = gradient - beta @ gradient
    return float(max(np.max(-slack), np.max(np.abs(slack) * beta)))


def _rows(alpha: np.ndarray, centre: np.ndarray, scale: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """R [C+K, K] with |R beta|^2 = sum_c (m_c - centre_c)^2 / scale_c + sum_j variance_j beta_j^2 on the simplex."""
    return np.vstack([(alpha - centre).T / np.sqrt(scale)[:, None], np.diag(np.sqrt(variance))])


def minimise(rows: np.ndarray) -> np.ndarray:
    """The exact minimiser beta [K] of |R beta|^2 over the simplex; rows: R [., K], not all zero."""
    # Homogeneous in beta, so nnls on [R; c 1'] against (0, c), rescaled to sum one, is exact for any c > 0.
    k = rows.shape[1]
    scale = np.linalg.norm(rows) / np.sqrt(k)
    solution, _ = nnls(np.vstack([rows, np.full((1, k), scale)]), np.append(np.zeros(len(rows)), scale))
    return solution / solution.sum()


def _solve_by_nnls(
    alpha: np.ndarray, centre: np.ndarray, scale: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, float]:
    rows = _rows(alpha, centre, scale, variance)
    beta = minimise(rows)
    return beta, kkt_residual(beta, rows.T @ rows)


def _solve(alpha: np.ndarray, centre: np.ndarray, scale: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimiser [K] of |`_rows` beta|^2 over the simplex and its `kkt_residual`.

    By `minimise` for at most FEW and by `minimise_low_rank`, without any matrix of K x K numbers, for more. Where the
    one gives up or the other does not converge to KKT_TOLERANCE, the other one serves.
    """
    if len(alpha) <= FEW:
        with suppress(RuntimeError):  # nnls ran out of iterations
            return _solve_by_nnls(alpha, centre, scale, variance)
    points, origin = alpha / np.sqrt(scale), centre / np.sqrt(scale)
    beta = minimise_low_rank(points, origin, variance)
    if beta is not None:
        points -= origin
        largest = np.max(np.einsum("kc,kc->k", points, points) + variance)  # of a Gram matrix, on its diagonal
        residual = _violation(beta, points @ (beta @ points) + variance * beta) / float(largest)
        if residual <= KKT_TOLERANCE:
            return beta, residual
    try:
        return _solve_by_nnls(alpha, centre, scale, variance)
    except RuntimeError as error:
        raise ArithmeticError(f"aggregation weights not found: {error}") from error


def _minimise_kl(alpha: np.ndarray, target: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimiser and KKT residual (of half the gradient, relative to max(1, variance)): damped Newton from FedAvg.

    At a mixture m the divergence is, to second order, sum_c (m'_c - m_c (1 - log(m_c / t_c)))^2 / m_c + constant, so
    that each step is a problem of `_solve`.
    """

    def half_gradient(beta: np.ndarray) -> np.ndarray:
        return alpha @ np.log(np.maximum(beta @ alpha, SMALLEST) / target) + variance * beta

    def along(beta: np.ndarray, direction: np.ndarray, longest: float) -> float:
        """The best step in [0, longest]; the whole one where the slope is lost in rounding, close to the optimum."""

        def slope(step: float) -> float:
            return float(direction @ half_gradient(beta + step * direction))

        whole = slope(longest) <= 0 or slope(0.0) > -1e-12
        return longest if whole else brentq(slope, 0.0, longest)

    beta = 1 / variance / np.sum(1 / variance)
    for _ in range(NEWTON_STEPS):
        residual = _violation(beta, half_gradient(beta)) / max(1.0, float(variance.max()))
        if residual <= KKT_TOLERANCE:
            break
        m = np.maximum(beta @ alpha, SMALLEST)
        goal, _ = _solve(alpha, m * (1 - np.log(m / target)), m, variance)
        # No share may fall to zero at once: the slope of the divergence is infinite there.
        longest = 1.0 if np.all(goal @ alpha >= 1e-3 * m) else 0.999
        beta = beta + along(beta, goal - beta, longest) * (goal - beta)
    return beta, residual


def fedauto_weights(
    alpha: np.ndarray, counts: np.ndarray, target: np.ndarray, lam: float = 0.1, *, divergence: str = "chi2"
) -> np.ndarray:
    """Module 2: the exact minimiser beta [K] over the simplex of D(sum_j beta_j alpha_j, alpha_g) plus

        lambda sum_j beta_j^2 n_A / n_j

    Origin: reconstruction, docs/method.md, section 4.

    Parameters
    ----------
    alpha : label histograms [K, C] of the arrived
    counts : their samples [K], > 0
    target : alpha_g [C]
    lam : lambda > 0
    divergence : D, "chi2", "l2" or "kl" as in this module's docstring

    Raises
    ------
    InputError : for bad input
    ArithmeticError : if the solution misses its optimality conditions (KKT_TOLERANCE; KL_TOLERANCE for kl)
    """
    alpha, counts, target = (np.asarray(value, dtype=np.float64) for value in (alpha, counts, target))
    _check(alpha, counts, target, lam, divergence)
    held, variance = target > 0, lam * counts.sum() / counts
    tolerance = KKT_TOLERANCE
    if divergence == "kl":
        beta, residual = _minimise_kl(alpha[:, held], target[held], variance)
        tolerance = KL_TOLERANCE
    else:
        if divergence == "l2":
            beta, residual = _solve(alpha, target, np.full(len(target), 1 / held.sum()), variance)
        else:
            beta, residual = _solve(alpha[:, held], target[held], target[held], variance)
    if not residual <= tolerance:
        raise ArithmeticError(f"aggregation weights miss their optimality conditions: KKT residual {residual:.2e}")
    return beta
