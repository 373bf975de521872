"""Deliberate errors in the theory code, and the check that notices each: what the checks are worth.

A generator over the syntax tree makes the mutants, nobody chooses them: in every function of `TARGETS` each number
comes out a tenth larger and a tenth smaller, each sum loses a term or changes a sign, products become quotients, roots
and signs are dropped, minima and comparisons turned round. A mutant is caught by the first of `CHECKS` whose outcome it
changes from right to wrong. The checks are instances on which an inequality is (nearly) attained, and formulas written
out once more; one that no check notices is a hole in the ladder, or no error.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import CodeType, FunctionType

import numpy as np

from fedauto_core.errors import require

from .. import nets, posterior
from ..bound import aggregation, checks, constants, corrected, enumeration, improved, likely, terms
from ..bound.first import GENERAL, SINGLE_STEP
from ..bound.improved import THEOREMS, convex_checks, polyak_checks
from ..bound.terms import Coefficients
from ..bound.theorem import Theorem
from ..problems import curvature
from ..problems.quadratics import Quadratics
from ..problems.regression import SoftmaxRegression
from ..problems.split import Split
from ..proof import first as proof
from . import adaptive, exact
from .known_answers import CHECKS

ROUND, IMPROVED_ROUND = (tuple(f"{t.checks['round'][0]}, E {which}" for which in ("= 1", "> 1")) for t in THEOREMS)
BIAS = ("S5 bias", "S5 bias, no feature shift", "I4 bias")
CONVEX = ("I6 convex", "I6 convex, by recursion")
SUMMED = ("S6 summed", "S6 summed, improved")
APART, WORST = ("parts of a round",), ("exact worst case",)  # no inequalities, but what they are read with
STALE = ("stale bias", "stale step, E = 1")
EVERY = (*ROUND, *IMPROVED_ROUND, *BIAS, *SUMMED)

TARGETS: dict[FunctionType, tuple[str, ...]] = {
    terms.progress: ROUND + IMPROVED_ROUND,
    terms.noise_bound: ("S3 noise",),
    terms.noise: ROUND + IMPROVED_ROUND,
    terms.first_errors: ROUND,
    terms.first_drift: ("S4 drift", *ROUND[1:]),
    terms.first_bias: ("S5 bias",),
    terms.improved_errors: IMPROVED_ROUND,
    terms.split_errors: IMPROVED_ROUND[1:],
    terms.noise_factor: IMPROVED_ROUND,
    terms.drift_factors: ("I3 drift", *IMPROVED_ROUND[1:]),
    terms.improved_drift: ("I3 drift", *IMPROVED_ROUND[1:]),
    terms.improved_bias: ("I4 bias",),
    terms.stale_bias: STALE,
    terms.control_bias: ("control bias",),
    terms.missing_class: ("missing class",),
    terms.unseen_class: ("unseen class",),
    checks.unseen_class_checks: ("unseen class",),
    terms.contraction: ("I5 PL",),
    terms.convex_errors: CONVEX,
    terms.convex_distance: ("I6 convex, by recursion",),
    Theorem.step_limit: ROUND + IMPROVED_ROUND,
    Theorem.covers: ROUND + IMPROVED_ROUND,
    Theorem.terms: ROUND + IMPROVED_ROUND,
    Theorem.total: ROUND + IMPROVED_ROUND,
    constants.kappa2: BIAS,
    constants.delta2: BIAS,
    constants.constants_of: EVERY,
    checks.round_terms: ROUND + IMPROVED_ROUND,
    checks.bias_checks: BIAS,
    checks.missing_class_check: ("missing class",),
    checks.stale_checks: STALE,
    corrected.corrected_checks: ("corrected steps",),
    corrected.control_checks: ("control bias",),
    corrected.control_run: ("control rate",),
    corrected.rate_checks: ("control rate",),
    Quadratics.round: (*ROUND, *IMPROVED_ROUND, "corrected steps"),
    checks.summed: SUMMED,
    polyak_checks: ("I5 PL",),
    convex_checks: CONVEX,
    improved._squared_distance: CONVEX,
    enumeration._paths: ("S3 noise", "S4 drift"),
    aggregation._fedavg: EVERY,
    aggregation._fedauto: EVERY,
    Split.target.fget: BIAS,
    Split.pooled.func: EVERY,
    Quadratics.smoothness: ("S1 descent", *ROUND, *IMPROVED_ROUND),
    Quadratics.infimum: SUMMED,
    SoftmaxRegression.smoothness: ("S1 descent", *ROUND, *IMPROVED_ROUND),
    curvature.lora_smoothness: ("LoRA smoothness",),
    curvature.lora_ball_smoothness: ("LoRA smoothness",),
    nets.round_bound: ("estimates",),
    nets.estimate_after_the_fact: ("after the fact, estimated",),
    posterior.remainder_bound: ("after the fact",),
    posterior.certificate: ("after the fact",),
    posterior._segment: ("after the fact", *APART),
    posterior.explained: APART,
    posterior._local: APART,
    posterior._mean_slope: APART,
    posterior._features: APART,
    posterior.Head.values: APART,
    posterior.Head.slopes: APART,
    posterior.Head.cell_slopes: APART,
    posterior.Head.logits: ("after the fact", *APART),
    posterior.Head.smoothness: APART,
    likely.likely_sides: ("single realisations",),
    adaptive.worst_luck: ("single realisations",),
    exact._seen: WORST,
    exact._averaged: WORST,
    exact._errors: WORST,
    exact._along_the_line: WORST,
    exact.smooth_interpolant: WORST,
}
if exact.available():
    TARGETS |= dict.fromkeys((exact.worst_case, exact._taking_part, exact.exact_ratio), WORST)
"""Function -> names of the inequalities that rest on it."""


@dataclass(frozen=True)
class Mutant:
    """The compiled code of `function` with one error. what: the slip in words, "function: right -> wrong"."""

    function: FunctionType
    code: CodeType
    what: str

    @property
    def inequalities(self) -> tuple[str, ...]:
        """Names of the checks that rest on it."""
        return TARGETS[self.function]


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """The package with the error in it, for everybody who holds the function."""
    right = mutant.function.__code__
    mutant.function.__code__ = mutant.code
    try:
        yield
    finally:
        mutant.function.__code__ = right


SMALLEST = 1e-6  # smaller numbers are tolerances
TURNED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARED = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE}
CALLED = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "mean": "sum", "sum": "mean"}


def _slips(node: ast.AST) -> Iterator[ast.AST]:
    """The node with a slip of the pen, in every way."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float) and not 0 < node.value < SMALLEST:
        yield from (ast.Constant(value) for value in ((1.1 * node.value, 0.9 * node.value) if node.value else (0.1,)))
    if isinstance(node, ast.BinOp) and type(node.op) in TURNED:
        yield ast.BinOp(node.left, TURNED[type(node.op)](), node.right)
        if isinstance(node.op, ast.Add | ast.Sub):
            yield from (node.left, node.right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        yield ast.Compare(node.left, [COMPARED[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
        yield ast.Call(ast.Name(CALLED[node.func.id], ast.Load()), node.args, node.keywords)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name = node.func.attr
        if name == "sqrt":
            yield node.args[0]
        if name in CALLED and (name != "sum" or node.keywords):  # a builtin's axis, too
            yield ast.Call(ast.Attribute(node.func.value, CALLED[name], ast.Load()), node.args, node.keywords)


def _places(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where an expression of the body stands (parent, field, position), but for words, axes, ranges and indices."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        parent = waiting.pop(0)
        if isinstance(parent, ast.FunctionDef):
            waiting += parent.body
            continue
        if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "range":
            continue
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "slice") or (isinstance(parent, ast.keyword) and parent.arg == "axis"):
                continue
            for position, child in enumerate(value) if isinstance(value, list) else ((None, value),):
                if isinstance(child, ast.AST):
                    waiting.append(child)
                    yield parent, field, position


def mutants_of(function: FunctionType) -> Iterator[Mutant]:
    """All mutants of a function without closures."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    tree.decorator_list = []
    for parent, field, position in list(_places(tree)):
        node = getattr(parent, field) if position is None else getattr(parent, field)[position]
        for slip in _slips(node):
            what = f"{function.__qualname__}: {ast.unparse(node)} -> {ast.unparse(slip)}"
            _put(parent, field, position, slip)
            made: dict[str, FunctionType] = {}
            whole = ast.fix_missing_locations(ast.Module([tree], []))
            exec(compile(whole, inspect.getfile(function), "exec"), function.__globals__, made)
            _put(parent, field, position, node)
            yield Mutant(function, made[tree.name].__code__, what)


def _put(parent: ast.AST, field: str, position: int | None, node: ast.AST) -> None:
    if position is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[position] = node


COEFFICIENT_MUTANTS: tuple[tuple[str, Coefficients, Coefficients], ...] = tuple(
    (f"{kind}: {name} x 2", right, replace(right, **{name: 2 * number}))
    for kind, right in (("E > 1", GENERAL), ("E = 1", SINGLE_STEP))
    for name, number in vars(right).items()
    if number
)
"""The numbers of the first theorem, each doubled: name, right, wrong."""


def caught_by(mutant: Mutant) -> str | None:
    """The first check that fails under the mutant (an exception is a failure); None if none does."""
    with mutated(mutant), np.errstate(all="ignore"):
        for name, check in CHECKS.items():
            with suppress(Exception):  # whatever a wrong formula leads to
                if check():
                    continue
            return name
    return None


def coefficient_caught_by(right: Coefficients, wrong: Coefficients) -> str | None:
    """The symbolic step that does not close with a wrong number of the first theorem; None if all do."""
    steps = {"S1+S2 one round": proof.one_round, "S4 drift": proof.drift, "S6 telescoping": proof.telescoping,
             "5.4 best lambda": proof.best_lambda}  # fmt: skip
    if right == SINGLE_STEP:
        del steps["S4 drift"]
    closed = all(prove(right).holds for prove in steps.values())
    what = "the theorem's own numbers do not close the proof"
    require(closed, what, allowed="a proof that holds", remedy="mend theory.proof.first")
    return next((name for name, prove in steps.items() if not prove(wrong).holds), None)
