"""gaze.look: one function for any network. Against captum, pytorch-grad-cam, finite differences, and autograd."""

from __future__ import annotations

import gc
import weakref

import captum.attr
import pytest
import pytorch_grad_cam
import timm
import torch
import torchvision
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

import gaze
import gaze.backbones.looking
import gaze.cam.methods
from gaze.backbones.levels import LEVELS, PooledHead, SplitBackbone, build_backbone
from gaze.cam.methods import normalize_cam
from gaze.choices import METHODS
from gaze.errors import ConfigError

K = 3
TARGET = torch.arange(4) % K


def _images(channels: int = 3, height: int = 64, width: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, channels, height, width, generator=torch.Generator().manual_seed(0), dtype=dtype)


def _net(activation: type[nn.Module] = nn.ReLU, inplace: bool = True, channels: int = 3) -> nn.Sequential:
    """Found in "3"; what follows the layer "2" would change it in place."""
    torch.manual_seed(0)
    act = activation(inplace) if activation is nn.ReLU else activation()
    return nn.Sequential(
        nn.Conv2d(channels, 5, 3, stride=2), nn.BatchNorm2d(5), nn.Conv2d(5, 6, 3), act,
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, K),
    )  # fmt: skip


def _vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=K, img_size=64)


def _tokens(x: Tensor) -> Tensor:
    return x[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


# ---- values, against implementations that are not ours


@pytest.mark.parametrize("layer", [None, "layer3", "layer2.1"])
def test_a_resnets_maps_are_captums(layer):
    torch.manual_seed(0)
    network = resnet18(num_classes=K).eval()
    attribution = captum.attr.LayerGradCam(network, network.get_submodule(layer or "layer4"))
    expected = attribution.attribute(_images(), TARGET, relu_attributions=True)[:, 0].detach()
    logits, cam = gaze.look(network, _images(), TARGET, layer)
    torch.testing.assert_close(cam, normalize_cam(expected), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, network(_images()).detach(), rtol=1e-4, atol=1e-5)
    assert cam.amax() > 0.99 and not cam.requires_grad and not logits.requires_grad


@pytest.mark.parametrize(
    ("method", "theirs"),
    [("grad_cam", "GradCAM"), ("hires_cam", "HiResCAM"), ("layer_cam", "LayerCAM")],
)
def test_a_vits_maps_are_those_of_pytorch_grad_cam(method, theirs):
    network = _vit().eval()
    # It enlarges its maps to the images; read before that.
    with getattr(pytorch_grad_cam, theirs)(network, [network.blocks[-1].norm1], reshape_transform=_tokens) as them:
        them(_images(), [ClassifierOutputTarget(int(c)) for c in TARGET])
        activations, gradients = (a[0].numpy() for a in (
            them.activations_and_grads.activations, them.activations_and_grads.gradients
        ))  # fmt: skip
        raw = them.get_cam_image(_images(), None, None, activations, gradients, False)
    cam = gaze.look(network, _images(), TARGET, method=method).cam
    assert cam.shape == (4, 4, 4) and cam.amax() > 0.99
    torch.testing.assert_close(cam, normalize_cam(torch.from_numpy(raw).relu()), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("layer", [None, "2"])
def test_what_works_in_place_behind_the_layer_changes_nothing(layer):
    assert isinstance(layer, str) or gaze.backbones.looking.find_target(_net(), (64, 64), None).layer == "3"
    inplace, plain = (gaze.look(_net(inplace=way).eval(), _images(), TARGET, layer) for way in (True, False))
    assert torch.equal(inplace.cam, plain.cam) and torch.equal(inplace.logits, plain.logits)
    attribution = captum.attr.LayerGradCam(net := _net(inplace=False).eval(), net[int(layer or 3)])
    expected = attribution.attribute(_images(), TARGET, relu_attributions=True)[:, 0].detach()
    torch.testing.assert_close(inplace.cam, normalize_cam(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (37, 90)])
def test_images_may_be_of_any_proportions_and_channels(size):
    network = _net(channels=2).eval()
    attribution, x = captum.attr.LayerGradCam(network, network[2]), _images(2, *size)
    expected = attribution.attribute(x, TARGET, relu_attributions=True)
    cam = gaze.look(network, x, TARGET, "2").cam
    torch.testing.assert_close(cam, normalize_cam(expected[:, 0].detach()), rtol=1e-4, atol=1e-5)
    vit = timm.create_model("test_vit", num_classes=K, img_size=(32, 64)).eval()
    assert gaze.look(vit, _images(3, 32, 64)).cam.shape == (4, 2, 4)


def test_without_a_target_the_predicted_class_is_explained():
    for network in (resnet18(num_classes=K).eval(), build_backbone("level2", K, 3).eval()):
        predicted = network(_images()).argmax(1)
        a, b = gaze.look(network, _images()), gaze.look(network, _images(), predicted)
        assert torch.equal(a.cam, b.cam) and torch.equal(a.logits, b.logits)


# ---- modes


@pytest.mark.parametrize("make", [lambda: resnet18(num_classes=K), _vit, lambda: build_backbone("level4", K, 3)],
                         ids=["resnet18", "vit", "level4"])  # fmt: skip
def test_every_mode_gives_the_same(make):
    network = make().eval()
    expected = gaze.look(network, _images(), TARGET)
    with torch.no_grad():
        found = [gaze.look(network, _images(), TARGET)]
    with torch.inference_mode():
        found += [gaze.look(network, _images().clone(), TARGET.clone())]
        assert torch.is_inference_mode_enabled()
    kept = gaze.look(network, _images(), TARGET, create_graph=True)
    assert kept.cam.requires_grad and kept.logits.requires_grad
    for cam in [*(look.cam for look in found), kept.cam]:
        torch.testing.assert_close(cam, expected.cam, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = gaze.look(network, _images(), TARGET)
        assert torch.is_autocast_enabled("cpu")
        trained = gaze.look(network.train(), _images(), TARGET)
    assert half.cam.dtype == half.logits.dtype == trained.cam.dtype == torch.float32
    torch.testing.assert_close(half.logits, expected.logits, rtol=0.1, atol=0.1)
    (cross_entropy(trained.logits, TARGET) + trained.cam.square().mean()).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)
    with torch.no_grad():
        assert not gaze.look(network, _images(), TARGET).cam.requires_grad  # in training mode, too


def test_weights_of_another_type_get_images_of_theirs():
    network, expected = _net().eval(), gaze.look(_net().eval(), _images(), TARGET)
    for dtype, tolerance in ((torch.float64, 1e-4), (torch.bfloat16, 0.2)):
        logits, cam = gaze.look(network.to(dtype), _images(), TARGET, "2")
        assert logits.dtype == cam.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(logits.float(), expected.logits, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck_of_a_map_in_training(method):
    network, x = _net(nn.Tanh).double().train(), _images(3, 12, 12, torch.float64)
    assert gaze.look(network, x, TARGET).cam.requires_grad
    weight = network[2].weight
    start = weight.detach().clone()

    class Moved(nn.Module):
        def __init__(self, change: Tensor) -> None:
            super().__init__()
            self.network, self.change = network, change

        def forward(self, x: Tensor) -> Tensor:
            return torch.func.functional_call(self.network, {"2.weight": start + self.change}, (x,))

    def cam(change: Tensor) -> Tensor:
        return gaze.look(Moved(change), x, TARGET, "network.3", method).cam

    zero = torch.zeros_like(start).requires_grad_()
    assert torch.autograd.gradcheck(cam, (zero,), fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("second_order", [True, False])
def test_a_frozen_body_trains_its_head(second_order):
    network = _net().train()
    network[:4].requires_grad_(False)
    logits, cam = gaze.look(network, _images(), TARGET, create_graph=second_order)
    (cross_entropy(logits, TARGET) + (cam.sum() if second_order else 0)).backward()
    assert network[-1].weight.grad is not None and network[0].weight.grad is None


# ---- the levels' closed form


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("size", [32, 38])  # 38: maps with a last row that no pooling window covers
@pytest.mark.parametrize("method", ["grad_cam", "cam"])
@pytest.mark.parametrize("name", LEVELS)
def test_closed_form_is_autograds(name, method, size, second_order, train, monkeypatch):
    """One draw of dropout and batch statistics; the plain way has the same head as a bare Sequential."""
    monkeypatch.setattr(gaze.cam.methods, "_average_pool", lambda *args: None)
    if (name, method) == ("level1", "cam"):
        return  # its average pool reads another grid
    torch.manual_seed(3)
    network = build_backbone(name, K).double().train(train)
    image, weight = _images(1, size, size, torch.float64), torch.rand(4, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        network.head[-1].weight += 0.02  # leaves no map of an untrained network empty
    plain = SplitBackbone(network.features, nn.Sequential(*network.head)).train(train)
    if (name, method) == ("level2", "cam"):  # which looks behind the ReLU
        plain = SplitBackbone(nn.Sequential(network.features, network.head[0]), nn.Sequential(*network.head[1:]))
        plain.train(train)
    found = []
    for way in (network, plain):
        torch.manual_seed(11)
        network.zero_grad()
        create_graph = second_order if train else True
        logits, cam = gaze.look(way, image, TARGET, method=method, create_graph=create_graph)
        (cross_entropy(logits, TARGET) + (weight * cam.square()).sum()).backward()
        found.append((logits.detach(), cam.detach(), [p.grad.clone() for p in network.parameters()]))
    (logits, cam, gradients), (other_logits, other_cam, other_gradients) = found
    torch.testing.assert_close(logits, other_logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cam, other_cam, rtol=1e-9, atol=1e-9)
    assert cam.amax() > 0
    for a, b in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", ["training", "first order", "evaluation", "frozen body"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "timm"])
def test_a_pool_and_what_follows_it_have_a_closed_form_in_any_network(name, mode, monkeypatch):
    """With dropout, batch statistics and a hook that changes what the pool gives: all as autograd has it."""
    torch.manual_seed(0)
    make = {"timm": lambda: timm.create_model("test_efficientnet", num_classes=K, drop_rate=0.3)}
    network = make.get(name, lambda: torchvision.models.get_model(name, num_classes=K))().double()
    network.training = mode != "evaluation"  # of itself alone: batch statistics scale its maps
    pool = network.global_pool if name == "timm" else network.avgpool
    pool.register_forward_hook(lambda module, args, out: out.square())
    if mode == "frozen body":
        network.requires_grad_(False)
        [m for m in network.modules() if isinstance(m, nn.Linear)][-1].requires_grad_(True)
    image, values, found, find = _images(3, 96, 96, torch.float64)[:2], [], [], gaze.cam.methods._average_pool
    for way in (lambda *args: found.append(find(*args)) or found[-1], lambda *args: None):
        monkeypatch.setattr(gaze.cam.methods, "_average_pool", way)
        torch.manual_seed(11)
        network.zero_grad()
        logits, cam = gaze.look(network, image, TARGET[1:3], create_graph=False if mode == "first order" else None)
        assert cam.amax() > 0.99
        if mode != "evaluation":
            (cross_entropy(logits, TARGET[1:3]) + (cam.square() * torch.rand_like(cam)).sum()).backward()
        values.append([logits, cam, *(p.grad for p in network.parameters() if p.grad is not None)])
    assert found[0] is not None
    for a, b in zip(*values, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", LEVELS)
def test_alpha_is_differentiated_only_where_asked(name):
    network = build_backbone(name, K, 3).train()
    weight, slopes = network.head[-1].weight, []
    for create_graph in (None, True, False):
        torch.manual_seed(1)
        cam = gaze.look(network, _images(), TARGET, create_graph=create_graph).cam
        slopes.append(torch.autograd.grad(cam.square().sum() + 0 * weight.sum(), weight)[0])
    assert torch.equal(slopes[0], slopes[1]) and slopes[0].abs().max() > 0 == slopes[2].abs().max()


@pytest.mark.parametrize("channels_last", [True, False])
def test_parts_and_memory_order_change_nothing(channels_last, monkeypatch):
    network = build_backbone("level2", K, 3).eval()
    network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    whole = gaze.look(network, _images(), TARGET)
    monkeypatch.setattr(gaze.backbones.looking, "CACHE", 1)  # image by image
    for a, b in zip(whole, gaze.look(network, _images(), TARGET), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    network.head = nn.Sequential(*network.head)
    assert not isinstance(network.head, PooledHead)
    for a, b in zip(whole, gaze.look(network, _images(), TARGET), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---- what is left of it


def test_a_layer_is_found_once_and_leaves_everything_as_it_was(monkeypatch):
    calls, find = [], gaze.backbones.looking.find_target
    monkeypatch.setattr(gaze.backbones.looking, "find_target", lambda *args: calls.append(args[1:]) or find(*args))
    network = _net().train()
    network[1].eval()  # frozen statistics
    statistics, state = network[1].running_mean.clone(), torch.get_rng_state()
    for _ in range(3):
        gaze.look(network, _images(), TARGET)
    assert calls == [((64, 64), None, 3)]
    gaze.look(network, _images(3, 48, 48), TARGET)
    gaze.look(network, _images(), TARGET, "0")
    assert len(calls) == 3
    assert network.training and not network[1].training and torch.equal(statistics, network[1].running_mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())
    calls.clear()
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 3, 3), nn.Linear(3, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.body(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "layer", "method", "words"),
    [
        (_net(), "4.conv", "grad_cam", "layer=4.conv: there is no such layer.*2 .29x28."),
        (_net(), None, "gradcam", "gaze.method=gradcam is unknown.*Did you mean grad_cam"),
        (Twice(), "body", "grad_cam", "layer=body runs 2 times"),
        (nn.Sequential(nn.Conv2d(3, K, 3)), None, "grad_cam", "does not give one score per image and class"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 62, K)), None, "grad_cam", "No layer .* 2x2 or more on 64x62"),
    ],
)
def test_what_cannot_be_looked_at_is_said(network, layer, method, words):
    with pytest.raises(ConfigError, match=words):
        gaze.look(network, _images(3, 64, 62), TARGET, layer, method)
    assert all(not m._forward_hooks for m in network.modules())


@pytest.mark.slow
def test_a_network_compiled_as_a_whole_is_refused():
    network = _net()
    for compiled in (torch.compile(network), network):
        network.compile()
        with pytest.raises(ConfigError, match=r"as a whole .* may be compiled, such as network\.layer1\.compile"):
            gaze.look(compiled, _images(3, 64, 62), TARGET)
    network = _net()
    expected = gaze.look(network, _images(3, 64, 62), TARGET, "2").cam
    network[0].compile(backend="aot_eager")
    torch.testing.assert_close(gaze.look(network, _images(3, 64, 62), TARGET, "2").cam, expected)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"one class per image .* \(4, 3, 64, 64\) and \(3,\)"):
        gaze.look(_net(), _images(), TARGET[:3])


def test_in_training_gradients_reach_the_body_in_its_memory_order():
    """One in another order, as a part of a tensor has it, would be rounded otherwise, and each layer would turn it."""
    network, orders = build_backbone("level2", K, 3).to(memory_format=torch.channels_last).train(), []
    network.features.register_forward_hook(lambda module, args, out: (out.register_hook(orders.append), None)[1])
    logits, cam = gaze.look(network, _images(), TARGET)
    (cross_entropy(logits, TARGET) + cam.square().sum()).backward()
    assert orders[0].is_contiguous(memory_format=torch.channels_last) and not orders[0].is_contiguous()
