"""gaze.training.weights: checkpoints from elsewhere, against torchvision's own networks and timm's own transforms."""

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torchvision.models import resnet18
from torchvision.transforms import v2

from gaze.backbones.library import HookedBackbone
from gaze.config.train import check_config
from gaze.data.sources.phantom import CLASSES, make_phantom
from gaze.errors import CheckpointError, ConfigError
from gaze.runs.folder import plan_run
from gaze.runs.load import load_runs, read_runs
from gaze.runs.run import Run
from gaze.studies.opened import load_module
from gaze.training.train import run_training

RESNET = ("model=torchvision", "model.name=resnet18", "model.layer=layer2", "dataset.image_size=32")
SCALED = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def trained():
    """A ResNet-18 with a few steps of plain PyTorch behind it, and its scores of the tests' evaluation images."""
    torch.manual_seed(1)
    net, drawn = resnet18(num_classes=4), make_phantom(32, 32)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(net(_scaled(drawn.images)), drawn.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images = make_phantom(16, 32, split="test")
    with torch.no_grad():
        scores = net.eval()(_scaled(images.images))
    assert 0.3 < (scores.argmax(1) == images.targets).float().mean() < 1
    return net, scores, images.targets


def _scaled(images):
    return SCALED(images.expand(-1, 3, -1, -1).float() / 255)


def write(path, state_dict, **more):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state_dict, path)
    else:
        torch.save({"state_dict": state_dict, **more} if path.suffix == ".ckpt" else state_dict, path)
    return path


@pytest.fixture
def measured(tiny, tmp_path, capsys):
    """Measures a file; its row, the run, and what was said."""

    def measure(file, *overrides, network=RESNET):
        folder = tmp_path / "run"
        config = check_config_of(tiny, file, "measure=true", *network, *overrides)
        row = run_training(config, folder)
        return row, Run(folder), " ".join(capsys.readouterr().out.split())

    return measure


def check_config_of(tiny, file, *overrides):
    return tiny(f"++model.checkpoint='{file}'", *overrides)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("a.pt", ""),
        pytest.param("a.pth", "module.", marks=pytest.mark.slow),
        pytest.param("a.ckpt", "model.", marks=pytest.mark.slow),
        ("a.ckpt", "net._orig_mod."),
        ("a.safetensors", "net."),
    ],
)
def test_what_is_measured_is_the_network_as_plain_pytorch_has_it(measured, trained, tmp_path, name, prefix):
    net, scores, target = trained
    more = {"epoch": 3, "hyper_parameters": {"lr": 1e-3}, "optimizer_states": [{"state": {}}]}
    file = write(tmp_path / name, {f"{prefix}{k}": v for k, v in net.state_dict().items()}, **more)
    row, run, said = measured(file)
    assert row["val/accuracy"] == pytest.approx((scores.argmax(1) == target).float().mean().item(), abs=1e-6)
    assert row["val/loss"] == pytest.approx(torch.nn.functional.cross_entropy(scores, target).item(), rel=1e-4)
    assert "does not name its classes: its scores are taken in the data's order, diffuse, healthy" in said
    assert "as torchvision's own resnet18 expects it, mean [0.485, 0.456, 0.406]" in said
    assert (f"stand under {prefix}*" in said) == bool(prefix)
    assert (row["epoch"], row["step"], len(run.rows), run.status["state"]) == (1, 0, 1, "complete")
    assert read_runs(run.folder).listing["state"].tolist() == ["complete"]
    assert load_runs(run.folder)["accuracy"].tolist() == [row["val/accuracy"]]
    with torch.no_grad():  # in our own format, with its scaling
        again = load_module(run.checkpoint()).eval()((make_phantom(16, 32, split="test").images / 127.5) - 1)
    torch.testing.assert_close(again, scores, rtol=1e-3, atol=1e-3)
    assert plan_run(run).action == "skip"


def test_older_format_averaged_weights_and_other_parts(measured, trained, tmp_path):
    net, scores, target = trained
    both = {f"{p}.{k}": v for p in ("ema.module", "model") for k, v in net.state_dict().items()}
    file = tmp_path / "old.pth"
    torch.save(both | {"criterion.weight": torch.ones(4)}, file, _use_new_zipfile_serialization=False)
    row, _, said = measured(file)
    assert row["val/accuracy"] == pytest.approx((scores.argmax(1) == target).float().mean().item(), abs=1e-6)
    assert "under model.*" in said and "As many fit under ema.module.*" in said
    assert "1 others in it are left out (criterion.weight)" in said


def test_a_run_of_this_project_measures_as_its_last_epoch(measured, tiny_run):
    row, run, said = measured(Run(tiny_run.folder).checkpoint(), network=())
    same = {k: v for k, v in tiny_run.row.items() if k.startswith("val/")}
    assert {k: row[k] for k in same} == pytest.approx(same, rel=1e-5) and len(same) > 10
    assert "does not name" not in said and Run(tiny_run.folder).settings.model.name == run.settings.model.name


def test_classes_are_matched_by_name(measured, trained, tmp_path):
    net, scores, target = trained
    order = [2, 0, 3, 1]
    weights = {k: v[order] if k.startswith("fc.") else v for k, v in net.state_dict().items()}
    names = [CLASSES[i] for i in order]
    expected = pytest.approx((scores.argmax(1) == target).float().mean().item(), abs=1e-6)
    row, _, said = measured(write(tmp_path / "a.pt", weights), f"model.classes=[{','.join(names)}]")
    assert row["val/accuracy"] == expected and f"{', '.join(names)}, are put in the data's order" in said
    file = write(tmp_path / "b.ckpt", weights, hyper_parameters={"class_names": names})
    assert measured(file, "rerun=true")[0]["val/accuracy"] == expected
    assert measured(write(tmp_path / "c.pt", weights), "rerun=true")[0]["val/accuracy"] != expected


def test_other_classes_are_refused_with_both_lists_and_fine_tuned_with_a_new_head(
    measured, trained, tmp_path, tiny, capsys
):
    net, *_ = trained
    file = write(tmp_path / "a.ckpt", net.state_dict(), hyper_parameters={"class_names": ["a", "b", "c", "d"]})
    with pytest.raises(
        CheckpointError, match=r"other classes than the data: a, b, c, d; the data's are diffuse, healthy"
    ):
        measured(file)
    seven = write(tmp_path / "b.pt", {**net.state_dict(), "fc.weight": torch.ones(7, 512), "fc.bias": torch.ones(7)})
    with pytest.raises(CheckpointError, match="7 without names; the data's are diffuse"):
        measured(seven)
    with pytest.raises(CheckpointError, match=r"has 7 scores and 2 classes \(x, y\)"):
        measured(seven, "model.classes=[x,y]")
    config = check_config_of(tiny, file, *RESNET, "optimizer.lr=1e-30", "trainer.max_epochs=1")
    run_training(config, tmp_path / "tuned")
    assert "the head is new, the rest is taken" in " ".join(capsys.readouterr().out.split())
    weights = load_module(Run(tmp_path / "tuned").checkpoint()).backbone.network.state_dict()
    assert torch.equal(weights["layer4.1.conv2.weight"], net.state_dict()["layer4.1.conv2.weight"])
    assert weights["fc.weight"].shape == (4, 512) and not torch.equal(
        weights["fc.weight"], net.state_dict()["fc.weight"]
    )


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_nothing_in_a_checkpoint_is_run(measured, trained, tmp_path):
    marker = tmp_path / "it_ran"
    whole = tmp_path / "whole.pt"
    torch.save(trained[0], whole)  # a network as an object: needs its code
    hidden = write(tmp_path / "a.ckpt", trained[0].state_dict(), hyper_parameters={"x": Hostile(marker)})
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Hostile(marker)))
    (tmp_path / "b.safetensors").write_bytes(pickle.dumps(Hostile(marker)))
    for file in (whole, hidden, tmp_path / "plain.pt", tmp_path / "b.safetensors"):
        with pytest.raises(
            CheckpointError, match=rf"{file.name} (is no file of weights alone|cannot be read as)"
        ) as told:
            measured(file)
        assert len(str(told.value)) < 600 and "\n" not in str(told.value)
    assert not marker.exists() and not (tmp_path / "run").exists()


def test_what_is_no_checkpoint_of_this_network_is_one_line(measured, trained, tmp_path):
    net = trained[0]
    good, table = write(tmp_path / "good.pt", net.state_dict()).read_bytes(), net.state_dict()
    other = {k: v for k, v in table.items() if not k.startswith("layer4.1.")} | {"layer5.conv.weight": torch.ones(1)}
    cases = {
        "half.pt": good[: len(good) // 2], "empty.pt": b"", "text.pt": b"no checkpoint", "half.safetensors": b"\x08",
        "flipped.pt": good[:9000] + bytes([good[9000] ^ 1]) + good[9001:],
    }  # fmt: skip
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} (is no file of weights|cannot be read as)"):
            measured(tmp_path / name)
    for name, content, words in (
        ("list.pt", [1, 2], "holds a list"), ("none.pt", {"epoch": 1}, "holds no weights"),
        ("other.pt", other, r"10 missing \(layer4.1.conv1.weight, .*and 7 more\); 1 left over \(layer5.conv.weight\)"),
        ("grey.pt", {**table, "conv1.weight": torch.ones(64, 1, 7, 7)}, r"conv1.weight \(64, 1, 7, 7\) for \(64, 3"),
    ):  # fmt: skip
        torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match=words):
            measured(tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_settings_of_a_checkpoint(composed, tmp_path):
    def refused(*overrides):
        with pytest.raises(ConfigError) as told:
            check_config(composed(*overrides))
        return str(told.value)

    assert "measure=true evaluates a network that was trained elsewhere" in refused("measure=true")
    assert "x.pt cannot be read: No such file" in refused("++model.checkpoint=x.pt", "measure=true")
    assert "Is a directory" in refused(f"++model.checkpoint={tmp_path}")
    both = refused("model=torchvision", "model.weights=default", "model.checkpoint=x.pt")
    assert "model.weights=default are two sets of weights" in both
    assert "are those of model.checkpoint" in refused("model=torchvision", "model.classes=[a,b]")
    assert "three numbers" in refused("model=timm", "model.mean=[0.5]", "model.std=[0.5,0.5,0.5]")
    assert "goes with model.mean" in refused("model=timm", "model.mean=[0.5,0.5,0.5]")
    assert "must be above 0" in refused("model=timm", "model.mean=[0,0,0]", "model.std=[0,1,1]")
    assert "model=level2 has none" in refused("++model.mean=[0,0,0]")


def test_the_folder_follows_the_files_content_and_another_file_is_another_run(composed, tiny, tmp_path):
    a, b = tmp_path / "a.pt", tmp_path / "there" / "a.pt"
    b.parent.mkdir()
    a.write_bytes(b"one")
    b.write_bytes(b"one")
    words = ("measure=true", "model=torchvision")

    def folder(file):
        return composed(*words, f"model.checkpoint='{file}'", hydra=True).hydra.run.dir

    first = folder(a)
    assert first == folder(b) and "measure=true,model.checkpoint=a-7692c3ad3540" in first
    config = check_config_of(tiny, a, *words)
    assert config.model.checkpoint_digest == "7692c3ad3540" and config.trainer["max_epochs"] == 1
    run = Run(tmp_path / "run", config)
    run.checkpoints.mkdir(parents=True)
    run.config_file.write_text(json.dumps(config.to_dict()))
    run.metrics_file.write_text("epoch\n1\n")
    assert plan_run(Run(run.folder, check_config_of(tiny, b, *words))).action == "resume"
    a.write_bytes(b"two")
    assert folder(a) != first
    with pytest.raises(ConfigError, match=r"model.checkpoint_digest: 7692c3ad3540 there, 3fc4ccfe7458 now"):
        plan_run(Run(run.folder, check_config_of(tiny, a, *words)))
    with pytest.raises(ConfigError, match="is another file than asked for"):
        check_config_of(tiny, a, *words, "++model.checkpoint_digest=7692c3ad3540")


def test_fine_tuning_begins_with_the_checkpoint(trained, tmp_path, tiny):
    file = write(tmp_path / "a.pt", trained[0].state_dict())
    settings = (*RESNET, "model.mean=[0.485,0.456,0.406]", "model.std=[0.229,0.224,0.225]")
    config = check_config_of(tiny, file, *settings, "trainer.max_epochs=1", "optimizer.lr=1e-30")
    row = run_training(config, tmp_path / "run")
    assert row["step"] == 2 and row["lr"] == 1e-30
    module = load_module(Run(tmp_path / "run").checkpoint())
    weights = module.backbone.network.state_dict()
    for name, value in trained[0].named_parameters():
        torch.testing.assert_close(weights[name], value.detach(), rtol=0, atol=1e-12)
    assert isinstance(module.backbone, HookedBackbone)
    torch.testing.assert_close(module.backbone.scale.flatten(), 0.5 / torch.tensor([0.229, 0.224, 0.225]))


def test_test_images_are_measured_once_where_they_are_apart(measured, trained, tmp_path):
    _, run, said = measured(write(tmp_path / "a.pt", trained[0].state_dict()), "dataset.validation=0.25")
    assert json.loads(run.test_file.read_text()).keys() == {"last"}
    assert "of those that the checkpoint was trained on" in said and "test images, once: acc" in said


def test_images_are_resized_as_the_networks_own_weights_had_them(composed, tmp_path, capsys):
    rng, net = np.random.default_rng(0), timm.create_model("lcnet_050", num_classes=2).eval()
    for place, (half, label) in enumerate(itertools.product(("train", "test"), ("cat", "dog"))):
        folder = tmp_path / "images" / half / label
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (20 + place, 24), dtype=np.uint8)).save(folder / "0.png")
    own = timm.data.resolve_model_data_config(net) | {"input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "squash"}
    file, look = write(tmp_path / "a.pt", net.state_dict()), timm.data.create_transform(**own)
    words = [
        "dataset=folder",
        f"dataset.root={tmp_path / 'images'}",
        "dataset.image_size=64",
        "dataset.validation=test",
    ]
    words += ["model=timm", "model.name=lcnet_050", f"++model.checkpoint='{file}'", "measure=true"]
    run = Run(tmp_path / "run", check_config(composed(*words)))
    run_training(run.settings, run.folder)
    assert "resized by bicubic interpolation, as those of timm's own" in " ".join(capsys.readouterr().out.split())
    for row in pd.read_csv(run.predictions_file).to_dict("records"):
        image = Image.open(tmp_path / "images" / row["file"]).convert("RGB")
        with torch.no_grad():
            scores = net(look(image)[None]).softmax(1)[0].tolist()
        assert [row["p/cat"], row["p/dog"]] == pytest.approx(scores, abs=1e-4)
    assert Run(run.folder).settings.dataset.interpolation == "bicubic"
    assert plan_run(run).action == "skip"  # though it was given as auto
    plain = Run(run.folder, check_config(composed(*words, "dataset.interpolation=bilinear")))
    with pytest.raises(ConfigError, match=r"dataset.interpolation: bicubic there, bilinear now"):
        plan_run(plain)
