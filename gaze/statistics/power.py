"""What a design can show, worked out before anything is trained."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import nctdtr, stdtrit  # type: ignore[import-untyped]

from gaze.statistics.intervals import Floats
from gaze.statistics.permutation import permutation_p

LARGE, ENOUGH = 2.0, 0.8  # a large difference of seeds, in their SD; the chance of finding it that makes a design fit
LABELLINGS = 1000  # at most, for each drawn study: an answer within a second
DIRECTIONS = 30.0  # of retraining noise: the phantom's level 2 has about 100 by 12 runs; fewer are harder


def paired_power(pairs: int, tests: int, size: float = LARGE, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t-test finds a difference at Holm's first step, alpha / tests (Student 1908).

    Args:
        pairs: seeds that both sides have.
        tests: in the family.
        size: the mean difference over the SD of the differences between seeds.
        alpha: level of the family.

    Returns:
        0..1; 0 for fewer than 2 pairs. By the noncentral t distribution, the far side left out.
    """
    if pairs < 2:
        return 0.0
    return float(1 - nctdtr(pairs - 1, size * math.sqrt(pairs), -stdtrit(pairs - 1, alpha / tests / 2)))


def moved_power(
    n: int, k: int, tests: int, ratio: float, directions: float = DIRECTIONS, studies: int = 200, alpha: float = 0.05
) -> float:
    """Chance that an arm is found moved at Holm's first step (``gaze.statistics.permutation``), in drawn studies.

    Args:
        n, k: runs of the baseline and of the arm, at least 2.
        tests: arms in the family.
        ratio: mean distance of two runs of one arm each, over that of two runs of the same arm; at least 1.
        directions: in which retraining moves the maps.
        studies: drawn, always the same.
        alpha: level of the family.

    Returns:
        0..1, give or take 0.03 for 200 studies.
    """
    random, sds, labels = np.random.default_rng(0), spectrum(directions), [0] * n + [1] * k
    shift = math.sqrt(2 * (ratio - 1))  # the effect is half its square, the mean distance within an arm 1
    drawn = (noisy_distances(random, n, k, sds, 1.0, shift) for _ in range(studies))
    return float(np.mean([tests * permutation_p(d, labels, 0, 1, LABELLINGS).p <= alpha for d in drawn]))


def spectrum(directions: float, cells: int = 60) -> Floats:
    """SDs of retraining noise along ``cells`` axes, falling so that (tr S)^2 / tr S^2 is ``directions``; tr S is 1."""
    low, high = 1e-6, 20.0
    for _ in range(60):
        fall = (low + high) / 2
        variances = np.exp(-fall * np.arange(cells))
        low, high = (fall, high) if variances.sum() ** 2 / (variances**2).sum() > directions else (low, fall)
    return np.sqrt(variances / variances.sum())


def noisy_distances(random: np.random.Generator, n: int, k: int, sds: Floats, sd_ratio: float, shift: float) -> Floats:
    """Half the squared distances (n + k, n + k) of normal runs around two centres.

    Args:
        random: draws the runs, and the direction from centre to centre, which is one of retraining noise as well.
        n, k: runs of the baseline and of the arm.
        sds: of the baseline's runs along each axis (cells,), from :func:`spectrum`.
        sd_ratio: SD of the arm's runs over that of the baseline's.
        shift: from the one centre to the other, in the unit of sqrt(tr S).
    """
    maps, away = random.normal(size=(n + k, sds.size)) * sds, random.normal(size=sds.size) * sds
    maps[n:] = maps[n:] * sd_ratio + shift * away / np.linalg.norm(away)
    products = maps @ maps.T
    squares = np.diagonal(products)
    distances = np.maximum((squares[:, None] + squares) / 2 - products, 0)
    return np.where(np.eye(n + k), 0, (distances + distances.T) / 2)
