"""Networks of 32 px in no trainer, and batches of noise for them. No test in here."""

from __future__ import annotations

import copy

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gaze.data.datamodule import Batch
from gaze.training.module import GazeModule

K, SIZE = 4, 32


def tiny_trainer(tmp_path, **kwargs) -> Trainer:
    options = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 1, "default_root_dir": tmp_path, "num_sanity_val_steps": 1,
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return Trainer(**{**options, **kwargs})


def tiny_module(name: str = "level2", seed: int = 0, dropout: bool = True, **kwargs) -> GazeModule:
    """A module outside a trainer, or in one with its whole lambda from the first epoch on."""
    torch.manual_seed(seed)
    module = GazeModule(name, K, 1, SIZE, **{"gaze": {"start_epoch": 0, "end_epoch": 0}, **kwargs})
    with torch.no_grad():
        module.backbone.head[-1].weight += 0.02  # leaves no map of an untrained network empty
    for layer in module.modules():
        if isinstance(layer, nn.Dropout) and not dropout:
            layer.p = 0.0
    return module


def alone(module: GazeModule) -> GazeModule:
    """What it logs is in ``module.logged``."""
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: value})
    module._log_mean = lambda name, value, batch: module.logged.update({f"train/{name}": value.detach()})
    return module


def noise_batch(count: int = 12, seed: int = 0, target: Tensor | None = None) -> Batch:
    image = torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return Batch(image, torch.arange(count) % K if target is None else target, torch.arange(count), None)


def mostly_right(module: GazeModule, batch: Batch) -> Batch:
    """Targets that the module predicts, each class often enough, but for the first two images."""
    with torch.no_grad():
        head = module.backbone.head[-1]
        logits = copy.deepcopy(module.backbone)(batch.image)
        head.bias -= logits.mean(0)  # spreads the predictions over the classes
        target = (logits - logits.mean(0)).argmax(1)
    target[:2] = (target[:2] + 1) % K
    return batch._replace(target=target)


def loader_of(batches: list[Batch]) -> DataLoader:
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


def gradients_of(module: GazeModule, loss: Tensor) -> dict[str, Tensor]:
    parameters = dict(module.backbone.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, grads, strict=True))


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.flatten().double() for g in gradients.values()])
