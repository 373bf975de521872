"""Curvature of losses that have no closed form, and LoRA's: the product of two factors is smooth on bounded sets only.

f(A, B) = l(W_0 + s A B) has the second derivative s^2 l''[UB + AV] + 2 s <grad l, UV> in the direction (U, V). With l
L-smooth, spectral norms of A, B and of grad l, and ||UB + AV||_F <= ||B|| ||U||_F + ||A|| ||V||_F, it is at most

    s^2 L (||A||^2 + ||B||^2) + s ||grad l||     times ||U||_F^2 + ||V||_F^2.

On the ball ||A||, ||B|| <= rho, a convex set that averages of factors do not leave, ||grad l|| <= G = ||grad l(W_0)||
+ L s sqrt(r) rho^2 for rank r, so the loss is (2 s^2 L rho^2 + s G)-smooth there, and the theorem applies to runs that
stay in it.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from fedauto_core.errors import require_number


def lora_smoothness(scale: float, smoothness: float, gradient: float, a: float, b: float) -> float:
    """Bound on |second derivative| at a point: s = scale, L = smoothness of l, spectral norms of grad l, A and B."""
    for name, value in (("scale", scale), ("smoothness", smoothness), ("gradient", gradient), ("a", a), ("b", b)):
        require_number(name, value, strict=False, remedy=f"give {name} as a norm or a constant")
    return scale**2 * smoothness * (a**2 + b**2) + scale * gradient


def lora_ball_smoothness(scale: float, smoothness: float, gradient: float, rank: int, radius: float) -> float:
    """Bound on |second derivative| on the ball ||A||, ||B|| <= radius; gradient: spectral norm of grad l(W_0)."""
    farthest = gradient + smoothness * scale * np.sqrt(rank) * radius**2
    return lora_smoothness(scale, smoothness, farthest, radius, radius)


def largest_curvature(loss: Callable[[Tensor], Tensor], w: Tensor, tolerance: float = 1e-6) -> float:
    """Largest |eigenvalue| of the Hessian of `loss` at w [P], by Lanczos iterations on Hessian-vector products.

    An estimate from below, up to the rounding of the products; tolerance: as in `_lanczos`.
    """
    point = w.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(point), point, create_graph=True)

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.as_tensor(vector.reshape(-1), dtype=point.dtype, device=point.device)
        (result,) = torch.autograd.grad(slope @ direction, point, retain_graph=True)
        return result.cpu().numpy().astype(np.float64)

    return _lanczos(product, len(point), tolerance)


def curvature_by_differences(gradient: Callable[[np.ndarray], np.ndarray], w: np.ndarray) -> float:
    """Largest |eigenvalue| of the Hessian at w [P], by Lanczos iterations on differences of gradients over +-1e-5."""
    size = 1e-5

    def product(vector: np.ndarray) -> np.ndarray:
        length = float(np.linalg.norm(vector))
        move = size * vector.ravel() / length
        return length * (gradient(w + move) - gradient(w - move)) / (2 * size)

    return _lanczos(product, len(w), 1e-6)


def _lanczos(product: Callable[[np.ndarray], np.ndarray], size: int, tolerance: float) -> float:
    """Largest |eigenvalue| of a symmetric matrix, given by its products with vectors [size].

    Lanczos iterations with full reorthogonalisation, until the residual |H v - theta v| is at most tolerance |theta|:
    theta is then closer to an eigenvalue than tolerance^2 theta^2 / gap, gap the distance to all others (Parlett 1998).
    A library's solver would take its 20 products first and look afterwards; most of ours need 9 to 15.
    """
    start = np.random.default_rng(0).standard_normal(size)
    basis, diagonal, beside = [start / np.linalg.norm(start)], [], []
    while True:
        moved, known = product(basis[-1]), np.array(basis)
        diagonal.append(float(basis[-1] @ moved))
        for _ in range(2):  # once would leave rounding errors
            moved = moved - known.T @ (known @ moved)
        values, vectors = eigh_tridiagonal(diagonal, beside)
        top = np.argmax(np.abs(values))
        beside.append(float(np.linalg.norm(moved)))
        residual = beside[-1] * abs(vectors[-1, top])
        if residual <= tolerance * abs(values[top]) or len(basis) == size:
            return float(abs(values[top]))
        basis.append(moved / beside[-1])
