"""gaze.studies.opened: a run is looked at with its own network, in its own precision, and its CAM is named."""

import socket

import lightning
import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from run_folders import SMALL, write_run

import gaze
from gaze.config.analysis import CompareConfig
from gaze.config.data import DatasetConfig
from gaze.config.train import check_config
from gaze.data.datasets import load_dataset
from gaze.data.sources.phantom import CLASSES, make_phantom
from gaze.errors import DataError
from gaze.runs.run import Run
from gaze.studies.opened import check_maps, evaluation_images, how_looked, load_module, open_run, precision_of
from gaze.training.module import GazeModule

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def run(composed, tmp_path):
    def make(name: str, *words: str) -> Run:
        return Run(write_run(tmp_path / name, check_config(composed(*SMALL, *words)), list(CLASSES)))

    return make


def logits_in_training(run: Run, images: torch.Tensor) -> np.ndarray:
    """What Lightning's own evaluation gives in the run's precision."""
    module = open_run(run.folder, CompareConfig(device="cpu")).module.float()
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", precision=run.precision, **quiet)
    return torch.cat(trainer.predict(module, torch.utils.data.DataLoader(images, 10))).float().numpy()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "64-true"])
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_looked_at_in_the_precision_that_it_was_trained_in(run, precision):
    own = run("a", f"trainer.precision={precision}")
    one = open_run(own.folder, CompareConfig(device="cpu"))
    pixels = torch.randint(0, 256, (20, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    looked = one.look(pixels, torch.zeros(20, dtype=torch.int64))
    images = one.prepare(pixels, torch.zeros(20, dtype=torch.int64)).image
    np.testing.assert_array_equal(looked.logits, logits_in_training(own, images))
    plain = open_run(run("b").folder, CompareConfig(device="cpu")).look(pixels, None).logits
    assert (looked.logits == plain).all() == (precision == "32-true")
    assert one.module.dtype == (torch.float64 if precision == "64-true" else torch.float32)
    assert looked.cams.dtype == np.float32 and torch.get_default_dtype() == torch.float32


def test_a_precision_that_the_device_does_not_have_is_replaced_and_it_is_said(run, monkeypatch):
    half, brain, plain = (run(name, f"trainer.precision={name}") for name in ("16-mixed", "bf16-mixed", "32-true"))
    assert [precision_of(r, CPU) for r in (half, brain, plain)] == ["bf16-mixed", "bf16-mixed", "32-true"]
    assert how_looked([half, plain], CPU)[1:] == [
        "Trained with trainer.precision=16-mixed, which cpu does not allow: looked at in bf16-mixed."
    ]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert [precision_of(r, GPU) for r in (half, brain, plain)] == ["16-mixed", "32-true", "32-true"]


def test_the_cam_of_the_runs_is_named(run):
    runs = [run(name, f"gaze.method={name}") for name in ("hires_cam", "grad_cam")]
    assert how_looked(runs[:1], CPU) == ["The gaze is a map of HiResCAM."]
    assert how_looked(runs, CPU) == ["The gaze is a map of Grad-CAM or HiResCAM."]


def test_a_run_with_a_coarse_map_can_be_looked_at_and_it_is_said(run):
    coarse = run("coarse", "model=level2", "dataset.image_size=16")
    one = open_run(coarse.folder, CompareConfig(device="cpu"))
    assert one.look(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), None).cams.shape == (2, 2, 2)
    assert how_looked([coarse], CPU)[1].startswith("A map has 2x2 cells: it tells roughly where")
    with pytest.raises(DataError, match="4x4 is the least"):
        check_maps([coarse])


def test_a_checkpoint_of_the_same_name_in_another_library_is_another_network(run):
    words = ("dataset.image_size=64", "model.name=resnet18", "model.layer=layer1")
    ours, theirs = run("ours", "model=torchvision", *words), run("theirs", "model=timm", *words)
    theirs.checkpoint().replace(ours.checkpoint())
    with pytest.raises(DataError, match=r"holds timm-resnet18 on .*config\.json says torchvision-resnet18"):
        open_run(ours.folder, CompareConfig(device="cpu"))


@pytest.fixture
def unconnected(monkeypatch):
    """Whatever asks for the network fails the test."""
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    yield
    assert asked == []


def test_a_look_at_a_run_downloads_nothing(run, tmp_path, monkeypatch, unconnected):
    own = run("theirs", "model=torchvision", "model.name=resnet18", "dataset.image_size=64", "model.layer=layer1")
    checkpoint = torch.load(own.checkpoint(), weights_only=True)
    checkpoint["hyper_parameters"]["weights"] = "default"
    checkpoint["pytorch-lightning_version"] = lightning.__version__
    torch.save(checkpoint, own.checkpoint())
    for module in (load_module(own.checkpoint()), GazeModule.load_from_checkpoint(own.checkpoint())):
        for name, value in checkpoint["state_dict"].items():
            torch.testing.assert_close(module.state_dict()[name], value, msg=name, equal_nan=True)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    pictures = DatasetConfig(name="pictures", kind="kaggle", handle="stranger/pictures/versions/3", image_size=64)
    with pytest.raises(DataError, match=r"stranger/pictures/versions/3 of Kaggle, are not on this machine.*trust"):
        evaluation_images(pictures, None, print)
    assert not (tmp_path / "kagglehub").exists()


@pytest.mark.parametrize("cache", ["foreign", "off"])
def test_the_cache_of_a_strangers_run_is_not_written_to(run, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("GAZE_CACHE", str(tmp_path / "own"))
    named = "off" if cache == "off" else str(tmp_path / cache)
    images = evaluation_images(run("sent", f"dataset.cache={named}", "dataset.seed=7").dataset, None, print)
    assert len(images.target) == 24 and not (tmp_path / "foreign").exists()
    assert (tmp_path / "own").exists() == (cache != "off")


@pytest.mark.parametrize("setting", ["fixations", "attention_dir"])
def test_images_are_there_when_what_readers_looked_at_has_moved(run, setting):
    dataset = run("read", f"dataset.{setting}=/gone/by/now").dataset
    with pytest.raises(DataError, match=f"dataset.{setting}"):
        load_dataset(dataset)
    images = evaluation_images(dataset, None, print)
    assert len(images.target) == 24 and images.digest == evaluation_images(run("plain").dataset, None, print).digest


def test_a_damaged_checkpoint_is_refused(run):
    sent = run("sent")
    content = bytearray(sent.checkpoint().read_bytes())
    content[len(content) // 2] ^= 1
    sent.checkpoint().write_bytes(content)
    with pytest.raises(
        DataError, match=r"last\.ckpt cannot be read.*: wrong checksum of .*checkpoint=best.*rerun=true"
    ):
        open_run(sent.folder, CompareConfig(device="cpu"))


# ---- load_run


def test_load_run_predicts_in_three_lines_whatever_form_an_image_has(tiny_run, tmp_path):
    run = gaze.load_run(tiny_run.folder)
    drawn = make_phantom(4, 32, split="test").images
    for number, image in enumerate(drawn):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{number}.png")
    label, probabilities, cam = run.predict(str(tmp_path / "0.png"))
    with torch.no_grad():  # the module by itself
        scores = run.module(drawn / 127.5 - 1).softmax(1)
    assert label == run.classes[int(scores[0].argmax())] and list(probabilities) == run.classes
    np.testing.assert_allclose(list(probabilities.values()), scores[0].numpy(), rtol=1e-5)
    torch.testing.assert_close(torch.from_numpy(cam), run.module.look(drawn[:1] / 127.5 - 1).cam[0])
    forms = (
        tmp_path / "0.png", Image.open(tmp_path / "0.png"), drawn[0], drawn[0, 0], drawn[0].numpy(), drawn[0] / 255,
        drawn[0, 0].double().numpy() / 255, drawn[0].expand(3, -1, -1),
    )  # fmt: skip
    for form in forms:
        again = run.predict(form)
        assert again.label == label and np.array_equal(again.map, cam) and again.probabilities == probabilities
    for one, image in zip(run.predict(drawn), drawn, strict=True):  # a batch rounds otherwise
        assert one.probabilities == pytest.approx(run.predict(image).probabilities, rel=1e-5)
    assert len(run.predict([tmp_path / "0.png", drawn[1]])) == 2 and run.predict([]) == []


def test_what_load_run_cannot_take_is_one_line(tiny_run, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no image")
    run = gaze.load_run(tiny_run.folder, checkpoint="best", device="cpu")
    for image, words in (
        (tmp_path / "no.png", "no image of a format that is read"), ("gone.png", "gone.png .*No such file"),
        (torch.randn(1, 32, 32), "floating pixels must be in 0..1"), (np.zeros((5, 8, 8), "u1"), r"not \(5, 8, 8\)"),
        (np.zeros((8, 8), np.int64), "not int64"), (None, "NoneType cannot be read as an image"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            run.predict(image)
    with pytest.raises(DataError, match=r"does not exist\. A run folder is"):
        gaze.load_run(tmp_path / "gone")
