"""The local steps of softmax regression on the Gram matrix of the samples drawn, and its gradients, for a GPU and where
Numba is missing: its loops (`engine/compiled.py`) are faster unless twenty models or more share a client's samples.

Every gradient of such a model is X' r with X the minibatch, so all E steps stay in the span of the S = E B drawn
samples: instead of the weights it is enough to follow the S logits. Participants with the same minibatches, such as one
client under several methods, share what depends on these alone, the samples and their products. Nothing is inverted:
samples that repeat, hence a singular Gram matrix, do no harm.
"""

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from fedauto_core.models.model import Model

# Products of samples cost S^2 D once for each distinct row of minibatches, plain steps 4 S D C for each model and less
# efficiently: measured for D = 64 to 1,280, the former win where S <= 8 C for each model that shares the row.
WORTH = 8
MOST_NUMBERS = {"cpu": 1 << 21, "cuda": 1 << 26}  # of samples and weights held at a time
Parts = tuple[Tensor, Tensor]  # weight [M, D, C] and bias [M, C]


def gram_pays(model: Model, batches: Tensor) -> bool:
    """Whether `gram_updates` is for this model, and faster than plain steps on batches [M, E, B]."""
    if model.dense_chain != ("head",):
        return False
    models, steps, batch = batches.shape
    distinct = len({row.tobytes() for row in batches.cpu().numpy()})
    return distinct * steps * batch <= WORTH * model.n_classes * models


def gram_updates(
    model: Model,
    start: Tensor,
    x: Tensor,
    y: Tensor,
    batches: Tensor,
    lr: Tensor,
    prox: Tensor,
    linear: Tensor | None,
    reference: Tensor,
) -> Tensor:
    """Deltas [M, P] of `local_updates` for model "softmax", of which nothing is frozen: the same numbers to rounding.

    start, reference: [M, P]; linear: [M, P] or None; lr, prox: [M]; x: [n, ...]; y: int64 [n]; batches: int64
    [M, E, B]. Company changes a row by rounding only: rows that share samples share matrix products.
    """
    deltas = torch.empty(start.shape, dtype=start.dtype, device=start.device)
    one_hot = torch.eye(model.n_classes, dtype=start.dtype, device=start.device)
    weight, bias = _parts(model, start)
    x, has_terms = x.flatten(1), prox != 0
    if linear is not None:
        has_terms = has_terms | (linear.norm(p=1, dim=1) != 0)
    for rows, own in _shared(batches, has_terms, x.shape[1], model.n_classes):
        drawn, flat = batches[rows[:, 0]].flatten(1), rows.flatten()
        pull = None
        if own:
            terms = prox[flat, None] * (reference[flat] - start[flat])
            terms = terms if linear is None else terms - linear[flat]
            pull = _parts(model, lr[flat, None] * terms)
        gamma, shrink = (values[rows][..., None, None] for values in (lr, 1 - lr * prox))
        begin = weight.mT.index_select(0, flat).mT, bias[flat]
        moves = _steps(begin, x[drawn], one_hot[y[drawn]], gamma, shrink, pull, batches.shape[2])
        for part, move in zip(_parts(model, deltas), moves, strict=True):
            part.index_copy_(0, flat, move)
    return deltas


def head_gradients(model: Model, theta: Tensor, x: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Gradients [M, P] of `loss_gradients` for model "softmax", by hand; the arguments are those of the same name."""
    weight, bias = _parts(model, theta)
    samples = x.flatten(1)[rows]
    residuals = torch.baddbmm(bias[:, None], samples, weight).softmax(dim=2).sub_(targets).div_(rows.shape[1])
    gradients = torch.empty_like(theta)
    for part, slope in zip(_parts(model, gradients), (samples.mT @ residuals, residuals.sum(dim=1)), strict=True):
        part.copy_(slope)
    return gradients


def _parts(model: Model, theta: Tensor) -> Parts:
    """Views of theta [M, P]."""
    parts = model.unflatten(theta)
    return parts["head.weight"], parts["head.bias"]


def _shared(batches: Tensor, has_terms: Tensor, features: int, classes: int) -> Iterator[tuple[Tensor, bool]]:
    """The rows of batches [M, E, B] as tables [n, m], m rows with the same minibatches in each line; and whether these
    rows have terms of their own, which costs products that the others do not need."""
    same: dict[tuple[bytes, bool], list[int]] = defaultdict(list)
    for row, (drawn, own) in enumerate(zip(batches.cpu().numpy(), has_terms.tolist(), strict=True)):
        same[drawn.tobytes(), own].append(row)
    tables: dict[tuple[int, bool], list[list[int]]] = defaultdict(list)
    for (_, own), rows in same.items():
        tables[len(rows), own].append(rows)
    for (models, own), lines in tables.items():
        numbers = (batches[0].numel() + models * classes) * features
        for table in torch.tensor(lines, device=batches.device).split(
            max(1, MOST_NUMBERS[batches.device.type] // numbers)
        ):
            yield table, own


def _steps(
    start: Parts, x: Tensor, labels: Tensor, lr: Tensor, shrink: Tensor, pull: Parts | None, batch: int
) -> Parts:
    """What n * m models move: m of them on each of n sets of samples x [n, S, D] with labels [n, S, C]; lr and shrink
    [n, m, 1, 1].

    With u = w - start one step is u <- shrink u + pull - X' r, where r are the residuals of a minibatch times lr / B
    and pull = lr (prox (reference - start) - linear), or None where shrink = 1 and pull = 0.
    """
    n, models, classes = len(x), lr.shape[1], labels.shape[2]

    def products(weight: Tensor, bias: Tensor) -> Tensor:
        """Logits [n, m, C, S]: with the samples innermost no product is narrow, which is slow, where m is small."""
        rows = weight.mT.reshape(n, models * classes, -1)
        return torch.baddbmm(bias.reshape(n, -1, 1), rows, x.mT).unflatten(1, (models, classes))

    logits, targets = products(*start), labels.mT[:, None]
    constant = None if pull is None else products(*pull).addcmul_(logits, 1 - shrink)
    residuals = torch.empty_like(logits)
    for begin in range(0, x.shape[1], batch):
        now, later = slice(begin, begin + batch), slice(begin + batch, None)
        r = (logits[..., now].softmax(dim=2) - targets[..., now]).mul_(lr / batch)
        gram = torch.bmm(x[:, now], x[:, later].mT).add_(1)  # the bias is one more feature, always 1
        if constant is not None:
            logits[..., later].mul_(shrink).add_(constant[..., later])
            residuals[..., :begin].mul_(shrink)
        logits.flatten(1, 2)[..., later].baddbmm_(r.flatten(1, 2), gram, alpha=-1)
        residuals[..., now] = r
    weight = torch.bmm(residuals.flatten(1, 2), x).view(n * models, classes, -1).mT.neg()
    bias = residuals.sum(dim=-1).view(n * models, classes).neg()
    if pull is not None:
        powers = sum(shrink**step for step in range(x.shape[1] // batch)).view(-1, 1)
        weight, bias = weight.addcmul(pull[0], powers[..., None]), bias.addcmul(pull[1], powers)
    return weight, bias
