"""Data sets: where images come from, how they are decoded, kept, audited, augmented and put into batches."""

import lazy_loader

# Lightning, which the module needs, is loaded at first use.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
