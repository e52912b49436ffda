"""Moved to :mod:`gaze.training.module`; this name stays until 1.0."""

import warnings

from gaze.training.module import *  # noqa: F403

warnings.warn("gaze.module has moved to gaze.training.module.", DeprecationWarning, stacklevel=2)
