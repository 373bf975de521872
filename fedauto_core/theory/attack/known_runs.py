"""Known answers for what is said of real runs: estimated terms, and a round after the fact. See `known_answers`."""

from types import SimpleNamespace

import numpy as np
import torch

from .. import nets, posterior


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
