"""The CAMs of gaze.cam.methods: against pytorch-grad-cam and captum, a literal loop, identities, finite differences."""

import pytest
import pytorch_grad_cam
import torch
import torch.nn.functional as F
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import gaze.cam.methods
from gaze.cam.methods import grad_cam, grad_cam_pp, hires_cam, layer_cam, normalize_cam
from gaze.choices import METHODS

K, TARGET = 3, [0, 2, 1]
OTHERS = [name for name in METHODS if name != "grad_cam"]


def _net(pooled: bool = False) -> nn.Sequential:
    """A float64 CNN whose maps are 5x7: features end in a ReLU; the head has gradients of both signs."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.running_mean, std=0.2)
    features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
    gap = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    head = [*gap, nn.Linear(6, K)] if pooled else [nn.Conv2d(6, 4, 3), nn.Tanh(), *gap, nn.Linear(4, K)]
    return nn.Sequential(features, nn.Sequential(*head)).double().eval()


def _images() -> Tensor:
    return torch.randn(3, 1, 11, 15, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _ours(name: str, net: nn.Sequential, create_graph: bool = True) -> Tensor:
    features = net[0](_images())
    return METHODS[name].function(features, _score(net[1], features), create_graph=create_graph)


def _score(head: nn.Module, features: Tensor) -> Tensor:
    """Of the classes TARGET (B,)."""
    return head(features).gather(1, torch.tensor(TARGET)[:, None]).squeeze(1)


def _gradients(name: str, net: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Features and gradient (B, M, H, W), by NumPy's readers."""
    features = net[0](_images()).detach().requires_grad_()
    return features.detach(), torch.autograd.grad(_score(net[1], features).sum(), features)[0]


# ---- against implementations that are not ours


def test_a_map_is_that_of_pytorch_grad_cam():
    for name, theirs in [
        ("grad_cam", "GradCAM"),
        ("hires_cam", "HiResCAM"),
        ("grad_cam_pp", "GradCAMPlusPlus"),
        ("layer_cam", "LayerCAM"),
    ]:
        for pooled in [False, True]:
            net = _net(pooled)
            with torch.no_grad():
                for parameter in net[1][-1].parameters():
                    parameter *= 1000  # its Grad-CAM++ adds 1e-6 to a denominator of g^2: small beside such gradients
            with getattr(pytorch_grad_cam, theirs)(net, [net[0]]) as method:
                extractor = method.activations_and_grads
                _score(nn.Identity(), extractor(_images())).sum().backward()
                activations, gradients = extractor.activations[0].numpy(), extractor.gradients[0].numpy()
                raw = method.get_cam_image(
                    _images(), net[0], TARGET, activations, gradients, False
                )  # neither ReLU nor scaling yet
            ours = _ours(name, net).detach()
            tolerance = 2e-4 if name == "grad_cam_pp" else 1e-10
            torch.testing.assert_close(
                ours, torch.from_numpy(raw).relu(), rtol=tolerance, atol=tolerance * ours.max().item()
            )
            assert (ours > 0).any() and (gradients < 0).any()


def test_cam_is_the_linear_layer_as_a_convolution():
    net = _net(pooled=True)
    scores = nn.functional.conv2d(net[0](_images()), net[1][-1].weight[:, :, None, None])  # (B, K, H, W)
    expected = scores[torch.arange(3), TARGET].relu()
    torch.testing.assert_close(_ours("cam", net), expected)
    assert (expected > 0).any((1, 2)).all()


def test_hires_cam_and_its_gradients_are_captums():
    net = _net()
    ours = _ours("hires_cam", net)
    attribution = LayerGradientXActivation(net, net[0]).attribute(
        _images(), torch.tensor(TARGET), grad_kwargs={"create_graph": True}
    )
    theirs = attribution.sum(1).relu()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    gradients = [torch.autograd.grad(m.square().sum(), list(net.parameters())[:-1]) for m in (ours, theirs)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_grad_cam_pp_is_its_formula_read_cell_by_cell():
    net = _net()
    features, gradient = _gradients("grad_cam_pp", net)
    expected = torch.zeros(3, 5, 7, dtype=torch.float64)
    for b, (a, g) in enumerate(zip(features, gradient, strict=True)):
        for k in range(len(a)):
            weight = 0.0
            for i in range(5):
                for j in range(7):
                    below = 2 * g[k, i, j] ** 2 + g[k, i, j] ** 3 * a[k].sum()
                    weight += (g[k, i, j] ** 2 / below if below else 0) * max(g[k, i, j], 0)
            expected[b] += weight * a[k]
    torch.testing.assert_close(_ours("grad_cam_pp", net).detach(), expected.relu(), rtol=1e-10, atol=1e-14)


# ---- identities


def test_behind_a_global_average_pool_the_methods_are_one_up_to_a_factor():
    net = _net(pooled=True)
    maps = {name: _ours(name, net).detach() for name in METHODS}
    torch.testing.assert_close(maps["cam"], 35 * maps["grad_cam"])
    torch.testing.assert_close(maps["hires_cam"], maps["grad_cam"])
    with torch.no_grad():
        net[1][-1].weight.abs_()
    torch.testing.assert_close(_ours("layer_cam", net), _ours("hires_cam", net))  # no gradient is negative


def test_a_method_of_its_own_is_no_other():
    net = _net()
    maps = [normalize_cam(METHODS[name].function(f := net[0](_images()), _score(net[1], f), create_graph=False))
            for name in METHODS if name != "cam"]  # fmt: skip
    assert all((a - b).abs().max() > 0.01 for i, a in enumerate(maps) for b in maps[:i])


def test_a_score_that_is_exp_of_itself_changes_no_grad_cam_pp():
    """The factor exp(y) that is left out is one that min-max scaling takes out."""
    net = _net(pooled=True)
    features = net[0](_images()).detach().requires_grad_()
    score = _score(net[1], features)
    (g,) = torch.autograd.grad(score.sum(), features)
    factor = score.exp()[:, None, None, None]
    second, third = factor * g**2, factor * g**3
    alpha = second / (2 * second + third * features.sum((2, 3), keepdim=True))
    full = ((alpha * (factor * g).relu()).sum((2, 3), keepdim=True) * features).sum(1).relu()
    ours = grad_cam_pp(features, _score(net[1], features), create_graph=False)
    torch.testing.assert_close(normalize_cam(full, 0), normalize_cam(ours, 0))


# ---- derivatives


def _of_features_and_weight(name: str):
    """The map as a function of the features and of the head's weights, smooth but for its ReLUs."""

    def function(features: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("bmhw,mn->bnhw", features, weight)).mean((2, 3))
        return METHODS[name].function(features, (hidden @ out).squeeze(1), create_graph=True)

    g = torch.Generator().manual_seed(3)
    shapes = ((2, 2, 2, 3), (2, 3), (3, 1))
    return function, [torch.randn(*s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("name", METHODS)
def test_a_map_has_the_derivatives_of_finite_differences(name):
    function, inputs = _of_features_and_weight(name)
    assert (function(*inputs) > 0).any()
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


# ---- behind a global average pool

AVERAGE_POOLS = {
    "module": nn.AdaptiveAvgPool2d(1),
    "mean": lambda x: x.mean((2, 3)),
    "kept": lambda x: x.mean([-1, -2], keepdim=True),
    "cloned": lambda x: F.adaptive_avg_pool2d(x.clone(), 1),
}
OTHER_READERS = {  # of the features A
    "squared": lambda x: (x * x).mean((2, 3)),
    "twice": lambda x: x.mean((2, 3)) + x.mean((2, 3)).square(),
    "with the largest": lambda x: x.mean((2, 3)) + x.amax((2, 3)),
    "cloned and read": lambda x: F.adaptive_avg_pool2d(y := x.clone(), 1).flatten(1) + y[:, :, 0, 0],
    "rows": lambda x: x.mean(3).square().sum(2),
    "images": lambda x: x.mean((0, 2, 3)).expand(len(x), -1),
    "everything": lambda x: x.mean().expand(len(x), 2),
    "three axes": lambda x: x.mean((1, 2, 3))[:, None].expand(-1, 2),
    "the other half": lambda x: torch.cat([x, x.square()], 1).chunk(2, 1)[1].mean((2, 3)),
}


def _pooled(pool, name: str, channels_last: bool = False):
    """Like :func:`_of_features_and_weight`, with a head of two layers behind the pool."""

    def function(features: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        whole = features * 1
        score = (torch.tanh(pool(whole).flatten(1) @ weight) @ out).squeeze(1)
        return METHODS[name].function(whole, score, create_graph=True)

    g = torch.Generator().manual_seed(3)
    inputs = [torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, 2, 2, 3), (2, 3), (3, 1))]
    order = torch.channels_last if channels_last else torch.contiguous_format
    return function, [inputs[0].to(memory_format=order).requires_grad_(), *(i.requires_grad_() for i in inputs[1:])]


def _recognised(monkeypatch) -> list[bool]:
    found, find = [], gaze.cam.methods._average_pool
    monkeypatch.setattr(
        gaze.cam.methods, "_average_pool", lambda *args: (pool := find(*args), found.append(pool is not None))[0]
    )
    return found


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("pool", [*AVERAGE_POOLS, *OTHER_READERS])
def test_the_closed_form_is_taken_where_all_that_is_read_is_the_mean_and_is_autograds(pool, name, monkeypatch):
    for channels_last in (False, True):
        function, inputs = _pooled({**AVERAGE_POOLS, **OTHER_READERS}[pool], name, channels_last)
        values = []
        for closed in (True, False):
            with monkeypatch.context() as patch:
                found = _recognised(patch)
                if not closed:
                    patch.setattr(gaze.cam.methods, "_average_pool", lambda *args: None)
                cam = function(*inputs)
                weight = torch.arange(1.0, 13, dtype=cam.dtype).view_as(cam)
                values.append([cam, *torch.autograd.grad((cam.square() * weight).sum(), inputs)])
                assert not closed or found == [pool in AVERAGE_POOLS]
        for a, b in zip(*values, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_pp"])  # the others' weights of the map are like one of these
def test_the_closed_form_has_the_derivatives_of_finite_differences(name, monkeypatch):
    found, (function, inputs) = _recognised(monkeypatch), _pooled(AVERAGE_POOLS["module"], name)
    assert (function(*inputs) > 0).any()
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)
    assert all(found)


def test_without_create_graph_the_weights_are_constants():
    """The map then is linear in A between the kinks of its ReLU: A times its gradient is the map itself."""
    for name in METHODS:
        net = _net(pooled=name == "cam")
        features = net[0](_images()).detach().requires_grad_()
        for parameter in net.parameters():
            parameter.requires_grad_()
        whole = features * 1  # part of a larger graph, as in training
        cam = METHODS[name].function(whole, _score(net[1], whole), create_graph=False)
        gradients = torch.autograd.grad(cam.sum(), [features, *net[1].parameters()], allow_unused=True)
        assert all(gradient is None for gradient in gradients[1:])
        torch.testing.assert_close((gradients[0] * features).sum(), cam.sum())


def test_empty_and_unsupported_maps_are_zero_with_finite_gradients():
    for name in METHODS:
        for create_graph in [True, False]:
            weight = torch.tensor([[-1.0], [-2.0]], requires_grad=True)
            for features in (torch.zeros(1, 2, 4, 5), torch.rand(1, 2, 4, 5)):
                features.requires_grad_()
                whole = features * 1
                score = (whole.mean((2, 3)) @ weight).squeeze(1)
                cam = METHODS[name].function(whole, score, create_graph=create_graph)
                assert not cam.any()
                (gradient,) = torch.autograd.grad(normalize_cam(cam).sum(), features)
                assert gradient.isfinite().all()


def test_maps_of_a_batch_do_not_depend_on_each_other_or_on_memory_order():
    for name in METHODS:
        net = _net()
        features = net[0](_images()).detach()
        maps = []
        for part in (features, features.contiguous(memory_format=torch.channels_last)):
            part = part.clone().requires_grad_()
            maps.append(METHODS[name].function(part, _score(net[1], part), create_graph=False))
        torch.testing.assert_close(*maps)
        one = features[1:2].clone().requires_grad_()
        alone = METHODS[name].function(one, net[1](one)[:, TARGET[1]], create_graph=False)
        torch.testing.assert_close(alone, maps[0][1:2])


def test_grad_cam_pp_of_features_of_both_signs_stays_finite():
    """2 + g sum A would pass through 0 where sum A is negative: no channel may blow up there."""
    features = torch.stack([-torch.ones(9, 2, 2), torch.rand(9, 2, 2)], 1).requires_grad_()
    slope = torch.linspace(0.1, 0.9, 9).view(-1, 1, 1, 1)  # g sum A = -4 slope, -2 among them
    whole = features * 1
    cam = grad_cam_pp(whole, (whole * slope).sum((1, 2, 3)), create_graph=True)
    (gradient,) = torch.autograd.grad(cam.sum(), features)
    assert cam.isfinite().all() and gradient.isfinite().all() and cam.max() < 4


def test_wrong_shapes_are_refused():
    for function in [grad_cam, hires_cam, layer_cam, grad_cam_pp]:
        with pytest.raises(ValueError, match="one score per image"):
            function(torch.ones(2, 3, 4, 4, requires_grad=True), torch.ones(2, 3), create_graph=False)


# ---- what cannot be differentiated twice, or at all


class Attention(nn.Module):
    """Scores of the cells of a map through one attention, by the kernel that PyTorch chooses."""

    def __init__(self, masked: bool, causal: bool) -> None:
        super().__init__()
        self.qkv, self.fc, self.causal = nn.Linear(6, 3 * 8), nn.Linear(8, K), causal
        self.mask = torch.linspace(-1, 1, 35 * 35, dtype=torch.float64).view(35, 35) if masked else None

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.qkv(features.flatten(2).transpose(1, 2)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(*tokens, attn_mask=self.mask, is_causal=self.causal, scale=0.7)
        return self.fc(seen.transpose(1, 2).flatten(2).tanh().mean(1))


def _names(node, seen=None) -> set[str]:
    seen = set() if seen is None else seen
    if node is not None and node not in seen:
        seen.add(node)
        for before, _ in node.next_functions:
            _names(before, seen)
    return {one.name() for one in seen}


@pytest.mark.parametrize(("masked", "causal", "frozen"), [
    (False, False, False), (True, False, False), (False, True, False), (False, False, True)
])  # fmt: skip
@pytest.mark.parametrize("method", METHODS)
def test_fused_attention_is_differentiated_twice_like_its_plain_formula(masked, causal, frozen, method):
    torch.manual_seed(0)
    body, head, found = _net()[0], Attention(masked, causal).double(), []
    head.qkv.requires_grad_(not frozen)
    for kernels in ([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], [SDPBackend.MATH]):
        with sdpa_kernel(kernels):
            features = body(_images())
            score = _score(head, features)
        assert ("ScaledDotProduct" in " ".join(_names(score.grad_fn))) == (len(kernels) == 2)
        cam = METHODS[method].function(features, score, create_graph=True)
        weights = [p for p in [*body.parameters(), *head.parameters()] if p.requires_grad]
        # An offset of the last layer is in no map.
        slopes = torch.autograd.grad(score.sum() + cam.square().sum(), weights)
        found.append([cam, *slopes])
    assert found[0][0].amax() > 0
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_what_follows_the_features_may_not_be_compiled():
    body, head = _net()
    head = torch.compile(head, backend="aot_eager")
    features = body(_images())
    with pytest.raises(RuntimeError, match=r"compiled by torch\.compile.*Compile what comes before"):
        grad_cam(features, _score(head, features), create_graph=True)
    features = torch.compile(body, backend="aot_eager")(_images())  # which may
    cam = grad_cam(features, _score(_net()[1], features), create_graph=True)
    torch.testing.assert_close(cam, _ours("grad_cam", _net()))
    assert torch.autograd.grad(cam.square().sum(), body[0].weight)[0].any()


def test_features_of_a_frozen_network_say_how_to_begin_a_graph():
    body, head = _net().requires_grad_(False)
    features = body(_images())
    with pytest.raises(RuntimeError, match=r"behind a frozen network.*requires_grad_\(\), or call gaze.look"):
        grad_cam(features, _score(head, features), create_graph=False)
    features = body(_images()).detach().requires_grad_()
    torch.testing.assert_close(grad_cam(features, _score(head, features), create_graph=True), _ours("grad_cam", _net()))
