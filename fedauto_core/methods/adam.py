"""Adam (Kingma and Ba 2015, Algorithm 1), in the order of operations of torch.optim.Adam, so that the numbers are the
same bits; torch.optim itself imports torch's compiler, some three seconds in every process."""

import torch
from torch import Tensor


class Adam:
    """Minimises over w, in place; w may be of any shape, and a leaf of autograd.

    m, v: running means of the gradient and of its square; t: steps taken.
    """

    def __init__(self, w: Tensor, lr: float, *, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8):
        self.w, self.lr, self.betas, self.epsilon = w, lr, betas, epsilon
        self.m, self.v, self.t = torch.zeros_like(w), torch.zeros_like(w), 0

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """w -= lr m' / (sqrt(v') + epsilon) with m' = m / (1 - beta1^t), v' = v / (1 - beta2^t)."""
        self.t += 1
        beta1, beta2 = self.betas
        self.m.lerp_(gradient, 1 - beta1)
        self.v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (self.v.sqrt() / (1 - beta2**self.t) ** 0.5).add_(self.epsilon)
        self.w.addcdiv_(self.m, scale, value=-(self.lr / (1 - beta1**self.t)))
