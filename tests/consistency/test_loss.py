"""gaze.consistency.loss against NumPy, SciPy and a literal reading of the thesis's equations."""

import doctest

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd import gradcheck

import gaze.cam.methods
import gaze.consistency.distances
import gaze.consistency.loss
import gaze.metrics.consistency
from gaze.cam.methods import normalize_cam
from gaze.cam.pool import pool_to_grid
from gaze.config.train import GazeConfig
from gaze.consistency.deviation import class_membership, gaze_deviation, map_entropy
from gaze.consistency.loss import GazeConsistencyLoss
from gaze.consistency.schedule import curriculum
from gaze.data.datamodule import Batch
from gaze.training.module import GazeModule

DISTANCES = ["squared", "l2"]
ALL = list(gaze.choices.DISTANCES)
REFERENCES = ["ema", "batch"]
K, H, W = 3, 4, 5


def _maps(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(n, H, W, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- deviation


def test_opposite_maps_have_the_largest_deviation():
    for distance, value in [("squared", 1.0), ("l2", 1 / (H * W) ** 0.5)]:
        deviation = gaze_deviation(torch.ones(2, H, W), torch.zeros(H, W), distance)
        torch.testing.assert_close(deviation, torch.full((2,), value))


@pytest.mark.parametrize("distance", DISTANCES)
def test_deviation_is_numpys_norm_for_one_reference_and_for_one_each(distance):
    cam, references = _maps(6, 1), _maps(6, 2)
    power = 2 if distance == "squared" else 1
    for reference in (references, references[0]):
        difference = (cam - reference).flatten(1).numpy()
        expected = np.linalg.norm(difference, axis=1) ** power / (H * W)
        np.testing.assert_allclose(gaze_deviation(cam, reference, distance), expected, rtol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_deviation_has_the_gradient_of_finite_differences(distance):
    cam, reference = _maps(3, 1).requires_grad_(), _maps(3, 2).requires_grad_()
    assert gradcheck(lambda c, r: gaze_deviation(c, r, distance), (cam, reference))


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_map_equal_to_its_reference_has_zero_deviation_and_zero_gradient(distance):
    cam = _maps(2).requires_grad_()
    deviation = gaze_deviation(cam, cam.detach().clone(), distance)
    deviation.sum().backward()
    assert deviation.tolist() == [0, 0]
    assert cam.grad is not None and not cam.grad.any()


def test_an_unknown_distance_is_named():
    with pytest.raises(ValueError, match=r"distance=cosine is unknown: squared, l2, .* or soft_iou"):
        gaze_deviation(_maps(1), _maps(1), "cosine")


# ---- membership and entropy


def test_members_are_the_correct_images_with_a_label_in_range():
    preds, target = torch.tensor([0, 1, 2, -1, 3, 0]), torch.tensor([0, 2, 2, -1, 3, 1])
    expected = [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert class_membership(preds, target, K).tolist() == expected


def test_membership_of_no_images_is_empty():
    assert class_membership(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), K).shape == (0, K)


def test_entropy_is_scipys_relative_to_a_uniform_map():
    cam = _maps(5)
    expected = entropy(cam.flatten(1).numpy(), axis=1) / np.log(H * W)
    np.testing.assert_allclose(map_entropy(cam), expected, rtol=1e-12)


def test_entropy_of_one_cell_is_zero_of_a_uniform_map_one_of_an_empty_map_zero():
    cam = torch.zeros(3, H, W)
    cam[0, 1, 2], cam[1] = 0.7, 0.3
    torch.testing.assert_close(map_entropy(cam), torch.tensor([0.0, 1.0, 0.0]))


# ---- curriculum


def _eq18(t: int, weight: float, t0: int, t1: int) -> float:
    if t < t0:
        return 0.0
    if t0 <= t < t1:
        return weight * (t - t0) / (t1 - t0)
    return weight


def test_curriculum_is_equation_18():
    for start, end in [(2, 10), (0, 4), (5, 5), (1, 1), (13, 20)]:
        for weight in [50.0, 0.0, -100.0]:
            epochs = range(1, 13)
            assert [curriculum(t, weight, start, end) for t in epochs] == [_eq18(t, weight, start, end) for t in epochs]


def test_curriculum_of_the_thesis_starts_at_epoch_3_and_is_full_at_10():
    assert [curriculum(t, 80.0) for t in (1, 2, 3, 6, 9, 10, 11)] == [0, 0, 10, 40, 70, 80, 80]


def test_a_curriculum_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match=r"ends \(epoch 3\) before it starts \(epoch 4\)"):
        curriculum(1, 50.0, start=4, end=3)


# ---- loss: Eq. 12-17, literally


class LiteralLoss:
    """Equations 12-17 as they are written: one class after the other, one image after the other."""

    def __init__(self, distance: str, reference: str, decay: float, min_samples: int) -> None:
        self.distance, self.reference, self.decay, self.min_samples = distance, reference, decay, min_samples
        self.ema: dict[int, torch.Tensor] = {}

    def __call__(self, cam: torch.Tensor, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        total, number = torch.zeros((), dtype=cam.dtype), 0
        for c in range(K):
            correct = [i for i in range(len(target)) if target[i] == c and preds[i] == c]
            if len(correct) < self.min_samples:
                continue
            mean = sum(cam[i] for i in correct) / len(correct)
            if self.reference == "ema":
                first = mean.detach()
                self.ema[c] = self.decay * self.ema[c] + (1 - self.decay) * first if c in self.ema else first
                mean = self.ema[c]
            for i in correct:
                norm = torch.linalg.vector_norm(cam[i] - mean)
                total = total + (norm**2 if self.distance == "squared" else norm) / (H * W)
                number += 1
        return total / number if number else total


def _batches(count: int = 6, size: int = 9) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of which the first lack class 0, then class 1, and of which one has no correct image."""
    g = torch.Generator().manual_seed(7)
    batches = []
    for step in range(count):
        target = torch.randint(K, (size,), generator=g)
        target[target == step] = 2
        wrong = torch.rand(size, generator=g) < (1.0 if step == 3 else 0.3)
        batches.append((_maps(size, step), torch.where(wrong, (target + 1) % K, target), target))
    return batches


@pytest.mark.parametrize("min_samples", [1, 2, 3])
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("distance", DISTANCES)
def test_loss_and_gradient_are_those_of_the_literal_loop(distance, reference, min_samples):
    loss = GazeConsistencyLoss(K, distance, reference, ema_decay=0.7, min_samples=min_samples)
    literal = LiteralLoss(distance, reference, 0.7, min_samples)
    for cam, preds, target in _batches():
        a, b = cam.clone().requires_grad_(), cam.clone().requires_grad_()
        ours, expected = loss(a, preds, target), literal(b, preds, target)
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-14)
        ours.backward()
        if expected.requires_grad:
            # min_samples=1 puts maps on their own mean, where the literal norm has the gradient nan
            (expected_gradient,) = torch.autograd.grad(expected, b)
            torch.testing.assert_close(a.grad, expected_gradient.nan_to_num(0.0), rtol=1e-9, atol=1e-12)
        else:
            assert not a.grad.any()
        for c in range(K):
            assert bool(loss.seen[c]) == (c in literal.ema)
            if c in literal.ema:
                torch.testing.assert_close(loss.class_gaze[c], literal.ema[c])


def test_the_first_reference_is_the_first_batch_mean_and_the_deviation_is_to_the_updated_one():
    loss = GazeConsistencyLoss(2, ema_decay=0.9, map_size=(2, 2))
    ones = torch.tensor([1, 1])
    assert loss(torch.full((2, 2, 2), 0.5), ones, ones).item() == 0
    torch.testing.assert_close(loss.class_gaze[1], torch.full((2, 2), 0.5))
    value = loss(torch.full((2, 2, 2), 1.0), ones, ones)  # reference 0.9 * 0.5 + 0.1 * 1
    torch.testing.assert_close(loss.class_gaze[1], torch.full((2, 2), 0.55))
    torch.testing.assert_close(value, torch.tensor(0.45**2))


def test_a_class_below_min_samples_neither_updates_nor_counts():
    loss = GazeConsistencyLoss(2, min_samples=2)
    target = torch.tensor([0, 0, 1])
    cam = _maps(3).requires_grad_()
    loss(cam, target, target).backward()
    assert loss.seen.tolist() == [True, False]
    assert not loss.class_gaze[1].any()
    assert cam.grad[:2].any() and not cam.grad[2].any()


def test_no_gradient_flows_into_the_ema_reference():
    # All maps of the class are alike: a reference that moved with them would leave no gradient but rounding.
    loss = GazeConsistencyLoss(1, ema_decay=0.5)
    target = torch.zeros(2, dtype=torch.int64)
    loss(torch.zeros(2, H, W), target, target)
    cam = torch.ones(2, H, W, requires_grad=True)
    loss(cam, target, target).backward()  # reference 0.5; d/dcam of mean square = 2 * 0.5 / (HW) / 2 images
    torch.testing.assert_close(cam.grad, torch.full_like(cam, 0.5 / (H * W)))


def test_loss_has_the_gradient_of_finite_differences():
    for distance in ALL:
        for reference in REFERENCES:
            loss = GazeConsistencyLoss(K, distance, reference, map_size=(H, W)).double()
            target = torch.tensor([0, 0, 0, 1, 1, 2, 2])
            preds = torch.tensor([0, 0, 0, 1, 1, 2, 0])
            loss(_maps(7, 3), target, target)
            loss.eval()  # a fixed reference: otherwise each call would move it
            assert gradcheck(
                lambda cam, loss=loss, target=target, preds=preds: loss(cam, preds, target), _maps(7).requires_grad_()
            )


def test_loss_is_zero_with_a_graph_when_no_class_qualifies():
    for distance in ALL:
        for reference in REFERENCES:
            cam = _maps(3).requires_grad_()
            for target in ([0, 1, 2], [-1, -1, -1], [-100, -100, -100]):
                labels = torch.tensor(target)
                value = GazeConsistencyLoss(K, distance, reference)(cam, labels, labels)
                assert value.item() == 0 and value.requires_grad
                (gradient,) = torch.autograd.grad(value, cam)
                assert not gradient.any()


def test_all_zero_maps_have_a_finite_gradient_through_their_normalisation():
    for distance in ALL:
        for reference in REFERENCES:
            raw = torch.randn(4, H, W, generator=torch.Generator().manual_seed(0))
            raw[0], raw[1] = -1.0, 0.0  # two maps without support
            raw.requires_grad_()
            target = torch.tensor([0, 0, 1, 1])
            loss = GazeConsistencyLoss(2, distance, reference)
            for _ in range(2):
                loss(normalize_cam(raw.relu()), target, target).backward()
            assert raw.grad.isfinite().all() and not raw.grad[:2].any() and raw.grad[2:].any()


@pytest.mark.parametrize("reference", REFERENCES)
def test_maps_equal_to_their_l2_reference_have_zero_gradient(reference):
    cam = _maps(1).expand(4, H, W).clone().requires_grad_()
    target = torch.zeros(4, dtype=torch.int64)
    value = GazeConsistencyLoss(1, "l2", reference)(cam, target, target)
    value.backward()
    assert value.item() < 1e-16 and cam.grad.isfinite().all() and cam.grad.abs().max() < 0.1


def test_loss_of_a_half_precision_map_is_finite():
    target = torch.tensor([0, 0, 1, 1])
    value = GazeConsistencyLoss(2)(_maps(4).bfloat16(), target, target)
    assert value.isfinite() and value > 0


# ---- buffers


def _trained_loss() -> GazeConsistencyLoss:
    loss = GazeConsistencyLoss(K)
    target = torch.tensor([0, 0, 2, 2])
    loss(_maps(4, dtype=torch.float32), target, target)
    return loss


@pytest.mark.parametrize("map_size", [None, (H, W)])
def test_class_gaze_survives_a_checkpoint(tmp_path, map_size):
    loss = _trained_loss()
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    fresh = GazeConsistencyLoss(K, map_size=map_size)
    fresh.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    torch.testing.assert_close(fresh.class_gaze, loss.class_gaze)
    assert fresh.seen.tolist() == [True, False, True]
    target = torch.tensor([0, 0, 1, 1])
    cam = _maps(4, 5, torch.float32)
    assert fresh(cam, target, target) == loss(cam, target, target)


def test_a_size_learned_inside_a_model_is_loaded_too():
    fresh = torch.nn.Sequential(GazeConsistencyLoss(K))
    fresh.load_state_dict(torch.nn.Sequential(_trained_loss()).state_dict())
    assert fresh[0].class_gaze.shape == (K, H, W)


def test_class_gaze_moves_with_the_loss():
    assert _trained_loss().double().class_gaze.dtype == torch.float64


def test_eval_mode_uses_the_class_gaze_and_leaves_it_alone():
    loss = _trained_loss().eval()
    before = loss.class_gaze.clone()
    target = torch.tensor([0, 0, 1, 1])  # class 1 was never seen: it has no reference
    cam = _maps(4, 9, torch.float32)
    value = loss(cam, target, target)
    assert torch.equal(loss.class_gaze, before) and loss.seen.tolist() == [True, False, True]
    torch.testing.assert_close(value, gaze_deviation(cam[:2], before[0]).mean())


def test_another_map_size_is_refused():
    target = torch.tensor([0, 0])
    with pytest.raises(ValueError, match=r"holds maps of \(4, 5\), this batch has \(2, 2\)"):
        _trained_loss()(torch.rand(2, 2, 2), target, target)


def test_bad_arguments_are_named():
    for arguments, message in [
        ({"distance": "cosine"}, "distance=cosine"),
        ({"reference": "median"}, "reference='median' is unknown: ema or batch"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"ema_decay": -0.1}, "ema_decay=-0.1"),
        ({"min_samples": 0}, "min_samples=0"),
        ({"num_classes": 0}, "num_classes=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            GazeConsistencyLoss(**{"num_classes": K, **arguments})
    assert GazeConsistencyLoss(num_classes=K, ema_decay=0.0).ema_decay == 0  # the last batch alone


# ---- no wait for the host


def test_fake_tensors_notice_a_wait_for_the_host():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.rand(2).sum().item()


def test_loss_never_waits_for_the_host():
    for distance in ALL:
        for reference in REFERENCES:
            with FakeTensorMode():  # has shapes and no values: .item(), nonzero, unique and `if tensor` raise
                loss = GazeConsistencyLoss(K, distance, reference, map_size=(H, W))
                cam = torch.rand(6, H, W, requires_grad=True)
                target = torch.randint(K, (6,))
                loss(cam, target, target).backward()
                assert cam.grad is not None


@pytest.mark.parametrize("reference", REFERENCES)
def test_loss_is_one_graph_whatever_the_classes(reference):
    eager = GazeConsistencyLoss(K, reference=reference, map_size=(H, W))
    compiled = torch.compile(
        GazeConsistencyLoss(K, reference=reference, map_size=(H, W)), fullgraph=True, backend="eager"
    )
    for cam, preds, target in _batches(3):
        torch.testing.assert_close(compiled(cam, preds, target), eager(cam, preds, target))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("model", ["level1", "level4"])
def test_the_training_step_never_waits_for_the_host(model, second_order):
    module = GazeModule(model, K, image_size=16, gaze_lambda=50, gaze=GazeConfig(second_order=second_order))
    with FakeTensorMode() as mode:
        for part in module.backbone.modules():
            part._parameters = {n: None if p is None else mode.from_tensor(p) for n, p in part._parameters.items()}
        for part in module.modules():
            part._buffers = {n: None if b is None else mode.from_tensor(b) for n, b in part._buffers.items()}
        for mean in module.train_means.values():
            mean.mean_value, mean.weight = (mode.from_tensor(state) for state in (mean.mean_value, mean.weight))
        batch = Batch(torch.rand(4, 1, 16, 16), torch.randint(K, (4,)), torch.arange(4), None)
        module.training_step(batch, 0).backward()
        assert all(p.grad is not None for p in module.parameters())


# ---- docstrings


@pytest.mark.parametrize(
    "module", [gaze.cam.methods, gaze.consistency.loss, gaze.metrics.consistency], ids=lambda m: m.__name__
)
def test_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0


def test_there_are_examples_in_the_docstrings():
    assert (
        doctest.testmod(gaze.consistency.loss).attempted >= 3
        and doctest.testmod(gaze.metrics.consistency).attempted >= 4
    )


# ---- common grid


def test_pooling_of_whole_cells_is_torchs_average_pooling():
    for size in [7, 28, 112]:
        cam = torch.rand(3, size, size, dtype=torch.float64)
        torch.testing.assert_close(pool_to_grid(cam, 7), F.adaptive_avg_pool2d(cam, 7))


def test_pooling_of_split_cells_goes_by_area():
    for grid in [1, 2, 7]:
        for shape in [(6, 6), (5, 9), (24, 10), (2, 2), (1, 3)]:
            cam = torch.rand(2, *shape, dtype=torch.float64)
            fine = torch.from_numpy(np.kron(cam.numpy(), np.ones((1, grid, grid))))  # tiles now hold whole cells
            torch.testing.assert_close(pool_to_grid(cam, grid), F.avg_pool2d(fine, shape))


def test_pooling_keeps_the_mean_and_the_range():
    for size in [6, 20, 112]:
        cam = torch.rand(4, size, size)
        pooled = pool_to_grid(cam, 7)
        torch.testing.assert_close(pooled.mean((1, 2)), cam.mean((1, 2)))
        assert pooled.amin() >= 0 and pooled.amax() <= 1
        assert pool_to_grid(torch.ones(1, size, size), 7).sub(1).abs().amax() < 1e-6


def test_pooling_can_be_differentiated():
    assert gradcheck(lambda cam: pool_to_grid(cam, 3), _maps(2).requires_grad_())
