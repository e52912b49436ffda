"""gaze.metrics.lesion against literal loops over cells and pixels."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from gaze.metrics.lesion import GazeMaskEnergy, GazeMaskLift, GazePointing, MaskSums, mask_energy, mask_lift, pointing

K, N, H, W, S, T = 3, 40, 4, 6, 9, 14  # 9 x 14 pixels do not line up with 4 x 6 cells
METRICS = {"energy": GazeMaskEnergy, "lift": GazeMaskLift, "pointing": GazePointing}


class Evaluated:
    """Random maps and box masks; some images wrong, some padding, some maps all zero, some masks empty."""

    def __init__(self, seed: int = 0) -> None:
        g = np.random.default_rng(seed)
        self.cam = g.random((N, H, W)).astype(np.float32)
        self.target = g.integers(0, K, N)
        self.preds = np.where(g.random(N) < 0.7, self.target, (self.target + 1) % K)
        self.mask = np.zeros((N, 1, S, T), np.float32)
        for i in range(N):
            top, left = g.integers(0, S - 2), g.integers(0, T - 2)
            self.mask[i, 0, top : top + g.integers(1, 7), left : left + g.integers(1, 9)] = 1
            if i % 2:  # half of the maps have their maximum near the lesion
                self.cam[i, top * H // S, left * W // T + 1 :] += 0.5
        self.cam /= self.cam.max()
        self.cam[3:6] = 0
        self.mask[6:9] = 0
        self.target[9:11] = self.preds[9:11] = -1
        self.target[3:9] = self.preds[3:9] = 1  # what is left out would count otherwise

    def tensors(self, rows: slice = slice(None)) -> dict[str, Tensor]:
        return {name: torch.from_numpy(value[rows].copy()) for name, value in vars(self).items()}

    def counted(self) -> list[int]:
        right = (self.preds == self.target) & (self.target >= 0)
        return [i for i in range(N) if right[i] and self.mask[i].any() and self.cam[i].any()]


@pytest.fixture(scope="module")
def data() -> Evaluated:
    return Evaluated()


def energy_by_hand(cam: np.ndarray, mask: np.ndarray) -> float:
    """Each cell and each pixel in turn, with the area that they share."""
    (h, w), (s, t), inside = cam.shape, mask.shape, 0.0
    for i in range(h):
        for j in range(w):
            for y in range(s):
                for x in range(t):
                    tall = max(0.0, min((i + 1) / h, (y + 1) / s) - max(i / h, y / s))
                    wide = max(0.0, min((j + 1) / w, (x + 1) / t) - max(j / w, x / t))
                    inside += cam[i, j] * mask[y, x] * tall * wide * h * w
    return inside / cam.sum()


def hit_by_hand(cam: np.ndarray, mask: np.ndarray, tolerance: int = 0) -> float:
    (h, w), (s, t), hits, best = cam.shape, mask.shape, [], cam.max()
    for i in range(h):
        for j in range(w):
            if cam[i, j] == best:
                y, x = math.floor((i + 0.5) * s / h), math.floor((j + 0.5) * t / w)
                around = mask[max(0, y - tolerance) : y + tolerance + 1, max(0, x - tolerance) : x + tolerance + 1]
                hits.append(bool(around.any()))
    return sum(hits) / len(hits)


def by_hand(data: Evaluated, name: str, tolerance: int = 0) -> float:
    values = []
    for i in data.counted():
        cam, mask = data.cam[i].astype(np.float64), data.mask[i, 0].astype(np.float64)
        if name == "pointing":
            values.append(hit_by_hand(cam, mask, tolerance))
        else:
            values.append(energy_by_hand(cam, mask) / (mask.mean() if name == "lift" else 1))
    return float(np.mean(values))


def fed(metric: MaskSums, data: Evaluated, sizes: tuple[int, ...] = (N,)) -> MaskSums:
    start = 0
    for size in sizes:
        metric.update(**data.tensors(slice(start, start + size)))
        start += size
    return metric


# ---- values


def test_value_is_that_of_a_loop_over_cells_and_pixels(data):
    for name in METRICS:
        assert 10 < len(data.counted()) < 30
        value = fed(METRICS[name](K), data).compute()
        assert value.dtype == torch.float32 and value.shape == ()
        assert value.item() == pytest.approx(by_hand(data, name), rel=1e-6)
        assert 0.05 < value < 3


def test_tolerance_widens_the_lesion(data):
    for tolerance in [1, 2]:
        value = fed(GazePointing(K, tolerance), data).compute().item()
        assert value == pytest.approx(by_hand(data, "pointing", tolerance), rel=1e-6)
        assert value > by_hand(data, "pointing", tolerance - 1)


def test_functions_at_other_sizes():
    for shape in [((4, 4), (8, 8)), ((8, 8), (8, 8)), ((5, 5), (7, 7)), ((8, 8), (4, 4))]:
        (h, w), size = shape
        g = np.random.default_rng(1)
        cam, mask = g.random((6, h, w)), (g.random((6, 1, *size)) < 0.4).astype(np.float64)
        both = torch.from_numpy(cam), torch.from_numpy(mask)
        expected = [energy_by_hand(c, m[0]) for c, m in zip(cam, mask, strict=True)]
        np.testing.assert_allclose(mask_energy(*both), expected, rtol=1e-12)
        np.testing.assert_allclose(mask_lift(*both), np.array(expected) / mask.mean((1, 2, 3)), rtol=1e-12)
        np.testing.assert_array_equal(pointing(*both), [hit_by_hand(c, m[0]) for c, m in zip(cam, mask, strict=True)])


def test_a_uniform_gaze_has_lift_one_and_a_perfect_one_has_all_energy():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:4, 4:8] = 1
    torch.testing.assert_close(mask_lift(torch.ones(1, 4, 4), mask), torch.ones(1))
    inside = torch.zeros(1, 4, 4)
    inside[0, 1, 2:] = 1
    torch.testing.assert_close(mask_energy(inside, mask), torch.ones(1))
    torch.testing.assert_close(mask_lift(inside, mask), torch.tensor([8.0]))
    assert pointing(inside, mask) == 1 and mask_energy(1 - inside, mask) == 0 and pointing(1 - inside, mask) == 0


def test_cells_that_tie_share_the_hit_in_any_order():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    cam = torch.zeros(1, 4, 4)
    cam[0, 0, 0] = cam[0, 2, 1] = cam[0, 3, 3] = 1  # two of three in the left half
    for turned in (cam, cam.flip(1)):
        torch.testing.assert_close(pointing(turned, mask), torch.tensor([2 / 3]))


def test_the_centre_of_a_coarse_cell_is_what_counts():
    mask = torch.ones(1, 1, 9, 9)
    mask[..., 4, 4] = 0  # the middle pixel, where the one cell of a 1x1 map has its centre
    assert pointing(torch.ones(1, 1, 1), mask) == 0 and pointing(torch.ones(1, 1, 1), 1 - mask) == 1
    corner = torch.zeros(1, 1, 4, 4)
    corner[..., 2, 2] = 1  # lower right of the four pixels around the centre
    assert pointing(torch.ones(1, 1, 1), corner) == 1


# ---- what counts


def test_wrong_images_padding_zero_maps_and_empty_masks_do_not_count(data):
    whole = fed(GazeMaskEnergy(K), data)
    assert whole.count == len(data.counted())
    only = copy.copy(data)
    only.cam, only.target, only.preds, only.mask = (v[data.counted()] for v in vars(data).values())
    for cls in METRICS.values():
        torch.testing.assert_close(fed(cls(K), only).compute(), fed(cls(K), data).compute())


def test_nan_where_there_is_nothing_to_average(data):
    for cls in METRICS.values():
        for change in ["cam", "mask", "wrong", "nothing at all"]:
            batch = data.tensors()
            if change in ("cam", "mask"):
                batch[change] = torch.zeros_like(batch[change])
            if change == "wrong":
                batch["preds"] = (batch["target"] + 1) % K
            rows = 0 if change == "nothing at all" else N
            metric = cls(K)
            metric.update(**{name: value[:rows] for name, value in batch.items()})
            assert metric.compute().isnan()


def test_predictions_may_be_logits(data):
    batch = data.tensors()
    logits = torch.nn.functional.one_hot(batch["preds"].clamp(min=0), K).float()
    metric = GazePointing(K)
    metric.update(**{**batch, "preds": logits})
    assert metric.compute() == fed(GazePointing(K), data).compute()


# ---- states


def test_two_halves_merged_are_the_whole(data):
    for cls in METRICS.values():
        whole, first, second = fed(cls(K), data), cls(K), cls(K)
        first.update(**data.tensors(slice(0, 13)))
        second.update(**data.tensors(slice(13, N)))
        assert first.compute() != second.compute()
        for name in first._defaults:  # as DDP does
            assert first._reductions[name] is whole._reductions[name]
            setattr(first, name, whole._reductions[name](torch.stack([getattr(first, name), getattr(second, name)])))
        first._computed = None
        torch.testing.assert_close(first.compute(), whole.compute(), rtol=1e-7, atol=0)


def test_sizes_of_batches_do_not_matter_and_memory_is_constant(data):
    for sizes in [(1,) * N, (17, 0, 23), (39, 1)]:
        metric = fed(GazeMaskLift(K), data, sizes)
        torch.testing.assert_close(metric.compute(), fed(GazeMaskLift(K), data).compute())
        assert [getattr(metric, name).shape for name in metric._defaults] == [()] * 7
        assert {getattr(metric, name).dtype for name in metric._defaults} == {torch.float64}


def test_a_collection_updates_the_shared_states_once(data, monkeypatch):
    calls = []
    update = MaskSums.update
    monkeypatch.setattr(MaskSums, "update", lambda self, *a, **k: calls.append(1) or update(self, *a, **k))
    metrics = MetricCollection({n: cls(K) for n, cls in METRICS.items()}, compute_groups=[list(METRICS)])
    metrics.update(**data.tensors())
    values = metrics.compute()
    assert len(calls) == 1
    for name in METRICS:
        assert values[name].item() == pytest.approx(by_hand(data, name), rel=1e-6)


def test_no_graph_is_kept(data):
    batch = data.tensors()
    batch["cam"].requires_grad_()
    metric = GazeMaskEnergy(K)
    metric.update(**batch)
    assert not any(getattr(metric, name).requires_grad for name in metric._defaults)
    assert not metric.compute().requires_grad and not GazeMaskEnergy.is_differentiable


def test_reset_starts_afresh(data):
    metric = fed(GazePointing(K), data)
    metric.reset()
    assert metric.count == metric.hit_sum == 0


# ---- errors


def test_shapes_that_do_not_fit_are_named(data):
    for change in [{"mask": (N, S, T)}, {"mask": (N, 2, S, T)}, {"mask": (3, 1, S, T)}]:
        batch = data.tensors()
        batch |= {name: torch.zeros(shape) for name, shape in change.items()}
        (shape,) = change.values()
        with pytest.raises(ValueError, match="masks \\(B, 1, S, T\\)") as error:
            GazeMaskEnergy(K).update(**batch)
        assert str(shape) in str(error.value)


def test_settings_out_of_range():
    for arguments in [{"num_classes": 0}, {"num_classes": 2, "tolerance": -1}]:
        with pytest.raises(ValueError, match="must be"):
            GazePointing(**arguments)
