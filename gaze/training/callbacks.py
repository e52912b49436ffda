"""What accompanies a training: pictures (GradCAM), a stop at NaN, the table of epochs. None of it changes a number."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from gaze.cam.pool import pool_by_cells
from gaze.choices import METHODS
from gaze.data.datamodule import GazeDataModule
from gaze.errors import TrainingError
from gaze.files import atomic_path
from gaze.measures import epoch_columns, measures
from gaze.names import csv_cell
from gaze.report.pictures import class_gaze_figure, figure_pixels, overlay_figure
from gaze.runs.grid import duration
from gaze.runs.kept_maps import MOST_CELLS, NONE, open_maps
from gaze.runs.run import Run
from gaze.runs.status import Interrupted, note_progress
from gaze.training.checkpoints import is_last_step
from gaze.training.module import GazeModule

FIRST, EVERY = 15.0, 60.0  # seconds until the first line on an epoch's progress, and between two
NEVER = torch.iinfo(torch.int64).max  # no step was bad


class EvaluateAtTheEnd(Callback):
    """Evaluates each epoch at its true end. Lightning leaves that out where ``max_steps`` cuts an epoch short or
    ``val_check_interval`` does not divide it, and keeps the figures of an earlier evaluation.
    """

    _evaluated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._evaluated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._evaluated:
            trainer.validating = True  # as Lightning itself does within an epoch
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


class StayStopped(Callback):
    """A run that was stopped early, and broken off before it was complete, has no further epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stopped = [each for each in trainer.callbacks if isinstance(each, EarlyStopping) and each.stopped_epoch]  # type: ignore[attr-defined]
        trainer.should_stop |= bool(stopped)


class GradCAM(Callback):
    """Keeps pictures and maps of the gaze.

    Every ``every_n_epochs`` and after the last epoch: the class-mean gaze and overlays of the same evaluation
    images go to TensorBoard and to ``pictures/*.png``, the maps behind them to ``maps.npz`` (class_gaze
    (K, H, W), counts (K,), cams (N, H, W), indices (N,), classes (K,), epoch).

    Args:
        directory: the run's folder.
        every_n_epochs: 0 draws nothing.
        images_per_class: evaluation images to overlay, the first ones of each class.
    """

    def __init__(self, directory: Path, every_n_epochs: int = 5, images_per_class: int = 2) -> None:
        self.directory = directory
        self.every_n_epochs = every_n_epochs
        self.images_per_class = images_per_class

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or is_last_step(trainer)
        if trainer.sanity_checking or self.every_n_epochs == 0 or not (last or epoch % self.every_n_epochs == 0):
            return
        assert isinstance(pl_module, GazeModule)
        self._draw(trainer, pl_module, epoch)

    def _draw(self, trainer: Trainer, module: GazeModule, epoch: int) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, GazeDataModule)
        indices = _first_of_each_class(data.data.evaluated.targets, len(data.classes), self.images_per_class)
        batch = data.evaluation_batch(indices)
        logits, cams = module.look(batch.image.to(module.device), batch.target.to(module.device))
        metrics, names = trainer.callback_metrics, module.class_names
        title = (
            f"epoch {epoch}, kappa {metrics['val/kappa']:.3f}, gaze consistency {metrics['val/gaze_consistency']:.4f}"
        )
        counts = [int(n) for n in module.class_counts]
        figures = {
            "class_gaze": class_gaze_figure(module.class_gaze, counts, names, f"Mean gaze by class: {title}"),
            "overlays": overlay_figure(
                batch.image,
                cams,
                logits.argmax(1).tolist(),
                batch.target.tolist(),
                names,
                f"{METHODS[module.gaze_config.method].title} for the true class: {title}",
                batch.mask,
            ),
        }
        for name, figure in figures.items():
            self._publish(trainer, name, figure, epoch)
        with atomic_path(Run(self.directory).maps_file) as part, part.open("wb") as file:
            np.savez_compressed(
                file,
                class_gaze=module.class_gaze.cpu().numpy(),
                counts=module.class_counts.cpu().numpy(),
                cams=cams.cpu().numpy(),
                indices=np.asarray(indices),
                classes=np.asarray(names),
                epoch=np.asarray(epoch),
            )

    def _publish(self, trainer: Trainer, name: str, figure: Figure, epoch: int) -> None:
        folder = Run(self.directory).pictures
        folder.mkdir(parents=True, exist_ok=True)
        pixels = figure_pixels(figure, dpi=130)  # drawn once for both: drawing is what takes the time
        with atomic_path(folder / f"{name}.png") as part:
            Image.fromarray(pixels).save(part, format="png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"val/pictures/{name}", pixels, epoch, dataformats="HWC")


class KeepMaps(Callback):
    """Keeps the map of every evaluated image after every epoch, small, for :mod:`gaze.runs.kept_maps`.

    Args:
        run: whose folder they go to.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The same in every process, also in one that gets nothing but padding.
        images = len(trainer.datamodule.data.evaluated.targets)  # type: ignore[attr-defined]
        cells = pool_by_cells(pl_module.gaze_loss.class_gaze[:1], MOST_CELLS).shape[1:]  # type: ignore[index, union-attr]
        self._maps = torch.zeros(images, *cells, dtype=torch.uint8, device=pl_module.device)
        self._preds = torch.zeros(images, dtype=torch.int32, device=pl_module.device)  # the class + 1

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if outputs is not None:  # else nothing but padding
            finite = outputs["cam"].isfinite().flatten(1).all(1)  # (B,): a map that is not is no map
            cells = pool_by_cells(torch.where(finite[:, None, None], outputs["cam"], 0), MOST_CELLS)
            self._maps[batch.place] = cells.mul(255).round().to(torch.uint8)
            self._preds[batch.place] = torch.where(finite, outputs["preds"].int() + 1, NONE)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Each image was seen by one process, and the others have zeros for it.
        maps, preds = (trainer.strategy.reduce(own, reduce_op="sum") for own in (self._maps, self._preds))
        trained = trainer.current_epoch < (trainer.max_epochs or 1)  # else it is what dfr made of the last layer
        if trainer.is_global_zero and not trainer.sanity_checking and trained:
            file = open_maps(self.run.kept_maps, trainer.max_epochs or 1, len(preds), tuple(maps.shape[1:]))
            epoch = file[trainer.current_epoch]
            epoch["map"], epoch["pred"] = maps.cpu(), preds.cpu()
            file.flush()


class FiniteLoss(Callback):
    """Stops a training whose loss is NaN or infinite, names the step, and leaves the last checkpoint as it is.

    The first bad step is kept on the device; the host reads it every ``every_n_steps`` and before each
    validation, so that a GPU need not wait in every step. On a CPU it is read in every step.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps
        self._first_bad: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"].detach()
        step = torch.full_like(loss, trainer.global_step, dtype=torch.int64)
        bad = torch.where(loss.isfinite(), NEVER, step)
        self._first_bad = bad if self._first_bad is None else torch.minimum(self._first_bad, bad)
        if loss.device.type == "cpu" or trainer.global_step % self.every_n_steps == 0:
            self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer)  # before anything is logged or saved

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The last step's loss was fine, but what that step did to the weights shows only here.
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not math.isfinite(float(loss)):
            self._stop(trainer, "loss on the evaluation set", trainer.global_step)

    def _check(self, trainer: Trainer) -> None:
        if self._first_bad is not None and (step := int(self._first_bad)) != NEVER:
            self._stop(trainer, "loss", step)

    def _stop(self, trainer: Trainer, what: str, step: int) -> NoReturn:
        saved = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
        kept = f"The last good checkpoint is {saved[-1]}." if saved and saved[-1] else "There is no checkpoint yet."
        raise TrainingError(
            f"The {what} is NaN or infinite at step {step} (epoch {trainer.current_epoch + 1}). {kept} "
            "Try a smaller optimizer.lr, a lambda nearer to 0, or trainer.gradient_clip_val=1."
        )


class EpochTable(Callback):
    """One row per epoch: into ``metrics.csv``, and as a line for the reader.

    The file holds no times, so that the same seed gives the same file. It is replaced as a whole, so that a
    run that dies leaves a whole one.

    Args:
        path: of the CSV file.
        say: called with each line, such as ``print``; None says nothing.
    """

    def __init__(self, path: Path, say: Callable[[str], None] | None = None) -> None:
        self.path = path
        self.say = say or (lambda line: None)
        self.rows: list[dict[str, float]] = []
        self._started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)  # later it is somebody's will that it is gone
        if self.rows:  # of a checkpoint: what the file has beyond them was not kept
            self._write()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Nine digits are all that a float32 has; more would show 0.001 as 0.0010000000474974513.
        logged = {name: float(f"{value:.9g}") for name, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **logged}
        known = ["epoch", "step", *(measure.column for measure in measures().values())]
        known += [name for name in row if name.startswith(("val/n_correct/", "val/group_accuracy/"))]
        self.rows.append({name: row[name] for name in known if name in row})
        self._write()
        self.say(epoch_line(self.rows[-1], trainer.max_epochs or 0, time.monotonic() - self._started))

    @rank_zero_only
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt | Interrupted):
            self.say(
                f"Interrupted in epoch {trainer.current_epoch + 1}. {len(self.rows)} whole epochs are kept in "
                f"{self.path.parent}; the same command goes on from there."
            )

    def _write(self) -> None:
        with atomic_path(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            columns = dict.fromkeys(epoch_columns()) | dict.fromkeys(name for row in self.rows for name in row)
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writerow({name: csv_cell(name) for name in columns})
            writer.writerows(self.rows)


class ProgressLines(Callback):
    """How far a training is, within epochs too: a line after :data:`FIRST` seconds and then every minute, such as
    ``epoch 2/20, step 130 of 714: 96 images/s, about 34 min to go``. When it will end goes to ``status.json``, for the
    grid that the run belongs to.

    Args:
        run: that is trained.
        say: called with each line; None says nothing.
        clock: seconds.
    """

    def __init__(
        self, run: Run, say: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.run, self.clock = run, clock
        self.say = say or (lambda line: None)
        self._evaluation: float | None = None  # seconds of the last one
        self._training_since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training_since, self._due = self.clock(), self.clock() + FIRST
        self._steps = self._images = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluated_since = self.clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._evaluation = self.clock() - self._evaluated_since
            self._training_since += self._evaluation  # as if it had not been

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._steps += 1
        self._images += len(batch.target) * trainer.world_size
        if trainer.is_global_zero and self.clock() >= self._due:
            self._due = self.clock() + EVERY
            spent = self.clock() - self._training_since
            left = self._seconds_left(trainer, batch_idx, spent / self._steps)
            note_progress(self.run.folder, ends=time.time() + left)
            self.say(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, step {batch_idx + 1} of "
                f"{trainer.num_training_batches}: {self._images / spent:.3g} images/s, about {duration(left)} to go"
            )

    def _seconds_left(self, trainer: Trainer, batch_idx: int, step: float) -> float:
        """Steps and evaluations to come; before the first evaluation each of its batches counts as a step."""
        epochs = (trainer.max_epochs or 1) - trainer.current_epoch
        steps: float = epochs * trainer.num_training_batches - (batch_idx + 1)
        if trainer.max_steps >= 0:
            steps = min(steps, (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
            epochs = min(epochs, 1 + int(steps // trainer.num_training_batches))
        evaluation = self._evaluation or step * sum(trainer.num_val_batches)
        left = steps * step + epochs * evaluation
        timers = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        return float(min([left, *(max(0.0, seconds) for seconds in timers if seconds is not None)]))


def epoch_line(row: dict[str, float], epochs: int, seconds: float) -> str:
    """An epoch in one line of a terminal, for example
    ``epoch  3/20  loss 1.103  accuracy 0.541  kappa 0.388  gaze consistency 0.0412  lambda 6.25  4.1 s``.
    """
    parts = [
        f"epoch {int(row['epoch']):>{len(str(epochs))}}/{epochs}",
        f"loss {row.get('train/loss', math.nan):.3f}",
        f"accuracy {row.get('val/accuracy', math.nan):.3f}",
        f"kappa {row.get('val/kappa', math.nan):.3f}",
        f"gaze consistency {row.get('val/gaze_consistency', math.nan):.4f}",
        f"lambda {row.get('train/lambda', 0.0):g}",
        f"{seconds:.1f} s",
    ]
    return "  ".join(parts)


def _first_of_each_class(targets: Tensor, classes: int, number: int) -> list[int]:
    """Places of the first ``number`` images of each class: the same ones in every epoch and run."""
    return [int(i) for c in range(classes) for i in (targets == c).nonzero()[:number, 0]]
