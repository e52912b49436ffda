"""Runs of an earlier state live on: those in tests/fixtures/run_5e66e3c, see the README there."""

import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import FIXTURES
from omegaconf import OmegaConf
from rich.console import Console

from gaze.config.analysis import AnalyzeConfig, CompareConfig
from gaze.config.train import TrainConfig, check_config, config_hash
from gaze.files import write_json
from gaze.runs.folder import differences, plan_run
from gaze.runs.migrate import migrate
from gaze.runs.run import Run, runs_below
from gaze.studies.run import run_analysis
from gaze.training.module import GazeModule
from gaze.training.train import run_training

OLD = FIXTURES / "run_5e66e3c"


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(OLD / "runs", tmp_path / "runs"))


def asked_again(folder: Path, composed) -> Run:
    """The run with the settings that its command has today."""
    words = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
    return Run(folder, check_config(composed(*words)))


def analysed(directory: Path, **settings) -> str:
    config = AnalyzeConfig(**settings, compare=CompareConfig(device="cpu", images=10))
    paths = run_analysis(config, directory, Console(file=io.StringIO(), width=80))
    assert {"report.html", "report.md"} <= {path.name for path in paths}
    return (directory / "report.md").read_text()


def test_older_names_become_todays():
    old = {
        "optimizer": {"lr": 0.1, "plateau_factor": 0.5, "plateau_patience": 3},
        "dataset": {"name": "x", "kind": "kaggle", "handle": "a/b", "drop_leaked": True, "train_images": 640},
    }
    new = TrainConfig(**migrate(old))
    assert (new.optimizer.lr, new.scheduler.factor, new.scheduler.patience) == (0.1, 0.5, 3)
    assert (new.dataset.on_leak, new.dataset.train_images) == ("drop", None)  # the phantom's number counted for nothing
    assert migrate(new.to_dict()) == new.to_dict()
    assert "drop_leaked" in old["dataset"]


def test_what_a_source_does_not_read_and_what_came_later_are_no_difference(tmp_path, composed):
    config = check_config(composed("dataset=chest_xray"))
    values = config.to_dict()
    values["dataset"] |= {"test_fraction": 0.3, "classes": None}  # as a run kept them before
    del values["dataset"]["on_missing_mask"], values["dataset"]["train_dir"]
    run = Run(tmp_path, config)
    write_json(run.config_file, values)
    assert differences(run) == {} and Run(tmp_path).settings == config
    values["dataset"]["on_bad_image"] = "skip"
    write_json(run.config_file, values)
    assert differences(run) == {"dataset.on_bad_image": ("skip", "error")}


def test_every_run_has_the_settings_of_its_command(old, composed):
    runs = list(runs_below(old))
    assert len(runs) == 9
    for run in runs:
        if run.hydra.exists():
            again = asked_again(run.folder, composed)
            assert differences(again) == {}
            assert config_hash(run.settings) == config_hash(again.settings)
            assert plan_run(again).action == ("skip" if run.finished else "resume")


def test_an_interrupted_run_goes_on_to_the_same_metrics(old, composed):
    (run,) = runs_below(old / "interrupted")
    run_training(asked_again(run.folder, composed).settings, run.folder)
    found, expected = pd.read_csv(run.metrics_file), pd.read_csv(OLD / "expected_interrupted_metrics.csv")
    pd.testing.assert_frame_equal(found[expected.columns], expected, rtol=1e-5)


BEFORE_TARGETS = (
    "study=of_44713cf", "model=level1", "dataset.train_images=32", "dataset.test_images=16", "dataset.image_size=32",
    "dataset.batch_size=8", "trainer.accelerator=cpu", "pictures.every_n_epochs=0", "trainer.max_epochs=6",
    "scheduler.patience=0", "scheduler.factor=0.5", "optimizer.lr=3e-2", "lambda=10", "gaze.start_epoch=0",
    "gaze.end_epoch=2",
)  # fmt: skip


def test_a_run_of_before_there_were_targets_goes_on(tmp_path, composed):
    run = Run(Path(shutil.copytree(FIXTURES / "run_44713cf" / "run", tmp_path / "run")))
    config = check_config(composed(*BEFORE_TARGETS))
    assert run.settings == config and differences(Run(run.folder, config)) == {}
    run_training(config, run.folder)
    assert run.status["resumed_from_epoch"] == 4
    found, expected = pd.read_csv(run.metrics_file), pd.read_csv(FIXTURES / "run_44713cf" / "expected_metrics.csv")
    pd.testing.assert_frame_equal(found[expected.columns], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_finished_run_is_checked_and_explained(old, tmp_path, undrawn):
    run = next(run for run in runs_below(old / "arms") if run.hydra.exists())
    module = GazeModule.load_from_checkpoint(run.checkpoint())
    assert (module.scheduler_config.factor, module.scheduler_config.patience) == (0.1, 1)
    assert "level1" in analysed(tmp_path / "check", check=str(run.folder), check_images=10)
    assert "level1" in analysed(tmp_path / "explain", explain=str(run.folder))


def test_studies_are_analysed(old, tmp_path, undrawn):
    assert "lambda" in analysed(tmp_path / "lambdas", source=str(old), study="lambdas")
    assert "hflip" in analysed(tmp_path / "arms", source=str(old), study="arms")
