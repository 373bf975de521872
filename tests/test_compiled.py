"""The compiled kernels against the torch path, whose numbers they must give: `engine/local.py` chooses between them."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedauto_core.engine import compiled, local_updates, predict, stage
from fedauto_core.engine.chains import CHAINS, layout, whole_lanes
from fedauto_core.errors import InputError
from fedauto_core.models import LoRA, adapt, build_model
from fedauto_core.models.adapters import adapted_forward

NETWORKS = {  # model, input shape, classes: odd sides, several channels, classes around a multiple of eight
    "small, 28": ("cnn_small", (1, 28, 28), 10),
    "small, digits": ("cnn_small", (1, 8, 8), 2),
    "small, odd side": ("cnn_small", (3, 13, 13), 8),
    "small, 100 classes": ("cnn_small", (3, 16, 16), 100),
    "cnn, 28": ("cnn", (1, 28, 28), 10),
    "cnn, odd side": ("cnn", (3, 19, 19), 9),
    "dense": ("mlp", (1, 28, 28), 10),
    "dense, 100 classes": ("mlp", (3, 5, 5), 100),
    "head": ("softmax", (2, 6, 6), 10),
    "head, 2 classes": ("softmax", (1, 5, 5), 2),  # whose rows, once padded, reach far into the next ones
    "lora, last block": ("vit", (1, 28, 28), 10, LoRA(4, 8.0, ("layer3.qkv", "layer3.out")), False),
    "lora, everywhere": ("vit", (3, 12, 12), 9, LoRA(9, 3.0, ("layer*",)), True),
    "lora, from an MLP on": ("vit", (1, 8, 8), 2, LoRA(2, 4.0, ("layer1.up", "layer3.down")), True),
    "lora, from the end of one on": ("vit", (1, 8, 8), 200, LoRA(2, 4.0, ("layer2.down",)), False),
    "lora, from an attention's end on": ("vit", (1, 8, 8), 10, LoRA(8, 4.0, ("layer0.out", "layer2.qkv")), False),
    "lora, last stage": ("mobilenet_stage", (7, 2, 2), 10, LoRA(4, 8.0, ("conv",)), False),
    "lora, last stage, with an offset": ("mobilenet_stage", (5, 3, 3), 9, LoRA(1, 3.0, ("conv",)), True),
}
each_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def task(network, models=3, steps=3, batch=5, dtype=torch.float64, samples=40):
    """model, start [M, P], x, y, batches; the starts differ and no parameter is at a special value."""
    name, shape, classes, *lora = network
    rng = np.random.default_rng(0)
    model, trunk = build_model(name, shape, classes), lambda x: x
    if lora:
        frozen = model.init(rng).to(dtype)
        frozen += 0.05 * torch.from_numpy(rng.standard_normal(len(frozen))).to(dtype)
        model, trunk, *_ = adapt(model, frozen, lora[0], offsets=lora[1])
    start = torch.stack([model.init(rng) for _ in range(models)]).to(dtype)
    start += 0.05 * torch.from_numpy(rng.standard_normal(start.shape)).to(dtype)
    x = trunk(torch.from_numpy(rng.standard_normal((samples, *shape))).to(dtype))
    y = torch.from_numpy(rng.integers(0, classes, samples))
    return model, start, x, y, torch.from_numpy(rng.integers(0, samples, (models, steps, batch)))


@each_network
@pytest.mark.parametrize("steps, batch", [(4, 5), (1, 1), (2, 33)])  # 33: some full blocks of samples and a bit
def test_steps_equal_the_torch_path_in_double(network, steps, batch):
    model, start, x, y, batches = task(network, steps=steps, batch=batch)
    lr = torch.tensor([0.02, 0.05, 0.1], dtype=torch.float64)
    expected = local_updates(model, start, x, y, batches, lr, backend="stacked")
    assert expected.abs().max() > 1e-3
    assert (local_updates(model, start, x, y, batches, lr, backend="compiled") - expected).abs().max() < 1e-10


@each_network
def test_terms_of_the_objective_equal_the_torch_path(network):
    model, start, x, y, batches = task(network)
    rng = np.random.default_rng(1)
    linear, reference = (0.1 * torch.from_numpy(rng.standard_normal(start.shape)) for _ in range(2))
    prox = torch.tensor([0.0, 0.3, 0.7], dtype=torch.float64)
    for terms in ({"linear": linear}, {"prox": prox}, {"linear": linear[:1], "prox": prox, "reference": reference}):
        ours, torchs = (
            local_updates(model, start, x, y, batches, 0.05, **terms, backend=backend)
            for backend in ("compiled", "stacked")
        )
        assert (ours - torchs).abs().max() < 1e-10


@pytest.mark.parametrize(
    "network", ["small, 28", "dense", "head", "lora, last block", "lora, everywhere", "lora, last stage"]
)
@pytest.mark.parametrize("lr", [0.02, 0.1])
def test_ten_rounds_in_single_precision_stay_with_the_torch_path(network, lr):
    """Not of cnn: where its maxima are decided by the last bit, any two paths part."""
    model, start, x, y, _ = task(NETWORKS[network], dtype=torch.float32)
    rng = np.random.default_rng(2)
    weights = {backend: start[0] for backend in ("compiled", "stacked")}
    for _ in range(10):
        batches = torch.from_numpy(rng.integers(0, len(x), (3, 5, 16)))
        for backend, w in weights.items():
            weights[backend] = w + local_updates(model, w.expand(3, -1), x, y, batches, lr, backend=backend).mean(0)
    assert (weights["compiled"] - start[0]).abs().max() > 0.1 * lr
    assert (weights["compiled"] - weights["stacked"]).abs().max() < 1e-5


@each_network
def test_predictions_equal_the_torch_path(network):
    model, theta, x, *_ = task(network)
    expected = model.forward(model.unflatten(theta), x.expand(3, *x.shape))
    assert (predict(model, theta, x) - expected).abs().max() < 1e-10
    model, theta, x, *_ = task(network, dtype=torch.float32)
    single = predict(model, theta, x)
    assert single.dtype == torch.float32 and (single - expected).abs().max() < 1e-4


def test_predictions_of_many_images_equal_the_torch_path():
    """More than all models score one after another."""
    from fedauto_core.engine.stage_kernels import SCORED

    model, theta, x, *_ = task(NETWORKS["lora, last stage, with an offset"], samples=2 * SCORED + 7)
    expected = model.forward(model.unflatten(theta), x.expand(3, *x.shape))
    assert (predict(model, theta, x) - expected).abs().max() < 1e-10


@each_network
def test_gradients_for_soft_targets_equal_autograd(network):
    model, theta, x, _, batches = task(network, batch=18)
    rows, rng = batches[:, 0], np.random.default_rng(3)
    targets = torch.from_numpy(rng.dirichlet(np.ones(model.n_classes), (3, 18)))
    leaf = theta.clone().requires_grad_()
    logits = model.forward(model.unflatten(leaf), x[rows])
    F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction="sum").div(18).backward()
    assert (compiled.gradients(model, theta, x, rows, targets) - leaf.grad).abs().max() < 1e-10


@each_network
def test_a_row_has_the_same_bits_in_any_company(network):
    model, start, x, y, batches = task(network, dtype=torch.float32)
    together = local_updates(model, start, x, y, batches, 0.1)
    assert torch.equal(together, local_updates(model, start, x, y, batches, 0.1))
    for j in range(3):
        assert torch.equal(local_updates(model, start[j, None], x, y, batches[j, None], 0.1)[0], together[j])
        assert torch.equal(predict(model, start[j, None], x)[0], predict(model, start, x)[j])


@pytest.mark.parametrize("name", CHAINS)
def test_no_tile_of_a_convolutions_input_gradient_adds_twice_to_a_place(name):
    """Windows overlap; a tile of `multiply_overlapping` holds at most 8 of them, by two blocks of lanes, and stores its
    sums at the end."""
    for side in range(16, 65):
        _, second = (found := layout(build_model(name, (3, side, side), 10))).layers
        corners, blocks = (found.table[start : start + size] for start, size in (second.corners, second.tap_blocks))
        for m, n in itertools.product(range(0, len(corners), 8), range(0, len(blocks), 2)):
            places = np.add.outer(corners[m : m + 8], blocks[n : n + 2])
            assert len(np.unique(places)) == places.size


def test_rows_are_moved_by_whole_vectors_as_far_as_the_weights_reach():
    from fedauto_core.engine.products import whole_rows  # compiles: not at import

    for n_in, n_out in itertools.product(range(1, 41), repeat=2):
        within = n_out * np.arange(n_in) + whole_lanes(n_out) <= n_in * n_out
        assert whole_rows.py_func(n_in, n_out, whole_lanes(n_out)) == within.sum()


def test_no_rows_give_no_rows():
    model, start, x, y, batches = task(NETWORKS["small, digits"])
    assert local_updates(model, start[:0], x, y, batches[:0], 0.1, backend="compiled").shape == (0, start.shape[1])
    assert predict(model, start[:0], x).shape == (0, 40, 2)


@each_network
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_what_is_not_finite_is_found_in_the_result(network, number):
    """As in the torch path: in the weights of one model, in one image of another."""
    model, start, x, y, batches = task(network)
    hidden = model.name.startswith("mobilenet") and number == torch.inf  # by its ReLU6
    for place in (0, start.shape[1] - 1):
        broken = start.clone()
        broken[0, place] = number
        ours, torchs = (
            local_updates(model, broken, x, y, batches, 0.1, backend=backend) for backend in ("compiled", "stacked")
        )
        assert not ours[0].isfinite().all() and not torchs[0].isfinite().all()
        assert torch.equal(ours[1:].isfinite(), torchs[1:].isfinite()) and ours[1:].isfinite().all()
        logits = model.forward(model.unflatten(broken), x.expand(len(broken), *x.shape))
        finite = predict(model, broken, x).isfinite()
        assert torch.equal(finite, logits.isfinite())
        assert hidden or finite[0].logical_not().any()
    pixels = x.clone()
    pixels[(7, 0, 1, 1)[: x.ndim]] = number
    logits, torchs = predict(model, start, pixels), model.forward(model.unflatten(start), pixels.expand(3, *x.shape))
    assert torch.equal(logits.isfinite(), torchs.isfinite())
    assert hidden or not logits[:, 7].isfinite().all()
    assert logits[:, :7].isfinite().all() and logits[:, 8:].isfinite().all()


def test_an_expanded_start_and_strided_images_are_read_right_and_not_changed():
    model, start, x, y, batches = task(NETWORKS["small, odd side"])
    w, images = start[0].clone(), x.contiguous(memory_format=torch.channels_last)
    ours = local_updates(model, w.expand(3, -1), images, y, batches, 0.1, backend="compiled")
    assert torch.equal(w, start[0])
    assert torch.equal(ours, local_updates(model, w.repeat(3, 1), x, y, batches, 0.1, backend="compiled"))


def test_bad_input_is_refused():
    model, start, x, y, batches = task(NETWORKS["small, digits"])
    with pytest.raises(InputError, match=r"batches from .* to 40.*0 to 39"):
        local_updates(model, start, x, y, torch.full_like(batches, 40), 0.1)
    with pytest.raises(InputError, match="labels from -2 to -1"):
        local_updates(model, start, x, y - 2, batches, 0.1)
    for theta, images in ((start[:, 1:], x), (start, x[:, :, 1:]), (start, x[0])):
        with pytest.raises(InputError, match=r"theta of shape .* and images of shape .* for model 'cnn_small'"):
            predict(model, theta, images)
    with pytest.raises(InputError, match="targets of shape"):
        compiled.gradients(model, start, x, batches[:, 0], start[:, :2])
    with pytest.raises(
        InputError, match=r"backend 'compiled' for model 'cnn_small'.*1 held.*cnn, cnn_small, mlp, softmax"
    ):
        local_updates(model, start, x, y, batches, 0.1, frozen=("head.bias",), backend="compiled")
    other = build_model("vit", (1, 8, 8), 2)
    with pytest.raises(InputError, match=r"model 'vit'.*cnn, cnn_small, mlp, softmax"):
        local_updates(other, other.init(np.random.default_rng(0))[None], x, y, batches[:1], 0.1, backend="compiled")


def test_held_parameters_go_the_torch_path():
    model, start, x, y, batches = task(NETWORKS["small, digits"])
    held, torchs = (
        local_updates(model, start, x, y, batches, 0.1, frozen=("head.bias",), backend=backend)
        for backend in ("auto", "stacked")
    )
    assert torch.equal(held, torchs) and not model.unflatten(held)["head.bias"].any()


def test_the_kernels_of_lora_hold_what_is_held():
    model, start, x, y, batches = task(NETWORKS["lora, everywhere"])
    rng, held = np.random.default_rng(1), ("layer0.qkv.A", "layer2.down.B", "head.bias")
    terms = {"linear": 0.1 * torch.from_numpy(rng.standard_normal(start.shape)), "prox": 0.3, "frozen": held}
    ours, torchs = (
        local_updates(model, start, x, y, batches, 0.05, **terms, backend=backend)
        for backend in ("compiled", "stacked")
    )
    assert (ours - torchs).abs().max() < 1e-10
    for name, part in model.unflatten(ours).items():
        assert part.any() == (name not in {*held, *model.frozen}), name


def test_the_kernels_of_the_last_stage_hold_what_is_held():
    model, start, x, y, batches = task(NETWORKS["lora, last stage, with an offset"])
    ours, torchs = (
        local_updates(model, start, x, y, batches, 0.05, frozen=("conv.A",), backend=backend)
        for backend in ("compiled", "stacked")
    )
    assert (ours - torchs).abs().max() < 1e-10
    assert {name for name, part in model.unflatten(ours).items() if part.any()} == {
        "conv.B",
        "head.weight",
        "head.bias",
    }


def test_the_last_stage_keeps_no_stale_products():
    """Of views of the same memory, of memory written anew, and of memory that was given up."""
    model, start, x, *_ = task(NETWORKS["lora, last stage, with an offset"])
    frozen = adapted_forward(model).frozen

    def stale(images):
        torchs = model.forward(model.unflatten(start), images.expand(3, *images.shape))
        return (predict(model, start, images) - torchs).abs().max() > 1e-10

    for images in (x, x[:20], x[::2], x[20:], x.transpose(2, 3), x[:1].expand(40, -1, -1, -1), x):
        assert not stale(images)
    assert len(stage._frozen) == stage.KEPT
    for name in ("weight", "scale", "shift"):
        frozen[f"conv.{name}"].mul_(0.5)
        assert not stale(x)
        assert len(stage._frozen) == 1  # nothing of other weights is kept
    x.mul_(2.0)
    assert not stale(x)
    for _ in range(20):
        assert not stale(torch.randn(40, *x.shape[1:], dtype=x.dtype))


def test_what_the_kernels_of_lora_do_not_know_goes_the_torch_path():
    rng, x = np.random.default_rng(0), torch.zeros(4, 1, 8, 8)
    vit, mlp = (build_model(name, (1, 8, 8), 10) for name in ("vit", "mlp"))
    last_stage = build_model("mobilenet_stage", (2, 8, 8), 10)
    for base, target, dtype in (
        (vit, "embed", torch.float32),
        (vit, "layer3.qkv", torch.float64),
        (last_stage, "conv", torch.float64),
        (mlp, "hidden", torch.float32),
    ):
        model, trunk, *_ = adapt(base, base.init(rng), LoRA(2, 4.0, (target,)))
        theta, inputs = model.init(rng)[None].to(dtype), trunk(x).to(dtype)
        assert not compiled.fits(model, theta, inputs, model.frozen, "auto")
        known = "vit-lora behind a frozen embedding or mobilenet_stage-lora"
        with pytest.raises(InputError, match=rf"backend 'compiled' for model '.*-lora'.*{known}"):
            compiled.fits(model, theta, inputs, model.frozen, "compiled")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_equal_numpys_whatever_their_tiles(dtype):
    """With AVX-512 a product has tiles of four, two and one block, and of 8 and 4 rows; four are tried anywhere."""
    from numba import njit

    from fedauto_core.engine import products

    @njit(error_model="numpy")
    def multiplied(a, rows, columns, b, width, c, to_rows, blocks, accumulate):
        products.multiply(a, rows, columns, b, width, c, to_rows, blocks, accumulate)

    @njit(error_model="numpy")
    def by_fours(a, rows, columns, b, width, c, to_rows, blocks, accumulate):
        for n in range(0, blocks, 4):
            products.four_blocks(a, rows, columns, b, n, width, c, to_rows, blocks, accumulate)

    rng = np.random.default_rng(0)
    for (rows, depth, blocks), accumulate in itertools.product(
        itertools.product((1, 4, 5, 8, 9, 21), (1, 7), range(1, 10)), (True, False)
    ):
        a, b, c = (rng.standard_normal(shape) for shape in ((rows, depth), (depth, 8 * blocks), (rows, 8 * blocks)))
        place = rng.permutation(rows)  # of the rows of c, with a gap behind each
        offsets = np.arange(rows) * depth, np.arange(depth), place * (8 * blocks + 3)
        rows_of_a, columns, to_rows = (at.astype(np.uint64) for at in offsets)
        for multiply in (multiplied, by_fours)[: 2 if blocks % 4 == 0 else 1]:
            flat = np.zeros((rows, 8 * blocks + 3), dtype)
            flat[place, :-3] = c
            sources = a.astype(dtype).ravel(), rows_of_a, columns, b.astype(dtype).ravel(), np.uint64(8 * blocks)
            multiply(*sources, flat.ravel(), to_rows, blocks, accumulate)
            assert np.abs(flat[place, :-3] - (a @ b + accumulate * c)).max() < 100 * np.finfo(dtype).eps
            assert not flat[:, -3:].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_of_rows_equal_numpys(dtype):
    from numba import njit

    from fedauto_core.engine import products

    @njit(error_model="numpy")
    def multiplied(a, rows, b, others, length, c, to_rows):
        products.multiply_rows(a, rows, b, others, length, c, to_rows)

    rng = np.random.default_rng(0)
    for rows, others, depth in itertools.product((1, 2, 3, 4, 7), (1, 2, 5), (8, 24)):
        a, b = (rng.standard_normal((count, depth)) for count in (rows, others))
        place, c = rng.permutation(rows), np.zeros((rows, others + 2), dtype)
        offsets = (np.arange(rows) * depth, np.arange(others) * depth, place * (others + 2))
        of_a, of_b, to_rows = (at.astype(np.uint64) for at in offsets)
        multiplied(a.astype(dtype).ravel(), of_a, b.astype(dtype).ravel(), of_b, depth, c.ravel(), to_rows)
        assert np.abs(c[place, :-2] - a @ b.T).max() < 100 * np.finfo(dtype).eps
        assert not c[:, -2:].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_add_up_where_their_places_overlap(dtype):
    """Rows come back to a place after nine, blocks after two: in no tile twice."""
    from numba import njit

    from fedauto_core.engine import products

    @njit(error_model="numpy")
    def added(a, rows, columns, b, width, c, to_rows, to_columns):
        products.multiply_overlapping(a, rows, columns, b, width, c, to_rows, to_columns)

    rng = np.random.default_rng(0)
    for rows, depth, blocks in itertools.product((1, 4, 9, 21), (1, 7), (1, 2, 5)):
        a, b, c = rng.standard_normal((rows, depth)), rng.standard_normal((depth, 8 * blocks)), np.zeros(9 * 16)
        to_rows, to_columns = 16 * (np.arange(rows) % 9), 8 * (np.arange(blocks) % 2)
        places = to_rows[:, None] + np.repeat(to_columns, 8) + np.tile(np.arange(8), blocks)
        np.add.at(c, places, a @ b)
        offsets = np.arange(rows) * depth, np.arange(depth), to_rows, to_columns
        of_a, columns, *to = (at.astype(np.uint64) for at in offsets)
        ours = np.zeros(len(c), dtype)
        added(a.astype(dtype).ravel(), of_a, columns, b.astype(dtype).ravel(), np.uint64(8 * blocks), ours, *to)
        assert np.abs(ours - c).max() < 1000 * np.finfo(dtype).eps


def test_no_two_functions_of_the_kernels_have_one_name():
    """By which, and a number that each process counts for itself, Numba finds them in what it has in its cache."""
    from numba.core.registry import CPUDispatcher

    from fedauto_core.engine import attention_kernels, dense_kernels, kernels, products, stage_kernels
    from fedauto_core.engine import transformer_kernels as transformers

    modules = attention_kernels, dense_kernels, kernels, products, stage_kernels, transformers
    found = {value for module in modules for value in vars(module).values() if isinstance(value, CPUDispatcher)}
    names = {(function.py_func.__module__, function.py_func.__qualname__) for function in found}
    assert len(names) == len(found) > 50


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_matrix_is_padded_and_comes_back_without_touching_what_lies_behind_it(dtype):
    from numba import njit

    from fedauto_core.engine import products

    @njit(error_model="numpy")
    def there_and_back(source, rows, columns, wide, width, target):
        products.widen(source, rows, columns, wide, width)
        products.tighten(wide, rows, columns, width, target)

    for rows, columns in itertools.product((1, 2, 9), (1, 4, 8, 10)):
        width = -(-columns // 8) * 8
        source, wide = np.arange(1, rows * columns + 1, dtype=dtype), np.full(rows * width + 5, -1, dtype)
        target = np.full(rows * columns + 5, -2, dtype)
        there_and_back(source, rows, columns, wide, width, target)
        assert np.array_equal(wide[: rows * width].reshape(rows, width)[:, :columns].ravel(), source)
        assert (wide[rows * width :] == -1).all() and (target[rows * columns :] == -2).all()
        assert np.array_equal(target[: rows * columns], source)


def test_without_numba_torch_computes_the_same_and_one_line_says_so(monkeypatch, caplog):
    model, start, x, y, batches = task(NETWORKS["small, digits"])
    ours, logits = local_updates(model, start, x, y, batches, 0.1), predict(model, start, x)
    for name in [name for name in sys.modules if name.partition(".")[0] == "numba"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(compiled, "_entries", {})
    compiled._report.cache_clear()
    for backend in ("auto", "compiled"):
        without = local_updates(model, start, x, y, batches, 0.1, backend=backend)
        assert torch.equal(without, local_updates(model, start, x, y, batches, 0.1, backend="stacked"))
        assert (without - ours).abs().max() < 1e-10
        assert (predict(model, start, x) - logits).abs().max() < 1e-10
    assert compiled.gradients(model, start, x, batches[:, 0], torch.zeros(3, 5, 2, dtype=start.dtype)) is None
    (line,) = caplog.records
    assert line.levelname == "WARNING" and "no compiled kernels" in line.message and "numba" in line.message


def test_the_core_imports_numba_at_the_first_use_only():
    code = (
        "import sys, torch\nfrom fedauto_core.engine import compiled, local, rounds\n"
        "from fedauto_core.models.model import build_model\n"
        "model = build_model('vit', (1, 8, 8), 2)\n"
        "local.predict(model, torch.zeros(1, model.n_parameters), torch.zeros(3, 1, 8, 8))\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """An entry that compiles at once, and a cache of its own: compile(cache) -> what it computes of [1, 2, 3]."""
    from fedauto_core.engine import kernels

    def double(numbers):
        for i in range(len(numbers)):
            numbers[i] *= 2

    monkeypatch.setattr(kernels, "double", double, raising=False)

    def result():
        monkeypatch.setenv("FEDAUTO_DATA", str(tmp_path / "cache"))
        numbers = np.array([1.0, 2.0, 3.0])
        compiled._compile("kernels", "double", (numbers,))(numbers)
        return numbers.tolist()

    return result


def test_what_is_compiled_is_kept_in_the_cache_of_the_project(tiny, tmp_path):
    assert tiny() == [2, 4, 6]
    (data,) = (tmp_path / "cache" / "kernels").rglob("*.nbc")
    before = data.stat().st_mtime_ns
    assert tiny() == [2, 4, 6] and data.stat().st_mtime_ns == before


@pytest.mark.parametrize("suffix", ["nbc", "nbi"])
def test_a_damaged_cache_is_done_without_and_healed(tiny, tmp_path, suffix):
    tiny()
    (damaged,) = (tmp_path / "cache" / "kernels").rglob(f"*.{suffix}")
    damaged.write_bytes(damaged.read_bytes()[:20])
    assert tiny() == [2, 4, 6] and not damaged.exists()
    assert tiny() == [2, 4, 6] and damaged.stat().st_size > 20


def test_a_cache_that_cannot_be_written_is_done_without(tiny, tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    assert tiny() == [2, 4, 6]
