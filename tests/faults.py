"""Runs in processes of their own that are made to die at a chosen place. No test in here.

The processes are forked from a clean server that has imported what a run needs, so each one costs little.
"""

import json
import multiprocessing
import os
import resource
import runpy
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


def while_evaluating(number: int) -> None:
    """SIGKILL before a batch of evaluation."""
    from gaze.training.module import GazeModule

    _at_call(GazeModule, "validation_step", number, kill_self)


def while_drawing(number: int) -> None:
    """SIGKILL when a picture of a run, or its copy for TensorBoard, is about to be saved."""
    from PIL import Image

    _at_call(Image.Image, "save", number, kill_self)


def while_reporting(number: int) -> None:
    """SIGKILL when a file of a report is about to take its place."""
    _at_call(Path, "replace", number, kill_self)


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
    for f in (
        at_step,
        while_saving,
        between_the_two_names,
        while_writing_metrics,
        while_evaluating,
        while_drawing,
        while_reporting,
        full_disk,
        little_memory,
    )
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


def _command(folder: Path, words: tuple[str, ...], fault: str | None, number: int, output: Path) -> None:
    """``train.py ...`` or ``analyze.py ...`` in a folder, as the command line starts it."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    os.chdir(folder)
    if fault is not None:
        FAULTS[fault](number)
    sys.argv = list(words)
    runpy.run_path(words[0], run_name="__main__")


def command(folder: Path, words: tuple[str, ...], fault: str | None = None, number: int = 0) -> tuple[int, str]:
    """Exit code (negative: the signal that killed it) and output of a command in a process of its own."""
    output = folder.with_suffix(".out")
    process = SERVER.Process(target=_command, args=(folder, words, fault, number, output))
    process.start()
    process.join()
    return process.exitcode or 0, output.read_text()


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


def tensors(value, path=""):
    """Every number and tensor in a checkpoint by where it stands, without paths of files."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in tensors(part, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, part in enumerate(value) for k, v in tensors(part, f"{path}/{i}").items()}
    return {} if isinstance(value, str) else {path: value}


def assert_same_result(folder: Path, other: Path) -> None:
    assert (folder / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (torch.load(f / "checkpoints" / name, weights_only=True) for f in (folder, other))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            one, two = tensors(a[part], part), tensors(b[part], part)
            assert one.keys() == two.keys()
            for key, value in one.items():
                same = torch.equal(value, two[key]) if isinstance(value, torch.Tensor) else value == two[key]
                assert same, f"{name}: {key}: {value} and {two[key]}"
