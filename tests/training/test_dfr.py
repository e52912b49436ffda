"""gaze.training.dfr: the classifier is scikit-learn's, it forgets the shortcut, and a run with it is a run like any."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gaze.config.data import DatasetConfig, MarkerConfig
from gaze.data.datamodule import GazeDataModule
from gaze.errors import DataError
from gaze.runs.run import Run
from gaze.training.dfr import features_of, fit_balanced, retrain_last_layer
from gaze.training.module import GazeModule
from gaze.training.train import run_training

MARKED = (
    "dataset=phantom_shortcut", "dataset.train_images=160", "dataset.validation=0.4", "dataset.batch_size=32",
    "dfr=true",
)  # fmt: skip


def made(classes: int, agreement: float, seed: int = 0):
    """Features of n images: one dimension that the marker drives, one a class, and noise."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(classes, size=600)
    marked = (targets >= classes / 2) == (rng.random(600) < agreement)
    own = rng.normal(size=(600, classes)) + 2 * np.eye(classes)[targets]
    marker = (6.0 * marked + rng.normal(size=600))[:, None]
    return np.concatenate([marker, own, np.ones((600, 1))], 1), targets, 2 * targets + marked


@pytest.mark.parametrize("classes", [2, 3])
def test_equal_groups_give_the_classifier_of_scikit_learn(classes):
    """Where every group has as many images, each choice holds all of them: one fit, which scikit-learn does itself."""
    features, targets, groups = made(classes, 0.5)
    least = np.bincount(groups).min()
    kept = np.concatenate([np.flatnonzero(groups == group)[:least] for group in range(2 * classes)])
    features, targets, groups = features[kept], targets[kept], groups[kept]
    strength, weight, bias = fit_balanced(features, targets, groups, seed=0)
    sparse = LogisticRegression(C=strength, l1_ratio=1, solver="liblinear", tol=1e-6)
    theirs = make_pipeline(StandardScaler(), OneVsRestClassifier(sparse)).fit(features, targets)
    logits, margins = features @ weight.T + bias, theirs.decision_function(features)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0] if classes == 2 else logits, margins, atol=0.02)
    assert (np.abs(weight[:, -1]) == 0).all()  # of the dimension that is the same in all


def test_the_marker_is_forgotten_where_a_plain_fit_goes_by_it():
    features, targets, groups = made(2, 0.95)
    _, weight, bias = fit_balanced(features, targets, groups, seed=0)
    plain = LogisticRegression().fit(features, targets)
    test, truth, _ = made(2, 0.0, seed=1)
    ours = ((test @ weight.T + bias).argmax(1) == truth).mean()
    assert ours > 0.85 and plain.score(test, truth) < ours - 0.1


def test_only_the_last_layer_of_a_module_changes_and_its_features_are_those_it_reads():
    config = DatasetConfig(
        image_size=32,
        train_images=200,
        test_images=8,
        validation=0.5,
        cache="off",
        marker=MarkerConfig(),
        batch_size=30,
    )
    data, module = GazeDataModule(config, seed=0), GazeModule("level2", 4, 1, 32)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.train()
    layer = module.backbone.head[-1]
    features = features_of(module, layer, data)
    assert "validation images" in retrain_last_layer(module, data) and module.training
    after = module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"backbone.head.3.weight", "backbone.head.3.bias"}
    module.eval()
    seen = module(data.evaluation_batch([3, 61]).image)
    by_hand = torch.from_numpy(features[[3, 61]]).float() @ layer.weight.T + layer.bias
    torch.testing.assert_close(seen, by_hand, atol=1e-4, rtol=1e-4)
    data.data.evaluated.markers.zero_()
    with pytest.raises(DataError, match="2 validation images of each group, and has 0 of: diffuse with marker"):
        retrain_last_layer(module, data)


def test_a_run_ends_with_the_retrained_layer_in_one_more_row_and_goes_on_to_the_same(tiny, tmp_path):
    config = tiny(*MARKED)
    run_training(config, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert [row["epoch"] for row in run.rows] == [1, 2, 3] and run.finished
    groups = [name for name in run.rows[-1] if name.startswith("val/group_accuracy/")]
    assert len(groups) == 8
    assert run.rows[-1]["val/worst_group_accuracy"] == min(run.rows[-1][name] for name in groups)
    tested, rows = json.loads(run.test_file.read_text()), run.metrics_file.read_text()
    assert 0 <= tested["last"]["test/worst_group_accuracy"] <= 1
    assert tested["last"]["test/loss"] != tested["best"]["test/loss"]
    run.status_file.unlink()  # as if it had been killed before its end
    run.test_file.unlink()
    run_training(config, tmp_path / "run")
    assert run.metrics_file.read_text() == rows and json.loads(run.test_file.read_text()) == tested
