"""An experiment: everything that determines its numbers, as a frozen value."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from fedauto_core.data.partition import FederationSpec
from fedauto_core.engine.averaging import aggregation
from fedauto_core.engine.pretraining import Pretraining
from fedauto_core.engine.spec import Schedule
from fedauto_core.errors import require, require_known
from fedauto_core.methods.base import Method
from fedauto_core.models.adapters import LoRA
from fedauto_core.network import Scenario

SCRATCH = None
"""`Experiment.start` for a randomly initialised model."""


@dataclass(frozen=True)
class Cell:
    """One line of a comparison, run once per seed.

    Parameters
    ----------
    label : its name in the frames
    method, scenario, federation : who aggregates, under which failures, on which division of the data
    lr : client step size gamma
    with_server : whether the server's own update is among the arrivals
    epsilon : privacy of the label histograms that clients report (inf: exact)
    tags : extra columns of the frames, as (name, value) pairs
    """

    label: str
    method: Method
    scenario: Scenario
    federation: FederationSpec
    lr: float
    with_server: bool = True
    epsilon: float = float("inf")
    tags: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Experiment:
    """Everything that determines the numbers.

    Parameters
    ----------
    dataset, model : names, of `data.DATASETS` and `models.ARCHITECTURES`
    start : pre-training whose features are kept under a fresh head, or SCRATCH
    schedule : rounds T, local steps E, minibatches, evaluations
    cells : the lines of the comparison
    seeds : one repetition each
    device : "cpu" or "cuda"

    Raises
    ------
    InputError : without cells or seeds, for another device, or if two cells cannot be told apart
    """

    dataset: str
    model: str
    start: Pretraining | None
    schedule: Schedule
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_known("device", self.device, ("cpu", "cuda"))
        require(
            len(self.cells) > 0 and len(self.seeds) > 0 and len({*self.seeds}) == len(self.seeds),
            f"{len(self.cells)} cells and {len(self.seeds)} seeds, {self.seeds}",
            allowed="at least one of each, every seed once",
            remedy="name at least one method and one seed",
        )
        keys = [(cell.label, cell.scenario.name, cell.with_server, cell.tags) for cell in self.cells]
        twins = sorted({str(key) for key in keys if keys.count(key) > 1})
        require(
            not twins,
            f"cells that cannot be told apart: {', '.join(twins)}",
            allowed="one cell per label, scenario, with_server and tags",
            remedy="give them different labels",
        )


@dataclass(frozen=True, kw_only=True)
class AdapterExperiment(Experiment):
    """The same with LoRA on the frozen model.

    Parameters
    ----------
    lora : rank, scale and adapted layers
    aggregation : how factors are averaged, one of `engine.AGGREGATIONS`
    """

    lora: LoRA
    aggregation: str = "factor"

    def __post_init__(self) -> None:
        super().__post_init__()
        aggregation(self.aggregation)


@dataclass(frozen=True)
class Result:
    """Frames of every run with the columns label, method, scenario, seed, with_server, lr, trace and the tags."""

    curves: pd.DataFrame
    rounds: pd.DataFrame
    key: str


def units(experiment: Experiment) -> list[Experiment]:
    """The experiment as pieces that run in lockstep by themselves: one seed of one scenario each.

    The pieces do not depend on how many processes share them, so neither do the numbers.
    """
    scenarios = dict.fromkeys(cell.scenario for cell in experiment.cells)
    cells = {scenario: tuple(c for c in experiment.cells if c.scenario == scenario) for scenario in scenarios}
    return [replace(experiment, cells=cells[s], seeds=(seed,)) for seed in experiment.seeds for s in scenarios]


def groups(todo: Sequence[Experiment]) -> list[list[Experiment]]:
    """The units that go through the rounds together: on the CPU each by itself, so that the cores share them and an
    interrupted run loses little; on a GPU, which only large stacks keep busy, all that train one model (with LoRA the
    frozen part is the seed's own). Company changes a unit's numbers by rounding only."""
    found: dict[object, list[Experiment]] = {}
    for unit in todo:
        frozen_part = unit.seeds if isinstance(unit, AdapterExperiment) else ()
        found.setdefault(unit if unit.device == "cpu" else frozen_part, []).append(unit)
    return list(found.values())
