"""Composition: a method that forms a mean of what arrived may take the step of another one in its place.

`Scaffold(average=FedAuto())` is SCAFFOLD's local work and memory under FedAuto's weights and compensation. What is
composed with FedAuto is ours; `composition.fedauto_on` gives it by name. Participant m of the compensation does the
plain work: E steps from the broadcast model, without the correction or the proximal term that the method gives to
everybody else. With SCAFFOLD's correction it would bring nothing: less its own mean gradient, plus c, it votes for c.
"""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from fedauto_core.errors import require

from .base import Arrivals, Context, Cost, Method, Server, State
from .checks import fields_of
from .fedavg import FedAvg

PLAIN = FedAvg()


def is_average(method: object) -> bool:
    """Whether it is nothing but a step from what arrived: no memory, no traffic and no local work of its own, so that
    it can stand where another method averages."""
    return (
        isinstance(method, Method)
        and (method.participation, method.public_share) == ("network", 0)
        and method.cost._replace(once="0") == Cost()
        and type(method).init is Method.init
        and method.plain_work
    )


@dataclass(frozen=True)
class Composable(Method):
    """average: the method whose step takes the place of the mean; FedAvg() weighs n_j / n_A over the arrived.

    With another one the instance tells what it then is: its name, whom it is judged among, and what it must know.
    """

    average: Method = PLAIN

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            is_average(self.average),
            f"{self.name}: average = {self.average!r}",
            allowed="methods without memory and local work of their own, such as FedAvg(), FedAuto(), LabelMatching()",
            remedy=f"use one of these, or FedAvg() for the method as published{fields_of(self)}",
        )
        if type(self.average) is not FedAvg:
            for name, value in self._composed(self.average).items():
                object.__setattr__(self, name, value)

    def _composed(self, average: Method) -> dict[str, object]:
        """What the class states, of both together."""
        uses = dict.fromkeys(f"{average.public_data}; {self.public_data}".split("; "))
        return {
            "name": f"{average.name}_on_{self.name}",
            "source": f"ours: {average.source} on {self.source}",
            "contest": average.contest if average.contest == "ours" else self.contest,
            "needs_network_knowledge": average.needs_network_knowledge,
            "uses_label_histograms": average.uses_label_histograms,
            "public_data": "; ".join(uses),
            "cost": self.cost._replace(once=average.cost.once),
        }

    def averaged(
        self, state: State, w: Tensor, arrivals: Arrivals, server: Server, scale: float = 1.0
    ) -> tuple[Tensor, State]:
        """scale times the average's step [P] from w [P], and the state with its log and its weights, scaled; they are
        None where it forms no mean."""
        after, inner = self.average.aggregate(State(state.context), w, arrivals, server)
        weights = None if inner.weights is None else scale * inner.weights
        return scale * (after - w), state.next(log=inner.log, weights=weights)


def counted_equally(context: Context) -> Context:
    """Everyone who could be heard holds the same number of samples, so that all means are uniform."""
    heard = context.counts if context.with_server else context.counts[1:]
    return replace(context, counts=np.full(len(context.counts), heard.mean()))
