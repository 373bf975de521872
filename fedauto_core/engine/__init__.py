"""The simulation: local steps, what is averaged, the round loop, pre-training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
