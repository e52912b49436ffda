"""Checkpoints that are whole or not there, the choice among them, and the orderly end at a signal."""

from __future__ import annotations

import io
import os
import pickle
import signal
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from gaze.errors import CheckpointError, TrainingError
from gaze.files import atomic_path, open_regular
from gaze.runs.run import BEFORE, BEST, LAST, Run
from gaze.runs.status import Interrupted, note_signal

Say = Callable[[str], None]
MOST_BYTES = 64 << 30  # of a checkpoint: 5 billion weights with two moments of Adam
DAMAGED = (
    OSError,
    ValueError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
)  # ways of reading so


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the old file and then takes its place; ``last.ckpt`` leaves its predecessor as ``before.ckpt``.

    Lightning's own writing goes through a temporary file that may lie on another file system, so a kill or a full
    disk could leave half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Save, or leave what was there.

        Raises:
            TrainingError: the system could not write it, for example because the disk is full.
            FileNotFoundError: the run's folder is no longer there.
        """
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(exist_ok=True)
            with atomic_path(path) as part:
                _write(part, content.getbuffer())
                if path.stem == LAST and path.exists():
                    path.replace(path.with_stem(BEFORE))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise TrainingError(
                f"The checkpoint {path} could not be written: {error}. The one before is whole. "
                "Make room, then start the same command again: it resumes."
            ) from error

    def load_checkpoint(self, path: _PATH, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See :func:`load_whole`."""
        return load_whole(Path(path))

    def remove_checkpoint(self, path: _PATH) -> None:
        """Nothing: the names of a run's checkpoints stay, and Lightning takes from the checkpoint, which may be a
        stranger's, what it would remove."""


def _write(path: Path, content: memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # the name must not come to the disk before the content


def load_whole(path: Path, device: str = "cpu") -> dict[str, Any]:
    """What a checkpoint holds, byte for byte as it was written: tensors and plain values.

    Raises:
        UnpicklingError: it wants to run code (weights_only).
        Exception: of :data:`DAMAGED`; it is no regular file, or not whole.
    """
    with open_regular(path, MOST_BYTES) as file:
        check_sums(file)
        content: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    return content


def check_whole(path: Path) -> None:
    """Raise CheckpointError where a file is no checkpoint, or not as it was written."""
    try:
        with open_regular(path, MOST_BYTES) as file:
            check_sums(file)
    except DAMAGED as error:
        raise CheckpointError(f"{path} is no whole checkpoint: {str(error) or type(error).__name__}.") from error


def check_sums(file: BinaryIO) -> None:
    """Raise ValueError for a zip that is not as it was written, which torch.load does not look at. It stores without
    compression, so nothing swells here.
    """
    with zipfile.ZipFile(file) as archive:
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
        bad = "it is compressed" if packed else archive.testzip()
    if bad is not None:
        raise ValueError(bad if packed else f"wrong checksum of {bad}, the file is damaged")
    file.seek(0)


class Found(NamedTuple):
    """A checkpoint that can be read, and the whole epochs that are in it."""

    path: Path
    epochs: int


def find_checkpoint(run: Run, say: Say) -> Found | None:
    """The newest checkpoint of a run that can be read; None where there is none. Says which ones are damaged.

    Raises:
        CheckpointError: one holds pickled objects, so it is not this project's.
    """
    for name in (LAST, BEFORE, BEST):
        path = run.checkpoint(name)
        if not path.exists():
            continue
        try:
            return Found(path, _whole_epochs(path))
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path} holds objects that could run code when loaded, which no checkpoint of this project does; it "
                f"is refused. Remove it if it does not belong there. ({str(error).splitlines()[0]})"
            ) from error
        except DAMAGED as error:
            say(f"{path} is damaged and left aside ({(str(error) or type(error).__name__).splitlines()[0]}).")
    return None


def _whole_epochs(path: Path) -> int:
    return len(load_whole(path, "meta")["callbacks"]["EpochTable"]["rows"])


def is_last_step(trainer: Trainer) -> bool:
    """Whether ``max_steps`` or ``max_time`` ends the training after this step, in whatever place of its epoch."""
    return trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step


class StopOnSignal(Callback):
    """SIGTERM and SIGINT end a run after the current step, with ``last.ckpt`` in the middle of its epoch.

    A signal during an epoch's last step or its evaluation waits for the epoch's own checkpoint. A second one ends the
    run at once; it then resumes from the last whole epoch.

    Args:
        run: that is trained.
        say: told when a signal has come.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, run: Run, say: Say | None = None) -> None:
        self.path = run.checkpoint(LAST)
        self.say = say or (lambda line: None)
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python hears signals in its main thread only
        self._before = {number: signal.signal(number, self._hear) for number in self.SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._asked(trainer) and not (trainer.is_last_batch or is_last_step(trainer)):
            trainer.save_checkpoint(self.path)
            raise Interrupted(self.received or signal.SIGTERM)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._asked(trainer):  # the last epoch's checkpoint is written
            raise Interrupted(self.received or signal.SIGTERM)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        note_signal(signum)
        if self.received is not None:
            raise Interrupted(signum)
        self.received = signum
        name = signal.Signals(signum).name
        self.say(f"{name}: the run ends as soon as its state is saved. Once more ends it at once.")

    def _asked(self, trainer: Trainer) -> bool:
        asked = self.received is not None
        if trainer.world_size > 1:  # all processes save, or none
            return bool(trainer.strategy.reduce_boolean_decision(asked, all=False))
        return asked

    def _restore(self) -> None:
        for number, handler in self._before.items():
            with suppress(ValueError, TypeError):
                signal.signal(number, handler)
        self._before = {}
