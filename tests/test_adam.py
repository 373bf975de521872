"""Our Adam is torch's, bit for bit, and the methods that use it never load torch's compiler."""

import subprocess
import sys

import pytest
import torch

from fedauto_core.methods.adam import Adam

IN_A_FRESH_PROCESS = """
import sys
from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Run, Schedule, simulate
from fedauto_core.methods import make_method
from fedauto_core.models import build_model
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.seeding import stream

federation = build_federation(load_dataset("digits"), FederationSpec(3, 20, 20, "iid"), 0)
model = build_model("softmax", (1, 8, 8), 10)
trace = draw_trace(Scenario("none", "none", ()), rounds=2, histograms=federation.alpha[1:], seed=0)
w0 = model.init(stream(0, "initial model"))
runs = [Run(name, make_method(name), federation, trace, w0, 0, 0.1, True) for name in ("fedlaw", "feddf")]
rounds = simulate(model, runs, Schedule(2, 1, 4)).rounds
assert rounds["server_samples"].min() > 4, "nothing was learned at the server"
print(*(name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor"))))
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (10_007,), (3, 50)])
@pytest.mark.parametrize(
    ("lr", "betas", "epsilon"), [(0.1, (0.5, 0.999), 1e-8), (3e-4, (0.9, 0.999), 3e-5), (0.03, (0.9, 0.99), 1e-3)]
)
def test_the_steps_are_torchs_bit_for_bit(dtype, shape, lr, betas, epsilon):
    """The gradients span 12 orders of magnitude and include zeros."""
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(shape, dtype=dtype, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    adam, optimiser = Adam(ours, lr, betas=betas, epsilon=epsilon), torch.optim.Adam([theirs], lr, betas, epsilon)
    for step in range(30):
        size = 10 ** (12 * torch.rand(shape, dtype=dtype, generator=generator) - 9)
        gradient = size * torch.randn(shape, dtype=dtype, generator=generator)
        gradient = gradient * (torch.rand(shape, generator=generator) > 0.2)
        adam.step(gradient)
        theirs.grad = gradient.clone()
        optimiser.step()
        assert torch.equal(ours, theirs), step
    assert ours.requires_grad and torch.isfinite(ours).all()


def test_the_methods_that_use_it_do_not_load_the_compiler():
    done = subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
