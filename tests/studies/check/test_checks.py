"""check=RUN: a trained network passes what its weight-randomised twin does not; the report says it."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from browser import needs_browser, open_in_browser
from conftest import REPO
from PIL import Image
from rich.console import Console
from run_folders import new_module, write_run
from scipy import stats

from gaze.cli import ANALYZE
from gaze.config.analysis import AnalyzeConfig, CompareConfig
from gaze.config.naming import analysis_name
from gaze.config.train import check_config
from gaze.config.words import quoted
from gaze.data.datamodule import GazeDataModule
from gaze.data.sources.phantom import CLASSES
from gaze.errors import DataError
from gaze.metrics.faithfulness import area, cascade
from gaze.studies.check.checks import Checked, Estimate, _below, _side, check_run, over_draws, vanished, verdicts
from gaze.studies.check.report import layers_item
from gaze.studies.opened import open_run
from gaze.studies.run import run_analysis

SMALL = (
    "model=level2", "dataset.train_images=128", "dataset.test_images=48", "dataset.image_size=32",
    "dataset.batch_size=16", "trainer.max_epochs=1", "trainer.accelerator=cpu", "augmentation=none",
)  # fmt: skip
CPU = CompareConfig(device="cpu")


def quiet():
    return Console(file=io.StringIO(), width=100)


@pytest.fixture(scope="module")
def config(composed):
    return check_config(composed(*SMALL))


@pytest.fixture(scope="module")
def classes(config):
    return list(GazeDataModule(config.dataset).classes)


@pytest.fixture(scope="module")
def trained(config, classes, tmp_path_factory):
    """A level2 that knows the phantom, after about 20 epochs."""

    def fit(module):
        data, module = GazeDataModule(config.dataset), module.train()
        images, target = data.data.train.images.float() / 127.5 - 1, data.data.train.targets
        adam = torch.optim.Adam(module.parameters(), 2e-3)
        random = torch.Generator().manual_seed(0)
        for _ in range(25):
            for rows in torch.randperm(128, generator=random).split(32):
                loss = torch.nn.functional.cross_entropy(module(images[rows]), target[rows])
                adam.zero_grad()
                loss.backward()
                adam.step()

    return write_run(tmp_path_factory.mktemp("trained") / "run", config, classes, fit)


@pytest.fixture(scope="module")
def checked(trained):
    return check_run(open_run(trained, CPU), None, quiet())


@pytest.mark.slow
def test_a_trained_network_ranks_above_its_randomised_twin(config, classes, trained, checked, tmp_path):
    def randomise(module):
        own = open_run(trained, CPU).module
        *_, (_, last) = cascade(own, seed=3)
        module.load_state_dict(last.state_dict())

    folder = write_run(tmp_path / "twin", config, classes, randomise)
    twin = check_run(open_run(folder, CPU), None, quiet())
    answers = [{v.check: v.answer for v in verdicts(c)} for c in (checked, twin)]
    assert answers[0]["ROAD"] == "passes" and answers[1]["ROAD"] != "passes", answers
    gain = [(c.scores["road_gaze"] - c.scores["road_random"]).mean() for c in (checked, twin)]
    assert gain[0] > gain[1] + 0.1, gain


def test_vanished_maps_stand_apart_and_the_interval_is_over_the_draws():
    g = np.random.default_rng(0)
    rho, target = g.random((3, 2, 10)) * 0.4, np.array([0] * 7 + [1] * 3)
    rho[:, 1, :2] = np.nan
    c = Checked(*[None] * 14)._replace(rho=rho, target=target, layers=["head", "first"])
    means = [np.mean([np.nanmean(row[target == k]) for k in (0, 1)]) for row in rho[:, 1]]
    found = over_draws(rho[:, 1], c)
    expected = stats.ttest_1samp(means, 0).confidence_interval()
    np.testing.assert_allclose(found, [np.mean(means), max(expected.low, 0), expected.high])
    assert vanished(c).tolist() == [0.0, 0.2]
    shown = layers_item(c).shown
    assert shown["vanished"].tolist() == ["0 %", "20 %"] and shown["|Spearman|"].iloc[1].startswith(f"{found.mean:.3f}")
    gone = over_draws(np.full((3, 10), np.nan), c)
    assert np.isnan(gone).all() and _below("x", "y", gone, 0.5, "z").answer == "not shown"


@pytest.mark.slow
def test_what_is_measured_has_its_shapes_and_counts(checked, trained):
    n = checked.counts["used"]
    assert checked.counts["evaluation images"] == 48 and 0 < n <= checked.counts["classified correctly"]
    assert len(checked.scores) == len(checked.place) == len(checked.target) == n
    assert checked.rho.shape == (3, len(checked.layers), n)
    assert np.nanmin(checked.rho) >= 0 and np.nanmax(checked.rho) <= 1
    assert checked.layers == ["head.3", "features.12", "features.8", "features.4", "features.0"]
    assert checked.cascade_maps.shape[:2] == (6, len(checked.shown))
    np.testing.assert_allclose(
        checked.scores["deletion_gaze"], area(torch.from_numpy(checked.curves["deletion", "gaze"])), atol=1e-12
    )
    one = open_run(trained, CPU)
    data = GazeDataModule(one.dataset)
    batch = data.evaluation_batch(checked.place.tolist())
    probability = one.module(batch.image).softmax(1).gather(1, batch.target[:, None])[:, 0]
    np.testing.assert_allclose(checked.curves["deletion", "gaze"][:, 0], probability.detach(), atol=1e-5)
    np.testing.assert_allclose(checked.curves["insertion", "random"][:, -1], probability.detach(), atol=1e-5)
    maps = one.module.look(batch.image, batch.target).cam
    np.testing.assert_allclose(checked.cascade_maps[0], maps[checked.shown], atol=1e-5)


def test_the_module_of_the_run_is_left_alone(trained):
    one = open_run(trained, CPU)
    before = {key: value.clone() for key, value in one.module.state_dict().items()}
    check_run(one, 12, quiet())
    assert all(torch.equal(value, before[key]) for key, value in one.module.state_dict().items())
    assert not one.module.training


def test_verdicts_need_whole_intervals():
    assert [_side(Estimate(0.1, low, high), 1) for low, high in ((0.05, 0.2), (-0.1, 0.2), (-0.2, -0.1))] == [1, 0, -1]
    assert [_side(Estimate(0.1, low, high), -1) for low, high in ((0.05, 0.2), (-0.1, 0.2), (-0.2, -0.1))] == [-1, 0, 1]
    answers = [_below("x", "y", Estimate(0.5, low, high), 0.5, "z").answer for low, high in ((0.3, 0.4), (0.4, 0.6))]
    assert answers == ["passes", "not shown"]
    assert _below("x", "y", Estimate(0.7, 0.6, 0.8), 0.5, "z").answer == "fails"


def test_zero_maps_are_counted_and_nothing_but_them_is_an_error(config, classes, tmp_path):
    def blind(module):  # every image is the first class, and its score depends on nothing
        linear = module.backbone.head[-1]
        torch.nn.init.zeros_(linear.weight)
        with torch.no_grad():
            linear.bias.copy_(torch.tensor([1.0, 0, 0, 0]))

    folder = write_run(tmp_path / "blind", config, classes, blind)
    with pytest.raises(DataError, match=r"of 48 evaluation images 12 are classified correctly.*all zero"):
        check_run(open_run(folder, CPU), None, quiet())


def test_a_coarse_map_can_be_checked(composed, classes, tmp_path):
    config = check_config(composed(*SMALL, "model=timm", "model.name=test_vit", "dataset.test_images=12"))
    c = check_run(open_run(write_run(tmp_path / "run", config, classes), CPU), None, quiet())
    assert c.cascade_maps.shape[2:] == (2, 2) and c.counts["used"] > 0
    assert c.rho.shape == (3, len(c.layers), c.counts["used"]) and np.nanmax(c.rho) <= 1


# ---- bad input


def test_what_is_no_run_folder_is_told_what_one_is(trained, tmp_path):
    for folder, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "config.json is missing"),
        (trained / "config.json", "is a file"),
    ):
        with pytest.raises(DataError, match=rf"{message}[\s\S]*A run folder is what python train.py leaves"):
            open_run(folder, CPU)
    with pytest.raises(DataError, match=rf"Runs in it:\s+{trained}"):
        open_run(trained.parent, CPU)


def test_damaged_settings_are_named(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for content in ("{", "[]", "{}"):
        (folder / "config.json").write_text(content)
        with pytest.raises(DataError, match=r"config\.json"):
            open_run(folder, CPU)


def test_a_checkpoint_of_another_network_is_named(trained, composed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    module = new_module(check_config(composed(*SMALL, "model=level1")), list(CLASSES))
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    with pytest.raises(DataError, match=r"another network.*level1 on 32x32.*config.json says level2"):
        open_run(folder, CPU)
    (folder / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(DataError, match="no checkpoint"):
        open_run(folder, CPU)


# ---- the command


def test_paths_are_quoted_for_hydra_and_give_a_folder():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    for path in ("a/lambda=0/seed=0,x=1", "it's (1)/b", "plain", "C:\\x\\", "a\\b=c"):
        assert parser.parse_override(f"check={quoted(path)}").value() == path
    kept = ["check=null", "check='a=b'", "kind=auto", "check="]
    assert ANALYZE.prepared(kept) == kept
    assert analysis_name(None, None, None) == "all" and analysis_name("x", None, None) == "x"
    name = analysis_name(None, "outputs/a/phantom/level2/lambda=0/seed=0", None)
    assert name == "check-a-phantom-level2-lambda=0-seed=0"
    assert analysis_name("s", None, "r" * 300).startswith("explain-") and len(analysis_name("s", None, "r" * 300)) < 110


@needs_browser
@pytest.mark.slow
def test_the_page_in_a_browser(trained, tmp_path):
    out = tmp_path / "out"
    config = AnalyzeConfig(check=str(trained), check_images=12, compare=CPU)
    console = quiet()
    paths = run_analysis(config, out, console)
    assert all(path.exists() for path in paths)
    visit = open_in_browser(out / "report.html", tmp_path)
    assert visit.requests == [] and visit.dom.count("<img") == 3
    for word in ("Petsiuk", "Rong", "Adebayo", "our own", "centred Gaussian", "12 images used"):
        assert word in visit.dom
    rows = list(csv.DictReader((out / "tables" / "checks.csv").open()))
    assert [row["check"] for row in rows] == [
        *("Deletion", "Insertion", "ROAD", "Pointing game", "Lift in the mask", "Randomised weights", "Small noise"),
    ]
    assert {row["answer"] for row in rows} <= {"passes", "fails", "not shown"}
    assert len(pd.read_csv(out / "images.csv")) == 12
    assert "Open " in console.file.getvalue()


@pytest.mark.slow
def test_the_command_from_the_shell(trained, tmp_path):
    folder = tmp_path / "lambda=0" / "seed=0,x=1"
    shutil.copytree(trained, folder)
    pixels = GazeDataModule(open_run(folder, CPU).dataset).data.test.images[0, 0]
    Image.fromarray(pixels.numpy()).save(tmp_path / "a, b=(1).png")
    words = [f"explain={folder}", "images=a, b=(1).png", "compare.device=cpu"]
    done = subprocess.run(
        [sys.executable, str(REPO / "analyze.py"), *words], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    (out,) = (tmp_path / "outputs" / "analysis").iterdir()
    rows = json.loads((out / "manifest.json").read_text())["rows"]
    assert out.name.startswith("explain-") and [row["path"] for row in rows] == ["a, b=(1).png"]
    assert (out / "report.html").exists() and "report.html in a browser" in done.stdout
