"""gaze.statistics.classification against torchmetrics, scikit-learn, SciPy and images drawn one by one."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import percentileofscore
from sklearn import metrics
from torchmetrics.functional.classification import (
    multiclass_auroc,
    multiclass_calibration_error,
    multiclass_cohen_kappa,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
    multiclass_specificity,
)

from gaze.statistics import classification
from gaze.statistics.bootstrap import interval
from gaze.statistics.classification import (
    ALL,
    CLASS,
    MACRO,
    OVERALL,
    _figures,
    class_figures,
    confusion_table,
    percentiles,
    resamples,
    undefined,
)


def made(images: int, classes: int, seed: int = 0, rounded: int | None = None):
    """Truth (N,), predictions, and probabilities (N, K) float32 that know something; ``rounded`` gives ties."""
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=images)
    logits = random.normal(size=(images, classes)) + 1.5 * np.eye(classes)[truth]
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    if rounded is not None:
        probabilities = probabilities.round(rounded)
    return truth, probabilities.argmax(1), probabilities.astype(np.float32)


def of(figures, kind: str, name: str = "") -> dict[str, float]:
    return {f.measure: f.value for f in figures if (f.of, f.name) == (kind, name)}


@pytest.mark.parametrize(("classes", "rounded"), [(2, None), (5, None), (3, 1)])
def test_figures_are_torchmetrics(classes, rounded):
    truth, prediction, probabilities = given = made(200, classes, rounded=rounded)
    names = [f"c{k}" for k in range(classes)]
    found = class_figures(names, *given, draws=2)
    labels, scores = torch.from_numpy(truth), torch.from_numpy(probabilities)
    own = torch.from_numpy(prediction), labels, classes
    for average in (None, "macro"):
        expected = {
            "precision": multiclass_precision(*own, average=average),
            "recall": multiclass_recall(*own, average=average),
            "specificity": multiclass_specificity(*own, average=average),
            "f1": multiclass_f1_score(*own, average=average),
            "auroc": multiclass_auroc(scores, labels, classes, average=average),
        }
        for measure, value in expected.items():
            mine = [of(found, CLASS, n)[measure] for n in names] if average is None else of(found, MACRO)[measure]
            np.testing.assert_allclose(mine, value.numpy(), atol=1e-6)
    overall = of(found, ALL)
    assert list(overall) == list(OVERALL)
    assert overall["accuracy"] == pytest.approx(metrics.accuracy_score(truth, prediction))
    assert overall["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, prediction))
    assert overall["kappa"] == pytest.approx(multiclass_cohen_kappa(*own).item(), abs=1e-6)
    error = multiclass_calibration_error(scores, labels, classes, n_bins=15, norm="l1").item()
    assert overall["ece"] == pytest.approx(error, abs=1e-5)
    table = confusion_table(truth, prediction, classes)
    np.testing.assert_array_equal(table, multiclass_confusion_matrix(*own).numpy())
    assert [of(found, CLASS, n)["support"] for n in names] == table.sum(1).tolist()


def test_each_resample_is_what_its_images_say():
    """The fast path of all resamples at once against scikit-learn on the images drawn, one resample after another."""
    truth, prediction, probabilities = given = made(40, 3, seed=2, rounded=1)
    weights = next(resamples(np.arange(40) // 2, 20))
    found = _figures(*given, weights)
    for b, row in enumerate(weights):
        drawn = np.arange(40).repeat(row.astype(int))
        t, p, scores = truth[drawn], prediction[drawn], probabilities[drawn]
        own = {"labels": [0, 1, 2], "average": None, "zero_division": np.nan}
        named = metrics.precision_score(t, p, **own), metrics.recall_score(t, p, **own), metrics.f1_score(t, p, **own)
        np.testing.assert_allclose(found[CLASS][b][:, [0, 1, 3]], np.stack(named, 1), rtol=1e-12)
        auroc = [metrics.roc_auc_score(t == k, scores[:, k]) for k in range(3)]
        np.testing.assert_allclose(found[CLASS][b][:, 4], auroc, rtol=1e-12)
        overall = [metrics.accuracy_score(t, p), metrics.balanced_accuracy_score(t, p), metrics.cohen_kappa_score(t, p)]
        np.testing.assert_allclose(found[ALL][b][:3], overall, rtol=1e-12)
        error = multiclass_calibration_error(torch.from_numpy(scores), torch.from_numpy(t), 3, n_bins=15).item()
        assert found[ALL][b][3] == pytest.approx(error, abs=1e-5)


def test_parts_that_memory_takes_change_no_rule_and_groups_stay_together(monkeypatch):
    groups = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(resamples(groups, 50)))
    assert weights.shape == (50, 6) and (weights[:, 0] == weights[:, 1]).all() and weights[:, [0, 2, 3]].sum() == 150
    monkeypatch.setattr(classification, "AT_ONCE", 60)
    parts = list(resamples(groups, 25))
    assert [len(part) for part in parts] == [10, 10, 5] and (parts[0] != parts[1]).any()


def test_what_is_not_defined_is_nan_with_its_reason_said_once():
    truth, prediction = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    probabilities = np.full((5, 4), 0.25, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = class_figures(["a", "b", "c", "d"], truth, prediction, probabilities, draws=20)
    absent = of(found, CLASS, "c")
    assert all(np.isnan(absent[m]) for m in ("precision", "recall", "f1", "auroc"))
    assert (absent["support"], absent["specificity"]) == (0, 1)
    assert undefined(found).startswith(
        "precision, f1 of c (no image of it, never predicted); recall, auroc of c (no im"
    )
    macro = next(f for f in found if (f.of, f.measure) == (MACRO, "recall"))
    assert (macro.value, macro.reason) == (pytest.approx((1 / 2 + 2 / 3) / 2), "of 2 of 4 classes")
    alone = class_figures(["a", "b"], np.zeros(3, int), np.zeros(3, int), np.full((3, 2), 0.5, np.float32), draws=5)
    assert "specificity, auroc of a (no image of another class)" in undefined(alone) and of(alone, ALL)["kappa"] == 0
    assert undefined(class_figures(["a", "b"], *made(50, 2), draws=2)) == ""
    broken = probabilities * np.nan
    error = next(f for f in class_figures(list("abcd"), truth, prediction, broken, draws=2) if f.measure == "ece")
    assert np.isnan(error.value) and error.reason == classification.NO_SCORES


def test_many_probabilities_have_no_interval_and_say_so(monkeypatch):
    monkeypatch.setattr(classification, "MOST_SCORES", 99)
    found = class_figures(["a", "b"], *made(50, 2), draws=20)
    auroc = [f for f in found if f.measure == "auroc"]
    assert all(f.value > 0.5 and np.isnan(f.low) and f.reason.startswith("no interval") for f in auroc)
    assert all(f.low < f.value < f.high for f in found if f.measure in ("recall", "kappa"))


def test_percentiles_are_scipys():
    values, label = np.array([0.3, 0.1, 0.3, np.nan, 0.2, 0.5, 0.7]), np.array([0, 0, 0, 0, 0, 1, 2])
    found = percentiles(values, label)
    first = values[[0, 1, 2, 4]]
    np.testing.assert_allclose(found[[0, 1, 2, 4]], [percentileofscore(first, v, "rank") for v in first])
    assert np.isnan(found[3]) and found[5] == found[6] == 100


def share_of_intervals(names, true, trials: int, **kwargs) -> dict[str, float]:
    """How often the interval holds the true value, in samples of 120 images; groups of 4 that are right together."""
    hits: dict[str, list[bool]] = {name: [] for name in names}
    for trial in range(trials):
        given = _drawn_sample(120, np.random.default_rng(trial), **kwargs)
        for figure in class_figures(["a", "b"], *given[:3], given[3], draws=200):
            key = f"{figure.name}{figure.measure}"
            if key in hits:
                hits[key].append(figure.low <= true[key] <= figure.high)
    return {name: float(np.mean(own)) for name, own in hits.items()}


def _drawn_sample(images: int, random: np.random.Generator, together: int = 1, confidence: float = 0.8):
    """Right with probability 0.8, groups of ``together`` images alike, stated with ``confidence``."""
    groups = np.arange(images) // together
    truth = random.integers(2, size=images // together)[groups]
    right = (random.random(images // together) < 0.8)[groups]
    prediction = np.where(right, truth, 1 - truth)
    sure = confidence + 0.02 * (random.random(images // together)[groups] - 0.5)
    probabilities = np.where(prediction[:, None] == [0, 1], sure[:, None], 1 - sure[:, None])
    return truth, prediction, probabilities.astype(np.float32), groups


@pytest.mark.slow
def test_intervals_cover_as_they_say():
    """95 % intervals over 300 samples; a binomial SD of 1.3 %, and percentiles of 120 images are a little short."""
    true = {"accuracy": 0.8, "kappa": 0.6, "arecall": 0.8, "bprecision": 0.8, "ece": 0.1}
    plain = share_of_intervals(true, true, 300, confidence=0.9)
    assert all(0.91 <= share <= 0.99 for share in plain.values()), plain
    grouped = share_of_intervals(("accuracy", "kappa"), true, 300, together=4)
    assert all(0.89 <= share <= 0.98 for share in grouped.values()), grouped  # 30 groups
    naive = [class_figures(["a", "b"], *_drawn_sample(120, np.random.default_rng(t), 4)[:3], draws=200)
             for t in range(100)]  # fmt: skip
    accuracy = [next(f for f in own if f.measure == "accuracy") for own in naive]
    assert np.mean([f.low <= 0.8 <= f.high for f in accuracy]) < 0.85  # images drawn as if each stood by itself


def test_a_calibrated_network_may_have_a_calibration_error_of_0():
    """The error is above 0 in every sample, and larger still in resamples, whose percentiles would never hold 0."""
    assert share_of_intervals(["ece"], {"ece": 0.0}, 200)["ece"] >= 0.85  # 0.90 of 300
    truth, prediction, probabilities, groups = _drawn_sample(120, np.random.default_rng(0))
    drawn = np.concatenate([_figures(truth, prediction, probabilities, w)[ALL] for w in resamples(groups, 200)])
    assert interval(drawn[:, 3])[0] > 0
