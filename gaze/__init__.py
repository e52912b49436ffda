"""Gaze: how consistently a classifier looks, as a number and as a training signal.

What a training loop of one's own needs can be imported from here, the rest from the wings below:

    from gaze import CohenKappa, GazeConsistency, GazeConsistencyLoss
    from gaze import curriculum, gaze_deviation, grad_cam, normalize_cam
"""

import lazy_loader

# Loaded at first use: the settings and the analysis do without PyTorch, so the package may not import it.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cam": ["grad_cam", "normalize_cam"],
        "consistency": ["GazeConsistencyLoss", "curriculum", "gaze_deviation"],
        "metrics": ["CohenKappa", "GazeConsistency"],
    },
)
