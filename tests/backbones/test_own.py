"""gaze.backbones.own: classes of a user's file, every output that a classifier may have, and what nobody trusts."""

import sys
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn

import gaze.backbones.own
from gaze.backbones.library import build_network, check_network, map_size, weight_shapes
from gaze.backbones.looking import look
from gaze.backbones.own import build_own, trust
from gaze.config.model import ModelConfig
from gaze.errors import ConfigError
from gaze.files import file_digest
from gaze.training.module import GazeModule

K, SIZE = 4, 32
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=4, channels=1):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        features = self.body(x)
        return {"features": features, "logits": self.head(features.mean((2, 3)))}

class Fixed(Net):
    def __init__(self):
        super().__init__(3)

class Late(Net):
    def forward(self, x):
        return super().forward(x) if self.training else super().forward(x)["features"]

class Odd:
    def __init__(self, num_classes):
        pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Settings of a class of a file, trusted as train.py trusts them."""
    monkeypatch.setattr(gaze.backbones.own, "_trusted", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "its net.py"
    file.write_text(NET, encoding="utf-8")

    def settings(name="Net", trusted=True, **more) -> ModelConfig:
        model = ModelConfig(**{"source": "own", "path": str(file), "_target_": name, "output": "logits", **more})
        if trusted:
            trust(model)
        return model

    return settings


# ---- settings


def test_what_is_no_setting_is_an_argument_of_the_class():
    model = ModelConfig(**{"source": "own", "_target_": "a.b.Net", "width": 32, "kwargs": {"name": "x"}})
    assert (model.kwargs, model.name, model.label) == ({"name": "x", "width": 32}, "Net", "own-Net")
    assert ModelConfig(**model.model_dump(by_alias=True)) == model  # as config.json and checkpoints have it
    assert model.words == ["model=own", "model._target_=a.b.Net", "model.kwargs.name=x", "model.kwargs.width=32"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "own", "_target_": None}, "_target_=null names no class: model=own model._target_=package.Class"),
        ({"source": "own", "_target_": "os.system('a')"}, "names no class"),
        ({"source": "own", "_target_": "a.Net", "weights": "default"}, "model.kwargs.weights"),
        ({"source": "timm", "path": "a.py"}, "path=a.py is for model=own"),
        ({"source": "timm", "width": 3}, "width=3: there is no such setting"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, words):
    with pytest.raises(ConfigError) as refused:
        ModelConfig(**settings)
    assert words in str(refused.value)


# ---- trust


def test_nothing_is_imported_that_nobody_trusts(own, tmp_path):
    (tmp_path / "its net.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    model = own(trusted=False)
    for ask in (lambda: build_own(model, K), lambda: map_size(model, SIZE, 1), lambda: check_network(model, SIZE, 1)):
        with pytest.raises(ConfigError, match=r"code of whoever made this run .* trust=true"):
            ask()
    module = {"model": "Net", "num_classes": K, "image_size": SIZE, "source": "own", "own": model.own}
    with pytest.raises(ConfigError, match="trust=true"):
        GazeModule(**module)


def test_a_file_that_has_changed_is_not_the_trusted_one(own, tmp_path):
    file = tmp_path / "its net.py"
    model = own(path_digest=file_digest(file))
    build_own(model, K)
    file.write_text(NET + "\nraise SystemExit('imported')", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"another file than the run's.*Put the run's file back"):
        build_own(model, K)


# ---- building


def test_a_class_gets_its_arguments_and_is_looked_at_as_any_network(own):
    model = own(width=6)
    network = build_network(model, K, 1, SIZE)
    assert network.network.head.weight.shape == (K, 6)
    assert network.target.layer == "network.body" and map_size(model, SIZE, 1) == (16, 16)
    assert check_network(model, SIZE, 1) == (
        "own-Net: looked at in body, a 16x16 map. Without a part in the loss: features"
    )
    images, target = torch.randn(3, 1, SIZE, SIZE), torch.arange(3)
    logits, cam = look(network.eval(), images, target)
    plain = type(network.network).forward(network.network, images)
    torch.testing.assert_close(logits, plain["logits"])
    alpha = network.network.head.weight[target] / 256  # Selvaraju et al. 2017 behind an average pool: CAM
    raw = torch.einsum("bm,bmhw->bhw", alpha, plain["features"]).relu()
    torch.testing.assert_close(cam, raw / raw.amax((1, 2), keepdim=True).clamp_min(1e-8), atol=1e-4, rtol=1e-4)
    assert weight_shapes(model, SIZE, 1)[1] == {"head.weight", "head.bias"}


@pytest.mark.parametrize(("channels", "grey"), [(1, True), (3, True), (3, False)])
def test_grey_images_are_repeated_for_a_network_that_takes_three_channels(own, channels, grey):
    network = build_network(own(channels=channels), K, 1 if grey else 3, SIZE)
    assert network(torch.randn(2, 1 if grey else 3, SIZE, SIZE)).shape == (2, K)


def test_a_class_is_found_on_the_path_and_from_the_current_folder(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_a_test.py").write_text(NET, encoding="utf-8")
    own(path=None, _target_="of_a_test.Net")
    assert isinstance(build_own(own("of_a_test.Net", path=None), K), nn.Module)
    network = build_own(own("torchvision.models.resnet18", path=None), K)  # a function will do: the user typed it
    assert type(network) is torchvision.models.ResNet


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("Net", {"path": "no.py"}, "model.path=no.py cannot be read: No such file"),
        ("Nett", {}, "has no Nett. Did you mean Net"),
        (
            "Net",
            {"widht": 8},
            "unexpected keyword argument 'widht'. Did you mean width? It takes num_classes, width, ch",
        ),
        ("Odd", {}, "gives a Odd, not a torch.nn.Module"),
        ("Net", {"output": None}, "features: (2, 4, 16, 16), logits: (2, 2) in training; needed are logits"),
        ("Net", {"output": "logit"}, "Take model.output=logits."),
        ("Net", {"output": "features"}, "Take model.output=logits."),
        ("Late", {}, "returns a tensor (2, 4, 16, 16) in evaluation; needed are logits, a tensor (B, K)."),
        ("Net", {"channels": 5}, "cannot be used on images (2, 1, 32, 32): RuntimeError: Given groups=1"),
        ("Net", {"layer": "boddy"}, "layer=boddy: there is no such layer. Did you mean body"),
        ("no_such_package.Net", {"path": None}, "cannot be imported"),
        ("torch.nn.no_such", {"path": None}, "cannot be imported"),
    ],
)
def test_what_is_wrong_is_said_before_any_image_is_read(own, name, more, words):
    with pytest.raises(ConfigError) as refused:
        check_network(own(name, **more), SIZE, 1)
    assert words in str(refused.value)


def test_a_file_that_cannot_be_run_is_an_error_of_one_line(own, tmp_path):
    (tmp_path / "its net.py").write_text("import no_such_package", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"):
        build_own(own(), K)


def test_scores_of_another_number_of_classes_are_refused(own):
    model = own("Fixed")
    check_network(model, SIZE, 1)  # nobody knows yet how many there are
    assert build_network(model, 3, 1, SIZE)
    with pytest.raises(ConfigError, match=r"gives 3 scores an image, and there are 4 classes.*num_classes"):
        build_network(model, 4, 1, SIZE)


# ---- outputs


class Pair(NamedTuple):
    """As torchvision's InceptionOutputs."""

    logits: Tensor
    aux: Tensor


@dataclass
class Data:
    """A dataclass of outputs."""

    logits: Tensor


class Returning(nn.Module):
    """Logits in whatever ``wrap`` makes of them."""

    def __init__(self, wrap):
        super().__init__()
        self.conv, self.head, self.wrap = nn.Conv2d(1, 3, 3), nn.Linear(3, K), wrap

    def forward(self, x):
        return self.wrap(self.head(self.conv(x).mean((2, 3))))


@pytest.mark.parametrize(
    ("wrap", "word", "left"),
    [
        (lambda x: x, None, []),
        (lambda x: (x, x + 1), 0, ["1"]),
        (lambda x: [x + 1, x], 1, ["0"]),
        (lambda x: [x + 1, x], "1", ["0"]),
        (lambda x: Pair(x, x + 1), "logits", ["aux"]),
        (lambda x: Pair(x, x + 1), 0, ["aux"]),
        (lambda x: {"a.b": x, 1: None}, "a.b", ["1"]),
        (lambda x: {0: x}, 0, []),
        (Data, "logits", []),
    ],
)
def test_logits_are_picked_out_of_anything(wrap, word, left, monkeypatch):
    model = ModelConfig(**{"source": "own", "_target_": "anything.Net", "output": word})
    trust(model)
    torch.manual_seed(0)
    monkeypatch.setattr(gaze.backbones.own, "_found", lambda model: lambda: Returning(wrap))
    network, images = build_own(model, K), torch.randn(2, 1, 8, 8)
    assert torch.equal(network(images), network.head(network.conv(images).mean((2, 3))))
    assert gaze.backbones.own.tried(model, network, K, 8, 1, training=True) == left


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_outputs_in_training_are_left_out_and_said(name, own):
    more = {"path": None, "init_weights": False, "layer": "maxpool1", "output": "logits"}
    size = 299 if name == "inception_v3" else 64  # what its auxiliary head takes
    line = check_network(own(f"torchvision.models.{name}", **more), size, 3)
    assert line.endswith("aux_logits" if name == "inception_v3" else "aux_logits2, aux_logits1")
    line = check_network(ModelConfig(name=name, source="torchvision"), 96, 3)
    assert line.endswith("Without a part in the loss: what its auxiliary heads give")
