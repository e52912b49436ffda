"""Moved to :mod:`gaze.data.datamodule`; this name stays until 1.0."""

import warnings

from gaze.data.datamodule import *  # noqa: F403

warnings.warn("gaze.datamodule has moved to gaze.data.datamodule.", DeprecationWarning, stacklevel=2)
