"""gaze.metrics.compare against SciPy, NumPy and a linear programme."""

import numpy as np
import pytest
import torch
from scipy import ndimage, signal, stats
from scipy.optimize import linprog
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist, jensenshannon
from scipy.special import rel_entr, softmax

from gaze.errors import DataError
from gaze.metrics.compare import compare_logits, compare_maps, map_shape

SIZES = [(4, 4), (5, 7), (9, 4), (14, 14), (7, 28)]
PAIR = {
    "mad", "msd", "pearson", "spearman", "overlap", "sim", "js", "emd", "centroid_shift",
    "xcorr_peak", "xcorr_lag_y", "xcorr_lag_x", "region_mad", "valid",
}  # fmt: skip
SHAPE = {"dispersion", "entropy", "gini", "centroid_y", "centroid_x", "valid"}
MASK = {"mask_energy", "mask_area", "mask_lift"}


def _maps(n: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Half smooth values, half values on a coarse scale with many ties and zeros."""
    cam = torch.rand(n, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cam[n // 2 :] = (cam[n // 2 :] * 6 - 2).floor().clamp(min=0)
    return cam


def _one_cell(size: tuple[int, int], y: int, x: int) -> torch.Tensor:
    cam = torch.zeros(1, *size)
    cam[0, y, x] = 3.0
    return cam


def _s(cam: np.ndarray) -> np.ndarray:
    return (cam - cam.min()) / (cam.max() - cam.min())


def _p(cam: np.ndarray) -> np.ndarray:
    return _s(cam) / _s(cam).sum()


def _centres(size: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in size), indexing="ij"), -1).reshape(-1, 2)


def _linear_programme(p: np.ndarray, q: np.ndarray) -> float:
    """Earth mover's distance / sqrt 2 by HiGHS: rows and columns of the plan sum to p and to q."""
    n, cost = p.size, cdist(_centres(p.shape), _centres(p.shape))
    rows, columns = np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))
    left, right = np.vstack([rows, columns])[:-1], np.hstack([p.ravel(), q.ravel()])[:-1]
    done = linprog(cost.ravel(), A_eq=csr_array(left), b_eq=right, method="highs")
    return float(done.fun) / np.sqrt(2)


def _pairs(size: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(_maps(6, size, 1).numpy(), _maps(6, size, 2).numpy(), strict=True))


def _column(name: str, size: tuple[int, int], **kwargs: object) -> np.ndarray:
    return compare_maps(_maps(6, size, 1), _maps(6, size, 2), emd=name == "emd", **kwargs)[name].numpy()


# ---- columns of a pair


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    number = int(np.ceil(a.size / 5))
    top = [{i for i in np.argsort(-_s(m).ravel(), kind="stable")[:number] if _s(m).ravel()[i] > 0} for m in (a, b)]
    return len(top[0] & top[1]) / len(top[0] | top[1])


PAIR_ORACLES = {
    "mad": lambda a, b: np.abs(_s(a) - _s(b)).mean(),
    "msd": lambda a, b: ((_s(a) - _s(b)) ** 2).mean(),
    "pearson": lambda a, b: stats.pearsonr(a.ravel(), b.ravel()).statistic,
    "spearman": lambda a, b: stats.spearmanr(a.ravel(), b.ravel()).statistic,
    "overlap": _overlap,
    "sim": lambda a, b: 1 - np.abs(_p(a) - _p(b)).sum() / 2,  # total variation
    "js": lambda a, b: jensenshannon(_p(a).ravel(), _p(b).ravel(), base=2) ** 2,
    "centroid_shift": lambda a, b: (
        np.linalg.norm((np.array(ndimage.center_of_mass(_s(a))) - ndimage.center_of_mass(_s(b))) / a.shape) / np.sqrt(2)
    ),
}


def test_column_is_that_of_an_independent_implementation():
    for name in PAIR_ORACLES:
        for size in SIZES:
            expected = [PAIR_ORACLES[name](a, b) for a, b in _pairs(size)]
            np.testing.assert_allclose(_column(name, size), expected, rtol=1e-9, atol=1e-12)


def test_cross_correlation_is_scipys():
    for size in SIZES:
        for k, (a, b) in enumerate(_pairs(size)):
            a, b = _s(a) - _s(a).mean(), _s(b) - _s(b).mean()
            full = signal.correlate2d(b, a) / np.linalg.norm(a) / np.linalg.norm(b)
            lags = np.argwhere(full > full.max() - 1e-9) - np.array(size) + 1  # coarse values have equal peaks
            expected = [full.max(), *lags[(lags**2).sum(1).argmin()]]
            got = [_column(f"xcorr_{name}", size)[k] for name in ("peak", "lag_y", "lag_x")]
            np.testing.assert_allclose(got, expected, atol=1e-9)


def test_of_equal_peaks_the_shortest_lag_counts():
    comb = torch.zeros(1, 8, 8, dtype=torch.float64)
    comb[0, 4, 2] = comb[0, 4, 4] = 1
    dot = torch.zeros(1, 8, 8, dtype=torch.float64)
    dot[0, 4, 3] = 1
    # The dot fits on either tooth, one cell away; the mirror image must give the mirrored peak.
    there, back = compare_maps(comb, dot), compare_maps(dot, comb)
    assert [abs(c[f"xcorr_lag_{axis}"].item()) for c in (there, back) for axis in "yx"] == [0, 1, 0, 1]
    torch.testing.assert_close(there["xcorr_peak"], back["xcorr_peak"])


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (8, 4)])
def test_emd_is_the_optimum_of_the_linear_programme(size):
    expected = [_linear_programme(_p(a), _p(b)) for a, b in _pairs(size)[1:5]]
    np.testing.assert_allclose(_column("emd", size)[1:5], expected, atol=1e-8)


@pytest.mark.parametrize("size", [(14, 14), (9, 28)])
def test_emd_of_a_fine_grid_is_that_of_the_map_pooled_to_seven_tiles(size):
    def pool(p: np.ndarray) -> np.ndarray:
        fine = p.repeat(7, 0).repeat(7, 1) / 49  # each cell as 7 x 7 parts: a whole number of them in each tile
        return fine.reshape(7, p.shape[0], 7, p.shape[1]).sum((1, 3))

    expected = [_linear_programme(pool(_p(a)), pool(_p(b))) for a, b in _pairs(size)[2:4]]
    np.testing.assert_allclose(_column("emd", size)[2:4], expected, atol=1e-8)


def test_region_mad_is_the_difference_of_pooled_maps():
    for size in [(4, 4), (9, 6), (28, 28)]:
        region, weights = 2 if size[0] == 4 else 3, None
        for weighted in (False, True):
            number = region * region
            w = np.arange(1, number + 1).reshape(region, region) if weighted else np.ones((region, region))
            weights = torch.tensor(w) if weighted else None
            expected = []
            for a, b in _pairs(size):
                fine = [_s(m).repeat(region, 0).repeat(region, 1) for m in (a, b)]
                tiles = [f.reshape(region, size[0], region, size[1]).mean((1, 3)) for f in fine]
                expected.append(np.average(np.abs(tiles[0] - tiles[1]), weights=w))
            got = _column("region_mad", size, region=region, region_weights=weights)
            np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_default_region_is_four_by_four():
    torch.testing.assert_close(_column("region_mad", (8, 8)), _column("region_mad", (8, 8), region=4))
    assert not np.allclose(_column("region_mad", (8, 8)), _column("region_mad", (8, 8), region=2))


def test_ties_at_the_top_go_to_the_first_cells_and_zeros_never_count():
    first, last = torch.zeros(1, 5, 5), torch.zeros(1, 5, 5)
    first[0, 0] = first[0, 1, :2] = last[0, 0, :4] = last[0, 4] = 1  # 7 and 9 alike, 5 wanted
    # Top 5: cells 0-4 and cells 0-3, 20.
    assert compare_maps(first, last)["overlap"].item() == pytest.approx(4 / 6)
    assert compare_maps(_one_cell((5, 5), 4, 4), _one_cell((5, 5), 4, 3))["overlap"].item() == 0


# ---- what is known of pairs


def test_columns_are_those_of_the_table():
    a, b = _maps(2, (5, 5)), _maps(2, (5, 5), 1)
    assert set(compare_maps(a, b)) == PAIR
    assert set(compare_maps(a, b, emd=False)) == PAIR - {"emd"}
    assert set(map_shape(a)) == SHAPE
    assert set(map_shape(a, a > 0.5)) == SHAPE | MASK
    assert all(c.dtype == torch.float64 and c.shape == (2,) for n, c in compare_maps(a, b).items() if n != "valid")


def test_identical_maps_are_at_one_or_zero():
    for size in [*SIZES, (28, 28)]:
        a = _maps(6, size, 3).float()
        columns = compare_maps(a, 2.5 * a + 0.5)  # an increase of scale and offset is none after min-max
        for name in ("pearson", "spearman", "sim", "overlap", "xcorr_peak"):
            torch.testing.assert_close(columns[name], torch.ones(6).double(), atol=2e-6, rtol=0)
        for name in ("mad", "msd", "js", "emd", "centroid_shift", "region_mad", "xcorr_lag_y", "xcorr_lag_x"):
            torch.testing.assert_close(columns[name], torch.zeros(6).double(), atol=2e-6, rtol=0)


def test_a_shifted_blob_gives_its_lag():
    for dy, dx in [(0, 0), (3, 0), (0, -2), (-4, 3)]:
        y, x = torch.meshgrid(torch.arange(15.0), torch.arange(13.0), indexing="ij")
        blob = [torch.exp(-((y - 7 - sy) ** 2 + (x - 6 - sx) ** 2) / 2)[None] for sy, sx in ((0, 0), (dy, dx))]
        columns = compare_maps(*blob)
        assert (columns["xcorr_lag_y"].item(), columns["xcorr_lag_x"].item()) == (dy, dx)
        assert columns["xcorr_peak"] > 0.9


def test_opposite_corners_are_as_far_apart_as_cells_can_be():
    for size in [(4, 4), (8, 8), (6, 5), (28, 28)]:
        columns = compare_maps(_one_cell(size, 0, 0), _one_cell(size, size[0] - 1, size[1] - 1))
        far = np.hypot(1 - 1 / size[0], 1 - 1 / size[1]) / np.sqrt(2)
        assert columns["centroid_shift"].item() == pytest.approx(far)
        assert columns["emd"].item() == pytest.approx(far if max(size) <= 8 else 1 - 1 / 7)
        assert (columns["sim"].item(), columns["js"].item()) == (0, 1)
        assert (columns["xcorr_lag_y"].item(), columns["xcorr_lag_x"].item()) == (size[0] - 1, size[1] - 1)


def test_columns_stay_in_their_ranges():
    extreme = torch.cat([_one_cell((6, 6), y, x) for y in (0, 3, 5) for x in (0, 5)])
    extreme = torch.cat([extreme, extreme.max() - extreme, 1e-30 * extreme, 1e30 * extreme, _maps(12, (6, 6))])
    first, second = (extreme[i] for i in torch.cartesian_prod(*[torch.arange(len(extreme))] * 2).T)
    columns, signed = compare_maps(first, second), {"pearson", "spearman"}
    assert columns.pop("valid").all()
    for name, column in columns.items():
        low, high = (-5, 5) if "lag" in name else (-1 if name in signed else 0, 1)
        assert low <= column.min() and column.max() <= high, name


def test_only_the_lags_have_a_direction():
    a, b = _maps(8, (6, 6), 1), _maps(8, (6, 6), 2)
    there, back = compare_maps(a, b), compare_maps(b, a)
    for name in PAIR:
        torch.testing.assert_close(-there[name] if "lag" in name else there[name], back[name])


def test_a_batch_equals_one_by_one():
    for size in [(6, 6), (9, 14)]:
        a, b = _maps(12, size, 1), _maps(12, size, 2)
        a[3], b[5] = 0, 0.2
        alone = [compare_maps(a[k : k + 1], b[k : k + 1]) for k in range(12)]
        for name, column in compare_maps(a, b).items():
            torch.testing.assert_close(column, torch.cat([c[name] for c in alone]), equal_nan=True)
        mask = torch.rand(12, 11, 20)
        alone = [map_shape(a[k : k + 1], mask[k : k + 1]) for k in range(12)]
        for name, column in map_shape(a, mask).items():
            torch.testing.assert_close(column, torch.cat([c[name] for c in alone]), equal_nan=True)


def test_zero_and_flat_maps_are_nan_in_every_column_and_told():
    a = _maps(8, (6, 6)).float()
    a[0], a[1], a[2] = 0, 0.1, 0.1 + 1e-8 * torch.rand(6, 6)
    others = _maps(8, (6, 6), 5).float()
    chosen = torch.ones(8, dtype=torch.bool)
    chosen[3] = False
    expected = [False] * 3 + [True] * 5
    for columns in (compare_maps(a, others), compare_maps(others, a), map_shape(a, a > 0.5)):
        assert columns.pop("valid").tolist() == expected
        assert all(column.isnan().tolist() == [not ok for ok in expected] for column in columns.values())
    assert compare_maps(a, others, valid=chosen)["valid"].tolist() == [False] * 4 + [True] * 4
    assert compare_maps(a[:3], a[:3])["emd"].isnan().all()
    assert compare_maps(a[:0], a[:0])["emd"].shape == map_shape(a[:0])["gini"].shape == (0,)


# ---- one map


SHAPE_ORACLES = {
    "dispersion": lambda m: np.sqrt(
        (_p(m).ravel() @ ((_centres(m.shape) - _p(m).ravel() @ _centres(m.shape)) ** 2)).sum() / 2
    ),
    "entropy": lambda m: stats.entropy(_p(m).ravel(), base=m.size),
    "gini": lambda m: np.abs(_p(m).ravel()[:, None] - _p(m).ravel()).sum() / (2 * m.size**2 * _p(m).mean()),
    "centroid_y": lambda m: (ndimage.center_of_mass(_s(m))[0] + 0.5) / m.shape[0],
    "centroid_x": lambda m: (ndimage.center_of_mass(_s(m))[1] + 0.5) / m.shape[1],
}


def test_shape_is_that_of_an_independent_implementation():
    for name in SHAPE_ORACLES:
        for size in SIZES:
            expected = [SHAPE_ORACLES[name](m) for m in _maps(6, size).numpy()]
            np.testing.assert_allclose(map_shape(_maps(6, size))[name], expected, rtol=1e-9)


def test_shape_of_extreme_maps():
    size = (20, 20)
    corners = _one_cell(size, 0, 0) + _one_cell(size, 19, 19)
    columns = map_shape(torch.cat([_one_cell(size, 3, 4), corners]))
    np.testing.assert_allclose(columns["dispersion"], [0, 0.5 * (1 - 1 / 20)], atol=1e-12)
    np.testing.assert_allclose(columns["entropy"], [0, np.log(2) / np.log(400)], atol=1e-12)
    np.testing.assert_allclose(columns["gini"], [1 - 1 / 400, 1 - 2 / 400])
    np.testing.assert_allclose([columns["centroid_y"][0], columns["centroid_x"][0]], [3.5 / 20, 4.5 / 20])


def test_mask_is_read_by_area():
    for factor in [1, 2, 16]:
        cam = _maps(4, (6, 9))
        mask = torch.rand(4, 6 * factor, 9 * factor, generator=torch.Generator().manual_seed(4)) > 0.6
        pooled = mask.numpy().reshape(4, 6, factor, 9, factor).mean((2, 4))
        energy = [(_p(m) * k).sum() for m, k in zip(cam.numpy(), pooled, strict=True)]
        columns, area = map_shape(cam, mask), mask.numpy().mean((1, 2))
        np.testing.assert_allclose(columns["mask_energy"], energy)
        np.testing.assert_allclose(columns["mask_area"], area)
        np.testing.assert_allclose(columns["mask_lift"], energy / area)


def test_a_mask_smaller_than_the_map_is_nearest_and_one_of_odd_size_keeps_its_area():
    cam, mask = _maps(3, (6, 6)), torch.rand(3, 3, 2, dtype=torch.float64)
    nearest = mask.repeat_interleave(2, 1).repeat_interleave(3, 2)
    for name in MASK:
        torch.testing.assert_close(map_shape(cam, mask)[name], map_shape(cam, nearest)[name])
    odd = torch.rand(3, 13, 5, dtype=torch.float64)
    torch.testing.assert_close(map_shape(cam, odd)["mask_area"], odd.mean((1, 2)))


def test_full_and_empty_masks():
    cam = _maps(2, (6, 6))
    columns = map_shape(cam, torch.stack([torch.ones(9, 9), torch.zeros(9, 9)]))
    np.testing.assert_allclose(columns["mask_energy"], [1, 0])
    np.testing.assert_allclose(columns["mask_area"], [1, 0])
    np.testing.assert_allclose(columns["mask_lift"], [1, np.nan])


# ---- predictions


def test_pred_kl_is_scipys_and_has_a_direction():
    b, a = 8 * torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b[0], a[0] = torch.tensor([900.0, 0, 0, 0, 0]), 1.0
    expected = rel_entr(softmax(b.numpy(), 1), softmax(a.numpy(), 1)).sum(1)
    np.testing.assert_allclose(compare_logits(b, a)["pred_kl"], expected, rtol=1e-9)
    assert not np.allclose(compare_logits(a, b)["pred_kl"], expected)
    assert compare_logits(b, b + 3)["pred_kl"].abs().max() < 1e-12


# ---- errors


def test_what_does_not_fit_is_refused():
    for call, error, message in [
        (lambda a: compare_maps(a, a[:, :5]), ValueError, "maps of one shape"),
        (lambda a: compare_maps(a[0], a[0]), ValueError, r"maps \(B, H, W\)"),
        (lambda a: map_shape(a.long()), ValueError, "floating type"),
        (lambda a: compare_maps(a[:, :3], a[:, :3]), DataError, "3x6 cells are too coarse.*earlier layer"),
        (lambda a: map_shape(a[:, :, :3]), DataError, "map_shape: maps of 6x3"),
        (lambda a: compare_maps(a - 0.5, a), ValueError, "negative, NaN or infinite"),
        (lambda a: compare_maps(a, a * torch.nan), ValueError, "negative, NaN or infinite"),
        (lambda a: map_shape(a * torch.inf), ValueError, "negative, NaN or infinite"),
        (lambda a: compare_maps(a, a, region=7), ValueError, r"region=7 must be 1\.\.6"),
        (lambda a: compare_maps(a, a, region=0), ValueError, "region=0"),
        (lambda a: compare_maps(a, a, region_weights=torch.ones(3, 3)), ValueError, r"must be \(4, 4\)"),
        (lambda a: compare_maps(a, a, region_weights=torch.zeros(4, 4)), ValueError, "not all 0"),
        (lambda a: compare_maps(a, a, region_weights=-torch.ones(4, 4)), ValueError, ">= 0"),
        (lambda a: compare_maps(a, a, valid=torch.ones(3, dtype=torch.bool)), ValueError, "valid must be bool"),
        (lambda a: compare_maps(a, a, valid=torch.ones(2)), ValueError, "valid must be bool"),
        (lambda a: map_shape(a, a[:1]), ValueError, "one mask"),
        (lambda a: map_shape(a, 255 * a), ValueError, "masks in 0..1"),
        (lambda a: map_shape(a, a * torch.nan), ValueError, "masks in 0..1"),
        (lambda a: compare_logits(a[0], a[0, :3]), ValueError, r"two \(B, K\)"),
        (lambda a: compare_logits(a[0], a[0] * torch.nan), ValueError, "finite logits"),
        (lambda a: compare_logits(a[0, :, :1], a[1, :, :1]), ValueError, "two scores or more"),
    ]:
        with pytest.raises(error, match=message):
            call(torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0)))


def test_no_column_carries_a_gradient():
    a = _maps(2, (5, 5)).requires_grad_()
    assert not any(column.requires_grad for column in [*compare_maps(a, a).values(), *map_shape(a, a > 0.5).values()])
