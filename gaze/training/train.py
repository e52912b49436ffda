"""From a checked config to a finished run: data, module, Trainer, and the run's folder."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, get_args

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, StochasticWeightAveraging
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.loggers import TensorBoardLogger
from rich import get_console
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from gaze import terminal
from gaze.backbones.frozen import frozen_names
from gaze.backbones.library import check_method_of, check_network, expected, map_size
from gaze.backbones.own import trust
from gaze.choices import SOURCES, unknown
from gaze.config.built import build
from gaze.config.data import DatasetConfig
from gaze.config.naming import unwritable
from gaze.config.train import VIEW, LossConfig, TrainConfig, config_hash
from gaze.data.datamodule import GazeDataModule
from gaze.data.datasets import ImageData
from gaze.data.sources.listing import files_at_hand
from gaze.errors import BusyError, ConfigError, GazeError, TrainingError
from gaze.files import check_links, remove_parts, write_json
from gaze.measures import measures
from gaze.metrics.compare import MIN_GRID
from gaze.runs.folder import as_begun, finish_rerun, move_to_previous, plan_run, with_dataset
from gaze.runs.kept_maps import finish_maps
from gaze.runs.predictions import write_rows
from gaze.runs.run import BEFORE, BEST, LAST, ROOT_GIVEN, Run
from gaze.runs.status import busy_message, is_first_process, locked, tracked
from gaze.training.allocator import keep_freed_memory
from gaze.training.callbacks import (
    EpochTable,
    EvaluateAtTheEnd,
    FiniteLoss,
    GradCAM,
    KeepMaps,
    ProgressLines,
    StayStopped,
)
from gaze.training.checkpoints import Found, Say, StopOnSignal, WholeCheckpoints, find_checkpoint
from gaze.training.dfr import retrain_last_layer
from gaze.training.environment import device_name, environment
from gaze.training.final import evaluate_finally
from gaze.training.loggers import build_loggers, close_loggers, log_final, log_settings
from gaze.training.module import GazeModule
from gaze.training.weights import Given, place_weights, read_given

_shown: set[tuple[str, ...]] = set()
TOLD = ("GAZE_RUN_FOLDER", "GAZE_RUN_CHECKPOINT")  # environment of the other processes of a data-parallel run


class EpochBar(RichProgressBar):
    """Lightning's bar, with epochs from 1 as everywhere else in this project."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"


def run_training(config: TrainConfig, directory: Path, on_start: Callable[[], None] | None = None) -> dict[str, float]:
    """Train one run, or go on with it, and write everything it gives into ``directory``.

    Args:
        config: from :func:`gaze.config.train.check_config`.
        directory: the run's folder. A finished run with these settings is not trained again; an interrupted one
            goes on from its last checkpoint (``config.resume``); what has to make room goes to ``previous/``.
        on_start: called once settings and images are found good and the folder is free, to write more into it.

    Returns:
        The last epoch's row of ``metrics.csv``.

    Raises:
        GazeError: bad data before the first step, a folder that is another run's or in use, a loss that became NaN,
            no memory, a full disk.
        Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    trust(config.model)  # it is what the user's own command says
    console = get_console()  # the progress bar's own: it makes room for a line; another console's it would erase
    seed_everything(config.seed, workers=True, verbose=False)
    _quiet()

    say = partial(terminal.say, console)
    run = Run(directory, config)
    if not is_first_process():
        return _train_beside(run)
    check_links(directory, *run.names)
    if run.rerun.folder.exists():
        with locked(directory):
            finish_rerun(run)  # whose move may have been broken off
    plan = plan_run(run)
    if plan.action == "skip":
        return run.rows[-1]
    found = find_checkpoint(plan.run, say) if plan.action == "resume" and not config.measure else None
    table = EpochTable(plan.run.metrics_file, None if config.measure else say)
    # What Lightning or the backbone refuses is refused before images are read and before anything is written.
    trainer = build_trainer(config, plan.run.folder, [table], say, found)
    check_method_of(config.gaze.method, config.model, config.dataset.channels)
    looked_at = check_network(config.model, config.dataset.image_size, config.dataset.channels)
    frozen_names(config.model, config.dataset.image_size, config.dataset.channels)
    given = None if config.model.checkpoint is None else read_given(config.model, config.dataset)
    problem = unwritable(directory)
    if problem is not None:
        raise ConfigError(f"{problem} Give another hydra.run.dir=PATH.")
    for line in (looked_at, _coarse(config), *(given.notes if given else [])):
        if line is not None:
            say(line)
    with explained(config, directory), locked(directory):
        if plan_run(run, held=True) != plan:  # somebody was here in between
            raise BusyError(busy_message(directory))
        remove_parts(directory, *run.names)
        try:
            _train(_resized_as_trained(plan.run, given, say), found, given, trainer, table, say, on_start)
        except BaseException:
            close_loggers(trainer.loggers, ended_well=False)
            raise
        close_loggers(trainer.loggers, ended_well=True)
        finish_rerun(run)
    return table.rows[-1]


def _resized_as_trained(run: Run, given: Given | None, say: Say = lambda line: None) -> Run:
    """The run with ``dataset.interpolation=auto`` as what a library says of the weights that it begins with."""
    config, known = run.settings, get_args(DatasetConfig.model_fields["interpolation"].annotation)
    strangers = given is not None and "scale" not in given.own and config.model.mean is None
    takes = "interpolation" in SOURCES[config.dataset.kind].takes and config.dataset.interpolation == "auto"
    own = expected(config.model) if takes and (strangers or config.model.weights) else None
    if own is None or own.interpolation not in known:
        return run
    if own.interpolation != "bilinear":
        say(
            f"Images are resized by {own.interpolation} interpolation, as those of {config.model.source}'s own "
            f"{config.model.name} were. Trained otherwise: dataset.interpolation=bilinear"
        )
    return replace(run, given=with_dataset(config, interpolation=own.interpolation))


def _coarse(config: TrainConfig) -> str | None:
    """What a map of few cells will not do, for the reader before the run; None where it has enough."""
    height, width = map_size(config.model, config.dataset.image_size, config.dataset.channels)
    if min(height, width) >= MIN_GRID:
        return None
    earlier = "" if config.model.source == "gaze" else " or an earlier layer (model.layer=NAME)"
    return (
        f"A map of {height}x{width} cells is coarse: an augmentation study, which compares maps of "
        f"{MIN_GRID}x{MIN_GRID} or more, will refuse this run. Larger images (dataset.image_size){earlier} give more."
    )


def _train(
    run: Run,
    found: Found | None,
    given: Given | None,
    trainer: Trainer,
    table: EpochTable,
    say: Say,
    on_start: Callable[[], None] | None,
) -> None:
    """The process that owns the folder."""
    config = run.settings
    data = GazeDataModule(config.dataset, config.augmentation, progress=say, **_of_run(config))
    if found is None and run.files:
        _ = data.data  # if the images are no good, what is there stays where it is
        move_to_previous(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.config_file, config.to_dict())
    facts: dict[str, Any] = {
        "config_hash": config_hash(config),
        "device": device_name(trainer),
        "resumed_from_epoch": found.epochs if found else 0,
        "seconds_before": run.status.get("seconds", 0.0) if found else 0.0,
    }
    with tracked(run.folder, config.dataset.private, **facts) as results, explained(config, run.folder):
        module = _build_module(config, data, given, say)
        if config.dataset.window == "auto":  # known now
            write_json(run.config_file, with_dataset(config, window=data.data.audit.window).to_dict())
        _check_averaging(trainer, module)
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        _say_once(data.data.audit.lines(), say)
        if config.gaze.mask_weight:
            say(_guided(data, config))
        if config.measure and data.data.validation is not None:
            say(
                "The validation images may be of those that the checkpoint was trained on: test.json "
                "has the figures of the test images. dataset.validation=test looks at those throughout."
            )
        if found is not None:
            say(f"Resumes after {found.epochs} of {trainer.max_epochs} epochs, from {found.path}")
        if on_start is not None:
            on_start()
        write_split(run.split_file, data.data, data.annotated)
        write_json(run.audit_file, {**data.data.audit.to_dict(), ROOT_GIVEN: run.dataset.root})
        files = files_at_hand(run.dataset)
        if files is not None:
            write_json(run.images_file, files)
        write_json(run.environment_file, environment(config, trainer))
        # Lightning starts the other processes of a data-parallel run later, with this one's environment.
        told = (str(run.folder.absolute()), str(found.path.absolute()) if found else "")
        os.environ.update(zip(TOLD, told, strict=True))
        log_settings(trainer.loggers, _hyperparameters(run))
        _fit(run, trainer, module, data, table, str(found.path) if found else None, say)
        if not table.rows:
            raise TrainingError("The training ended before its first epoch was evaluated: see trainer.max_time.")
        finish_maps(run, data.data.evaluated.targets.numpy())
        _finish(run, trainer, table, say)
        evaluate_finally(run, trainer, module, data, say)
        folder = run.folder.relative_to(Path.cwd()) if run.folder.is_relative_to(Path.cwd()) else run.folder
        look = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        say(f"Run folder: {folder}" + f"\nLook at it: tensorboard --logdir {folder}" * look)
        results |= {"epochs": len(table.rows), "metrics": table.rows[-1], "metrics_sha256": run.digest}
        run.checkpoint(BEFORE).unlink(missing_ok=True)


def _check_averaging(trainer: Trainer, module: GazeModule) -> None:
    """Raise ConfigError where Lightning would average weights behind the last evaluation and the last checkpoint."""
    averaged = any(isinstance(each, StochasticWeightAveraging) for each in trainer.callbacks)  # type: ignore[attr-defined]
    if averaged and not any(isinstance(each, _BatchNorm) for each in module.modules()):
        raise ConfigError(
            "callbacks=swa is evaluated in the epoch that renews the statistics of batch norm, and "
            "this network has none: take callbacks=ema."
        )


def _of_run(config: TrainConfig) -> dict[str, Any]:
    """What every process gives its data module."""
    gaze, views = config.gaze, config.gaze.reference == VIEW and config.lambda_ != 0
    guided = {"train_masks": gaze.mask_weight > 0, "attention": gaze.guided_by_readers}
    return {"seed": config.seed, "views": views, **guided}


def _guided(data: GazeDataModule, config: TrainConfig) -> str:
    """How many masks guide, for the reader.

    Raises:
        ConfigError: none does.
    """
    count = 0 if data.annotated is None else int(data.annotated.sum())
    named, readers = f"dataset={config.dataset.name}", config.gaze.guided_by_readers
    if count == 0 and readers:
        raise ConfigError(
            "gaze.mask_form=attention guides by what people looked at, and nobody looked at a training image of "
            f"{named}: give dataset.fixations or dataset.attention_dir of these, or take another form."
        )
    if count == 0:
        raise ConfigError(
            f"gaze.mask_weight={config.gaze.mask_weight:g} guides by masks, and no training image of {named} has one "
            "that is not empty: give dataset.mask_dir=PATH, or leave it out."
        )
    what = "what readers looked at in" if readers else "the masks of"
    return (
        f"Guided by {what} {count:,} of {len(data.data.train.targets):,} training images "
        f"(dataset.annotated={config.dataset.annotated:g}, drawn by seed={config.seed})."
    )


def _say_once(audit: list[str], say: Say) -> None:
    """An audit, whole where this process has not shown it yet: the runs of a grid mostly have one set of images."""
    say("\n".join(audit if tuple(audit) not in _shown else audit[:1]))
    _shown.add(tuple(audit))


def _train_beside(run: Run) -> dict[str, float]:
    """Any other process of a data-parallel run: it writes nothing and does what the first one told it."""
    config = run.settings
    if TOLD[0] in os.environ:
        run, checkpoint = Run(Path(os.environ[TOLD[0]]), config), os.environ[TOLD[1]]
    else:  # all processes were started at once, by SLURM or torchrun
        found = find_checkpoint(run, lambda line: None) if config.resume and not config.rerun else None
        checkpoint = str(found.path) if found else ""
    given = None if config.model.checkpoint is None else read_given(config.model, config.dataset)
    run = _resized_as_trained(as_begun(run) if checkpoint else run, given)
    config = run.settings
    data = GazeDataModule(config.dataset, config.augmentation, **_of_run(config))
    table = EpochTable(run.metrics_file)
    trainer = build_trainer(config, run.folder, [table])
    module = _build_module(config, data, given)
    _fit(run, trainer, module, data, table, checkpoint or None)
    evaluate_finally(run, trainer, module, data)
    return {}


def _fit(
    run: Run, trainer: Trainer, module: GazeModule, data: GazeDataModule, table: EpochTable, checkpoint: str | None,
    say: Say = lambda line: None,
) -> None:  # fmt: skip
    """Train, and retrain the last layer where asked to, which counts as one more epoch; or evaluate once, where the
    network is only measured."""
    if not run.settings.measure:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        if not run.settings.dfr:
            return
        say(retrain_last_layer(module, data))
        table.say = lambda line: None  # no epoch of training
        trainer.save_checkpoint(run.checkpoint(LAST))  # before its row: a run that goes on from here adds it again
    trainer.validate(module, datamodule=data, verbose=False)
    table.on_train_epoch_end(trainer, module)
    if run.settings.measure:
        trainer.save_checkpoint(run.checkpoint(LAST))


def write_split(file: Path, data: ImageData, annotated: Tensor | None = None) -> None:
    """Which image stands in which part, as CSV: ``part, file, class``, ``group`` where any belongs to one, and 1 under
    ``annotated`` for the training images whose masks guide (N,)."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    rows = []
    for name, split in parts.items():
        if split is not None:
            labels = [data.classes[label] for label in split.targets.tolist()]
            groups = split.groups or [None] * len(labels)
            guiding = (
                [str(int(used)) for used in annotated]
                if annotated is not None and name == "train"
                else [""] * len(labels)
            )
            rows += [
                (name, path, label, group or "", used)
                for path, label, group, used in zip(split.paths, labels, groups, guiding, strict=True)
            ]
    kept = [0, 1, 2] + [3] * any(row[3] for row in rows) + [4] * any(row[4] for row in rows)
    write_rows(file, [[row[i] for i in kept] for row in [("part", "file", "class", "group", "annotated"), *rows]])


@contextmanager
def explained(config: TrainConfig, folder: Path) -> Iterator[None]:
    """Turn an error for want of memory, of room on the disk, of the run's folder, or of images in a batch or an epoch,
    into one that says what to do.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.exists():
            raise TrainingError(
                f"{folder} was deleted or moved while its run went on: the run ends here. The same command starts it "
                "anew, or goes on with it once the folder is back."
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TrainingError(
            f"{error.filename or folder} could not be written: {error.strerror}. Make room, then start the same "
            "command again."
        ) from error
    except GazeError:
        raise
    except (MisconfigurationException, ValueError) as error:  # Lightning's words on limits, once it knows the batches
        if "Expected more than 1 value per channel" in str(error):
            raise TrainingError(
                f"model={config.model.label} has batch norm where one image leaves one value: it needs two images a "
                f"step, and dataset.batch_size={config.dataset.batch_size} gave one. Raise it to 2 or more."
            ) from error
        if isinstance(error, ValueError) and "`val_check_interval`" not in str(error):
            raise
        raise ConfigError(f"trainer: {str(error).strip().partition('. If you')[0]}.") from error
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error)
        words = ("can't allocate memory", "not enough memory", "out of memory", "could not create a memory object")
        if isinstance(error, RuntimeError) and not any(word in text for word in words):
            raise
        first = text.splitlines()[0] if text else type(error).__name__
        raise TrainingError(
            f"Out of memory with dataset.batch_size={config.dataset.batch_size}, dataset.image_size="
            f"{config.dataset.image_size}, model={config.model.label}: {first}\nTake a smaller batch or image, "
            "trainer.precision=bf16-mixed, or (batches adding up) +trainer.accumulate_grad_batches=2."
        ) from error


def build_trainer(
    config: TrainConfig, directory: Path, extra: list[Callback], say: Say | None = None, found: Found | None = None
) -> Trainer:
    """Lightning's Trainer with this project's loggers and callbacks.

    Raises:
        ConfigError: Lightning refuses an argument (its own words).
    """
    run, pictures = Run(directory, config), config.pictures
    at_epoch_end: dict[str, Any] = {"enable_version_counter": False, "save_on_train_epoch_end": True}
    callbacks: list[Callback] = [
        FiniteLoss(),  # first: nothing is drawn or saved of weights that are NaN
        EvaluateAtTheEnd(),  # before those that use what it measures
        StayStopped(),
        *(build(f"callbacks.{name}", own, Callback) for name, own in config.callbacks.items()),
        GradCAM(directory, pictures.every_n_epochs, pictures.images_per_class),
        *([KeepMaps(run)] if config.gaze.keep_maps else []),
        *extra,
        # Behind the pictures, which take time as well.
        *([] if config.measure else [ProgressLines(run, None if sys.stdout.isatty() else say)]),
        StopOnSignal(run, say),
        # Two of them: save_last=True would renew last.ckpt only in epochs that are the best so far.
        ModelCheckpoint(run.checkpoints, BEST, monitor="val/kappa", mode="max", **at_epoch_end),
        ModelCheckpoint(run.checkpoints, LAST, **at_epoch_end),
    ]
    if sys.stdout.isatty():
        callbacks.append(EpochBar(theme=RichProgressBarTheme(metrics_format=".4f")))
    loggers = build_loggers(run, found.epochs if found else None)
    try:
        return Trainer(
            **config.trainer,
            logger=loggers,
            callbacks=callbacks,
            plugins=[WholeCheckpoints()],
            default_root_dir=directory,
            enable_progress_bar=sys.stdout.isatty(),
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise ConfigError(f"trainer: {error}") from error


def _build_module(
    config: TrainConfig, data: GazeDataModule, given: Given | None = None, say: Say = lambda line: None
) -> GazeModule:
    model = config.model
    own = None if given is None or model.mean is not None else expected(model)
    if own is not None and given is not None and "scale" not in given.own:
        say(
            f"Images are scaled as {model.source}'s own {model.name} expects it, mean {own.mean}, SD {own.std}. "
            "Trained otherwise: model.mean=[...] model.std=[...]"
        )
    module = GazeModule(
        model=config.model.name,
        num_classes=len(data.classes),
        in_channels=config.dataset.channels,
        image_size=config.dataset.image_size,
        gaze_lambda=config.lambda_,
        gaze=config.gaze,
        optimizer=config.optimizer,
        scheduler=config.scheduler,
        channels_last=config.model.channels_last,
        class_names=list(data.classes),
        source=config.model.source,
        weights=config.model.weights,
        layer=config.model.layer,
        class_weights=class_weights(config.loss, data.data.audit.train_counts),
        label_smoothing=config.loss.label_smoothing,
        built=None if given is None else given.own.get("built"),
        mean=own.mean if own else model.mean,
        std=own.std if own else model.std,
        own=model.own,
        freeze=model.freeze,
        trust=True,  # they are what the user's own command says
    )
    for line in [] if given is None else place_weights(module, given, config.measure):
        say(line)
    if model.freeze is not None:
        sizes = [(weight.numel(), weight.requires_grad) for weight in module.backbone.parameters()]
        still, all_ = sum(n for n, trains in sizes if not trains), sum(n for n, _ in sizes)
        say(f"model.freeze={model.freeze}: {still:,} of {all_:,} parameters are frozen.")
    return module


def class_weights(loss: LossConfig, counts: Mapping[str, int]) -> list[float] | None:
    """Weights of the cross entropy, in the order of ``counts``: training images by class.

    Raises:
        ConfigError: a class that is not there.
    """
    given = loss.class_weights
    if given == "balanced":  # King and Zeng 2001, as scikit-learn's compute_class_weight
        return [sum(counts.values()) / (len(counts) * n) for n in counts.values()]
    if not isinstance(given, dict):
        return None
    for name in given:
        if name not in counts:
            raise ConfigError(unknown("loss.class_weights", name, counts))
    return [float(given.get(name, 1.0)) for name in counts]


def _finish(run: Run, trainer: Trainer, table: EpochTable, say: Say) -> None:
    """Hyper-parameters and final metrics for the loggers, and a table for the reader."""
    last = table.rows[-1]
    best = max(table.rows, key=lambda row: row["val/kappa"])
    shown = [m for m in measures().values() if m.column in last and m.column.startswith("val/")]
    final = {measure.column: last[measure.column] for measure in shown}
    log_final(trainer.loggers, _hyperparameters(run), final)
    numbers = {f"last epoch ({int(last['epoch'])})": last, f"best kappa (epoch {int(best['epoch'])})": best}
    if run.settings.measure:
        numbers = {"measured once": last}
    rows = [[m.title, *(f"{row.get(m.column, nan):.{m.digits}f}" for row in numbers.values())] for m in shown]
    terminal.say(
        get_console(), terminal.table("  ".join(run.words), ["on the evaluation set", *numbers], rows, [*numbers])
    )


def _hyperparameters(run: Run) -> dict[str, Any]:
    """The settings that a study varies, flat."""
    c = run.settings
    gaze = {name: getattr(c.gaze, name) for name in ("method", "distance", "reference", "second_order")}
    own = {"augmentation": c.augmentation.name, "image_size": c.dataset.image_size, "lr": c.optimizer.lr}
    own |= {group: str(getattr(c, group).target).rpartition(".")[2] for group in ("optimizer", "scheduler")}
    return {**run.keys, **gaze, **own}


def _quiet() -> None:
    """Drop Lightning's advertisements and the advice that does not fit data in memory."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # batch norms of model.freeze
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*number of training batches .* is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\). is deprecated")
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # one process needs none
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard, where TensorFlow is installed
