"""Caches of a test's own."""

from fedauto_core.store.files import cache_folder

COMPILED = cache_folder().absolute() / "kernels"  # found before any test names another cache


def own_cache(folder):
    """The folder, as a cache in which nothing is but the compiled code of all: to compile takes a quarter of a minute
    and more, and gives no other numbers."""
    COMPILED.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernels").symlink_to(COMPILED)
    return folder
