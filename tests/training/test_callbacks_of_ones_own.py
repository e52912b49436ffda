"""Callbacks by ``callbacks=``: a run that ends early is complete, is skipped, and resumes to the same figures."""

import pytest
import torch

from gaze.config.train import check_config
from gaze.errors import ConfigError
from gaze.files import write_json
from gaze.runs.folder import plan_run
from gaze.runs.load import read_runs
from gaze.runs.run import Run
from gaze.training.checkpoints import load_whole
from gaze.training.train import run_training

STOPS = (
    "callbacks=early_stopping", "callbacks.early_stopping.min_delta=9", "callbacks.early_stopping.patience=1",
    "trainer.max_epochs=5",
)  # fmt: skip


@pytest.mark.parametrize("name", ["early_stopping", "swa", "ema", "[early_stopping,ema]"])
def test_each_of_the_group_is_accepted(composed, name):
    given = check_config(composed(f"callbacks={name}")).callbacks
    assert sorted(given) == sorted(name.strip("[]").split(","))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["+callbacks.mine._target_=torch.nn.Linear"], "callbacks.mine._target_=torch.nn.Linear is no class of"),
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/accuracy"],
         "callbacks.early_stopping.mode=min waits for val/accuracy to get worse, of which higher is better: take max"),
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/los"],
         "callbacks.early_stopping.monitor=val/los is logged by no epoch: take one such as val/loss"),
    ],
)  # fmt: skip
def test_a_wrong_callback_is_one_line(composed, words, told):
    with pytest.raises(ConfigError) as error:
        check_config(composed(*words))
    assert str(error.value).startswith(told)


def test_a_run_that_is_stopped_early_is_complete(tiny, tmp_path):
    run = Run(tmp_path / "runs" / "run", tiny(*STOPS))
    run_training(run.settings, run.folder)
    assert [row["epoch"] for row in run.rows] == [1, 2] and run.state == "complete"
    assert plan_run(run).action == "skip"
    listed = read_runs(tmp_path / "runs")
    assert listed.listing["state"].tolist() == ["complete"] and listed.epochs["epoch"].max() == 2
    before = run.metrics_file.read_bytes()  # broken off after its last epoch, it has no further one
    write_json(run.status_file, {**run.status, "state": "interrupted"})
    run_training(run.settings, run.folder)
    assert run.metrics_file.read_bytes() == before and run.state == "complete"


def test_the_average_is_what_is_evaluated_and_kept(tiny, tmp_path):
    """The average of each step's weights, d w' + (1 - d) w, by a loop of our own over what a run without one did."""
    run = Run(tmp_path / "ema", tiny("callbacks=ema", "callbacks.ema.decay=0.5", "+trainer.max_steps=1"))
    run_training(run.settings, run.folder)
    content = load_whole(run.checkpoint())
    first = {k: v for k, v in content["current_model_state"].items() if k.startswith("backbone.")}
    assert all(torch.equal(v, content["state_dict"][k]) for k, v in first.items())  # the first step begins the average
    run = Run(tmp_path / "more", tiny("callbacks=ema", "callbacks.ema.decay=0.5", "+trainer.max_steps=2"))
    run_training(run.settings, run.folder)
    content = load_whole(run.checkpoint())
    name = next(k for k, v in first.items() if v.ndim > 1)
    expected = 0.5 * first[name] + 0.5 * content["current_model_state"][name]
    torch.testing.assert_close(content["state_dict"][name], expected)


def test_stochastic_weight_averaging_has_an_epoch_of_its_own(tiny, tmp_path):
    words = ("callbacks=swa", "callbacks.swa.swa_epoch_start=0.5")
    with pytest.raises(ConfigError, match="this network has none: take callbacks=ema"):
        run_training(tiny(*words), tmp_path / "none")
    run = Run(tmp_path / "run", tiny("model=level2", *words))
    run_training(run.settings, run.folder)
    assert [row["epoch"] for row in run.rows] == [1, 2, 3] and plan_run(run).action == "skip"
