"""Pictures, the schedule of lambda, the stop at NaN, the table of epochs, and files that are whole or not there."""

import csv
import math
import time
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from tiny_modules import noise_batch

from gaze.consistency.schedule import curriculum
from gaze.errors import TrainingError
from gaze.files import write_json
from gaze.measures import epoch_columns
from gaze.runs.run import Run
from gaze.runs.status import read_status
from gaze.training.callbacks import EpochTable, FiniteLoss, GradCAM, ProgressLines, epoch_line
from gaze.training.module import GazeModule
from gaze.training.train import run_training


def fake_trainer(epoch=0, step=0, last="", **metrics):
    return SimpleNamespace(
        current_epoch=epoch,
        global_step=step,
        max_epochs=12,
        max_steps=-1,
        should_stop=False,
        sanity_checking=False,
        checkpoint_callbacks=[SimpleNamespace(best_model_path=last)],
        callback_metrics={key.replace("_", "/", 1): torch.tensor(value) for key, value in metrics.items()},
    )


# ---- the schedule


def test_without_the_callback_that_draws_a_run_is_the_same(tiny, tmp_path, monkeypatch):
    config = tiny(
        "lambda=-100", "gaze.start_epoch=0", "gaze.min_samples=1", "trainer.max_epochs=2", "pictures.every_n_epochs=1"
    )
    run_training(config, tmp_path / "drawn")
    monkeypatch.setattr("gaze.training.train.GradCAM", lambda *_: Callback())
    run_training(config, tmp_path / "bare")
    assert [path.name for path in (tmp_path / "bare" / "pictures").iterdir()] == ["confusion.png"]  # of the last look
    assert (tmp_path / "drawn" / "pictures" / "overlays.png").exists()
    drawn, bare = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("drawn", "bare"))
    assert all(torch.equal(bare["state_dict"][key], value) for key, value in drawn["state_dict"].items())
    drawn, bare = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("drawn", "bare"))
    assert drawn == bare and b"-20" in drawn


def test_logged_lambda_follows_the_curriculum_in_a_real_fit(tiny, tmp_path):
    run_training(
        tiny("lambda=-100", "trainer.max_epochs=12", "+trainer.limit_train_batches=1", "dataset.test_images=4"),
        tmp_path,
    )
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [float(row["train/lambda"]) for row in rows] == [curriculum(epoch, -100) for epoch in range(1, 13)]
    assert [row["train/loss_gaze"] == "" for row in rows] == [True] * 2 + [False] * 10


@pytest.mark.parametrize(
    ("every", "drawn"), [(0, []), (1, [1, 2, 3]), (2, [2, 3]), (5, [3])], ids=["never", "always", "second", "last"]
)
def test_pictures_are_drawn_every_n_epochs_and_after_the_last(tmp_path, monkeypatch, every, drawn):
    module = GazeModule("level1", num_classes=2, image_size=8)
    callback, epochs = GradCAM(tmp_path, every_n_epochs=every), []
    monkeypatch.setattr(callback, "_draw", lambda trainer, module, epoch: epochs.append(epoch))
    for epoch in range(3):
        trainer = fake_trainer(epoch)
        trainer.max_epochs = 3
        callback.on_validation_end(trainer, module)
    assert epochs == drawn


def test_nothing_is_drawn_in_a_sanity_check(tmp_path):
    trainer = fake_trainer()
    trainer.sanity_checking = True
    GradCAM(tmp_path, every_n_epochs=1).on_validation_end(trainer, None)
    assert list(tmp_path.iterdir()) == []


# ---- NaN


def feed(callback, losses, on_device=False):
    """Losses of steps 1, 2, ...; ``on_device`` keeps the host from reading them, as on a GPU."""
    if on_device:
        callback._check = lambda trainer: None
    for step, loss in enumerate(losses, start=1):
        callback.on_train_batch_end(fake_trainer(step=step), None, {"loss": torch.tensor(loss)}, None, step - 1)
    if on_device:
        del callback._check


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_loss_stops_at_once_on_a_cpu(bad):
    with pytest.raises(TrainingError, match=r"step 2 \(epoch 1\).*no checkpoint yet.*optimizer\.lr"):
        feed(FiniteLoss(), [1.0, bad, 1.0])


def test_first_bad_step_is_named_even_when_the_host_looks_late():
    callback = FiniteLoss()
    feed(callback, [1.0, math.inf, 1.0, math.nan, 1.0], on_device=True)
    with pytest.raises(TrainingError, match=r"step 2 \(epoch 4\).*checkpoint is here/last\.ckpt"):
        callback.on_validation_start(fake_trainer(epoch=3, step=5, last="here/last.ckpt"), None)


def test_finite_losses_never_stop():
    callback = FiniteLoss()
    feed(callback, [1e30, -1e30, 0.0])
    callback.on_validation_start(fake_trainer(step=3), None)
    callback.on_validation_end(fake_trainer(step=3, val_loss=1e30), None)


def test_weights_that_the_last_step_broke_stop_after_evaluation():
    callback = FiniteLoss()
    feed(callback, [1.0])
    with pytest.raises(TrainingError, match="evaluation set is NaN or infinite at step 1"):
        callback.on_validation_end(fake_trainer(step=1, val_loss=math.nan), None)


# ---- the table


def test_epoch_table_writes_known_columns_and_leaves_missing_ones_blank(tmp_path):
    table = EpochTable(tmp_path / "metrics.csv")
    table.on_train_epoch_end(fake_trainer(0, 3, val_loss=0.5, val_unknown=1.0), None)
    table.on_train_epoch_end(fake_trainer(1, 6, val_loss=0.25), None)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == epoch_columns()
    assert [(row["epoch"], row["step"], row["val/loss"], row["lr"]) for row in rows] == [
        ("1", "3", "0.5", ""),
        ("2", "6", "0.25", ""),
    ]


def test_epoch_table_says_a_line_per_epoch(tmp_path):
    said = []
    EpochTable(tmp_path / "m.csv", said.append).on_train_epoch_end(fake_trainer(2, 3, val_kappa=0.5), None)
    assert len(said) == 1
    assert said[0].startswith("epoch  3/12 ")
    assert "kappa 0.500" in said[0]


def test_epoch_line_holds_every_number_a_reader_follows():
    row = {
        "epoch": 3,
        "train/loss": 1.1034,
        "val/accuracy": 0.5414,
        "val/kappa": 0.388,
        "val/gaze_consistency": 0.04123,
        "train/lambda": 6.25,
    }
    assert epoch_line(row, 20, 4.06) == (
        "epoch  3/20  loss 1.103  accuracy 0.541  kappa 0.388  gaze consistency 0.0412  lambda 6.25  4.1 s"
    )


def test_epoch_line_says_nan_where_a_value_is_missing():
    assert "kappa nan" in epoch_line({"epoch": 1}, 1, 0.0)


# ---- within an epoch


def test_progress_within_an_epoch_is_a_line_after_a_while_and_then_every_minute(tmp_path):
    """5 s a step of 8 images, 20 steps an epoch, 3 epochs, evaluations of 4 batches that take 10 s."""
    now, said = [0.0], []
    trainer = SimpleNamespace(
        **vars(fake_trainer()), world_size=1, is_global_zero=True, num_training_batches=20, num_val_batches=[4],
        accumulate_grad_batches=1, callbacks=[],
    )  # fmt: skip
    trainer.max_epochs = 3
    write_json(tmp_path / "status.json", {"state": "running", "pid": 7})
    lines = ProgressLines(Run(tmp_path), said.append, clock=lambda: now[0])
    lines.on_train_start(trainer, None)
    for epoch in range(2):
        trainer.current_epoch = epoch
        for step in range(20):
            now[0] += 5
            lines.on_train_batch_end(trainer, None, None, noise_batch(8), step)
        lines.on_validation_start(trainer, None)
        now[0] += 10
        lines.on_validation_end(trainer, None)
    assert said == [
        "epoch 1/3, step 3 of 20: 1.6 images/s, about 6 min to go",  # 57 steps of 5 s, 3 evaluations of 20 s
        "epoch 1/3, step 15 of 20: 1.6 images/s, about 5 min to go",
        "epoch 2/3, step 5 of 20: 1.6 images/s, about 3 min to go",  # 35 steps, 2 evaluations of 10 s
        "epoch 2/3, step 17 of 20: 1.6 images/s, about 2 min to go",
    ]
    status = read_status(tmp_path)
    assert status["pid"] == 7 and status["ends"] - time.time() == pytest.approx(23 * 5 + 2 * 10, abs=5)
    trainer.max_steps = trainer.global_step = 40  # the last step
    assert lines._seconds_left(trainer, 19, 5.0) == 10  # its evaluation


# ---- whole files
