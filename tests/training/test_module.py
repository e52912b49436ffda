"""gaze.training.module: where the losses meet. Against hand-written gradients, plain training and a two-pass metric."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, f1_score
from tiny_modules import (
    SIZE,
    K,
    alone,
    flat,
    gradients_of,
    loader_of,
    mostly_right,
    noise_batch,
    tiny_module,
    tiny_trainer,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

import gaze
import gaze.backbones.looking
from gaze.backbones.levels import LEVELS, build_backbone
from gaze.choices import GUIDANCE, METHODS
from gaze.config.augmentation import AugmentationConfig
from gaze.config.built import AdamConfig
from gaze.config.data import DatasetConfig
from gaze.config.train import GazeConfig
from gaze.data.datamodule import Batch, GazeDataModule, View
from gaze.data.datasets import ImageData, load_dataset
from gaze.errors import ConfigError
from gaze.training.module import GazeModule

LOG_KEYS = {
    "train/loss", "train/loss_cls", "train/loss_gaze", "train/lambda", "lr",
    "val/loss", "val/accuracy", "val/kappa", "val/balanced_accuracy", "val/f1_macro",
    "val/gaze_consistency", "val/gaze_consistency_l2",
    "val/gaze_eta_squared", "val/gaze_empty_fraction", "val/gaze_entropy", "val/n_correct",
    "val/gaze_consistency_grid", "val/gaze_mask_energy", "val/gaze_mask_lift", "val/gaze_pointing",
    "val/gaze_consistency_balanced", "val/gaze_consistency_all", "val/gaze_epsilon_squared",
    *(f"val/n_correct/{c}" for c in range(K)),
}  # fmt: skip
MASK_KEYS = {"val/gaze_mask_energy", "val/gaze_mask_lift", "val/gaze_pointing"}
CONFIG = DatasetConfig(image_size=SIZE, batch_size=8, train_images=24, test_images=20)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
]


@pytest.fixture(scope="module")
def images() -> ImageData:
    return load_dataset(CONFIG)


@pytest.fixture
def data(images) -> GazeDataModule:
    return GazeDataModule(CONFIG, data=images)


# ---- the gaze


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", LEVELS)
def test_the_gaze_is_the_same_in_every_grad_mode(name, train):
    module, batch = tiny_module(name, dropout=False).train(train), noise_batch(4)

    twins = [copy.deepcopy(module) for _ in range(4)]  # train mode moves BatchNorm's running statistics
    plain = twins[0].look(batch.image, batch.target)
    with torch.no_grad():
        others = [twins[1].look(batch.image, batch.target)]
    with torch.inference_mode():
        others.append(twins[2].look(batch.image, batch.target))
        others.append(twins[3].look(batch.image.clone(), batch.target.clone()))  # made in inference mode
    for other in others:
        assert torch.equal(plain.logits, other.logits) and torch.equal(plain.cam, other.cam)
    assert plain.cam.shape == (4, *module.gaze_loss.class_gaze.shape[1:])
    assert plain.cam.requires_grad == plain.logits.requires_grad == train
    assert not any(t.requires_grad for other in others for t in other)
    assert plain.cam.amin() == 0 and plain.cam.amax() > 0.99 and module.training == train


def test_the_gaze_of_level2_is_its_closed_form():
    """Global average pooling of a ReLU: d y / d A_k is w_k / Z where A is positive, so alpha is known."""
    module, batch = tiny_module(dropout=False).eval(), noise_batch(6)
    logits, cam = module.look(batch.image, batch.target)
    expected_logits, expected = _level2_by_hand(module, batch)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(cam, expected, rtol=1e-3, atol=1e-4)


def test_the_gaze_depends_on_the_class_asked_for():
    module, batch = tiny_module().eval(), noise_batch(4)
    a, b = (module.look(batch.image, torch.full((4,), c)).cam for c in (0, 1))
    assert (a - b).abs().amax() > 1e-2


@pytest.mark.parametrize("name", ["level1", "level2"])
def test_a_module_is_looked_at_where_its_run_looks(name):
    module, batch = tiny_module(name).eval(), noise_batch(4)
    expected = module.look(batch.image, batch.target)
    for a, b in zip(gaze.look(module, batch.image, batch.target), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module(batch.image), expected.logits)


# ---- the loss


def _level2_by_hand(module: GazeModule, batch: Batch, second_order: bool = True) -> tuple[Tensor, Tensor]:
    """Logits and normalised maps of the true class, with no autograd.grad."""
    a = module.backbone.features(batch.image)
    linear = module.backbone.head[-1]
    cells = a.shape[2] * a.shape[3]
    logits = linear(a.relu().mean((2, 3)))
    maps = []
    for i, c in enumerate(batch.target.tolist()):
        alpha = linear.weight[c] * (a[i] > 0).to(a.dtype).sum((1, 2)) / cells**2
        alpha = alpha if second_order else alpha.detach()
        cam = sum(alpha[k] * a[i, k] for k in range(len(alpha))).clamp(min=0)
        maps.append((cam - cam.min()) / (cam.max() - cam.min() + 1e-8))
    return logits, torch.stack(maps)


def _loss_by_hand(module, batch, weight, reference, second_order=True) -> tuple[Tensor, Tensor]:
    """L_cls + lambda L_CAM, class by class (Eq. 11-17), first step of the EMA."""
    logits, cam = _level2_by_hand(module, batch, second_order)
    total, number = 0.0, 0
    for c in range(K):
        own = cam[(logits.argmax(1) == c) & (batch.target == c)]
        if len(own) < 2:
            continue
        mean = own.mean(0)
        mean = mean.detach() if reference == "ema" else mean
        total = total + sum((m - mean).square().mean() for m in own)
        number += len(own)
    assert number >= 4  # the test would be empty otherwise
    return -logits.log_softmax(1)[range(len(cam)), batch.target].mean() + weight * total / number, total / number


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("reference", ["ema", "batch"])
@pytest.mark.parametrize("weight", [50.0, -3.0])
def test_the_loss_and_its_gradient_are_those_by_hand(weight, reference, second_order):
    config = GazeConfig(reference=reference, second_order=second_order)
    module = alone(tiny_module(dropout=False, gaze_lambda=weight, gaze=config)).double().train()
    batch = noise_batch()
    batch = mostly_right(module, batch._replace(image=batch.image.double()))
    twin = copy.deepcopy(module)

    loss = module.training_step(batch, 0)
    expected, expected_gaze = _loss_by_hand(twin, batch, weight, reference, second_order)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)  # the class gaze is kept in float64 here too
    torch.testing.assert_close(module.logged["train/loss_gaze"], expected_gaze.detach(), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(module.logged["train/loss"], loss.detach())
    ours, theirs = gradients_of(module, loss), gradients_of(twin, expected)
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-7, msg=lambda m, key=key: f"{key}: {m}")


def test_first_and_second_order_differ():
    gradients = {}
    for second_order in (True, False):
        config = GazeConfig(second_order=second_order, reference="batch")
        module = alone(tiny_module(dropout=False, gaze_lambda=50.0, gaze=config)).train()
        batch = mostly_right(module, noise_batch())
        gradients[second_order] = flat(gradients_of(module, module.training_step(batch, 0)))
    assert F.cosine_similarity(gradients[True], gradients[False], dim=0) < 0.999


@pytest.mark.parametrize("name", ["level1", "level2"])
def test_lambda_pulls_gazes_together_or_pushes_them_apart(name):
    def last_over_first(weight: float) -> float:
        module = alone(tiny_module(name, dropout=False, gaze_lambda=weight, gaze=GazeConfig(reference="batch"))).train()
        batch = mostly_right(module, noise_batch(16))
        optimizer = torch.optim.SGD(module.parameters(), 1e-3 if name == "level2" else 1e-2)
        values = []
        for step in range(8):
            loss = module.training_step(batch, step)
            values.append(module.logged["train/loss_gaze"].item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert min(values) > 0
        return values[-1] / values[0]

    assert last_over_first(50.0) < 0.97
    assert last_over_first(-50.0) > 1.03


def test_without_a_correct_image_the_step_is_plain():
    module = alone(tiny_module(dropout=False, gaze_lambda=50.0)).train()
    batch = mostly_right(module, noise_batch())
    with torch.no_grad():
        wrong = (copy.deepcopy(module).backbone(batch.image).argmax(1) + 1) % K
    batch = batch._replace(target=wrong)
    plain = copy.deepcopy(module)
    plain.gaze_weight = 0.0
    a, b = gradients_of(module, module.training_step(batch, 0)), gradients_of(plain, plain.training_step(batch, 0))
    torch.testing.assert_close(a, b)
    assert module.logged["train/loss_gaze"] == 0 and not module.gaze_loss.seen.any()


# ---- guided by masks


def _masked(batch: Batch) -> Batch:
    """A box in each image, but for every fourth."""
    mask = torch.zeros(len(batch.target), 1, SIZE, SIZE)
    for i in range(len(mask)):
        mask[i, 0, 4 * (i % 4) :, : 10 + i] = i % 4 != 3
    return batch._replace(mask=mask)


@pytest.mark.parametrize("form", GUIDANCE)
@pytest.mark.parametrize("weight", [0.0, 50.0])
def test_the_guided_loss_and_its_gradient_are_those_by_hand(weight, form):
    """Beside lambda, too; the mask is enlarged cell by cell here."""
    config = GazeConfig(reference="batch", mask_weight=7.0, mask_form=form)
    module = alone(tiny_module(dropout=False, gaze_lambda=weight, gaze=config)).double().train()
    batch = noise_batch()
    batch = _masked(mostly_right(module, batch._replace(image=batch.image.double())))
    twin = copy.deepcopy(module)
    loss = module.training_step(batch, 0)

    expected, _ = _loss_by_hand(twin, batch, weight, "batch")
    logits, cam = _level2_by_hand(twin, batch)
    block = SIZE // cam.shape[1]
    terms = []
    for i in range(len(cam)):
        if logits[i].argmax() != batch.target[i] or i % 4 == 3:
            continue
        big, outside = cam[i].repeat_interleave(block, 0).repeat_interleave(block, 1), 1 - batch.mask[i, 0].double()
        q, p = F.avg_pool2d(batch.mask[i].double(), block)[0], 0.99 * cam[i] / cam[i].sum() + 0.01 / cam[i].numel()
        terms.append(
            F.kl_div(p.log(), q / q.sum(), reduction="sum")
            if form == "attention"
            else (big * outside).sum() / (big.sum() if form == "energy" else outside.sum())
        )
    guided = torch.stack(terms).mean()
    assert len(terms) >= 4 and guided > 0.05
    torch.testing.assert_close(loss, expected + 7 * guided, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(module.logged["train/loss_mask"], guided.detach(), rtol=1e-5, atol=1e-8)
    ours, theirs = flat(gradients_of(module, loss)), flat(gradients_of(twin, expected + 7 * guided))
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_guided(method, dtype):
    """A few steps raise the energy in the masks, in bfloat16 too."""
    config = {"mask_weight": 20.0, "method": method}
    module = alone(tiny_module(dropout=False, gaze=config)).train()
    batch = _masked(mostly_right(module, noise_batch(16)))
    optimizer, values = torch.optim.SGD(module.parameters(), 3e-3), []
    for step in range(6):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = module.training_step(batch, step)
        assert loss.dtype == torch.float32
        values.append(module.logged["train/loss_mask"].item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.97 * values[0]


def test_masks_that_guide_have_to_be_there():
    module = alone(tiny_module(gaze={"mask_weight": 1.0})).train()
    with pytest.raises(ValueError, match="needs batches with masks"):
        module.training_step(noise_batch(), 0)


def test_the_guide_has_a_curriculum_of_its_own(tmp_path, data):
    seen = []
    epochs = {"start_epoch": 0, "end_epoch": 0, "mask_start_epoch": 1, "mask_end_epoch": 3}
    module = tiny_module("level1", gaze_lambda=0.5, gaze={"mask_weight": 4.0, **epochs})
    trainer = tiny_trainer(tmp_path, max_epochs=3)
    trainer.callbacks.append(
        LambdaCallback(on_train_epoch_end=lambda t, m: seen.append((m.mask_weight, dict(t.callback_metrics))))
    )
    trainer.fit(module, data)
    assert [weight for weight, _ in seen] == [0.0, 2.0, 4.0]
    assert ["train/loss_mask" in logged for _, logged in seen] == [False, True, True]
    for weight, logged in seen[1:]:
        total = logged["train/loss_cls"] + 0.5 * logged["train/loss_gaze"] + weight * logged["train/loss_mask"]
        torch.testing.assert_close(logged["train/loss"], total)


# ---- two views


def _twice(batch: Batch) -> Batch:
    """The second view is mirrored."""
    frames = torch.eye(2, 3).repeat(2, len(batch.target), 1, 1)
    frames[1, :, 0, 0] = -1
    return batch._replace(view=View(batch.image.flip(3), frames))


def test_the_loss_of_two_views_and_its_gradient_are_those_by_hand():
    config = GazeConfig(reference="view")
    module = alone(tiny_module(dropout=False, gaze_lambda=50.0, gaze=config)).double().train()
    batch = noise_batch()
    batch = _twice(mostly_right(module, batch._replace(image=batch.image.double())))
    twin = copy.deepcopy(module)
    loss = module.training_step(batch, 0)

    logits, cam = _level2_by_hand(twin, batch)
    others, other = _level2_by_hand(twin, batch._replace(image=batch.view.image))
    right = (logits.argmax(1) == batch.target) & (others.argmax(1) == batch.target)
    assert 3 <= right.sum() < len(right)
    gaze_loss = (cam - other.flip(2)).square().mean((1, 2))[right].mean()
    expected = F.cross_entropy(logits, batch.target) + 50 * gaze_loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(module.logged["train/loss_gaze"], gaze_loss.detach(), rtol=1e-5, atol=1e-8)
    ours, theirs = flat(gradients_of(module, loss)), flat(gradients_of(twin, expected))
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    assert not module.gaze_loss.seen.any()  # no class has a gaze
    with pytest.raises(ValueError, match="needs batches with a second view"):
        module.training_step(batch._replace(view=None), 0)


def test_a_fit_brings_the_views_of_an_image_together(tmp_path, images):
    """In bfloat16, from the flips and crops of the data module."""
    losses = {}
    for weight in (1e-6, 20.0):
        module = tiny_module("level1", gaze_lambda=weight, gaze={"reference": "view", "start_epoch": 0, "end_epoch": 0})
        augmentation = AugmentationConfig(name="x", hflip=0.5, crop_scale=[0.5, 0.9])
        data = GazeDataModule(CONFIG, augmentation, data=images, seed=0, views=True)
        trainer = tiny_trainer(tmp_path, max_epochs=6, precision="bf16-mixed", limit_val_batches=0)
        trainer.fit(module, data)
        losses[weight] = trainer.callback_metrics["train/loss_gaze"].item()
    assert 0 < losses[20.0] < 0.8 * losses[1e-6], losses


# ---- lambda 0 costs nothing


def test_lambda_0_computes_no_cam(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("grad_cam was called")

    monkeypatch.setattr(gaze.backbones.looking, "weighted_map", forbidden)
    module = alone(tiny_module(gaze_lambda=0.0)).train()
    module.training_step(noise_batch(), 0).backward()
    assert "train/loss_gaze" not in module.logged
    assert torch.equal(module.logged["train/loss"], module.logged["train/loss_cls"])
    module.gaze_weight = 1.0
    with pytest.raises(AssertionError, match="grad_cam was called"):
        module.training_step(noise_batch(), 0)


def test_lambda_0_records_the_graph_of_plain_training():
    def nodes(loss: Tensor) -> list[str]:
        found, stack = [], [loss.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None:
                found.append(node.name())
                stack += [parent for parent, _ in node.next_functions]
        return sorted(found)

    module, batch = alone(tiny_module(gaze_lambda=0.0)).train(), noise_batch()
    plain = F.cross_entropy(module.backbone(batch.image), batch.target)
    assert nodes(module.training_step(batch, 0)) == nodes(plain)


@pytest.mark.parametrize("name", ["level1", "level2"])
def test_lambda_0_steps_are_those_of_a_bare_loop(name):
    batches = [noise_batch(seed=seed) for seed in range(3)]
    torch.manual_seed(0)
    module = alone(GazeModule(name, K, 1, SIZE, optimizer={"lr": 1e-3})).train()
    torch.manual_seed(0)
    net = build_backbone(name, K).to(memory_format=torch.channels_last).train()  # as the module does

    torch.manual_seed(1)
    optimizer = module.configure_optimizers()["optimizer"]
    for i, batch in enumerate(batches):
        optimizer.zero_grad()
        module.training_step(batch, i).backward()
        optimizer.step()
    torch.manual_seed(1)  # the same dropout
    bare = torch.optim.Adam(net.parameters(), lr=1e-3)
    for batch in batches:
        bare.zero_grad()
        F.cross_entropy(net(batch.image.contiguous(memory_format=torch.channels_last)), batch.target).backward()
        bare.step()

    trained = module.backbone.state_dict()
    assert all(torch.equal(trained[key], value) for key, value in net.state_dict().items())


def test_a_trainer_with_lambda_0_is_a_bare_loop(tmp_path):
    batches = [noise_batch(seed=seed) for seed in range(3)]
    torch.manual_seed(0)
    module = GazeModule("level1", K, 1, SIZE)  # no dropout: the trainer may draw what it likes
    net = copy.deepcopy(module.backbone)
    tiny_trainer(tmp_path).fit(module, loader_of(batches), loader_of(batches[:1]))
    bare = torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8)
    for batch in batches:
        bare.zero_grad()
        F.cross_entropy(net(batch.image), batch.target).backward()
        bare.step()
    trained = module.backbone.state_dict()
    assert all(torch.equal(trained[key], value) for key, value in net.state_dict().items())


# ---- precision


@pytest.mark.parametrize(("name", "dtype"), [
    ("level1", torch.bfloat16), ("level2", torch.bfloat16), ("level4", torch.bfloat16),
    ("level1", torch.float16), ("level2", torch.float16),  # slow on a CPU
])  # fmt: skip
def test_half_precision_keeps_the_map_and_the_gradient(name, dtype, monkeypatch):
    seen = []
    original = gaze.backbones.looking.weighted_map
    monkeypatch.setattr(
        gaze.backbones.looking, "weighted_map", lambda *a, **k: seen.append(original(*a, **k)) or seen[-1]
    )
    config = GazeConfig(reference="batch")
    full = alone(tiny_module(name, dropout=False, gaze_lambda=5.0, gaze=config)).train()
    batch = mostly_right(full, noise_batch(8))
    half = alone(copy.deepcopy(full))
    scale = 1024.0 if dtype == torch.float16 else 1.0  # as GradScaler does

    expected = full.training_step(batch, 0)
    with torch.autocast("cpu", dtype=dtype):
        loss = half.training_step(batch, 0)
    assert [cam.dtype for cam in seen] == [torch.float32] * 2
    assert (seen[1].amax((1, 2)) > 0).sum() == (seen[0].amax((1, 2)) > 0).sum() > 4
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)
    assert half.logged["train/loss_gaze"].item() == pytest.approx(full.logged["train/loss_gaze"].item(), rel=0.2)
    ours, theirs = flat(gradients_of(half, loss * scale)) / scale, flat(gradients_of(full, expected))
    assert ours.isfinite().all()
    assert F.cosine_similarity(ours, theirs, dim=0) > 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_evaluation_has_float32_maps(dtype):
    module, batch = tiny_module().eval(), noise_batch(4)
    expected = module.look(batch.image, batch.target)
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype):
        logits, cam = module.look(batch.image, batch.target)
    assert logits.dtype == cam.dtype == torch.float32
    torch.testing.assert_close(cam, expected.cam, rtol=0, atol=0.1)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_fit_at_another_precision(tmp_path, data, precision):
    module = tiny_module("level1", gaze_lambda=5.0)
    trainer = tiny_trainer(tmp_path, precision=precision)
    trainer.fit(module, data)
    assert set(trainer.callback_metrics) == LOG_KEYS
    assert all(p.isfinite().all() for p in module.parameters())
    dtype = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for p in module.parameters()} == {dtype}


@pytest.mark.parametrize("name", ["level1", "level2"])
def test_channels_last_is_the_same_mathematics(name):
    losses, gradients = [], []
    for channels_last in (False, True):
        module = alone(tiny_module(name, dropout=False, gaze_lambda=5.0, channels_last=channels_last)).train()
        batch = mostly_right(module, noise_batch())
        losses.append(module.training_step(batch, 0))
        gradients.append(gradients_of(module, losses[-1]))
    weights = next(m for m in list(module.modules())[::-1] if isinstance(m, nn.Conv2d)).weight
    assert weights.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    assert F.cosine_similarity(flat(gradients[0]), flat(gradients[1]), dim=0) > 0.999


# ---- in a trainer


@pytest.mark.parametrize("name", ["level1", "level2"])
@pytest.mark.parametrize("inference_mode", [True, False])
def test_fit_validate_and_test(tmp_path, data, name, inference_mode):
    module, graphs = tiny_module(name, gaze_lambda=5.0), []
    module.backbone.features.register_forward_hook(
        lambda _, __, out: graphs.append((module.training, out.requires_grad, out.grad_fn is not None))
    )
    trainer = tiny_trainer(tmp_path, inference_mode=inference_mode)
    trainer.fit(module, data)
    fitted = dict(trainer.callback_metrics)
    assert set(fitted) == LOG_KEYS
    (validated,) = trainer.validate(module, data, verbose=False)
    (tested,) = trainer.test(module, data, verbose=False)
    assert set(validated) == {k for k in LOG_KEYS if k.startswith("val/")}
    assert set(tested) == {key.replace("val/", "test/") for key in validated}
    for key, value in validated.items():
        assert value == pytest.approx(fitted[key].item(), nan_ok=True) == tested[key.replace("val/", "test/")]
    # A graph of the backbone in every training step, in no evaluation step.
    assert set(graphs) == {(True, True, True), (False, False, False)}
    assert sum(training for training, *_ in graphs) == 3


def test_a_plain_loader_of_images_and_classes_trains_as_batches_do(tmp_path):
    """Floating images as they are, and bytes, which are scaled."""
    batch = noise_batch(12)
    grey = batch.image.mul(40).add(128).clamp(0, 255).byte()
    batches = [batch._replace(image=grey.float() / 127.5 - 1)]
    logged = []
    for images in (None, batches[0].image, grey):
        module, trainer = tiny_module("level1", gaze_lambda=5.0), tiny_trainer(tmp_path)
        plain = None if images is None else DataLoader(TensorDataset(images, batch.target.int()), batch_size=12)
        loader = plain or loader_of(batches)
        trainer.fit(module, loader, loader)
        logged.append({key: value.item() for key, value in trainer.callback_metrics.items()})
    for other in logged[1:]:
        assert other == pytest.approx(logged[0], rel=1e-6, nan_ok=True)
    assert logged[0]["train/loss_gaze"] > 0


@pytest.mark.parametrize("batch", [
    torch.zeros(2, 1, 4, 4), (torch.zeros(2, 1, 4, 4),), (torch.zeros(2, 4, 4), torch.zeros(2).long()),
    {"image": 1}, (torch.zeros(2, 1, 4, 4), torch.zeros(2)),
])  # fmt: skip
def test_another_batch_is_one_message(batch):
    with pytest.raises(ValueError, match=r"GazeModule takes .* images \(B, C, H, W\) and classes \(B,\)"):
        tiny_module("level1").validation_step(batch, 0)


def test_predict_takes_images_as_they_are(tmp_path):
    module = tiny_module("level2", class_names=list("abcd")).train()
    pixels = torch.randint(0, 256, (70, 1, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, image in zip(files, pixels, strict=False):
        Image.fromarray(image[0].numpy()).save(file)
    found = module.predict(pixels)
    assert module.training and not found.cam.requires_grad and found.cam.shape == (70, 4, 4)
    logits, cam = module.eval().look(pixels.float() / 127.5 - 1)  # as GazeDataModule prepares them
    torch.testing.assert_close(found.probabilities, logits.softmax(1))
    torch.testing.assert_close(found.cam, cam)
    assert found.names == ["abcd"[i] for i in logits.argmax(1)]
    for images in (pixels[:3].float() / 255, files, [str(file) for file in files]):
        torch.testing.assert_close(module.predict(images).probabilities, found.probabilities[:3])


def test_predict_refuses_what_it_cannot_know(tmp_path):
    module, deep = tiny_module("level1"), tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(deep)
    for images, words in (
        (
            torch.full((1, 1, SIZE, SIZE), -0.5),
            r"0\.\.1, got torch\.float32 in -0\.5\.\.-0\.5\. Images that are scaled",
        ),
        (torch.zeros(1, 1, SIZE, SIZE, dtype=torch.int64), "bytes or floating pixels"),
        (torch.zeros(1, 3, SIZE, SIZE), r"\(B, 1, S, S\), got \(1, 3,"),
        ([deep], "more than 8 bits"),
        ([], "needs an image"),
    ):
        with pytest.raises(ValueError, match=words):
            module.predict(images)


def test_what_is_logged_in_training(tmp_path, data):
    module = tiny_module("level1", gaze_lambda=0.25, optimizer=AdamConfig(lr=0.02))
    trainer = tiny_trainer(tmp_path)
    trainer.fit(module, data)
    logged = {k: v.item() for k, v in trainer.callback_metrics.items()}
    assert logged["lr"] == pytest.approx(0.02) and logged["train/lambda"] == 0.25
    assert logged["train/loss"] == pytest.approx(logged["train/loss_cls"] + 0.25 * logged["train/loss_gaze"], rel=1e-5)
    assert logged["train/loss_gaze"] >= 0


@pytest.mark.parametrize("name", ["level1", "level2"])
def test_validation_logs_what_two_passes_over_the_data_give(tmp_path, images, name):
    module = tiny_module(name).eval()
    data = GazeDataModule(CONFIG, data=images)
    everything = data.evaluation_batch(list(range(20)))
    right = mostly_right(module, everything).target  # 18 of 20 correct, in several classes
    data = GazeDataModule(CONFIG, data=ImageData(
        images.classes, images.train, images.test._replace(targets=right), images.audit
    ))  # fmt: skip
    (logged,) = tiny_trainer(tmp_path).validate(module, data, verbose=False)

    logits, cam = (t.double().numpy() for t in module.look(everything.image, right))
    target, preds = right.numpy(), logits.argmax(1)
    correct = preds == target
    classes = [c for c in range(K) if (correct & (target == c)).sum() >= 2]
    assert len(classes) >= 2 and 0 < correct.sum() < 20
    squared, l2, total, number = 0.0, 0.0, 0.0, 0
    for c in classes:
        own = cam[correct & (target == c)]
        distance = ((own - own.mean(0)) ** 2).sum((1, 2))
        squared, l2, number = squared + distance.sum(), l2 + np.sqrt(distance).sum(), number + len(own)
    within = sum(((cam[m] - cam[m].mean(0)) ** 2).sum() for c in range(K) if (m := correct & (target == c)).any())
    total = ((cam[correct] - cam[correct].mean(0)) ** 2).sum()
    cells = cam[0].size
    empty = cam[correct].max((1, 2)) <= 0
    p = cam[correct][~empty].reshape(-1, cells)
    p = p / p.sum(1, keepdims=True)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(cells)
    fine = F.interpolate(torch.from_numpy(cam)[:, None], scale_factor=7)  # each cell 7x7: tiles have whole cells
    pooled = F.avg_pool2d(fine, cam.shape[1])[:, 0].numpy()
    variances = {c: cam[correct & (target == c)].var(0, ddof=1).mean() for c in classes}
    number_of_classes = len(set(target[correct]))
    between = ((cam[correct] - cam[correct].mean(0)) ** 2).sum() / (correct.sum() - 1)
    on_grid = sum(
        ((own - own.mean(0)) ** 2).mean((1, 2)).sum() for own in (pooled[correct & (target == c)] for c in classes)
    )
    mask = everything.mask[:, 0].double().numpy()
    seen = [i for i in range(20) if correct[i] and mask[i].any() and cam[i].any()]
    assert 4 < len(seen) < correct.sum()  # one class has no lesion
    step = SIZE // cam.shape[1]
    blocks = mask.reshape(20, cam.shape[1], step, cam.shape[2], step).mean((2, 4))
    energy = np.array([(cam[i] / cam[i].sum() * blocks[i]).sum() for i in seen])
    peaks = [np.unravel_index(cam[i].argmax(), cam[i].shape) for i in seen]
    hits = [mask[i, int((y + 0.5) * step), int((x + 0.5) * step)] for i, (y, x) in zip(seen, peaks, strict=True)]
    shifted = logits - logits.max(1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = {
        "val/loss": -logp[np.arange(20), target].mean(),
        "val/accuracy": correct.mean(),
        "val/kappa": cohen_kappa_score(target, preds),
        "val/balanced_accuracy": balanced_accuracy_score(target, preds),
        "val/f1_macro": f1_score(target, preds, average="macro"),
        "val/gaze_consistency": squared / number / cells,
        "val/gaze_consistency_l2": l2 / number / cells,
        "val/gaze_consistency_grid": on_grid / number,
        "val/gaze_consistency_balanced": np.mean(list(variances.values())),
        "val/gaze_consistency_all": np.mean([cam[target == c].var(0, ddof=1).mean() for c in set(target)]),
        "val/gaze_eta_squared": 1 - within / total,
        "val/gaze_epsilon_squared": 1 - within / (correct.sum() - number_of_classes) / between,
        "val/gaze_empty_fraction": empty.mean(),
        "val/gaze_entropy": entropy.mean(),
        "val/n_correct": correct.sum(),
        "val/gaze_mask_energy": energy.mean(),
        "val/gaze_mask_lift": (energy / mask[seen].mean((1, 2))).mean(),
        "val/gaze_pointing": np.mean(hits),
        **{f"val/n_correct/{c}": (correct & (target == c)).sum() for c in range(K)},
    }
    assert logged == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert module.class_counts.tolist() == [(correct & (target == c)).sum() for c in range(K)]
    c = classes[0]
    np.testing.assert_allclose(module.class_gaze[c], cam[correct & (target == c)].mean(0), atol=1e-4)


def test_a_set_without_masks_logs_what_it_did_before(tmp_path, images):
    plain = ImageData(images.classes, images.train._replace(masks=None), images.test._replace(masks=None), images.audit)
    module, trainer = tiny_module("level1"), tiny_trainer(tmp_path)
    (masked,) = trainer.validate(module, GazeDataModule(CONFIG, data=images), verbose=False)
    (logged,) = trainer.validate(module, GazeDataModule(CONFIG, data=plain), verbose=False)  # after one with masks
    assert set(masked) - set(logged) == MASK_KEYS
    assert logged == pytest.approx({name: masked[name] for name in logged}, nan_ok=True)


def test_metrics_start_afresh_in_each_evaluation(tmp_path, data):
    module, trainer = tiny_module("level1"), tiny_trainer(tmp_path)
    first, second = (trainer.validate(module, data, verbose=False)[0] for _ in range(2))
    assert first == pytest.approx(second, nan_ok=True)


def test_evaluation_leaves_weights_and_class_gaze_alone(tmp_path, data):
    module = tiny_module("level2", gaze_lambda=5.0)
    before = copy.deepcopy(module.state_dict())
    tiny_trainer(tmp_path).validate(module, data, verbose=False)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


# ---- optimiser and hyper-parameters


def test_the_optimiser_is_the_published_one():
    module = tiny_module("level1")
    setup = module.configure_optimizers()
    adam, plateau = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    group = adam.param_groups[0]
    assert type(adam) is torch.optim.Adam
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 1e-8, 0)
    assert (plateau.factor, plateau.patience, plateau.mode) == (0.1, 5, "min")
    assert setup["lr_scheduler"]["monitor"] == "val/loss"
    assert sum(p.numel() for p in group["params"]) == 160 + 4640 + 33 * K


def test_the_rate_falls_when_the_loss_stands_still():
    module = tiny_module("level1", scheduler={"patience": 1, "factor": 0.5})
    setup = module.configure_optimizers()
    for _ in range(3):
        setup["optimizer"].step()
        setup["lr_scheduler"]["scheduler"].step(1.0)
    assert setup["optimizer"].param_groups[0]["lr"] == pytest.approx(5e-5)


SCHEDULERS = {  # as configure_optimizers gives it, and how a bare loop of 3 epochs of 2 steps steps it
    "cosine": lambda adam: {"scheduler": CosineAnnealingLR(adam, T_max=4)},
    "every second epoch": lambda adam: {"scheduler": CosineAnnealingLR(adam, T_max=4), "frequency": 2},
    "onecycle": lambda adam: {"scheduler": OneCycleLR(adam, 0.01, total_steps=8), "interval": "step"},
    "plateau": lambda adam: {
        "scheduler": ReduceLROnPlateau(adam, patience=0, threshold=0.9),
        "monitor": "val/accuracy",
    },
}


class OwnScheduler(GazeModule):
    """Adam at 1e-3 with a scheduler of one's own; ``rates`` are those of the steps."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        super().__init__("level1", K, 1, SIZE)
        self.name, self.rates, self.measures = name, [], []

    def configure_optimizers(self):
        adam = torch.optim.Adam(self.parameters(), lr=1e-3)
        return {"optimizer": adam, "lr_scheduler": SCHEDULERS[self.name](adam)}

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self.measures.append(float(self.trainer.callback_metrics["val/accuracy"]))


def rates_of_a_bare_loop(name: str, measures: list[float]) -> list[float]:
    adam, rates = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1e-3), []
    config = SCHEDULERS[name](adam)
    for epoch in range(3):
        for _ in range(2):
            rates.append(adam.param_groups[0]["lr"])
            adam.step()
            if config.get("interval") == "step":
                config["scheduler"].step()
        if config.get("interval") != "step" and (epoch + 1) % config.get("frequency", 1) == 0:
            config["scheduler"].step(*([measures[epoch]] if "monitor" in config else []))
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_ones_own_is_stepped_as_what_it_is(tmp_path, name):
    """Also in a fit that goes on from the checkpoint that an epoch's end left."""
    batches = [noise_batch(seed=seed) for seed in range(2)]
    fit = {"train_dataloaders": loader_of(batches), "val_dataloaders": loader_of(batches[:1])}
    whole, part, resumed = (OwnScheduler(name) for _ in range(3))
    tiny_trainer(tmp_path, max_epochs=3).fit(whole, **fit)
    expected = rates_of_a_bare_loop(name, whole.measures)
    assert whole.rates == pytest.approx(expected, rel=1e-12) and len(set(expected)) > 1
    keep = ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    tiny_trainer(tmp_path, callbacks=[keep], enable_checkpointing=True).fit(part, **fit)
    tiny_trainer(tmp_path, max_epochs=3).fit(resumed, **fit, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert part.rates + resumed.rates == pytest.approx(expected, rel=1e-12)


def test_a_way_of_ones_own_to_step_is_asked_once_an_epoch(tmp_path):
    class OwnStep(OwnScheduler):
        def lr_scheduler_step(self, scheduler, metric):
            asked.append(metric)

    asked, batches = [], [noise_batch()]
    module = OwnStep("plateau")
    tiny_trainer(tmp_path, max_epochs=2).fit(module, loader_of(batches), loader_of(batches))
    assert [float(metric) for metric in asked] == module.measures


def test_a_checkpoint_loads_as_plain_weights(tmp_path, data):
    gaze_config = GazeConfig(distance="l2", ema_decay=0.5, min_samples=1, start_epoch=0, end_epoch=0)
    module = tiny_module("level1", gaze_lambda=-2.0, gaze=gaze_config, optimizer={"lr": 3e-4}, class_names=list("abcd"))
    trainer = tiny_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, data)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)

    saved = torch.load(path, weights_only=True)
    assert saved["hyper_parameters"]["gaze"] == vars(gaze_config)
    assert saved["hyper_parameters"]["gaze_lambda"] == -2.0
    again = GazeModule.load_from_checkpoint(path, weights_only=True, map_location="cpu")
    assert again.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in module.state_dict().items())
    assert again.gaze_loss.seen.any() and again.gaze_loss.class_gaze.shape == (K, 16, 16)
    assert torch.equal(again.gaze_loss.class_gaze, module.gaze_loss.class_gaze)
    assert again.hparams == module.hparams and again.class_names == list("abcd")
    assert (again.gaze_weight, again.optimizer_config.lr, again.gaze_loss.distance) == (-2.0, 3e-4, "l2")


def test_a_fit_goes_on_from_its_checkpoint(tmp_path, data):
    """Two epochs at once, or one, a checkpoint and one more: the same weights, each epoch with its own lambda."""
    settings = {"gaze_lambda": 5.0, "gaze": {"start_epoch": 0, "end_epoch": 4}}
    batches = [noise_batch(seed=seed) for seed in range(2)]
    fit = {"train_dataloaders": loader_of(batches), "val_dataloaders": loader_of(batches[:1])}
    whole, part = tiny_module("level1", **settings), tiny_module("level1", **settings)
    tiny_trainer(tmp_path, max_epochs=2).fit(whole, **fit)
    trainer = tiny_trainer(tmp_path)
    trainer.fit(part, **fit)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = tiny_module("level1", seed=9, **settings)
    tiny_trainer(tmp_path, max_epochs=2).fit(resumed, **fit, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert (part.gaze_weight, resumed.gaze_weight, whole.gaze_weight) == (1.25, 2.5, 2.5)
    assert all(torch.equal(resumed.state_dict()[k], v) for k, v in whole.state_dict().items())


def test_settings_may_be_dicts_or_typed():
    typed = GazeModule("level1", 3, 1, SIZE, gaze=GazeConfig(ema_decay=0.5), optimizer=AdamConfig(lr=0.1))
    plain = GazeModule("level1", 3, 1, SIZE, gaze={"ema_decay": 0.5}, optimizer={"lr": 0.1})
    assert typed.hparams == plain.hparams and plain.gaze_loss.ema_decay == 0.5
    assert plain.class_names == ["0", "1", "2"]


def test_a_map_below_2x2_is_refused_before_any_work():
    with pytest.raises(ConfigError, match="2x2"):
        GazeModule("level2", 3, 1, 8)


# ---- unbalanced classes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_and_smoothing_are_those_of_the_cross_entropy_and_leave_the_gaze_loss(smoothing):
    weights = [0.5, 2.0, 1.0, 4.0]
    batch = noise_batch()
    plain = alone(tiny_module(gaze_lambda=50.0, dropout=False))
    batch = mostly_right(plain, batch)
    own = alone(tiny_module(gaze_lambda=50.0, dropout=False, class_weights=weights, label_smoothing=smoothing))
    own.load_state_dict(plain.state_dict())
    loss, logits = own.training_step(batch, 0), plain(batch.image)
    plain.training_step(batch, 0)
    expected = F.cross_entropy(logits, batch.target, torch.tensor(weights), label_smoothing=smoothing)
    torch.testing.assert_close(own.logged["train/loss_cls"], expected)
    torch.testing.assert_close(own.logged["train/loss_gaze"], plain.logged["train/loss_gaze"])
    torch.testing.assert_close(loss, expected + 50.0 * plain.logged["train/loss_gaze"])


def test_the_validation_loss_is_the_weighted_cross_entropy_of_the_whole_split():
    weights = torch.tensor([0.5, 2.0, 1.0, 4.0])
    module = tiny_module(class_weights=weights.tolist(), label_smoothing=0.1).eval()
    whole = noise_batch(11)
    for part in (slice(0, 3), slice(3, 11)):
        module.validation_step(Batch(whole.image[part], whole.target[part], whole.place[part], None), 0)
    expected = F.cross_entropy(module(whole.image), whole.target, weights, label_smoothing=0.1)
    torch.testing.assert_close(module.val_loss.compute(), expected.detach())
    again = GazeModule(**module.hparams)
    assert again.class_weights.tolist() == weights.tolist() and "class_weights" not in again.state_dict()


def test_the_training_loss_is_the_mean_over_images_not_over_batches():
    module = tiny_module(dropout=False)
    module.log = lambda *_, **__: None
    losses = [module.training_step(noise_batch(count, seed), 0).item() for seed, count in enumerate((12, 3))]
    assert module.train_means["loss"].compute().item() == pytest.approx((12 * losses[0] + 3 * losses[1]) / 15)
    module._log_mean("loss", torch.tensor(torch.nan), noise_batch(2))
    assert module.train_means["loss"].compute().isnan()
