"""Do people agree: with themselves, with one another, with a number? Free of PyTorch and pandas.

Every statistic takes rows of weights (B, N), as in ``gaze.statistics.bootstrap``: a row of ones gives it itself.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaze.statistics.bootstrap import nan_mean, ratio
from gaze.statistics.classification import Labels, auroc
from gaze.statistics.intervals import Floats


def crossed_weights(images: Labels, reviewers: Labels, draws: int, seed: int = 0) -> Floats:
    """Weights of answers in resamples of images and, each by itself, of reviewers: their product (Owen 2007).

    Args:
        images, reviewers: of each answer (A,), 0, 1, 2 ...
        draws: B.
        seed: of the draws.

    Returns:
        (B, A). Of a single reviewer nothing is drawn, so that an interval says nothing of others. Both drawings see the
        noise of a single answer, so that an interval is too wide rather than too narrow from some reviewers on; of two
        or three it is too narrow for what reviewers differ by (tests have the coverage).
    """
    random, weights = np.random.default_rng(seed), np.ones((draws, len(images)))
    for own in (images, reviewers):
        number = int(own.max()) + 1
        weights *= random.multinomial(number, np.full(number, 1 / number), draws)[:, own]
    return weights


def share(values: ArrayLike, weights: Floats) -> Floats:
    """Weighted mean (B,) of values (N,); NaN where nothing was drawn."""
    return ratio(weights @ np.asarray(values, dtype=np.float64), weights.sum(1))


def cohen_kappa(first: Labels, second: Labels, weights: Floats) -> Floats:
    """Agreement (B,) of two series of answers (N,) beyond chance (Cohen 1960), -1..1; NaN where all are alike."""
    chance = np.zeros(len(weights))
    for label in np.union1d(first, second):
        chance += share(first == label, weights) * share(second == label, weights)
    return ratio(share(first == second, weights) - chance, 1 - chance)


def krippendorff_alpha(answers: Labels, weights: Floats) -> Floats:
    """Krippendorff's alpha of nominal answers (Krippendorff 2011), any number of reviewers, some of them missing.

    Args:
        answers: (N, R) of images by reviewers, -1 where there is none. Images with fewer than two do not count.
        weights: (B, N) of images.

    Returns:
        (B,), 1 for full agreement, 0 for that of chance; NaN where all answers are alike.
    """
    labels = np.unique(answers[answers >= 0])
    counts = (answers[:, :, None] == labels).sum(1).astype(np.float64)  # (N, V)
    given = counts.sum(1)
    counts, weights, given = counts[given > 1], weights[:, given > 1], given[given > 1]
    apart = weights @ ((given**2 - (counts**2).sum(1)) / (given - 1))
    of_label = weights @ counts
    total = of_label.sum(1)
    return 1 - ratio((total - 1) * apart, total**2 - (of_label**2).sum(1))


def mutual_auroc(answers: Labels, weights: Floats) -> Floats:
    """What two people agree, on the scale on which a number is held against people: the AUROC of one reviewer's answers
    for another's, mean over all pairs both ways.

    Args:
        answers: (N, R) of images by reviewers, 0 or 1, -1 where there is none.
        weights: (B, N) of images.

    Returns:
        (B,), 0..1; NaN where no two reviewers have images in common, of both answers.
    """
    found = [np.full(len(weights), np.nan)]
    for a, b in permutations(range(answers.shape[1]), 2):
        both = (answers[:, [a, b]] >= 0).all(1)
        scores = answers[both, a].astype(np.float32)
        found.append(auroc(answers[both, b] == 1, scores, np.ascontiguousarray(weights[:, both].T)))
    return nan_mean(np.stack(found), 0)


def answers_matrix(images: Labels, reviewers: Labels, values: Labels) -> NDArray[np.int64]:
    """(N, R) of images by reviewers from answers (A,); -1 where there is none, the last one where there are several."""
    found = np.full((int(images.max()) + 1, int(reviewers.max()) + 1), -1)
    found[images, reviewers] = values
    return found
