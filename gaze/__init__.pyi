from .backbones import look
from .cam import grad_cam, normalize_cam
from .consistency import GazeConsistencyLoss, curriculum, gaze_deviation
from .metrics import CohenKappa, GazeConsistency
from .studies.opened import load_run

__all__ = [
    "CohenKappa",
    "GazeConsistency",
    "GazeConsistencyLoss",
    "curriculum",
    "gaze_deviation",
    "grad_cam",
    "load_run",
    "look",
    "normalize_cam",
]

__version__: str
