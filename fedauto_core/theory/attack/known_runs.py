"""Known answers for what is said of real runs: estimated terms, a round after the fact and its parts, single
realisations. See `known_answers`."""

from types import SimpleNamespace

import numpy as np
import torch
from scipy.integrate import quad_vec
from torch.nn import functional

from fedauto_core.errors import InputError

from .. import nets, posterior
from ..bound.likely import likely_sides


def estimates_by_hand() -> bool:
    """The terms of an estimated round, and when a theorem applies, by hand."""
    found = {"b": 0.3, "L": 2.0, "sigma2": 0.5, "gradients2": 1.7, "sum beta2": 0.2}
    told, s = nets.round_bound(found, 0.1, 3), [0.0]
    for e in (1, 2):
        s.append(0.1 * (e**0.5 * 0.5**0.5 + e * 1.7**0.5 + 2 * sum(s)))
    drift = 0.1**2 * (2 * 2 * 0.5 + 4 / 3 * 2 * 5 * 1.7)
    error = (0.3**0.5 + 2 * (sum(x * x for x in s) / 3) ** 0.5) ** 2
    noise = 2 * 0.1**2 * 3 * 0.5 * 0.2 / (0.1 * 3 / 2)
    wanted = {"bias": 0.6, "drift": 2 * 4 * drift, "noise": noise, "improved error": error, "step over limit": 1.2}
    status = told["first"] == "not applicable" and told["improved"] == "estimate"
    return status and all(np.isclose(told[name], value) for name, value in wanted.items())


def after_the_fact() -> bool:
    """The curvature bound of a head: attained by small moves, by hand for larger ones, and both sides of a round."""
    p = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.9, 0.09, 0.01], [0.3, 0.3, 0.4]])
    z = np.array([[0.4, -0.5, 1.0], [-3.0, 4.0, 1.0], [0.2, 1.0, 1.1], [90.0, -60.0, 1.0]])
    few, small = p[:3], 1e-3 * z[:3]
    exact = np.mean(np.log(np.sum(few * np.exp(small), axis=1)) - np.sum(few * small, axis=1))
    good = np.isclose(posterior.remainder_bound(few, small), exact, rtol=1e-2)
    for size in (1e-6, 9e-5, 1.0):
        sides = []
        for chances, moves in zip(p, size * z, strict=True):
            mean = chances @ moves
            variance, top = chances @ (moves - mean) ** 2, max(moves) - mean
            grown = variance * (0.5 + top / 5 if top < 1e-4 else (np.exp(top) - 1 - top) / top**2)
            sides.append(min(grown, (max(moves) - min(moves)) ** 2 / 8))
        rows = zip(p[:, None], size * z[:, None], sides, strict=True)
        good &= all(np.isclose(posterior.remainder_bound(*one), side, rtol=1e-9, atol=0) for *one, side in rows)
        good &= np.isclose(posterior.remainder_bound(p, size * z), np.mean(sides), rtol=1e-9, atol=0)
    x, one_hot = np.array([[1.0, 1.0], [-2.0, 1.0]]), np.eye(2)
    head = posterior.Head(SimpleNamespace(), x, one_hot, np.zeros(0))
    w, after, scale = np.array([0.1, -0.2, 0.3, 0.0]), np.array([0.4, -0.6, 0.1, 0.3]), 0.6
    told = posterior.certificate(head, nets.Visit(4, torch.tensor(w), np.zeros(0), None, torch.tensor(after), 0.2), 3)
    logits = [x @ at.reshape(2, 2) for at in (w, after)]
    values = [np.mean([np.log(1 + np.exp(z[1 - y] - z[y])) for y, z in enumerate(both)]) for both in logits]
    chances = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
    gradient, move = (x.T @ (chances - one_hot)).ravel() / 2, after - w
    remainder = posterior.remainder_bound(chances, x @ move.reshape(2, 2))
    by_hand = {"round": 5, "F": values[0], "F_after": values[1], "measured": scale / 2 * gradient @ gradient}
    by_hand |= {"progress": values[0] - values[1], "error": scale / 2 * np.sum((gradient + move / scale) ** 2)}
    by_hand |= {
        "curvature": remainder - move @ move / scale / 2,
        "curvature over limit": 2 * remainder / (move @ move) * scale,
    }
    still = nets.Visit(4, torch.tensor(w), np.zeros(0), None, torch.tensor(w), 0.2)
    good &= posterior.certificate(head, still, 3)["curvature over limit"] == 0
    by_hand["bound"] = by_hand["progress"] + by_hand["error"] + by_hand["curvature"]
    return bool(good and told.keys() == by_hand.keys() and all(np.isclose(told[k], v) for k, v in by_hand.items()))


X = torch.tensor([[0.5, -1.0], [1.0, 0.3], [-0.7, 0.2], [0.1, 1.4], [-1.2, -0.4], [0.3, 0.2]], dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 0, 1])
SERVER, CLIENT, AWAY = [0, 1, 2], [3, 4], [5]  # the samples of each


def _head() -> posterior.Head:
    """A server with three classes, a client with one of them, and another client, that has two of three in mind."""
    counts = np.array([[1, 1, 1], [2, 0, 0], [0, 1, 0]])
    data = SimpleNamespace(x_train=X, y_train=Y, n_classes=3)
    shards = tuple(map(np.array, (SERVER, CLIENT, AWAY)))
    alpha, target = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum()
    known = {"class_counts": counts, "alpha": alpha, "target": target}
    return posterior.Head.of(SimpleNamespace(dataset=data, shards=shards, **known))


def _loss(w: torch.Tensor, samples: list[int]) -> torch.Tensor:
    """Mean cross-entropy of some samples, by torch."""
    matrix = w.reshape(3, 3)
    return functional.cross_entropy(X[samples] @ matrix[:2] + matrix[2], Y[samples])


def _slope(w: np.ndarray, samples: list[int]) -> np.ndarray:
    point = torch.tensor(w, requires_grad=True)
    return torch.autograd.grad(_loss(point, samples), point)[0].numpy()


def a_head_by_hand() -> bool:
    """Values, slopes and smoothness of a head, against torch's automatic derivatives and eigenvalues."""
    head, points, every = _head(), 0.1 * np.arange(18.0).reshape(2, 9) ** 1.3 - 0.6, [*range(6)]
    good = np.allclose(head.values(points), [float(_loss(torch.tensor(w), every)) for w in points], rtol=1e-12)
    for rows, samples in ((slice(None), every), (head.rows(1), CLIENT)):
        good &= np.allclose(head.slopes(rows, points), [_slope(w, samples) for w in points], rtol=1e-12)
    chances = torch.softmax(torch.tensor(head.logits(head.x, points[:1])[:, 0]), dim=1).numpy()
    cells = head.cell_slopes(chances)
    wanted = [_slope(points[0], [3]) + _slope(points[0], [4]), _slope(points[0], [1]), np.zeros(9)]
    good &= np.allclose([cells[1, 0], cells[0, 1], cells[2, 0]], wanted, rtol=1e-12)
    inputs = np.hstack([X.numpy(), np.ones((6, 1))])
    parts = [every, SERVER, CLIENT, AWAY, [0], [1], [2]]
    moments = [inputs[part].T @ inputs[part] / len(part) for part in parts]
    largest = max(np.linalg.eigvalsh(moment)[-1] for moment in moments)
    return bool(good and np.isclose(head.smoothness(), largest / 2, rtol=1e-12))


def a_round_taken_apart() -> bool:
    """The parts of a round and what each costs, with a participant m and weights that do not sum to one: gradients by
    torch, the mean along the segment by adaptive quadrature."""
    head, rate, steps = _head(), 0.4, 2
    beta = np.array([0.3, 0.4, 0.2])  # of the server, the client, and m: the server's samples of classes 1 and 2
    mine, every = [1, 2], [*range(6)]
    batches = np.array([[[0, 2], [1, 1]], [[3, 3], [4, 3]], [[1, 2], [2, 2]]])
    w, move = 0.3 * np.cos(np.arange(9.0)), 0.5 * np.sin(2 + np.arange(9.0))
    visit = nets.Visit(6, torch.tensor(w), np.array([0, 1]), beta, torch.tensor(w + move), rate)
    told, pooled = posterior.explained(head, visit, batches), _slope(w, every)
    classes = np.array([_slope(w, [i for i in every if Y[i] == c]) for c in range(3)])
    alpha, target = np.array([[1, 1, 1], [3, 0, 0], [0, 1.5, 1.5]]) / 3, np.array([3, 2, 1]) / 6
    parts = {name: np.zeros(9) for name in ("features", "drift", "noise")}
    for weight, owned, drawn, mix in zip(beta, (SERVER, CLIENT, mine), batches, alpha, strict=True):
        parts["features"] += weight * (_slope(w, owned) - mix @ classes)
        local = w
        for samples in drawn:
            parts["drift"] += weight * (_slope(local, owned) - _slope(w, owned)) / steps
            parts["noise"] += weight * (_slope(local, [*samples]) - _slope(local, owned)) / steps
            local = local - rate * _slope(local, [*samples])
    parts["labels"] = sum((beta @ alpha[:, c] - 0.9 * target[c]) * classes[c] for c in range(3))
    parts["other"] = -move / (rate * steps) - pooled - sum(parts.values())
    mean, _ = quad_vec(lambda t: _slope(w + t * move, every), 0, 1)
    by_hand = {name: -rate * steps * mean @ part for name, part in parts.items()}
    by_hand |= {f"|{name}|^2": part @ part for name, part in ({"gradient": pooled} | parts).items()}
    by_hand |= {"gradient": rate * steps * mean @ pooled, "whole": -mean @ move, "round": 7}
    by_hand["kappa2"] = sum(share * np.sum((slope - pooled) ** 2) for share, slope in zip(target, classes, strict=True))
    by_hand["chi2"] = sum((beta @ alpha / 0.9 - target) ** 2 / target)
    good = told.keys() == by_hand.keys() and all(np.isclose(told[name], v, atol=1e-8) for name, v in by_hand.items())
    try:
        posterior._mean_slope(head, w, move, float(mean @ move) + 1.0)
    except ArithmeticError:
        return bool(good and np.allclose(posterior._mean_slope(head, w, move, float(mean @ move)), mean, atol=1e-7))
    return False


def a_network_after_the_fact() -> bool:
    """Both sides with an estimated curvature: here from all samples, by the eigenvalues of torch's Hessians."""
    head, rate, steps = _head(), 0.4, 3
    model = SimpleNamespace(unflatten=lambda w: w, forward=lambda w, x: x @ w.reshape(1, 3, 3)[:, :2] + w[0, 6:])
    federation = SimpleNamespace(
        dataset=head.federation.dataset, shards=head.federation.shards, counts=np.array([3, 2, 1])
    )
    w, move, every = 0.3 * np.cos(np.arange(9.0)), 0.5 * np.sin(2 + np.arange(9.0)), [*range(6)]
    visit = nets.Visit(6, torch.tensor(w), np.zeros(0), None, torch.tensor(w + move), rate)
    told = nets.estimate_after_the_fact(model, federation, visit, steps, np.random.default_rng(0), looks=4)
    places = [torch.tensor(w + t * move) for t in (0, 1 / 3, 2 / 3, 1)]
    hessians = [torch.autograd.functional.hessian(lambda at: _loss(at, every), place) for place in places]
    largest = max(float(torch.linalg.eigvalsh(hessian)[-1]) for hessian in hessians)
    before, after, slope = *(float(_loss(place, every)) for place in places[::3]), _slope(w, every)
    scale, size2 = rate * steps, move @ move
    sides = {"progress": before - after, "error": np.sum((slope + move / scale) ** 2) * scale / 2}
    sides |= {"curvature": largest / 2 * size2 - size2 / scale / 2}
    wanted = {"round": 7, "measured": scale / 2 * slope @ slope, **sides, "bound": sum(sides.values()), "L": largest}
    wanted["L met"] = (after - before - slope @ move) / (size2 / 2)
    good = told.pop("status") == "estimate" and told.keys() == wanted.keys()
    return bool(good and all(np.isclose(told[name], value, rtol=1e-4) for name, value in wanted.items()))


def single_realisations_by_hand() -> bool:
    """5.10 with numbers, all different, and what is refused."""
    values, gradient2, bias2 = np.array([2.0, 1.5, 0.2]), np.array([3.0, 0.7]), np.array([0.5, 1.1])
    measured, bound = likely_sides(values, gradient2, bias2, 0.5, 2.0, 0.7, 0.1)
    price = 2 * 0.5 * 0.49 * np.log(10)
    good = np.allclose(measured, [0.125 * 3, 0.125 * 3.7])
    good &= np.allclose(bound, [0.5 + 0.375 * 0.5 + 0.25 * 0.49 + price, 1.8 + 0.375 * 1.6 + 0.5 * 0.49 + price])
    good &= np.isclose(likely_sides(values, gradient2, bias2, 0.4, 2.0, 0.0, 0.95)[1][0], 0.5 + 0.28 * 0.5)
    for gamma, delta in ((0.5001, 0.1), (0.5, 1.0001)):
        try:
            likely_sides(values, gradient2, bias2, gamma, 2.0, 0.7, delta)
        except InputError:
            continue
        return False
    return bool(good)
