"""Maps of every evaluated image: kept small and whole, and L_CAM on a choice of images."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPO

from gaze.cam.pool import pool_by_cells
from gaze.data.datamodule import Batch
from gaze.metrics.consistency import GazeConsistency
from gaze.runs.kept_maps import NONE, consistency_of, finish_maps, last_maps, open_maps
from gaze.runs.load import load_runs
from gaze.runs.run import Run
from gaze.training.callbacks import KeepMaps
from gaze.training.train import run_training


def test_blocks_hold_whole_cells():
    cam = torch.rand(2, 9, 28)
    pooled = pool_by_cells(cam, 8)
    assert pooled.shape == (2, 5, 7)
    for i, j in ((0, 0), (4, 6), (2, 3)):  # the last row of blocks has one row of cells
        torch.testing.assert_close(pooled[:, i, j], cam[:, 2 * i : 2 * i + 2, 4 * j : 4 * j + 4].mean((1, 2)))
    assert pool_by_cells(pooled, 8) is pooled


def test_consistency_of_chosen_images_is_the_metrics():
    g = np.random.default_rng(0)
    maps, target, chosen = g.integers(0, 256, (40, 4, 5), np.uint8), np.arange(40) % 4, g.random(40) < 0.4
    chosen[target == 3] = False
    chosen[3] = True  # a class of one image does not count
    metric = GazeConsistency(4)
    right = torch.from_numpy(np.where(chosen, target, (target + 1) % 4))
    metric.update(torch.from_numpy(maps) / 255, right, torch.from_numpy(target))
    assert consistency_of(maps, target, chosen) == pytest.approx(metric.compute().item(), rel=1e-6)
    assert np.isnan(consistency_of(maps, target, np.zeros(40, bool)))


def test_maps_that_are_all_zero_have_no_consistency():
    maps, target = np.zeros((6, 4, 5), np.uint8), np.arange(6) % 3
    assert np.isnan(consistency_of(maps, target, np.ones(6, bool)))
    maps[0, 1, 1] = 255
    assert consistency_of(maps, target, np.ones(6, bool)) == pytest.approx(0.25 / 20 / 3)
    assert np.isnan(consistency_of(maps, target, target > 0))


def test_a_map_that_is_not_finite_is_kept_as_none(tmp_path):
    callback = KeepMaps(Run(tmp_path))
    callback._maps = torch.full((3, 4, 4), 9, dtype=torch.uint8)
    callback._preds = torch.full((3,), 9, dtype=torch.int32)
    cam = torch.ones(3, 4, 4)
    cam[1, 2, 2] = torch.nan
    batch = Batch(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), torch.tensor([2, 0, 1]), None)
    callback.on_validation_batch_end(None, None, {"cam": cam, "preds": torch.tensor([0, 1, 2])}, batch, 0)
    assert callback._preds.tolist() == [NONE, 3, 1]
    assert callback._maps.flatten(1).unique(dim=1).flatten().tolist() == [0, 255, 255]


FOUR = ("model=level2", "trainer.max_epochs=4", "optimizer.lr=1e-3")


@pytest.fixture(scope="module")
def kept(tiny, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("kept"))
    run_training(tiny(*FOUR), run.folder)
    return run


def test_a_run_keeps_every_map_and_answer(kept):
    file = np.load(kept.kept_maps)
    target = last_maps(kept).target
    for number, row in enumerate(kept.rows):
        correct = file["pred"][number] == target + 1
        assert correct.mean() == pytest.approx(row["val/accuracy"])
        assert consistency_of(file["map"][number], target, correct) == pytest.approx(
            row["val/gaze_consistency"], abs=1e-3
        )


def test_the_grid_form_is_of_the_same_images_in_each_epoch(kept):
    file, last = np.load(kept.kept_maps), last_maps(kept)
    fixed = last.correct[2:].all(0)
    assert (last.maps == file["map"][-1]).all() and 0 < fixed.sum() < len(fixed)
    table = load_runs(kept.folder)
    for epoch, row in zip(file, table.itertuples(), strict=True):
        assert row.gaze_consistency_fixed == pytest.approx(
            consistency_of(epoch["map"], last.target, fixed), nan_ok=True
        )
        assert row.images_fixed == fixed.sum()


def test_a_run_that_resumes_keeps_what_it_had_and_leaves_the_same_files(kept, tiny, tmp_path, monkeypatch):
    from gaze.training.callbacks import EpochTable

    class Killed(Exception):
        pass

    run, whole, original = Run(tmp_path), kept, EpochTable.on_train_epoch_start

    def die(self, trainer, module):
        original(self, trainer, module)
        if trainer.current_epoch == 2:
            raise Killed

    config = tiny(*FOUR)
    monkeypatch.setattr(EpochTable, "on_train_epoch_start", die)
    with pytest.raises(Killed):
        run_training(config, run.folder)
    monkeypatch.undo()
    assert not run.grid_file.exists()
    run_training(config, run.folder)
    for name in ("kept_maps", "grid_file"):
        assert getattr(run, name).read_bytes() == getattr(whole, name).read_bytes()
    assert (last_maps(run).correct == last_maps(whole).correct).all()


def test_maps_that_are_gone_when_a_run_resumes_leave_empty_epochs(kept, tmp_path):
    run = Run(tmp_path)
    for own in (kept.metrics_file, kept.config_file):
        (tmp_path / own.name).write_bytes(own.read_bytes())
    source, target = np.load(kept.kept_maps), last_maps(kept).target
    file = open_maps(run.kept_maps, 4, len(target), source["map"].shape[2:])
    file[2:] = source[2:]
    file.flush()
    finish_maps(run, target)
    gone = [row.get("gaze_consistency_fixed") for row in run.table(file=run.grid_file)[1]]
    there = [row.get("gaze_consistency_fixed") for row in kept.table(file=kept.grid_file)[1]]
    assert gone == [None, None, *there[2:]]


def test_maps_can_be_left_out(tiny, tmp_path):
    run_training(tiny("gaze.keep_maps=false"), tmp_path)
    run = Run(tmp_path)
    assert not any(path.exists() for path in (run.kept_maps, run.last_maps, run.grid_file))
    assert last_maps(run) is None and "gaze_consistency_fixed" not in load_runs(tmp_path)


def test_a_damaged_file_of_maps_is_none(kept, tmp_path):
    (tmp_path / kept.last_maps.name).write_bytes(b"PK\x03\x04 cut")
    assert last_maps(Run(tmp_path)) is None


SMALL_FILES = ("config.json", "status.json", "environment.json", "metrics.csv", "gaze_grid.csv", "gaze_last.npz")


def test_a_finished_run_goes_on_to_another_machine_by_its_small_files(tiny, tmp_path, capsys):
    """What results/.gitignore lets through is enough: the run is skipped, and an analysis gives the same table."""
    allowed = (REPO / "results" / ".gitignore").read_text().splitlines()
    assert {line[1:] for line in allowed if line.startswith("!")} >= set(SMALL_FILES)
    here, there = Run(tmp_path / "a" / "one"), Run(tmp_path / "b" / "one")
    row = run_training(tiny(*FOUR), here.folder)
    there.folder.mkdir(parents=True)
    for name in SMALL_FILES:
        shutil.copy(here.folder / name, there.folder)
    digest = there.digest
    capsys.readouterr()
    assert run_training(tiny(*FOUR), there.folder) == row and "epoch" not in capsys.readouterr().out
    assert there.digest == digest and not there.checkpoints.exists()
    pd.testing.assert_frame_equal(load_runs(tmp_path / "a"), load_runs(tmp_path / "b"))
    assert (last_maps(there).maps == last_maps(here).maps).all()


def test_runs_of_two_machines_merge_to_the_same_study(tiny, tmp_path):
    for seed in (0, 1):
        run_training(tiny(f"seed={seed}", "model=level2"), tmp_path / str(seed) / f"seed={seed}")
        shutil.copytree(tmp_path / str(seed) / f"seed={seed}", tmp_path / "both" / f"seed={seed}")
    both = load_runs(tmp_path / "both")
    one_by_one = pd.concat([load_runs(tmp_path / str(seed)).assign(run=f"seed={seed}") for seed in (0, 1)])
    pd.testing.assert_frame_equal(both, one_by_one.reset_index(drop=True))
    expected = [last_maps(Run(tmp_path / str(seed) / f"seed={seed}")).maps for seed in (0, 1)]
    assert all((last_maps(Run(tmp_path / "both" / f"seed={s}")).maps == expected[s]).all() for s in (0, 1))
