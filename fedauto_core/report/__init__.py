"""A report: its notebooks, the pages that they leave, the batch that runs them.

*Recording* is what a notebook does: it shows a figure, a table or a verdict and leaves it as files (`record`). What it
leaves is its *page*: a folder with those files, the executed notebook and its HTML. A *report* is the folder of all
pages of a profile, with index.html, claims.md and status.md on top.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
