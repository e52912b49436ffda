"""Networks: the thesis's five levels, and those of a library."""

from gaze.backbones.levels import build_backbone

__all__ = ["build_backbone"]
