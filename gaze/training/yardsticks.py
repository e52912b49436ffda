"""What the nearness of a gaze to readers' is to be compared with: a prior that knows no image, and the readers
themselves."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gaze.cam.pool import pool_to_grid
from gaze.data.datasets import Split
from gaze.data.human import Human
from gaze.measures import HUMAN
from gaze.metrics.saliency import saliency
from gaze.runs.human import NO_CEILING, HumanFigures

CENTRE_SD = 0.25  # of the prior's Gaussian, as a share of each side


def centre_prior(grid: tuple[int, int]) -> Tensor:
    """A Gaussian in the middle of the image (H, W), stretched to its sides, the highest about 1."""
    down, across = (torch.exp(-(((torch.arange(n) + 0.5) / n - 0.5) ** 2) / (2 * CENTRE_SD**2)) for n in grid)
    return down[:, None] * across


def centre_yardstick(human: Human, grid: tuple[int, int]) -> Tensor:
    """Each measure (N, 7) of the prior in the N images that somebody looked at."""
    prior = centre_prior(grid)[None]
    return torch.cat([saliency(prior, human.batch([place])) for place in human.places])


def readers_yardstick(human: Human, grid: tuple[int, int]) -> Tensor:
    """Each measure (N, 7) of one reader's density against the other readers of the image, mean over its readers; NaN
    where it has one."""
    found = []
    for place in human.places:
        readings = human.readings[place]
        elsewhere = human.batch([place])[:, 2:]
        own = [torch.full((1, len(HUMAN)), torch.nan)]
        for reader, points in readings.items() if len(readings) > 1 else ():
            others = human.drawn(place, [rows for name, rows in readings.items() if name != reader])
            one = pool_to_grid(human.drawn(place, [points])[:1], grid)
            own.append(saliency(one, torch.cat([others[None], elsewhere], 1)))
        found.append(torch.cat(own).nanmean(0))
    return torch.stack(found)


def human_figures(split: Split, network: Tensor, classes: tuple[str, ...], grid: tuple[int, int]) -> HumanFigures:
    """Of a split whose images somebody looked at.

    Args:
        split: the images.
        network: measures by class, and of all classes (K + 1, 7).
        classes: names (K,).
        grid: cells (H, W) of the network's maps.
    """
    human = split.human
    assert human is not None
    maps, labels = torch.zeros(len(classes), *grid), split.targets[human.places]
    for place, label in zip(human.places, labels.tolist(), strict=True):
        maps[label] += pool_to_grid(human.own(place)[:1], grid)[0]
    maps = maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    counts = labels.bincount(minlength=len(classes))
    rows = [labels == k for k in range(len(classes))] + [labels >= 0]
    centre, others = (
        torch.stack([own[chosen].nanmean(0) for chosen in rows]).numpy()
        for own in (centre_yardstick(human, grid), readers_yardstick(human, grid))
    )
    readers = max(len(readings) for readings in human.readings)
    own = network.cpu().double().numpy()
    return HumanFigures(classes, readers, counts.numpy(), own, centre, others, maps.numpy())


def human_line(found: HumanFigures, part: str) -> str:
    """For the reader: each measure with its two yardsticks, all of the same images."""
    said = []
    for name, own, centre, others in zip(HUMAN, found.network[-1], found.centre[-1], found.others[-1], strict=True):
        one = "" if np.isnan(others) else f", readers {others:.3f}"
        said.append(f"{name.upper()} {own:.3f} (centre {centre:.3f}{one})")
    ceiling = "" if found.readers > 1 else f" {NO_CEILING}"
    what = f"{found.counts.sum():,} {part} images that somebody looked at"
    beside = "gaze against readers, beside a prior in the centre and one reader against the others"
    return f"{what}, {beside}: {', '.join(said)}.{ceiling}"
