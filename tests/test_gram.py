"""Steps of softmax regression on the Gram matrix against the same steps on the weights, one model at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fedauto_core.engine import gram, local, local_updates
from fedauto_core.models import build_model

SIDE, CLASSES, CLIENTS = 8, 10, 6
METHODS = [range(6), range(6), (0, 2, 3), range(6)]  # the clients that each method hears
MODEL = build_model("softmax", (1, SIDE, SIDE), CLASSES)
ROUNDS = 10


def data(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((40, 1, SIDE, SIDE))).to(dtype)
    return x, torch.from_numpy(rng.integers(0, CLASSES, 40))


def minibatches(round: int, steps: int = 5, batch: int = 4) -> Tensor:
    """[M, E, B]: each client's are the same under every method."""
    drawn = torch.from_numpy(np.random.default_rng(round).integers(0, 40, (CLIENTS, steps, batch)))
    return torch.cat([drawn[list(clients)] for clients in METHODS])


OWNERS = torch.tensor([method for method, clients in enumerate(METHODS) for _ in clients])


def terms(dtype: torch.dtype, names: str) -> dict[str, Tensor]:
    """Step sizes that differ, method 1 with a proximal term, method 2 with a linear one, method 3 with both."""
    rng = np.random.default_rng(1)
    linear, reference = (torch.from_numpy(rng.standard_normal((21, MODEL.n_parameters))).to(dtype) for _ in range(2))
    every = {
        "prox": torch.tensor([0.0, 0.7, 0.0, 0.3], dtype=dtype)[OWNERS],
        "linear": 0.1 * linear * torch.tensor([0, 0, 1, 1], dtype=dtype)[OWNERS, None],
        "reference": reference,
    }
    return {name: every[name] for name in names.split()}


def trained(dtype: torch.dtype, names: str, backend: str) -> Tensor:
    """Models [methods, P] after ten rounds of averaging."""
    x, y = data(dtype)
    w = torch.stack([MODEL.init(np.random.default_rng(2))] * len(METHODS)).to(dtype)
    lr = torch.tensor([0.05, 0.1, 0.2, 0.1], dtype=dtype)[OWNERS]
    for round in range(ROUNDS):
        deltas = local_updates(MODEL, w[OWNERS], x, y, minibatches(round), lr, **terms(dtype, names), backend=backend)
        w = w + torch.stack([deltas[method == OWNERS].mean(dim=0) for method in range(len(METHODS))])
    return w


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("names", ["", "prox", "linear", "prox reference", "prox linear reference"])
def test_ten_rounds_equal_those_of_one_model_after_another(
    dtype: torch.dtype, tolerance: float, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gram.gram_pays(MODEL, minibatches(0))
    expected = trained(dtype, names, "loop")
    monkeypatch.setattr(local, "_dense_chain_sgd", lambda *_: pytest.fail("took the steps on the weights"))
    difference = (trained(dtype, names, "stacked") - expected).abs().max()
    assert difference <= tolerance * max(1.0, float(expected.abs().max()))
    assert (expected[0] - MODEL.init(np.random.default_rng(2)).to(dtype)).abs().max() > 0.05


def both(batches: Tensor, lr: float = 0.1) -> tuple[Tensor, Tensor]:
    """Deltas in double by way of the Gram matrix, and one model after another."""
    x, y = data(torch.float64)
    start = MODEL.init(np.random.default_rng(0)).double().expand(len(batches), -1)
    assert gram.gram_pays(MODEL, batches)
    return tuple(local_updates(MODEL, start, x, y, batches, lr, backend=b) for b in ("stacked", "loop"))


@pytest.mark.parametrize("index", [0, slice(0, 2)])
def test_samples_that_repeat_make_a_singular_matrix_and_do_no_harm(index: int | slice) -> None:
    """The same sample throughout, and the same minibatch in every step."""
    batches = minibatches(0)
    batches[:] = batches[:, :1, :1] if index == 0 else batches[:, :1]
    drawn = data(torch.float64)[0].flatten(1)[batches[0].flatten()]
    assert torch.linalg.matrix_rank(drawn @ drawn.T) < len(drawn)
    ours, expected = both(batches)
    assert (ours - expected).abs().max() <= 1e-12


def test_a_single_step_needs_no_products_of_samples() -> None:
    ours, expected = both(minibatches(0, steps=1))
    assert (ours - expected).abs().max() <= 1e-12


def test_a_row_depends_on_its_company_by_rounding_only() -> None:
    """Whether it shares its minibatches or not, and in whichever order the rows come."""
    x, y = data(torch.float64)
    start = torch.stack([MODEL.init(np.random.default_rng(j)) for j in range(21)]).double()
    batches, extra = minibatches(0), terms(torch.float64, "prox linear")
    together = local_updates(MODEL, start, x, y, batches, 0.1, **extra, backend="stacked")
    for rows in ([3], [20], [14, 2, 0], [*range(20, -1, -1)]):
        own = {name: term[rows] for name, term in extra.items()}
        some = local_updates(MODEL, start[rows], x, y, batches[rows], 0.1, **own, backend="stacked")
        assert (some - together[rows]).abs().max() <= 1e-12


def test_parts_that_bound_the_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained(torch.float64, "prox linear reference", "stacked")
    monkeypatch.setitem(gram.MOST_NUMBERS, "cpu", 1)
    assert (trained(torch.float64, "prox linear reference", "stacked") - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("bad", ["step size", "start"])
def test_a_model_that_diverges_is_not_finite_and_spoils_no_other(bad: str) -> None:
    x, y = data(torch.float32)
    start = torch.stack([MODEL.init(np.random.default_rng(j)) for j in range(21)])
    lr, batches = torch.full((21,), 0.1), minibatches(0)
    healthy = local_updates(MODEL, start, x, y, batches, lr, backend="stacked")
    if bad == "start":
        start[7] = torch.nan
    else:
        lr[7] = 1e38
    others = torch.arange(21) != 7
    for backend in ("stacked", "loop"):
        deltas = local_updates(MODEL, start, x, y, batches, lr, backend=backend)
        assert not deltas[7].isfinite().all()
        assert (deltas - healthy)[others].abs().max() <= 1e-6


def test_they_are_left_out_where_they_cost_more_or_do_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, alone = minibatches(0, steps=20, batch=10), minibatches(0, steps=20, batch=10)[:CLIENTS]
    assert gram.gram_pays(MODEL, shared) and not gram.gram_pays(MODEL, alone)
    assert not gram.gram_pays(build_model("mlp", (1, SIDE, SIDE), CLASSES), shared)
    monkeypatch.setattr(local, "gram_updates", lambda *_: pytest.fail("took the Gram matrix"))
    x, y = data(torch.float32)
    start = MODEL.init(np.random.default_rng(0)).expand(21, -1)
    held = local_updates(MODEL, start, x, y, shared, 0.1, frozen=["head.bias"])
    assert (held[:, -CLASSES:] == 0).all() and (held[:, 0] != 0).all()
    local_updates(MODEL, start[:CLIENTS], x, y, alone, 0.1, backend="stacked")


def test_nobody_moves_nowhere() -> None:
    x, y = data(torch.float32)
    start = MODEL.init(np.random.default_rng(0)).expand(0, -1)
    assert (
        local_updates(MODEL, start, x, y, minibatches(0, steps=2, batch=10)[:0], 0.1, backend="stacked").shape
        == start.shape
    )
