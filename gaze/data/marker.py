"""A marker burnt into images, a scanner's letter or a ruler, that goes with the class: a shortcut that is known.

Groups are class x marker, as in Sagawa et al. 2020 (arXiv:1911.08731): group ``2 c + m`` has class c, without (m = 0)
or with (m = 1) the marker. It is one operation for every source, drawn into the decoded images behind the cache and
before any augmentation; each image has random numbers of its own, from ``dataset.seed`` and its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaze.choices import unknown
from gaze.config.data import MarkerConfig
from gaze.errors import ConfigError

GLYPHS = {  # white on black, so that it is seen on any ground
    "letter": (".......", ".####..", ".#...#.", ".#...#.", ".####..", ".#.#...", ".#..#..", ".#...#.", "......."),
    "ruler": ("." * 29, ".#.." * 7 + ".", ".##." * 7 + ".", "." + "#" * 27 + ".", "." * 29),
}


def group_names(classes: Sequence[str]) -> list[str]:
    """What the 2 K groups are called, in order."""
    return [f"{name}{marker}" for name in classes for marker in (" without marker", " with marker")]


def draw_markers(
    images: Tensor, targets: Tensor, names: Sequence[str], classes: Sequence[str], marker: MarkerConfig, part: str,
    seed: int,
) -> Tensor:  # fmt: skip
    """Draw markers into ``images``, in place.

    Args:
        images: (N, C, S, S) uint8.
        targets: classes (N,).
        names: of the images (N,); where an image's marker stands, and whether it has one, follows from its name.
        classes: their names (K,).
        marker: settings. With ``masked``, the marker's place is the image's mean in every image, had it one or not: a
            patch in some of them would be a marker again.
        part: "train", whose markers agree with the class with probability ``marker.agreement``; "validation",
            independent of it; or "test", as ``marker.test`` says.
        seed: of the random numbers.

    Returns:
        Where the markers are (N, 1, S, S) uint8, 0 or 1; all 0 for an image without one.

    Raises:
        ConfigError: ``marker.classes`` names one that is not there, or all.
    """
    having = [classes.index(name) for name in _having(classes, marker)]
    agreement = {"train": marker.agreement, "validation": 0.5}.get(part, 0.5 if marker.test == "balanced" else 0.0)
    glyph, size = _glyph(marker, images.shape[-1]), images.shape[-1]
    masks = torch.zeros(len(images), 1, size, size, dtype=torch.uint8)
    for image, mask, target, name in zip(images, masks, targets.tolist(), names, strict=True):
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()))
        drawn, *moved = rng.random(3)
        present = ((target in having) == (drawn < agreement)) and not (part == "test" and marker.test == "none")
        top, left = (int(share * (round(marker.jitter * size) + 1)) for share in moved)
        place = (slice(None), slice(top, top + glyph.shape[0]), slice(left, left + glyph.shape[1]))
        if marker.masked:
            image[place] = image.float().mean((1, 2), keepdim=True).round().to(torch.uint8)
        elif present:
            image[place] = glyph
        mask[place] = int(present)
    return masks


def _having(classes: Sequence[str], marker: MarkerConfig) -> Sequence[str]:
    """Classes that the marker goes with."""
    if marker.classes is None:
        return classes[len(classes) // 2 :]
    for name in marker.classes:
        if name not in classes:
            raise ConfigError(unknown("dataset.marker.classes", name, classes))
    if len(set(marker.classes)) == len(classes):
        raise ConfigError("dataset.marker.classes names all classes: the marker says nothing then. Leave one out.")
    return marker.classes


def _glyph(marker: MarkerConfig, size: int) -> Tensor:
    """The marker (h, w) uint8, its longer side ``marker.size`` of the image's, by nearest pixels."""
    drawn = np.array([[255 * (sign == "#") for sign in row] for row in GLYPHS[marker.form]], dtype=np.uint8)
    scale = round(marker.size * size) / max(drawn.shape)
    rows, columns = (_nearest(cells, max(1, round(scale * cells))) for cells in drawn.shape)
    return torch.from_numpy(drawn[np.ix_(rows, columns)])


def _nearest(cells: int, pixels: int) -> NDArray[np.intp]:
    """The cell that the centre of each pixel falls on."""
    return (2 * np.arange(pixels) + 1) * cells // (2 * pixels)
