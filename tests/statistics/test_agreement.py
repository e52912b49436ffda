"""gaze.statistics.agreement against scikit-learn, literal loops and a published example."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from gaze.statistics.agreement import (
    answers_matrix,
    cohen_kappa,
    crossed_weights,
    krippendorff_alpha,
    mutual_auroc,
    share,
)
from gaze.statistics.bootstrap import interval
from gaze.statistics.classification import auroc

# Krippendorff, Computing Krippendorff's alpha-reliability (2011), C: four observers, twelve units, missing answers.
PUBLISHED = (
    np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
            [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
        ]
    ).T
    - 1
)
ONES = np.ones((1, 12))


def literal_alpha(answers: np.ndarray) -> float:
    """By pairs of answers to one image, and pairs of any two answers."""
    units = [[a for a in row if a >= 0] for row in answers.tolist()]
    units = [unit for unit in units if len(unit) > 1]
    every = [a for unit in units for a in unit]
    observed = sum(
        sum(a != b for i, a in enumerate(u) for j, b in enumerate(u) if i != j) / (len(u) - 1) for u in units
    ) / len(every)
    pairs = len(every) * (len(every) - 1)
    return 1 - observed / (sum(a != b for i, a in enumerate(every) for j, b in enumerate(every) if i != j) / pairs)


def test_alpha_is_the_published_one():
    assert krippendorff_alpha(PUBLISHED, ONES)[0] == pytest.approx(0.743, abs=5e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_alpha_is_a_literal_loop_and_weights_are_repeated_images(seed):
    random = np.random.default_rng(seed)
    answers = random.integers(-1, 3, (15, 3))
    weights = random.integers(0, 3, (4, 15)).astype(float)
    expected = [literal_alpha(np.repeat(answers, row.astype(int), axis=0)) for row in weights]
    np.testing.assert_allclose(krippendorff_alpha(answers, weights), expected)
    assert krippendorff_alpha(answers, np.ones((1, 15)))[0] == pytest.approx(literal_alpha(answers))
    assert np.isnan(krippendorff_alpha(np.ones((5, 2), int), np.ones((1, 5)))[0])  # all alike: nothing to agree on


@pytest.mark.parametrize("classes", [2, 3])
def test_kappa_is_scikit_learns_and_weights_are_repeated_images(classes):
    random = np.random.default_rng(classes)
    a = random.integers(classes, size=40)
    b = np.where(random.random(40) < 0.6, a, random.integers(classes, size=40))
    weights = random.integers(0, 3, (5, 40)).astype(float)
    for found, row in zip(cohen_kappa(a, b, weights), weights.astype(int), strict=True):
        assert found == pytest.approx(cohen_kappa_score(np.repeat(a, row), np.repeat(b, row)))
    assert np.isnan(cohen_kappa(np.ones(3, int), np.ones(3, int), np.ones((1, 3)))[0])


def test_what_two_people_agree_is_the_mean_auroc_of_one_for_the_other():
    random = np.random.default_rng(5)
    answers = random.integers(-1, 2, (60, 3))
    expected = []
    for a in range(3):
        for b in range(3):
            both = (answers[:, a] >= 0) & (answers[:, b] >= 0)
            if a != b:
                expected.append(roc_auc_score(answers[both, b], answers[both, a]))
    assert mutual_auroc(answers, np.ones((1, 60)))[0] == pytest.approx(np.mean(expected))
    assert np.isnan(mutual_auroc(answers[:, :1], np.ones((1, 60)))[0])  # one reviewer: no ceiling


def test_crossed_weights_are_products_of_two_drawings():
    images, reviewers = np.repeat(np.arange(6), 3), np.tile(np.arange(3), 6)
    weights = crossed_weights(images, reviewers, 500).reshape(500, 6, 3)
    of_image = weights.sum(2) / 3
    of_reviewer = weights.sum(1) / 6
    np.testing.assert_allclose(weights, of_image[:, :, None] * of_reviewer[:, None, :])
    assert (of_image.sum(1) == 6).all() and (of_reviewer.sum(1) == 3).all()
    alone = crossed_weights(np.arange(6), np.zeros(6, int), 50)
    assert (alone.sum(1) == 6).all()


def test_answers_stand_where_they_belong():
    found = answers_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([2, 0, 1]))
    np.testing.assert_array_equal(found, [[2, -1], [0, 1]])


def coverage(reviewers: int, spread: float, studies: int = 300, images: int = 60) -> tuple[float, float]:
    """Share of 95 % intervals that hold the true share right, crossed and over images alone, where images and reviewers
    both differ (normal effects on a logit)."""
    random, covered, alone = np.random.default_rng(reviewers), 0, 0
    draws = random.normal(size=(400_000, 2)) * [1.0, spread]
    truth = (1 / (1 + np.exp(-0.5 - draws.sum(1)))).mean()
    of_image, of_reviewer = np.repeat(np.arange(images), reviewers), np.tile(np.arange(reviewers), images)
    for study in range(studies):
        logit = 0.5 + random.normal(size=images)[of_image] + spread * random.normal(size=reviewers)[of_reviewer]
        right = random.random(logit.size) < 1 / (1 + np.exp(-logit))
        for kind, people in (("crossed", of_reviewer), ("images", np.zeros_like(of_reviewer))):
            low, high = interval(share(right, crossed_weights(of_image, people, 400, study)))
            covered += kind == "crossed" and low <= truth <= high
            alone += kind == "images" and low <= truth <= high
    return covered / studies, alone / studies


@pytest.mark.slow
def test_intervals_over_images_and_reviewers_cover_more_than_those_over_images():
    """Of 60 images and reviewers that differ by half a logit; of equal reviewers no interval is too narrow."""
    for reviewers, least in ((2, 0.80), (3, 0.85), (8, 0.90)):
        crossed, alone = coverage(reviewers, 0.5)
        print(reviewers, crossed, alone)
        assert crossed > alone + 0.03 and crossed >= least
    assert min(coverage(reviewers, 0.0)[0] for reviewers in (2, 5)) >= 0.93


def auroc_coverage(reviewers: int, spread: float, studies: int = 300, images: int = 60) -> float:
    """Share of 95 % intervals that hold the AUROC, in the population, of a number that stands for what people see but
    for noise: reviewers find right what lies above a threshold of their own, by a logit."""
    random, covered = np.random.default_rng(reviewers), 0

    def answered(seen: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logit = 0.5 + seen + bias
        return random.random(logit.size) < 1 / (1 + np.exp(-logit)), seen

    right, seen = answered(random.normal(size=400_000), spread * random.normal(size=400_000))
    truth = roc_auc_score(right, seen + random.normal(size=400_000))
    of_image, of_reviewer = np.repeat(np.arange(images), reviewers), np.tile(np.arange(reviewers), images)
    for study in range(studies):
        right, seen = answered(
            random.normal(size=images)[of_image], spread * random.normal(size=reviewers)[of_reviewer]
        )
        scores = seen + random.normal(size=images)[of_image]
        weights = crossed_weights(of_image, of_reviewer, 400, study)
        low, high = interval(auroc(right, scores, np.ascontiguousarray(weights.T)))
        covered += low <= truth <= high
    return covered / studies


@pytest.mark.slow
def test_intervals_of_the_auroc_of_a_number_hold_that_of_all_images_and_reviewers():
    for reviewers in (1, 2, 3, 8):
        assert auroc_coverage(reviewers, 0.5) >= 0.90
