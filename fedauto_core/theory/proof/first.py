"""Steps S1..S6 of the first theorem's proof (docs/method.md, section 5) in SymPy.

An identity is certified by a difference that simplifies to zero, an inequality by a slack written as a sum of squares
or with a visible sign. Squared norms and inner products are sums over coordinates, so an identity between real numbers
a, b, ... that is quadratic in them holds for vectors as well. Each step reads its numbers from `terms.Coefficients`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from types import SimpleNamespace

import pandas as pd
import sympy as sp

from fedauto_core.errors import require_known

from ..bound.first import GENERAL, SINGLE_STEP
from ..bound.terms import Coefficients

GAMMA, L, SIGMA, LOCAL = sp.symbols("gamma L sigma E", positive=True)
F, G, H, B = sp.symbols("F' G H b", real=True)  # one coordinate of grad F(w), G, H and sum_j beta_j grad F_j(w)
THETA = sp.Symbol("theta", nonnegative=True)  # gamma = theta * limit with theta in [0, 1]
BETA2 = sp.Symbol("beta2", positive=True)  # sum_j beta_j^2


@dataclass(frozen=True)
class Proof:
    """holds: every residual is zero. residuals: what must vanish; reading: the fact they certify, in words."""

    step: str
    reading: str
    residuals: tuple[sp.Expr, ...]

    @cached_property
    def remainders(self) -> tuple[sp.Expr, ...]:
        """The residuals, simplified."""
        return tuple(sp.simplify(residual) for residual in self.residuals)

    @property
    def holds(self) -> bool:
        return all(remainder == 0 for remainder in self.remainders)


def young(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """|a + b|^2 <= 2 |a|^2 + 2 |b|^2, less the square that is its slack: zero."""
    return 2 * a**2 + 2 * b**2 - (a + b) ** 2 - (a - b) ** 2


def dot(left: Iterable[sp.Expr], right: Iterable[sp.Expr]) -> sp.Expr:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _exact(numbers: Coefficients) -> tuple[SimpleNamespace, sp.Expr, sp.Expr]:
    """The numbers as SymPy's; the steps E that they are for; the noise term."""
    n = SimpleNamespace(**{k: sp.Rational(v.numerator, v.denominator) for k, v in vars(numbers).items()})
    local = sp.Integer(1) if n.drift == 0 else LOCAL
    return n, local, n.noise * L * GAMMA**2 * local * SIGMA**2 * BETA2


def descent_lemma() -> Proof:
    """S1. F(w+v) - F(w) - <grad F(w), v> = int_0^1 <grad F(w+tv) - grad F(w), v> dt <= int_0^1 L t |v|^2 dt."""
    t, v = sp.symbols("t v", real=True)
    integral = sp.integrate(L * t * v**2, (t, 0, 1))
    step = -GAMMA * LOCAL * G
    used = -GAMMA * LOCAL * F * G + L / 2 * GAMMA**2 * LOCAL**2 * G**2
    residuals = integral - L / 2 * v**2, F * step + integral.subs(v, step) - used
    return Proof("S1", "descent lemma with v = -gamma E G", residuals)


def polarisation() -> Proof:
    """S2. <a, b> = (|a|^2 + |b|^2 - |a - b|^2) / 2."""
    return Proof("S2", "inner product from three squares", (F * H - (F**2 + H**2 - (F - H) ** 2) / 2,))


def one_round(numbers: Coefficients = GENERAL) -> Proof:
    """S1 + S2 + noise give the per-round inequality; a multiple of |H|^2 is left, <= 0 exactly for gamma <= step/(L E).

    General E: |G|^2 <= 2|H|^2 + 2|G-H|^2, slack (2H - G)^2; |F'-H|^2 <= 2|F'-B|^2 + 2|B-H|^2, slack (F' - 2B + H)^2.
    E = 1: H is known before the noise, E|G|^2 = |H|^2 + E|G-H|^2 exactly, and H = B.
    """
    (n, local, noise), spread2 = _exact(numbers), sp.Symbol("D", nonnegative=True)
    single, half = n.drift == 0, GAMMA * local / 2
    size_of_g = (1 if single else 2) * (H**2 + SIGMA**2 * BETA2 / local)  # E|G-H|^2 by S3
    wrong = (F - B) ** 2 if single else 2 * (F - B) ** 2 + 2 * L**2 * spread2
    upper = -half * (F**2 + H**2 - wrong) + L / 2 * GAMMA**2 * local**2 * size_of_g
    claimed = -half * F**2 + half * (n.bias * (F - B) ** 2 + n.drift * L**2 * spread2) + noise
    leftover = -half * H**2 * (1 - THETA)
    residual = (upper - claimed - leftover).subs(GAMMA, THETA * n.step / (L * local))
    reading = "what is left is a positive number times -(1 - theta) |H|^2, where gamma = theta * its limit"
    return Proof("S1+S2", reading, (residual, young(H, G - H), young(F - B, B - H)))


def martingale_noise() -> Proof:
    """S3, two participants, two steps: noise +-a at step 0, then +-b or +-c depending on step 0; all 16 outcomes.

    The cross terms cancel, so E|G-H|^2 = (1/E^2) sum_j beta_j^2 sum_e Var_je <= (sigma^2/E) sum_j beta_j^2.
    """
    betas = sp.symbols("beta1 beta2", positive=True)
    sizes = [sp.symbols(f"a{j} b{j} c{j}", nonnegative=True) for j in (1, 2)]
    mean_square = sp.Integer(0)
    for signs in product((1, -1), repeat=4):
        paths = zip(sizes, (signs[:2], signs[2:]), strict=True)
        total = dot(betas, (s0 * first + s1 * (up if s0 > 0 else down) for (first, up, down), (s0, s1) in paths)) / 2
        mean_square += sp.expand(total**2) / 16
    variances = [first**2 + (up**2 + down**2) / 2 for first, up, down in sizes]
    orthogonal = dot((beta**2 for beta in betas), variances) / 4
    worst = {size: SIGMA for participant in sizes for size in participant}
    residuals = mean_square - orthogonal, orthogonal.subs(worst) - SIGMA**2 / 2 * dot(betas, betas)
    return Proof("S3", "no cross terms; equality when every variance is sigma^2", residuals)


def drift(numbers: Coefficients = GENERAL) -> Proof:
    """S4. D_e <= 2 gamma^2 e sigma^2 + 4 gamma^2 e^2 g + 4 gamma^2 L^2 e sum_{k<e} D_k, averaged over e = 0..E-1.

    Swapping the double sum drops k(k+1)/2 >= 0; gamma <= step/(L E) keeps the feedback below 1/2: the rest doubles.
    """
    e, k = sp.symbols("e k", integer=True, nonnegative=True)
    g = sp.Symbol("g", nonnegative=True)  # |grad F_j(w)|^2
    n, *_ = _exact(numbers)
    swapped = sp.summation(e, (e, k + 1, LOCAL - 1)) - (LOCAL * (LOCAL - 1) / 2 - k * (k + 1) / 2)
    feedback = 4 * GAMMA**2 * L**2 * LOCAL * (LOCAL - 1) / 2
    at_limit = feedback.subs(GAMMA, n.step / (L * LOCAL))
    half = sp.Rational(1, 2) - at_limit - 1 / (2 * LOCAL)  # at the limit the feedback is 1/2 - 1/(2E) < 1/2
    direct = sp.summation(2 * GAMMA**2 * e * SIGMA**2 + 4 * GAMMA**2 * e**2 * g, (e, 0, LOCAL - 1)) / LOCAL
    stated = n.drift_noise * (LOCAL - 1) * SIGMA**2 + n.drift_gradient * (LOCAL - 1) * (2 * LOCAL - 1) * g
    residuals = young(*sp.symbols("a b", real=True)), swapped, half, 2 * direct - GAMMA**2 * stated
    return Proof("S4", "twice the direct terms is the stated D_r", residuals)


def jensen(terms: int = 4) -> Proof:
    """S4, the step |sum_k x_k|^2 <= e sum_k |x_k|^2: the slack is sum_{k<l} (x_k - x_l)^2."""
    x = sp.symbols(f"x0:{terms}", real=True)
    pairs = sum((p - q) ** 2 for p, q in combinations(x, 2))
    return Proof("S4", "slack is a sum of squares", (terms * dot(x, x) - sum(x) ** 2 - pairs,))


def bias() -> Proof:
    """S5, three classes: grad F cancels as both mixtures sum to one; Cauchy-Schwarz has a sum of squares as slack."""
    g, q, a = sp.symbols("g1:4", real=True), sp.symbols("q1:3", real=True), sp.symbols("a1:3", positive=True)
    q, a = (*q, 1 - sum(q)), (*a, 1 - sum(a))
    off = [qc - ac for qc, ac in zip(q, a, strict=True)]
    error, centred = dot(off, g), dot(off, [gc - dot(a, g) for gc in g])
    roots, z, d = sp.symbols("r1:4", positive=True), sp.symbols("z1:4", real=True), sp.symbols("d1:4", real=True)
    x, y = zip(*((dc / r, r * zc) for r, zc, dc in zip(roots, z, d, strict=True)), strict=True)  # r = sqrt(alpha_g)
    squares = sum((x[i] * y[j] - x[j] * y[i]) ** 2 for i, j in combinations(range(3), 2))
    residuals = error - centred, dot(x, x) * dot(y, y) - dot(d, z) ** 2 - squares
    return Proof("S5", "b_r <= kappa^2 chi2_r; slack is Lagrange's sum of squares", residuals)


def missing_class() -> Proof:
    """5.3, one class of mass a missing of three: chi2 - a/(1-a) = sum_{others} (q_c - a_c/(1-a))^2 / a_c."""
    a1, a2, q1 = sp.symbols("a1 a2 q1", positive=True)
    a, q2 = 1 - a1 - a2, 1 - q1
    chi2 = (q1 - a1) ** 2 / a1 + (q2 - a2) ** 2 / a2 + a
    squares = (q1 - a1 / (1 - a)) ** 2 / a1 + (q2 - a2 / (1 - a)) ** 2 / a2
    return Proof("5.3", "slack is a sum of squares, zero at q proportional to alpha_g", (chi2 - a / (1 - a) - squares,))


def unseen_class() -> Proof:
    """5.8, in one coordinate: f = w^2/2 on what is seen, (w -+ u)^2/2 on a class of mass a, so that grad F = w -+ a u.
    The mean of both squares is w^2 + a^2 u^2, with w^2 as slack; and kappa^2 = a (1 - a) u^2 in both problems."""
    a, u = sp.symbols("a u", positive=True)
    w, residuals = sp.Symbol("w", real=True), []
    slopes = [w - sign * a * u for sign in (1, -1)]
    for sign, slope in zip((1, -1), slopes, strict=True):
        kappa2 = (1 - a) * (w - slope) ** 2 + a * (w - sign * u - slope) ** 2
        residuals.append(kappa2 - a * (1 - a) * u**2)
    mean = (slopes[0] ** 2 + slopes[1] ** 2) / 2
    floor = a * (1 - a) * u**2 * a / (1 - a)  # kappa^2 a / (1 - a)
    return Proof("5.8", "the mean over both is the floor plus w^2", (*residuals, mean - floor - w**2))


def likely() -> Proof:
    """5.10, in one coordinate, for E = 1 and theta = L gamma: S1 and S2 with noise N leave -(1 - theta) (gamma/2)
    |H|^2; v = grad F - L gamma H is a mean of grad F and d = grad F - H, and a square is convex: slack theta (1 -
    theta) |H|^2; with s = 1/(2 gamma B^2) the variance costs (gamma/4) |v|^2."""
    noise, bound, distance = sp.symbols("N B d", real=True)
    size, smooth = sp.Symbol("s", positive=True), THETA / GAMMA
    rise = -GAMMA * F * (H + noise) + smooth / 2 * GAMMA**2 * (H + noise) ** 2
    drop = -GAMMA / 2 * F**2 + GAMMA / 2 * (F - H) ** 2 - GAMMA * noise * (F - THETA * H)
    drop += smooth * GAMMA**2 / 2 * noise**2 - GAMMA / 2 * (1 - THETA) * H**2
    mean = (1 - THETA) * F + THETA * distance
    convex = (1 - THETA) * F**2 + THETA * distance**2 - mean**2 - THETA * (1 - THETA) * (F - distance) ** 2
    same = F - THETA * H - mean.subs(distance, F - H)
    price = (size / 2 * GAMMA**2 * bound**2).subs(size, 1 / (2 * GAMMA * bound**2)) - GAMMA / 4
    return Proof("5.10", "what is left is -(1 - theta) (gamma/2) |H|^2", (rise - drop, convex, same, price))


def best_lambda(numbers: Coefficients = GENERAL) -> Proof:
    """5.4. With b_r <= kappa^2 chi2_r, bias + noise is a multiple of chi2 + (L gamma sigma^2/kappa^2) sum beta^2."""
    (n, local, noise), (chi2, kappa) = _exact(numbers), sp.symbols("chi2 kappa", positive=True)
    terms = GAMMA * local / 2 * n.bias * kappa**2 * chi2 + noise
    residual = sp.diff(terms, BETA2) / sp.diff(terms, chi2) - L * GAMMA * SIGMA**2 / kappa**2
    return Proof("5.4", "the same ratio for E = 1 and E > 1; the drift term is left out", (residual,))


def telescoping(numbers: Coefficients = GENERAL) -> Proof:
    """S6. sum_{r<=T} (F_{r-1} - F_r) = F_0 - F_T by induction; dividing by gamma E T / 2 gives the stated factors."""
    value, rounds, (n, local, noise) = sp.Function("F"), sp.Symbol("T", integer=True, positive=True), _exact(numbers)
    induction = (value(0) - value(rounds)) + (value(rounds) - value(rounds + 1)) - (value(0) - value(rounds + 1))
    averaged = noise / (GAMMA * local * rounds / 2)
    stated = (1 if n.drift == 0 else 2) * L * GAMMA * SIGMA**2 * BETA2 / rounds
    return Proof("S6", "start 2/(gamma E T), noise 2 L gamma sigma^2 / T", (induction, averaged - stated))


PROOFS: dict[str, Callable[[], Proof]] = {
    "S1 descent lemma": descent_lemma,
    "S2 polarisation": polarisation,
    "S1+S2 one round, E > 1": one_round,
    "S1+S2 one round, E = 1": lambda: one_round(SINGLE_STEP),
    "S3 martingale noise": martingale_noise,
    "S4 drift": drift,
    "S4 Jensen": jensen,
    "S5 bias": bias,
    "5.3 missing class": missing_class,
    "5.8 unseen class": unseen_class,
    "5.10 single realisations": likely,
    "5.4 best lambda, E > 1": best_lambda,
    "5.4 best lambda, E = 1": lambda: best_lambda(SINGLE_STEP),
    "S6 telescoping, E > 1": telescoping,
    "S6 telescoping, E = 1": lambda: telescoping(SINGLE_STEP),
}


def prove(*steps: str, table: Mapping[str, Callable[[], Proof]] = PROOFS) -> pd.DataFrame:
    """Columns step, certified, remainders for `steps` (keys of `table`). ArithmeticError if one does not hold."""
    proofs = []
    for step in steps:
        require_known("proof step", step, table)
        proofs.append(table[step]())
        if not proofs[-1].holds:
            raise ArithmeticError(f"{step} is not certified: the remainders are {proofs[-1].remainders}")
    remainders = [", ".join(map(str, proof.remainders)) for proof in proofs]
    return pd.DataFrame({"step": steps, "certified": [proof.reading for proof in proofs], "remainders": remainders})
