"""What is measured of predictions and maps: consistency, kappa, lesions, pairs of maps, faithfulness."""

from gaze.metrics.classification import CohenKappa
from gaze.metrics.compare import compare_maps
from gaze.metrics.consistency import GazeConsistency

__all__ = ["CohenKappa", "GazeConsistency", "compare_maps"]
