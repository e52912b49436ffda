"""Weight averaging of a model that holds a GazeConsistencyLoss: torch's, timm's and Lightning's."""

import copy
import pickle
import warnings

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from gaze.backbones.looking import look
from gaze.consistency.deviation import gaze_deviation
from gaze.consistency.loss import GazeConsistencyLoss

K, N, H, W, STEPS, DECAY = 3, 9, 4, 5, 6, 0.7


def timms(name):
    return getattr(pytest.importorskip("timm").utils, name)


# Each makes the averaged model, and says what weight the first step and a later one have in the mean of n.
AVERAGES = {
    "buffers copied": (AveragedModel, None),
    "mean": (lambda m: AveragedModel(m, use_buffers=True), lambda k: 1.0),
    "mean of floats": (
        lambda m: AveragedModel(m, avg_fn=lambda a, b, n: a + (b - a) / (n + 1), use_buffers=True),
        lambda k: 1.0,
    ),
    "ema": (
        lambda m: AveragedModel(m, avg_fn=get_ema_avg_fn(DECAY), use_buffers=True),
        lambda k: (1 - DECAY if k else 1) * DECAY ** (STEPS - 1 - k),
    ),
    "foreach ema": (
        lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True),
        lambda k: (1 - DECAY if k else 1) * DECAY ** (STEPS - 1 - k),
    ),
    "ModelEmaV2": (lambda m: timms("ModelEmaV2")(m, DECAY), lambda k: DECAY ** (STEPS - 1 - k)),
    "ModelEmaV3": (lambda m: timms("ModelEmaV3")(m, DECAY), lambda k: DECAY ** (STEPS - 1 - k)),
}


def batches():
    """Class 2 is not in the first two."""
    g = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        target = torch.arange(N) % (2 if step < 2 else K)
        yield torch.rand(N, H, W, generator=g), target


@pytest.mark.parametrize("map_size", [None, (H, W)])
@pytest.mark.parametrize("name", AVERAGES)
def test_the_averaged_class_gaze_is_the_mean_of_the_gazes_that_there_were(name, map_size):
    make, weight = AVERAGES[name]
    model = nn.Sequential(nn.Linear(2, 2), GazeConsistencyLoss(K, map_size=map_size), nn.BatchNorm1d(2))
    averaged, gazes, seen = make(model), [], []
    for cam, target in batches():
        model[1](cam, target, target)
        (averaged.update_parameters if isinstance(averaged, AveragedModel) else averaged.update)(model)
        gazes.append(model[1].class_gaze.clone())
        seen.append(model[1].seen.clone())
    weights = torch.tensor([float(k == STEPS - 1) if weight is None else weight(k) for k in range(STEPS)])
    weights = weights[:, None] * torch.stack(seen)  # (steps, K)
    expected = (torch.stack(gazes) * weights[:, :, None, None]).sum(0) / weights.sum(0)[:, None, None]
    loss = averaged.module[1].eval()
    cam, target = torch.rand(N, H, W), torch.arange(N) % K
    value = loss(cam, target, target)
    torch.testing.assert_close(value, gaze_deviation(cam, expected[target]).mean())
    loss.train()(cam, target, target)  # goes on from there
    means = torch.stack([cam[target == c].mean(0) for c in range(K)])
    torch.testing.assert_close(loss.class_gaze, 0.9 * expected + 0.1 * means)
    assert loss.seen.tolist() == [1, 1, 1]


def test_what_an_averaging_takes_has_the_same_shapes_before_and_after_the_first_batch():
    loss = GazeConsistencyLoss(K)
    copied = copy.deepcopy(copy.deepcopy(loss))
    cam, target = next(batches())
    loss(cam, target, target)
    assert [b.shape for b in copied.buffers()] == [b.shape for b in loss.buffers()] == [(K, H, W), (K,)]
    assert all(b.is_floating_point() for b in loss.buffers())
    assert copied.class_gaze is not loss.class_gaze and not copied.class_gaze.any() and not copied.seen.any()


def test_a_copy_may_meet_maps_of_another_size_before_it_has_a_gaze():
    loss = GazeConsistencyLoss(K)
    copied, stored = copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))
    target = torch.arange(N) % K
    loss(torch.rand(N, H, W), target, target)
    assert stored.class_gaze.numel() == 0  # of another life
    copied(torch.rand(N, 2, 2), target, target)
    assert copied.class_gaze.shape == (K, 2, 2) and loss.class_gaze.shape == (K, H, W)
    for own, size in ((loss, (2, 2)), (copied, (H, W)), (GazeConsistencyLoss(K, map_size=(H, W)), (2, 2))):
        with pytest.raises(ValueError, match="keep one image size"):
            own(torch.rand(N, *size), target, target)


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_of_an_earlier_version_goes_on_as_it_would_have(assign):
    g = torch.Generator().manual_seed(0)
    gaze, cam, target = torch.rand(K, H, W, generator=g), torch.rand(N, H, W, generator=g), torch.arange(N) % K
    loss = GazeConsistencyLoss(K)
    loss.load_state_dict({"class_gaze": gaze.clone(), "seen": torch.tensor([True, False, True])}, assign=assign)
    loss(cam, target, target)
    means = torch.stack([cam[target == c].mean(0) for c in range(K)])
    torch.testing.assert_close(loss.class_gaze[[0, 2]], (0.9 * gaze + 0.1 * means)[[0, 2]])
    torch.testing.assert_close(loss.class_gaze[1], means[1])
    assert loss.seen.tolist() == [1, 1, 1]


# ---- Lightning


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        self.gaze_loss = GazeConsistencyLoss(2)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits, cam = look(self.net, x, y)
        return nn.functional.cross_entropy(logits, y) + self.gaze_loss(cam, y, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("loss", self.gaze_loss(look(self.net, x, y).cam, y, y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(epochs, folder, checkpoint=None):
    torch.manual_seed(0)
    module, data = Classifier(), TensorDataset(torch.randn(16, 1, 9, 9), torch.arange(16) % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder, callbacks=[EMAWeightAveraging(decay=0.8)],
        )  # fmt: skip
        trainer.fit(module, DataLoader(data, 4), DataLoader(data, 4), ckpt_path=checkpoint)
    return trainer, module.state_dict()


def test_lightning_averages_validates_and_resumes(tmp_path):
    whole = fitted(3, tmp_path / "whole")[1]
    trainer, _ = fitted(1, tmp_path / "part")
    assert trainer.callback_metrics["loss"].isfinite()
    again = fitted(3, tmp_path / "part", trainer.checkpoint_callback.best_model_path)[1]
    assert whole["gaze_loss.seen"].gt(0).all() and whole["gaze_loss.class_gaze"].shape == (2, 7, 7)
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value)
