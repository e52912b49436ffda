"""The default run learns: the phantom is neither trivial nor hopeless for level2."""

import csv

import pytest

from gaze.config.train import check_config
from gaze.training.train import run_training


@pytest.mark.slow
def test_level2_learns_the_phantom_but_not_at_once(composed, tmp_path):
    config = check_config(composed("pictures.every_n_epochs=0", "trainer.max_epochs=7"))
    assert (config.dataset.name, config.model.name, config.lambda_) == ("phantom", "level2", 0)
    run_training(config, tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        accuracy = [float(row["val/accuracy"]) for row in csv.DictReader(file)]
    assert len(accuracy) == 7  # of 12: seven are enough to tell
    assert accuracy[0] < 0.6
    assert max(accuracy) > 0.8
