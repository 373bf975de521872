"""The student's edition: what a check reads is there before anybody has answered."""

import ast
import builtins
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from fedauto_core.teaching.edition import make_edition

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def unknown(notebook):
    """Names that a check of the student's edition reads and no cell above it makes."""
    known, missing = set(dir(builtins)), set()
    for cell in make_edition(notebook, "student").cells:
        if cell.cell_type != "code":
            continue
        nodes = list(ast.walk(ast.parse(cell.source)))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        if cell.id.startswith("check-"):
            missing |= {name.id for name in names} - known
        known |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
        known |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        imported = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
        known |= {(alias.asname or alias.name).split(".")[0] for alias in imported}
    return missing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_check_reads_nothing_that_only_a_solution_makes(path):
    assert unknown(nbformat.read(path, as_version=4)) == set()


def test_a_fact_of_the_solution_alone_is_found():
    solved = '### BEGIN SOLUTION\nspread = 1.0\nanswer = 2\n### END SOLUTION\nexercises.check("10.5", answer, s=spread)'
    lesson = new_code_cell("from fedauto_core.teaching.books import n10 as exercises")
    assert unknown(new_notebook(cells=[lesson, new_code_cell(solved)])) == {"spread"}
