"""What a finished run says of each test image, held against its own figures; and files that somebody damaged."""

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score

from gaze.data.datamodule import GazeDataModule
from gaze.data.sources.phantom import CLASSES
from gaze.errors import DataError
from gaze.runs.predictions import read_figures, read_predictions, read_rows, write_predictions
from gaze.runs.run import Run
from gaze.training.module import GazeModule
from gaze.training.train import run_training

FILES = ("predictions.csv", "classes.csv", "confusion.csv")


@pytest.fixture(scope="module")
def run(tiny_run) -> Run:
    return Run(tiny_run.folder)


def images_of(run: Run) -> list[dict[str, str]]:
    with run.predictions_file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_predictions_are_the_last_networks_and_agree_with_the_last_row(run):
    rows, last = images_of(run), run.rows[-1]
    data = GazeDataModule(run.dataset)
    module = GazeModule.load_from_checkpoint(run.checkpoint(), map_location="cpu").eval()
    batch = data.evaluation_batch(list(range(16)))
    looked = module.look(batch.image, batch.target)
    assert [row["file"] for row in rows] == data.data.test.paths
    probabilities = np.array([[float(row[f"p/{name}"]) for name in CLASSES] for row in rows])
    np.testing.assert_allclose(probabilities, looked.logits.softmax(1).numpy(), atol=1e-6)
    assert [row["prediction"] for row in rows] == [CLASSES[i] for i in looked.logits.argmax(1)]
    correct = [row for row in rows if row["truth"] == row["prediction"]]
    assert len(correct) == last["val/n_correct"]
    assert all((row["gaze_deviation"] == "") == (row["truth"] != row["prediction"]) for row in rows)
    for name in {row["truth"] for row in correct}:
        own = [row for row in correct if row["truth"] == name]
        cams = torch.stack([looked.cam[rows.index(row)] for row in own])
        expected = (cams - cams.mean(0)).square().mean((1, 2))
        assert [float(row["gaze_deviation"]) for row in own] == pytest.approx(expected.tolist(), abs=1e-6)
        assert max(float(row["gaze_percentile"]) for row in own) == 100
    inside = [float(row["energy_in_mask"]) for row in correct if row["energy_in_mask"]]
    if inside:
        assert np.mean(inside) == pytest.approx(last["val/gaze_mask_energy"], abs=1e-5)
    assert [int(row["empty_map"]) for row in rows] == (looked.cam.amax((1, 2)) == 0).int().tolist()


def test_figures_and_the_matrix_follow_from_the_predictions(run):
    rows, found = images_of(run), read_figures(run)
    truth, named = ([row[key] for row in rows] for key in ("truth", "prediction"))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(truth, named, labels=list(found.classes)))
    value = {(row["of"], row["class"], row["measure"]): row["value"] for row in found.rows}
    assert value["all", "", "accuracy"] == pytest.approx(run.rows[-1]["val/accuracy"], abs=1e-6)
    assert value["all", "", "kappa"] == pytest.approx(run.rows[-1]["val/kappa"], abs=1e-5)
    for name in found.classes:
        scores = [float(row[f"p/{name}"]) for row in rows]
        expected = roc_auc_score([own == name for own in truth], scores)
        assert value["class", name, "auroc"] == pytest.approx(expected, abs=1e-5)
    undefined = [row for row in found.rows if np.isnan(row["value"])]
    assert all(row["reason"] for row in undefined)
    assert run.confusion_picture.stat().st_size > 1000


def test_a_run_that_is_begun_twice_and_goes_on_leaves_the_same_files(tiny, tmp_path):
    config = tiny("lambda=50", "gaze.start_epoch=0", "gaze.end_epoch=1")
    run_training(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    stopped = Run(tmp_path / "stopped")
    for name in FILES:
        (stopped.folder / name).unlink()
    stopped.status_file.write_text('{"state": "interrupted"}')
    run_training(config, stopped.folder)
    assert all((stopped.folder / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in FILES)


def test_groups_stand_in_the_split_and_beside_the_predictions(tiny, tmp_path):
    random = np.random.default_rng(0)
    for number in range(24):
        part = "train" if number < 12 else "test"
        folder = tmp_path / "set" / part / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{part}-p{number // 3}-{number}.png")
    group = r"dataset.group='p(\d+)'"
    run_training(
        tiny("dataset=folder", f"dataset.root={tmp_path}/set", "dataset.validation=test", group), tmp_path / "run"
    )
    run = Run(tmp_path / "run")
    assert {row["group"] for row in images_of(run)} == {"4", "5", "6", "7"}
    assert read_rows(run.split_file)[0] == ["part", "file", "class", "group"]


def test_damaged_files_are_named_and_those_of_before_are_none(run, tmp_path):
    copy = Run(tmp_path / "run")
    shutil.copytree(run.folder, copy.folder)
    for file, text, said in (
        (copy.classes_file, "of,class\n", "must have the columns"),
        (copy.classes_file, run.classes_file.read_text().replace("support,", "support,x"), "value=x.* a number"),
        (copy.confusion_file, run.confusion_file.read_text().replace("truth,", "truth,other,", 1), "of one length"),
        (copy.confusion_file, "truth,a\na,1\n", "of other classes"),
    ):
        before = file.read_text()
        file.write_text(text)
        with pytest.raises(DataError, match=said):
            read_figures(copy)
        file.write_text(before)
    copy.classes_file.unlink()
    assert read_figures(copy) is None


def test_predictions_are_read_as_they_were_written(run, tmp_path):
    found, copy = read_predictions(run), Run(tmp_path)
    write_predictions(copy.predictions_file, found)
    assert copy.predictions_file.read_bytes() == run.predictions_file.read_bytes()
    assert found.groups is None and found.units.tolist() == list(range(16)) and found.probabilities.dtype == np.float32
    assert found._replace(groups=["b", None, "b"], files=["x"] * 3).units.tolist() == [0, 1, 0]


def test_damaged_predictions_are_named(run, tmp_path):
    copy, text = Run(tmp_path), run.predictions_file.read_text()
    assert read_predictions(copy) is None
    head, first = text.splitlines()[:2]
    for damaged, said in (
        (text.replace("truth", "name", 1), "must have images, and the columns"),
        (head + "\n", "must have images"),
        (f"{head}\n{first.replace('diffuse', 'x')}\n", "is no class"),
        (f"{head}\n{first.replace('0.', 'o.')}\n", "no number"),
        (text[:-20], "one length|no number"),
    ):
        copy.predictions_file.write_text(damaged)
        with pytest.raises(DataError, match=said):
            read_predictions(copy)
