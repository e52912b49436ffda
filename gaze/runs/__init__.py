"""Run folders: their state, what may be done in them, grids of them, and their tables."""

import lazy_loader

# pandas, which reading tables needs, is loaded at first use.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
