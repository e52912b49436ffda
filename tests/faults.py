"""Runs in processes of their own that are made to die at a chosen place. No test in here.

The processes are forked from a clean server that has imported what a run needs, so each one costs little.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["faults", "gaze.training.train", "torch.utils.tensorboard", "matplotlib.backends.backend_agg"]
)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_call(owner: Any, name: str, number: int, act: Callable[[], Any]) -> None:
    """Do ``act`` before the ``number``-th call of ``owner.name``."""
    original, calls = getattr(owner, name), [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            act()
        return original(*args, **kwargs)

    setattr(owner, name, counting)


def at_step(number: int, signum: int = signal.SIGKILL, again: bool = False) -> None:
    """A signal after a training step."""
    from gaze.training.callbacks import FiniteLoss

    def act() -> None:
        for _ in range(2 if again else 1):
            os.kill(os.getpid(), signum)

    _at_call(FiniteLoss, "on_train_batch_end", number, act)


def while_saving(number: int) -> None:
    """SIGKILL in the middle of writing last.ckpt: half of it is in the file."""
    import gaze.training.checkpoints

    original, calls = gaze.training.checkpoints._write, [0]

    def half(path: Path, content: memoryview) -> None:
        calls[0] += "last" in path.name
        if calls[0] == number:
            path.write_bytes(content[: len(content) // 2])
            kill_self()
        original(path, content)

    gaze.training.checkpoints._write = half


def between_the_two_names(number: int) -> None:
    """SIGKILL when last.ckpt has become before.ckpt and the new one has not taken its place."""
    original, calls = Path.replace, [0]

    def replace(self: Path, target: Any) -> Path:
        if self.name.startswith(".last.ckpt."):
            calls[0] += 1
            if calls[0] == number:
                kill_self()
        return original(self, target)

    Path.replace = replace


def while_writing_metrics(number: int) -> None:
    """SIGKILL in the middle of writing metrics.csv."""
    import csv

    _at_call(csv.DictWriter, "writerows", number, kill_self)


def full_disk(number: int) -> None:
    """From the ``number``-th checkpoint on no file can become larger than 2 kB, as on a disk that is full."""

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    _at_call(torch, "save", number, fill)


def little_memory() -> None:
    """The process may map 256 MB more than it has, from the first training step on."""
    from gaze.training.module import GazeModule

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 256 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    _at_call(GazeModule, "training_step", 1, limit)


FAULTS = {
    f.__name__: f
    for f in (at_step, while_saving, between_the_two_names, while_writing_metrics, full_disk, little_memory)
}


def _work(config: Any, folder: Path, fault: str | None, args: tuple[Any, ...], answer: Path) -> None:
    from gaze.errors import GazeError
    from gaze.runs.status import Interrupted
    from gaze.training.train import run_training

    torch.set_num_threads(1)
    sys.stdout = (answer.with_suffix(".out")).open("w")
    if fault is not None:
        FAULTS[fault](*args)
    try:
        row = run_training(config, folder)
    except GazeError as error:
        answer.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        sys.exit(1)
    except Interrupted as error:
        sys.exit(128 + error.signum)
    answer.write_text(json.dumps(row))


def start(config: Any, folder: Path, fault: str | None = None, *args: Any) -> Any:
    """A process that trains ``config`` into ``folder``; what it gives is in ``folder.json``, its output in .out."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    process = SERVER.Process(target=_work, args=(config, folder, fault, args, folder.with_suffix(".json")))
    process.start()
    return process


def run(config: Any, folder: Path, fault: str | None = None, *args: Any) -> tuple[int, dict[str, Any], str]:
    """Exit code (negative: the signal that killed it), answer and output of a run in a process of its own."""
    answer = folder.with_suffix(".json")
    answer.unlink(missing_ok=True)
    process = start(config, folder, fault, *args)
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    values = json.loads(answer.read_text()) if answer.exists() else {}
    return process.exitcode, values, answer.with_suffix(".out").read_text()
