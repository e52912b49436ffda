"""gaze.method and gaze.distance in GazeModule and in a run: every one trains, is measured, logged and read back."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from readers import write_fixations
from tiny_modules import (
    SIZE,
    K,
    alone,
    gradients_of,
    mostly_right,
    noise_batch,
    tiny_module,
    tiny_trainer,
)

from gaze.backbones.levels import LEVELS, check_method
from gaze.cam.methods import normalize_cam
from gaze.choices import DISTANCES, METHODS
from gaze.config.data import DatasetConfig
from gaze.config.train import check_config
from gaze.data.datamodule import GazeDataModule
from gaze.data.datasets import load_dataset
from gaze.data.sources.phantom import make_phantom
from gaze.errors import ConfigError
from gaze.measures import HUMAN, epoch_columns
from gaze.metrics.consistency import GazeConsistency
from gaze.metrics.lesion import mask_energy
from gaze.metrics.saliency import saliency
from gaze.runs.human import read_human
from gaze.runs.load import load_runs
from gaze.runs.records import read_json
from gaze.runs.run import Run
from gaze.training.module import GazeModule
from gaze.training.train import run_training
from gaze.training.yardsticks import centre_yardstick

PHANTOM = DatasetConfig(image_size=SIZE, batch_size=8, train_images=16, test_images=12)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]


@pytest.fixture(scope="module")
def images():
    return load_dataset(PHANTOM)


# ---- methods


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_is_the_method_by_hand(method, second_order):
    """Loss and gradients of a step with lambda = 50, of level 2, whose head begins with a ReLU."""
    settings = {"method": method, "second_order": second_order, "reference": "batch"}
    module = alone(tiny_module("level2", dropout=False, gaze_lambda=50.0, gaze=settings)).train()
    batch = mostly_right(module, noise_batch())
    twin = copy.deepcopy(module)
    actual = gradients_of(module, module.training_step(batch, 0))

    features = twin.backbone.forward_features(batch.image)
    if method == "cam":
        seen, weight = features.relu(), twin.backbone.head[-1].weight
        weight = weight if second_order else weight.detach()
        cam = normalize_cam(torch.einsum("bmhw,bm->bhw", seen, weight[batch.target]).relu())
        logits = twin.backbone.forward_head(features)
    else:
        logits = twin.backbone.forward_head(features)
        score = logits.gather(1, batch.target[:, None]).squeeze(1)
        cam = normalize_cam(METHODS[method].function(features, score, create_graph=second_order))
    gaze = twin.gaze_loss(cam, logits.argmax(1), batch.target)
    expected = gradients_of(twin, F.cross_entropy(logits, batch.target) + 50 * gaze)
    assert gaze > 1e-3
    a, b = (torch.cat([g.flatten() for g in gradients.values()]) for gradients in (actual, expected))
    assert (a - b).norm() < 1e-3 * b.norm()


@pytest.mark.parametrize("name", ["level1", "level2", "level4"])
@pytest.mark.parametrize("method", METHODS)
def test_the_gaze_is_the_methods_map_in_every_grad_mode(method, name):
    if (method, name) == ("cam", "level1"):
        return  # refused, see below
    module, batch = tiny_module(name, gaze={"method": method}).eval(), noise_batch(4)
    plain = module.look(batch.image, batch.target)
    with torch.inference_mode():
        other = module.look(batch.image, batch.target)
    torch.testing.assert_close(other.cam, plain.cam)
    torch.testing.assert_close(other.logits, module(batch.image))
    assert plain.cam.amax((1, 2)).max() > 0.99 and not plain.cam.requires_grad
    grad_cams = tiny_module(name, gaze={"method": "grad_cam"}).eval().look(batch.image, batch.target).cam
    # Behind a bare average pool three methods are one; a ReLU or a max pool in between tells them apart.
    same = method == "grad_cam" or (name == "level4" and method in ("cam", "hires_cam"))
    assert ((plain.cam - grad_cams).abs().max() < 1e-4) == same


def test_cam_is_refused_for_networks_that_are_looked_at_through_a_layer():
    with pytest.raises(ConfigError, match=r"gaze.method=cam .* torchvision-resnet18 .* Take gaze.method=grad_cam"):
        GazeModule("resnet18", K, 1, 64, source="torchvision", gaze={"method": "cam"})


def test_cam_is_refused_where_the_head_does_not_allow_it():
    for name in LEVELS:
        if name != "level1":
            check_method("cam", name)
    with pytest.raises(ConfigError, match=r"gaze.method=cam .* model=level1 has another. Take gaze.method=grad_cam"):
        GazeModule("level1", K, 1, SIZE, gaze={"method": "cam"})
    with pytest.raises(ConfigError, match=r"method=hirescam is unknown: .* Did you mean hires_cam"):
        GazeModule("level2", K, 1, SIZE, gaze={"method": "hirescam"})


def test_cam_is_refused_before_images_are_read(composed, tmp_path, monkeypatch):
    monkeypatch.setattr("gaze.training.train.GazeDataModule", lambda *_, **__: pytest.fail("images were read"))
    config = check_config(composed("model=level1", "gaze.method=cam"))
    with pytest.raises(ConfigError, match=r"gaze.method=cam"):
        run_training(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- distances


@pytest.mark.parametrize("distance", DISTANCES)
def test_every_distance_trains_and_is_measured(tmp_path, images, distance):
    torch.manual_seed(0)
    settings = {"distance": distance, "start_epoch": 0, "end_epoch": 0}
    module = GazeModule("level2", 4, image_size=SIZE, gaze_lambda=50, gaze=settings, optimizer={"lr": 1e-3})
    trainer = tiny_trainer(tmp_path, num_sanity_val_steps=0)
    trainer.fit(module, datamodule=GazeDataModule(PHANTOM, data=images))
    logged = trainer.callback_metrics
    assert all(p.isfinite().all() for p in module.parameters())
    extra = {f"val/gaze_consistency_{distance}"} if distance not in ("squared", "l2") else set()
    counts = {f"val/n_correct/{c}" for c in range(4)}
    extra |= {"val/gaze_c_score"} if distance == "soft_iou" else set()
    assert {key for key in logged if key.startswith("val/")} - set(epoch_columns()) - counts == extra
    assert logged["val/gaze_consistency"] != logged["val/gaze_consistency_l2"]

    (again,) = trainer.validate(module, datamodule=GazeDataModule(PHANTOM, data=images), verbose=False)
    whole = GazeConsistency(4, distance)
    data = GazeDataModule(PHANTOM, data=images)
    batch = data.evaluation_batch(list(range(12)))
    logits, cam = module.eval().look(batch.image, batch.target)
    whole.update(cam, logits.argmax(1), batch.target)
    key = "val/gaze_consistency" + ("" if distance == "squared" else f"_{distance}")
    assert again[key] == pytest.approx(whole.compute().item(), rel=1e-4, abs=1e-7, nan_ok=True)


def test_maps_that_have_to_be_kept_are_kept_once():
    module = GazeModule("level1", K, image_size=SIZE, gaze={"distance": "js"}).eval()
    batch = noise_batch(6)
    for _ in range(2):
        module.validation_step(batch, 0)
    metrics = dict(module.val_metrics.items(copy_state=False))
    l2, js = (metrics[f"gaze_consistency_{name}"] for name in ("l2", "js"))
    assert [a.data_ptr() for a in l2.maps] == [b.data_ptr() for b in js.maps] and len(l2.maps) == 2


# ---- a run


def test_a_run_with_another_distance_and_method_leaves_columns_that_the_analysis_reads(composed, tmp_path):
    small = ["dataset.train_images=16", "dataset.test_images=12", "dataset.image_size=32", "trainer.max_epochs=2"]
    overrides = [
        "gaze.distance=soft_iou",
        "gaze.method=layer_cam",
        "lambda=50",
        "trainer.accelerator=cpu",
        *small,
        "pictures.every_n_epochs=0",
    ]
    last = run_training(check_config(composed(*overrides)), tmp_path / "a" / "run")
    counts = [f"val/n_correct/{name}" for name in ("diffuse", "healthy", "meningeal", "midline")]
    header = (tmp_path / "a" / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header == [*epoch_columns(), "val/gaze_consistency_soft_iou", "val/gaze_c_score", *counts]
    assert {"val/gaze_consistency_soft_iou", "val/gaze_c_score"} <= set(last)
    runs = load_runs(tmp_path / "a")
    assert len(runs) == 2 and {"gaze_consistency", "gaze_consistency_soft_iou", "gaze_c_score"} <= set(runs)
    assert runs["gaze_c_score"].dropna().between(0, 1).all()


# ---- guided by masks


def test_masks_that_guide_raise_the_energy_on_the_lesion(tmp_path, images):
    """From the same seed, on the phantom, whose masks are true; on every test image with a lesion."""
    energy = {}
    for weight in (0.0, 20.0):
        torch.manual_seed(0)
        settings = {"mask_weight": weight, "mask_start_epoch": 0, "mask_end_epoch": 0}
        module = GazeModule("level2", 4, image_size=SIZE, gaze=settings, optimizer={"lr": 3e-3})
        data = GazeDataModule(PHANTOM.model_copy(update={"annotated": 0.5}), data=images, seed=0)
        tiny_trainer(tmp_path, max_epochs=8, num_sanity_val_steps=0, limit_val_batches=0).fit(module, datamodule=data)
        batch = data.evaluation_batch(list(range(12)))
        seen = batch.mask.flatten(1).any(1)
        energy[weight] = mask_energy(module.eval().look(batch.image, batch.target).cam, batch.mask)[seen].mean()
    assert energy[20.0] > 2 * energy[0.0]


def test_a_guided_run_says_by_how_many_masks_and_logs_its_loss(tmp_path, tiny, tiny_run, capsys):
    config = tiny("lambda=50", "gaze.mask_weight=5", "gaze.mask_start_epoch=1", "dataset.annotated=0.5")
    last = run_training(config, tmp_path / "run")
    assert "Guided by the masks of 6 of 16 training images (dataset.annotated=0.5, drawn by seed=0)." in (
        capsys.readouterr().out
    )
    names = [
        (folder / "metrics.csv").read_text().splitlines()[0].split(",")
        for folder in (tiny_run.folder, tmp_path / "run")
    ]
    assert [name for name in names[1] if name not in names[0]] == ["train/loss_mask"]
    assert 0 <= last["train/loss_mask"] <= 1
    used = [line.split(",") for line in (tmp_path / "run" / "split.csv").read_text().splitlines()]
    assert used[0] == ["part", "file", "class", "annotated"] and {row[3] for row in used if row[0] == "test"} == {""}
    guiding = [row[2] for row in used if row[3] == "1"]
    assert sorted(guiding) == sorted(["diffuse", "meningeal", "midline"] * 2)


def test_a_set_without_a_mask_to_guide_by_is_one_error_before_the_work(tmp_path, composed, monkeypatch):
    healthy = load_dataset(PHANTOM)
    healthy.train.masks.zero_()
    monkeypatch.setattr("gaze.data.datamodule.load_dataset", lambda *_: healthy)
    monkeypatch.setattr("gaze.training.train._fit", lambda *_: pytest.fail("it trained"))
    config = check_config(composed("gaze.mask_weight=1", "trainer.accelerator=cpu", "dataset.image_size=32"))
    with pytest.raises(ConfigError, match=r"no training image of dataset=phantom has one that is not empty: give data"):
        run_training(config, tmp_path / "run")


# ---- guided by readers


def readers_of(tmp_path, **settings):
    """The phantom with two made readers, in training and test."""
    drawn = [(part, make_phantom(count, SIZE, split=part)) for part, count in (("train", 64), ("test", 32))]
    files = [f"{part}/{i:05d}" for part, own in drawn for i in range(len(own.targets))]
    file = write_fixations(tmp_path / "fixations.csv", torch.cat([own.masks for _, own in drawn]), files)
    return DatasetConfig(image_size=SIZE, train_images=64, test_images=32, fixations=str(file), **settings)


@pytest.mark.slow
def test_readers_who_guide_raise_the_correlation_with_them(tmp_path):
    """From the same seed, on all test images that they looked at."""
    data, found = load_dataset(readers_of(tmp_path)), {}
    for weight in (0.0, 0.3):
        torch.manual_seed(0)
        settings = {"mask_weight": weight, "mask_form": "attention", "mask_start_epoch": 0, "mask_end_epoch": 0}
        module = GazeModule("level2", 4, image_size=SIZE, gaze=settings, optimizer={"lr": 3e-3})
        loaded = GazeDataModule(PHANTOM, data=data, seed=0, train_masks=weight > 0, attention=weight > 0)
        trainer = tiny_trainer(tmp_path, max_epochs=12, num_sanity_val_steps=0, limit_val_batches=0)
        trainer.fit(module, datamodule=loaded)
        batch = loaded.evaluation_batch(data.test.human.places)
        cam = module.eval().look(batch.image, batch.target).cam
        found[weight] = saliency(cam, batch.human).nanmean(0)
    assert found[0.3][0] > found[0.0][0] + 0.15  # CC
    assert found[0.3][5] > found[0.0][5] + 0.15  # sCC


def test_a_run_with_readers_logs_how_near_it_is_to_them(tmp_path, tiny, tiny_run, capsys):
    file = readers_of(tmp_path).fixations
    guided = ("gaze.mask_weight=1", "gaze.mask_form=attention", "gaze.mask_start_epoch=0")
    last = run_training(tiny("lambda=50", f"dataset.fixations={file}", *guided), tmp_path / "run")
    out = capsys.readouterr().out
    assert "Guided by what readers looked at in 12 of 16 training images (dataset.annotated=1, drawn by seed=0)." in out
    assert "fixations left out: 1920 of 2880 are of no image of this set" in " ".join(out.split()).replace(",", "")
    names = [
        (folder / "metrics.csv").read_text().splitlines()[0].split(",")
        for folder in (tiny_run.folder, tmp_path / "run")
    ]
    added = [f"val/gaze_human_{name}" for name in HUMAN]
    assert [name for name in names[1] if name not in names[0]] == ["train/loss_mask", *added]
    assert set(added) <= set(last)
    assert "12 test images that somebody looked at, gaze against readers, beside a prior in the centre" in " ".join(
        out.split()
    )
    (found,) = read_human(Run(tmp_path / "run")).values()
    assert found.readers == 2 and found.counts.tolist() == [4, 0, 4, 4]
    np.testing.assert_allclose(found.network[-1], [last[name] for name in added], rtol=1e-6)


def test_yardsticks_are_of_the_images_that_were_measured(tmp_path, tiny):
    """Where validation images are apart: of these, beside the epochs, and of the test images, beside test.json."""
    config = tiny(f"dataset.fixations={readers_of(tmp_path).fixations}", "dataset.validation=0.5")
    last, run = run_training(config, tmp_path / "run"), Run(tmp_path / "run")
    tested, found = read_json(run.test_file)["last"], read_human(run)
    data = load_dataset(config.dataset)
    for part, logged, split in (("validation", last, data.validation), ("test", tested, data.test)):
        start = "val" if part == "validation" else "test"
        own = [logged[f"{start}/gaze_human_{name}"] for name in HUMAN]
        np.testing.assert_allclose(found[part].network[-1], own, rtol=1e-5)
        prior = centre_yardstick(split.human, found[part].maps.shape[1:]).nanmean(0)
        np.testing.assert_allclose(found[part].centre[-1], prior, rtol=1e-6)
    assert found["validation"].counts.sum() < found["test"].counts.sum()


def test_attention_without_readers_is_one_error_before_the_work(tmp_path, composed, monkeypatch):
    wanted = ("gaze.mask_weight=1", "gaze.mask_form=attention", "trainer.accelerator=cpu", "dataset.image_size=32")
    with pytest.raises(ConfigError, match=r"attention guides by what people looked at, and dataset=phantom does not"):
        check_config(composed(*wanted))
    monkeypatch.setattr("gaze.training.train._fit", lambda *_: pytest.fail("it trained"))
    drawn = make_phantom(8, SIZE, split="test")
    file = write_fixations(tmp_path / "f.csv", drawn.masks, [f"test/{i:05d}" for i in range(8)])
    with pytest.raises(ConfigError, match=r"nobody looked at a training image of dataset=phantom"):
        run_training(check_config(composed(*wanted, f"dataset.fixations={file}")), tmp_path / "run")
