"""train.py up to its first training step: prints a mark there and ends. Arguments are train.py's own.

The row ``start`` runs this as a child process; see :mod:`commands`.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import NoReturn

TRAIN = Path(__file__).resolve().parents[1] / "train.py"


def stop(*args: object, **kwargs: object) -> NoReturn:
    """Stands in for ``GazeModule.training_step``."""
    from commands import MARK

    print(MARK, flush=True)
    os._exit(0)  # at once: the parent's clock has stopped, and a tidy end would only delay the next pair


if __name__ == "__main__":
    from gaze.training.module import GazeModule

    GazeModule.training_step = stop  # type: ignore[method-assign]
    sys.argv[0] = str(TRAIN)
    runpy.run_path(str(TRAIN), run_name="__main__")
