"""Every assumption of the per-round inequality bent in turn until it fails, or until nothing has been found.

The attacks run over one-dimensional quadratics (`theory.attack.scalars`), where all expectations are exact; one
enumerates the noise. A counter-example is plain numbers, from which anybody can repeat it. Other inequalities:
`theory.attack.bent_steps`.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..bound.theorem import Theorem
from .scalars import World, Worst, counterexample, step_size, worst_of


@dataclass(frozen=True)
class Bend:
    """assumption: what the theorem asks for; how: what is done to it; needed: whether we expect a counter-example;
    world: where it is done (None: `weights_that_see_the_noise`)."""

    assumption: str
    how: str
    needed: bool
    world: World | None = None


def weights_that_see_the_noise(theorem: Theorem, steps: int, clients: int = 32) -> Worst | None:
    """A4: clients with F_j = w^2/2 and noise +-1; all the weight goes to the model that ends up farthest from 0.

    Then b_r = 0 and sum beta^2 = 1. The law of the largest of so many independent squares is exact, from the 2^E
    outcomes of one client. The clearest violation over 60 w and three step sizes within the limit; None if none is.
    """
    best, alone = None, np.ones((1, 1))
    for part in (1.0, 0.5, 0.25):
        gamma = step_size(theorem, steps, World(step=part))
        paths = np.array(list(product((-1.0, 1.0), repeat=steps))) @ (gamma * (1 - gamma) ** np.arange(steps))
        for w in np.linspace(0.05, 3, 60):
            ends = np.sort(((1 - gamma) ** steps * w + paths) ** 2)
            farthest = np.diff((np.arange(len(ends) + 1) / len(ends)) ** clients) @ ends
            errors = theorem.total(np.zeros(1), w**2 * alone, np.ones(1), alone, gamma, 1.0, steps)
            measured, bound = gamma * steps / 2 * w**2, float(w**2 / 2 - farthest / 2 + errors[0])
            numbers = {"w": float(w), "clients": clients, "noise": [-1, 1], "gamma": gamma, "steps": steps}
            if best is None or measured - bound > best.measured - best.bound:
                best = worst_of(float(measured), bound, numbers, 180)
    return best if best.ratio > 1 else None


BENDS = (
    Bend("nothing", "the theorem as it stands", False, World()),
    Bend("A1 smoothness", "L claimed at a quarter of its value", True, World(smoothness=0.25)),
    Bend("step size", "twelve times the limit", True, World(step=12.0)),
    Bend("A3 variance", "sigma^2 claimed at a quarter of its value", True, World(variance=0.25)),
    Bend("A3 zero mean", "noise of mean sigma", True, World(noise_mean=1.0)),
    Bend("A3 independence", "all participants share their noise", True, World(common_noise=True)),
    Bend("A4 weights before noise", "the weights pick the worst noise", True),
    Bend("bias term", "b_r left out: any weights for F's own", True, World(bias=0.0)),
    Bend("weights sum to at most one", "they sum to two", True, World(mass=2.0)),
    Bend("weights sum to one", "they sum to a half", False, World(mass=0.5)),
)


def falsify(
    bend: Bend, theorem: Theorem, steps: int, seed: int, tries: int = 20_000, generations: int = 60
) -> Worst | None:
    """The clearest violation of the theorem under `bend`; None where nothing was found."""
    if bend.world is None:
        return weights_that_see_the_noise(theorem, steps)
    return counterexample(theorem, steps, bend.world, seed, tries, generations)
