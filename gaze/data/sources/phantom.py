"""A drawn data set: axial slices of heads, three lesions that differ in place and look, and where they are.

It needs no download and knows the truth: the mask of each lesion says where a good gaze would lie. The
pictures are made of elementwise float64 arithmetic on uniform random numbers, rounded to uint8 at the end,
so that a (count, image_size, seed, split) gives the same bytes on every machine.

Lengths are in units of the head: ``(u, v)`` runs over the unit disc, u to the right, v downwards.
Brightness before the last step is in arbitrary units, about 1 for the brightest tissue.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaze.errors import DataError

Array = NDArray[np.float64]

CLASSES: tuple[str, ...] = ("diffuse", "healthy", "meningeal", "midline")  # alphabetical, as ImageFolder sorts
SPLITS = ("train", "test")
MIN_SIZE = 32  # pixels; below it a midline lesion is less than two pixels wide
BRAIN = 0.86  # radius at which the brain ends; skull and scalp follow


class Phantom(NamedTuple):
    """Images (N, 1, S, S) uint8; targets (N,) int64, indices into CLASSES; masks (N, 1, S, S) uint8, 0 or 1."""

    images: Tensor
    targets: Tensor
    masks: Tensor


class _Grid(NamedTuple):
    """The pixel centres of one image in units of its own head; all maps (S, S)."""

    u: Array
    v: Array
    radius: Array
    angle: Array
    pixel: float  # width of a pixel


def make_phantom(count: int, image_size: int, *, seed: int = 0, split: str = "train") -> Phantom:
    """Draw a balanced set. Image i is of class ``i % len(CLASSES)`` and does not depend on ``count``.

    Args:
        count: number of images N.
        image_size: height and width S in pixels.
        seed: of the pictures, >= 0; each seed is a data set of its own.
        split: "train" or "test", two random streams that share no image.

    Raises:
        DataError: too few images for one per class, too few pixels to draw in, or a negative seed.
        ValueError: unknown split.
    """
    _check(count, image_size, seed, split)
    images = np.zeros((count, 1, image_size, image_size), np.uint8)
    masks = np.zeros_like(images)
    for i in range(count):
        stream = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), i))
        rng = np.random.Generator(np.random.Philox(stream))
        images[i, 0], masks[i, 0] = _draw(rng, image_size, CLASSES[i % len(CLASSES)])
    targets = torch.arange(count, dtype=torch.int64) % len(CLASSES)
    return Phantom(torch.from_numpy(images), targets, torch.from_numpy(masks))


def _check(count: int, image_size: int, seed: int, split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}.")
    if count < len(CLASSES):
        raise DataError(
            f"dataset.{split}_images={count} must be {len(CLASSES)} or more: the phantom has {len(CLASSES)} classes."
        )
    if image_size < MIN_SIZE:
        raise DataError(
            f"dataset.image_size={image_size} must be {MIN_SIZE} or more: the phantom's lesions need the pixels."
        )
    if seed < 0:
        raise DataError(f"dataset.seed={seed} must be 0 or more.")


def _draw(rng: np.random.Generator, size: int, label: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One image and its mask, both (S, S)."""
    grid = _grid(rng, size)
    picture = _brain(rng, grid) + _distractors(rng, grid)
    lesion = _lesion(rng, grid, label)
    brain = _edge(BRAIN - grid.radius, grid.pixel)
    picture = brain * np.maximum(picture + lesion, 0.05) + _scalp(rng, grid)
    mask = np.abs(lesion) > 0.5 * np.abs(lesion).max()  # all False where there is no lesion: 0 > 0
    return _expose(rng, picture, grid), mask.astype(np.uint8)


# ---- tools ----------------------------------------------------------------------------------------------


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Every random number goes through ``random()``: its stream is the most stable that NumPy has."""
    return low + (high - low) * rng.random()


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _edge(distance: Array, width: float) -> Array:
    """1 inside (distance > 0), 0 outside, a linear ramp of ``width`` between: an anti-aliased edge."""
    return np.clip(distance / width + 0.5, 0.0, 1.0)


def _distance(grid: _Grid, u: float, v: float, stretch: float = 1.0, turn: float = 0.0) -> Array:
    """Distance of each pixel from (u, v), with one axis stretched and turned by ``turn`` radians."""
    du, dv = grid.u - u, grid.v - v
    along, across = du * np.cos(turn) + dv * np.sin(turn), dv * np.cos(turn) - du * np.sin(turn)
    return np.sqrt((along / stretch) ** 2 + (across * stretch) ** 2)


def _waves(rng: np.random.Generator, grid: _Grid, low: float, high: float, terms: int = 6) -> Array:
    """Smooth random field, about -1 .. 1: plane waves of ``low`` .. ``high`` radians per head radius."""
    field = np.zeros_like(grid.u)
    for _ in range(terms):
        pace, way, phase = _uniform(rng, low, high), _uniform(rng, 0, 2 * np.pi), _uniform(rng, 0, 2 * np.pi)
        field += np.cos(pace * (np.cos(way) * grid.u + np.sin(way) * grid.v) + phase)
    return field / np.sqrt(2.0 * terms)


# ---- the head -------------------------------------------------------------------------------------------


def _grid(rng: np.random.Generator, size: int) -> _Grid:
    """A head of random size, shape, place and tilt in an image that spans -1 .. 1."""
    line = (np.arange(size) + 0.5) * (2.0 / size) - 1.0
    x, y = line[None, :] - _uniform(rng, -0.06, 0.06), line[:, None] - _uniform(rng, -0.06, 0.06)
    turn, height = _uniform(rng, -0.2, 0.2), _uniform(rng, 0.84, 0.93)
    width = height * _uniform(rng, 0.78, 0.9)
    u = (x * np.cos(turn) + y * np.sin(turn)) / width
    v = (y * np.cos(turn) - x * np.sin(turn)) / height
    angle = np.arctan2(v, u)
    egg = 1.0 + _uniform(rng, -0.03, 0.03) * np.sin(angle) + _uniform(rng, -0.02, 0.02) * np.cos(3 * angle)
    return _Grid(u, v, np.sqrt(u**2 + v**2) * egg, angle, pixel=2.0 / (size * width))


def _scalp(rng: np.random.Generator, grid: _Grid) -> Array:
    """The bright ring outside the dark bone."""
    inner = _uniform(rng, 0.92, 0.95)
    ring = _edge(grid.radius - inner, grid.pixel) * _edge(1.0 - grid.radius, grid.pixel)
    return ring * _uniform(rng, 0.55, 0.75) * (1.0 + 0.15 * _waves(rng, grid, 1, 4, terms=3))


def _brain(rng: np.random.Generator, grid: _Grid) -> Array:
    """White matter within folded grey matter, with falx, ventricles and a cistern low at the midline."""
    white, grey = _uniform(rng, 0.52, 0.6), _uniform(rng, 0.38, 0.46)
    fold = np.cos(_uniform(rng, 11, 16) * np.abs(grid.angle + np.pi / 2) + 1.5 * _waves(rng, grid, 2, 5, terms=4))
    depth = _uniform(rng, 0.62, 0.7) + 0.06 * fold
    inside = _edge(depth - grid.radius, 0.12)
    brain = grey + (white - grey) * inside - 0.07 * np.maximum(fold, 0.0) * (1.0 - inside)
    brain += _uniform(rng, 0.02, 0.045) * _waves(rng, grid, 3, 9)
    falx = _edge(0.02 - np.abs(grid.u), 2 * grid.pixel) * _edge(np.abs(grid.v) - 0.45, 0.1)
    return brain - 0.15 * falx - _ventricles(rng, grid)


def _ventricles(rng: np.random.Generator, grid: _Grid) -> Array:
    """Two dark horns, never quite alike, and the cistern."""
    dark, size, top = _uniform(rng, 0.25, 0.35), _uniform(rng, 0.15, 0.21), _uniform(rng, -0.16, -0.04)
    horns = np.zeros_like(grid.u)
    for side in (-1.0, 1.0):
        own = size * _uniform(rng, 0.75, 1.25)
        away = _distance(grid, side * _uniform(rng, 0.1, 0.14), top, stretch=1.75, turn=np.pi / 2 - 0.3 * side)
        horns = np.maximum(horns, _edge(own - away, grid.pixel + 0.05))
    cistern = _edge(_uniform(rng, 0.07, 0.13) - _distance(grid, 0.0, _uniform(rng, 0.44, 0.54)), grid.pixel + 0.06)
    return dark * np.maximum(horns, 0.6 * cistern)


def _expose(rng: np.random.Generator, picture: Array, grid: _Grid) -> NDArray[np.uint8]:
    """Bias field, contrast, noise; the head's mean is set at random, so that it says nothing of the class."""
    head = _edge(1.0 - grid.radius, grid.pixel)
    picture = picture * (1.0 + _uniform(rng, 0.02, 0.08) * _waves(rng, grid, 0.5, 1.8, terms=3))
    picture = np.maximum(picture, 0.0) ** _uniform(rng, 0.9, 1.1)
    picture *= _uniform(rng, 105.0, 130.0) * head.sum() / (picture * head).sum()
    picture += _uniform(rng, 2.0, 5.0) * _noise(rng, picture.shape[0])
    return np.floor(np.clip(picture, 0.0, 255.0) + 0.5).astype(np.uint8)


def _noise(rng: np.random.Generator, size: int) -> Array:
    """White, unit variance, nearly normal (a sum of four uniform numbers), (S, S)."""
    return (rng.random((4, size, size)).sum(0) - 2.0) * np.sqrt(3.0)


# ---- what looks like a lesion, and what is one ----------------------------------------------------------


def _distractors(rng: np.random.Generator, grid: _Grid) -> Array:
    """What any head may have: vessels, calcifications, an enhanced stretch of rim, uneven white matter."""
    extra = np.zeros_like(grid.u)
    for _ in range(int(_uniform(rng, 0, 4))):  # vessels and calcifications: small and bright, anywhere
        far, way = BRAIN * np.sqrt(rng.random()), _uniform(rng, 0, 2 * np.pi)
        away = _distance(grid, far * np.cos(way), far * np.sin(way), stretch=_uniform(rng, 1.0, 1.8), turn=way)
        extra += _uniform(rng, 0.1, 0.35) * _edge(_uniform(rng, 0.02, 0.05) - away, grid.pixel + 0.01)
    for _ in range(int(_uniform(rng, 0, 3))):  # faint patches, bright or dark, as wide as a diffuse lesion
        away = _distance(grid, _uniform(rng, -0.5, 0.5), _uniform(rng, -0.5, 0.5), stretch=_uniform(rng, 1.0, 1.4))
        extra += _sign(rng) * _uniform(rng, 0.03, 0.12) * np.exp(-((away / _uniform(rng, 0.15, 0.3)) ** 2))
    return extra + _rim(rng, grid)


def _rim(rng: np.random.Generator, grid: _Grid) -> Array:
    """In every second head, a thin bright stretch along the brain's edge."""
    strength, way, length = _uniform(rng, -0.3, 0.3), _uniform(rng, 0, 2 * np.pi), _uniform(rng, 0.2, 0.5)
    apart = np.arccos(np.clip(np.cos(grid.angle - way), -1.0, 1.0))
    return max(strength, 0.0) * _edge(grid.radius - (BRAIN - 0.05), grid.pixel) * _edge(length - apart, 0.1)


def _lesion(rng: np.random.Generator, grid: _Grid, label: str) -> Array:
    """Brightness that the lesion adds (S, S); nothing for the healthy class."""
    if label == "healthy":
        return np.zeros_like(grid.u)
    draw = {"diffuse": _diffuse, "meningeal": _meningeal, "midline": _midline}[label]
    within = _edge(BRAIN - grid.radius, grid.pixel)
    return _uniform(rng, 0.15, 0.55) * draw(rng, grid) * within


def _diffuse(rng: np.random.Generator, grid: _Grid) -> Array:
    """Deep in one hemisphere: wide, dark, fuzzy, uneven, growing along the white matter."""
    u, v = _sign(rng) * _uniform(rng, 0.26, 0.46), _uniform(rng, -0.4, 0.35)
    away = _distance(grid, u, v, stretch=_uniform(rng, 1.0, 1.25), turn=_uniform(rng, 0, np.pi))
    away = away * (1.0 + 0.25 * _waves(rng, grid, 4, 9, terms=4))
    return -0.9 * np.exp(-((away / _uniform(rng, 0.26, 0.42)) ** 2))


def _meningeal(rng: np.random.Generator, grid: _Grid) -> Array:
    """On the rim, anywhere around the brain: round, even, sharp."""
    way, far = _uniform(rng, 0, 2 * np.pi), _uniform(rng, 0.68, 0.78)
    away = _distance(grid, far * np.cos(way), far * np.sin(way), stretch=_uniform(rng, 0.8, 1.0), turn=way)
    return _edge(_uniform(rng, 0.14, 0.27) - away, grid.pixel + 0.02)


def _midline(rng: np.random.Generator, grid: _Grid) -> Array:
    """In the cistern low at the midline: small, round, with a soft edge."""
    away = _distance(grid, _uniform(rng, -0.05, 0.05), _uniform(rng, 0.42, 0.56), stretch=_uniform(rng, 0.9, 1.15))
    return _edge(_uniform(rng, 0.12, 0.22) - away, grid.pixel + 0.06)
