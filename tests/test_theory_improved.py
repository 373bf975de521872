"""The improved theorem: exact instances, its proof in symbols, its limits, and how it compares with the first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from theory_cases import isotropic, quadratics

from fedauto_core import InputError, theory
from fedauto_core.theory import FIRST, IMPROVED, IMPROVED_PROOFS, THEOREMS, Point, largest_curvature, lora_smoothness
from fedauto_core.theory.attack import scalars
from fedauto_core.theory.bound import terms

SETS = theory.arrival_sets(8)
POINTS = (Point(np.ones(4)), Point(np.zeros(4), np.eye(4)))  # known, and random


@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("part", [0.01, 0.5, 1.0])
def test_no_violation_over_all_arrival_sets_up_to_its_own_limit(rule, steps, part):
    for shift, noise in ((0.0, 0.0), (0.5, 2.0)):
        problem = quadratics(feature_shift=shift, noise=noise)
        used = theory.aggregate(problem.split, SETS, rule)
        known = theory.constants_of(problem, used)
        gamma = part * IMPROVED.step_limit(known.smoothness.value, steps)
        for point in POINTS:
            checks = theory.round_checks(problem, used, known, point, gamma, steps, IMPROVED)
            checks += theory.drift_checks(problem, used, known, point, gamma, steps, IMPROVED)
            checks += theory.bias_checks(problem, used, point.mean, IMPROVED)
            assert "violated" not in {check.status for check in checks}
            covered = [check for check in checks if check.name != "S5 bias, no feature shift"]
            assert {check.status for check in covered} <= {"valid", "tight"}


def test_equality_for_isotropic_quadratics_and_one_step():
    problem = isotropic(noise=0.4)
    used = theory.aggregate(problem.split, SETS, "FedAvg")
    known = theory.constants_of(problem, used)
    checks = theory.round_checks(problem, used, known, Point(np.zeros(4)), 1.0, 1, IMPROVED)
    assert {check.status for check in checks} == {"tight"}


@pytest.mark.parametrize("steps", [2, 3, 8, 33])
def test_drift_is_the_solution_of_its_recursion_and_attained(steps):
    gamma, smoothness, g, sigma = 0.07, 1.3, 0.8, 0.5
    s = [0.0]
    for e in range(1, steps):
        s.append(gamma * (np.sqrt(e) * sigma + e * g + smoothness * sum(s)))
    bound = IMPROVED.drift(sigma**2, np.array([g**2]), gamma, smoothness, steps)
    assert bound == pytest.approx(np.mean(np.square(s)))
    # F_j = -L x^2 / 2 runs away from w exactly as fast as the bound says, without noise
    x, moved = g / smoothness, []
    for _ in range(steps):
        moved.append(x - g / smoothness)
        x += gamma * smoothness * x
    assert IMPROVED.drift(0.0, np.array([g**2]), gamma, smoothness, steps) == pytest.approx(np.mean(np.square(moved)))


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 64])
def test_never_worse_than_the_first_theorem(steps):
    """Error and noise terms, up to the first theorem's limit, for every ratio of noise and gradient."""
    for part in np.linspace(0.01, 1, 12):
        gamma = part * FIRST.step_limit(1.0, steps)
        assert (
            terms.noise_factor(gamma, 1.0, steps)
            <= float((theory.SINGLE_STEP if steps == 1 else theory.GENERAL).noise) + 1e-12
        )
        for sigma2 in (0.0, 1e-3, 1.0, 1e3):
            new = IMPROVED.drift(sigma2, np.array([1.0]), gamma, 1.0, steps)
            assert (new <= FIRST.drift(sigma2, np.array([1.0]), gamma, 1.0, steps) + 1e-15).all()


def test_what_lies_beyond_its_limit_is_not_applicable():
    problem = quadratics(noise=0.3)
    used = theory.aggregate(problem.split, SETS[-1:], "FedAvg")
    known = theory.constants_of(problem, used)
    for steps, part in ((1, 1.01), (3, 1.01)):
        gamma = part * IMPROVED.step_limit(known.smoothness.value, steps)
        (check,) = theory.round_checks(problem, used, known, POINTS[0], gamma, steps, IMPROVED)
        assert check.status == "not applicable"
    with pytest.raises(InputError, match="step size gamma = -1"):
        IMPROVED.covers(-1.0, 1.0, 2)


@pytest.mark.parametrize("step", IMPROVED_PROOFS)
def test_every_step_is_certified(step):
    assert IMPROVED_PROOFS[step]().holds


@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
def test_rates_hold_along_runs(rule):
    problem = quadratics(curvature=(0.1, 1.0), noise=0.3)
    arrived = np.random.default_rng(0).random((40, 8)) < 0.4
    used = theory.aggregate(problem.split, arrived, rule)
    known = theory.constants_of(problem, used)
    for steps in (1, 4):
        for part, convex in ((1 / 8, True), (0.9, False)):
            gamma = part * IMPROVED.step_limit(known.smoothness.value, steps)
            rounds = theory.run_rounds(problem, used, Point(3 * np.ones(4)), gamma, steps)
            frame = theory.as_frame(theory.convex_checks(problem, rounds, known, gamma, steps))
            assert not (frame["status"] == "violated").any()
            assert (frame["status"] != "not applicable").all() == convex
            by_recursion = frame[frame["name"] == "I6 convex, by recursion"]["bound"].to_numpy()
            assert np.all(by_recursion >= frame[frame["name"] == "I6 convex"]["bound"].to_numpy())
            run = theory.terms_of_run(rounds, known, gamma, steps, IMPROVED)
            low = np.linalg.eigvalsh(problem.mix(problem.split.pooled)[0])[0, 0]
            rates = theory.polyak_checks(run, known, gamma, steps, low)
            assert {check.status for check in rates} <= {"tight", "valid"} and len(rates) == 40
    with pytest.raises(InputError, match="F is not bounded below: its lowest curvature is -"):
        theory.convex_checks(quadratics(curvature=(-1.0, -0.5)), rounds, known, 0.1, 1)
    with pytest.raises(InputError, match=r"mu = 0. Allowed: finite numbers > 0 and <= "):
        theory.polyak_checks(run, known, 0.1, 1, 0)


def test_the_convex_rate_holds_where_f_has_a_flat_direction():
    curved = quadratics(curvature=(0.1, 1.0), noise=0.3)
    flat = np.zeros((len(curved.split.label), 5, 5))
    flat[:, :4, :4] = curved.hessian
    problem = theory.Quadratics(curved.split, flat, np.pad(curved.centre, ((0, 0), (0, 1))), 0.3)
    assert problem.infimum() == pytest.approx(curved.infimum())
    used = theory.aggregate(problem.split, SETS[5:40], "FedAvg")
    known = theory.constants_of(problem, used)
    gamma = IMPROVED.step_limit(known.smoothness.value, 3) / 8
    rounds = theory.run_rounds(problem, used, Point(3 * np.ones(5)), gamma, 3)
    checks = theory.convex_checks(problem, rounds, known, gamma, 3)
    assert {check.status for check in checks} == {"valid"}


@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
def test_the_rate_of_a_loss_that_is_polyak_lojasiewicz_and_not_convex(rule):
    problem = theory.waves(0, theory.skewed_split(0))
    x = np.linspace(-10, 10, 4001)[:, None]
    slopes = problem.gradients(np.repeat(problem.split.pooled, len(x), axis=0), x)[:, 0]
    assert np.all(slopes**2 >= 2 * problem.strength * problem.value(x) - 1e-12)
    assert np.diff(slopes).min() < 0  # not convex
    np.testing.assert_allclose(slopes, np.gradient(problem.value(x), x[:, 0]), atol=0.05)
    used = theory.aggregate(problem.split, SETS[3:60], rule)
    known = theory.constants_of(problem, used)
    for steps in (1, 5):
        gamma = 0.9 * IMPROVED.step_limit(known.smoothness.value, steps)
        run, _ = theory.trajectory(problem, used, known, Point(np.full(1, 8.0)), gamma, steps, IMPROVED)
        checks = theory.polyak_checks(run, known, gamma, steps, problem.strength)
        assert {check.status for check in checks} == {"valid"}


SIZES = st.floats(-1, 1), st.floats(-3, 3), st.floats(0, 1), st.floats(0, 1)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    rows=st.lists(st.tuples(*SIZES), min_size=1, max_size=6),
    noise=st.floats(0, 5),
    steps=st.integers(1, 12),
    step=st.floats(0.001, 1.0),
    theorem=st.sampled_from(THEOREMS),
)
def test_no_instance_breaks_either_theorem(rows, noise, steps, step, theorem):
    h, u, p, beta = (np.array([column]) for column in zip(*rows, strict=True))
    p, beta = ((v + 1e-6) / (v + 1e-6).sum() for v in (p, beta))
    some = scalars.Scalars(h, u, p, beta, np.array([noise]))
    measured, bound = scalars.sides(some, theorem, steps, scalars.World(step=step))
    assert measured[0] <= bound[0] + 1e-9 * (1 + abs(measured[0]) + abs(bound[0]))


def test_scalars_are_quadratics():
    """The bulk formulas against the exact moments of `Quadratics`, with noise."""
    rng = np.random.default_rng(2)
    some = scalars.draw(rng, 20)
    for i in range(20):
        split = theory.Split(np.eye(3, dtype=int))
        p = some.share[i]
        problem = theory.Quadratics(split, some.curvature[i][:, None, None], some.centre[i][:, None], some.noise[i])
        problem = WeightedPool(problem, p)
        for steps in (1, 3):
            gamma = scalars.step_size(FIRST, steps)
            outcome = problem.round(Point(np.zeros(1)), split.participants, some.beta[i : i + 1], gamma, steps)
            one = scalars.Scalars(
                *(getattr(some, f)[i : i + 1] for f in ("curvature", "centre", "share", "beta", "noise"))
            )
            measured, bound = scalars.sides(one, FIRST, steps)
            assert measured[0] == pytest.approx(gamma * steps / 2 * outcome.gradient2)
            numbers = theory.SINGLE_STEP if steps == 1 else theory.GENERAL
            drift = FIRST.drift(some.noise[i] ** 2, outcome.participant_gradient2, gamma, 1.0, steps)
            rest = (
                gamma
                * steps
                / 2
                * (float(numbers.bias) * outcome.bias2[0] + float(numbers.drift) * some.beta[i] @ drift)
            )
            rest += float(numbers.noise) * gamma**2 * steps * some.noise[i] ** 2 * (some.beta[i] ** 2).sum()
            assert bound[0] == pytest.approx(outcome.value - outcome.value_after[0] + rest, abs=1e-9)


def WeightedPool(problem, share):
    """The same problem with F = sum_j p_j F_j: `Split.pooled` weighs samples alike, so it is replaced."""
    object.__setattr__(problem.split, "pooled", share[None])
    return problem


def test_largest_curvature_of_a_known_hessian():
    import torch

    hessian = torch.diag(torch.tensor([1.0, -5.0, 2.0], dtype=torch.float64))
    assert largest_curvature(lambda w: 0.5 * w @ hessian @ w, torch.ones(3, dtype=torch.float64)) == pytest.approx(5)


def test_lanczos_stops_at_the_largest_curvature_whatever_its_sign_and_its_neighbours():
    import torch

    rng = np.random.default_rng(0)
    for curvatures in (
        [-3.0, 2.9, *np.linspace(0, 1, 60)],
        [5.0, 4.99, *rng.normal(size=40)],
        [1.0, 1.0, 0.5],
        [0.0] * 4,
    ):
        basis = np.linalg.qr(rng.standard_normal((len(curvatures), len(curvatures))))[0]
        hessian = torch.as_tensor((basis * curvatures) @ basis.T)
        found = largest_curvature(lambda w, h=hessian: 0.5 * w @ h @ w, torch.ones(len(hessian), dtype=torch.float64))
        assert found == pytest.approx(max(map(abs, curvatures)), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_lora_smoothness_bounds_the_curvature_of_a_product(seed):
    """l(W) = |X W - Y|^2 / 2 with factors of rank 2, at random points: the Hessian's norm never exceeds the bound."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    x, y, w0 = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((9, 5), (9, 4), (5, 4)))
    scale, a_size = 0.7, 5 * 2

    def loss(flat):
        a, b = flat[:a_size].reshape(5, 2), flat[a_size:].reshape(2, 4)
        return 0.5 * ((x @ (w0 + scale * a @ b) - y) ** 2).sum()

    smoothness = torch.linalg.matrix_norm(x, 2) ** 2
    for size in (0.1, 1.0, 3.0):
        flat = size * torch.randn(a_size + 8, generator=rng, dtype=torch.float64)
        a, b = flat[:a_size].reshape(5, 2), flat[a_size:].reshape(2, 4)
        gradient = x.T @ (x @ (w0 + scale * a @ b) - y)
        norms = (torch.linalg.matrix_norm(m, 2).item() for m in (gradient, a, b))
        bound = lora_smoothness(scale, smoothness.item(), *norms)
        assert 0.05 * bound < largest_curvature(loss, flat) <= bound * (1 + 1e-6)
    with pytest.raises(InputError, match="scale = -1"):
        lora_smoothness(-1.0, 1.0, 1.0, 1.0, 1.0)
