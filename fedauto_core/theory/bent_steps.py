"""The single inequalities, each on an instance small enough to write down: as stated, and with one assumption bent.

As stated the instance shows how close to equality the inequality comes, mostly all the way. Bent, it is a
counter-example: the assumption is needed. One bend is expected to break nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedauto_core.methods.base import chi2_divergence
from fedauto_core.theory.bounds import drift_bound, noise_bound, step_limit
from fedauto_core.theory.curvature import lora_ball_smoothness
from fedauto_core.theory.improved import CONVEX_LIMIT, improved_drift
from fedauto_core.theory.scalars import Worst, worst_of

Sides = tuple[float, float, Mapping[str, object]]  # measured, bound, and the numbers they follow from
FLAT = 1e-6  # L of a loss that is as good as linear


@dataclass(frozen=True)
class StepBend:
    """inequality: name of its checks; assumption, how, needed as in `falsification.Bend`; sides(bent)."""

    inequality: str
    assumption: str
    how: str
    sides: Callable[[bool], Sides]
    needed: bool = True

    def stated(self) -> Worst:
        """The instance with all assumptions in place."""
        measured, bound, numbers = self.sides(False)
        return worst_of(measured, bound, numbers, 1)

    def broken(self) -> Worst | None:
        """The counter-example; None if the inequality stands all the same."""
        measured, bound, numbers = self.sides(True)
        found = worst_of(measured, bound, numbers, 1)
        return found if found.ratio > 1 else None


def _descent(bent: bool) -> Sides:
    claimed = 0.5 if bent else 1.0
    return 0.5, claimed / 2, {"F": "x^2/2", "w": 0, "v": 1, "claimed L": claimed}


def _variance(bent: bool) -> Sides:
    claimed = 0.25 if bent else 1.0
    return 1.0, float(noise_bound(claimed, np.ones((1, 1)), 1)[0]), {"noise": "+-1", "claimed sigma^2": claimed}


def _independence(bent: bool) -> Sides:
    beta = np.full((1, 2), 0.5)
    return 1.0 if bent else 0.5, float(noise_bound(1.0, beta, 1)[0]), {"noise": "+-1", "beta": [0.5, 0.5], "E": 1}


def _zero_mean(bent: bool) -> Sides:
    return 1.0 if bent else 0.5, float(noise_bound(1.0, np.ones((1, 1)), 2)[0]), {"noise": "1 always", "E": 2}


def _concave(gamma: float, steps: int) -> float:
    """Drift on F_j = -x^2/2 from w = 1, where the gradient is -1: the largest that L = 1 allows."""
    return float(np.mean(((1 + gamma) ** np.arange(steps) - 1) ** 2))


def _first_drift_claim(bent: bool) -> Sides:
    claimed, steps = 0.05 if bent else 1.0, 5
    gamma = step_limit(claimed, steps)
    bound = float(drift_bound(0.0, np.ones(1), gamma, steps)[0])
    return _concave(gamma, steps), bound, {"F_j": "-x^2/2", "w": 1, "claimed L": claimed, "gamma": gamma, "E": steps}


def _first_drift_step(bent: bool) -> Sides:
    steps = 5
    gamma = step_limit(1.0, steps) * (20 if bent else 1)
    bound = float(drift_bound(0.0, np.ones(1), gamma, steps)[0])
    return _concave(gamma, steps), bound, {"F_j": "-x^2/2", "w": 1, "gamma": gamma, "E": steps}


def _improved_drift_claim(bent: bool) -> Sides:
    claimed, steps, gamma = 0.5 if bent else 1.0, 5, 0.1
    bound = float(improved_drift(0.0, np.ones(1), gamma, claimed, steps)[0])
    return _concave(gamma, steps), bound, {"F_j": "-x^2/2", "w": 1, "claimed L": claimed, "gamma": gamma, "E": steps}


def _improved_drift_step(bent: bool) -> Sides:
    steps = 5
    gamma = 20 * step_limit(1.0, steps) if bent else step_limit(1.0, steps)
    bound = float(improved_drift(0.0, np.ones(1), gamma, 1.0, steps)[0])
    return _concave(gamma, steps), bound, {"F_j": "-x^2/2", "w": 1, "gamma": gamma, "E": steps}


def _flat_drift(bound: Callable[[float, int], float], claimed: float, constant: bool, steps: int) -> Sides:
    """Drift on a linear loss without slope, gamma = 1: noise +-1 adds up to e, noise that is always 1 to e^2."""
    e = np.arange(steps)
    measured = float(np.mean(e**2 if constant else e))
    noise = "1 always" if constant else "+-1"
    return measured, bound(claimed, steps), {"noise": noise, "claimed sigma^2": claimed, "E": steps, "gamma": 1}


def _first(sigma2: float, steps: int) -> float:
    return float(drift_bound(sigma2, np.zeros(1), 1.0, steps)[0])


def _improved(sigma2: float, steps: int) -> float:
    return float(improved_drift(sigma2, np.zeros(1), 1.0, FLAT, steps)[0])


def _kappa(bent: bool) -> Sides:
    """Two classes with gradients 0 and 2, alpha_g = (1/2, 1/2), mixture (1, 0): b = 1 = kappa^2 chi^2."""
    gradients, target, mixture = np.array([0.0, 2.0]), np.full(2, 0.5), np.array([1.0, 0.0])
    mean = target @ gradients
    kappa2 = target @ (gradients - mean) ** 2 * (0.5 if bent else 1.0)
    b, bound = (mean - mixture @ gradients) ** 2, kappa2 * chi2_divergence(mixture, target)
    return float(b), float(bound), {"class gradients": [0, 2], "mixture": [1, 0], "claimed kappa^2": float(kappa2)}


def _shift(factor: float, claimed: float) -> Sides:
    """One class that looks different at its two owners, gradients 0 and 2, of whom one arrives: b = delta^2 = 1."""
    return 1.0, factor * claimed, {"gradients": [0, 2], "beta": [1, 0], "claimed delta^2": claimed}


def _no_shift(bent: bool) -> Sides:
    """A mixture in proportion (chi^2 = 0), with or without a class that looks different at its two owners."""
    return 1.0 if bent else 0.0, 0.0, {"gradients": [0, 2 if bent else 0], "beta": [1, 0], "chi^2": 0}


def _missing(bent: bool) -> Sides:
    mixture, target = np.array([0.0, 0.75 if bent else 1.0]), np.array([0.25, 0.75])
    return 1 / 3, float(chi2_divergence(mixture, target)), {"mixture": mixture.tolist(), "alpha_g": [0.25, 0.75]}


def _infimum(bent: bool) -> Sides:
    claimed = 0.05 if bent else 0.0
    return 1.0, 2 * (0.5 - claimed), {"F": "x^2/2", "w": 1, "gamma": 1, "T": 1, "claimed F_inf": claimed}


def _strength(bent: bool) -> Sides:
    claimed, gamma = 2.0 if bent else 1.0, 0.5
    bound = (1 - gamma * claimed) / 2
    return (1 - gamma) ** 2 / 2, bound, {"F": "x^2/2", "w": 1, "gamma": gamma, "claimed mu": claimed}


def _wave(bent: bool, gamma: float) -> tuple[float, float, float, dict[str, object]]:
    """A step on 1 - cos x, which is convex and PL near its minimum only: distances before and after, gap, numbers."""
    w = np.pi - 0.01 if bent else 0.5
    return w, w - gamma * np.sin(w), 1 - np.cos(w), {"F": "1 - cos x", "w": float(w), "gamma": gamma}


def _polyak(bent: bool) -> Sides:
    gamma, mu = 1.0, (1 + np.cos(0.5)) / 2  # |F'|^2 = (1 + cos x) (F - 0) >= 2 mu F for |x| <= 1/2
    _, after, gap, numbers = _wave(bent, gamma)
    return float(1 - np.cos(after)), float((1 - gamma * mu) * gap), numbers | {"claimed mu": float(mu)}


def _convexity(bent: bool) -> Sides:
    gamma = 1 / CONVEX_LIMIT
    before, after, gap, numbers = _wave(bent, gamma)
    return float(gamma * gap), float(before**2 - after**2), numbers


def _convex_step(bent: bool) -> Sides:
    gamma = 16 / CONVEX_LIMIT if bent else 1 / CONVEX_LIMIT
    return gamma / 2, 1 - (1 - gamma) ** 2, {"F": "x^2/2", "w": 1, "gamma": gamma}


def _ball(bent: bool) -> Sides:
    radius = 0.5 if bent else 1.0
    curvature = float(np.linalg.eigvalsh(np.array([[1.0, 2.0], [2.0, 1.0]]))[-1])  # of (a b)^2 / 2 at a = b = 1
    bound = float(lora_ball_smoothness(1.0, 1.0, 0.0, 1, radius))
    return curvature, bound, {"F": "(a b)^2 / 2", "a": 1, "b": 1, "claimed radius": radius}


STEP_BENDS = (
    StepBend("S1 descent", "A1 smoothness", "L claimed at half its value", _descent),
    StepBend("S3 noise", "A3 variance", "sigma^2 claimed at a quarter of its value", _variance),
    StepBend("S3 noise", "A3 independence", "two participants share their noise", _independence),
    StepBend("S3 noise", "A3 zero mean", "noise that is always sigma", _zero_mean),
    StepBend("S4 drift", "A1 smoothness", "L claimed at a twentieth of its value", _first_drift_claim),
    StepBend("S4 drift", "step size", "twenty times the limit", _first_drift_step),
    StepBend("S4 drift", "A3 variance", "sigma^2 claimed at an eighth of its value",
             lambda bent: _flat_drift(_first, 1 / 8 if bent else 1.0, False, 2)),
    StepBend("S4 drift", "A3 zero mean", "noise that is always sigma",
             lambda bent: _flat_drift(_first, 1.0, bent, 16)),
    StepBend("I3 drift", "A1 smoothness", "L claimed at half its value", _improved_drift_claim),
    StepBend("I3 drift", "step size", "twenty times the first limit", _improved_drift_step, needed=False),
    StepBend("I3 drift", "A3 variance", "sigma^2 claimed at a quarter of its value",
             lambda bent: _flat_drift(_improved, 1 / 4 if bent else 1.0, False, 3)),
    StepBend("I3 drift", "A3 zero mean", "noise that is always sigma",
             lambda bent: _flat_drift(_improved, 1.0, bent, 3)),
    StepBend("S5 bias, no feature shift", "kappa^2", "claimed at half its value", _kappa),
    StepBend("S5 bias, no feature shift", "delta = 0", "a class looks different at its two owners", _no_shift),
    StepBend("S5 bias", "delta^2", "claimed at a quarter of its value",
             lambda bent: _shift(2.0, 1 / 4 if bent else 1.0)),
    StepBend("I4 bias", "kappa^2", "claimed at half its value", _kappa),
    StepBend("I4 bias", "delta^2", "claimed at a quarter of its value",
             lambda bent: _shift(1.0, 1 / 4 if bent else 1.0)),
    StepBend("missing class", "mixture sums to one", "it sums to three quarters", _missing),
    StepBend("S6 summed", "A2 lower bound", "F_inf claimed too high", _infimum),
    StepBend("I5 PL", "mu", "claimed at twice its value", _strength),
    StepBend("I5 PL", "Polyak-Lojasiewicz", "from the top of a wave", _polyak),
    StepBend("I6 convex", "convexity", "from the top of a wave", _convexity),
    StepBend("I6 convex", "step size", "sixteen times the limit", _convex_step),
    StepBend("LoRA smoothness", "bounded factors", "radius claimed at half its value", _ball),
)  # fmt: skip
