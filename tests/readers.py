"""Made readers: they look at two places beside a lesion, with noise that is known."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

APART, NOISE = 0.12, 0.05  # of the clusters from the lesion's centre, and of a fixation from its cluster; shares


def looked_at(mask: NDArray[np.uint8], g: np.random.Generator, count: int = 20) -> NDArray[np.float64]:
    """Fixations (count, 3) of one reader: x, y as shares, a duration of 100 .. 500 ms."""
    y, x = (np.argwhere(mask).mean(0) + 0.5) / len(mask)
    side = np.where(np.arange(count) % 2, APART, -APART)
    at = np.stack([x + side, np.full(count, y)], 1) + g.normal(0, NOISE, (count, 2))
    return np.c_[at.clip(0.01, 0.99), g.uniform(100, 500, count)]


def write_fixations(
    path: Path, masks: Tensor, files: Sequence[str], readers: int = 2, seed: int = 0, count: int = 20
) -> Path:
    """A CSV in the layout ``gaze`` and in pixels, of all images with a lesion."""
    g = np.random.default_rng(seed)
    with path.open("w", newline="") as lines:
        out = csv.writer(lines)
        out.writerow(["file_name", "x", "y", "duration", "reader", "t"])
        for mask, file in zip(masks[:, 0].numpy(), files, strict=True):
            for reader in range(readers if mask.any() else 0):
                for t, (x, y, duration) in enumerate(looked_at(mask, g, count)):
                    out.writerow([file, f"{x * len(mask):.4f}", f"{y * len(mask):.4f}", f"{duration:.1f}", reader, t])
    return path
