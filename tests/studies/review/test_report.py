"""What comes of a review: figures by literal loops and scikit-learn, and what was drawn on its way into a training."""

import io
import json
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPO
from PIL import Image
from rich.console import Console
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from gaze.cli import TRAIN
from gaze.config.analysis import AnalyzeConfig, CompareConfig
from gaze.config.train import check_config
from gaze.data.datamodule import GazeDataModule
from gaze.errors import ConfigError, DataError
from gaze.files import file_digest
from gaze.names import csv_values
from gaze.runs.predictions import read_predictions
from gaze.runs.run import Run
from gaze.studies.review.report import agreement_table, eye_table, judged, review_section, share_table
from gaze.studies.review.store import Answer, Item, Store, answers
from gaze.studies.run import run_analysis


def made(reviewers: int = 2, images: int = 30, seed: int = 0) -> pd.DataFrame:
    """Columns of ``store.answers``: images that are more and less right, a fifth of them shown twice."""
    random, rows = np.random.default_rng(seed), []
    chance = random.random(images)
    for who in range(reviewers):
        for item in range(images + images // 5):
            place = item % images
            verdict = random.choice(["right", "wrong"], p=[chance[place], 1 - chance[place]])
            verdict = "unsure" if random.random() < 0.1 else verdict
            row = {"reviewer": f"R{who}", "counts": random.random() < 0.95, "place": place, "file": f"test/{place}"}
            rows.append({**row, "truth": "ab"[place % 2], "repeat": item >= images, "arm": "run", "verdict": verdict})
    return pd.DataFrame(rows).assign(shapes=[[]] * len(rows))


def test_shares_are_counted_by_class_and_by_prediction():
    given = made()
    correct = {f"test/{i}": i % 3 > 0 for i in range(30)}
    table = share_table(judged(given), correct).set_index(["of", "which"])
    once = given[given["counts"] & ~given["repeat"]]
    for key, own in (
        (("all", ""), once), (("class", "a"), once[once["truth"] == "a"]),
        (("prediction", "wrong"), once[~once["file"].map(correct)]),
    ):  # fmt: skip
        right, wrong = ((own["verdict"] == word).sum() for word in ("right", "wrong"))
        row = table.loc[key]
        assert row["share"] == pytest.approx(right / (right + wrong)) and row["low"] < row["share"] < row["high"]
        assert row["unsure"] == pytest.approx(1 - (right + wrong) / len(own)) and row["answers"] == len(own)


def test_agreement_within_and_between_reviewers_is_scikit_learns():
    given = made(3)
    table = agreement_table(judged(given)).set_index(["of", "measure"])
    counted = given[given["counts"]]
    first, again = (counted[counted["repeat"] == flag].set_index(["reviewer", "place"])["verdict"] for flag in (0, 1))
    both = pd.concat([first, again], axis=1, join="inner", keys=["a", "b"])
    assert table.loc[("within reviewers", "share alike"), "value"] == pytest.approx((both["a"] == both["b"]).mean())
    one = both.loc["R1"]
    kappa = table.loc[("within R1", "Cohen's kappa")]
    assert kappa["value"] == pytest.approx(cohen_kappa_score(one["a"], one["b"])) and kappa["images"] == len(one)
    pair = pd.concat([first.loc["R0"], first.loc["R2"]], axis=1, join="inner", keys=["a", "b"])
    row = table.loc[("R0 and R2", "Cohen's kappa")]
    assert row["value"] == pytest.approx(cohen_kappa_score(pair["a"], pair["b"])) and row["low"] < row["value"]
    assert -1 <= table.loc[("between reviewers", "Krippendorff's alpha"), "low"] <= 1


def test_numbers_are_held_against_people_and_one_reviewer_has_no_ceiling():
    given = made(2, 60, seed=3)
    random = np.random.default_rng(1)
    deviation = {f"test/{i}": v for i, v in enumerate(random.random(60))} | {"test/5": np.nan}
    table = eye_table(judged(given), {"gaze_deviation": deviation, "confidence": deviation}).set_index("number")
    own = given[given["counts"] & ~given["repeat"] & (given["verdict"] != "unsure") & (given["file"] != "test/5")]
    expected = roc_auc_score(own["verdict"] == "right", -own["file"].map(deviation))
    assert table.loc["deviation from the class's gaze", "auroc"] == pytest.approx(expected)
    assert table.loc["confidence", "auroc"] == pytest.approx(1 - expected)  # its other sign
    assert 0 < table.loc["what two people agree", "low"] < 1
    alone = review_section(made(1), None)
    eye = next(item for item in alone.items if item.name == "review-eye")
    assert eye.frame["auroc"].isna().all() and "One reviewer: there is no ceiling." in eye.notes
    assert any("One reviewer" in note for note in alone.items[0].notes)
    with pytest.raises(DataError, match="Nobody has answered"):
        judged(given[:0])


def test_of_two_arms_the_share_is_that_of_the_first():
    given = made(2).assign(verdict="better")
    given["arm"] = np.where(np.arange(len(given)) % 3 > 0, "b", "a")
    given.loc[:3, ["verdict", "arm"]] = "unsure", ""
    section = review_section(given, None)
    own = given[given["counts"] & ~given["repeat"] & (given["verdict"] == "better")]
    shares = section.items[0].frame
    assert shares["share"][0] == pytest.approx((own["arm"] == "a").mean())
    assert section.items[0].caption == "How often does a look better?" and len(section.items) == 2


@pytest.fixture
def reviewed(tiny_run, tmp_path):
    """A copy of the tiny run whose first eight test images were judged and boxed by two reviewers."""
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run.folder, run.folder)
    found = read_predictions(run)
    queue = [Item(i, found.files[i], found.classes[found.truth[i]]) for i in range(16)]
    held = Store(run.review_file, "digest", [(run.title, file_digest(run.checkpoint()))], queue, "random")
    for who in ("Ann", "エマ"):
        for item in range(8):
            shapes = [{"kind": "box", "points": [[0.75, 0.5], [0.25, 1.0]]}] if item < 6 else []
            verdict = "right" if item % 2 else "wrong"
            held.add(Answer(reviewer=who, item=item, verdict=verdict, shapes=shapes), run.title, verdict)
    held.close()
    return run


def report(run: Run, directory) -> str:
    console = Console(file=io.StringIO(), width=1000)
    config = AnalyzeConfig(review={"run": str(run.folder), "report": True}, compare=CompareConfig(device="cpu"))
    run_analysis(config, directory, console)
    return console.file.getvalue()


def test_what_was_drawn_is_trained_on_by_the_command_that_is_said(reviewed, tmp_path, composed):
    out = tmp_path / "out, lambda=0"
    for _ in range(2):  # again over itself
        said = report(reviewed, out)
    masks = sorted((out / "masks").rglob("*.png"))
    assert len(masks) == 6 and "6 images have a mask" in said
    pixels = np.asarray(Image.open(masks[0]))
    assert pixels.shape == (32, 32) and (pixels[16:, 8:24] == 255).all() and pixels.sum() == 255 * 16 * 16
    table = csv_values(pd.read_csv(out / "answers.csv"))
    assert len(table) == len(answers(reviewed.review_file)) and set(table["reviewer"]) == {"Ann", "エマ"}
    eye = pd.read_csv(out / "tables/review-eye.csv")["number"].tolist()
    assert {"lift in mask", "entropy of the map", "what two people agree"} <= set(eye)
    command = said[said.index("python train.py") :].splitlines()[0]
    config = check_config(composed(*shlex.split(command)[2:]))
    data = GazeDataModule(config.dataset)
    data.setup("fit")
    train, test = data.data.train, data.data.test
    assert len(train.paths) == 16 + 6 and len(test.paths) == 10 and config.gaze.mask_weight == 5
    drawn = [i for i, path in enumerate(train.paths) if path.startswith("test/")]
    assert train.masks[drawn].flatten(1).any(1).all() and int(train.masks.flatten(1).any(1).sum()) == 6
    assert not set(train.paths) & set(test.paths)
    before = GazeDataModule(reviewed.dataset)
    before.setup("fit")
    own = before.data.test
    for path, mask, image in zip(test.paths, test.masks, test.images, strict=True):
        place = own.paths.index(path.removesuffix(".png"))
        np.testing.assert_array_equal(mask, own.masks[place])
        np.testing.assert_array_equal(image, own.images[place])


def test_what_was_drawn_on_training_images_guides_the_same_set(tiny_run, tmp_path, composed):
    run = Run(tmp_path / "it's a run, lambda=0")
    shutil.copytree(tiny_run.folder, run.folder)
    before = GazeDataModule(run.dataset).data
    queue = [Item(i, path, before.classes[before.train.targets[i]]) for i, path in enumerate(before.train.paths)]
    held = Store(run.review_file, "digest", [(run.title, file_digest(run.checkpoint()))], queue, "random")
    for item in range(12):
        shapes = [{"kind": "box", "points": [[0.75, 0.5], [0.25, 1.0]]}] if item < 6 else []
        verdict = "right" if item % 2 else "wrong"
        held.add(Answer(reviewer="Ann", item=item, verdict=verdict, shapes=shapes), run.title, verdict)
    held.close()
    run.hydra.mkdir(exist_ok=True)
    words = [
        "dataset=phantom",
        "++dataset.train_images=16",
        "dataset.test_images=16",
        "dataset.image_size=32",
        "seed=3",
    ]
    others = ["gaze.mask_weight=1", "trust=true", "hydra.run.dir=/tmp/x", "dataset.annotated=0.1", "$(id)", 7]
    (run.hydra / "overrides.yaml").write_text(json.dumps(words + others))
    out = tmp_path / "it's out, lambda=0"
    said = report(run, out)
    assert "6 images have a mask" in said and "They guide training images" in said
    assert not (out / "labels.csv").exists() and not (out / "images").exists()
    eye = pd.read_csv(out / "tables/review-eye.csv")["number"].tolist()
    assert {"deviation from the class's gaze", "lift in mask", "entropy of the map", "confidence"} <= set(eye)
    command = said[said.index("python train.py") :].splitlines()[0]
    given = shlex.split(command)[2:]
    assert given[:5] == words and len(given) == 7
    config = check_config(composed(*TRAIN.prepared(given)))
    assert (config.seed, config.gaze.mask_weight, config.study) == (3, 5, "default")
    data = GazeDataModule(config.dataset).data
    assert data.train.paths == before.train.paths and torch.equal(data.test.masks, before.test.masks)
    assert data.train.masks.flatten(1).any(1).nonzero().flatten().tolist() == [*range(6)]
    assert (data.train.masks[0, 0, 16:, 8:24] == 1).all() and data.train.masks[0].sum() == 16 * 16
    shutil.rmtree(run.hydra)  # as in a shared copy
    assert "python train.py ... 'dataset.guide_dir=" in report(run, out)


def test_reviews_of_other_runs_and_none_are_said(reviewed, tmp_path):
    reviewed.review_file.rename(tmp_path / "away.sqlite")
    with pytest.raises(DataError, match="A review leaves it"):
        report(reviewed, tmp_path / "out")
    for settings, said in (
        ({"annotations": "x.json"}, "needs the root of its images"),
        ({"annotations": "x.json", "images": "y", "check": "run"}, "something else than check"),
        ({"review": {"report": True}}, "belongs to review=RUN"),
    ):
        with pytest.raises(ConfigError, match=said):
            AnalyzeConfig(**settings)


def test_annotations_are_imported_by_a_command(tmp_path):
    """The words of a command line reach their settings, and its folder is made of them."""
    (tmp_path / "set/cat").mkdir(parents=True)
    Image.new("L", (40, 20)).save(tmp_path / "set/cat/1.png")
    image = {"id": 1, "file_name": "1.png", "width": 40, "height": 20}
    data = {"images": [image], "annotations": [{"image_id": 1, "bbox": [0, 0, 10, 10]}]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    command = [sys.executable, str(REPO / "analyze.py"), "annotations=x.json", "images=set"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 images have a mask now. Left out: nothing." in done.stdout, done.stderr
    assert (tmp_path / "outputs/analysis/annotations/masks/cat/1.png").is_file()
