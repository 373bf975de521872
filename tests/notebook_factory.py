"""Throw-away notebooks and reports for the tests of the batch."""

from concurrent.futures import Executor, Future
from contextlib import contextmanager

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fedauto_core.report import batch, plan


def write_notebook(folder, name, *sources, parameters=None):
    """A notebook whose sources are code, or Markdown where they start with "# "; its identifiers are fixed."""
    cells = [new_markdown_cell(s) if s.startswith("# ") else new_code_cell(s) for s in sources]
    if parameters is not None:
        cells.insert(0, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")


def write_profile(folder, text, name="tiny"):
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    (folder / "profiles" / f"{name}.yaml").write_text(text, encoding="utf-8")


def jobs_of(folder, *settings):
    return plan.override(plan.read_profile("tiny", folder), settings)


class InProcess(Executor):
    """Runs at once in this process; what was submitted stays readable."""

    def __init__(self, run=None):
        self.run, self.orders = run, []

    def submit(self, function, order):
        self.orders.append(order)
        future = Future()
        try:
            future.set_result((self.run or function)(order))
        except Exception as error:
            future.set_exception(error)
        return future


def use_executor(monkeypatch, executor):
    """Let the batch use `executor` at its seam."""

    @contextmanager
    def seam(*_):
        yield executor

    monkeypatch.setattr(batch, "_executor", seam)
    return executor
