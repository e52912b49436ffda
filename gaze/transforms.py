"""Single augmentations that a practitioner would try, done by torchvision, with fresh randomness for each image.

Flips and crops are in :mod:`gaze.augment`, which does whole batches at once; these go image by image. Masks follow the
image through every geometric step. Random numbers come from PyTorch's default generators.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gaze.config import AugmentationConfig

MIXING = ("mixup", "cutmix")  # change the label too


def is_plain(config: AugmentationConfig) -> bool:
    """Whether a config asks for nothing of this module but, perhaps, mixing."""
    return not _steps(config)


def transform(images: Tensor, masks: Tensor | None, config: AugmentationConfig) -> tuple[Tensor, Tensor | None]:
    """Augment each image by itself, its mask along with it.

    Args:
        images: (B, C, H, W), floating in [-1, 1].
        masks: (B, 1, H, W), floating, or None.
        config: which steps, and how far they go.

    Returns:
        Images, in [-1, 1] again, and masks of the same shapes.
    """
    from torchvision import tv_tensors

    pipeline = _pipeline(_steps(config), images.shape[3])
    erase = _eraser(config.erasing)
    moved, moved_masks = [], []
    for i, image in enumerate((images + 1) / 2):
        mask = image.new_zeros(1, *image.shape[1:]) if masks is None else masks[i]
        image, mask = pipeline(tv_tensors.Image(image), tv_tensors.Mask(mask))
        moved.append(erase(image.as_subclass(Tensor)))  # what is erased is still where the lesion is
        moved_masks.append(mask.as_subclass(Tensor))
    return torch.stack(moved).clamp(0, 1) * 2 - 1, None if masks is None else torch.stack(moved_masks)


def mix(images: Tensor, target: Tensor, classes: int, config: AugmentationConfig) -> tuple[Tensor, Tensor]:
    """Mix each image of a batch with another one (mixup, Zhang et al. 2018; cutmix, Yun et al. 2019).

    Args:
        images: (B, C, H, W).
        target: (B,) int64.
        classes: K.
        config: ``mixup`` or ``cutmix``: alpha of the Beta distribution of the share.

    Returns:
        Mixed images, and labels (B, K) that sum to 1.
    """
    from torchvision.transforms import v2

    kind, alpha = (v2.MixUp, config.mixup) if config.mixup else (v2.CutMix, config.cutmix)
    mixed, labels = kind(alpha=alpha, num_classes=classes)(images, target)
    return mixed, labels


def _steps(config: AugmentationConfig) -> tuple[tuple[str, Any], ...]:
    """Names and strengths of the steps that are on, in the order in which they are applied."""
    single = ("rotation", "translation", "elastic", "brightness", "contrast", "noise", "erasing")
    steps: dict[str, Any] = {name: getattr(config, name) for name in single if getattr(config, name)}
    if list(config.gamma) != [1, 1]:
        steps["gamma"] = tuple(config.gamma)
    if list(config.blur) != [0, 0]:
        steps["blur"] = tuple(config.blur)
    order = ("rotation", "translation", "elastic", "brightness", "contrast", "gamma", "blur", "noise", "erasing")
    return tuple((name, steps[name]) for name in order if name in steps)


@lru_cache(maxsize=16)
def _pipeline(steps: tuple[tuple[str, Any], ...], side: int) -> Any:
    """torchvision's transforms for images of ``side`` pixels, in 0..1."""
    from torchvision.transforms import v2

    bilinear = v2.InterpolationMode.BILINEAR
    makers = {
        "rotation": lambda degrees: v2.RandomRotation(degrees, bilinear, fill=0),
        "translation": lambda share: v2.RandomAffine(0, (share, share), interpolation=bilinear, fill=0),
        "elastic": lambda share: v2.ElasticTransform(share * side, share * side / 10, bilinear, fill=0),
        "brightness": lambda amount: v2.ColorJitter(brightness=amount),
        "contrast": lambda amount: v2.ColorJitter(contrast=amount),
        "gamma": _gamma,
        "blur": lambda sigma: v2.GaussianBlur(_odd(6 * sigma[1] * side), (sigma[0] * side, sigma[1] * side)),
        "noise": lambda sd: v2.GaussianNoise(sigma=sd),
    }
    return v2.Compose([makers[name](value) for name, value in steps if name in makers] or [v2.Identity()])


@lru_cache(maxsize=16)
def _eraser(probability: float) -> Any:
    from torchvision.transforms import v2

    return v2.RandomErasing(probability, (0.02, 0.2)) if probability else v2.Identity()


def _gamma(limits: tuple[float, float]) -> Any:
    """A power of the grey values, log-uniform between ``limits``; torchvision has it for a fixed power only."""
    from torchvision.transforms import v2

    class RandomGamma(v2.Transform):
        def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
            low, high = (math.log(limit) for limit in limits)
            return {"gamma": math.exp(low + (high - low) * float(torch.rand(())))}

        def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
            return self._call_kernel(v2.functional.adjust_gamma, inpt, gamma=params["gamma"])

    return RandomGamma()


def _odd(width: float) -> int:
    return max(3, 2 * math.ceil(width / 2) + 1)
