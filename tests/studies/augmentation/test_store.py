import numpy as np
import pytest
import torch
from run_folders import SMALL, new_module, write_run

from gaze.cam.methods import normalize_cam
from gaze.config.train import check_config
from gaze.data.datasets import balanced_choice
from gaze.errors import DataError
from gaze.runs.run import Run
from gaze.studies.augmentation.store import gaze_of_runs, read_manifest
from gaze.studies.opened import check_maps, check_runs, compute_device, evaluation_images, load_module

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(composed):
    return lambda *words: check_config(composed(*SMALL, *words))


@pytest.fixture(scope="module")
def images(config):
    return evaluation_images(config().dataset, None, lambda line: None)


@pytest.fixture
def runs(config, images, tmp_path):
    made = []
    for seed in (0, 1):
        own = config(f"seed={seed}")
        folder = write_run(tmp_path / f"seed={seed}", own, list(images.classes))
        made.append(Run(folder, own))
    return made


def at_size(settings, size):
    return settings.model_copy(update={"dataset": settings.dataset.model_copy(update={"image_size": size})})


def gazes(runs, images, directory, seen=None):
    return gaze_of_runs(runs, images, directory, "last", CPU, seen.append if seen is not None else lambda share: None)


def test_maps_are_those_of_the_true_class_by_autograd(runs, images, tmp_path):
    found = gazes(runs, images, tmp_path)
    assert found[0].cams.shape == (24, 4, 4)
    assert found[0].logits.shape == (24, 4)
    for run, gaze in zip(runs, found, strict=True):
        module = load_module(run.checkpoint()).eval()
        batch = images.data.evaluation_batch(images.place.tolist())
        features = module.backbone.forward_features(batch.image).detach().requires_grad_()
        logits = module.backbone.forward_head(features)
        gradient = torch.autograd.grad(logits.gather(1, batch.target[:, None]).sum(), features)[0]
        cam = torch.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1))
        np.testing.assert_allclose(gaze.cams, normalize_cam(cam).detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(gaze.logits, logits.detach().numpy(), atol=1e-5)


def test_what_was_made_serves_again_and_only_as_long_as_nothing_changes(runs, images, config, tmp_path, monkeypatch):
    import gaze.studies.augmentation.store

    made = []
    real = gaze.studies.augmentation.store.gaze_of_run
    monkeypatch.setattr(
        gaze.studies.augmentation.store, "gaze_of_run", lambda run, *rest: made.append(run) or real(run, *rest)
    )
    first = gazes(runs, images, tmp_path)
    assert len(made) == 2
    again = gazes(runs, images, tmp_path)
    assert len(made) == 2
    assert all((a.cams == b.cams).all() and (a.logits == b.logits).all() for a, b in zip(first, again, strict=True))
    # another checkpoint: only its own maps are made anew
    path = runs[0].checkpoint()
    module = new_module(config("seed=7"), list(images.classes))
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    other = gazes(runs, images, tmp_path)
    assert made[2:] == [runs[0]]
    assert not (other[0].cams == first[0].cams).all()
    # other images: all of them
    fewer = evaluation_images(config().dataset, 12, lambda line: None)
    assert len(gazes(runs, fewer, tmp_path)[0].cams) == 12
    assert len(made) == 5
    # another copy of the same files serves as well
    manifest = read_manifest(tmp_path)
    assert {entry["images"]["number"] for entry in manifest.values()} == {12, 24}
    assert {entry["run"] for entry in manifest.values()} == {"seed=0", "seed=1"}
    entry = next(iter(manifest.values()))
    assert entry["layer"] == "level2: output of forward_features"
    assert set(entry["checkpoint"]) == {"path", "size", "mtime_ns", "sha256"}


def test_a_damaged_file_is_made_anew(runs, images, tmp_path):
    first = gazes(runs, images, tmp_path)
    manifest = tmp_path / "cams" / "manifest.json"
    file = tmp_path / "cams" / next(iter(read_manifest(tmp_path).values()))["file"]
    content = file.read_bytes()
    for damage in (
        lambda: file.write_bytes(content[: len(content) // 2]),
        lambda: file.write_bytes(content[:400] + bytes([content[400] ^ 1]) + content[401:]),
        file.unlink,
        lambda: manifest.write_text('{"half": '),
    ):
        damage()
        again = gazes(runs, images, tmp_path)
        assert all((a.cams == b.cams).all() for a, b in zip(first, again, strict=True))
        assert file.read_bytes() == content


def test_what_is_broken_off_goes_on(runs, images, tmp_path):
    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gaze_of_runs(runs, images, tmp_path, "last", CPU, stop)
    assert len(read_manifest(tmp_path)) == 1
    seen = []
    gazes(runs, images, tmp_path, seen)
    assert seen == [0.5, 1.0]
    assert len(read_manifest(tmp_path)) == 2


def test_bfloat16_runs_are_looked_at_as_they_were_trained(config, images, tmp_path):
    own = config("trainer.precision=bf16-mixed")
    full = config()
    a = Run(write_run(tmp_path / "a", own, list(images.classes)))
    b = Run(write_run(tmp_path / "b", full, list(images.classes)))
    half, whole = gazes([a, b], images, tmp_path)
    assert half.cams.dtype == np.float32
    assert 0 < np.abs(half.logits - whole.logits).max() < 0.05


def test_images_are_chosen_evenly_and_always_alike():
    target = np.array([0] * 50 + [1] * 7 + [2] * 30)
    place = balanced_choice(target, 27)
    assert (place == balanced_choice(target, 27)).all()
    assert (np.diff(place) > 0).all()
    assert np.bincount(target[place]).tolist() == [10, 7, 10]
    assert (balanced_choice(target, 87) == np.arange(87)).all()
    assert (balanced_choice(target, 500) == np.arange(87)).all()
    assert not (place[:10] == np.arange(10)).all()  # not simply the first ones


def test_missing_checkpoints_are_all_named_before_any_work(runs):
    for run in runs:
        run.checkpoint().unlink()
    with pytest.raises(DataError, match=r"2 of 2 runs have no checkpoint[\s\S]*seed=0[\s\S]*seed=1[\s\S]*rerun=true"):
        check_runs(runs, "last")


def test_maps_that_are_too_coarse_are_refused_before_any_work(runs):
    small = [Run(r.folder, at_size(r.settings, 24)) for r in runs]
    with pytest.raises(DataError, match=r"level2 at dataset.image_size=24 has maps of 3x3 cells"):
        check_maps(small)
    check_maps(runs)


def test_a_file_that_is_no_checkpoint_is_named(runs, images, tmp_path):
    path, half = runs[0].checkpoint(), tmp_path / "half.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"model": "level1", "num_classes": 4}}, half)
    for content in (b"", b"no checkpoint", half.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"last.ckpt cannot be read as a checkpoint of this project"):
            gazes(runs, images, tmp_path)


def test_a_network_of_other_classes_is_refused(config, images, tmp_path):
    own = config()
    run = Run(write_run(tmp_path / "a", own, ["x", "y"]))
    with pytest.raises(DataError, match=r"trained on the classes x, y; the images are of"):
        gazes([run], images, tmp_path)


def test_a_network_that_broke_down_is_refused(config, images, tmp_path):
    own = config()

    def ruin(module):
        torch.nn.init.constant_(next(reversed(list(module.parameters()))), torch.nan)

    run = Run(write_run(tmp_path / "a", own, list(images.classes), ruin))
    with pytest.raises(DataError, match="NaN or infinite"):
        gazes([run], images, tmp_path)


def test_the_device_is_checked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_device("auto") == compute_device("cpu") == CPU
    with pytest.raises(DataError, match="finds no GPU"):
        compute_device("cuda")
