"""gaze.backbones.library: networks of torchvision and timm, their maps against captum's and a graph without hooks."""

from __future__ import annotations

import re
import urllib.error

import captum.attr
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models._api import WeightsEnum

import gaze.backbones.library
from gaze.backbones.levels import SplitBackbone
from gaze.backbones.library import HookedBackbone, build_network, check_network, expected, map_size
from gaze.backbones.looking import look
from gaze.cam.hook import captured
from gaze.cam.layers import Target, find_target
from gaze.cam.methods import grad_cam, normalize_cam
from gaze.config.model import ModelConfig
from gaze.config.train import check_config
from gaze.data.datamodule import Batch
from gaze.errors import ConfigError
from gaze.runs.load import load_runs
from gaze.runs.run import Run
from gaze.studies.opened import check_runs, load_module
from gaze.training.module import GazeModule
from gaze.training.train import run_training

K, SIZE = 4, 64
RESNET = {"model": "resnet18", "source": "torchvision"}
VIT = {"model": "test_vit", "source": "timm"}  # six blocks of width 64
VIT_BLOCK = {"name": "test_vit", "source": "timm", "layer": "blocks.5"}  # the class token alone goes on from there
SWIN = {"model": "swin_tiny_patch4_window7_224", "source": "timm"}


def _module(seed: int = 0, channels: int = 1, **kwargs) -> GazeModule:
    torch.manual_seed(seed)
    module = GazeModule(num_classes=K, in_channels=channels, image_size=SIZE, **kwargs)
    module.log = lambda *args, **kwargs: None
    module._log_mean = lambda *args: None
    return module


def _images(count: int = 4, channels: int = 1, size: int = SIZE) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


class ToGrid(nn.Module):
    """A layer's output as a map, for captum; ``FromGrid`` undoes it."""

    def __init__(self, prefix: int | None, holder: dict[str, Tensor]) -> None:
        super().__init__()
        self.prefix, self.holder = prefix, holder

    def forward(self, x: Tensor) -> Tensor:
        if self.prefix is None:
            return x.permute(0, 3, 1, 2)
        self.holder["first"] = x[:, : self.prefix]
        side = int((x.shape[1] - self.prefix) ** 0.5)
        return x[:, self.prefix :].reshape(len(x), side, side, -1).permute(0, 3, 1, 2)


class FromGrid(ToGrid):
    def forward(self, x: Tensor) -> Tensor:
        cells = x.permute(0, 2, 3, 1)
        return cells if self.prefix is None else torch.cat([self.holder["first"], cells.flatten(1, 2)], 1)


def _captum(module: GazeModule, image: Tensor, target: Tensor) -> Tensor:
    """Captum's Grad-CAM of the same network, which gets layers that lay tokens out as a map where it has none."""
    backbone = module.backbone
    name, layout, prefix, _ = backbone.target
    layer, own = backbone.get_submodule(name), backbone
    if layout != "BCHW":
        holder: dict[str, Tensor] = {}
        grid = ToGrid(prefix if layout == "BNC" else None, holder)
        own.set_submodule(name, nn.Sequential(layer, grid, FromGrid(grid.prefix, holder)))
        layer = grid
    cam = captum.attr.LayerGradCam(backbone, layer).attribute(image, target, relu_attributions=True)
    if layout != "BCHW":
        own.set_submodule(name, own.get_submodule(name)[0])
    return cam.detach()[:, 0]


@pytest.mark.parametrize("settings", [RESNET, VIT, SWIN], ids=["resnet18", "vit", "swin"])
def test_maps_are_captums_in_training_and_in_evaluation(settings):
    module = _module(**settings).eval()
    image, target = _images(), torch.arange(4) % K
    expected = _captum(module, image, target)
    assert expected.flatten(1).amax(1).gt(0).any()
    kept = look(module.backbone, image, target, create_graph=True).cam
    assert kept.requires_grad
    found = module.look(image, target)
    assert torch.equal(kept.detach(), found.cam)
    torch.testing.assert_close(found.cam, normalize_cam(expected), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.logits, module(image).detach(), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        again = module.look(image.clone(), target.clone())  # made in inference mode
    torch.testing.assert_close(again.cam, found.cam, rtol=1e-5, atol=1e-5)
    assert found.cam.shape[1:] == map_size(ModelConfig(name=settings["model"], source=settings["source"]), SIZE, 1)
    assert not found.cam.requires_grad and all(p.grad is None for p in module.parameters())


class Input(nn.Module):
    def __init__(self, backbone: HookedBackbone) -> None:
        super().__init__()
        self.backbone = [backbone]  # not a child

    def forward(self, x: Tensor) -> Tensor:
        return x * self.backbone[0].scale + self.backbone[0].shift


@pytest.mark.parametrize("second_order", [True, False])
def test_loss_and_gradients_of_resnet18_are_those_of_the_network_cut_in_two(second_order):
    """The cut network goes the levels' way, which has hand-written gradients in test_module.py."""
    module = _module(**RESNET, gaze_lambda=50.0, gaze={"second_order": second_order, "min_samples": 1}).double()
    image = _images(6).double()
    net, found = module.backbone.network, []
    with torch.no_grad():
        target = module.train().backbone(image).argmax(1)
    for cut in (False, True):
        if cut:
            parts = [Input(module.backbone), net.conv1, net.bn1, net.relu, net.maxpool]
            features = nn.Sequential(*parts, net.layer1, net.layer2, net.layer3, net.layer4)
            module.backbone = SplitBackbone(features, nn.Sequential(net.avgpool, nn.Flatten(), net.fc))
            module.gaze_loss.seen.zero_()
            module.gaze_loss.class_gaze.zero_()
        loss = module.training_step(Batch(image, target, torch.arange(6), None), 0)
        found.append((loss, torch.autograd.grad(loss, list(net.parameters()))))
    (ours, gradients), (plain, expected) = found
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
    assert ours > 0
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_gradients_of_a_vit_are_those_of_its_graph_without_a_hook():
    module = _module(**VIT).double().eval()
    image, net, block = _images(3).double(), module.backbone.network, module.backbone.network.blocks[-1]
    logits, ours = look(module.backbone, image, torch.ones(3, dtype=torch.int64), create_graph=True)

    x = net.patch_embed(Input(module.backbone)(image))
    x = net.norm_pre(net.patch_drop(net._pos_embed(x)))
    for before in net.blocks[:-1]:
        x = before(x)
    normed = block.norm1(x)
    grid = normed[:, 1:].reshape(3, 4, 4, -1).permute(0, 3, 1, 2).contiguous()
    tokens = torch.cat([normed[:, :1], grid.permute(0, 2, 3, 1).reshape(3, 16, -1)], 1)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        x = x + block.drop_path1(block.ls1(block.attn(tokens)))
    x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    scores = net.forward_head(net.norm(x))
    plain = normalize_cam(grad_cam(grid, scores[:, 1], create_graph=True))
    torch.testing.assert_close(logits, scores, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-8)
    parameters = list(net.parameters())
    for a, b in zip(
        *(torch.autograd.grad(cam.square().sum(), parameters, allow_unused=True) for cam in (ours, plain)),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("layer", ["patch_embed", "layers.0"])
def test_a_bright_patch_is_where_it_is_in_a_swins_map(layer):
    network = gaze.backbones.library._plain(ModelConfig(name=SWIN["model"], source="timm"), K, SIZE).eval()
    target = find_target(network, (SIZE, SIZE), layer)
    assert target.layout == "BHWC"
    x = torch.zeros(2, 3, SIZE, SIZE)
    x[1, :, :4, -4:] = torch.randn(3, 4, 4)
    with torch.no_grad(), captured(network, target, True) as found:
        network(x)
    changed = (found[0][0] - found[0][1]).abs().sum(0) > 1e-5
    assert changed[0, -1]
    if layer == "patch_embed":
        assert changed.nonzero().tolist() == [[0, 15]]


def test_a_grey_image_is_the_coloured_one_with_three_equal_channels():
    module, image = _module(**RESNET).eval(), _images()
    torch.testing.assert_close(module(image), module(image.expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [RESNET, VIT], ids=["resnet18", "vit"])
def test_either_memory_order_gives_the_same_maps(settings):
    found = [
        _module(**settings, channels_last=order).eval().look(_images(), torch.arange(4)) for order in (True, False)
    ]
    torch.testing.assert_close(found[0].logits, found[1].logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0].cam, found[1].cam, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", [RESNET, VIT], ids=["resnet18", "vit"])
def test_half_precision_keeps_head_and_map_in_float32(settings):
    module = _module(**settings, gaze_lambda=50.0)
    batch = Batch(_images(), torch.arange(4) % K, torch.arange(4), None)
    with torch.autocast("cpu", torch.bfloat16):
        module.training_step(batch, 0).backward()
        found = module.eval().look(batch.image, batch.target)
    assert found.cam.dtype == found.logits.dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


# ---- checks before any work


def test_what_cannot_be_used_is_refused_early():
    for settings, size, words in (
        ({"name": "resnet17"}, 64, ["model.name=resnet17 is unknown", "resnet18"]),
        ({"name": "test_vitt", "source": "timm"}, 64, ["model.name=test_vitt is unknown", "test_vit"]),
        ({"name": "fcn_resnet50"}, 64, ["unknown"]),  # no classifier
        ({"layer": "layr4"}, 64, ["model.layer=layr4", "Did you mean layer4", "layer4 (2x2)", "layer3 (4x4)"]),
        ({"layer": "fc"}, 64, ["model.layer=fc", "no spatial map", "layer4"]),
        ({"layer": "layer4.1.relu"}, 64, ["runs 2 times"]),
        ({"layer": "layer4"}, 32, ["1x1 map", "2x2 or more"]),
        ({"name": "vit_b_16"}, 50, ["50x50 images", "cannot be used"]),
        ({"weights": "best"}, 64, ["weights=best", "IMAGENET1K_V1"]),
        (VIT_BLOCK, 64, ["model.layer=blocks.5", "layer=blocks.5 has no gradient", "such as blocks.5.norm1"]),
        ({"name": "volo_d1_224", "source": "timm"}, 224, ["Name one with model.layer=NAME", "network.4 (14x14)"]),
    ):
        with pytest.raises(ConfigError) as caught:
            check_network(ModelConfig(**{"name": "resnet18", "source": "torchvision", **settings}), size, 1)
        assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_missing_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r'pip install -e "\.\[timm\]"'):
        check_network(ModelConfig(name="resnet26", source="timm"), 64, 1)


def test_a_bad_layer_is_refused_before_images_are_read_and_anything_is_written(composed, tmp_path):
    config = check_config(
        composed("model=torchvision", "model.layer=layer9", "dataset=folder", "dataset.root=/nowhere")
    )
    with pytest.raises(ConfigError, match=r"model\.layer=layer9"):
        run_training(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_check_draws_no_random_number_and_names_the_layer():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    line = check_network(ModelConfig(name="resnet18", source="torchvision"), 64, 1)
    assert line == "torchvision-resnet18: looked at in layer4, a 2x2 map"
    assert torch.equal(torch.get_rng_state(), before)
    assert check_network(ModelConfig(name="level2"), 64, 1) is None


# ---- weights


@pytest.fixture
def pretrained(monkeypatch) -> dict[str, Tensor]:
    """What a download would give: a resnet18 of a thousand classes."""
    torch.manual_seed(5)
    state = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda self, *args, **kwargs: state)
    return state


def test_pretrained_weights_are_all_taken_but_the_classifier(pretrained):
    model = ModelConfig(name="resnet18", source="torchvision", weights="default")
    backbone = build_network(model, K, 1, SIZE)
    own = backbone.network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in pretrained.items() if not key.startswith("fc."))
    assert own["fc.weight"].shape == (K, 512)
    # Images as the weights expect them: [-1, 1] to 0..1, then ImageNet's mean and standard deviation.
    x, seen = _images(), []
    backbone.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    backbone.eval()(x)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(seen[0], ((x + 1) / 2 - mean) / std)
    assert torch.equal(build_network(model, 1000, 1, SIZE).network.fc.weight, pretrained["fc.weight"])


def test_a_checkpoint_of_a_pretrained_network_loads_without_a_download(pretrained, monkeypatch, tmp_path):
    module = _module(**RESNET, weights="default", layer="layer3").eval()
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    monkeypatch.setattr(gaze.backbones.library, "_from_torchvision", None)
    again = load_module(path).eval()
    assert again.backbone.target.layer == "network.layer3"
    assert torch.equal(again.backbone.scale, module.backbone.scale) and again.backbone.scale.std() > 0
    a, b = (m.look(_images(), torch.arange(4)) for m in (module, again))
    assert torch.equal(a.cam, b.cam) and torch.equal(a.logits, b.logits)


FAMILIES = {  # of torchvision, each with the smallest of its networks and, where it takes none of 96, its image size
    "alexnet": "alexnet", "convnext": "convnext_tiny", "densenet": "densenet121", "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet", "inception": "inception_v3 299", "maxvit": "maxvit_t 224", "mnasnet": "mnasnet0_5",
    "mobilenet": "mobilenet_v3_small", "regnet": "regnet_x_400mf", "resnet": "resnet18", "resnext": "resnext50_32x4d",
    "shufflenet": "shufflenet_v2_x0_5", "squeezenet": "squeezenet1_1", "swin": "swin_t", "vgg": "vgg11",
    "vit": "vit_b_32 224", "wide": "wide_resnet50_2",
}  # fmt: skip
OF_TIMM = (
    "fbnetc_100", "inception_v3", "test_vit", "resnet10t", "tf_efficientnet_b0", "mobilenetv3_small_050",
    "convnext_atto", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224 224",
    "repvit_m0_9", "hiera_tiny_224 224", "mvitv2_tiny 224", "coat_tiny 224", "ghostnet_100", "tinynet_e", "regnetx_002",
    "edgenext_xx_small", "mobilevit_xxs", "pit_ti_224 224", "xcit_nano_12_p16_224", "levit_128s 224",
    "crossvit_tiny_240 240",
)  # fmt: skip
QUICK = ("googlenet", "mnasnet0_5", "fbnetc_100")  # what building them with weights changes, or once went wrong
ALL = [("torchvision", *words.split()) for words in FAMILIES.values()] + [("timm", *words.split()) for words in OF_TIMM]


@pytest.mark.filterwarnings("ignore:The default weight initialization of")
@pytest.mark.parametrize(
    ("source", "name", "size"),
    [
        pytest.param(source, name, int(*size or [96]), marks=[] if name in QUICK else pytest.mark.slow)
        for source, name, *size in ALL
    ],
)
def test_a_pretrained_network_is_the_librarys_and_comes_back_from_its_checkpoint(
    source, name, size, monkeypatch, tmp_path
):
    """In double precision; random numbers stand in for the weights of a download."""
    torch.manual_seed(5)
    sized = {"img_size": size} if source == "timm" and timm.get_pretrained_cfg(name).fixed_input_size else {}
    if source == "torchvision":
        plain = torchvision.models.get_model(name, weights=None)
    else:
        plain = timm.create_model(name, num_classes=1000, **sized)
    x = _images(2, 3, size).double()
    state = _stand_in(plain, x)
    if source == "torchvision":
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: state)
        weights = torchvision.models.get_model_weights(name).DEFAULT
        own, look = torchvision.models.get_model(name, weights=weights), weights.transforms()
        mean, std = look.mean, look.std
    else:
        for loader in ("load_state_dict_from_hf", "load_state_dict_from_url"):
            monkeypatch.setattr(timm.models._builder, loader, lambda *args, **kwargs: dict(state))
        own = timm.create_model(name, pretrained=True, **sized)
        mean, std = own.pretrained_cfg["mean"], own.pretrained_cfg["std"]
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (mean, std))
    module = GazeModule(name, 1000, 3, size, source=source, weights="default").double().eval()
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, tmp_path / "last.ckpt")
    again = load_module(tmp_path / "last.ckpt").double().eval()
    with torch.no_grad():
        expected = own.double().eval()(((x + 1) / 2 - mean) / std)
        found, back = module(x), again(x)
    spread = (expected[0] - expected[1]).abs().max().item()
    assert spread > 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * spread)  # scaled by float32 numbers
    assert torch.equal(found, back)


def _stand_in(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Its random weights, with the batch statistics of images: without them little of an image reaches the end."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(std=0.02)
        network.train()
        network(x.to(next(network.parameters()).dtype))
    return network.state_dict()


def test_the_families_are_all_of_torchvisions():
    names = torchvision.models.list_models(module=torchvision.models)
    assert {re.match("[a-z]+", name)[0] for name in names} == set(FAMILIES)


def test_a_pretrained_googlenet_of_an_older_checkpoint_still_scales_its_images(monkeypatch, tmp_path):
    state = torchvision.models.get_model("googlenet", weights=None, init_weights=False).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: state)
    for weights in ("default", None):
        module = GazeModule("googlenet", K, 3, SIZE, source="torchvision", weights=weights).eval()
        old = {key: value for key, value in module.hparams.items() if key != "built"}
        torch.save({"state_dict": module.state_dict(), "hyper_parameters": old}, tmp_path / "last.ckpt")
        again = load_module(tmp_path / "last.ckpt").eval()
        assert again.backbone.network.transform_input == (weights is not None)
        assert torch.equal(module(_images(2, 3)), again(_images(2, 3)))


def test_weights_that_cannot_be_downloaded_are_one_clear_error(monkeypatch):
    def offline(self, *args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(ConfigError, match=r"model\.weights=default .* cannot be had: .*no route[\s\S]*weights=null"):
        check_network(ModelConfig(name="resnet18", source="torchvision", weights="default"), 64, 1)


def test_weights_of_another_image_size_are_refused(pretrained, monkeypatch):
    network = torchvision.models.resnet18(num_classes=K)
    network.conv1 = nn.Conv2d(3, 64, 5, bias=False)
    monkeypatch.setattr(gaze.backbones.library, "_plain", lambda *args, **kwargs: network)
    with pytest.raises(ConfigError, match=r"do not fit 64x64 images \(conv1\.weight\)\. Take dataset\.image_size=224"):
        gaze.backbones.library._from_torchvision(
            ModelConfig(name="resnet18", source="torchvision", weights="default"), K, SIZE
        )


# ---- whole runs


@pytest.mark.parametrize("words", [
    pytest.param(["model=torchvision", "model.name=resnet18"], marks=pytest.mark.slow),
    ["model=timm", "model.name=test_vit"],
], ids=["resnet18", "vit"])  # fmt: skip
def test_a_run_with_the_gaze_loss(composed, tmp_path, words):
    small = ["dataset.train_images=32", "dataset.test_images=16", "dataset.image_size=64", "dataset.batch_size=8"]
    gaze_now = ["lambda=50", "gaze.start_epoch=0", "gaze.end_epoch=1", "gaze.min_samples=1"]
    config = check_config(composed(*words, *small, *gaze_now, "trainer.max_epochs=1", "trainer.accelerator=cpu"))
    folder = tmp_path / "phantom" / config.model.label
    row = run_training(config, folder)
    assert row["train/lambda"] == 50 and row["train/loss_gaze"] > 0
    assert all(value == value for key, value in row.items() if not key.startswith("val/gaze"))  # none is NaN
    module = load_module(Run(folder).checkpoint()).eval()
    assert isinstance(module.backbone, HookedBackbone)
    side = module.backbone.target.grid[0]
    assert module.gaze_loss.class_gaze.shape[1:] == (side, side)
    assert load_runs(tmp_path).model.unique().tolist() == [f"{words[0].partition('=')[2]}-{config.model.name}"]
    if side >= 4:
        check_runs([Run(folder)], "last")
    assert all(not m._forward_hooks for m in module.modules())


def test_settings_of_before_there_were_sources_still_load():
    old = {"name": "level2", "channels_last": True}
    assert map_size(ModelConfig(**old), 64, 1) == (8, 8)


@pytest.mark.parametrize("weight", [0.0, 50.0])
def test_cross_entropy_alone_gives_the_same_step_at_lambda_zero(weight):
    module = _module(**RESNET, gaze_lambda=0.0).eval()
    module.gaze_weight = weight * 1e-12
    batch = Batch(_images(), torch.arange(4) % K, torch.arange(4), None)
    expected = F.cross_entropy(module(batch.image), batch.target)
    torch.testing.assert_close(module.training_step(batch, 0), expected, rtol=1e-5, atol=1e-6)


TIMM = (
    "resnet18", "test_vit", "test_convnext", "mobilenetv3_small_050", "tf_efficientnet_b0", "tinynet_e", "lcnet_050",
    "efficientvit_b0", "inception_v3", "mixnet_s",
)  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_images_reach_a_network_of_timm_as_timms_own_transform_has_them(name):
    own = timm.data.resolve_model_data_config(timm.create_model(name, pretrained=False))
    found = expected(ModelConfig(name=name, source="timm"))
    assert found == (list(own["mean"]), list(own["std"]), own["interpolation"])
    pixels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    own |= {"input_size": (3, 8, 8), "crop_pct": 1.0}
    wanted = timm.data.create_transform(**own)(torchvision.transforms.functional.to_pil_image(pixels))
    backbone = HookedBackbone(nn.Identity(), Target("", "BCHW", 0, (2, 2)), found.mean, found.std)
    torch.testing.assert_close(backbone((pixels / 127.5 - 1)[None])[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "inception_v3", "efficientnet_v2_s"])
def test_images_reach_a_network_of_torchvision_as_its_weights_have_them(name):
    own = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
    found = expected(ModelConfig(name=name, source="torchvision"))
    side = own.crop_size[0]
    pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    own.resize_size = [side]
    backbone = HookedBackbone(nn.Identity(), Target("", "BCHW", 0, (2, 2)), found.mean, found.std)
    torch.testing.assert_close(backbone((pixels / 127.5 - 1)[None])[0], own(pixels), rtol=1e-4, atol=1e-5)
    assert found.interpolation == own.interpolation.value
