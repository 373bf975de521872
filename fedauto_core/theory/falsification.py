"""Every assumption of the per-round inequality bent in turn until it fails, or until nothing has been found.

The attacks run over one-dimensional quadratics (`theory.scalars`), where all expectations are exact; one is a closed
form. A counter-example is plain numbers, from which anybody can repeat it. The other inequalities: `theory.bent_steps`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedauto_core.theory.scalars import THEOREMS, World, Worst, counterexample


@dataclass(frozen=True)
class Bend:
    """assumption: what the theorem asks for; how: what is done to it; needed: whether we expect a counter-example;
    world: where it is done (None: `weights_that_see_the_noise`)."""

    assumption: str
    how: str
    needed: bool
    world: World | None = None


def weights_that_see_the_noise() -> Worst | None:
    """A4, E = 1: two clients with F_j = x^2/2 and noise +-sigma; the weight goes to the noise that points away from 0.

    From w = -a the chosen noise is +sigma with probability 3/4 (it moves w to the left). sum beta^2 = 1 always.
    """
    gamma, sigma = 0.5, 1.0
    distance = np.linspace(0.05, 3, 60)
    near, far = (-distance * (1 - gamma) - gamma * noise for noise in (-sigma, sigma))
    after = (near**2 + 3 * far**2) / 8
    measured, bound = gamma / 2 * distance**2, distance**2 / 2 - after + gamma**2 / 2 * sigma**2
    worst = int(np.argmax(measured - bound))
    m, b = float(measured[worst]), float(bound[worst])
    instance = {"w": -float(distance[worst]), "gamma": gamma, "sigma": sigma}
    return Worst(m / b if b > 0 else float("inf"), m, b, instance, len(distance)) if m > b else None


BENDS = (
    Bend("nothing", "the theorem as it stands", False, World()),
    Bend("A1 smoothness", "L claimed at half its value", True, World(smoothness=0.5)),
    Bend("step size", "twelve times the limit", True, World(step=12.0)),
    Bend("A3 variance", "sigma^2 claimed at a quarter of its value", True, World(variance=0.25)),
    Bend("A3 zero mean", "noise of mean sigma", True, World(noise_mean=1.0)),
    Bend("A3 independence", "all participants share their noise", True, World(common_noise=True)),
    Bend("A4 weights before noise", "the weights pick the worst noise", True),
    Bend("bias term", "b_r left out: any weights for F's own", True, World(bias=0.0)),
    Bend("weights sum to at most one", "they sum to two", True, World(mass=2.0)),
    Bend("weights sum to one", "they sum to a half", False, World(mass=0.5)),
)


def falsify(bend: Bend, steps: int, seed: int, tries: int = 20_000, generations: int = 60) -> dict[str, Worst | None]:
    """The clearest violation of each theorem under `bend`; None where nothing was found."""
    if bend.world is None:  # for E = 1, where both theorems are one
        return dict.fromkeys(THEOREMS, weights_that_see_the_noise()) if steps == 1 else {}
    return {theorem: counterexample(theorem, steps, bend.world, seed, tries, generations) for theorem in THEOREMS}
