"""The exercises of the notebooks, one module each: `n03.check("03.2", answer)`."""

from importlib import import_module
from pkgutil import iter_modules

from fedauto_core.errors import require_known
from fedauto_core.teaching.exercises import Book


def numbers() -> list[str]:
    """The numbers of the notebooks that have a book, such as "03"."""
    return sorted(module.name.removeprefix("n") for module in iter_modules(__path__))


def find_book(number: str) -> Book:
    """The book of notebook `number`. Raises InputError where there is none."""
    require_known("book", number, numbers())
    return import_module(f"{__name__}.n{number}").book
