"""Networks: the thesis's five levels, and those of a library, and the one way to look at any."""

from gaze.backbones.levels import build_backbone
from gaze.backbones.looking import look

__all__ = ["build_backbone", "look"]
