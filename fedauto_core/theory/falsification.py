"""Every assumption bent in turn until the inequality fails, or until nothing has been found that makes it fail.

The attacks run over one-dimensional quadratics (`theory.scalars`), where all expectations are exact; three are closed
forms of their own. A counter-example is plain numbers, from which anybody can repeat it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedauto_core.theory.scalars import THEOREMS, World, Worst, counterexample


@dataclass(frozen=True)
class Bend:
    """assumption: what the theorem asks for; how: what is done to it; needed: whether we expect a counter-example;
    world: where it is done (None: a closed form, for E = 1)."""

    assumption: str
    how: str
    needed: bool
    world: World | None = None
    closed_form: Callable[[], Worst | None] | None = None


def weights_that_see_the_noise() -> Worst | None:
    """A4, E = 1: two clients with F_j = x^2/2 and noise +-sigma; the weight goes to the noise that points away from 0.

    From w = -a the chosen noise is +sigma with probability 3/4 (it moves w to the left). sum beta^2 = 1 always.
    """
    gamma, sigma = 0.5, 1.0
    distance = np.linspace(0.05, 3, 60)
    near, far = (-distance * (1 - gamma) - gamma * noise for noise in (-sigma, sigma))
    after = (near**2 + 3 * far**2) / 8
    measured, bound = gamma / 2 * distance**2, distance**2 / 2 - after + gamma**2 / 2 * sigma**2
    return _clearest(measured, bound, [{"w": -float(a), "gamma": gamma, "sigma": sigma} for a in distance])


def infimum_too_high() -> Worst | None:
    """A2: F = x^2/2 from w = 1 with gamma = 1, T = 1. F_inf = 0 makes S6 an equality; here 0.05 is claimed."""
    return _clearest(np.ones(1), np.array([2 * (0.5 - 0.05)]), [{"w": 1.0, "gamma": 1.0, "claimed F_inf": 0.05}])


def kappa_too_small() -> Worst | None:
    """S5: two classes with gradients 0 and 2, alpha_g = (1/2, 1/2), mixture (1, 0): b = 1 = kappa^2 chi^2 = 1 * 1. Here
    kappa^2 is claimed at half its value."""
    gradients, target, mixture = np.array([0.0, 2.0]), np.full(2, 0.5), np.array([1.0, 0.0])
    mean = target @ gradients
    b = (mean - mixture @ gradients) ** 2
    kappa2, chi2 = target @ (gradients - mean) ** 2, ((mixture - target) ** 2 / target).sum()
    return _clearest(np.array([b]), np.array([kappa2 * chi2 / 2]), [{"class gradients": [0, 2], "mixture": [1, 0]}])


BENDS = (
    Bend("nothing", "the theorem as it stands", False, World()),
    Bend("A1 smoothness", "L claimed at half its value", True, World(smoothness=0.5)),
    Bend("step size", "twelve times the limit", True, World(step=12.0)),
    Bend("A2 lower bound", "F_inf claimed too high", True, closed_form=infimum_too_high),
    Bend("A3 variance", "sigma^2 claimed at a quarter of its value", True, World(variance=0.25)),
    Bend("A3 zero mean", "noise of mean sigma", True, World(noise_mean=1.0)),
    Bend("A3 independence", "all participants share their noise", True, World(common_noise=True)),
    Bend("A4 weights before noise", "the weights pick the worst noise", True, closed_form=weights_that_see_the_noise),
    Bend("bias term", "b_r left out: any weights for F's own", True, World(bias=0.0)),
    Bend("S5 kappa", "kappa^2 claimed at half its value", True, closed_form=kappa_too_small),
    Bend("weights sum to at most one", "they sum to two", True, World(mass=2.0)),
    Bend("weights sum to one", "they sum to a half", False, World(mass=0.5)),
)


def falsify(bend: Bend, steps: int, seed: int, tries: int = 20_000, generations: int = 60) -> dict[str, Worst | None]:
    """The clearest violation of each theorem under `bend`; None where nothing was found."""
    if bend.closed_form is not None:  # for E = 1, where both theorems are one
        return dict.fromkeys(THEOREMS, bend.closed_form()) if steps == 1 else {}
    return {theorem: counterexample(theorem, steps, bend.world, seed, tries, generations) for theorem in THEOREMS}


def _clearest(measured: np.ndarray, bound: np.ndarray, cases: list[dict[str, object]]) -> Worst | None:
    worst = int(np.argmax(measured - bound))
    m, b = float(measured[worst]), float(bound[worst])
    return Worst(m / b if b > 0 else float("inf"), m, b, cases[worst], len(cases)) if m > b else None
