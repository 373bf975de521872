"""An adversary who picks everything the theorem leaves open: losses, who holds what, who arrives, and the step size.

Unlike `scalars.adversary`, which moves weights freely, this one must live with the weights that a method gives to an
arrival set, and tries all sets of every instance it looks at.
"""

import numpy as np
from scipy.optimize import differential_evolution

from fedauto_core.errors import require_known, require_number

from ..bound.aggregation import METHODS, aggregate, arrival_sets
from ..bound.checks import round_terms
from ..bound.constants import Constant, constants_of
from ..bound.theorem import Theorem
from ..problems.quadratics import Quadratics
from ..problems.split import Point, Split
from .scalars import Worst, ratio, worst_of

MOST_PER_CELL = 4  # samples of one class at one participant
ANY = Constant("F_inf", float("-inf"), "exact", "one round does not need it")


def set_adversary(
    method: str, theorem: Theorem, steps: int, seed: int, clients: int = 3, classes: int = 3, generations: int = 30
) -> Worst:
    """Differential evolution over one-dimensional class losses, label counts, noise and step size, and for each of
    these over all 2^N arrival sets, for the largest measured / bound of one round under `method`."""
    require_known("aggregation method", method, METHODS)
    for name, value in (("clients", clients), ("classes", classes), ("generations", generations)):
        require_number(name, value, low=1, strict=False, whole=True)

    def worst_set(x: np.ndarray) -> tuple[float, float, float, dict[str, object]]:
        measured, bound, instance = _sides(x, method, theorem, steps, clients, classes)
        ratios = [ratio(m, b) for m, b in zip(measured, bound, strict=True)]
        number = int(np.argmax(ratios))
        arrived = np.flatnonzero(arrival_sets(clients)[number]) + 1
        return ratios[number], measured[number], bound[number], instance | {"arrive": arrived.tolist()}

    size = 2 * classes + (clients + 1) * classes + 2
    found = differential_evolution(
        lambda x: -worst_set(x)[0], [(0.0, 1.0)] * size, rng=seed, maxiter=generations, popsize=4, polish=False, tol=0
    )
    _, measured, bound, instance = worst_set(found.x)
    case = instance | {"rule": method, "theorem": theorem.name, "steps": steps}
    return worst_of(float(measured), float(bound), case, int(found.nfev) * 2**clients)


def _sides(
    x: np.ndarray, method: str, theorem: Theorem, steps: int, clients: int, classes: int
) -> tuple[np.ndarray, np.ndarray, dict[str, object]]:
    """Both sides for every arrival set, from w = 0, of the instance at a point of the unit cube, and its numbers."""
    curvature, centre = 2 * x[:classes] - 1, 4 * x[classes : 2 * classes] - 2
    counts = np.floor((MOST_PER_CELL + 1 - 1e-9) * x[2 * classes : -2]).astype(int).reshape(clients + 1, classes)
    counts[counts.sum(axis=1) == 0, 0] = 1
    split, noise = Split(counts), 3 * float(x[-2])
    problem = Quadratics(split, curvature[split.label][:, None, None], centre[split.label][:, None], noise)
    used = aggregate(split, arrival_sets(clients), method)
    known = constants_of(problem, used, ANY)
    limit = theorem.step_limit(known.smoothness.value, steps)
    gamma = (0.02 + 0.98 * float(x[-1])) * limit
    outcome = problem.round(Point(np.zeros(1)), used.rows, used.beta, gamma, steps)
    both = round_terms(outcome, used, known, gamma, steps, theorem)
    numbers = {"curvature": curvature.tolist(), "centre": centre.tolist(), "counts": counts.tolist()}
    return both["measured"], both["bound"], numbers | {"noise": noise, "L": known.smoothness.value, "gamma": gamma}
