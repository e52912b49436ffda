"""The one evaluation of the test images, when a run is complete: ``test.json``, ``predictions.csv`` and what follows of
it. Where the test images are what each epoch was judged by, ``test.json`` is left out: it would repeat the last row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gaze.consistency.deviation import gaze_deviation
from gaze.data.datamodule import GazeDataModule
from gaze.files import atomic_path, write_json
from gaze.metrics.lesion import mask_energy
from gaze.report.confusion import confusion_figure
from gaze.runs.human import HumanFigures, write_human
from gaze.runs.predictions import Predictions, write_figures, write_predictions
from gaze.runs.run import BEST, LAST, Run
from gaze.statistics.classification import ALL, class_figures, confusion_table, percentiles, undefined
from gaze.training.checkpoints import Say, load_whole
from gaze.training.module import GazeModule
from gaze.training.yardsticks import human_figures, human_line


class KeepPredictions(Callback):
    """Keeps what ``trainer.test`` says of each image.

    Attributes:
        found: of all processes, columns (N,) float64 by name and ``logits`` (N, K); empty where no image was tested.
    """

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if outputs is not None:  # else nothing but padding
            cam = outputs["cam"].float()
            empty = cam.amax((1, 2)) == 0
            inside = torch.full_like(cam[:, 0, 0], torch.nan)
            if batch.mask is not None:
                known = (batch.mask.amax((1, 2, 3)) > 0) & ~empty
                inside = torch.where(known, mask_energy(cam, batch.mask), torch.nan)
            part = (batch.place, outputs["logits"], outputs["preds"], cam, empty, inside)
            self._parts.append(tuple(own.cpu() for own in part))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Behind the module's own end of the epoch, whose mean maps are of all processes."""
        assert isinstance(pl_module, GazeModule)
        targets = trainer.datamodule.data.test.targets  # type: ignore[attr-defined]
        number, classes = len(targets), len(pl_module.class_names)
        one = torch.zeros(number, dtype=torch.float64)
        found = {name: one.clone() for name in ("seen", "preds", "empty", "energy", "deviation")}
        found["logits"] = torch.zeros(number, classes, dtype=torch.float64)
        means = pl_module.class_gaze.cpu().float()
        for place, logits, preds, cam, empty, inside in self._parts:
            right = preds == targets[place]
            deviation = torch.where(right, gaze_deviation(cam, means[targets[place]]), torch.nan)
            values = {"seen": torch.ones_like(inside), "preds": preds, "empty": empty, "energy": inside}
            for name, own in {**values, "deviation": deviation, "logits": logits}.items():
                found[name][place] = own.double()
        # Each image was seen by one process, and the others have zeros for it.
        reduced = {k: trainer.strategy.reduce(v.to(pl_module.device), reduce_op="sum") for k, v in found.items()}
        self.found = {name: own.cpu() for name, own in reduced.items()}  # type: ignore[union-attr]
        self._parts = []


def evaluate_finally(
    run: Run, trainer: Trainer, module: GazeModule, data: GazeDataModule, say: Say = lambda line: None
) -> None:
    """Test the last weights and, where the test images are held back, the best ones; the first process writes.

    Args:
        run: with its checkpoints; where it has none, the module's weights are tested.
        trainer: that trained it, or would have.
        module, data: the run's.
        say: called with each line for a reader.
    """
    apart, kept, loggers = data.data.validation is not None, KeepPredictions(), trainer.loggers
    trainer.callbacks.append(kept)  # type: ignore[attr-defined]
    trainer.loggers = loggers if apart else []
    tested: dict[str, dict[str, float]] = {}
    human: dict[str, HumanFigures] = {}
    for name in (LAST, BEST) if apart and not run.settings.measure else (LAST,):
        path = run.checkpoint(name)
        if path.exists():  # weights alone: ckpt_path would put the callbacks, with their rows, back to that epoch too
            module.load_state_dict(load_whole(path)["state_dict"])
        trainer.test(module, datamodule=data, verbose=False)
        own = trainer.callback_metrics.items()
        tested[name] = {key: float(f"{value:.9g}") for key, value in own if key.startswith("test/")}
        trainer.loggers = []  # TensorBoard shows the last weights' figures
        if kept in trainer.callbacks:  # type: ignore[attr-defined]
            trainer.callbacks.remove(kept)  # type: ignore[attr-defined]
            human = _human(trainer, module, data)
    trainer.loggers = loggers
    if trainer.is_global_zero:
        if apart:
            write_json(run.test_file, tested)
            say("\n".join(_test_lines(tested)))
        _write(run, _predictions(kept.found, data), say)
        if human:
            write_human(run, human)
            say("\n".join(human_line(own, part) for part, own in human.items()))


def _human(trainer: Trainer, module: GazeModule, data: GazeDataModule) -> dict[str, HumanFigures]:
    """Of the test images, which were the last to be evaluated, and of the validation images where these are apart."""
    found, whole = dict[str, HumanFigures](), data.data
    for part, split in (("test", whole.test), ("validation", whole.validation)):
        if split is None or split.human is None:
            continue
        if part == "validation":
            judged = GazeDataModule(data.config, data=replace(whole, test=split))
            trainer.test(module, datamodule=judged, verbose=False)
        if len(module.human_by_class):
            grid = (module.class_gaze.shape[1], module.class_gaze.shape[2])
            found[part] = human_figures(split, module.human_by_class, data.classes, grid)
    return found


def _predictions(found: Mapping[str, Tensor], data: GazeDataModule) -> Predictions | None:
    """Of the images that were tested, as ``trainer.limit_test_batches`` may leave some out; None where none was."""
    if not found or not found["seen"].any():
        return None
    split, seen = data.data.test, found["seen"] > 0
    places = seen.nonzero()[:, 0].tolist()
    names = [split.paths[i] for i in places]
    groups = [split.groups[i] for i in places] if split.groups else []
    own = {name: values[seen] for name, values in found.items()}
    truth, deviation, energy = split.targets[seen].numpy(), own["deviation"].numpy(), own["energy"].numpy()
    return Predictions(
        classes=data.classes,
        files=names,
        groups=groups if any(groups) else None,
        truth=truth,
        prediction=own["preds"].long().numpy(),
        probabilities=own["logits"].softmax(1).float().numpy(),
        deviation=deviation,
        percentile=percentiles(deviation, truth),
        empty=own["empty"].bool().numpy(),
        energy=None if split.masks is None else energy,
    )


def _write(run: Run, found: Predictions | None, say: Say) -> None:
    if found is None:
        return
    units = found.units
    figures = class_figures(found.classes, found.truth, found.prediction, found.probabilities, units)
    table = confusion_table(found.truth, found.prediction, len(found.classes))
    write_predictions(run.predictions_file, found)
    write_figures(run, figures, found.classes, table)
    if run.settings.pictures.every_n_epochs:
        run.pictures.mkdir(parents=True, exist_ok=True)
        drawn = confusion_figure({_when(run): table}, found.classes, f"{len(found.files):,} test images")
        with atomic_path(run.confusion_picture) as part:
            drawn.savefig(part, format="png", dpi=130, metadata={"Software": None})
    shown = [f"{f.measure.replace('_', ' ')} {f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in figures if f.of == ALL]
    of = f"{len(found.files):,} test images" + (f" in {units.max() + 1:,} groups" if found.groups else "")
    say(f"{of}, {_when(run)}, 95 % intervals over them: {', '.join(shown)}")
    if missing := undefined(figures):
        say(f"Not defined, so empty in {run.classes_file.name}: {missing}")


def _when(run: Run) -> str:
    return "measured once" if run.settings.measure else "after the last epoch"


def _test_lines(tested: Mapping[str, Mapping[str, float]]) -> list[str]:
    words = {LAST: "after the last epoch", BEST: "at the best kappa of the validation images"}
    words |= {LAST: "once"} if len(tested) == 1 else {}
    return [
        f"test images, {words[name]}: accuracy {own['test/accuracy']:.3f}, kappa {own['test/kappa']:.3f}, "
        f"gaze consistency {own['test/gaze_consistency']:.4f}"
        for name, own in tested.items()
    ]
