"""Weights of many participants over few classes: |points' beta - centre|^2 + sum_j v_j beta_j^2 on the simplex, by its
dual, in O(K C^2 + C^3) a step for points [K, C].

Given mu = points' beta - centre, C unknowns, the minimiser is known in closed form,

    beta_j(mu) = max(0, (nu - points_j . mu) / v_j)        nu: the level at which the weights sum to one (water-filling)

so that mu is the root of mu - points' beta(mu) + centre: the gradient of a strongly convex function, quadratic on each
piece, that is for each set of active participants (beta_j > 0). A step of Newton's method (semismooth, as the pieces
meet in kinks) goes to the optimum of its piece, and the one that stays on its piece has found the minimiser. Where the
variances v are small beside the distances of the points, pieces are many and narrow and the method may run in circles.
Hence the continuation: it starts anew from the active of a problem with larger variances, and so on down to v; the
minimiser depends on a common factor of v continuously, and a small enough step crosses one border between pieces.
Origin: the dual of the quadratic programme of docs/method.md, section 4; semismooth Newton and continuation are
textbook methods.
"""

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

LARGEST_RATIO = 1e12  # of a point's square to its variance: at more the Jacobian loses its identity in rounding
STAGES = 1000  # problems tried on the way to v; one is enough but for a small v and a centre far from all points
ROUNDING = 1e-12  # a weight this far on the wrong side of zero is at zero


def _free_weights(prices: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(nu - prices) / variance [K] with the level nu at which its positive part sums to one."""
    prices = prices - prices.min()
    order = np.argsort(prices)
    ascending, precision = prices[order], 1 / variance[order]
    level = (1 + np.cumsum(ascending * precision)) / np.cumsum(precision)  # were the cheapest 1, 2, ..., K active
    return (level[np.count_nonzero(ascending < level) - 1] - prices) / variance


def _newton(points: np.ndarray, centre: np.ndarray, variance: np.ndarray, active: np.ndarray) -> np.ndarray | None:
    """The minimiser [K] from the piece on which `active` [K] are, or None once the steps no longer close in on it."""
    most = len(points) + 1
    while True:
        precision = 1 / variance[active]
        spread = points[active]
        mean = precision @ spread / precision.sum()
        spread -= mean
        spread *= np.sqrt(precision)[:, None]
        try:
            factor = cho_factor(np.eye(len(centre)) + spread.T @ spread, overwrite_a=True, check_finite=False)
        except LinAlgError:  # rounding left no identity in it
            return None
        mu = cho_solve(factor, mean - centre)
        beta = _free_weights(points @ mu, variance)
        changed = np.abs(beta[(beta > 0) != active])
        if not np.any(changed > ROUNDING):
            mu -= cho_solve(factor, mu - np.maximum(0.0, beta) @ points + centre)  # what rounding left of the gradient
            return np.maximum(0.0, _free_weights(points @ mu, variance))
        if len(changed) >= most:
            return None
        most, active = len(changed), beta > 0


def minimise_low_rank(points: np.ndarray, centre: np.ndarray, variance: np.ndarray) -> np.ndarray | None:
    """The minimiser beta [K] over the simplex of |sum_j beta_j points_j - centre|^2 + sum_j variance_j beta_j^2.

    None, and no other numbers, beyond LARGEST_RATIO and where STAGES do not reach it.

    Parameters
    ----------
    points : [K, C]
    centre : [C]
    variance : [K], > 0
    """
    squares = np.einsum("kc,kc->k", points, points)
    if not np.all(squares <= LARGEST_RATIO * variance):
        return None
    # In powers of two: at 2^left times the variances the active are known, at 2^(left - reach) times they are tried.
    left = reach = float(np.log2(2 + squares.max() / variance.min()))
    active = np.ones(len(points), dtype=bool)
    for _ in range(STAGES):
        goal = max(0.0, left - reach)
        beta = _newton(points, centre, variance * 2.0**goal, active)
        if beta is None:
            reach /= 4
        elif goal > 0:
            left, reach, active = goal, 2 * reach, beta > 0
        else:
            return beta / beta.sum()
    return None
