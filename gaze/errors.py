"""Errors that a user can mend: one message that says what, where and what to do. Shown without a traceback."""

from __future__ import annotations


class GazeError(Exception):
    """What the user can mend: one message that says what, where and what to do. Shown without a traceback."""


class ConfigError(GazeError, ValueError):
    """A setting that cannot be used."""


class DataError(GazeError):
    """A data set that cannot be found, read or trusted."""


class TrainingError(GazeError):
    """A training that cannot go on, such as a loss that is NaN."""


class BusyError(GazeError):
    """Another process is at work in this folder."""


class CheckpointError(GazeError):
    """A checkpoint that must not be loaded."""
