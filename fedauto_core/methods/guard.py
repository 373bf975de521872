"""What is refused, in the simulation and in a deployment alike: updates that are not finite, and steps that diverge."""

from torch import Tensor

FARTHEST = 100.0  # a model this many times farther from the start than the start from zero has diverged


def finite(updates: Tensor) -> Tensor:
    """Which of the updates [K, P] are finite, bool [K], as their sums show: one beyond the dtype is none, either."""
    return updates.sum(dim=1).isfinite()


def is_sound(w: Tensor, w0: Tensor) -> bool:
    """Whether a step may lead to w [P] in a run that began at w0 [P]: w is finite, and not too far from there."""
    return float((w - w0).norm()) <= FARTHEST * (1 + float(w0.norm()))  # false for nan as well
