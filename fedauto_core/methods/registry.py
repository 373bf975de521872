"""Every aggregation method of the comparison, by name."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from inspect import get_annotations, signature
from typing import Protocol, get_type_hints

import pandas as pd

from fedauto_core.errors import require, require_known

from .base import Method
from .bounds import Centralised, ServerOnly
from .data_sharing import DataSharing
from .f3ast import F3AST
from .fedar import FedARLike
from .fedau import FedAU
from .fedauto import FedAuto
from .fedauto_memory import FedAutoMemory
from .fedavg import FedAvg, FedAvgAll, FedAvgIdeal
from .fedavg_amplified import FedAvgAmplified
from .fedawe import FedAWE
from .fedcote_like import FedCoteLike
from .feddf import FedDF
from .feddisco import FedDisco
from .feddu import FedDU
from .feddyn import FedDyn
from .fedlaw import FedLAW
from .fednova import FedNova
from .fedpbc import FedPBCLike
from .fedprox import FedProx
from .fedstale import FedStale
from .fedvarp import FedVARP
from .fl_fdms import FLFDMS
from .known_probability import KnownProbability, TFAggregationLike
from .label_matching import LabelMatching
from .mifa import MIFA
from .scaffold import Scaffold
from .server_finetuning import ServerFinetuning
from .server_optimisers import FedAdam, FedAvgM, FedYogi

METHODS: Mapping[str, type[Method]] = {cls.name: cls for cls in (
    FedAuto, FedAutoMemory, FedAvg, FedAvgAll, FedAvgIdeal, ServerOnly, Centralised, FedProx, KnownProbability,
    TFAggregationLike, FedAWE, ServerFinetuning, FedAU, MIFA, FedVARP, F3AST, FLFDMS, FedLAW, FedDF, FedDU,
    DataSharing, FedDisco, LabelMatching, FedCoteLike, Scaffold, FedDyn, FedNova, FedAvgM, FedAdam, FedYogi,
    FedStale, FedARLike, FedPBCLike, FedAvgAmplified,
)}  # fmt: skip


def make_method(name: str, **hyper: object) -> Method:
    """The method called `name`.

    Parameters
    ----------
    name : one of `METHODS`
    **hyper : hyper-parameters, fields of the method's class; the others keep their defaults

    Raises
    ------
    InputError : names the known methods, or the method's fields
    """
    require_known("method", name, METHODS)
    known = [field.name for field in fields(METHODS[name])]
    for key in hyper:
        require(
            key in known,
            f"method {name!r} has no hyper-parameter {key!r}",
            allowed=", ".join(known) or "none",
            remedy="drop it or use one of the listed fields",
        )
    return METHODS[name](**hyper)


def method_card(methods: Mapping[str, Method]) -> pd.DataFrame:
    """One row per labelled method, generated from the code: what it must know, costs and assumes.

    Costs count numbers (floats): N clients, P parameters, C classes; see `base.Cost`.
    """
    rows = [
        {
            "label": label,
            "family": method.family,
            "contest": method.contest,
            "source": method.source,
            "network knowledge": "yes" if method.needs_network_knowledge else "no",
            "label histograms": "yes" if method.uses_label_histograms else "no",
            "public data": method.public_data,
            "client support": method.client_support or "no",
            "up": method.cost.up,
            "down": method.cost.down,
            "once": method.cost.once,
            "server memory": method.cost.server,
            "client memory": method.cost.clients,
            "assumes": method.assumes,
            "knob": f"{method.knob[0]}: {', '.join(map(str, method.knob[1]))}" if method.knob else "",
            "hyper-parameters": ", ".join(f"{f.name}={getattr(method, f.name)}" for f in fields(method)),
        }
        for label, method in methods.items()
    ]
    return pd.DataFrame(rows)


def method_inputs() -> pd.DataFrame:
    """All that a method is handed, read from the contract: one row per function, argument and member of the argument.

    A member is a field of a dataclass or what a protocol promises; an argument of another type is its own member.
    """
    rows = []
    for name in ("init", "local_work", "aggregate", "judged"):
        function = getattr(Method, name)
        types = get_type_hints(function)
        for argument in list(signature(function).parameters)[1:]:
            rows += [(name, argument, member) for member in _members(types[argument]) or [argument]]
    return pd.DataFrame(rows, columns=["function", "argument", "member"])


def _members(kind: type) -> list[str]:
    if is_dataclass(kind):
        return [field.name for field in fields(kind)]
    if Protocol in kind.__bases__:
        parts = [part for part in kind.__mro__ if Protocol in part.__bases__]
        names = [name for part in reversed(parts) for name in {**get_annotations(part), **vars(part)}]
        return [name for name in names if not name.startswith("_")]
    return []
