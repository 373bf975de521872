"""FedLAW: aggregation weights and the length of the step, learned on the public data in every round.

Li, Lin, Shang, Wu, "Revisiting weighted aggregation in federated learning with neural networks", ICML 2023. Assumes
nothing about participation and knows nothing of the network, but needs *labelled* public data. No memory between rounds
(during one: the K updates), no extra traffic; `server_steps` public minibatch gradients per round.
Differs from the paper in: gamma scales the averaged *update*, not the model, because a pre-trained model must not be
shrunk to zero (both forms agree for gamma = 1); by default 10 minibatches at a constant rate of 0.1 instead of 20
epochs (`own_steps`: 160 minibatches of 128 of the 1,000 public samples of CIFAR-10 there) at 0.01, since server
gradients are the method's whole cost here; the proxy set is the server's public data, never cut from the test set.
Where the server is a participant, its own update was trained on the data by which it is weighed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .adam import Adam
from .base import Arrivals, Method, Server, State, combine, mixture_log
from .checks import check_integer, check_positive

BETAS = (0.5, 0.999)  # of Adam, as in the authors' code


@dataclass(frozen=True)
class FedLAW(Method):
    """w_{r+1} = w_r + gamma sum_k lambda_k Delta_k; gamma and lambda minimise the public cross-entropy.

    weight_lr: Adam's rate for the logits z of lambda and for log gamma. server_steps: 0 is FedAvg; own_steps: the
    paper's.
    """

    name = "fedlaw"
    source = "Li et al. 2023"
    family = "public data again"
    contest = "public data"
    public_data = "as a participant; labelled, to learn the weights"
    needs_scores = True
    own_steps = 160
    knob = ("weight_lr", (0.03, 0.1, 0.3))
    weight_lr: float = 0.1
    server_steps: int = 10

    def __post_init__(self) -> None:
        check_positive(self, "weight_lr")
        check_integer(self, "server_steps", 0)

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, deltas = arrivals.ids, arrivals.deltas
        if not len(ids):
            return w, state.next(log={})
        # lambda = softmax(z), gamma = e^x; z = log n_k and x = 0 start at FedAvg.
        z = torch.as_tensor(state.context.counts[ids], dtype=w.dtype, device=w.device).log()
        x = z.new_zeros(())
        adams = [Adam(one, self.weight_lr, betas=BETAS) for one in (z, x)]
        for _ in range(self.server_steps):
            shares = z.softmax(dim=0)
            beta = x.exp() * shares
            # dF / d beta_k = <g, Delta_k>, g = grad F(w + sum_k beta_k Delta_k).
            slopes = deltas @ server.gradient(w + beta @ deltas)
            # d beta_k / dz_j = beta_k (1{j = k} - lambda_j) and d beta_k / dx = beta_k.
            for adam, slope in zip(adams, (beta * (slopes - shares @ slopes), beta @ slopes), strict=True):
                adam.step(slope)
        gamma = float(x.exp())
        learned = gamma * z.softmax(dim=0).double().cpu().numpy()
        log = mixture_log(learned, state.context.alpha[ids], state.context.target) | {"gamma": gamma}
        return w + combine(learned, deltas), state.next(log=log, weights=learned)
