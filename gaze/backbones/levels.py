"""Level 1-5, the backbones of the thesis, each split at the tensor that Grad-CAM looks at.

``forward(x) == forward_head(forward_features(x))``. The split makes the graph that Grad-CAM has to
differentiate as deep as the head, in training and in validation. Everything before the hooked tensor,
batch normalisation included, is in ``forward_features``; the head mixes no two images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from gaze.cam.hook import at_least_float32
from gaze.cam.layers import Target
from gaze.choices import METHODS, unknown_network
from gaze.errors import ConfigError


class SplitBackbone(nn.Module):
    """A classifier in two parts.

    Args:
        features: images (B, C, H, W) -> hooked tensor (B, M, H', W').
        head: hooked tensor -> logits (B, K). It must not change the hooked tensor in place.
    """

    target = Target("features", "BCHW", 0, (0, 0))  # where gaze.look looks

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the hooked tensor A (B, M, H', W'), with which autocast ends."""
        features = self.features(x)
        return at_least_float32(features) if torch.is_autocast_enabled(features.device.type) else features

    def forward_head(self, features: Tensor) -> Tensor:
        """Hooked tensor (B, M, H', W') to pre-softmax scores y (B, K)."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class PooledHead(nn.Sequential):
    """[ReLU or non-overlapping MaxPool,] global average pool, [Dropout,] Linear: a head whose alpha has a closed form.

    The score is ``y^c = b_c + sum_k W_ck m_k P_k`` with P_k the pooled channel and m_k dropout's factor. Grad-CAM's
    ``alpha_k = (1/Z) sum_ij d y^c / d A^k_ij`` is then ``W_ck m_k s_k / Z``, with s_k what P_k gains when all cells
    of channel k rise by one: 1 after an average or a max pool (each window passes its gain on to one cell), and
    the share of positive cells after a ReLU. No backward pass is needed, and none is differentiated.
    """

    def closed_form(self, features: Tensor, target: Tensor | None, method: str) -> tuple[Tensor, Tensor, Tensor]:
        """What a map is the weighted sum of, its weights, and the logits of the same dropout draw.

        All are what the functions of ``gaze.cam.methods`` and ``forward`` would give, gradients included.

        Args:
            features: hooked tensor (B, M, H', W').
            target: classes (B,); None takes the predicted ones.
            method: "grad_cam" or, where :attr:`allows_cam`, "cam".

        Returns:
            Grad-CAM: the features themselves and alpha (B, M). CAM: what the average pool reads (B, M, H', W'), and
            W_c m (B, M). Then logits (B, K).
        """
        *front, pool, linear = (layer for layer in self if not isinstance(layer, nn.Dropout))
        drop = next((layer for layer in self if isinstance(layer, nn.Dropout)), nn.Identity())
        seen = features
        for layer in front:
            seen = layer(seen)
        pooled = pool(seen)
        kept = drop(torch.ones_like(pooled))  # the draw that dropout would make of it, as a factor of each channel
        logits = linear(pooled * kept)
        assert isinstance(linear, nn.Linear)
        weights = linear.weight[logits.argmax(1) if target is None else target] * kept
        if method == "cam":
            return seen, weights, logits
        gained = _share_of_positive(seen) if any(isinstance(layer, nn.ReLU) for layer in front) else 1.0
        return features, weights * gained / (features.shape[2] * features.shape[3]), logits

    @property
    def allows_cam(self) -> bool:
        """Whether the average pool reads the hooked tensor's own grid: no max pool comes between."""
        return not any(isinstance(layer, nn.MaxPool2d) for layer in self)


def _share_of_positive(x: Tensor) -> Tensor:
    """Share of the cells of each channel that are above 0, of a tensor (B, M, H, W) >= 0: (B, M), without gradient."""
    with torch.no_grad():
        return x.sign().mean((2, 3))


class Residual(nn.Module):
    """conv-BN-ReLU-conv-BN plus a 1x1-conv skip where the width changes, then ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(inputs, outputs),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _conv(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.skip(x))


class GlobalAveragePool(nn.Module):
    """(B, M, H', W') -> (B, M)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _cbr(inputs: int, outputs: int) -> list[nn.Module]:
    return [_conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]


def _se(width: int) -> nn.Module:
    return SqueezeExcitation(width, width // 16)


def _pool() -> nn.Module:
    return nn.MaxPool2d(2)


def _level1(classes: int, channels: int) -> SplitBackbone:
    # Hooked after the second ReLU; the last pool belongs to the head, so the map is half the image.
    features = [_conv(channels, 16), nn.ReLU(), _pool(), _conv(16, 32), nn.ReLU()]
    head = [_pool(), GlobalAveragePool(), nn.Linear(32, classes)]
    return SplitBackbone(nn.Sequential(*features), PooledHead(*head))


def _level2(classes: int, channels: int) -> SplitBackbone:
    # Hooked at the last BatchNorm's output; its ReLU is the head's first step.
    features = [*_cbr(channels, 32), _pool(), *_cbr(32, 64), _pool(), *_cbr(64, 128), _pool()]
    features += [_conv(128, 256), nn.BatchNorm2d(256)]
    head = [nn.ReLU(), GlobalAveragePool(), nn.Dropout(0.5), nn.Linear(256, classes)]
    return SplitBackbone(nn.Sequential(*features), PooledHead(*head))


def _level3(classes: int, channels: int) -> SplitBackbone:
    features = [*_cbr(channels, 32), _pool(), Residual(32, 64), _pool(), Residual(64, 128), _pool()]
    features += [Residual(128, 256)]
    head = [GlobalAveragePool(), nn.Dropout(0.5), nn.Linear(256, classes)]
    return SplitBackbone(nn.Sequential(*features), PooledHead(*head))


def _level4(classes: int, channels: int) -> SplitBackbone:
    features = [*_cbr(channels, 32), _pool(), *_cbr(32, 64), _se(64), _pool(), *_cbr(64, 128), _se(128), _pool()]
    features += [*_cbr(128, 256), _se(256)]
    head = [GlobalAveragePool(), nn.Dropout(0.5), nn.Linear(256, classes)]
    return SplitBackbone(nn.Sequential(*features), PooledHead(*head))


def _level5(classes: int, channels: int) -> SplitBackbone:
    features = [*_cbr(channels, 64), _pool(), Residual(64, 128), _pool(), Residual(128, 256), _pool()]
    features += [Residual(256, 512)]
    head = [GlobalAveragePool(), nn.Dropout(0.6), nn.Linear(512, classes)]
    return SplitBackbone(nn.Sequential(*features), PooledHead(*head))


LEVELS: dict[str, Callable[[int, int], SplitBackbone]] = {
    "level1": _level1,
    "level2": _level2,
    "level3": _level3,
    "level4": _level4,
    "level5": _level5,
}


def build_backbone(name: str, num_classes: int, in_channels: int = 1) -> SplitBackbone:
    """A backbone with PyTorch's default initialisation (thesis, table of Levels 1-5).

    Args:
        name: "level1" .. "level5".
        num_classes: width K of the logits.
        in_channels: 1 for grey images, 3 for RGB.

    Raises:
        ConfigError: unknown name, or fewer than two classes.
    """
    if name not in LEVELS:
        raise ConfigError(unknown_network(name, LEVELS))
    if num_classes < 2:
        raise ConfigError(f"{num_classes} class: a classifier, and its kappa, need two or more.")
    return LEVELS[name](num_classes, in_channels)


def hooked_map_size(name: str, image_size: int, in_channels: int = 1) -> tuple[int, int]:
    """Height and width (H', W') of the hooked tensor, found without computing it.

    Raises:
        ConfigError: the map is smaller than 2x2, so that there is no place to look at.
    """
    with torch.device("meta"):  # shapes only: no memory, no arithmetic
        features = build_backbone(name, 2, in_channels).eval().features
        try:
            height, width = features(torch.empty(1, in_channels, image_size, image_size)).shape[-2:]
        except RuntimeError:  # a pooling layer with nothing left to pool
            height = width = 0
    if min(height, width) < 2:
        raise ConfigError(
            f"model={name} on {image_size}x{image_size} images has a {height}x{width} map to look at; "
            "a gaze needs 2x2 or more. Raise dataset.image_size."
        )
    return height, width


def check_method(method: str, name: str, in_channels: int = 1) -> None:
    """Refuse a CAM that does not exist, or that the head of the backbone ``name`` does not allow.

    Raises:
        ConfigError: with what to take instead.
    """
    if METHODS[method].name != "cam":
        return
    with torch.device("meta"):
        head = build_backbone(name, 2, in_channels).head
    if not (isinstance(head, PooledHead) and head.allows_cam):
        raise ConfigError(
            f"gaze.method=cam reads class weights off a head of [ReLU,] global average pool, [Dropout,] Linear on the "
            f"hooked tensor; model={name} has another. Take gaze.method=grad_cam, which needs no such head."
        )
