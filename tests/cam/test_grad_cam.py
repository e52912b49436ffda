"""gaze.cam.methods against captum, closed forms and finite differences, in float64."""

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from gaze.backbones.levels import LEVELS, SplitBackbone, build_backbone
from gaze.cam.methods import grad_cam, normalize_cam

K = 3
TARGET = torch.tensor([0, 2, 1])


def _backbone(name: str, train: bool = False) -> SplitBackbone:
    """A float64 backbone with BatchNorms off their initial values and a head that leaves no map empty."""
    torch.manual_seed(1)
    backbone = build_backbone(name, K).double()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.1)
    with torch.no_grad():
        backbone.head[-1].weight += 0.05
    return backbone.train(train)


def _images(count: int = 3, size: int = 24) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def _map(backbone: SplitBackbone, images: Tensor, target: Tensor, create_graph: bool = True) -> Tensor:
    features = backbone.forward_features(images)
    score = backbone.forward_head(features).gather(1, target[:, None]).squeeze(1)
    return grad_cam(features, score, create_graph=create_graph)


def _weights_like(cam: Tensor) -> Tensor:
    return torch.rand(cam.shape, generator=torch.Generator().manual_seed(3), dtype=cam.dtype)


# ---- against captum


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", LEVELS)
def test_values_and_all_gradients_equal_captums(name, train):
    backbone, images = _backbone(name, train), _images()
    parameters = dict(backbone.named_parameters())

    torch.manual_seed(4)  # one dropout mask for both
    ours = _map(backbone, images, TARGET)
    torch.manual_seed(4)
    theirs = LayerGradCam(backbone, backbone.features[-1]).attribute(
        images, TARGET, relu_attributions=True, grad_kwargs={"create_graph": True}
    )[:, 0]

    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)
    assert (ours > 0).any((1, 2)).all()

    weights = _weights_like(ours)
    for a, b, key in zip(
        torch.autograd.grad((ours * weights).sum(), parameters.values(), allow_unused=True),
        torch.autograd.grad((theirs * weights).sum(), parameters.values(), allow_unused=True),
        parameters,
        strict=True,
    ):
        assert (a is None) == (b is None), key
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12, msg=lambda m, key=key: f"{key}: {m}")
    head = next(p for key, p in parameters.items() if key.startswith("head") and key.endswith("weight"))
    assert torch.autograd.grad((_map(backbone, images, TARGET) * weights).sum(), head)[0].abs().max() > 0


# ---- against the definition and finite differences


@pytest.mark.parametrize("name", LEVELS)
def test_gradient_to_the_head_is_that_of_finite_differences(name):
    backbone = _backbone(name)
    features = backbone.forward_features(_images()).detach()
    linear = backbone.head[-1]

    def value() -> Tensor:
        leaf = features.clone().requires_grad_()
        score = backbone.forward_head(leaf).gather(1, TARGET[:, None]).squeeze(1)
        cam = normalize_cam(grad_cam(leaf, score, create_graph=True))
        return (cam * _weights_like(cam)).sum()

    (gradient,) = torch.autograd.grad(value(), linear.weight)
    places = [divmod(int(i), linear.in_features) for i in gradient.abs().flatten().topk(5).indices]
    for place in [*places, (0, 0), (1, 3)]:
        numeric, step = 0.0, 1e-6
        for sign in (1, -1):
            with torch.no_grad():
                linear.weight[place] += sign * step
            numeric += sign * value().item() / (2 * step)
            with torch.no_grad():
                linear.weight[place] -= sign * step
        assert numeric == pytest.approx(gradient[place].item(), rel=1e-5, abs=1e-6)
    assert gradient.abs().max() > 1e-3


def test_gradcheck_in_features_and_weights():
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(2, 3, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.tensor([0, 1])

    def cam_of(features: Tensor, weight: Tensor) -> Tensor:
        logits = features.tanh().mean((2, 3)) @ weight.T  # a smooth head
        return grad_cam(features, logits.gather(1, target[:, None]).squeeze(1), create_graph=True)

    alpha = weight[target] * (1 - features.tanh() ** 2).mean((2, 3)) / 6
    before_relu = torch.einsum("bm,bmhw->bhw", alpha, features)
    assert before_relu.abs().min() > 1e-4  # far from the kink, for steps of 1e-6
    torch.testing.assert_close(cam_of(features, weight), before_relu.relu())
    assert torch.autograd.gradcheck(cam_of, (features, weight))
    assert torch.autograd.gradcheck(lambda f, w: normalize_cam(cam_of(f, w)), (features, weight), atol=1e-4)


def test_alpha_is_the_mean_gradient_not_the_sum():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], requires_grad=True)
    cam = grad_cam(features, (features.flatten(1) @ torch.tensor([0.0, 0.0, 0.0, 8.0])), create_graph=False)
    assert cam.tolist() == [[[2.0, 4.0], [6.0, 8.0]]]  # alpha = 8 / 4


def test_what_speaks_against_the_class_is_cut_to_zero():
    features = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]], requires_grad=True)
    cam = grad_cam(features, -4 * features.mean((1, 2, 3)), create_graph=False)
    assert cam.tolist() == [[[0.0, 2.0], [0.0, 0.0]]]


# ---- second order, and without


def test_constant_alpha_is_the_detached_formula():
    backbone, images = _backbone("level2"), _images()
    features = backbone.forward_features(images)
    scores = backbone.forward_head(features).gather(1, TARGET[:, None]).squeeze(1)
    alpha = torch.stack([
        torch.autograd.grad(scores[i], features, retain_graph=True)[0][i].mean((1, 2)) for i in range(3)
    ]).detach()  # fmt: skip
    expected = (alpha[:, :, None, None] * features).sum(1).relu()
    cam = grad_cam(features, scores, create_graph=False)
    torch.testing.assert_close(cam, expected)

    early, head = backbone.features[0].weight, backbone.head[-1].weight
    weights = _weights_like(cam)
    (a,) = torch.autograd.grad((cam * weights).sum(), early, retain_graph=True)
    (b,) = torch.autograd.grad((expected * weights).sum(), early, retain_graph=True)
    torch.testing.assert_close(a, b)
    assert torch.autograd.grad((cam * weights).sum(), head, allow_unused=True, retain_graph=True)[0] is None

    full = _map(backbone, images, TARGET, create_graph=True)
    torch.testing.assert_close(full, cam)  # the value is the same ...
    assert torch.autograd.grad((full * weights).sum(), head, retain_graph=True)[0].abs().max() > 0  # ... not its slope


def test_second_order_changes_the_gradient_of_the_features():
    """Only where the head bends in A: the levels' heads are piecewise linear, and alpha depends on weights alone."""
    features = torch.randn(1, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    slopes = []
    for create_graph in (True, False):
        root = features.clone().requires_grad_()
        hooked = root * 1.0
        cam = grad_cam(hooked, hooked.square().mean((1, 2, 3)), create_graph=create_graph)
        slopes.append(torch.autograd.grad(cam.sum(), root)[0])
    assert slopes[1].abs().max() > 0
    assert not torch.allclose(slopes[0], slopes[1])


# ---- graphs


def test_a_leafs_graph_is_freed_and_the_map_has_none():
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    score = features.square().mean((1, 2, 3))
    cam = grad_cam(features, score, create_graph=False)
    with pytest.raises(RuntimeError, match="second time"):
        score.sum().backward()
    assert cam.shape == (2, 4, 4)


def test_in_training_the_scores_graph_stays_for_the_loss():
    for create_graph in [False, True]:
        backbone, images = _backbone("level1", train=True), _images()
        features = backbone.forward_features(images)
        logits = backbone.forward_head(features)
        score = logits.gather(1, TARGET[:, None]).squeeze(1)
        cam = grad_cam(features, score, create_graph=create_graph)
        (nn.functional.cross_entropy(logits, TARGET) + cam.sum()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_retain_graph_can_be_said():
    features = torch.randn(1, 1, 2, 2, requires_grad=True)
    score = features.square().mean((1, 2, 3))
    grad_cam(features, score, create_graph=False, retain_graph=True)
    score.sum().backward()
    torch.testing.assert_close(features.grad, features.detach() / 2)


def test_no_gradient_is_left_on_parameters():
    backbone = _backbone("level2")
    _map(backbone, _images(), TARGET)
    assert all(p.grad is None for p in backbone.parameters())


def test_a_map_does_not_depend_on_the_batchs_other_images():
    for name in LEVELS:
        backbone, images = _backbone(name), _images()
        together = _map(backbone, images, TARGET)
        for i in range(3):
            alone = _map(backbone, images[i : i + 1], TARGET[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-13)


def test_an_inplace_relu_before_the_hooked_tensor_does_no_harm():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)]
    net = SplitBackbone(nn.Sequential(*body), nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, K))).double()
    plain = SplitBackbone(nn.Sequential(body[0], nn.ReLU()), net.head)
    images = _images(size=8)
    torch.testing.assert_close(_map(net, images, TARGET), _map(plain, images, TARGET))


def test_an_inplace_relu_in_the_head_needs_a_copy_of_the_hooked_tensor():
    """SplitBackbone forbids it: the hooked tensor itself would change, and with it the map."""
    torch.manual_seed(0)
    features = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    linear = nn.Linear(4, 1).double()

    def score(x: Tensor, inplace: bool) -> Tensor:
        return linear(nn.functional.relu(x, inplace=inplace).mean((2, 3)))[:, 0]

    with pytest.raises(RuntimeError, match="in-place"):
        score(features, inplace=True)
    expected = grad_cam(features, score(features, inplace=False), create_graph=False)
    copied = grad_cam(features, score(features.clone(), inplace=True), create_graph=False)
    torch.testing.assert_close(copied, expected)


# ---- exceptions


def test_wrong_shapes_are_named():
    for features, score in [
        ((2, 3, 4), (2,)),
        ((2, 3, 4, 4), (2, 5)),
        ((2, 3, 4, 4), (3,)),
        ((2, 3, 4, 4), ()),
    ]:
        with pytest.raises(ValueError, match=r"features \(B, M, H, W\) and one score per image"):
            grad_cam(torch.zeros(features, requires_grad=True), torch.zeros(score), create_graph=False)


def test_a_score_of_something_else_is_refused():
    features = torch.zeros(1, 1, 2, 2, requires_grad=True)
    with pytest.raises(RuntimeError):
        grad_cam(features, torch.zeros(1, requires_grad=True) * 2, create_graph=False)


def test_an_empty_batch_gives_no_maps():
    features = torch.zeros(0, 3, 4, 5, requires_grad=True)
    cam = normalize_cam(grad_cam(features, features.mean((1, 2, 3)), create_graph=False))
    assert cam.shape == (0, 4, 5)


# ---- normalisation


def test_normalised_maps_span_zero_to_one():
    cam = torch.rand(5, 6, 7, dtype=torch.float64) * torch.tensor([1e-3, 1.0, 10.0, 1e4, 1e6])[:, None, None]
    scaled = normalize_cam(cam)
    assert (scaled.amin((1, 2)) == 0).all()
    torch.testing.assert_close(scaled.amax((1, 2)), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-4)
    assert (scaled <= 1).all()


def test_normalisation_is_the_formula():
    cam = torch.tensor([[[1.0, 3.0], [2.0, 5.0]]])
    torch.testing.assert_close(normalize_cam(cam, eps=1.0), torch.tensor([[[0.0, 0.4], [0.2, 0.8]]]))


def test_flat_maps_become_zero_with_a_finite_gradient():
    for level in [0.0, 3.0]:
        cam = torch.full((2, 3, 3), level, requires_grad=True)
        scaled = normalize_cam(cam)
        assert torch.equal(scaled, torch.zeros(2, 3, 3))
        (gradient,) = torch.autograd.grad((scaled * torch.rand(2, 3, 3)).sum(), cam)
        assert gradient.isfinite().all()


def test_an_empty_map_gives_the_network_no_gradient():
    features = torch.rand(2, 3, 4, 4, requires_grad=True)
    weight = torch.full((3,), -1.0, requires_grad=True)  # every channel speaks against the class
    cam = normalize_cam(grad_cam(features, features.mean((2, 3)) @ weight, create_graph=True))
    assert torch.equal(cam, torch.zeros(2, 4, 4))
    for gradient in torch.autograd.grad((cam - 0.5).square().sum(), (features, weight)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_normalisation_passes_gradcheck():
    cam = torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7)).requires_grad_()
    assert torch.autograd.gradcheck(normalize_cam, (cam,))
    assert torch.autograd.gradgradcheck(normalize_cam, (cam,))


def test_normalisation_does_not_see_the_scale():
    cam = torch.rand(2, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(normalize_cam(1000 * cam), normalize_cam(cam), rtol=0, atol=1e-7)
