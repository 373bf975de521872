"""What a bend of a single inequality is: `bent_steps` and `bent_later` have them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .scalars import Worst, worst_of

Sides = tuple[float, float, Mapping[str, object]]  # measured, bound, and the numbers they follow from


@dataclass(frozen=True)
class StepBend:
    """inequality: name of its checks; assumption, how, needed as in `bent_theorem.Bend`; sides(bent)."""

    inequality: str
    assumption: str
    how: str
    sides: Callable[[bool], Sides]
    needed: bool = True

    def stated(self) -> Worst:
        """The instance with all assumptions in place."""
        return worst_of(*self.sides(False), 1)

    def broken(self) -> Worst | None:
        """The counter-example; None if the inequality stands all the same."""
        found = worst_of(*self.sides(True), 1)
        return found if found.ratio > 1 else None
