"""Moved to :mod:`gaze.metrics.compare`; this name stays until 1.0."""

import warnings

from gaze.metrics.compare import *  # noqa: F403

warnings.warn("gaze.compare has moved to gaze.metrics.compare.", DeprecationWarning, stacklevel=2)
