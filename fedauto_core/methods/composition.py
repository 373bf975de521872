"""FedAuto's aggregation on another method's local work and memory, by name. Ours; see `average`."""

from fedauto_core.errors import require

from .average import Composable
from .fedauto import FedAuto
from .registry import METHODS, make_method

HOSTS = tuple(name for name, cls in METHODS.items() if issubclass(cls, Composable))

PLAIN = FedAuto()


def fedauto_on(name: str, average: FedAuto = PLAIN, **hyper: object) -> Composable:
    """The method called `name` with FedAuto in the place of its mean; its own name is then fedauto_on_`name`.

    Parameters
    ----------
    name : one of `HOSTS`, the methods that form a mean
    average : FedAuto with its hyper-parameters
    **hyper : hyper-parameters of the method called `name`

    Raises
    ------
    InputError : names those on which FedAuto can be put. Not itself, and not methods that are their weights (the
        oracles, label matching), their memory of updates (MIFA, FedVARP) or their use of the public data: nothing of
        them would be left
    """
    require(
        name in HOSTS,
        f"FedAuto on {name!r}",
        allowed=", ".join(HOSTS),
        remedy="put it on one of the listed methods, which form a mean of what arrived",
    )
    return make_method(name, average=average, **hyper)
