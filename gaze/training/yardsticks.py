"""What the nearness of a gaze to readers' is to be compared with: a prior that knows no image, and the readers
themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gaze.cam.pool import pool_to_grid
from gaze.data.datasets import Split
from gaze.data.human import Human
from gaze.measures import HUMAN
from gaze.metrics.saliency import saliency
from gaze.runs.human import HumanFigures

CENTRE_SD = 0.25  # of the prior's Gaussian, as a share of each side


def centre_prior(grid: tuple[int, int]) -> Tensor:
    """A Gaussian in the middle of the image (H, W), stretched to its sides, the highest about 1."""
    down, across = (torch.exp(-(((torch.arange(n) + 0.5) / n - 0.5) ** 2) / (2 * CENTRE_SD**2)) for n in grid)
    return down[:, None] * across


def centre_yardstick(human: Human, grid: tuple[int, int]) -> Tensor:
    """Mean of each measure (7,) of the prior over all images that somebody looked at."""
    prior = centre_prior(grid)[None]
    return torch.cat([saliency(prior, human.batch([place])) for place in human.places]).nanmean(0)


def readers_yardstick(human: Human, grid: tuple[int, int]) -> Tensor:
    """Mean of each measure (7,) of one reader's density against the other readers of the image: over the readers of an
    image, then over images that have two or more. NaN where there is none."""
    found = []
    for place in human.places:
        readings = human.readings[place]
        elsewhere = human.batch([place])[:, 2:]
        own = []
        for reader, points in readings.items() if len(readings) > 1 else ():
            others = human.drawn(place, [rows for name, rows in readings.items() if name != reader])
            one = pool_to_grid(human.drawn(place, [points])[:1], grid)
            own.append(saliency(one, torch.cat([others[None], elsewhere], 1)))
        found += [torch.cat(own).nanmean(0)] if own else []
    return torch.stack(found).nanmean(0) if found else torch.full((len(HUMAN),), torch.nan)


def human_figures(split: Split, network: Tensor, classes: tuple[str, ...], grid: tuple[int, int]) -> HumanFigures:
    """Of a split whose images somebody looked at.

    Args:
        split: the images.
        network: measures by class (K, 7).
        classes: names (K,).
        grid: cells (H, W) of the network's maps.
    """
    human = split.human
    assert human is not None
    maps, counts = torch.zeros(len(classes), *grid), torch.zeros(len(classes), dtype=torch.int64)
    for place in human.places:
        label = int(split.targets[place])
        maps[label] += pool_to_grid(human.own(place)[:1], grid)[0]
        counts[label] += 1
    maps = maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    readers = max(len(readings) for readings in human.readings)
    values = (counts, network.cpu().double(), centre_yardstick(human, grid), readers_yardstick(human, grid), maps)
    return HumanFigures(classes, readers, *(own.numpy() for own in values))


def human_line(found: HumanFigures, values: Mapping[str, Any]) -> str:
    """For the reader: each measure, as ``trainer.test`` left it in ``values``, with its two yardsticks."""
    said = []
    for i, name in enumerate(HUMAN):
        one = "" if found.others[i] != found.others[i] else f", readers {found.others[i]:.3f}"
        value = float(values[f"test/gaze_human_{name}"])
        said.append(f"{name.upper()} {value:.3f} (centre {found.centre[i]:.3f}{one})")
    ceiling = "" if found.readers > 1 else " Each image has one reader: no ceiling."
    what = f"{found.counts.sum():,} test images that somebody looked at"
    beside = "gaze against readers, beside a prior in the centre and one reader against the others"
    return f"{what}, {beside}: {', '.join(said)}.{ceiling}"
