"""Connection failures: a scenario is drawn once into a `Trace`, which all methods of a comparison share.

Column k of a trace is client k + 1 (participant 0, the server, never fails); rounds count from 0. A process never
sees the methods, so failures do not depend on the training. To add one, write a function decorated with `process`.
"""

# Loading these registers their processes.
from fedauto_core.network import correlated, independent, markov, physical, recorded, timetable  # noqa: F401

from .base import PROCESSES, Scenario, Setting, draw_trace, process
from .suite import SCENARIOS, SUITE, scenario
from .traces import CAUSES, Cause, Trace

__all__ = [
    "CAUSES", "PROCESSES", "SCENARIOS", "SUITE", "Cause", "Scenario", "Setting", "Trace", "draw_trace", "process",
    "scenario",
]  # fmt: skip
