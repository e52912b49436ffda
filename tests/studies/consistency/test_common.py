"""L_CAM on three choices of images: the tables are those of plain loops, and what disagrees is said."""

import numpy as np
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
    assert row["agree"] in ("yes", "NO") and row["correct images"].startswith("-0.")
    shown = three_rs_item(pearson_table(epochs), "x", "here").shown
    assert {"correct images", "strangers', all images", "p (Holm), same images"} <= set(shown)
    assert shown["agree"].tolist() == ["yes"]  # made up as multiples of each other


def test_what_the_choice_of_images_changes_is_said():
    g = np.random.default_rng(0)
    kappa, noise = g.random((2, 6, 12))
    runs = made_up_runs("s", ("d",), ("level1",), (0,), range(6), epochs=12).sort_values(["seed", "epoch"])
    runs = runs.assign(kappa=kappa.ravel(), gaze_consistency=0.1 + 0.1 * kappa.ravel())  # related, each in its own run
    runs = runs.assign(gaze_consistency_all=0.1 + 0.1 * noise.ravel(), gaze_consistency_fixed=runs["gaze_consistency"])
    nothing, by_lambda = common_table(Runs(runs, runs, {})), lambda_table(runs)
    said = images_finding(pearson_table(runs), by_lambda, nothing, "d")
    assert said.endswith("changes whether kappa and L_CAM are related beyond the shared curve for level1.")
    alike = runs.assign(gaze_consistency_all=runs["gaze_consistency"])
    assert images_finding(pearson_table(alike), by_lambda, nothing, "d") is None
    unrelated = runs.assign(gaze_consistency=0.2, gaze_consistency_fixed=runs["gaze_consistency_all"])
    assert images_finding(pearson_table(unrelated), by_lambda, nothing, "d") is None
