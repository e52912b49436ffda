"""Statistics over seeds and runs: intervals, tests, permutations, bootstrap, and the tables made of them."""

import lazy_loader

# pandas, which tables need, is loaded at first use: who trains does without it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
