"""What methods share whose step has a length of its own."""

from dataclasses import dataclass

from .base import Method
from .checks import check_positive


@dataclass(frozen=True)
class StepLength(Method):
    """server_lr: eta_g, by which the step is scaled. Tuned in server optimisers only, where it is the rule's own;
    elsewhere it would give some rules two step sizes to choose, and others one."""

    server_lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "server_lr")
