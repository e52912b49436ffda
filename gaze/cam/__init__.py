"""Class activation maps: the methods as pure functions, the layer that is looked at, the hook on it, other grids."""

from gaze.cam.methods import grad_cam, normalize_cam

__all__ = ["grad_cam", "normalize_cam"]
