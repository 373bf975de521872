"""What a number depends on besides its spec: the code that computes it, and the package versions.

The code that a module depends on is read from its import statements, transitively, so a change re-runs
what uses it and nothing else. A package may be a lazy face (`__init__.pyi`): a name that is taken from it stands
for the module that defines the name.
"""

import ast
import functools
import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import resolve_name
from pathlib import Path

ROOT = "fedauto_core"
PACKAGE = Path(__file__).parents[1]
NUMERIC_PACKAGES = ("torch", "numpy", "scipy", "sympy", "pandas", "scikit-learn", "matplotlib", "seaborn", "numba")
OPTIONAL_PACKAGES = ("pepit", "cvxpy", "clarabel", "transformers", "tokenizers", "safetensors")  # of the extras
DATA: Mapping[str, str] = {
    "fedauto_core.experiments.tuning": "experiments/tuned/*.csv",
    "fedauto_core.network.recorded": "network/*.csv",
    "fedauto_core.report.history": "report/first_verdicts.csv",
    "fedauto_core.report.lexicon": "report/symbols.csv",
    "fedauto_core.report.paper": "report/paper_values.csv",
    "fedauto_core.report.papers": "report/*.bib",
    "fedauto_core.report.rules": "report/rules.csv",
    "fedauto_core.report.site": "report/templates/*",
}
"""Module -> pattern of the files beside the code that it reads."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def installed(package: str) -> str:
    """Version of a package, or "absent". Looked up once in a process: it searches folders for a millisecond, and every
    unit's key has all packages."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def versions(optional: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python and of the packages that can change a number; optional: more of them."""
    return {"python": platform.python_version()} | {name: installed(name) for name in (*NUMERIC_PACKAGES, *optional)}


@functools.cache
def _source(module: str) -> Path | None:
    """The file of a module or package of the core; None if there is none of this name."""
    if module.partition(".")[0] != ROOT:
        return None
    stem = PACKAGE.joinpath(*module.split(".")[1:])
    places = (stem.with_suffix(".py"), stem / "__init__.py") if module != ROOT else (PACKAGE / "__init__.py",)
    return next((path for path in places if path.is_file()), None)


@functools.cache
def _face(package: str) -> Mapping[str, str]:
    """Name -> module that defines it, of what a package hands on lazily."""
    stub = PACKAGE.joinpath(*package.split(".")[1:], "__init__.pyi")
    if not stub.is_file():
        return {}
    lines = ast.parse(stub.read_text(encoding="utf-8")).body
    return {
        name.name: f"{package}.{line.module or name.name}"
        for line in lines
        if isinstance(line, ast.ImportFrom)
        for name in line.names
    }


def imported(source: str, package: str = "") -> Iterator[str]:
    """The modules of the core that a piece of Python code imports, anywhere in it; package: where the code lies,
    for its relative imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if _source(name.name))
        elif isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), package)
            for name in node.names if _source(home) else ():
                part = f"{home}.{name.name}"
                yield _face(home).get(name.name) or (part if _source(part) else home)


@functools.cache
def _needs(module: str) -> set[str]:
    """What loading `module` loads: what it imports, the packages around it, and all behind a face taken as a whole."""
    path = _source(module)
    parent = module.rpartition(".")[0]
    package = module if path.name == "__init__.py" else parent
    return {parent} - {""} | {*imported(path.read_text(encoding="utf-8"), package)}


def used_modules(roots: Iterable[str], without: Iterable[str] = ()) -> tuple[str, ...]:
    """`roots` and all they import, transitively, sorted; `without`: modules and packages that are not followed."""
    found: set[str] = set()
    todo = {module for root in roots for module in (root, *_face(root).values())}
    while todo:
        module = todo.pop()
        if module not in found and not any(f"{module}.".startswith(f"{left_out}.") for left_out in without):
            found.add(module)
            for needed in _needs(module):
                todo |= {needed} if f"{module}.".startswith(f"{needed}.") else {needed, *_face(needed).values()}
    return tuple(sorted(found))


def code_hash(roots: Iterable[str], without: Iterable[str] = (), *, wording: bool = True) -> str:
    """SHA-256 over the code of `used_modules` and the data files that they read; wording: False: whatever is no code
    (comments, docstrings, layout) does not count."""
    modules = used_modules(roots, without)
    data = [path for module in modules if module in DATA for path in sorted(PACKAGE.glob(DATA[module]))]
    hash_of = file_hash if wording else meaning_hash
    lines = [(module, _unchanged(hash_of, _source(module))) for module in modules]
    lines += [(path.name, _unchanged(file_hash, path)) for path in data]
    return hashlib.sha256(repr(lines).encode()).hexdigest()


def _unchanged(hash_of: Callable[[Path], str], path: Path) -> str:
    """hash_of(path), computed again only if the file was written since: many notebooks use the same modules."""
    found = path.stat()
    return _hash_at(hash_of, path, found.st_mtime_ns, found.st_size)


@functools.cache
def _hash_at(hash_of: Callable[[Path], str], path: Path, written: int, size: int) -> str:
    return hash_of(path)


def meaning_hash(path: Path) -> str:
    """SHA-256 of the syntax tree of a module without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
