"""What methods share whose step has a length of its own."""

from dataclasses import dataclass

from .base import SERVER_LR, Method
from .checks import check_positive


@dataclass(frozen=True)
class StepLength(Method):
    """server_lr: eta_g, by which the step is scaled; it is tuned beside the client step size."""

    knob = SERVER_LR
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "server_lr")
