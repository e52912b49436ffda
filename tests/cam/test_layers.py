"""gaze.cam.layers: which layers have a map, in which order its axes are, and a hook that changes nothing else."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from gaze.cam.hook import captured
from gaze.cam.layers import Target, find_target
from gaze.cam.methods import grad_cam
from gaze.errors import ConfigError

K, SIZE = 3, 16


class Skip(nn.Module):
    """A head that needs more than the layer's output: it looks at earlier features and at the image as well."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1))
        self.relu = nn.ReLU(inplace)
        self.fc = nn.Linear(12 + 3, K)

    def forward(self, x: Tensor) -> Tensor:
        early = self.stem(x).tanh()
        late = self.body(early)
        late = self.relu(late)
        both = late * early[:, :, ::2, ::2].sigmoid()
        return self.fc(torch.cat([late.square().mean((2, 3)), both.mean((2, 3)), x.mean((2, 3))], 1))

    def by_hand(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map and the scores, no hook and nothing in place."""
        early = self.stem(x).tanh()
        a = self.body(early)
        late = a.relu()
        both = late * early[:, :, ::2, ::2].sigmoid()
        return a, self.fc(torch.cat([late.square().mean((2, 3)), both.mean((2, 3)), x.mean((2, 3))], 1))


class Rows(nn.Module):
    """Channels last, as in Swin."""

    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Tokens(nn.Module):
    """A vision transformer of one block whose class token alone is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.num_prefix_tokens = 2
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, 2, 8))
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, K)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.first.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)], 1)
        normed = self.norm1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False)[0]
        return self.fc(self.norm2(tokens)[:, 0])


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Odd(nn.Module):
    """Layers that cannot be looked at, behind one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 2, stride=2)
        self.pool, self.twice, self.idle, self.pair = nn.AdaptiveMaxPool2d(1), nn.ReLU(), nn.ReLU(), Pair()
        self.fc = nn.Linear(6, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pair(self.pool(self.twice(self.twice(self.body(x)))))[0].flatten(1))


def _images(count: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=dtype)


def _cam(network: nn.Module, target: Target, x: Tensor, leaf: bool = False, second: bool = True) -> Tensor:
    with torch.set_grad_enabled(not leaf), captured(network, target, leaf) as found:
        logits = network(x)
    return grad_cam(found[0], logits[:, 1], create_graph=second)


# ---- finding


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Skip(), Target("relu", "BCHW", 0, (8, 8))),
        (Rows(), Target("norm", "BHWC", 0, (4, 4))),
        (Tokens(), Target("norm1", "BNC", 2, (4, 4))),  # norm2's cells have no gradient
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, K)),
         Target("0", "BCHW", 0, (14, 14))),
    ],
    ids=["convolution", "channels last", "tokens", "pooled"],
)  # fmt: skip
def test_the_last_layer_with_a_map_is_found(network, expected):
    assert find_target(network.eval(), (SIZE, SIZE), None) == expected
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize(("network", "layer", "layout"), [
    (nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, K)), "0", "BCHW"),
    (Rows(4), "norm", "BHWC"), (Rows(4), "patches", "BCHW"),
])  # fmt: skip
def test_a_map_with_as_many_channels_as_cells_a_side_is_told_by_a_larger_image(network, layer, layout):
    target = find_target(network.eval(), (SIZE, SIZE), layer)
    assert target.layout == layout


def test_a_token_layer_behind_the_last_attention_can_be_asked_for():
    assert find_target(Tokens().eval(), (SIZE, SIZE), "norm2") == Target("norm2", "BNC", 2, (4, 4))


@pytest.mark.parametrize(("layer", "words"), [
    ("boddy", ["layer=boddy: there is no such layer", "Did you mean body", "body (8x8)"]),
    ("fc", ["layer=fc gives a tensor (2, 3)", "body (8x8)"]),
    ("pool", ["layer=pool has a 1x1 map", "2x2 or more", "dataset.image_size"]),
    ("twice", ["layer=twice runs 2 times", "body (8x8)"]),
    ("idle", ["layer=idle never runs"]),
    ("pair", ["layer=pair gives no tensor"]),
])  # fmt: skip
def test_a_layer_that_cannot_be_looked_at(layer, words):
    network = Odd()
    with pytest.raises(ConfigError) as caught:
        find_target(network.eval(), (SIZE, SIZE), layer)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_network_without_any_map_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, K))
    with pytest.raises(ConfigError, match="No layer of this network has a map of 2x2 or more on 16x16 images"):
        find_target(network, (SIZE, SIZE), None)


# ---- the hook


@pytest.mark.parametrize("leaf", [True, False])
def test_a_head_that_is_no_function_of_one_tensor(leaf):
    network, x = Skip().double(), _images(dtype=torch.float64)
    a, logits = network.by_hand(x)
    expected = grad_cam(a, logits[:, 1], create_graph=True)
    actual = _cam(network, find_target(network, (SIZE, SIZE), "body"), x, leaf)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert actual.amax() > 0


def test_the_gradient_of_the_map_is_that_of_the_graph_without_a_hook():
    network, x = Skip().double(), _images(dtype=torch.float64)
    target = find_target(network, (SIZE, SIZE), "body")
    a, logits = network.by_hand(x)
    found = []
    for cam in (_cam(network, target, x), grad_cam(a, logits[:, 1], create_graph=True)):
        found.append(torch.autograd.grad(cam.square().sum(), list(network.parameters()), allow_unused=True))
    for ours, plain in zip(*found, strict=True):
        assert (ours is None) == (plain is None)
        if plain is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("network", "layer"), [(Skip(), "body"), (Rows(), "norm"), (Tokens(), "norm1")])
def test_gradcheck_of_the_map(network, layer):
    network = network.double().eval()
    target = find_target(network, (SIZE, SIZE), layer)
    weight = network.get_parameter("patches.weight" if hasattr(network, "patches") else "body.1.weight")
    start = weight.detach().clone()
    x = _images(2, torch.float64)

    def linear_cam(change: Tensor) -> Tensor:
        parameters = dict(network.named_parameters())
        name = next(n for n, p in parameters.items() if p is weight)
        with captured(network, target, False) as inside:
            scores = torch.func.functional_call(network, {**parameters, name: start + change}, (x,))
        (grad,) = torch.autograd.grad(scores[:, 1].sum(), inside[0], create_graph=True)
        return (grad.mean((2, 3))[:, :, None, None] * inside[0]).sum(1)  # before the ReLU, whose kink is not smooth

    direction = torch.zeros_like(start).requires_grad_()
    assert torch.autograd.gradcheck(linear_cam, (direction,), fast_mode=True)


@pytest.mark.parametrize("leaf", [True, False])
def test_in_place_activations_do_not_change_the_map(leaf):
    torch.manual_seed(1)
    plain, inplace = Skip(False), Skip(True)
    inplace.load_state_dict(plain.state_dict())
    target, x = find_target(plain, (SIZE, SIZE), "body"), _images()
    maps = []
    for network in (plain, inplace):
        with torch.set_grad_enabled(not leaf), captured(network, target, leaf) as found:
            logits = network(x)
        assert (found[0] < 0).any()  # what the activation would have set to 0
        maps.append((found[0].detach(), logits, grad_cam(found[0], logits[:, 1], create_graph=False)))
    for a, b in zip(*maps, strict=True):
        assert torch.equal(a, b)
    plain_logits = plain(x)
    torch.testing.assert_close(maps[0][1], plain_logits)


def test_a_layer_that_works_in_place_itself_can_be_looked_at():
    network = Skip(True).eval()
    target, x = find_target(network, (SIZE, SIZE), "relu"), _images()
    with captured(network, target, False) as found:
        network(x)
    assert torch.equal(found[0], network.by_hand(x)[0].relu())


@pytest.mark.parametrize(("network", "layer"), [(Rows(), "norm"), (Tokens(), "norm1")])
def test_a_bright_patch_is_where_it_is_in_the_image(network, layer):
    network.eval()
    target = find_target(network, (SIZE, SIZE), layer)
    x = torch.zeros(1, 3, SIZE, SIZE)
    with captured(network, target, False) as found:
        network(x)
        x[:, :, :4, 12:] = torch.randn(3, 4, 4)  # the first row's last cell
        network(x)
    changed = (found[0] - found[1]).abs().sum(1)[0] > 1e-6
    assert changed.nonzero().tolist() == [[0, 3]]


def test_the_graph_of_an_evaluation_begins_at_the_layer():
    network, x = Skip(), _images()
    target, seen = find_target(network, (SIZE, SIZE), "body"), []
    handle = network.stem.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    with torch.no_grad(), captured(network, target, True) as found:
        logits = network(x)
        assert torch.is_grad_enabled()  # from the layer on
    handle.remove()
    assert seen == [False] and found[0].is_leaf and logits.requires_grad and torch.is_grad_enabled()


def test_a_frozen_network_still_has_maps():
    network, x = Skip().requires_grad_(False), _images()
    assert _cam(network, find_target(network, (SIZE, SIZE), "body"), x, second=False).shape == (4, 8, 8)


def test_half_precision_ends_at_the_layer():
    network, x = Skip(), _images()
    target = find_target(network, (SIZE, SIZE), "body")
    with torch.autocast("cpu", torch.bfloat16):
        with captured(network, target, False) as found:
            logits = network(x)
        assert torch.is_autocast_enabled("cpu")
    assert found[0].dtype == logits.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_the_hook_is_gone_after_an_error():
    network = Skip()
    target = find_target(network, (SIZE, SIZE), "body")
    with pytest.raises(RuntimeError), captured(network, target, False):
        network(torch.zeros(1, 7, SIZE, SIZE))
    with pytest.raises(RuntimeError), torch.no_grad(), captured(network, target, True):
        network(_images()).reshape(7)  # fails after the layer ran
    assert all(not module._forward_hooks for module in network.modules()) and torch.is_grad_enabled()


def _living() -> int:
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096


def test_nothing_is_left_behind_in_200_steps():
    network, x = Skip(True), torch.randn(8, 3, 32, 32)
    target = find_target(network, (32, 32), "body")
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    counts, sizes = [], []
    gc.collect()
    gc.disable()  # cycles must not be what frees a graph
    try:
        for step in range(200):
            optimizer.zero_grad()
            with captured(network, target, False) as found:
                logits = network(x)
            cam = grad_cam(found[0], logits[:, 1], create_graph=True)
            (logits.square().mean() + cam.square().mean()).backward()
            optimizer.step()
            _cam(network, target, x, leaf=True, second=False)
            del found, logits, cam
            if step in (20, 199):
                counts.append(_living())
                sizes.append(_resident())
    finally:
        gc.enable()
    assert counts[0] == counts[1]
    assert sizes[1] - sizes[0] < 50 * 8 * 6 * 32 * 32 * 4  # 50 tensors of its size; one left by each step were 180
