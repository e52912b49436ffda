"""Single augmentations that a practitioner would try, done by torchvision, with fresh randomness for each image.

Flips and crops are in :mod:`gaze.data.augment`, which does whole batches at once; these go image by image. Masks
follow the image through every geometric step. Random numbers come from PyTorch's default generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gaze.config.train import AugmentationConfig

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


def random_affine(
    count: int,
    image_size: tuple[int, int],
    config: AugmentationConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Matrices (B, 2, 3) of random flips and resized crops, output to input, in [-1, 1] coordinates.

    A crop has a share ``s ~ U(crop_scale)`` of the area and an aspect ``r``, log-uniform in ``crop_ratio``; its
    place is uniform where it fits. Draws that do not fit the image are drawn again, ten times as in
    torchvision; then the largest crop of an allowed aspect stands in.

    Args:
        count: B.
        image_size: (height, width) in pixels; crops have whole pixels, as torchvision's.
        config: flip probability, scales and ratios.
        generator: host generator; the default one where None.
    """
    height, width = image_size
    crop_h, crop_w = _crop_sizes(count, height, width, config, generator)
    u = torch.rand(2, count, generator=generator)
    top = (u[0] * (height - crop_h + 1)).floor()
    left = (u[1] * (width - crop_w + 1)).floor()
    mirror = torch.where(torch.rand(count, generator=generator) < config.hflip, -1.0, 1.0)
    zero = torch.zeros(count)
    centre_x = (2 * left + crop_w) / width - 1
    centre_y = (2 * top + crop_h) / height - 1
    row_x = torch.stack([mirror * crop_w / width, zero, centre_x], 1)
    row_y = torch.stack([zero, crop_h / height, centre_y], 1)
    return torch.stack([row_x, row_y], 1)


def warp(images: Tensor, matrices: Tensor, mode: str = "bilinear") -> Tensor:
    """Resample images, masks or maps by their matrices, at their own size.

    Args:
        images: (B, C, H, W), floating.
        matrices: (B, 2, 3) from :func:`random_affine`.
        mode: "bilinear", or "nearest" for masks.
    """
    matrices = matrices.to(images.device, images.dtype, non_blocking=True)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def resize_crops(
    images: Tensor, matrices: Tensor, mode: str = "bilinear", convert: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """What :func:`warp` does, for flips and crops only, image by image with PyTorch's own resize: on a CPU twice as
    fast as building and sampling a grid.

    It is torchvision's crop, then resize: within half a pixel of the crop's edge the crop's last pixel is repeated,
    where ``warp`` sees its neighbour outside.

    Args:
        images: (B, C, H, W), floating or uint8. Bytes are cheaper to mirror, and become float32 crop by crop.
        matrices: (B, 2, 3) from :func:`random_affine`, whose crops have whole pixels.
        mode: "bilinear", or "nearest" for masks.
        convert: what becomes of a crop's pixels before it is resized, such as bytes scaled to [-1, 1]: a crop fits
            the processor's cache, where a batch does not. None makes floats of bytes.

    Returns:
        (B, C, H, W), floating.
    """
    height, width = images.shape[2:]
    scale_x, scale_y = matrices[:, 0, 0].double(), matrices[:, 1, 1].double()
    crop_w, crop_h = scale_x.abs() * width, scale_y * height
    left = (matrices[:, 0, 2].double() + 1) * width / 2 - crop_w / 2
    top = (matrices[:, 1, 2].double() + 1) * height / 2 - crop_h / 2
    mirrored = scale_x < 0
    left = torch.where(mirrored, width - left - crop_w, left)  # of an image that was mirrored first
    boxes = torch.stack([top, left, crop_h, crop_w], 1).round().long().tolist()
    options = {"mode": "nearest-exact"} if mode == "nearest" else {"mode": mode, "align_corners": False}
    resized = []
    for image, flip, (y, x, h, w) in zip(images.split(1), mirrored.tolist(), boxes, strict=True):
        crop = (image.flip(3) if flip else image)[:, :, y : y + h, x : x + w]
        crop = convert(crop) if convert is not None else crop if crop.is_floating_point() else crop.float()
        resized.append(F.interpolate(crop, (height, width), **options))
    return torch.cat(resized)


def is_identity(config: AugmentationConfig) -> bool:
    """Whether a config leaves every image as it is."""
    return config.hflip == 0 and tuple(config.crop_scale) == (1, 1) and tuple(config.crop_ratio) == (1, 1)


def _crop_sizes(
    count: int, height: int, width: int, config: AugmentationConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Whole-pixel crop heights and widths (B,), by up to ten draws each."""
    tries = 10
    low, high = config.crop_scale
    area = height * width * (low + (high - low) * torch.rand(tries, count, generator=generator))
    log_low, log_high = (math.log(r) for r in config.crop_ratio)
    ratio = (log_low + (log_high - log_low) * torch.rand(tries, count, generator=generator)).exp()
    w, h = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)  # (tries, B)
    first = fits.float().argmax(0, keepdim=True)
    w, h = w.gather(0, first)[0], h.gather(0, first)[0]
    aspect = min(max(width / height, config.crop_ratio[0]), config.crop_ratio[1])
    fallback_w = float(min(width, round(height * aspect)))
    fallback_h = float(min(height, round(width / aspect)))
    fitted = fits.any(0)
    return torch.where(fitted, h, fallback_h), torch.where(fitted, w, fallback_w)
