"""gaze.backbones.levels: the five levels as the thesis's table has them, split where Grad-CAM looks."""

import pytest
import torch
from torch import nn

from gaze.backbones.levels import LEVELS, build_backbone, hooked_map_size
from gaze.errors import ConfigError

K = 4
# By hand from the table: conv(i, o) = 9io + o, BatchNorm(o) = 2o, 1x1 skip(i, o) = io + o, linear(i, K) = iK + K,
# se(c) = two 1x1 convolutions c -> c/16 -> c with bias = c*c/8 + c/16 + c.
CBR_1_32, CBR_32_64, CBR_64_128, CBR_128_256 = 320 + 64, 18_496 + 128, 73_856 + 256, 295_168 + 512
RES_32_64 = CBR_32_64 + (36_928 + 128) + 2_112
RES_64_128 = CBR_64_128 + (147_584 + 256) + 8_320
RES_128_256 = CBR_128_256 + (590_080 + 512) + 33_024
RES_256_512 = (1_180_160 + 1_024) + (2_359_808 + 1_024) + 131_584
SE_64, SE_128, SE_256 = 580, 2_184, 8_464
PARAMETERS = {
    "level1": 160 + 4_640 + 33 * K,
    "level2": CBR_1_32 + CBR_32_64 + CBR_64_128 + CBR_128_256 + 257 * K,
    "level3": CBR_1_32 + RES_32_64 + RES_64_128 + RES_128_256 + 257 * K,
    "level4": CBR_1_32 + CBR_32_64 + SE_64 + CBR_64_128 + SE_128 + CBR_128_256 + SE_256 + 257 * K,
    "level5": (640 + 128) + RES_64_128 + RES_128_256 + RES_256_512 + 513 * K,
}
TOTALS = {"level1": 4_932, "level2": 389_828, "level3": 1_208_772, "level4": 401_056, "level5": 4_825_988}
CHANNELS = {"level1": 32, "level2": 256, "level3": 256, "level4": 256, "level5": 512}
DROPOUT = {"level1": [], "level2": [0.5], "level3": [0.5], "level4": [0.5], "level5": [0.6]}


def _build(name: str, in_channels: int = 1):
    torch.manual_seed(0)
    return build_backbone(name, K, in_channels)


def test_parameter_count_is_the_tables():
    for name in LEVELS:
        assert PARAMETERS[name] == TOTALS[name]
        assert sum(p.numel() for p in _build(name).parameters()) == TOTALS[name]


def test_three_channels_add_two_planes_to_the_first_convolution_only():
    for name in LEVELS:
        first = 64 if name == "level5" else 16 if name == "level1" else 32
        backbone = _build(name, in_channels=3)
        assert sum(p.numel() for p in backbone.parameters()) == TOTALS[name] + 9 * 2 * first
        assert backbone.eval()(torch.randn(2, 3, 16, 16)).shape == (2, K)


def test_map_size_at_224():
    for name in LEVELS:
        assert hooked_map_size(name, 224) == ((112, 112) if name == "level1" else (28, 28))


@pytest.mark.parametrize(("name", "size", "side"), [
    ("level1", 224, 112), ("level2", 224, 28), ("level3", 32, 4), ("level4", 32, 4), ("level5", 32, 4),
    ("level1", 33, 16), ("level2", 33, 4),
])  # fmt: skip
def test_a_real_forward_has_that_map(name, size, side):
    backbone = _build(name).eval()
    with torch.no_grad():
        features = backbone.forward_features(torch.randn(1, 1, size, size))
    assert features.shape == (1, CHANNELS[name], side, side)
    assert hooked_map_size(name, size) == (side, side)


def test_forward_is_head_of_features():
    for name in LEVELS:
        backbone, x = _build(name).eval(), torch.randn(3, 1, 16, 16)
        logits = backbone(x)
        assert logits.shape == (3, K)
        assert torch.equal(logits, backbone.forward_head(backbone.forward_features(x)))
        assert {id(p) for p in backbone.parameters()} == {
            id(p) for part in (backbone.features, backbone.head) for p in part.parameters()
        }


def test_only_level2_is_hooked_before_its_relu():
    for name in LEVELS:
        features = _build(name).forward_features(torch.randn(4, 1, 16, 16))  # train mode: BatchNorm centres its output
        assert (features < 0).any() == (name == "level2")
        assert (features > 0).any()
    # A squeeze-and-excitation gate rescales channels that a ReLU left >= 0.


def test_the_head_leaves_the_hooked_tensor_alone():
    for name in LEVELS:
        backbone = _build(name)
        features = backbone.forward_features(torch.randn(4, 1, 16, 16)).detach()
        before, version = features.clone(), features._version
        backbone.forward_head(features)
        assert features._version == version and torch.equal(features, before)


def test_the_head_mixes_no_two_images():
    for name in LEVELS:
        backbone = _build(name).eval()
        features = torch.randn(3, CHANNELS[name], 4, 4, requires_grad=True)
        (gradient,) = torch.autograd.grad(backbone.forward_head(features)[1].sum(), features)
        assert gradient[1].abs().sum() > 0
        assert gradient[[0, 2]].abs().sum() == 0
        assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.head.modules())


def test_dropout_is_the_tables():
    for name in LEVELS:
        backbone = _build(name)
        assert [m.p for m in backbone.modules() if isinstance(m, nn.Dropout)] == DROPOUT[name]


def test_finding_the_map_size_draws_no_random_number():
    for name in LEVELS:
        torch.manual_seed(0)
        before = torch.get_rng_state()
        hooked_map_size(name, 224)
        assert torch.equal(torch.get_rng_state(), before)


def test_level4_has_three_gates_of_reduction_16():
    squeeze = [m.fc1 for m in _build("level4").modules() if hasattr(m, "fc1")]
    assert [(c.in_channels, c.out_channels) for c in squeeze] == [(64, 4), (128, 8), (256, 16)]


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="model=level9 is unknown: level1, level2, level3, level4 or level5"):
        build_backbone("level9", K)


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="two or more"):
        build_backbone("level1", 1)


def test_a_map_below_2x2_is_refused():
    for name, size in [("level1", 3), ("level1", 1), ("level2", 15), ("level5", 2)]:
        with pytest.raises(ConfigError, match=r"2x2 or more.*dataset\.image_size"):
            hooked_map_size(name, size)


def test_the_smallest_map_is_2x2():
    for name, size in [("level1", 4), ("level2", 16)]:
        assert hooked_map_size(name, size) == (2, 2)
