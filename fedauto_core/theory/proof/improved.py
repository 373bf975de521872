"""The steps I1..I6 of the improved theorem (`theory.bound.improved`) in SymPy, and the LoRA step."""

from collections.abc import Callable
from itertools import combinations, product

import sympy as sp

from ..bound.improved import CONVEX_LIMIT
from .first import BETA2, GAMMA, LOCAL, SIGMA, THETA, F, G, H, L, Proof, dot, young


def error_split() -> Proof:
    """I1. |x + y|^2 <= (|x| + |y|)^2: the slack is 2(|x||y| - <x, y>), >= 0 by Cauchy-Schwarz, here in two dimensions
    by Lagrange's identity. It never exceeds 2|x|^2 + 2|y|^2: the slack is (|x| - |y|)^2."""
    x1, x2, y1, y2 = sp.symbols("x1 x2 y1 y2", real=True)
    p, q = sp.symbols("p q", nonnegative=True)  # |x|, |y|
    inner = x1 * y1 + x2 * y2
    lagrange = (x1**2 + x2**2) * (y1**2 + y2**2) - inner**2 - (x1 * y2 - x2 * y1) ** 2
    sum2 = (x1 + y1) ** 2 + (x2 + y2) ** 2 - (x1**2 + x2**2) - (y1**2 + y2**2) - 2 * inner
    return Proof("I1", "triangle inequality, and never worse than 2 b + 2 L^2 D", (lagrange, sum2, young(p, q)))


def noise_split() -> Proof:
    """I2. What the noise adds to |G|^2, gamma^2 L^2 E^2/2 times (sigma^2/E) sum beta^2 (1 + (2 L/E) S), is c_r with S =
    sum_e sqrt(e) c_e; for gamma = theta/(L E) the rest is -(1 - theta) (gamma E/2) |H|^2.

    Cross terms, for two participants and two steps: noise +-a_j first and +-b_j then, deviation of the second gradient
    u_j or v_j, as the first noise was. Over all 16 outcomes only a participant's own pairs are left, and of a deviation
    its part that follows the noise, at most its size times the noise's (Cauchy-Schwarz: the slack is a square)."""
    total = sp.Symbol("S", nonnegative=True)
    size = H**2 + SIGMA**2 * BETA2 / LOCAL * (1 + 2 * L / LOCAL * total)
    gamma = THETA / (L * LOCAL)
    left = -gamma * LOCAL / 2 * H**2 + L / 2 * gamma**2 * LOCAL**2 * size
    stated = (sp.Rational(1, 2) + L / LOCAL * total) * L * gamma**2 * LOCAL * SIGMA**2 * BETA2
    rest = left - stated + (1 - THETA) * gamma * LOCAL / 2 * H**2
    betas, cross, own = sp.symbols("beta1 beta2", positive=True), sp.Integer(0), sp.Integer(0)
    sizes = [sp.symbols(f"a{j} b{j} u{j} v{j}", real=True) for j in (1, 2)]
    for signs in product((1, -1), repeat=4):
        pairs = list(zip(betas, sizes, (signs[:2], signs[2:]), strict=True))
        deviation = sum(beta * (u if first > 0 else v) for beta, (_, _, u, v), (first, _) in pairs) / 2
        noise = sum(beta * (first * a + then * b) for beta, (a, b, *_), (first, then) in pairs) / 2
        cross += sp.expand(deviation * noise) / 16
    for beta, (a, _, u, v) in zip(betas, sizes, strict=True):
        own += beta**2 * a * (u - v) / 2 / 4
    u, v = sp.symbols("u v", real=True)
    slack = (u**2 + v**2) / 2 - ((u - v) / 2) ** 2 - ((u + v) / 2) ** 2
    return Proof("I2", "what is left of |H|^2 is -(1 - theta); own, earlier noise only", (rest, cross - own, slack))


def noise_never_worse() -> Proof:
    """I2 up to the first theorem's limit, L gamma E = x <= 1/2. With c_e <= gamma sqrt(e) (1 + k e/E), k = 0.5496:
    c_r <= 1/2 + x ((E-1)/(2E) + k (E-1)(2E-1)/(6 E^2)), below 1/2 + x (1/2 + k/3) <= 0.842 by a visible slack."""
    e, k, x = sp.Symbol("e", integer=True), sp.Rational(5496, 10000), sp.Symbol("x", positive=True)
    mean = sp.summation(e * (1 + k * e / LOCAL), (e, 0, LOCAL - 1)) * x / LOCAL**2
    stated = x * ((LOCAL - 1) / (2 * LOCAL) + k * (LOCAL - 1) * (2 * LOCAL - 1) / (6 * LOCAL**2))
    slack = x * (sp.Rational(1, 2) + k / 3) - stated - x * (1 / (2 * LOCAL) + k * (3 * LOCAL - 1) / (6 * LOCAL**2))
    below_one = sp.Rational(1, 2) - (sp.Rational(1, 2) + k / 3) / 2
    return Proof("I2", "c_r < 1 for gamma <= 1/(2 L E)", (mean - stated, slack, below_one - sp.Abs(below_one)))


def drift_recursion() -> Proof:
    """I3, for every e. a_e solves a_e = gamma (e + L sum_{k<e} a_k). c_e: its recursion gives c_e - c_{e-1} =
    gamma (sqrt(e) - sqrt(e-1)) + gamma L c_{e-1}, of which the stated sum is the solution with c_0 = 0.

    s_e <= gamma (e g + sqrt(e) sigma + L sum_{k<e} s_k) then stays below t_e = a_e g + c_e sigma: with s_k = t_k - u_k,
    u_k >= 0 for k < e, what is left is gamma L sum_{k<e} u_k >= 0.
    """
    e, k = sp.symbols("e k", integer=True, nonnegative=True)
    c, earlier, weight = sp.symbols("c_{e-1} C_{e-1} x", nonnegative=True)  # C_{e-1} = sum_{k<e-1} c_k
    growth = 1 + GAMMA * L
    a = (growth**e - 1) / L
    gradient = a - GAMMA * (e + L * sp.summation(a.subs(e, k), (k, 0, e - 1)))
    before = sp.solve(c - GAMMA * (sp.sqrt(e - 1) + L * earlier), earlier)[0]
    jump = GAMMA * (sp.sqrt(e) - sp.sqrt(e - 1))
    noise = GAMMA * (sp.sqrt(e) + L * (before + c)) - growth * c - jump
    solved = (growth ** (e - k) - growth * growth ** (e - 1 - k)) * weight
    t, u = sp.symbols("t0:4", nonnegative=True), sp.symbols("u0:4", nonnegative=True)
    direct = sp.Symbol("direct", nonnegative=True)  # gamma (e g + sqrt(e) sigma)
    top = direct + GAMMA * L * sum(t)
    induction = top - (direct + GAMMA * L * (sum(t) - sum(u))) - GAMMA * L * sum(u)
    reading = "a_e, c_e solve the recursion with equality, for every e, and nothing can exceed them"
    return Proof("I3", reading, (sp.simplify(gradient), noise, solved, induction))


def bias_split() -> Proof:
    """I4. grad F - sum_j beta_j grad F_j = x + y, x from the labels, y = sum_j beta_j r_j from the features, r_j^2 =
    delta_j^2. |x + y|^2 <= (|x| + |y|)^2 (I1); |x|^2 <= kappa^2 chi2 (S5); and Jensen: sum_j beta_j r_j^2 - (sum_j
    beta_j r_j)^2 = sum_{j<k} beta_j beta_k (r_j - r_k)^2. Never more than S5's general form, by I1 again.
    """
    first, second = sp.symbols("beta1 beta2", positive=True)
    beta, r = (first, second, 1 - first - second), sp.symbols("r1:4", real=True)
    pairs = sum(beta[i] * beta[j] * (r[i] - r[j]) ** 2 for i, j in combinations(range(3), 2))
    jensen = dot(beta, (x**2 for x in r)) - dot(beta, r) ** 2 - pairs
    return Proof("I4", "Jensen over the participants; labels and features by I1", (jensen, *error_split().residuals))


def drift_never_worse(most: int = 8) -> Proof:
    """I3 against S4 at the first theorem's limit, gamma L E = 1/2, without noise, for E = 2..`most`: the stated slack.

    The ratio a_e / gamma grows with gamma, so the limit is the worst case. With noise: numerically, in the tests.
    """
    residuals = []
    for steps in range(2, most + 1):
        gamma = sp.Rational(1, 2 * steps)  # L = 1
        mean = sum(((1 + gamma) ** e - 1) ** 2 for e in range(steps)) / steps
        stated = sp.Rational(4, 3) * gamma**2 * (steps - 1) * (2 * steps - 1)
        residuals.append(sp.Integer(0) if 0 <= mean <= stated else mean - stated)
    return Proof("I3", f"gradient part at most that of S4 for E = 2..{most}, in rational numbers", tuple(residuals))


def polyak() -> Proof:
    """I5. (gamma E/2) |grad F|^2 <= gap - gap_r + e_r and |grad F|^2 = 2 mu gap + s, s >= 0; slack gamma E s/2."""
    mu, gap, error, s = sp.symbols("mu gap e_r s", nonnegative=True)
    allowed = gap + error - GAMMA * LOCAL / 2 * (2 * mu * gap + s)  # an upper bound on gap_r
    claimed = (1 - GAMMA * LOCAL * mu) * gap + error
    return Proof("I5", "one contraction per round", (claimed - allowed - GAMMA * LOCAL / 2 * s,))


def convex() -> Proof:
    """I6. Expanding |w_r - w*|^2: with gamma = theta/(8 L E) what is left is -(1 - theta) gamma E gap <= 0."""
    gap, radius, d, noise = sp.symbols("gap R d N", nonnegative=True)  # N: sigma^2 sum beta^2
    gamma = THETA / (CONVEX_LIMIT * L * LOCAL)
    size_of_g = 8 * L * gap + 4 * d**2 + 2 * noise / LOCAL  # |G|^2 <= 2|H|^2 + 2|G-H|^2, |H|^2 <= 2|F'|^2 + 2 d^2
    change = -2 * gamma * LOCAL * (gap - d * radius) + gamma**2 * LOCAL**2 * size_of_g
    stated = -gamma * LOCAL * gap + 2 * gamma * LOCAL * radius * d + 4 * gamma**2 * LOCAL**2 * d**2
    stated += 2 * gamma**2 * LOCAL * noise
    residuals = change - stated + (1 - THETA) * gamma * LOCAL * gap, young(H, G - H), young(F, H - F)
    return Proof("I6", "what is left is -(1 - theta) gamma E gap", residuals)


def convex_distance() -> Proof:
    """I6, by recursion. Without the gap, R_r^2 <= R^2 + 2 gamma E R d + 4 gamma^2 E^2 d^2 + 2 gamma^2 E N. That is at
    most (R + 2 gamma E d)^2 + 2 gamma^2 E N; the slack is 2 gamma E R d >= 0."""
    radius, d, noise = sp.symbols("R d N", nonnegative=True)
    step = GAMMA * LOCAL
    kept = radius**2 + 2 * step * radius * d + 4 * step**2 * d**2 + 2 * GAMMA**2 * LOCAL * noise
    stated = (radius + 2 * step * d) ** 2 + 2 * GAMMA**2 * LOCAL * noise
    return Proof("I6", "a bound on the distance that measures none", (stated - kept - 2 * step * radius * d,))


def bilinear() -> Proof:
    """LoRA. d^2/dt^2 f(W_0 + s (A + tU)(B + tV)) at t = 0 is s^2 l''[UB + AV] + 2 s <grad l, UV>, here for rank 2,
    1 x 1 matrices and a quadratic l; then (p u + q v)^2 <= (p^2 + q^2)(u^2 + v^2) and 2uv <= u^2 + v^2."""
    t, s, w0, slope, curve = sp.symbols("t s w0 slope curve", real=True)
    a, b, u, v = (sp.symbols(f"{name}1:3", real=True) for name in "abuv")
    moved = w0 + s * sum((ai + t * ui) * (bi + t * vi) for ai, bi, ui, vi in zip(a, b, u, v, strict=True))
    value = slope * moved + curve / 2 * moved**2
    second = sp.diff(value, t, 2).subs(t, 0)
    at = slope + curve * moved.subs(t, 0)  # grad l
    stated = s**2 * curve * (dot(u, b) + dot(a, v)) ** 2 + 2 * s * at * dot(u, v)
    p, q, x, y = sp.symbols("p q x y", real=True)
    cauchy = (p**2 + q**2) * (x**2 + y**2) - (p * x + q * y) ** 2 - (p * y - q * x) ** 2
    young = x**2 + y**2 - 2 * x * y - (x - y) ** 2
    return Proof("LoRA", "second derivative of the product, and its bound", (second - stated, cauchy, young))


IMPROVED_PROOFS: dict[str, Callable[[], Proof]] = {
    "I1 bias and drift": error_split,
    "I2 noise": noise_split,
    "I2 never worse": noise_never_worse,
    "I3 drift": drift_recursion,
    "I3 never worse": drift_never_worse,
    "I4 bias": bias_split,
    "I5 Polyak-Lojasiewicz": polyak,
    "I6 convex": convex,
    "I6 distance": convex_distance,
    "LoRA smoothness": bilinear,
}
