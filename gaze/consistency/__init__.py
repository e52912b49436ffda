"""Gaze consistency: distances between maps, the deviation from a class's gaze, the losses and their schedule."""

from gaze.consistency.deviation import gaze_deviation
from gaze.consistency.guidance import guidance_loss
from gaze.consistency.loss import GazeConsistencyLoss
from gaze.consistency.schedule import curriculum

__all__ = ["GazeConsistencyLoss", "curriculum", "gaze_deviation", "guidance_loss"]
