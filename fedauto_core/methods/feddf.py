"""FedDF: the average of the arrived models is distilled towards their ensemble on the public inputs.

Lin, Kong, Stich, Jaggi, "Ensemble distillation for robust model fusion in federated learning", NeurIPS 2020. Assumes
nothing about participation and knows nothing of the network; uses the public images without their labels. No memory
between rounds (during one: the K teachers and their scores), no extra traffic; K passes over the public data and
`server_steps` public minibatch gradients per round.
Differs from the paper in: no early stopping and no choice of the best student, which need a labelled validation set
(the authors' "unlabelled" method uses one) and cost evaluations; instead, by default, 10 Adam steps at a constant rate,
where theirs are up to 10,000 that start at 0.001 and stop after 1,000 without gain (`own_steps`: these, the fewest).
The rate is lower here because after few local steps the average is already near the ensemble, and 10 steps of Adam,
whose length does not depend on the gradient's, would lead away from it again. The public images are those of every
other method here, not a foreign data set; temperature 1; Adam's epsilon, see below.
"""

from dataclasses import dataclass

from torch import Tensor

from .adam import Adam
from .base import Arrivals, Method, Server, State, lr_factor, weighted_step
from .checks import check_integer, check_positive

# The student starts near the ensemble: with Adam's 1e-8, entries whose gradient is rounding noise take full steps.
EPSILON = 3e-5


@dataclass(frozen=True)
class FedDF(Method):
    """Student: w + sum_k (n_k / n_A) Delta_k; it minimises the cross-entropy with softmax(mean_k logits(w + Delta_k)).

    distill_lr: Adam's rate in the first round; it falls with the clients' step size. server_steps: its steps per round;
    own_steps: the paper's.
    """

    name = "feddf"
    source = "Lin et al. 2020"
    family = "public data again"
    contest = "public data"
    public_data = "as a participant; unlabelled, for distillation"
    needs_scores = True
    own_steps = 1000
    knob = ("distill_lr", (0.0001, 0.0003, 0.001))
    distill_lr: float = 0.0003
    server_steps: int = 10

    def __post_init__(self) -> None:
        check_positive(self, "distill_lr")
        check_integer(self, "server_steps", 1)

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        counts = state.context.counts[arrivals.ids]
        average, state = weighted_step(state, w, arrivals, counts / counts.sum())
        if len(counts) < 2:  # the only teacher is the student
            return average, state
        # t(x) = softmax(mean_k f(w + Delta_k; x)).
        targets = server.logits(w + arrivals.deltas).mean(dim=0).softmax(dim=-1)
        # min_w mean_x KL(t(x) || softmax f(w; x)): the cross-entropy with soft labels has the same gradient.
        student = average.clone()
        adam = Adam(student, self.distill_lr * lr_factor(state, arrivals), epsilon=EPSILON)
        for _ in range(self.server_steps):
            adam.step(server.gradient(student, targets))
        return student, state.noted({"distilled": float((student - average).norm())})
