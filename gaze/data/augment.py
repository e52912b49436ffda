"""What happens to training images: single augmentations, done by torchvision with fresh randomness for each image;
mixing; flips and crops, done for whole batches at once.

Masks follow the image through every geometric step. Random numbers come from PyTorch's default generators. The names
and strengths are ``gaze.choices.AUGMENTATIONS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from gaze.choices import AUGMENTATIONS
from gaze.config.augmentation import AugmentationConfig

BILINEAR = v2.InterpolationMode.BILINEAR


def transform(images: Tensor, masks: Tensor | None, config: AugmentationConfig) -> tuple[Tensor, Tensor | None]:
    """Augment each image by itself, its mask along with it, by what works on single images.

    Args:
        images: (B, C, H, W), floating in [-1, 1].
        masks: (B, 1, H, W), floating, or None.
        config: which steps, and how far they go.

    Returns:
        Images, in [-1, 1] again, and masks of the same shapes.
    """
    steps = config.on("image")
    pipeline = v2.Compose([AUGMENTATIONS[name].function(value, images.shape[3]) for name, value in steps.items()])
    moved, moved_masks = [], []
    for i, image in enumerate((images + 1) / 2):
        mask = image.new_zeros(1, *image.shape[1:]) if masks is None else masks[i]
        image, mask = pipeline(tv_tensors.Image(image), tv_tensors.Mask(mask))
        moved.append(image.as_subclass(Tensor))
        moved_masks.append(mask.as_subclass(Tensor))
    return torch.stack(moved).clamp(0, 1) * 2 - 1, None if masks is None else torch.stack(moved_masks)


def mix(images: Tensor, target: Tensor, classes: int, config: AugmentationConfig) -> tuple[Tensor, Tensor]:
    """Mix each image of a batch with another one, by the one augmentation of the scope "label" that is on.

    Args:
        images: (B, C, H, W).
        target: (B,) int64.
        classes: K.
        config: alpha of mixup or cutmix.

    Returns:
        Mixed images, and labels (B, K) that sum to 1.
    """
    ((name, alpha),) = config.on("label").items()
    mixed, labels = AUGMENTATIONS[name].function(alpha=alpha, num_classes=classes)(images, target)
    return mixed, labels


# ---- single augmentations: the transform of images in 0..1 of ``side`` pixels, by its strength in the settings


def rotation(degrees: float, side: int) -> v2.Transform:
    """By up to ``degrees`` to either side."""
    return v2.RandomRotation(degrees, BILINEAR, fill=0)


def translation(share: float, side: int) -> v2.Transform:
    """By up to this share of the side, in each direction."""
    return v2.RandomAffine(0, (share, share), interpolation=BILINEAR, fill=0)


def elastic(share: float, side: int) -> v2.Transform:
    """A smooth field of displacements, its strength in shares of the side."""
    return v2.ElasticTransform(share * side, share * side / 10, BILINEAR, fill=0)


def brightness(amount: float, side: int) -> v2.Transform:
    """Times a factor from 1 - amount to 1 + amount."""
    return v2.ColorJitter(brightness=amount)


def contrast(amount: float, side: int) -> v2.Transform:
    """The distance to the mean grey, times a factor from 1 - amount to 1 + amount."""
    return v2.ColorJitter(contrast=amount)


class gamma(v2.Transform):
    """A power of the grey values, log-uniform between ``limits``; torchvision has it for a fixed power only."""

    def __init__(self, limits: list[float], side: int) -> None:
        super().__init__()
        self.low, self.high = (math.log(limit) for limit in limits)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"gamma": math.exp(self.low + (self.high - self.low) * float(torch.rand(())))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.adjust_gamma, inpt, gamma=params["gamma"])


def blur(sigma: list[float], side: int) -> v2.Transform:
    """A Gaussian whose SD is drawn between the two, in shares of the side."""
    return v2.GaussianBlur(max(3, 2 * math.ceil(6 * sigma[1] * side / 2) + 1), (sigma[0] * side, sigma[1] * side))


def noise(sd: float, side: int) -> v2.Transform:
    """Gaussian, of an SD in units of the range."""
    return v2.GaussianNoise(sigma=sd)


class erasing(v2.RandomErasing):
    """Of the image alone: what is erased is still where the lesion is."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, probability: float, side: int) -> None:
        super().__init__(probability, (0.02, 0.2))


# ---- flips and crops, whole batches at once


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
