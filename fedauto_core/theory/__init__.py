"""Convergence theory of the aggregation view: problems, constants, theorems, checked bounds, proofs, attacks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
