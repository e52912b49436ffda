"""gaze.statistics.costs against literal loops and scikit-learn."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import FixedThresholdClassifier

from gaze.statistics.bootstrap import interval
from gaze.statistics.classification import resamples
from gaze.statistics.costs import cheapest, image_costs, mean_costs


def made(images: int, classes: int, seed: int = 0):
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=images)
    probabilities = random.dirichlet(np.ones(classes), images).astype(np.float32)
    costs = random.uniform(0, 9, (classes, classes))
    costs[np.diag_indices(classes)] = random.uniform(0, 1, classes)
    return truth, probabilities, costs


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_cheapest_decision_is_that_of_a_double_loop(classes):
    truth, probabilities, costs = made(300, classes)
    expected = []
    for p in probabilities.tolist():
        sums = [sum(p[k] * costs[k, j] for k in range(classes)) for j in range(classes)]
        expected.append(sums.index(min(sums)))
    found = cheapest(probabilities, costs)
    np.testing.assert_array_equal(found, expected)
    paid = [costs[t, d] for t, d in zip(truth, expected, strict=True)]
    np.testing.assert_allclose(image_costs(truth, found, costs), paid)
    counts = confusion_matrix(truth, found, labels=range(classes))
    assert mean_costs(image_costs(truth, found, costs)[None], draws=2)[0].value == pytest.approx(
        (counts * costs).sum() / 300
    )


def test_two_classes_are_a_threshold_and_equal_costs_are_argmax():
    truth, probabilities, _ = made(500, 2)
    threshold = 1 / (1 + 7)  # Elkan 2001, Eq. 2: of taking 0 for 1 costs 1, 1 for 0 costs 7
    model = FixedThresholdClassifier(_Given(probabilities).fit(None, [0, 1]), threshold=threshold)
    expected = model.fit(np.arange(500)[:, None], truth).predict(np.arange(500)[:, None])
    np.testing.assert_array_equal(cheapest(probabilities, np.array([[0.0, 1], [7, 0]])), expected)
    for classes in (2, 5):
        probabilities = made(500, classes)[1]
        np.testing.assert_array_equal(cheapest(probabilities, 1 - np.eye(classes)), probabilities.argmax(1))


class _Given(DummyClassifier):
    """A classifier that answers with the probabilities of image 0, 1, 2 ..."""

    def __init__(self, probabilities=None):
        super().__init__()
        self.probabilities = probabilities

    def predict_proba(self, X):
        return self.probabilities[np.asarray(X)[:, 0]]


def test_no_probabilities_no_decision_and_no_cost():
    probabilities = np.array([[np.nan, np.nan], [0.2, 0.8]], np.float32)
    decision = cheapest(probabilities, 1 - np.eye(2))
    assert decision.tolist() == [-1, 1]
    paid = image_costs(np.array([0, 0]), decision, 1 - np.eye(2))
    assert np.isnan(paid[0]) and paid[1] == 1
    assert np.isnan(mean_costs(paid[None], draws=10)[0]).all()


def test_intervals_draw_whole_groups():
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), random.integers(1, 6, 20))
    values = random.exponential(size=(2, len(groups)))
    found = mean_costs(values, groups, draws=200)
    weights = np.concatenate(list(resamples(groups, 200)))
    for own, cost in zip(values, found, strict=True):
        drawn = [np.repeat(own, row.astype(int)).mean() for row in weights]
        assert (cost.value, cost.low, cost.high) == pytest.approx((own.mean(), *interval(drawn)))


@pytest.mark.slow
def test_the_interval_covers_what_grouped_images_cost():
    """Of 80 groups of 1 to 4 images that are alike, at 95 %; images drawn one by one would cover less."""
    random, covered, alone = np.random.default_rng(0), 0, 0
    sizes = random.integers(1, 5, 80)
    groups, mean = np.repeat(np.arange(80), sizes), 1.0
    for _ in range(400):
        values = np.repeat(random.exponential(mean, 80), sizes)[None]
        (by_group,), (by_image,) = mean_costs(values, groups, 400), mean_costs(values, None, 400)
        covered += by_group.low <= mean <= by_group.high
        alone += by_image.low <= mean <= by_image.high
    assert 0.90 <= covered / 400 <= 0.98 and alone / 400 < covered / 400 - 0.05
