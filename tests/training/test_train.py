"""A run from its config to its folder: in this process, and by ``python train.py``."""

import csv
import errno
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO, TINY
from lightning import Trainer
from PIL import Image
from sklearn.metrics import cohen_kappa_score
from sklearn.utils.class_weight import compute_class_weight
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gaze.config.train import LossConfig, TrainConfig, check_config, config_hash
from gaze.data import datasets
from gaze.data.datamodule import GazeDataModule, SplitDataset
from gaze.data.sources.phantom import CLASSES
from gaze.errors import ConfigError, DataError, TrainingError
from gaze.files import atomic_path, write_json
from gaze.measures import epoch_columns
from gaze.runs.folder import changed_images, plan_run, with_dataset
from gaze.runs.grid import changed_line
from gaze.runs.kept_maps import last_maps
from gaze.runs.run import BEST, Run
from gaze.runs.status import Interrupted, read_status
from gaze.studies.opened import check_images
from gaze.training.checkpoints import StopOnSignal
from gaze.training.module import GazeModule
from gaze.training.train import _coarse, class_weights, run_training

ADVERTS = ("Traceback", "Warning", "deprecated", "litlogger", "Tip:", "GPU available", "num_workers", "LOCAL_RANK")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def load(path: Path):
    return torch.load(path, weights_only=True)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder data set of 8x8 grey noise: two classes, four training and two test images of each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "toy" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "toy"


# ---- the run folder


def test_run_folder_holds_what_the_manual_promises(tiny_run):
    names = {path.name for path in tiny_run.folder.iterdir() if not path.name.startswith("events.out")}
    assert names == {
        *("config.json", "metrics.csv", "maps.npz", "environment.json", "audit.json", "split.csv"),
        *("gaze_maps.npy", "gaze_last.npz", "gaze_grid.csv"),
        *("predictions.csv", "classes.csv", "confusion.csv"),
        *("pictures", "checkpoints", "hparams.yaml", "status.json", ".lock"),
    }
    assert {path.name for path in (tiny_run.folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_metrics_file_has_one_row_per_epoch_counted_from_one(tiny_run):
    rows = rows_of(tiny_run.folder)
    counts = [f"val/n_correct/{name}" for name in ("diffuse", "healthy", "meningeal", "midline")]
    assert list(rows[0]) == [*epoch_columns(), *counts]
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "2"), ("2", "4")]


def test_last_row_equals_what_the_run_returned(tiny_run):
    last = rows_of(tiny_run.folder)[-1]
    assert {key: float(value) for key, value in last.items()} == pytest.approx(tiny_run.row, rel=1e-12)


def test_values_of_a_row_agree_with_each_other(tiny_run):
    for row in rows_of(tiny_run.folder):
        value = {key: float(text) for key, text in row.items()}
        assert value["val/n_correct"] == pytest.approx(16 * value["val/accuracy"])
        total = value["train/loss_cls"] + value["train/lambda"] * value["train/loss_gaze"]
        assert value["train/loss"] == pytest.approx(total, rel=1e-5)
        assert (value["train/lambda"], value["lr"]) == (50.0, pytest.approx(1e-3))


def test_the_masks_are_measured(tiny_run):
    assert {"val/gaze_mask_energy", "val/gaze_mask_lift", "val/gaze_pointing"} <= set(tiny_run.row)
    assert 0 <= tiny_run.row["val/gaze_mask_energy"] <= 1 and tiny_run.row["val/gaze_mask_lift"] > 0


def test_audit_is_stored_with_the_run(tiny_run):
    audit = json.loads((tiny_run.folder / "audit.json").read_text())
    assert set(CLASSES) <= set(re.findall(r"\w+", json.dumps(audit)))


def test_environment_tells_versions_device_command_and_config(tiny_run):
    stored = json.loads((tiny_run.folder / "environment.json").read_text())
    assert stored["packages"]["torch"] == version("torch")
    assert stored["packages"]["gaze"] == version("gaze-consistency")
    assert stored["device"].startswith("cpu")
    assert stored["config_hash"] == config_hash(tiny_run.config)
    assert stored["command"] == " ".join(sys.argv)
    assert "commit" in stored


def test_config_is_stored_with_the_run(tiny_run):
    expected = with_dataset(tiny_run.config, window=None).to_dict()  # no drawn image is beyond 8 bits
    assert json.loads((tiny_run.folder / "config.json").read_text()) == expected


def test_maps_behind_the_pictures_are_kept(tiny_run):
    with np.load(tiny_run.folder / "maps.npz") as maps:
        shapes = {key: maps[key].shape for key in maps.files}
        assert shapes == {
            "class_gaze": (4, 16, 16),
            "counts": (4,),
            "cams": (8, 16, 16),
            "indices": (8,),
            "classes": (4,),
            "epoch": (),
        }
        assert maps["classes"].tolist() == list(CLASSES)
        assert maps["counts"].sum() == tiny_run.row["val/n_correct"]
        assert maps["epoch"] == 2
        assert 0 <= maps["cams"].min() <= maps["cams"].max() <= 1


def test_pictures_can_be_opened_and_are_not_blank(tiny_run):
    for name in ["class_gaze", "overlays"]:
        with Image.open(tiny_run.folder / "pictures" / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_checkpoints_load_as_plain_weights(tiny_run):
    for name in ["best", "last"]:
        path = tiny_run.folder / "checkpoints" / f"{name}.ckpt"
        saved = load(path)
        module = GazeModule.load_from_checkpoint(path, weights_only=True)
        assert module.class_names == list(CLASSES)
        assert all(torch.equal(value, saved["state_dict"][key]) for key, value in module.state_dict().items())
        assert any("gaze_loss" in key for key in saved["state_dict"])


def test_last_checkpoint_is_that_of_the_last_epoch(tiny_run):
    assert load(tiny_run.folder / "checkpoints" / "last.ckpt")["global_step"] == 4


# ---- TensorBoard


@pytest.fixture(scope="module")
def board(tiny_run) -> EventAccumulator:
    return EventAccumulator(str(tiny_run.folder)).Reload()


def test_tensorboard_has_the_scalars_of_the_metrics_file(board, tiny_run):
    for tag in epoch_columns()[2:]:
        shown = tag if tag.startswith("val/") else f"while training/{tag.removeprefix('train/')}"
        assert [event.step for event in board.Scalars(shown)] == [1, 2]  # epochs, as the pictures
        values = [event.value for event in board.Scalars(shown)]
        assert values == pytest.approx([float(row[tag]) for row in rows_of(tiny_run.folder)], rel=1e-5)


def test_tensorboard_has_the_pictures_of_both_epochs(board):
    for tag in ["class_gaze", "overlays"]:
        events = board.Images(f"val/pictures/{tag}")
        assert [event.step for event in events] == [1, 2]
        assert all(event.encoded_image_string.startswith(b"\x89PNG") for event in events)


def test_tensorboard_has_hyperparameters_with_final_metrics(board, tiny_run):
    plugin = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for name in (b"lambda", b"model", b"seed", b"second_order"):
        assert name in plugin
    experiment = board.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert b"val/gaze_consistency" in experiment and b"val/kappa" in experiment


def test_tensorboard_opens_on_the_evaluation(board):
    """It sorts by name, and a metric of the hyper-parameters is no plot with one dot."""
    tags = board.Tags()
    assert {tag.partition("/")[0] for tag in tags["scalars"] + tags["images"]} == {"val", "while training"}
    assert all(len(board.Scalars(tag)) == 2 for tag in tags["scalars"])


# ---- determinism and what an earlier run left


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tiny, tmp_path):
    overrides = ["trainer.max_epochs=1", "lambda=50", "gaze.start_epoch=0", "gaze.end_epoch=0"]
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_training(tiny(f"seed={seed}", *overrides), tmp_path / folder)
    a, b, c = ((tmp_path / folder / "metrics.csv").read_bytes() for folder in "abc")
    assert a == b
    assert a != c


def test_rerun_keeps_what_was_there(tiny, tmp_path):
    for seed in (0, 1, 2):
        run_training(tiny(f"seed={seed}", "trainer.max_epochs=1", "rerun=true"), tmp_path)
    folders = [tmp_path / "previous" / "1", tmp_path / "previous" / "2", tmp_path]
    stored = [json.loads((folder / "config.json").read_text())["seed"] for folder in folders]
    assert stored == [0, 1, 2]
    for folder in folders:
        assert len(rows_of(folder)) == 1
        assert load(folder / "checkpoints" / "last.ckpt")["global_step"] == 2
        assert list(folder.glob("events.out.tfevents.*")) != []


def test_a_finished_run_is_not_trained_again_and_other_settings_are_refused(tiny, tiny_run, monkeypatch):
    monkeypatch.setattr("gaze.training.train.build_trainer", None)  # would be called
    assert run_training(tiny_run.config, tiny_run.folder) == pytest.approx(tiny_run.row, rel=1e-8)
    words = ("lambda=50", "gaze.start_epoch=0", "gaze.end_epoch=1", "pictures.every_n_epochs=1")
    with pytest.raises(ConfigError) as error:
        run_training(tiny(*words, "optimizer.lr=0.5", "seed=3"), tiny_run.folder)
    assert "optimizer.lr: 0.001 there, 0.5 now\n  seed: 0 there, 3 now" in str(error.value)


def test_resume_false_starts_over(tiny, tmp_path):
    config = tiny()
    row = run_training(config, tmp_path)
    (tmp_path / "status.json").unlink()  # as if it had been killed
    (tmp_path / "metrics.csv").write_text("epoch\n1\n")
    again = run_training(tiny("resume=false"), tmp_path)
    assert again == pytest.approx(row, rel=0, abs=0, nan_ok=True)  # no image with a lesion is right yet
    assert (tmp_path / "previous" / "1" / "metrics.csv").read_text() == "epoch\n1\n"


def test_the_window_of_a_run_is_kept_and_used_again(composed, tmp_path):
    for split, count in (("train", 4), ("test", 3)):
        for name, more in (("cat", 0), ("dog", 500)):
            for i in range(count):
                values = np.random.default_rng(more + i).integers(100, 1000, (8, 8)) + more
                (tmp_path / "set" / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(np.uint16)).save(tmp_path / "set" / split / name / f"{i}.png")
    words = [
        "dataset=folder",
        f"dataset.root={tmp_path / 'set'}",
        "dataset.image_size=8",
        "dataset.on_leak=warn",
        "model=level1",
    ]
    config = check_config(composed(*words, "trainer.max_epochs=2", "trainer.accelerator=cpu"))
    run_training(config, tmp_path / "run")
    window = json.loads((tmp_path / "run" / "audit.json").read_text())["window"]
    run = Run(tmp_path / "run")
    assert run.settings.dataset.window == window and 100 <= window[0] < window[1] < 1500
    assert plan_run(Run(run.folder, config)).action == "skip"
    run.status_file.unlink()  # as if it had been killed
    plan = plan_run(Run(run.folder, config))
    assert plan.action == "resume" and plan.run.settings.dataset.window == window
    other = check_config(composed(*words, "dataset.window=[0,4095]", "trainer.max_epochs=2", "trainer.accelerator=cpu"))
    with pytest.raises(ConfigError, match=r"dataset\.window: \[.*\] there, \[0, 4095\] now"):
        plan_run(Run(run.folder, other))
    values = run.values
    del values["dataset"]["window"], values["dataset"]["orient"]  # a run from before, which took the whole range
    run.config_file.write_text(json.dumps(values))
    begun = plan_run(Run(run.folder, config)).run.settings.dataset
    assert begun.window is None and begun.orient is None  # nor did it turn an image
    run.config_file.write_text(json.dumps(plan_run(Run(run.folder, config)).run.settings.to_dict()))  # resumed once
    assert plan_run(Run(run.folder, config)).run.settings.dataset.orient is None
    values["dataset"] |= {"window": window, "orient": False}  # chosen: another run
    run.config_file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"dataset\.orient: False there, True now"):
        plan_run(Run(run.folder, config))
    del values["dataset"]["orient"]  # a run with a window, when orientations were always applied
    run.config_file.write_text(json.dumps(values))
    assert plan_run(Run(run.folder, config)).run.settings.dataset.orient is True


@pytest.fixture
def toy_run(composed, toy, tmp_path, monkeypatch) -> Run:
    """An epoch on ``toy``, whose root was given from the folder that it lies in."""
    monkeypatch.chdir(toy.parent)
    words = ["dataset=folder", "dataset.root=toy", "dataset.image_size=8", "model=level1", "trainer.max_epochs=1"]
    config = check_config(composed(*words, "trainer.accelerator=cpu", "pictures.every_n_epochs=0"))
    run_training(config, tmp_path / "run")
    return Run(tmp_path / "run", config)


def rename(root: Path, old: str, new: str) -> None:
    for split in ("train", "test"):
        (root / split / old).rename(root / split / new)


def test_a_run_notices_that_its_images_changed(toy, toy_run):
    facts = json.loads((toy_run.folder / "images.json").read_text())
    assert (facts["classes"], facts["train"], facts["test"]) == (["cat", "dog"], 8, 4)
    assert changed_images(toy_run) == [] and changed_line([toy_run]) is None
    image, content = toy / "train" / "cat" / "0.png", (toy / "train" / "cat" / "0.png").read_bytes()
    changes = {
        "classes: cat, dog then, cat, wolf now": lambda: rename(toy, "dog", "wolf"),
        "train: 8 then, 7 now": image.unlink,
        "names, sizes or labels of some of their files": lambda: image.write_bytes(content + b"x"),
        "only in train/: dog; only in test/: wolf": lambda: (toy / "test" / "dog").rename(toy / "test" / "wolf"),
    }
    status = toy_run.status_file.read_bytes()
    for said, change in changes.items():
        before = shutil.copytree(toy, toy.parent / "before")
        change()
        assert said in "".join(changed_images(toy_run))
        assert plan_run(toy_run).action == "skip" and said in changed_line([toy_run])
        with pytest.raises(DataError, match="was trained with other images"):
            check_images([toy_run])
        toy_run.status_file.unlink()  # as if it had been killed
        with pytest.raises(ConfigError, match=r"was begun with other images than those in (?s:.*)resume=false"):
            plan_run(toy_run)
        over = toy_run.settings.model_copy(update={"resume": False})
        assert plan_run(Run(toy_run.folder, over)).action == "start"
        toy_run.status_file.write_bytes(status)
        shutil.rmtree(toy)
        before.rename(toy)
    toy.rename(toy.parent / "away")  # nothing is known of images that are elsewhere
    assert changed_images(toy_run) == []
    (toy.parent / "away").rename(toy)
    toy_run.images_file.unlink()  # a run from before
    toy_run.status_file.unlink()
    rename(toy, "dog", "wolf")
    assert plan_run(toy_run).action == "resume"


def test_a_published_set_of_which_images_were_missing_is_told_from_a_whole_one(toy, toy_run):
    whole = toy.parent / "whole"
    shutil.copytree(toy, whole)
    shutil.copy(whole / "test" / "cat" / "0.png", whole / "train" / "cat" / "9.png")

    def published(root: Path) -> TrainConfig:
        update = {"kind": "kaggle", "handle": "owner/name/versions/1", "root": str(root)}
        return toy_run.settings.model_copy(update={"dataset": toy_run.settings.dataset.model_copy(update=update)})

    write_json(toy_run.config_file, with_dataset(published(toy), window=None).to_dict())
    for root, changes in ((toy, []), (whole, ["train: 8 then, 9 now"])):
        again = Run(toy_run.folder, published(root))
        assert plan_run(again).action == "skip" and changed_images(again) == changes


def test_a_relative_root_is_the_folder_that_it_was(composed, toy, toy_run, monkeypatch):
    kept = Run(toy_run.folder)
    assert kept.settings.dataset.root == "toy"  # what is shared holds no path of this machine
    assert json.loads(kept.audit_file.read_text())["dataset.root"] == str(toy)
    other = toy.parent / "other"
    shutil.copytree(toy, other / "toy")
    for place, given, same in [
        (toy.parent, "toy", True), (toy.parent, "toy/", True), (toy.parent, "./x/../toy", True),
        (toy.parent, str(toy), True), (other, "toy", False), (other, "../toy", True),
    ]:  # fmt: skip
        monkeypatch.chdir(place)
        assert kept.dataset.root == str(toy)
        dataset = toy_run.settings.dataset.model_copy(update={"root": given})
        again = Run(toy_run.folder, toy_run.settings.model_copy(update={"dataset": dataset}))
        if same:
            assert plan_run(again).action == "skip"
        else:
            with pytest.raises(ConfigError, match=f"dataset.root: {toy} there, {other / 'toy'} now"):
                plan_run(again)
    kept.audit_file.unlink()  # a finished run of which only the small files were copied
    monkeypatch.chdir(toy.parent)
    assert plan_run(toy_run).action == "skip"


def test_names_that_are_no_utf8_and_line_breaks_are_written_escaped(composed, toy, tmp_path):
    rename(toy, "dog", os.fsdecode(b"$\\frac{$d\xf6g"))
    names = [os.fsdecode(b"\x93\xfa.png"), "two\nlines.png"]
    for number, name in enumerate(names):
        (toy / "train" / "cat" / f"{number}.png").rename(toy / "train" / "cat" / name)
    (toy / "train" / "cat" / "two\nlines.txt").touch()
    (toy / "train" / "cat" / names[0].replace("png", "gif")).touch()
    words = ["dataset=folder", f"dataset.root={toy}", "dataset.image_size=8", "model=level1", "trainer.max_epochs=1"]
    config = check_config(composed(*words, "trainer.accelerator=cpu", "dataset.on_bad_image=skip"))
    run_training(config, tmp_path / "run")
    run = Run(tmp_path / "run")
    audit = json.loads(run.audit_file.read_bytes())
    assert list(audit["train_counts"]) == [r"$\frac{$d\udcf6g", "cat"]
    assert audit["ignored"] == [r"train/cat/two\nlines.txt"]
    assert audit["unreadable"] == [r"train/cat/\udc93\udcfa.gif: no image of a format that is read"]
    assert r"val/n_correct/$\frac{$d\udcf6g" in run.table()[0]
    (run.folder / "status.json").unlink()
    assert plan_run(Run(run.folder, config)).action == "resume"


# ---- epochs that end early or are evaluated at other places

SHORT = {  # 4 steps an epoch: (epoch, step) of each row
    ("+trainer.max_steps=6",): [(1, 4), (2, 6)],
    ("+trainer.max_steps=3",): [(1, 3)],
    ("+trainer.max_time=00:00:00:59",): [(1, 4), (2, 6)],
    ("trainer.max_epochs=2", "+trainer.val_check_interval=3"): [(1, 4), (2, 8)],
    ("trainer.max_epochs=2", "+trainer.val_check_interval=00:01:00:00"): [(1, 4), (2, 8)],
}


@pytest.fixture
def time_is_up_after_six_steps(monkeypatch):
    def check(self, trainer):
        trainer.should_stop = trainer.should_stop or trainer.global_step >= 6

    monkeypatch.setattr("lightning.pytorch.callbacks.Timer._check_time_remaining", check)


@pytest.mark.usefixtures("time_is_up_after_six_steps")
@pytest.mark.parametrize("words", SHORT, ids=lambda words: words[-1])
def test_every_row_is_of_an_evaluation_at_its_own_end(tiny, tmp_path, words):
    config = tiny("dataset.train_images=32", "trainer.max_epochs=3", "pictures.every_n_epochs=9", *words)
    run_training(config, tmp_path)
    rows = rows_of(tmp_path)
    assert [(int(row["epoch"]), int(row["step"])) for row in rows] == SHORT[words]
    trained = GazeModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (again,) = trainer.validate(trained, GazeDataModule(config.dataset), verbose=False)
    assert float(rows[-1]["val/loss"]) == pytest.approx(again["val/loss"], rel=1e-5)
    assert len({row["val/loss"] for row in rows}) == len(rows)
    with np.load(tmp_path / "maps.npz") as maps:  # drawn after the last step, wherever it is
        assert maps["epoch"] == len(rows)
    assert read_status(tmp_path)["state"] == "complete"


@pytest.mark.parametrize("step", [5, 6])
def test_a_run_with_max_steps_resumes_to_the_same_rows(tiny, tmp_path, monkeypatch, step):
    config = tiny("dataset.train_images=32", "+trainer.max_steps=6")
    run_training(config, tmp_path / "whole")
    original = StopOnSignal._asked
    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "_asked", lambda self, trainer: trainer.global_step == step)
        with suppress(Interrupted):  # at its last step it ends as it would have
            run_training(config, tmp_path / "run")
    assert StopOnSignal._asked is original
    run_training(config, tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+trainer.limit_val_batches=0.1", r"trainer: You requested to check 0\.1 of the `val_dataloader`.*at least"),
        ("+trainer.val_check_interval=30", r"\(30\) must be less than or equal to .* batches \(2\)\.$"),
    ],
)
def test_limits_that_so_few_batches_do_not_allow_are_one_message(tiny, tmp_path, word, message):
    with pytest.raises(ConfigError, match=message):
        run_training(tiny(word), tmp_path)


RESNET = ("model=torchvision", "model.name=resnet18", "model.layer=layer3", "trainer.max_epochs=1")


def test_batch_norm_behind_the_pooling_takes_any_number_of_images_but_single_ones(composed, tmp_path):
    """At 32 px a resnet18 ends in 1x1: batch norm of one image has one value a channel."""
    tiny = [word for word in TINY if not word.startswith(("model=", "trainer.max_epochs", "dataset.train_images"))]
    run_training(check_config(composed(*tiny, *RESNET, "dataset.train_images=17")), tmp_path / "run")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == ["2"]  # 8 and 9 images
    single = check_config(composed(*tiny, *RESNET, "dataset.train_images=8", "dataset.batch_size=1"))
    with pytest.raises(TrainingError, match=r"resnet18 has batch norm .* dataset\.batch_size=1 gave one\. Raise it"):
        run_training(single, tmp_path / "single")


# ---- bad input


def test_map_under_2x2_is_refused_before_images_are_read_or_anything_is_written(composed, toy, tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr("gaze.data.datamodule.load_dataset", lambda *args: reads.append(args))
    config = check_config(composed("dataset=folder", f"dataset.root={toy}", "dataset.image_size=8", "model=level2"))
    with pytest.raises(ConfigError, match=r"level2 on 8x8 .* 1x1 map.*Raise dataset\.image_size"):
        run_training(config, tmp_path / "run")
    assert reads == []
    assert not (tmp_path / "run").exists()


def test_bad_images_leave_an_earlier_run_in_its_place(composed, toy, tmp_path):
    overrides = ["dataset=folder", f"dataset.root={toy}", "dataset.image_size=8", "model=level1"]
    config = check_config(composed(*overrides, "trainer.max_epochs=1", "trainer.accelerator=cpu"))
    run_training(config, tmp_path / "run")
    (tmp_path / "run" / "status.json").unlink()  # as if it had been killed
    (toy / "test" / "dog" / "0.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="was begun with other images"):
        run_training(config, tmp_path / "run")
    with pytest.raises(datasets.DataError, match=r"dog.0\.png"):
        run_training(config.model_copy(update={"resume": False}), tmp_path / "run")
    assert len(rows_of(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "previous").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so that asking for one is no mistake")
def test_trainer_settings_that_lightning_refuses_write_nothing(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"trainer: .*gpu"):
        run_training(tiny("trainer.accelerator=gpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def break_the_loss(monkeypatch, step):
    """The loss of step ``step`` (from 1) is NaN."""
    plain = GazeModule.training_step

    def training_step(self, batch, batch_idx):
        loss = plain(self, batch, batch_idx)
        return loss * float("nan") if self.trainer.global_step + 1 == step else loss

    monkeypatch.setattr(GazeModule, "training_step", training_step)


def test_nan_loss_stops_with_the_step_and_keeps_the_last_epoch(tiny, tmp_path, monkeypatch):
    break_the_loss(monkeypatch, step=4)
    with pytest.raises(TrainingError, match=r"step 4 \(epoch 2\).*last\.ckpt"):
        run_training(tiny(), tmp_path)
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1"]
    status = read_status(tmp_path)
    assert status["state"] == "failed"
    assert "NaN or infinite at step 4" in status["error"]
    last = load(tmp_path / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 2
    assert all(value.isfinite().all() for value in last["state_dict"].values())


def test_a_finished_run_says_so(tiny_run):
    status = read_status(tiny_run.folder)
    assert status["state"] == "complete"
    assert status["seconds"] > 0


def test_ctrl_c_leaves_an_interrupted_run(tiny, tmp_path, monkeypatch):
    def training_step(self, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr(GazeModule, "training_step", training_step)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_training(tiny(), tmp_path)
    assert read_status(tmp_path)["state"] == "interrupted"


def test_weights_broken_by_an_epochs_last_step_are_not_saved(tiny, tmp_path):
    with pytest.raises(TrainingError, match="NaN or infinite at step 1"):
        run_training(tiny("dataset.batch_size=16", "optimizer.lr=1e30", "pictures.every_n_epochs=1"), tmp_path)
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert not (tmp_path / "pictures").exists()


def test_a_full_disk_at_the_start_names_the_file(tiny, tmp_path, monkeypatch):
    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(TrainingError, match=r"run/config\.json could not be written: No space left.*Make room"):
        run_training(tiny(), tmp_path / "run")


def test_a_folder_that_is_deleted_ends_its_run(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr("gaze.training.callbacks.epoch_line", lambda *_: shutil.rmtree(folder) or "")
    with pytest.raises(TrainingError, match=r"run was deleted or moved while its run went on"):
        run_training(tiny(), folder)
    assert not folder.exists()


def test_failed_write_of_the_table_leaves_the_earlier_table(tiny, tmp_path, monkeypatch):
    """What a full disk does to metrics.csv: it stays as it was after the epoch before."""

    def full_disk(self, *args, **kwargs):
        raise OSError("No space left on device")

    with atomic_path(tmp_path / "metrics.csv") as part:
        part.write_text("earlier")
    monkeypatch.setattr(csv.DictWriter, "writerows", full_disk)
    with pytest.raises(OSError, match="No space"):
        run_training(tiny("trainer.max_epochs=1"), tmp_path)
    assert (tmp_path / "previous" / "1" / "metrics.csv").read_text() == "earlier"
    assert not (tmp_path / "metrics.csv").exists()


# ---- the command line


def train(*arguments: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, str(REPO / "train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_command_prints_audit_epochs_and_table_and_nothing_else(tmp_path):
    done = train(*TINY, "pictures.every_n_epochs=1", f"hydra.run.dir={tmp_path / 'run'}")
    assert (done.returncode, done.stderr) == (0, "")
    order = ["Data set phantom", "pixel-identical images", "epoch 1/2", "epoch 2/2", "last epoch (2)", "Run folder:"]
    places = [done.stdout.find(words) for words in order]
    assert -1 not in places, done.stdout
    assert places == sorted(places)
    assert [word for word in ADVERTS if word in done.stdout] == []
    assert "\x1b" not in done.stdout
    assert {path.name for path in (tmp_path / "run" / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }


@pytest.mark.slow
def test_bad_settings_end_the_command_with_one_error_and_change_nothing(tmp_path):
    kept = tmp_path / "run" / ".hydra" / "config.yaml"
    kept.parent.mkdir(parents=True)
    kept.write_text("of a finished run")
    bad = ["lambda=abc", "dataset.batch_size=0", "+dataset.batchsize=4"]
    done = train(*bad, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert all(setting.lstrip("+") in done.stderr for setting in bad), done.stderr
    assert done.stdout == ""
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [kept]
    assert kept.read_text() == "of a finished run"


def test_help_answers_at_once_with_the_groups():
    done = train("--help")
    assert done.returncode == 0
    assert all(words in done.stdout for words in ("level5", "brain_tumor_mri", "lambda"))


def in_a_terminal(command: list[str], seconds: float) -> tuple[int, str]:
    """Exit code and everything shown by a command that believes it has a terminal 200 columns wide."""
    master, slave = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=REPO, env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown, end = b"", time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            if select.select([master], [], [], 1.0)[0]:
                try:
                    shown += os.read(master, 65536)
                except OSError:  # EIO: the other end is closed
                    break
        code = process.wait(timeout=max(1.0, end - time.monotonic()))
    finally:
        process.kill()
        os.close(master)
    return code, shown.decode(errors="replace")


@pytest.mark.slow
def test_terminal_shows_a_bar_with_kappa_and_gaze_and_keeps_the_epoch_lines(tmp_path):
    command = [sys.executable, "train.py", *TINY, "trainer.max_epochs=3", f"hydra.run.dir={tmp_path / 'run'}"]
    code, shown = in_a_terminal(command, seconds=200)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert code == 0, plain
    assert re.search(r"Epoch 3/3 .*━", plain)
    assert re.search(r"val/kappa: *-?\d", plain)
    assert re.search(r"val/gaze_consistency: *\d", plain)
    assert re.search(r"train/lambda: *\d", plain)
    # Each epoch line has a line of its own; behind a bar it would be erased with the bar.
    assert re.findall(r"(?:^|[\r\n]) *(epoch \d/3)  loss [^\r\n]* s *[\r\n]", plain) == [
        f"epoch {n}/3" for n in (1, 2, 3)
    ]


@pytest.mark.slow
def test_bf16_with_channels_last_follows_float32(tiny, tmp_path):
    words = ("model=level2", "dataset.train_images=64", "trainer.max_epochs=3", "lambda=50", "gaze.end_epoch=3")
    plain = run_training(tiny(*words, "model.channels_last=false"), tmp_path / "plain")
    fast = run_training(tiny(*words, "trainer.precision=bf16-mixed"), tmp_path / "fast")
    losses = [[float(row["train/loss_cls"]) for row in rows_of(tmp_path / name)] for name in ("plain", "fast")]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[0][2] < losses[0][0]
    assert plain["train/loss_gaze"] > 0 and fast["train/loss_gaze"] > 0  # of few images: too small to compare


def test_a_coarse_map_is_said_before_training(tiny):
    assert _coarse(tiny("model=level2")) is None  # 4x4 at 32 pixels
    assert "A map of 3x3 cells is coarse" in _coarse(tiny("model=level2", "dataset.image_size=24"))
    line = _coarse(tiny("model=torchvision", "model.name=resnet18", "dataset.image_size=64"))
    assert "2x2" in line and "an earlier layer (model.layer=NAME)" in line


# ---- unbalanced classes


def test_balanced_weights_are_scikit_learns_and_named_ones_are_by_name():
    counts = {"a": 90, "b": 10, "c": 50}
    labels = [name for name, n in counts.items() for _ in range(n)]
    expected = compute_class_weight("balanced", classes=np.array(list(counts)), y=labels)
    assert class_weights(LossConfig(class_weights="balanced"), counts) == pytest.approx(expected.tolist())
    assert class_weights(LossConfig(class_weights={"b": 3}), counts) == [1.0, 3.0, 1.0]
    assert class_weights(LossConfig(), counts) is None
    with pytest.raises(ConfigError, match=r"loss.class_weights=bb is unknown: a, b or c. Did you mean b\?"):
        class_weights(LossConfig(class_weights={"bb": 3}), counts)


@pytest.mark.parametrize("value", ["even", {}, {"a": 0}, {"a": -1.0}, {"a": True}, {"a": float("nan")}, [1, 2]])
def test_weights_that_are_none_are_refused(value):
    with pytest.raises(ConfigError, match=r"loss\.class_weights=.* must be null, balanced or a number above 0"):
        TrainConfig(loss={"class_weights": value})


# ---- a validation part


def same(row):
    return pytest.approx(row, rel=1e-6, nan_ok=True)


@pytest.fixture(scope="module")
def judged_apart(tiny, tmp_path_factory):
    config, folder = tiny("dataset.validation=0.25"), tmp_path_factory.mktemp("apart") / "run"
    row = run_training(config, folder)
    best = torch.load(Run(folder).checkpoint(BEST), weights_only=True)["epoch"]
    assert best + 1 < len(Run(folder).rows) and row == same(Run(folder).rows[-1])  # not those of the best epoch
    return config, Run(folder)


def test_the_test_images_are_evaluated_once_with_the_last_and_the_best_weights(judged_apart):
    config, run = judged_apart
    data = GazeDataModule(config.dataset)
    assert (len(data.data.train.targets), len(data.data.validation.targets), len(data.data.test.targets)) == (12, 4, 16)
    tested = json.loads(run.test_file.read_text())
    assert list(tested) == ["last", "best"] and not any("test/" in name for name in run.rows[-1])
    for name, figures in tested.items():
        module = GazeModule.load_from_checkpoint(run.checkpoint(name), map_location="cpu").eval()
        batch = data.prepare(SplitDataset(data.data.test).__getitems__(list(range(16))), training=False)
        preds = module(batch.image).argmax(1)
        assert figures["test/accuracy"] == pytest.approx((preds == batch.target).double().mean().item())
        assert figures["test/kappa"] == pytest.approx(cohen_kappa_score(batch.target, preds))
        assert figures["test/gaze_consistency"] >= 0
    tags = EventAccumulator(str(run.folder)).Reload().Tags()["scalars"]
    assert "test/kappa" in tags and not any(tag.startswith("while training/test") for tag in tags)


def test_the_split_is_kept_and_the_epochs_are_judged_by_the_validation_images(judged_apart):
    _, run = judged_apart
    with run.split_file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert Counter(row["part"] for row in rows) == {"train": 12, "validation": 4, "test": 16}
    assert {row["class"] for row in rows} == set(CLASSES)
    assert run.rows[-1]["val/n_correct"] <= 4 and len(last_maps(run).target) == 4
    assert run.status["epochs"] == len(run.rows)
    assert plan_run(Run(run.folder, TrainConfig(**run.values))).action == "skip"


def test_without_a_validation_part_nothing_is_tested_again(tiny_run):
    assert not Run(tiny_run.folder).test_file.exists()
