"""Every logger has the numbers of metrics.csv; a run that goes on is one run there; nothing of the machine is told."""

import csv
import getpass
import json
import math
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning_utilities.core.imports import RequirementCache

from gaze.config.train import config_hash
from gaze.errors import ConfigError
from gaze.runs.run import Run
from gaze.runs.status import Interrupted
from gaze.training.loggers import TAG, EpochTensorBoard, build_loggers, identity_of
from gaze.training.train import run_training


class StopOnce(Callback):
    """Asks the run to end in its second epoch, the first time."""

    def __init__(self, marker: str) -> None:
        self.marker = Path(marker)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 1 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGTERM)


def test_several_loggers_are_a_list(tiny, tmp_path):
    loggers = build_loggers(Run(tmp_path, tiny("logger=[tensorboard,csv]")), None)
    assert [type(each) for each in loggers] == [EpochTensorBoard, CSVLogger]
    assert build_loggers(Run(tmp_path, tiny("logger=none")), None) == []


def test_a_logger_is_no_part_of_what_a_run_is(tiny):
    plain, other = tiny(), tiny("logger=[csv]")
    assert config_hash(plain) == config_hash(other) and "logger" not in plain.to_dict()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["+logger.mine._target_=torch.optim.SGD"], "logger.mine._target_=torch.optim.SGD is no class of the kind"),
        (["logger=csv", "+logger.csv.floor=3"], "logger.csv.floor=3: lightning.pytorch.loggers.CSVLogger has no such"),
        (["+logger.mine._target_=gone.Logger"], "logger.mine._target_=gone.Logger needs the module gone, which is not"),
    ],
)
def test_a_wrong_logger_is_one_line_before_anything_is_read(tiny, tmp_path, words, told):
    with pytest.raises(ConfigError) as error:
        run_training(tiny(*words), tmp_path / "run")
    assert str(error.value).startswith(told) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_pips_line(tiny, tmp_path, monkeypatch, name):
    import lightning.pytorch.loggers as loggers

    module = sys.modules[getattr(loggers, {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}[name]).__module__]
    monkeypatch.setattr(module, f"_{name.upper()}_AVAILABLE", RequirementCache(f"{name}>=999"))
    with pytest.raises(ConfigError, match=rf"logger\.{name}: .*pip install 'gaze-consistency\[{name}\]'\."):
        build_loggers(Run(tmp_path, tiny(f"logger={name}")), None)


def test_a_training_anew_is_another_run_of_a_tracker(tiny, tmp_path):
    run = Run(tmp_path, tiny())
    first = identity_of(run, None)
    assert first == config_hash(run.settings)
    run.checkpoints.mkdir()
    assert identity_of(run, 3) == first and identity_of(run.rerun, None) == identity_of(run, None) == f"{first}-1"
    (run.previous / "1").mkdir(parents=True)  # as it is moved there when the new one begins
    assert identity_of(run, 3) == f"{first}-1"


def wandb_records(file: Path):
    """Records of an offline run: LevelDB's log format behind seven bytes of header."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block is padding
            place += 32768 - place % 32768
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def key_of(item) -> str:
    return item.key or "/".join(item.nested_key)


@pytest.mark.slow
def test_all_trackers_have_the_numbers_of_metrics_csv(tiny, tmp_path, monkeypatch):
    """Of a run that is interrupted and goes on."""
    pytest.importorskip("wandb", reason="pip install 'gaze-consistency[wandb]'")
    mlflow = pytest.importorskip("mlflow", reason="pip install 'gaze-consistency[mlflow]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = tiny(
        "logger=[tensorboard,csv,wandb,mlflow]", f"logger.mlflow.tracking_uri={uri}", "trainer.max_epochs=3",
        "+callbacks.stop._target_=test_loggers.StopOnce", f"+callbacks.stop.marker={tmp_path / 'stopped'}",
    )  # fmt: skip
    run = Run(tmp_path / "run", config)
    with pytest.raises(Interrupted):
        run_training(config, run.folder)
    last = run_training(config, run.folder)
    assert run.status["resumed_from_epoch"] == 1 and len(run.rows) == 3
    names = ("val/kappa", "val/loss", "val/gaze_consistency", "train/loss")
    expected = {name: [row[name] for row in run.rows] for name in names}

    import wandb

    assert wandb.run is None  # a grid's next run begins its own
    files = sorted(run.wandb_logs.glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime)
    found, ids = {name: [] for name in (*names, "final/kappa")}, set()
    for file in files:
        for record in wandb_records(file):
            if record.HasField("run"):
                ids.add(record.run.run_id)
            for item in record.history.item:
                if key_of(item) in found:
                    found[key_of(item)].append(json.loads(item.value_json))
    assert len(files) == 2 and ids == {config_hash(config)}
    assert found.pop("final/kappa") == [pytest.approx(last["val/kappa"], abs=1e-7)]
    for name in names:
        assert found[name] == pytest.approx(expected[name], rel=1e-6, nan_ok=True), name

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(config.study)
    (own,) = client.search_runs([experiment.experiment_id])
    assert own.data.tags[TAG] == config_hash(config) and own.info.status == "FINISHED"
    assert own.data.metrics["final/kappa"] == pytest.approx(last["val/kappa"], abs=1e-7)
    for name in names:
        history = sorted(client.get_metric_history(own.info.run_id, name), key=lambda value: value.step)
        assert [value.value for value in history] == pytest.approx(expected[name], rel=1e-6, nan_ok=True), name

    rows = [row for file in sorted(run.csv_logs.glob("*/metrics.csv")) for row in csv.DictReader(file.open())]
    for name in names:
        assert [float(row[name]) for row in rows if row.get(name)] == pytest.approx(expected[name], rel=1e-6), name
    assert math.isfinite(float(rows[-1]["final/kappa"]))

    told = json.dumps([own.data.tags, own.data.params]).encode() + b"".join(file.read_bytes() for file in files)
    strangers = [str(tmp_path), str(Path.cwd()), socket.gethostname(), sys.executable, f'"{getpass.getuser()}"']
    assert [text for text in strangers if text.encode() in told] == []
    split = [row["file"] for row in csv.DictReader(run.split_file.open())]
    assert not any(name.encode() in told for name in split)
