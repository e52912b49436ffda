"""L_CAM on three choices of images: the tables are those of plain loops, and what disagrees is said."""

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_runs
from run_folders import SMALL, write_run

from gaze.config.train import check_config
from gaze.data.sources.phantom import CLASSES
from gaze.runs.kept_maps import consistency_of, last_maps
from gaze.runs.load import Runs, read_runs
from gaze.runs.run import Run
from gaze.statistics.seeds import lambda_table, pearson_table
from gaze.studies.consistency.common import common_table, images_finding, three_forms_item, three_rs_item


@pytest.fixture
def study(composed, tmp_path):
    """Runs of two lambdas and two seeds, with maps and answers of forty images."""
    g = np.random.default_rng(0)
    for name in ("0-0", "0-1", "50-0", "50-1"):
        weight, seed = name.split("-")
        config = check_config(composed(*SMALL, f"lambda={weight}", f"seed={seed}"))
        run = Run(write_run(tmp_path / name, config, list(CLASSES)))
        maps, correct = g.integers(0, 256, (40, 4, 4), np.uint8), g.random((1, 40)) < 0.8
        np.savez(run.last_maps, maps=maps, target=np.arange(40) % 4, correct=np.packbits(correct, axis=1))
    return read_runs(tmp_path)


def test_the_same_images_are_those_that_all_runs_of_both_lambdas_classify_correctly(study):
    (row,) = common_table(study).itertuples()
    kept = {name: last_maps(run) for name, run in study.used.items()}
    chosen = np.all([own.correct[-1] for own in kept.values()], axis=0)
    assert 0 < chosen.sum() == row.images < row.evaluated
    value = {name: consistency_of(own.maps, own.target, chosen) for name, own in kept.items()}
    differences = [value[f"50-{seed}"] - value[f"0-{seed}"] for seed in (0, 1)]
    assert row.diff == pytest.approx(np.mean(differences)) and row.n_pairs == 2
    assert row.plain == pytest.approx(np.mean([value["0-0"], value["0-1"]]))


def test_runs_of_other_images_and_runs_without_maps_give_no_row(study, tmp_path):
    other = study.used["50-1"]
    kept, whole = last_maps(other), other.last_maps.read_bytes()
    try:
        bits = np.packbits(kept.correct, axis=1)
        np.savez(other.last_maps, maps=kept.maps, target=kept.target[::-1], correct=bits)
        assert common_table(study).empty
        other.last_maps.unlink()
        assert common_table(study).empty
    finally:
        other.last_maps.write_bytes(whole)
    assert len(common_table(study)) == 1


def test_three_forms_stand_side_by_side(study):
    epochs = made_up_runs("default", ("phantom",), ("level2",), (0, 50), (0, 1))
    (row,) = three_forms_item(lambda_table(epochs), common_table(study), "x", "here").shown.to_dict("records")
    assert list(row)[2:5] == ["correct images", "all images", "same images"] and row["how many"].endswith("of 40")
    assert row["one direction"] in ("yes", "NO") and row["correct images"].startswith("-0.")
    shown = three_rs_item(pearson_table(epochs), "x", "here").shown
    assert {"correct images", "all images, strangers", "same images"} <= set(shown)
    assert shown["one sign"].tolist() == ["yes"]  # made up as multiples of each other


def test_a_sign_that_turns_with_the_images_is_said():
    runs = pd.DataFrame({
        "study": "s", "dataset": "d", "model": "level1", "lambda": 0.0,
        "seed": np.repeat([0, 1], 5), "epoch": [*range(1, 6)] * 2,
        "kappa": np.linspace(0, 1, 10), "gaze_consistency": np.linspace(0.1, 0.2, 10),
        "gaze_consistency_all": np.linspace(0.2, 0.1, 10), "gaze_consistency_fixed": np.linspace(0.1, 0.2, 10),
    })  # fmt: skip
    common = common_table(Runs(runs, runs, {}))
    said = images_finding(pearson_table(runs), lambda_table(runs), common, "d")
    assert said.endswith("correct, all or the same, changes the sign of r at lambda 0 for level1.")
    alike = runs.assign(gaze_consistency_all=runs["gaze_consistency"])
    assert images_finding(pearson_table(alike), lambda_table(alike), common, "d") is None
