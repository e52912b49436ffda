"""gaze.runs.class_gaze: class-mean gaze of runs, seeds together."""

import numpy as np
import pytest
from made_up import made_up_runs

from gaze.runs.class_gaze import read_maps, write_maps
from gaze.runs.load import load_runs


@pytest.fixture
def folder(tmp_path):
    """Run folders with maps.npz of two seeds, and the epochs that belong to them."""
    runs = made_up_runs(models=("level2",), seeds=(0, 1), epochs=2)
    for seed, run in enumerate(runs["run"].unique()):
        (tmp_path / run).mkdir(parents=True)
        gaze, counts = np.full((2, 3, 3), 0.2 + 0.6 * seed, np.float32), np.array([1 + 2 * seed, 0])
        gaze[1] = 0
        np.savez(tmp_path / run / "maps.npz", class_gaze=gaze, counts=counts, classes=np.array(["a", "b"]), epoch=2)
    return tmp_path, runs


def test_seeds_are_averaged_by_their_correct_images(folder):
    path, runs = folder
    (maps,) = read_maps(path, runs)
    assert (maps.model, maps.weight, maps.classes) == ("level2", 0.0, ("a", "b"))
    np.testing.assert_allclose(maps.gaze[0], (1 * 0.2 + 3 * 0.8) / 4, rtol=1e-6)
    assert (maps.gaze[1] == 0).all()
    assert maps.counts.tolist() == [4, 0]


def test_maps_of_an_earlier_epoch_and_damaged_files_do_not_count(folder):
    path, runs = folder
    first, second = runs["run"].unique()
    (path / first / "maps.npz").write_bytes(b"PK\x03\x04 cut")
    assert read_maps(path, runs)[0].counts.tolist() == [3, 0]
    (path / second / "maps.npz").unlink()
    assert read_maps(path, runs) == []
    np.savez(path / second / "maps.npz", class_gaze=np.zeros((1, 2, 2)), counts=[1], classes=["a"], epoch=1)
    assert read_maps(path, runs) == []


def test_the_file_beside_a_csv_gives_the_same_maps(folder):
    path, runs = folder
    maps = read_maps(path, runs)
    write_maps(maps, path / "class_gaze.npz")
    again = read_maps(path / "epochs.csv", runs) if (path / "epochs.csv").is_file() else None
    assert again is None
    runs.to_csv(path / "epochs.csv", index=False)
    (again,) = read_maps(path / "epochs.csv", runs)
    assert again[:5] == maps[0][:5]
    assert (again.gaze == maps[0].gaze).all() and (again.counts == maps[0].counts).all()
    assert read_maps(path / "epochs.csv", runs.assign(study="other")) == []


def test_a_real_run_has_its_maps(tiny_run):
    (maps,) = read_maps(tiny_run.folder, load_runs(tiny_run.folder))
    assert maps.gaze.shape == (4, 16, 16)
    assert maps.counts.sum() == tiny_run.row["val/n_correct"]
    assert maps.gaze.min() >= 0 and maps.gaze.max() <= 1
