"""gaze.cam.probe: layers whose maps would be zero or scrambled, and layers that only look like it."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

import gaze
import gaze.backbones.looking
from gaze.cam.hook import captured
from gaze.cam.layers import Target, find_target
from gaze.cam.probe import check_target, find_unread
from gaze.errors import ConfigError

K, SIZE = 3, 64


def _vit(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=K, img_size=SIZE, **kwargs)


class Sorted(nn.Module):
    """Tokens of 4x4 pixels, which are sorted into windows and back, or nothing of the kind: ``order`` says which."""

    def __init__(self, order: str, grid: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        place, half = torch.arange(grid**2).view(grid, grid), grid // 2
        orders = {
            "rows": lambda: place,
            "windows": lambda: place.view(half, 2, half, 2).permute(0, 2, 1, 3),
            "columns": lambda: place.T,
            "mirrored": lambda: place.flip(1),
        }
        self.register_buffer("order", orders[order]().reshape(-1))
        self.patches, self.inner, self.outer = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, K)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        inner = self.inner(tokens[:, self.order])
        return self.head(self.outer(inner[:, self.order.argsort()]).mean(1))


def _check(network: nn.Module, layer: str, size: int = SIZE) -> None:
    check_target(network, find_target(network, (size, size), layer), (size, size))


# ---- gradients


def test_a_layer_without_gradient_is_refused_and_another_is_named():
    network = _vit()
    with captured(network, Target("blocks.5", "BNC", 1, (4, 4)), False) as found:
        score = network(torch.randn(2, 3, SIZE, SIZE)).sum()
    assert not torch.autograd.grad(score, found[0])[0].any()  # what is to be told
    with pytest.raises(ConfigError, match=r"layer=blocks\.5 has no gradient: .* such as blocks\.5\.norm1\."):
        _check(network, "blocks.5")
    _check(network, "blocks.4")
    _check(_vit(global_pool="avg", class_token=False), "blocks.5")
    with pytest.raises(ConfigError, match=r"layer=blocks\.5 has no gradient"):
        gaze.look(network, torch.randn(2, 3, SIZE, SIZE), layer="blocks.5")


def test_a_branch_that_the_scores_do_not_depend_on_is_refused():
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.aside, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, K)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            self.aside(x)
            return self.fc(x.mean((2, 3)))

    with pytest.raises(ConfigError, match="layer=aside has no gradient"):
        _check(Branch(), "aside")
    _check(Branch(), "body")


@pytest.mark.parametrize("frozen", [False, True])
def test_a_head_of_zeros_is_no_fault_of_the_layer(frozen):
    network = resnet18(num_classes=K).requires_grad_(not frozen).train()
    nn.init.zeros_(network.fc.weight)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    _check(network, "layer3")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and network.training
    assert all(p.grad is None for p in network.parameters())


# ---- order


@pytest.mark.parametrize("order", ["windows", "columns", "mirrored"])
@pytest.mark.parametrize("size", [16, SIZE])
def test_cells_in_another_order_are_refused(order, size):
    network = Sorted(order, size // 4)
    with pytest.raises(ConfigError, match="layer=inner does not hold its cells in the order of the image"):
        _check(network, "inner", size)
    _check(network, "outer", size)


@pytest.mark.parametrize("size", [8, 16, 36, SIZE])
def test_cells_in_the_order_of_the_image_are_not(size):
    _check(Sorted("rows", size // 4), "inner", size)


@pytest.mark.parametrize("layer", ["blocks.0.attn.proj", "blocks.0.mlp", "blocks.4", "norm_pre"])
def test_a_layer_where_every_tile_moves_every_cell_is_no_scramble(layer):
    _check(_vit(), layer)


ORDERED = {
    "levit_128s": "stages.0.blocks.0.attn", "swin_tiny_patch4_window7_224": "layers.1.blocks.1.mlp",
    "xcit_nano_12_p16_224": "blocks.3", "gmlp_ti16_224": "blocks.3", "twins_pcpvt_small": "blocks.0.0.mlp",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERED)
def test_networks_that_keep_the_order(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=2)
    _check(network, ORDERED[name], 224)


@pytest.mark.slow
def test_hieras_inner_blocks_are_told_from_its_last():
    torch.manual_seed(0)
    network = timm.create_model("hiera_tiny_224", num_classes=2, img_size=SIZE)
    for layer in ("blocks.0", "blocks.1.attn.proj", "blocks.3.mlp"):
        with pytest.raises(ConfigError, match=rf"layer={layer} .* order of the image, .* such as"):
            _check(network, layer)
    check_target(network, find_target(network, (SIZE, SIZE), None), (SIZE, SIZE))


# ---- what no score reads


class Summed(nn.Module):
    """A vision transformer whose score has a little of the last tokens as well."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = _vit()
        self.num_prefix_tokens = 1

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.vit.forward_features(x)
        return self.vit.forward_head(tokens) + 0.01 * tokens[:, 5, :K]


def _deit() -> nn.Module:
    return timm.create_model("deit_tiny_distilled_patch16_224", num_classes=K, img_size=SIZE, depth=2)


def _torchvisions() -> nn.Module:
    return VisionTransformer(SIZE, 16, 3, 2, 48, 96, num_classes=K)


@pytest.mark.parametrize(
    ("make", "unread"),
    [
        (_vit, "blocks.5.mlp"),
        (_deit, "blocks.1.mlp"),  # two prefix tokens, both classified
        (_torchvisions, "encoder.layers.encoder_layer_2.mlp"),
        (lambda: _vit(global_pool="avg"), None),
        (lambda: timm.create_model("test_vit2", num_classes=K, img_size=SIZE), None),
        (Summed, None),
    ],
    ids=["vit", "deit", "torchvision", "average", "test_vit2", "summed"],
)
def test_the_last_mlp_works_for_the_tokens_that_are_classified_and_all_is_as_autograd_has_it(make, unread, monkeypatch):
    torch.manual_seed(0)
    network, images = make().double(), torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    for weight in network.parameters():  # a new head is zero
        weight.data += 0.02 * torch.randn_like(weight)
    state, target = torch.get_rng_state(), find_target(network, (SIZE, SIZE), None)
    assert find_unread(network, target, (SIZE, SIZE)) == unread
    assert torch.equal(torch.get_rng_state(), state) and network.training
    values: list[list[Tensor]] = []
    for way in (gaze.backbones.looking.find_unread, lambda *args: None):
        monkeypatch.setattr(gaze.backbones.looking, "find_unread", way)
        gaze.backbones.looking._unread.clear()
        network.zero_grad()
        logits, cam = gaze.look(network, images, torch.tensor([0, 1]))
        assert cam.amax() > 0.99
        (logits.square().sum() + (cam.square() * torch.arange(4)).sum()).backward()
        values.append([logits, cam, *(p.grad for p in network.parameters() if p.grad is not None)])
    for a, b in zip(*values, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(values[0][0], network(images))


def test_an_mlp_with_hooks_of_somebody_sees_all_tokens():
    network, shapes = _vit(), []
    images = torch.randn(2, 3, SIZE, SIZE)
    gaze.look(network, images)
    network.blocks[5].mlp.fc1.register_forward_hook(lambda module, args, output: shapes.append(args[0].shape[1]))
    gaze.look(network, images)
    assert shapes == [17]
