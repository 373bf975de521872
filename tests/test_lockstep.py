"""What runs ask their servers is answered as one stack: the numbers of each run alone, and no error is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pandas as pd
import pytest
import torch
from lora_twin import SCHEDULE as LORA_SCHEDULE
from lora_twin import World
from torch import Tensor

from fedauto_core import InputError
from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Averaging, Run, Schedule, public, simulate
from fedauto_core.engine.lockstep import ask, in_lockstep
from fedauto_core.methods import make_method
from fedauto_core.methods.fedavg import FedAvg
from fedauto_core.models import Model, build_model
from fedauto_core.network import Scenario, Trace, draw_trace
from fedauto_core.seeding import stream

SCHEDULE = Schedule(rounds=10, steps=2, batch=8, evaluate_every=1)
HALF = Scenario("half", "bernoulli", (("probability", 0.5),))
SPEC = FederationSpec(5, 60, 40, "classes", classes_per_client=2)
METHODS = (
    make_method("fedauto"),
    make_method("server_finetuning", average=make_method("fedauto", compensation="underweighted"), server_steps=3),
    make_method("server_finetuning", server_steps=3),
    make_method("server_finetuning", server_steps=5),
    make_method("fedlaw"),
    make_method("fedlaw", server_steps=4),
    make_method("feddf"),
    make_method("feddu"),
    make_method("data_sharing"),
    make_method("fedavg"),
)
PUBLIC = ("server_finetuning", "fedlaw", "feddf", "feddu")


def doubled(numbers: list[int]) -> list[int]:
    """Twice each of them, and how many were asked together."""
    return [(2 * number, len(numbers)) for number in numbers]


def negated(numbers: list[int]) -> list[int]:
    return [(-number, len(numbers)) for number in numbers]


def test_a_question_outside_is_answered_alone() -> None:
    assert ask(doubled, None, 3) == (6, 1)


def test_an_error_is_not_hidden_by_one_of_an_asker_that_is_ended() -> None:
    def waits() -> None:
        try:
            ask(doubled, None, 1)
        finally:
            raise KeyError("while it was ended")

    def fails() -> None:
        raise ArithmeticError("the first")

    with pytest.raises(ArithmeticError, match="the first"):
        in_lockstep([waits, fails])


def test_questions_of_a_kind_and_group_are_asked_together() -> None:
    """At each point those of the askers that are still on their way, however many each of them has."""

    def asking(*questions: tuple[Callable, str, int]) -> list[tuple[int, int]]:
        return [ask(*question) for question in questions]

    results = in_lockstep(
        [
            partial(asking, (doubled, "a", 1), (doubled, "a", 2), (doubled, "a", 3)),
            partial(asking, (doubled, "b", 4), (negated, "a", 5)),
            partial(asking),
            partial(asking, (doubled, "a", 6), (negated, "a", 7), (doubled, "a", 8)),
        ]
    )
    assert results == [[(2, 2), (4, 1), (6, 2)], [(8, 1), (-5, 2)], [], [(12, 2), (-7, 2), (16, 2)]]
    assert in_lockstep([]) == []


def test_lockstep_within_lockstep_keeps_the_questions_apart() -> None:
    def outer(number: int) -> list[tuple[int, int]]:
        inner = in_lockstep([partial(ask, doubled, None, number)] * 3)
        return [*inner, ask(doubled, None, number)]

    assert in_lockstep([partial(outer, 1), partial(outer, 2)]) == [[(2, 3)] * 3 + [(2, 2)], [(4, 3)] * 3 + [(4, 2)]]


@pytest.mark.parametrize("place", ["before", "between", "answer"])
def test_an_error_surfaces_and_ends_the_others(place: str) -> None:
    ended = []

    def failing() -> None:
        if place == "between":
            ask(doubled, None, 1)
        raise ZeroDivisionError(place)

    def broken(numbers: list[int]) -> list[int]:
        raise ZeroDivisionError(place)

    def waiting() -> None:
        try:
            while True:
                ask(doubled, None, 1)
        finally:
            ended.append(True)

    third = partial(ask, broken, None, 1) if place == "answer" else failing
    with pytest.raises(ZeroDivisionError, match=place) as caught:
        in_lockstep([waiting, waiting, third, waiting])
    assert ended == [True] * (2 if place == "before" else 3)
    assert caught.traceback[-1].name == ("broken" if place == "answer" else "failing")


def test_too_few_answers_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        in_lockstep([partial(ask, lambda asked: asked[1:], None, number) for number in range(2)])


def runs_of(dtype: torch.dtype = torch.float32) -> tuple[Averaging, list[Run]]:
    """Every method on two seeds, two federations (of unequal servers) and with several step sizes."""
    digits = load_dataset("digits")
    digits = replace(digits, x_train=digits.x_train.to(dtype), x_test=digits.x_test.to(dtype))
    model, runs = build_model("mlp", (1, 8, 8), 10), []
    for seed, spec in ((0, SPEC), (1, SPEC), (1, replace(SPEC, server_samples=25))):
        federation = build_federation(digits, spec, seed)
        trace = draw_trace(HALF, rounds=SCHEDULE.rounds, histograms=federation.alpha[1:], seed=seed)
        w0 = model.init(stream(seed, "initial model")).to(dtype)
        for position, method in enumerate(METHODS):
            lr = 0.1 if position % 2 else 0.05
            runs.append(Run(method.name, method, federation, trace, w0, seed, lr, with_server=position % 3 > 0))
    return Averaging(model), runs


def assert_as_alone(averaging: Averaging, runs: Sequence[Run], schedule: Schedule, atol: float) -> None:
    together = simulate(averaging, runs, schedule)
    for index, run in enumerate(runs):
        alone = simulate(averaging, [run], schedule)
        for name in ("curves", "rounds"):
            mine, expected = getattr(together, name), getattr(alone, name).drop(columns="run")
            mine = mine[mine["run"] == index].drop(columns="run").reset_index(drop=True)[list(expected)]
            pd.testing.assert_frame_equal(mine, expected, check_exact=False, atol=atol, rtol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_run_does_not_depend_on_whose_server_asks_beside_it(dtype: torch.dtype, atol: float) -> None:
    """Numbers of steps, step sizes, seeds and federations differ; all are in one block."""
    assert_as_alone(*runs_of(dtype), SCHEDULE, atol)


@pytest.mark.parametrize("name", ["factor", "residual"])
def test_nor_where_the_factors_of_lora_are_averaged(name: str) -> None:
    averaging, runs = World().runs(name, METHODS)
    assert_as_alone(averaging, runs, replace(LORA_SCHEDULE, evaluate_every=1), 1e-5)


def test_the_runs_of_a_block_share_the_calls_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first round: per kind, how many models each call holds."""
    held: dict[str, list[int]] = {"local_updates": [], "loss_gradients": [], "predict": []}
    for name, real in [(name, getattr(public, name)) for name in held]:

        def counted(model: Model, theta: Tensor, *args: object, _name=name, _real=real, **options: object) -> Tensor:
            held[_name].append(len(theta))
            return _real(model, theta, *args, **options)

        monkeypatch.setattr(public, name, counted)
    averaging, runs = runs_of()
    runs = [replace(run, trace=first_round(run.trace)) for run in runs if run.method.name in PUBLIC]
    simulate(averaging, runs, replace(SCHEDULE, rounds=1))
    # FedLAW's 10 and 4 steps for 3 federations; FedDF's 10 begin a call later, as it asks for its teachers' scores.
    assert held["loss_gradients"] == [6] + [9] * 3 + [6] * 6 + [3]
    # Each federation has its own samples: FedDF's teachers and FedDU's one model are scored together.
    teachers = sum(run.trace.arrived[0].sum() + run.with_server for run in runs if run.method.name == "feddf")
    assert len(held["predict"]) == 3 and sum(held["predict"]) == teachers + 3
    assert held["local_updates"] == [3, 3, 3]  # fine-tuning of 3 steps and of 5, and FedDU's, which scores first


def first_round(trace: Trace) -> Trace:
    parts = {name: getattr(trace, name)[:1] for name in ("arrived", "cause", "success_probability")}
    return replace(trace, **parts)


@dataclass(frozen=True)
class Failing(FedAvg):
    """Not a method: asks for classes that the server does not hold, or gives up, after a first training."""

    name: ClassVar[str] = "failing"
    classes: tuple[int, ...] | None = None

    def aggregate(self, state, w, arrivals, server):
        server.train(w, 2)
        if self.classes:
            server.train(w, 2, classes=self.classes)
        raise ZeroDivisionError("gave up")


def test_what_a_method_raises_surfaces() -> None:
    averaging, runs = runs_of()
    with pytest.raises(ZeroDivisionError, match="gave up"):
        simulate(averaging, [*runs, replace(runs[0], method=Failing())], SCHEDULE)
    with pytest.raises(InputError, match=r"no sample of the classes \[10\].*Allowed: classes \[0, 1, 2"):
        simulate(averaging, [*runs, replace(runs[0], method=Failing(classes=(10,)))], SCHEDULE)
