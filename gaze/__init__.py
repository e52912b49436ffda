"""Gaze: how consistently a classifier looks, as a number and as a training signal.

What a training loop of one's own needs can be imported from here, the rest from the wings below:

    from gaze import CohenKappa, GazeConsistency, GazeConsistencyLoss
    from gaze import curriculum, gaze_deviation, grad_cam, load_run, look, normalize_cam
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

# Loaded at first use, as __init__.pyi has them: settings and analysis do without PyTorch, so the package may not
# import it.
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("gaze-consistency")  # "gaze" is another project's name on the package index
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "unknown"


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
