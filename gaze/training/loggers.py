"""Where a run's curves go beside ``metrics.csv``: TensorBoard, and whatever logger of Lightning ``logger`` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from gaze.config.built import Built, build, class_of
from gaze.config.train import config_hash
from gaze.runs.run import RERUN, Run

LATER = "while training/"
TAG = "gaze.settings"  # by which MLflow's run is found


class EpochTensorBoard(TensorBoardLogger):
    """TensorBoard with epochs, from 1, on the horizontal axis: scalars and pictures of a run line up, and so do runs
    with other batch sizes. It sorts by name, so what is no evaluation stands below :data:`LATER`, behind ``val/``.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        epoch = metrics.get("epoch")  # Lightning adds it, from 0
        if epoch is not None:  # else of log_hyperparams, whose table shows the scalars that are there already
            named = {
                name if name.startswith(("val/", "test/")) else LATER + name.removeprefix("train/"): name
                for name in metrics
            }
            super().log_metrics({tag: metrics[own] for tag, own in named.items() if own != "epoch"}, int(epoch) + 1)


def build_loggers(run: Run, resumed: int | None) -> list[Logger]:
    """Those of ``logger``. A run that goes on is the same run for Weights & Biases and MLflow; neither gets a path, a
    host or a user of this machine.

    Args:
        run: whose folder their files go to.
        resumed: epochs of the checkpoint that it goes on from; None where it begins.

    Raises:
        ConfigError: as :func:`gaze.config.built.build`.
    """
    return [_built(f"logger.{name}", own, run, resumed) for name, own in (run.settings.logger or {}).items()]


def _built(setting: str, own: Built, run: Run, resumed: int | None) -> Logger:
    kind, name, identity = class_of(setting, own.target, Logger), " ".join(run.words), identity_of(run, resumed)
    usual: dict[str, Any] = {}
    if issubclass(kind, TensorBoardLogger):  # what it has of an epoch that is done again is hidden
        purge = None if resumed is None else resumed + 1
        usual = {"save_dir": run.folder, "name": "", "version": "", "purge_step": purge}
    elif issubclass(kind, CSVLogger):  # each start has a folder there
        usual = {"save_dir": run.folder, "name": run.csv_logs.name}
    elif issubclass(kind, WandbLogger):
        quiet = {"console": "off", "disable_git": True, "disable_code": True, "x_disable_meta": True, "host": "-"}
        usual = {"save_dir": run.folder, "id": identity, "name": name, "group": run.settings.study, "resume": "allow"}
        usual |= {"settings": {**quiet, "x_disable_stats": True, "x_disable_machine_info": True}}
    elif issubclass(kind, MLFlowLogger):
        tags = {TAG: identity, "mlflow.source.name": "gaze", "mlflow.user": "-"}
        usual = {"run_name": name, "tags": tags | own.arguments.get("tags", {}), "experiment_name": run.settings.study}
    logger: Logger = build(setting, own, Logger, **usual)
    if isinstance(logger, MLFlowLogger):
        logger._run_id = own.arguments.get("run_id") or _mlflow_run(logger, identity)
    return logger


def identity_of(run: Run, resumed: int | None) -> str:
    """The hash of its settings, and the number of earlier trainings with these that made room for it."""
    place = Run(run.folder.parent) if run.folder.name == RERUN else run
    before = len(list(place.previous.glob("*"))) + (place is not run)
    before += resumed is None and (run.metrics_file.exists() or run.checkpoints.exists())  # moved as it begins
    return f"{config_hash(run.settings)}{f'-{before}' if before else ''}"


@rank_zero_only
def _mlflow_run(logger: MLFlowLogger, identity: str) -> str | None:
    """The id of the run that has the tag; None where none has."""
    client = logger._mlflow_client
    there = client.get_experiment_by_name(logger._experiment_name)
    runs = client.search_runs([there.experiment_id], f"tags.`{TAG}` = '{identity}'") if there is not None else []
    return runs[0].info.run_id if runs else None


def log_settings(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """What a run varies, as it begins; TensorBoard gets it at the end, beside the final metrics."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.hparams.update(settings)
        else:
            logger.log_hyperparams(dict(settings))


def log_final(loggers: Sequence[Logger], settings: Mapping[str, Any], last: Mapping[str, float]) -> None:
    """The last epoch's figures as ``final/...``, whatever a tracker makes of the curves."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(settings), dict(last))
            logger.save()
            logger.finalize("success")
        else:
            logger.log_metrics({f"final/{name.removeprefix('val/')}": value for name, value in last.items()})


def close_loggers(loggers: Sequence[Logger], ended_well: bool) -> None:
    """Say how the run ended; a grid's next one in this process begins a run of its own."""
    for logger in loggers:
        logger.finalize("success" if ended_well else "failed")
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            logger._experiment.finish(exit_code=0 if ended_well else 1)
