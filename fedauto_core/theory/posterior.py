"""The bound of a round after the fact, for softmax regression on given features (a head): an identity and curvature.

From w a round leads to w_r = w + Delta. With G = -Delta / (gamma E) and L_r the smoothness along the segment,

    (gamma E/2) ||grad F||^2 <= F(w) - F(w_r) + (gamma E/2) ||grad F - G||^2 + (gamma E/2) (L_r gamma E - 1) ||G||^2,

whatever the step size, the method and the noise: by F(w_r) <= F(w) + <grad F, Delta> + (L_r/2) ||Delta||^2 and <a, b> =
(|a|^2 + |b|^2 - |a - b|^2)/2. It diagnoses and does not forecast, as grad F stands on both sides.

**L_r.** Along the segment sample i sees its logits move by z = Delta' x_i. Let p be its probabilities at w, mu and v
mean and variance of z under p, s = max z - mu. At w + t Delta the probabilities are p_c exp(t z_c) / sum_b p_b exp(t
z_b) <= p_c exp(t s), as the sum is at least exp(t mu) (Jensen). So the second derivative along the segment, the
variance of z, is at most v exp(t s), and at most (max z - min z)^2 / 4 anyway (Popoviciu). Integrated, (L_r/2)
||Delta||^2 = mean_i min(v (exp(s) - 1 - s) / s^2, (max z - min z)^2 / 8): certified, from what is known at w (in the
manner of Bach 2010).

**Parts.** G = grad F + sum of parts: labels sum_c (q_c - B alpha_g(c)) grad f_c with q = sum_j beta_j alpha_j and B =
sum_j beta_j; features sum_j beta_j (grad F_j - sum_c alpha_j(c) grad f_c); drift sum_j beta_j mean_e (grad F_j(w_j^e) -
grad F_j(w)); noise sum_j beta_j mean_e (g_j^e - grad F_j(w_j^e)); and other, (B - 1) grad F and what the method adds to
sum_j beta_j Delta_j (stored updates, server steps). With M the mean of grad F over the segment F(w) - F(w_r) = gamma E
<M, G> exactly: gamma E <M, grad F> is the gain of a step without errors, and -gamma E <M, part> is the loss that a part
costs.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax

from fedauto_core.data.federation import Federation
from fedauto_core.errors import require
from fedauto_core.methods import fedauto
from fedauto_core.methods.base import chi2_divergence

from .nets import Visit

MOST_NODES, CLOSED = 64, 1e-8  # of the mean over a segment, and when it is good enough, in units of F
LONGEST = 50  # moves of the logits for which the variance is followed: exp would overflow
PARTS = ("labels", "features", "drift", "noise", "other")


@dataclass(frozen=True, eq=False)
class Head:
    """Softmax regression on the features of a federation, which are sorted by owner and label.

    x: [n, d + 1], the last column one; one_hot: [n, C]; cells: first row of each (owner, label), [(N+1) C + 1];
    counts: [N+1, C]; everything float64. A model w is flat, [(d + 1) C], the bias last.
    """

    federation: Federation
    x: np.ndarray
    one_hot: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, federation: Federation) -> "Head":
        """InputError unless every sample has one owner."""
        labels = federation.dataset.y_train.cpu().numpy()
        order = np.concatenate([shard[np.argsort(labels[shard], kind="stable")] for shard in federation.shards])
        what, allowed = "shards that overlap", "a federation in which every sample has one owner"
        require(len(np.unique(order)) == len(order), what, allowed=allowed, remedy="leave out data sharing")
        one_hot = np.eye(federation.dataset.n_classes)[labels[order]]
        ends = np.append(0, federation.class_counts.ravel().cumsum())
        return cls(federation, _features(federation, order), one_hot, ends)

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[1], self.one_hot.shape[1]

    def rows(self, owner: int) -> slice:
        classes = self.shape[1]
        return slice(self.cells[owner * classes], self.cells[(owner + 1) * classes])

    def smoothness(self) -> float:
        """Certified L of F, all F_j and participant m's loss: half of the largest eigenvalue of the second moments
        (`problems.regression`); m's, a mean over some of the server's classes, is at most that of one of them."""
        parts = [self.x, *(self.x[self.rows(j)] for j in range(len(self.federation.shards)))]
        pairs = zip(self.cells[:-1], self.cells[1:], strict=True)
        parts += [self.x[a:b] for a, b in list(pairs)[: self.shape[1]] if b > a]  # what participant m may train on
        return 0.5 * max(float(np.linalg.norm(part, 2) ** 2 / len(part)) for part in parts)

    def values(self, points: np.ndarray) -> np.ndarray:
        """F at points [K, P]."""
        logits = self.logits(self.x, points)
        return np.mean(logsumexp(logits, axis=2) - np.sum(logits * self.one_hot[:, None], axis=2), axis=0)

    def logits(self, x: np.ndarray, points: np.ndarray) -> np.ndarray:
        """[n, K, C]."""
        features, classes = self.shape
        side_by_side = points.reshape(len(points), features, classes).swapaxes(0, 1).reshape(features, -1)
        return (x @ side_by_side).reshape(len(x), len(points), classes)

    def slopes(self, rows: slice | np.ndarray, points: np.ndarray) -> np.ndarray:
        """Mean gradients [K, P] over some rows at points [K, P]."""
        x = self.x[rows]
        error = softmax(self.logits(x, points), axis=2) - self.one_hot[rows, None]
        side_by_side = (x.T @ error.reshape(len(x), -1)).reshape(x.shape[1], len(points), -1)
        return side_by_side.swapaxes(0, 1).reshape(len(points), -1) / len(x)

    def cell_slopes(self, probabilities: np.ndarray) -> np.ndarray:
        """Gradients summed over the samples of each owner and label, [N+1, C, P], given all probabilities [n, C]."""
        error = probabilities - self.one_hot
        sums = [(self.x[a:b].T @ error[a:b]).ravel() for a, b in zip(self.cells[:-1], self.cells[1:], strict=True)]
        return np.reshape(sums, (len(self.federation.shards), self.shape[1], -1))


def _features(federation: Federation, rows: np.ndarray) -> np.ndarray:
    x = federation.dataset.x_train[rows].flatten(1).cpu().numpy().astype(np.float64)
    return np.hstack([x, np.ones((len(x), 1))])


def remainder_bound(probabilities: np.ndarray, moves: np.ndarray) -> float:
    """(L_r/2) ||Delta||^2, the bound on F(w + Delta) - F(w) - <grad F, Delta>, from the probabilities [n, C] at w and
    the moves z [n, C] of the logits."""
    mean = np.sum(probabilities * moves, axis=1)
    variance = np.sum(probabilities * (moves - mean[:, None]) ** 2, axis=1)
    top = np.maximum(moves.max(axis=1) - mean, 1e-8)
    # For a small s the difference is rounding: 1/2 + s/6 + s^2/24 + ... <= 1/2 + s/5.
    growth = np.where(top < 1e-4, 0.5 + top / 5, (np.exp(np.minimum(top, LONGEST)) - 1 - top) / top**2)
    widest = np.ptp(moves, axis=1) ** 2 / 8
    return float(np.mean(np.where(top > LONGEST, widest, np.minimum(variance * growth, widest))))


def certificate(head: Head, visit: Visit, steps: int) -> dict[str, float]:
    """Both sides of the round's inequality. Numbers: round, F, F_after, measured, bound and what it consists of
    (progress, error, curvature), and "curvature over limit", L_r gamma E."""
    w, move, scale = _segment(visit, steps)
    logits = head.logits(head.x, np.stack([w, move]))
    probabilities, moves = softmax(logits[:, 0], axis=1), logits[:, 1]
    gradient = (head.x.T @ (probabilities - head.one_hot)).ravel() / len(head.x)
    before, after = (
        float(np.mean(logsumexp(z, axis=1) - np.sum(z * head.one_hot, axis=1)))
        for z in (logits[:, 0], logits[:, 0] + moves)
    )
    size2, remainder = float(move @ move), remainder_bound(probabilities, moves)
    parts = {
        "progress": before - after,
        "error": float(np.sum((scale * gradient + move) ** 2)) / (2 * scale),
        "curvature": remainder - size2 / (2 * scale),
    }
    over = 2 * remainder / size2 * scale if size2 > 0 else 0.0
    sides = {"measured": scale / 2 * float(gradient @ gradient), **parts, "bound": sum(parts.values())}
    return {"round": visit.round + 1, "F": before, "F_after": after, **sides, "curvature over limit": over}


def _segment(visit: Visit, steps: int) -> tuple[np.ndarray, np.ndarray, float]:
    """w, Delta and gamma E."""
    w, after = (point.cpu().numpy().astype(np.float64) for point in (visit.w, visit.after))
    return w, after - w, visit.lr * steps


def explained(head: Head, visit: Visit, batches: np.ndarray) -> dict[str, float]:
    """F(w) - F(w_r) of a round as a sum: "gradient", less what each of `PARTS` costs; all in the units of F.

    batches: minibatches of plain local steps [K, E, B] of those heard, or [K+1, E, B] with participant m, as indices
    into the training data. Further numbers: round, whole = F(w) - F(w_r), the squared norms of
    grad F and of the parts, kappa2, chi2. InputError for a method without weights.
    """
    allowed, remedy = "methods whose step has weights of the round's updates", "leave the method out"
    require(visit.weights is not None, "a round without weights", allowed=allowed, remedy=remedy)
    w, move, scale = _segment(visit, batches.shape[1])
    federation, ids, beta = head.federation, visit.ids, visit.weights
    counts, target = federation.class_counts.astype(float), federation.target
    cells = head.cell_slopes(softmax(head.logits(head.x, w[None])[:, 0], axis=1))
    pooled = cells.sum(axis=(0, 1)) / counts.sum()
    classes = cells.sum(axis=0) / np.maximum(counts.sum(axis=0), 1)[:, None]
    alpha = federation.alpha[ids]
    rows = [np.arange(len(head.x))[head.rows(j)] for j in ids]
    if len(beta) > len(ids):  # participant m of FedAuto's module 1
        n_m = fedauto.compensation(alpha[ids > 0], target, counts[0])
        alpha, _ = fedauto.with_m(alpha, counts[ids].sum(axis=1), n_m)
        mine = np.flatnonzero(n_m)
        rows.append(np.concatenate([np.arange(head.cells[c], head.cells[c + 1]) for c in mine]))
    own, parts = [], dict.fromkeys(PARTS[2:4], 0.0)
    for j, weight in enumerate(beta):
        path, gradients = _local(head, w, batches[j], visit.lr)
        slopes = head.slopes(rows[j], path)
        own.append(slopes[0])
        parts["drift"] = parts["drift"] + weight * (slopes.mean(axis=0) - slopes[0])
        parts["noise"] = parts["noise"] + weight * (gradients - slopes).mean(axis=0)
    wanted = alpha @ classes
    parts["labels"] = (beta @ alpha - beta.sum() * target) @ classes
    parts["features"] = beta @ (np.array(own) - wanted)
    parts["other"] = -move / scale - pooled - sum(parts.values())
    before, after = head.values(np.stack([w, w + move]))
    mean = _mean_slope(head, w, move, after - before)
    costs = {name: -scale * float(mean @ parts[name]) for name in PARTS}
    kappa2 = float(target @ np.sum((classes - pooled) ** 2, axis=1))
    sizes = {f"|{name}|^2": float(np.sum(part**2)) for name, part in {"gradient": pooled, **parts}.items()}
    told = {"kappa2": kappa2, "chi2": float(chi2_divergence(beta @ alpha / beta.sum(), target))}
    whole = {"round": visit.round + 1, "whole": float(before - after), "gradient": scale * float(mean @ pooled)}
    return whole | costs | sizes | told


def _mean_slope(head: Head, w: np.ndarray, move: np.ndarray, rise: float) -> np.ndarray:
    """M [P], by Gauss-Legendre: <M, move> is F's rise, which says when there are enough nodes; ArithmeticError where
    `MOST_NODES` are too few."""
    count = 4
    while count <= MOST_NODES:
        nodes, weights = np.polynomial.legendre.leggauss(count)
        mean = weights / 2 @ head.slopes(slice(None), w + (nodes[:, None] + 1) / 2 * move)
        if abs(mean @ move - rise) <= CLOSED:
            return mean
        count *= 2
    raise ArithmeticError(f"the mean gradient along a move is not found with {MOST_NODES} nodes")


def _local(head: Head, w: np.ndarray, batches: np.ndarray, lr: float) -> tuple[np.ndarray, np.ndarray]:
    """The models w_j^e [E, P] of a participant before each step, and the minibatch gradients there [E, P]."""
    labels, (features, classes) = head.federation.dataset.y_train, head.shape
    x = _features(head.federation, batches.ravel()).reshape(*batches.shape, features)
    y = np.eye(classes)[labels[batches.ravel()].cpu().numpy()].reshape(*batches.shape, classes)
    path, gradients = [w], []
    for inputs, wanted in zip(x, y, strict=True):
        error = softmax(inputs @ path[-1].reshape(features, classes), axis=1) - wanted
        gradients.append((inputs.T @ error).ravel() / len(inputs))
        path.append(path[-1] - lr * gradients[-1])
    return np.array(path[:-1]), np.array(gradients)
