"""The two commands: ``gaze-train`` (or ``python train.py``) and ``gaze-analyze`` (or ``python analyze.py``).

Settings are in ``conf/``, which an installed gaze carries along; any of them can be given as ``name=value``.
"""

from __future__ import annotations

import argparse
import io
import os
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gaze.config.naming import register
from gaze.config.words import Command, unreadable
from gaze.errors import ConfigError, GazeError, LeftOut, clear_errors
from gaze.names import visible

HOUSE = Path(__file__).resolve().parent
CONF = next(path for path in (HOUSE / "conf", HOUSE.parent / "conf") if path.is_dir())  # in a wheel, in a checkout
# What is text as it stands: run folders have "=" and "," in their names, a study may be called 1.10.
TRAIN = Command(
    "train",
    ("study", "dataset.name", "dataset.root", "dataset.train_dir", "dataset.test_dir", "dataset.mask_dir",
     "dataset.guide_dir", "dataset.cache", "model.checkpoint", "model.path", "model.freeze", "hydra.run.dir",
     "hydra.sweep.dir"),
    CONF, grids=True,
)  # fmt: skip
ANALYZE = Command(
    "analyze",
    ("study", "source", "check", "explain", "images", "share", "costs", "annotations", "review.run", "review.against",
     "review.file", "hydra.run.dir"),
    CONF, grids=False, of_a_run=("review",),
)  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def train_job(cfg: DictConfig) -> float | None:
    """One run, or one of a grid; Cohen's kappa at its end."""
    register()  # again where Ray or SLURM started this process
    escape_output()
    from gaze.config.train import check_config, check_trainer  # after Hydra: --help answers at once
    from gaze.runs.folder import changed_images, finished_row
    from gaze.runs.run import Run
    from gaze.runs.status import Interrupted, is_first_process, wait_for_sign

    try:
        go_to_folder_of_grid(cfg)
        try:
            config = check_config(cfg, trainer=False)
        except GazeError:
            config = check_config(cfg)  # names what is wrong with the Trainer's arguments too
        run = Run(Path(HydraConfig.get().runtime.output_dir), config)
        if is_first_process():
            wait_for_sign(run.folder, print)
        done = finished_row(run)
        if done is not None:
            print(visible(f"{run.folder}: finished already, kappa {done['val/kappa']:.4f}. rerun=true trains it anew."))
            changes = changed_images(run)
            if changes:
                print(visible(f"note: it was trained with other images than those at hand: {'; '.join(changes)}"))
            return done["val/kappa"]
        check_trainer(config)
        from gaze.training.train import run_training

        return run_training(config, run.folder, lambda: save_settings(cfg, run.hydra)).get("val/kappa")
    except GazeError as error:
        print(visible(f"\nerror: {error}"), file=sys.stderr)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # the grid goes on and has it in its table
        sys.exit(1)
    except Interrupted as error:
        # As a shell would have it. The other processes of a data-parallel run end quietly: Lightning kills the first
        # one where another ends with an error.
        sys.exit(128 + error.signum if is_first_process() else 0)
    except KeyboardInterrupt:  # before the first step, when nothing is there to be saved
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="analyze")
def analyze_job(cfg: DictConfig) -> None:
    """Runs to tables, figures and a report."""
    from rich.console import Console

    from gaze.config.train import check_analysis  # after Hydra: --help answers at once

    note_what_is_left_out()
    with clear_errors():  # else Hydra says a line of its own first
        config = check_analysis(cfg)
        from gaze.studies.run import run_analysis

        run_analysis(config, Path(HydraConfig.get().runtime.output_dir), Console())


def train() -> None:
    """``gaze-train``: train one run, or with ``-m`` a grid."""
    _start(TRAIN, train_job)


def analyze() -> None:
    """``gaze-analyze``: sum up runs, check one, or explain images with it."""
    _start(ANALYZE, analyze_job)


def _start(command: Command, job: Callable[[], Any]) -> None:
    escape_output()
    outlive_readers()
    mend_help()
    with clear_errors():
        sys.argv[1:] = command.prepared(sys.argv[1:])
        if os.environ.get("HYDRA_FULL_ERROR") != "1":
            vars(hydra_utils)["run_and_report"] = partial(clearly, hydra_utils.run_and_report)
        job()


def clearly(report: Callable[[Any], Any], task: Callable[[], Any]) -> Any:
    """Run ``task`` with Hydra's own ``report`` of errors, which shows what could not be composed in sixty lines."""

    def cleared() -> Any:
        with clear_errors():
            try:
                return task()
            except (HydraException, OmegaConfBaseException) as error:
                raise ConfigError(unreadable(error, sys.argv[1:])) from error

    return report(cleared)


def go_to_folder_of_grid(cfg: DictConfig) -> None:
    """Let relative paths mean what they mean where the grid was started: Ray starts a run wherever ``ray start`` was
    called.

    Raises:
        ConfigError: this machine does not see the grid's folder, or not that of a relative path.
    """
    hydra_cfg = HydraConfig.get()
    home, grid = Path(hydra_cfg.runtime.cwd), Path(hydra_cfg.sweep.dir, "multirun.yaml")
    if hydra_cfg.mode != RunMode.MULTIRUN or hydra_cfg.job.chdir or Path.cwd() == home:
        return
    paths = [str(cfg.dataset.get(key) or "off") for key in ("root", "cache")]
    paths += [str(cfg.model.get(key) or "off") for key in ("checkpoint", "path")]
    near = [path for path in paths if path not in ("auto", "off") and not path.startswith(("/", "~"))]
    if not grid.exists() or (near and not home.is_dir()):
        with suppress(OSError):
            os.removedirs(hydra_cfg.runtime.output_dir)  # Hydra made it
        raise ConfigError(
            f"{socket.gethostname()} has no {home / near[0] if grid.exists() else grid}: the machines of a grid share "
            "its folder and its images, under the same paths. Give hydra.sweep.dir, dataset.root, dataset.cache, "
            "model.checkpoint and model.path on a disk that all of them see."
        )
    if home.is_dir():
        os.chdir(home)


def note_what_is_left_out() -> None:
    """Show a warning of damaged files as a line for a person, not with a place in the code."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, LeftOut):
            print(visible(f"note: {message}"))
        else:
            usual(message, category, *place, **more)

    warnings.showwarning = show


def save_settings(cfg: DictConfig, folder: Path) -> None:
    """Hydra's own three files. Hydra itself would write them before the settings are checked, over those of a
    finished run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hydra_cfg = HydraConfig.get()
    OmegaConf.save(cfg, folder / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": hydra_cfg}), folder / "hydra.yaml")
    OmegaConf.save(hydra_cfg.overrides.task, folder / "overrides.yaml")


# ---- a reader that goes away


class Outlived(io.FileIO):
    """Standard output or error into a pipe: once its reader is gone, as behind ``| head``, what is written goes nowhere
    and the command goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def outlive_readers() -> None:
    """Make standard output and error :class:`Outlived`, unless they are a terminal or something else stands there."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__") and not stream.isatty():
            stream.flush()
            raw = Outlived(stream.fileno(), "w", closefd=False)
            own = {key: getattr(stream, key) for key in ("encoding", "errors", "line_buffering", "write_through")}
            setattr(sys, name, io.TextIOWrapper(raw if stream.write_through else io.BufferedWriter(raw), **own))


def escape_output() -> None:
    """Escape what standard output has no code for, such as a name in Japanese where that is cp1252."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


# ---- Python 3.14


class LateHelpParser(argparse.ArgumentParser):
    """A parser that takes a help that is no string, as argparse itself does before Python 3.14."""

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        text = settings.get("help")
        if text is None or isinstance(text, str):
            return super().add_argument(*names, **settings)
        action = super().add_argument(*names, **settings | {"help": None})
        action.help = text  # behind the check, which would render it
        return action


def mend_help() -> None:
    """Let Hydra make its parser on Python 3.14, whose argparse refuses the help of ``--shell-completion``
    (Hydra's issue 3121). Only Hydra's own view of argparse is changed, and only where its parser cannot be made:
    nothing happens on older Pythons, or once Hydra is mended.
    """
    try:
        hydra_utils.get_args_parser()
    except ValueError:
        vars(hydra_utils)["argparse"] = SimpleNamespace(ArgumentParser=LateHelpParser)
