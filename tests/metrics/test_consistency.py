"""gaze.metrics.consistency against a two-pass NumPy version in float64, and kappa against scikit-learn."""

import copy
import functools
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy, f_oneway
from sklearn.metrics import cohen_kappa_score
from torch import Tensor
from torchmetrics import MetricCollection

import gaze.metrics.consistency
from gaze.choices import DISTANCES
from gaze.errors import TrainingError
from gaze.metrics.classification import CohenKappa
from gaze.metrics.consistency import (
    BalancedGazeConsistency,
    ClassCounts,
    ClassGaze,
    CorrectCount,
    GazeConsistency,
    GazeEmptyFraction,
    GazeEntropy,
    GazeEpsilonSquared,
    GazeEtaSquared,
    GazeSums,
)
from gaze.training.module import _evaluation_metrics

K, H, W, GRID = 4, 3, 5, 2


class Evaluated:
    """Random maps, predictions and labels: class 3 has one correct image, some maps are empty, some rows padding."""

    def __init__(self, n: int = 60, seed: int = 0) -> None:
        g = np.random.default_rng(seed)
        self.target = g.integers(0, 3, n)
        self.preds = np.where(g.random(n) < 0.6, self.target, (self.target + 1) % K)
        self.target[5], self.preds[5] = 3, 3
        self.target[6:9] = -1
        self.preds[7] = -1
        self.cam = (g.random((n, H, W)) * 0.5 + 0.1 * self.target[:, None, None].clip(0)).astype(np.float32)
        self.cam[10:20] = 0

    def tensors(self, order: np.ndarray | slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.from_numpy(a[order].copy()) for a in (self.cam, self.preds, self.target))

    def feed(self, metric, sizes=(17, 1, 30, 12), order: np.ndarray | slice = slice(None)):
        """Updates a metric in batches of these sizes."""
        parts = [t.split(list(sizes)) for t in self.tensors(order)]
        for cam, preds, target in zip(*parts, strict=True):
            metric.update(cam=cam, preds=preds, target=target)
        return metric


@pytest.fixture(scope="module")
def data() -> Evaluated:
    return Evaluated()


def block_mean(cam: np.ndarray, grid: int) -> np.ndarray:
    """Each cell repeated until the tiles hold whole cells, then plain means of blocks."""
    fine = np.kron(cam, np.ones((grid, grid)))  # (H * grid, W * grid)
    return fine.reshape(grid, cam.shape[0], grid, cam.shape[1]).mean((1, 3))


def two_pass(data: Evaluated, min_samples: int = 2) -> dict[str, float]:
    """The definitions of shared/reference, one class and one image after the other: means first, then deviations."""
    images = {c: [] for c in range(K)}
    for cam, p, y in zip(data.cam.astype(np.float64), data.preds, data.target, strict=True):
        if y >= 0 and p == y:
            images[y].append(cam)
    everything = [cam for c in range(K) for cam in images[c]]
    squared, l2, grid, within = [], [], [], 0.0
    for c in range(K):
        if not images[c]:
            continue
        mean = np.mean(images[c], axis=0)
        distances = [np.linalg.norm(cam - mean) for cam in images[c]]
        within += sum(d**2 for d in distances)
        if len(images[c]) >= min_samples:
            squared += [d**2 / (H * W) for d in distances]
            l2 += [d / (H * W) for d in distances]
            pooled = np.array([block_mean(cam, GRID) for cam in images[c]])
            grid += list(np.square(pooled - pooled.mean(0)).mean((1, 2)))
    grand = np.mean(everything, axis=0)
    total, full = sum(np.linalg.norm(cam - grand) ** 2 for cam in everything), [own for own in images.values() if own]
    seen = [cam for cam in everything if cam.any()]
    return {
        "gaze_consistency": np.mean(squared),
        "gaze_consistency_l2": np.mean(l2),
        "gaze_consistency_grid": np.mean(grid),
        "gaze_consistency_balanced": np.mean(
            [np.var(own, 0, ddof=1).mean() for own in images.values() if len(own) > 1]
        ),
        "gaze_consistency_all": np.mean([np.var(data.cam[data.target == c], 0, ddof=1).mean() for c in range(3)]),
        "gaze_eta_squared": 1 - within / total,
        "gaze_epsilon_squared": 1 - within / (len(everything) - len(full)) / (total / (len(everything) - 1)),
        "gaze_empty_fraction": 1 - len(seen) / len(everything),
        "gaze_entropy": np.mean([entropy(cam.ravel()) / np.log(H * W) for cam in seen]),
        "n_correct": len(everything),
    }


def gaze_metrics(min_samples: int = 2) -> dict[str, GazeSums]:
    return {
        "gaze_consistency": GazeConsistency(K, "squared", min_samples),
        "gaze_consistency_l2": GazeConsistency(K, "l2", min_samples),
        "gaze_consistency_grid": GazeConsistency(K, "squared", min_samples, GRID),
        "gaze_consistency_balanced": BalancedGazeConsistency(K),
        "gaze_consistency_all": BalancedGazeConsistency(K, "all"),
        "gaze_eta_squared": GazeEtaSquared(K),
        "gaze_epsilon_squared": GazeEpsilonSquared(K),
        "gaze_empty_fraction": GazeEmptyFraction(K),
        "gaze_entropy": GazeEntropy(K),
        "n_correct": CorrectCount(K),
    }


# ---- values


def test_value_is_that_of_two_passes(data):
    for name in gaze_metrics():
        for min_samples in [1, 2, 9, 13]:
            value = data.feed(gaze_metrics(min_samples)[name]).compute()
            assert value.shape == () and value.dtype == torch.float32
            assert value.item() == pytest.approx(two_pass(data, min_samples)[name], rel=1e-6)


def test_min_samples_changes_the_value(data):
    values = {round(two_pass(data, m)["gaze_consistency"], 9) for m in (1, 2, 9, 13)}
    assert len(values) == 4


def test_order_and_size_of_batches_do_not_matter(data):
    for name in gaze_metrics():
        shuffled = np.random.default_rng(1).permutation(60)
        once = data.feed(gaze_metrics()[name], sizes=[60]).compute()
        torch.testing.assert_close(data.feed(gaze_metrics()[name], [1] * 60, shuffled).compute(), once)


@pytest.mark.parametrize("name", gaze_metrics())
def test_reset_forgets_everything(data, name):
    metric = data.feed(gaze_metrics()[name])
    metric.compute()
    metric.reset()
    other = Evaluated(60, seed=5)
    assert other.feed(metric).compute().item() == pytest.approx(two_pass(other)[name], rel=1e-6)


def test_forward_gives_the_batch_and_keeps_the_whole(data):
    for name in gaze_metrics():
        metric = gaze_metrics()[name]
        cam, preds, target = data.tensors()
        first = metric(cam[:30], preds[:30], target[:30])
        metric(cam[30:30], preds[30:30], target[30:30])
        metric(cam[30:], preds[30:], target[30:])
        alone = gaze_metrics()[name]
        alone.update(cam[:30], preds[:30], target[:30])
        torch.testing.assert_close(first, alone.compute())
        assert metric.compute().item() == pytest.approx(two_pass(data)[name], rel=1e-6)


def test_logits_do_as_predictions(data):
    for name in gaze_metrics():
        cam, preds, target = data.tensors()
        by_class, by_logits = gaze_metrics()[name], gaze_metrics()[name]
        rows = preds >= 0
        by_class.update(cam[rows], preds[rows], target[rows])
        by_logits.update(cam[rows], torch.nn.functional.one_hot(preds[rows], K).float(), target[rows])
        torch.testing.assert_close(by_logits.compute(), by_class.compute())


def test_class_gaze_is_the_mean_map_of_each_class_and_counts_stand_behind_it(data):
    means, counts = data.feed(ClassGaze(K)).compute(), data.feed(ClassCounts(K)).compute()
    for c in range(K):
        correct = (data.target == c) & (data.preds == c)
        assert counts[c] == correct.sum()
        np.testing.assert_allclose(means[c], data.cam[correct].mean(0), rtol=1e-5)
    assert not counts.is_floating_point()


def test_class_gaze_is_zero_where_a_class_has_no_correct_image():
    metric = ClassGaze(2)
    metric.update(torch.ones(1, H, W), torch.tensor([0]), torch.tensor([0]))
    assert metric.compute()[0].eq(1).all() and not metric.compute()[1].any()


# ---- eta squared


def test_eta_tells_a_shared_gaze_from_one_of_the_class():
    for shared, eta in [(True, 0.0), (False, 1.0)]:
        maps = torch.rand(2, H, W, generator=torch.Generator().manual_seed(0))
        target = torch.tensor([0, 0, 1, 1])
        metric = GazeEtaSquared(2)
        metric.update(maps[[0, 1, 0, 1] if shared else target], target, target)
        assert metric.compute().item() == pytest.approx(eta, abs=1e-6)
        assert 0 <= metric.compute() <= 1


def test_eta_is_nan_where_all_maps_are_equal():
    for value in [0.0, 0.1, 0.7]:
        for metric in (GazeEtaSquared(2), GazeEpsilonSquared(2)):
            target = torch.arange(30) % 2
            metric.update(torch.full((30, H, W), value), target, target)
            assert metric.compute().isnan()


def test_epsilon_squared_follows_from_scipys_f():
    g = np.random.default_rng(0)
    target = np.repeat([0, 1, 2], [4, 7, 9])
    value = g.random(20) * 0.5 + 0.2 * target  # maps with one cell that varies
    metric = GazeEpsilonSquared(3)
    cam = torch.from_numpy(np.stack([value, np.zeros(20)], 1)[:, None])
    metric.update(cam, torch.from_numpy(target), torch.from_numpy(target))
    f = f_oneway(*(value[target == c] for c in range(3))).statistic
    assert metric.compute().item() == pytest.approx(2 * (f - 1) / (2 * f + 17), rel=1e-6)


@pytest.mark.slow
def test_without_class_structure_epsilon_squared_is_zero_on_average_and_eta_squared_is_not():
    g = torch.Generator().manual_seed(0)
    for images, eta in ((8, 3 / 7), (20, 3 / 19), (40, 3 / 39)):
        target = torch.arange(images) % 4
        found = torch.zeros(2, 300)
        for draw in range(300):
            cam = torch.rand(images, 6, 6, generator=g)
            for row, metric in enumerate((GazeEtaSquared(4), GazeEpsilonSquared(4))):
                metric.update(cam, target, target)
                found[row, draw] = metric.compute()
        assert found.mean(1).tolist() == pytest.approx([eta, 0.0], abs=0.01)


# ---- the same images


def test_where_only_the_choice_of_images_changes_all_images_give_the_same_number(data):
    """Frozen maps of two kinds of image, one of which is learned first: L_CAM rises or falls with kappa."""
    cam, _, _ = data.tensors()
    target = torch.arange(60) % 2
    tight = target == 0
    cam[tight] = cam[0] + 0.01 * cam[tight]
    for first in (tight, ~tight):
        values = {GazeConsistency: [], BalancedGazeConsistency: []}
        for share in (0.3, 0.6, 0.9):
            right = torch.rand(60, generator=torch.Generator().manual_seed(1)) < torch.where(first, 1.0, share)
            for kind, metric in (
                (GazeConsistency, GazeConsistency(2)),
                (BalancedGazeConsistency, BalancedGazeConsistency(2, "all")),
            ):
                metric.update(cam, torch.where(right, target, 1 - target), target)
                values[kind].append(metric.compute().item())
        assert (values[GazeConsistency] == sorted(values[GazeConsistency])) == (first is tight)
        assert len(set(values[BalancedGazeConsistency])) == 1


def test_images_of_another_word_are_refused():
    with pytest.raises(ValueError, match="images='right' must be 'correct' or 'all'"):
        BalancedGazeConsistency(2, "right")


# ---- nothing to measure


def test_maps_that_are_all_empty_are_nan_and_not_perfectly_consistent():
    target = torch.tensor([0, 0, 0, 1, 1, 1])
    for distance in DISTANCES:
        for metric in (GazeConsistency(2, distance), GazeConsistency(2, distance, common_grid=GRID)):
            metric.update(torch.zeros(6, H, W), target, target)
            assert metric.compute().isnan()
            metric.update(torch.full((6, H, W), 0.5), target, target)
            assert metric.compute().isfinite()
    for images in ("correct", "all"):
        metric = BalancedGazeConsistency(2, images)
        metric.update(torch.zeros(6, H, W), target, target)
        assert metric.compute().isnan()


def test_only_the_maps_of_classes_that_count_say_whether_all_are_empty():
    cam, target = torch.zeros(4, H, W), torch.tensor([0, 1, 1, 1])
    cam[0] = 0.5  # the one image of a class that min_samples leaves out
    for min_samples, empty in ((2, True), (1, False)):
        metric = GazeConsistency(2, min_samples=min_samples)
        metric.update(cam, target, target)
        assert metric.compute().isnan() == empty
    assert GazeEmptyFraction(2)(cam, target, target) == 0.75


def test_no_correct_image_gives_nan_and_a_count_of_zero(data):
    for name in sorted({*gaze_metrics()} - {"gaze_consistency_all"}):
        metric = gaze_metrics()[name]
        cam, _, target = data.tensors()
        metric.update(cam, (target + 1) % K, target)
        expected = 0.0 if name == "n_correct" else float("nan")
        assert metric.compute().item() == pytest.approx(expected, nan_ok=True)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_no_image_at_all_gives_nan_and_a_count_of_zero():
    for name in gaze_metrics():
        expected = 0.0 if name == "n_correct" else float("nan")
        metric = gaze_metrics()[name]
        assert metric.compute().item() == pytest.approx(expected, nan_ok=True)
        metric.update(torch.zeros(0, H, W), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
        assert metric.compute().item() == pytest.approx(expected, nan_ok=True)


def test_padding_rows_change_nothing(data):
    for name in gaze_metrics():
        cam, preds, target = data.tensors()
        rows = target >= 0
        without = gaze_metrics()[name]
        without.update(cam[rows], preds[rows], target[rows])
        torch.testing.assert_close(data.feed(gaze_metrics()[name]).compute(), without.compute())


# ---- bad input


def test_maps_of_another_size_are_refused_until_reset(data):
    for name in sorted({*gaze_metrics()} - {"gaze_consistency_grid"}):
        metric = data.feed(gaze_metrics()[name])
        one = torch.tensor([0])
        with pytest.raises(ValueError, match=r"Maps of \(2, 2\) after maps of \(3, 5\)"):
            metric.update(torch.rand(1, 2, 2), one, one)
        metric.reset()
        metric.update(torch.rand(1, 2, 2), one, one)


def test_maps_of_any_size_meet_on_the_common_grid(data):
    small, large = data.cam[:, :2, :4], np.kron(data.cam[:, :2, :4], np.ones((1, 3, 3), np.float32))
    preds, target = torch.from_numpy(data.preds), torch.from_numpy(data.target)
    values = []
    for cam in (small, large):
        metric = GazeConsistency(K, common_grid=GRID)
        metric.update(torch.from_numpy(cam), preds, target)
        values.append(metric.compute())
    torch.testing.assert_close(values[0], values[1])


def test_a_grid_without_tiles_is_refused():
    for grid in [0, -1]:
        with pytest.raises(ValueError, match=f"common_grid={grid} must be 1 or more"):
            GazeConsistency(K, common_grid=grid)


def test_normalised_maps_bring_no_warning(data):
    metric = data.feed(GazeConsistency(K))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.compute()


def test_bad_arguments_are_named():
    for arguments in [{"distance": "cosine"}, {"min_samples": 0}, {"num_classes": 0}]:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            GazeConsistency(**{"num_classes": K, **arguments})


# ---- numerics and memory


def test_a_hundred_thousand_nearly_equal_maps_keep_six_digits():
    g = torch.Generator().manual_seed(0)
    metrics = [GazeConsistency(2), GazeConsistency(2, "l2"), GazeEtaSquared(2)]
    target = torch.arange(1000) % 2
    batches = []
    for _ in range(100):
        cam = 0.9 + 1e-4 * (2 * torch.rand(1000, 2, 2, generator=g) - 1) + 2e-5 * target[:, None, None]
        batches.append(cam)
        for metric in metrics:
            metric.update(cam, target, target)
    maps = torch.cat(batches).double().numpy()
    labels = target.repeat(100).numpy()
    deviations = np.concatenate([maps[labels == c] - maps[labels == c].mean(0) for c in (0, 1)])
    square = (deviations**2).sum((1, 2))
    eta = 1 - square.sum() / ((maps - maps.mean(0)) ** 2).sum()
    expected = [square.mean() / 4, np.sqrt(square).mean() / 4, eta]
    for metric, value in zip(metrics, expected, strict=True):
        assert metric.compute().item() == pytest.approx(value, rel=1e-6)


def test_sums_do_not_grow_with_the_number_of_images(data):
    metric = GazeConsistency(K)

    def elements() -> int:
        return sum(state.numel() for state in metric.metric_state.values())

    cam, preds, target = data.tensors(slice(0, 2))
    for _ in range(10):
        metric.update(cam, preds, target)
    after_10 = elements()
    for _ in range(990):
        metric.update(cam, preds, target)
    assert elements() == after_10 == K * H * W + 3 * K + 4


def test_maps_of_any_precision_are_summed_wide(data):
    for name in gaze_metrics():
        for dtype in [torch.bfloat16, torch.float16, torch.float64]:
            cam, preds, target = data.tensors()
            metric, wide = gaze_metrics()[name], gaze_metrics()[name]
            metric.update(cam.to(dtype), preds, target)
            wide.update(cam.to(dtype).float(), preds, target)
            torch.testing.assert_close(metric.compute(), wide.compute(), rtol=1e-6, atol=0)


def test_maps_with_a_graph_leave_none_in_the_states(data):
    cam, preds, target = data.tensors()
    metric = GazeConsistency(K, "l2")
    metric.update(cam.requires_grad_(), preds, target)
    assert not metric.map_sum.requires_grad and not metric.maps[0].requires_grad


# ---- maps in a file

KEEPING = [name for name in DISTANCES if name not in ("squared", "pearson")]


@pytest.fixture
def in_files(monkeypatch, tmp_path):
    """A folder where files of maps go, 8 maps each."""
    monkeypatch.setattr(gaze.metrics.consistency, "KEPT", 8 * 4 * H * W - 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("distance", KEEPING)
def test_maps_in_files_give_the_value_to_half_precision(data, distance, in_files, monkeypatch):
    """Twice, since what was read leaves memory; nothing has a name that a killed process would leave behind."""
    metric = data.feed(GazeConsistency(K, distance), [4] * 15)
    assert [(str(maps.dtype), len(maps)) for maps in metric.maps] == [("torch.float16", 8)] * 7 + [("torch.float32", 4)]
    assert not list(in_files.iterdir())
    values = []
    for _ in range(2):
        values.append(metric.compute())
        metric._computed = None
    monkeypatch.setattr(gaze.metrics.consistency, "KEPT", 2**28)
    torch.testing.assert_close(values[0], data.feed(GazeConsistency(K, distance)).compute(), rtol=2e-4, atol=0)
    assert torch.equal(*values)


def test_maps_in_files_are_forgotten_copied_and_shared(data, in_files):
    kinds = {distance: GazeConsistency(K, distance) for distance in ("l2", "js")}
    collection, batch = MetricCollection(kinds, compute_groups=[["l2", "js"]]), _without_padding(data)
    for copied in (lambda c: c, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))):
        collection.reset()
        collection.update(**{key: value[:20] for key, value in batch.items()})
        collection = copied(collection)
        collection.update(**{key: value[20:] for key, value in batch.items()})
        values = collection.compute()
        assert values["l2"].item() == pytest.approx(two_pass(data)["gaze_consistency_l2"], rel=1e-4)
        torch.testing.assert_close(values["js"], data.feed(GazeConsistency(K, "js")).compute(), rtol=1e-3, atol=0)
    metric = GazeConsistency(K, "l2")
    for rows in (slice(0, 20), slice(20, None)):
        metric(**{key: value[rows] for key, value in batch.items()})  # forward: a batch of its own in between
    assert metric.compute().item() == pytest.approx(two_pass(data)["gaze_consistency_l2"], rel=1e-4)


def test_a_disk_without_room_is_said(data, in_files, monkeypatch):
    full = functools.partial(Path("/dev/full").open, "wb", buffering=0)
    monkeypatch.setattr(gaze.metrics.consistency, "TemporaryFile", full)
    with pytest.raises(TrainingError, match=rf"no room in {in_files}: No space left on device\..* variable TMPDIR"):
        data.feed(GazeConsistency(K, "l2"))


# ---- kappa


def test_kappa_is_scikit_learns():
    for seed in range(3):
        g = np.random.default_rng(seed)
        target = g.integers(0, K, 50)
        preds = np.where(g.random(50) < 0.5, target, g.integers(0, K, 50))
        kappa = CohenKappa(K)
        for p, t in zip(np.array_split(preds, 4), np.array_split(target, 4), strict=True):
            kappa.update(torch.from_numpy(p), torch.from_numpy(t))
        assert kappa.compute().item() == pytest.approx(cohen_kappa_score(target, preds), abs=1e-6)


def test_kappa_is_zero_where_one_class_stands_alone():
    for preds, target in [([1, 1, 1], [1, 1, 1]), ([0, 1, 1], [1, 1, 1]), ([1, 1], [0, 1])]:
        kappa = CohenKappa(2)
        kappa.update(torch.tensor(preds), torch.tensor(target))
        assert kappa.compute().item() == 0


# ---- in a MetricCollection


def _collection(compute_groups: bool | list[list[str]] = True) -> MetricCollection:
    return MetricCollection({"kappa": CohenKappa(K), **gaze_metrics()}, compute_groups=compute_groups)


def _without_padding(data: Evaluated) -> dict[str, Tensor]:
    cam, preds, target = data.tensors()
    rows = target >= 0  # torchmetrics' accuracy knows no padding
    return {"cam": cam[rows], "preds": preds[rows], "target": target[rows]}


def _assert_values(values: dict[str, Tensor], data: Evaluated) -> None:
    for name, expected in two_pass(data).items():
        assert values[name].item() == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize("compute_groups", [True, False])
def test_a_collection_gives_each_metric_its_own_value(data, compute_groups):
    collection = _collection(compute_groups)
    batch = _without_padding(data)
    for rows in (slice(0, 20), slice(20, 21), slice(21, None)):
        collection.update(**{key: value[rows] for key, value in batch.items()})
    values = collection.compute()
    _assert_values(values, data)
    expected = cohen_kappa_score(batch["target"], batch["preds"])
    assert values["kappa"].item() == pytest.approx(expected, abs=1e-6)


def test_the_metrics_of_the_module_share_one_set_of_sums(data, monkeypatch):
    updates = []

    @functools.wraps(GazeSums.update)  # with its signature, by which a collection picks the arguments
    def counted(self, *args, original=GazeSums.update, **kwargs):
        updates.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(GazeSums, "update", counted)  # before metrics are made: they wrap their own
    collection, batch = _evaluation_metrics(K, 2, GRID), _without_padding(data)
    for _ in range(3):
        collection.update(**batch)
    assert (
        len(updates) == 4 * 3
    )  # the sums of nine metrics, those of the l2 form, those on the common grid, those of all images
    shared = {
        "gaze_consistency",
        "gaze_consistency_balanced",
        "gaze_epsilon_squared",
        "gaze_eta_squared",
        "gaze_empty_fraction",
        "gaze_entropy",
        "n_correct",
    }
    assert shared | {"class_gaze", "class_counts"} in [set(group) for group in collection.compute_groups.values()]


def test_the_default_groups_find_the_shared_sums_too(data):
    collection = _collection()
    collection.update(**_without_padding(data))
    shared = set(gaze_metrics()) - {"gaze_consistency_l2", "gaze_consistency_grid", "gaze_consistency_all"}
    assert shared in [set(group) for group in collection.compute_groups.values()]


def test_a_collection_of_the_module_is_reset_and_used_again(data):
    collection, batch = _evaluation_metrics(K, 2, GRID), _without_padding(data)
    for _ in range(2):
        collection.update(**batch)
        _assert_values(collection.compute(), data)
        collection.reset()


def test_forward_of_a_collection_gives_the_batch_and_keeps_the_whole(data):
    collection, batch = _collection(), _without_padding(data)
    _assert_values(collection(**batch), data)
    collection.reset()
    for rows in (slice(0, 20), slice(20, None)):
        collection(**{key: value[rows] for key, value in batch.items()})
    _assert_values(collection.compute(), data)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)), lambda c: c.clone(), lambda c: c.to("cpu")],
    ids=["deepcopy", "pickle", "clone", "to"],
)
def test_a_copy_goes_on_where_the_original_stood(data, copied):
    collection, batch = _collection(), _without_padding(data)
    collection.update(**{key: value[:20] for key, value in batch.items()})
    other = copied(collection)
    other.update(**{key: value[20:] for key, value in batch.items()})
    _assert_values(other.compute(), data)


@pytest.mark.parametrize("name", gaze_metrics())
def test_persistent_states_survive_a_checkpoint(data, name, tmp_path):
    metric, fresh = data.feed(gaze_metrics()[name]), gaze_metrics()[name]
    assert not metric.state_dict()  # not persistent unless asked
    metric.persistent(True)
    fresh.persistent(True)
    torch.save(metric.state_dict(), tmp_path / "metric.pt")
    fresh.load_state_dict(torch.load(tmp_path / "metric.pt", weights_only=True))
    fresh._update_count = 1
    assert fresh.compute().item() == pytest.approx(two_pass(data)[name], rel=1e-6)


def test_half_turns_no_sum_narrow(data):
    metric = GazeConsistency(K).half()  # as a whole module in half precision would do
    assert data.feed(metric).compute().item() == pytest.approx(two_pass(data)["gaze_consistency"], rel=1e-6)
