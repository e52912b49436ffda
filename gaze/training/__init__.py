"""One run: the module that adds the two losses, the callbacks, checkpoints, and the training itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
