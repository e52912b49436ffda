from .backbones import look
from .cam import grad_cam, normalize_cam
from .consistency import GazeConsistencyLoss, curriculum, gaze_deviation
from .metrics import CohenKappa, GazeConsistency

__all__ = [
    "CohenKappa",
    "GazeConsistency",
    "GazeConsistencyLoss",
    "curriculum",
    "gaze_deviation",
    "grad_cam",
    "look",
    "normalize_cam",
]

__version__: str
