"""A comparison of methods: who takes part, how their step sizes are chosen, and the runs that are compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from fedauto_core.data.datasets import load_dataset
from fedauto_core.data.federation import build_federation
from fedauto_core.data.partition import FederationSpec
from fedauto_core.engine.central import central_optimum
from fedauto_core.engine.local import predict
from fedauto_core.engine.pretraining import Pretraining, pretrained
from fedauto_core.engine.spec import Schedule
from fedauto_core.errors import require_known
from fedauto_core.methods.base import Method
from fedauto_core.methods.registry import METHODS, make_method
from fedauto_core.models.adapters import LoRA
from fedauto_core.models.model import build_model
from fedauto_core.network import Scenario

from .running import run
from .spec import SCRATCH, AdapterExperiment, Cell, Experiment, Result
from .summary import in_every_scenario, summarise
from .tuning import tune, tuned_cells
from .unit import initial_model


def contestants(asked: str, variants: Mapping[str, Method], always: Iterable[str]) -> dict[str, Method]:
    """Label -> method of those `asked` for (comma-separated, or "all"), of those that run `always`, and of the bounds
    (`untouched`).

    variants: methods under labels of their own, beside the registered ones. Without FedNova, which is FedAvg where all
    clients do equal work. InputError for an unknown label.
    """
    known = {name: make_method(name) for name in METHODS if name != "fednova"} | dict(variants)
    labels = list(known) if asked == "all" else asked.split(",")
    for label in labels:
        require_known("method", label, known)
    present = {*labels, *always, *untouched(known)}
    return {label: method for label, method in known.items() if label in present}


def untouched(methods: Mapping[str, Method]) -> list[str]:
    """Labels of the methods that no network can touch: nothing is lost, all data in one place, the server alone."""
    return [label for label, method in methods.items() if method.participation != "network"]


def judged_among(methods: Mapping[str, Method]) -> dict[str, str]:
    """Label -> contest."""
    return {label: method.contest for label, method in methods.items()}


def rivals(methods: Mapping[str, Method], shown: Iterable[str] = ()) -> dict[str, str]:
    """Label -> contest of those whom FedAuto has to beat: not its own variants, not the bounds, and not those that are
    only `shown`."""
    besides = {"ours", "bound"}
    return {label: c for label, c in judged_among(methods).items() if c not in besides and label not in {*shown}}


@dataclass(frozen=True)
class Comparison:
    """What the runs of a comparison share. Tuning and results have no seed and no test image in common.

    methods: label -> method; start: as in `Experiment`; schedule: of the results, which take the first `test_samples`
    test images and the seeds 0 to n - 1 (`seeds`: n); lora: trained on the frozen model, its factors averaged by
    `aggregation`; None: all parameters are trained.
    """

    methods: Mapping[str, Method]
    dataset: str
    model: str
    start: Pretraining | None
    federation: FederationSpec
    schedule: Schedule
    test_samples: int
    seeds: int
    with_server: bool = True
    device: str = "cpu"
    lora: LoRA | None = None
    aggregation: str = "factor"

    def cell(self, label: str, scenario: Scenario, **tags: object) -> Cell:
        """`label` in a scenario; its step size is for the tuning to fill in."""
        method, untuned = self.methods[label], float("nan")
        return Cell(label, method, scenario, self.federation, untuned, self.with_server, tags=tuple(tags.items()))

    def tune(self, scenario: Scenario, rounds: int, seeds: int, lrs: Sequence[float]) -> pd.DataFrame:
        """The table of `tuning.tune` for every method in one scenario. The seeds are 1000, 1001, ...; the test images
        follow those of the results, half as many; only the last rounds, which are judged, are evaluated."""
        test = (self.test_samples, self.test_samples + self.test_samples // 2)
        schedule = replace(self.schedule, rounds=rounds, evaluate_every=rounds, test=test)
        cells = [self.cell(label, scenario) for label in self.methods]
        return tune(self._experiment(cells, schedule, range(1000, 1000 + seeds)), lrs)

    def run(self, cells: Iterable[Cell]) -> Result:
        """The results of `cells`."""
        return run(self._experiment(cells, replace(self.schedule, test=(0, self.test_samples)), range(self.seeds)))

    def compare(self, tuned: pd.DataFrame, scenarios: Sequence[Scenario]) -> Result:
        """The results of every method, as `tuned`, in every scenario; the untouched ones are run once, in the first."""
        result, names = self.run(self.cells(tuned, scenarios)), [scenario.name for scenario in scenarios]
        once = untouched(self.methods)
        curves, rounds = (in_every_scenario(frame, once, names) for frame in (result.curves, result.rounds))
        return replace(result, curves=curves, rounds=rounds)

    def cells(
        self, tuned: pd.DataFrame, scenarios: Sequence[Scenario], labels: Iterable[str] | None = None
    ) -> tuple[Cell, ...]:
        """Those of `compare`, or only those with these labels."""
        asked = [label for label in self.methods if labels is None or label in {*labels}]
        everywhere = [label for label in asked if label not in untouched(self.methods)]
        cells = [self.cell(m, s) for s in scenarios for m in (asked if s == scenarios[0] else everywhere)]
        return tuned_cells(cells, tuned)

    def settle(self, summary: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
        """`summary` with the late_gain of `cells` by other runs: the points of a run less those of one *planned* for
        three quarters of the rounds, same cell and seed. An untouched method's holds in every scenario.

        A slope cannot tell: a falling step size makes it steep, as what swings comes to rest, and then flat, however
        much a longer run would add. The shorter run's step size falls as well; durations of failures stay those of the
        whole run, and where they are drawn anew for a shorter run (mixed, transient) they last as long in the mean. The
        slope is kept as late_slope.
        """
        summary, rounds = summary.assign(late_slope=summary["late_gain"]), int(0.75 * self.schedule.rounds)
        if not cells or not rounds:
            return summary
        planned = replace(self, schedule=replace(self.schedule, rounds=rounds, evaluate_every=rounds))
        ends = summarise(planned.run(cells).curves)
        ends = in_every_scenario(ends, untouched(self.methods), summary["scenario"].unique())
        runs = ["label", "scenario", *(name for name, _ in cells[0].tags), "seed"]
        ends = summary[runs].merge(ends[[*runs, "points"]], how="left", indicator=True).set_axis(summary.index)
        gains = summary["points"] - ends["points"]
        return summary.assign(late_gain=gains.where(ends["_merge"] == "both", summary["late_gain"]))

    def central_accuracy(self, seed: int = 0) -> float:
        """Test accuracy in points, on the test images of the results, of one learner on the whole federation of `seed`,
        trained to the end (`engine.central_optimum`, by a long run: a head's exact optimum overfits)."""
        dataset = load_dataset(self.dataset)
        model = build_model(self.model, tuple(dataset.x_train.shape[1:]), dataset.n_classes)
        checkpoint = None if self.start is SCRATCH else pretrained(self.start).numpy()
        federation, w0 = build_federation(dataset, self.federation, seed), initial_model(checkpoint, model, seed)
        theta = central_optimum(model, federation, w0, exact=False, seed=seed)
        x, y = (part[: self.test_samples] for part in (dataset.x_test, dataset.y_test))
        return 100 * float((predict(model, theta[None], x)[0].argmax(dim=1) == y).double().mean())

    def _experiment(self, cells: Iterable[Cell], schedule: Schedule, seeds: Iterable[int]) -> Experiment:
        parts = (self.dataset, self.model, self.start, schedule, tuple(cells), tuple(seeds), self.device)
        if self.lora is None:
            return Experiment(*parts)
        return AdapterExperiment(*parts, lora=self.lora, aggregation=self.aggregation)
