"""Run folders of an augmentation study whose networks were not trained: for what only reads checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gaze.config.train import TrainConfig
from gaze.files import write_json
from gaze.runs.run import Run
from gaze.training.module import GazeModule

SMALL = (
    "model=level2", "dataset.train_images=16", "dataset.test_images=24", "dataset.image_size=32",
    "dataset.batch_size=10", "trainer.max_epochs=1", "trainer.accelerator=cpu",
)  # fmt: skip


def new_module(config: TrainConfig, classes: list[str]) -> GazeModule:
    """A network with the weights that its seed gives."""
    torch.manual_seed(config.seed)
    d, m = config.dataset, config.model
    own = {"gaze": config.gaze, "class_names": classes, "source": m.source, "layer": m.layer}
    return GazeModule(m.name, len(classes), d.channels, d.image_size, **own)


def write_run(
    folder: Path, config: TrainConfig, classes: list[str], train: Callable[[GazeModule], Any] | None = None
) -> Path:
    """A finished run of ``config`` in ``folder``, its network new, or what ``train`` makes of it."""
    module = new_module(config, classes)
    if train is not None:
        train(module)
    run = Run(folder)
    run.checkpoints.mkdir(parents=True)
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(checkpoint, run.checkpoint())
    write_json(run.config_file, config.to_dict())
    keys = ["accuracy", "kappa", "gaze_consistency", "gaze_consistency_l2", "gaze_eta_squared", "loss"]
    row = ",".join(["1", *["0.2"] * len(keys)])
    run.metrics_file.write_text(",".join(["epoch", *(f"val/{key}" for key in keys)]) + f"\n{row}\n")
    return folder
