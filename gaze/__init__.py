"""Gaze: how consistently a classifier looks, as a number and as a training signal.

What a training loop of one's own needs can be imported from here; the other modules by their own names:

    from gaze import CohenKappa, GazeConsistency, GazeConsistencyLoss
    from gaze import curriculum, gaze_deviation, grad_cam, normalize_cam
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; the names below are loaded at first use (PEP 562)
    from gaze.cam import grad_cam, normalize_cam
    from gaze.consistency import GazeConsistencyLoss, curriculum, gaze_deviation
    from gaze.metrics import CohenKappa, GazeConsistency

__all__ = [
    "CohenKappa",
    "GazeConsistency",
    "GazeConsistencyLoss",
    "curriculum",
    "gaze_deviation",
    "grad_cam",
    "normalize_cam",
]

# gaze.config and the analysis do without PyTorch, so the package may not import it.
_HOME = {
    "CohenKappa": "gaze.metrics",
    "GazeConsistency": "gaze.metrics",
    "GazeConsistencyLoss": "gaze.consistency",
    "curriculum": "gaze.consistency",
    "gaze_deviation": "gaze.consistency",
    "grad_cam": "gaze.cam",
    "normalize_cam": "gaze.cam",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
