from itertools import combinations

import numpy as np
import pytest
import torch

from gaze.errors import DataError
from gaze.metrics.compare import compare_logits, compare_maps, compare_prepared, map_shape, prepare_maps
from gaze.studies.augmentation import pairs
from gaze.studies.augmentation.compared import MASK_COLUMNS, PAIR_COLUMNS, SHAPE_COLUMNS
from gaze.studies.augmentation.pairs import compare_runs, shapes_of_runs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cams():
    cams = np.random.default_rng(0).random((4, 11, 5, 6), dtype=np.float32)
    cams[1, 3], cams[2, 7] = 0, 0.5  # zero, flat
    return cams


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(1).normal(size=(4, 11, 3)).astype(np.float32)


def test_each_pair_is_what_compare_maps_gives(cams, logits, monkeypatch):
    monkeypatch.setattr(pairs, "IMAGES", 4)  # 3 chunks
    wanted, seen = np.array([True, False, True, True, True, False]), []
    values = compare_runs(cams, logits, wanted, CPU, seen.append)
    assert values.shape == (len(PAIR_COLUMNS), 6, 11)
    assert seen[-1] == 1
    assert seen == sorted(seen)
    for pair, (b, a) in enumerate(combinations(range(4), 2)):
        plain = compare_maps(torch.from_numpy(cams[b]), torch.from_numpy(cams[a]))
        plain["xcorr_lag"] = (plain["xcorr_lag_y"] ** 2 + plain["xcorr_lag_x"] ** 2).sqrt()
        there = compare_logits(torch.from_numpy(logits[b]), torch.from_numpy(logits[a]))["pred_kl"]
        back = compare_logits(torch.from_numpy(logits[a]), torch.from_numpy(logits[b]))["pred_kl"]
        plain["pred_kl"] = (there + back) / 2
        for column, own in zip(PAIR_COLUMNS, values[:, pair], strict=True):
            if column == "emd" and not wanted[pair]:
                assert np.isnan(own).all()
            else:
                np.testing.assert_allclose(own, plain[column].numpy(), rtol=1e-5, atol=1e-6, err_msg=column)


def test_dead_maps_are_nan_in_their_pairs_alone(cams, logits):
    values = compare_runs(cams, logits, np.ones(6, dtype=bool), CPU, lambda share: None)
    bad = np.isnan(values[PAIR_COLUMNS.index("pearson")])
    for pair, (b, a) in enumerate(combinations(range(4), 2)):
        assert set(np.flatnonzero(bad[pair])) == ({3} if 1 in (b, a) else set()) | ({7} if 2 in (b, a) else set())
    assert not np.isnan(values[PAIR_COLUMNS.index("pred_kl")]).any()


def test_threads_and_chunks_change_nothing(cams, logits, monkeypatch):
    monkeypatch.setattr(pairs, "IMAGES", 2)
    wanted, threads = np.ones(6, dtype=bool), torch.get_num_threads()
    first = compare_runs(cams, logits, wanted, CPU, lambda share: None)
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(pairs, "MEMORY", 1)  # an image at a time
    np.testing.assert_allclose(compare_runs(cams, logits, wanted, CPU, lambda share: None), first, atol=1e-6)


def test_an_interruption_ends_it_at_once(cams, logits, monkeypatch):
    monkeypatch.setattr(pairs, "IMAGES", 1)

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_runs(cams, logits, np.ones(6, dtype=bool), CPU, stop)


def test_errors_reach_the_caller(cams, logits):
    with pytest.raises(DataError, match="3x3"):
        compare_runs(cams[:, :, :3, :3], logits, np.ones(6, dtype=bool), CPU, lambda share: None)
    broken = logits.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        compare_runs(cams, broken, np.ones(6, dtype=bool), CPU, lambda share: None)


def test_prepared_maps_of_other_shapes_are_refused(cams):
    a = prepare_maps(torch.from_numpy(cams[0]))
    with pytest.raises(ValueError, match="one shape"):
        compare_prepared(a, prepare_maps(torch.from_numpy(cams[1, :5])))
    with pytest.raises(ValueError, match="one shape"):
        compare_prepared(a, prepare_maps(torch.from_numpy(cams[1]), region=3))
    with pytest.raises(ValueError, match="region=9"):
        prepare_maps(torch.from_numpy(cams[0]), region=9)
    assert len(compare_prepared(prepare_maps(torch.zeros(0, 5, 6)), prepare_maps(torch.zeros(0, 5, 6)))["mad"]) == 0


def test_shapes_are_those_of_each_map(cams):
    masks = torch.zeros(11, 10, 12)
    masks[:9, 2:5, 3:9] = 1  # the last two have no lesion
    shapes, valid = shapes_of_runs(cams, masks)
    assert list(shapes) == [*SHAPE_COLUMNS, *MASK_COLUMNS]
    for run in range(4):
        plain = map_shape(torch.from_numpy(cams[run]), masks)
        assert (valid[run] == plain["valid"].numpy()).all()
        for name in SHAPE_COLUMNS:
            np.testing.assert_array_equal(shapes[name][run], plain[name].numpy())
        np.testing.assert_array_equal(shapes["mask_energy"][run, :9], plain["mask_energy"][:9].numpy())
        assert np.isnan(shapes["mask_energy"][run, 9:]).all()
        assert np.isnan(shapes["mask_lift"][run, 9:]).all()
    assert not valid[1, 3]
    assert not valid[2, 7]
    assert valid.sum() == 42
    assert list(shapes_of_runs(cams, None)[0]) == list(SHAPE_COLUMNS)
