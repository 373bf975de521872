"""One-dimensional quadratics in bulk: the smallest world in which the theorem can be attacked, thousands at a time.

F_j(x) = h_j/2 (x - u_j)^2 for J participants, F = sum_j p_j F_j, from w = 0, minibatch gradients with additive noise of
variance sigma^2. L = 1 requires |h_j| <= 1. All expectations are exact. The attacks of `theory.attack.bent_theorem`
bend one assumption each through the fields of `World`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import reduce
from operator import add

import numpy as np
from scipy.optimize import differential_evolution

from fedauto_core.errors import require_number

from ..bound.theorem import Theorem

Number = float | np.ndarray  # of one instance, or of many [M]
Columns = Sequence[Number]  # a number for each participant


@dataclass(frozen=True, eq=False)
class Scalars:
    """M instances: curvature h, centre u, share p and weight beta [M, J], noise sigma [M]; p and beta sum to one."""

    curvature: np.ndarray
    centre: np.ndarray
    share: np.ndarray
    beta: np.ndarray
    noise: np.ndarray

    def pick(self, index: int) -> dict[str, object]:
        """Instance `index` as plain numbers, for a file."""
        return {field.name: np.asarray(getattr(self, field.name)[index]).tolist() for field in fields(self)}


@dataclass(frozen=True)
class World:
    """What may be bent. step: gamma over the theorem's limit; smoothness, variance, bias: claimed over true value;
    common_noise: all participants share their noise; noise_mean: mean of the noise in units of sigma; mass: sum of the
    weights."""

    step: float = 1.0
    smoothness: float = 1.0
    variance: float = 1.0
    bias: float = 1.0
    common_noise: bool = False
    noise_mean: float = 0.0
    mass: float = 1.0


def step_size(theorem: Theorem, steps: int, world: World = World()) -> float:
    """gamma at `world.step` of the theorem's limit for the claimed L."""
    return world.step * theorem.step_limit(world.smoothness, steps)


def sides(some: Scalars, theorem: Theorem, steps: int, world: World = World()) -> tuple[np.ndarray, np.ndarray]:
    """measured and bound of the per-round inequality [M], as the theorem states it for the claimed constants."""
    columns = (np.ascontiguousarray(v.T) for v in (some.curvature, some.centre, some.share, some.beta))
    return _sides(*columns, some.noise, step_size(theorem, steps, world), theorem, steps, world)


def _sides(
    curvature: Columns, centre: Columns, share: Columns, beta: Columns, noise: Number, gamma: float, theorem: Theorem,
    steps: int, world: World,
) -> tuple[Number, Number]:  # fmt: skip
    """`sides`, one participant after the other: with floats it is ten times as fast for one instance as with arrays of
    one entry, and both give the same bits."""
    slope = own = mean = spread = before = flat = drift = beta2 = 0.0
    bowls, together = [], [0.0] * steps
    sigma2 = world.variance * (noise * noise)
    for h, u, p, b in zip(curvature, centre, share, beta, strict=True):
        weight, gradient, shrink, kicks, squares = b * world.mass, -h * u, 1 - gamma * h, 0.0, 0.0
        for e in range(steps):
            power = _power(shrink, e)
            kicks = kicks + power  # what one unit of noise per step adds up to
            squares = squares + _power(shrink, 2 * e)
            together[e] = together[e] + weight * power
        weight2, gradient2, bowl = weight * weight, gradient * gradient, p * h / 2
        slope, own = slope + p * gradient, own + weight * gradient
        end = u - u * _power(shrink, steps) - gamma * kicks * world.noise_mean * noise
        mean, spread = mean + weight * end, spread + weight2 * squares
        before, flat = before + bowl * (u * u), flat + p * h
        bowls.append((bowl, u))
        drift = drift + weight * theorem.drift(sigma2, gradient2, gamma, world.smoothness, steps)
        beta2 = beta2 + weight2
    if world.common_noise:
        spread = reduce(add, (kick * kick for kick in together))
    variance = (gamma * noise) * (gamma * noise) * spread
    after = reduce(add, (bowl * ((mean - u) * (mean - u)) for bowl, u in bowls)) + flat / 2 * variance
    wrong = world.bias * ((slope - own) * (slope - own))
    errors = theorem.terms(wrong, drift, sigma2, beta2, gamma, world.smoothness, steps)
    return gamma * steps / 2 * (slope * slope), before - after + reduce(add, errors.values())


def _power(x: Number, exponent: int) -> Number:
    """numpy squares by a product and leaves other powers to the C library, as Python does with all."""
    return x * x if exponent == 2 else x**exponent


def draw(rng: np.random.Generator, count: int, participants: int = 3) -> Scalars:
    """Random instances with L = 1: curvatures in [-1, 1], many at the ends, where worst cases live."""
    h = np.clip(rng.uniform(-1.5, 1.5, (count, participants)), -1, 1)
    u = rng.normal(size=(count, participants))
    p, beta = rng.dirichlet(np.ones(participants), count), rng.dirichlet(0.5 * np.ones(participants), count)
    return Scalars(h, u, p, beta, np.where(rng.random(count) < 0.5, 0.0, rng.exponential(2.0, count)))


def _decode(x: np.ndarray, participants: int) -> dict[str, object]:
    """The fields of one instance as plain numbers, from a point of the unit cube, [4 J + 2]; its last coordinate is the
    step size's."""
    *cube, noise, _ = x.tolist()
    h, u, p, beta = (cube[at : at + participants] for at in range(0, 4 * participants, participants))
    p, beta = ([max(v, 1e-9) for v in weights] for weights in (p, beta))
    p, beta = ([v / total for v in weights] for weights, total in ((v, reduce(add, v)) for v in (p, beta)))
    centre = [4 * v - 2 for v in u]
    return {"curvature": [2 * v - 1 for v in h], "centre": centre, "share": p, "beta": beta, "noise": 3 * noise}


@dataclass(frozen=True)
class Worst:
    """The largest measured / bound found, the instance, and the number of instances tried."""

    ratio: float
    measured: float
    bound: float
    instance: Mapping[str, object]
    tried: int


def adversary(
    theorem: Theorem, steps: int, seed: int, world: World = World(), participants: int = 3, generations: int = 60
) -> Worst:
    """Differential evolution over instances, weights and step sizes up to the world's for the largest measured / bound.

    Any weights may come: those of every arrival set under every method are among them.
    """
    for name, value in (("participants", participants), ("generations", generations)):
        require_number(name, value, low=1, strict=False, whole=True)

    whole = step_size(theorem, steps, replace(world, step=1.0))

    def at(x: np.ndarray) -> tuple[float, float, dict[str, object], float]:
        one, step = _decode(x, participants), world.step * (0.02 + 0.98 * float(x[-1]))
        return *map(float, _sides(*one.values(), step * whole, theorem, steps, world)), one, step

    cube, options = [(0.0, 1.0)] * (4 * participants + 2), {"popsize": 8, "polish": False, "tol": 0}
    found = differential_evolution(lambda x: -ratio(*at(x)[:2]), cube, rng=seed, maxiter=generations, **options)
    measured, bound, best, step = at(found.x)
    instance = _complete(best, theorem, steps, replace(world, step=step))
    return worst_of(measured, bound, instance, int(found.nfev))


def ratio(measured: float, bound: float) -> float:
    """measured / bound; where the bound is negative or zero against something positive, how far below, from 2 on."""
    if measured <= 1e-9:  # nothing to bound: no attack
        return 0.0 if bound >= -1e-9 else 2 - bound
    return measured / bound if bound > measured / 1e3 else 1e3 - bound / measured


def counterexample(
    theorem: Theorem, steps: int, world: World, seed: int, tries: int = 20_000, generations: int = 60
) -> Worst | None:
    """The clearest violation among random instances and an adversary's, at the world's step, at a third and at a
    twentieth of it; None if none of them finds one."""
    tried = 0
    for part in (1.0, 0.3, 0.05):
        found = _attack(theorem, steps, replace(world, step=part * world.step), seed, tries, generations)
        tried += found.tried
        if found.ratio > 1:
            return replace(found, tried=tried)
    return None


def _attack(theorem: Theorem, steps: int, world: World, seed: int, tries: int, generations: int) -> Worst:
    some = draw(np.random.default_rng(seed), tries)
    measured, bound = sides(some, theorem, steps, world)
    worst = int(np.argmax((measured - bound) / (np.abs(measured) + np.abs(bound) + 1e-12)))
    instance = _complete(some.pick(worst), theorem, steps, world)
    drawn = worst_of(float(measured[worst]), float(bound[worst]), instance, tries)
    if drawn.ratio > 1 and drawn.measured > 1e-3:
        return drawn
    attacked = adversary(theorem, steps, seed, world, generations=generations)
    return replace(max(drawn, attacked, key=lambda w: w.measured - w.bound), tried=tries + attacked.tried)


def _complete(instance: dict[str, object], theorem: Theorem, steps: int, world: World) -> dict[str, object]:
    """With everything else that `sides` needs, and gamma."""
    gamma = step_size(theorem, steps, world)
    return instance | {"theorem": theorem.name, "steps": steps, "gamma": gamma} | asdict(world)


def worst_of(measured: float, bound: float, instance: Mapping[str, object], tried: int) -> Worst:
    """A `Worst` whose ratio is 1 or less unless the violation is beyond rounding; nan for 0 <= 0."""
    if measured == bound == 0:
        reached = float("nan")
    elif measured - bound <= 1e-7 * (abs(measured) + abs(bound)):
        reached = min(measured / bound, 1.0) if bound > 0 else 1.0
    else:
        reached = measured / bound if bound > 0 else float("inf")
    return Worst(reached, measured, bound, instance, tried)


def breaking_steps(theorem: Theorem, steps: int, factors: np.ndarray, seed: int, tries: int = 20_000) -> np.ndarray:
    """For step sizes of `factors` times `step_size`: which of `tries` random instances violate the inequality, as a
    share [len(factors)]."""
    some = draw(np.random.default_rng(seed), tries)
    pairs = (sides(some, theorem, steps, World(step=float(factor))) for factor in factors)
    return np.array([np.mean(m - b > 1e-7 * (np.abs(m) + np.abs(b))) for m, b in pairs])
