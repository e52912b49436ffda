"""Errors that a user can mend: one message that says what, where and what to do. Shown without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gaze.names import visible


class GazeError(Exception):
    """What the user can mend: one message that says what, where and what to do. Shown without a traceback; names in it
    cannot steer a terminal.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(visible(str(message)))


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


class LeftOut(UserWarning):
    """A damaged file that an analysis goes on without. A command shows it as a note."""


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the command with an error's message alone and exit code 1; at Ctrl-C with one line and 130."""
    try:
        yield
    except GazeError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)
