"""GazeModule: the one place where the classification loss and the gaze loss meet.

``L = L_cls + lambda_t * L_CAM`` (thesis, Eq. 11), with lambda_t turned from epoch to epoch (Eq. 18); and, where
``gaze.mask_weight`` guides the gaze by masks, ``+ mask_weight_t * L_mask`` (:mod:`gaze.consistency.guidance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities.types import LRSchedulerConfig, OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from gaze.backbones.frozen import freeze as hold_still
from gaze.backbones.frozen import frozen_names
from gaze.backbones.library import Built, build_network, check_method_of, map_size
from gaze.backbones.looking import Look, look
from gaze.backbones.own import trust as trust_own
from gaze.cam.hook import at_least_float32
from gaze.cam.layers import Target
from gaze.config.built import OptimizerConfig, SchedulerConfig, optimizers
from gaze.config.model import ModelConfig
from gaze.config.train import VIEW, GazeConfig
from gaze.consistency.guidance import guidance_loss
from gaze.consistency.loss import GazeConsistencyLoss
from gaze.consistency.schedule import curriculum
from gaze.consistency.views import view_loss
from gaze.data.datamodule import Batch, GazeDataModule, as_batch, scaled
from gaze.data.decode import decode_image, is_deep
from gaze.data.marker import group_names
from gaze.measures import HUMAN
from gaze.metrics.c_score import CScore
from gaze.metrics.classification import BalancedAccuracy, CohenKappa, GroupAccuracy, MacroF1
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
)
from gaze.metrics.lesion import GazeMarkerEnergy, GazeMaskEnergy, GazeMaskLift, GazePointing
from gaze.metrics.saliency import HumanGaze, HumanGazeByClass
from gaze.runs.migrate import migrate
from gaze.training.checkpoints import check_whole

CLASSES_COUNTED = 20  # up to so many classes the correct images of each are logged


class Prediction(NamedTuple):
    """Of B images: the classes' names, probabilities (B, K), and maps (B, H', W') in [0, 1] of these classes."""

    names: list[str]
    probabilities: Tensor
    cam: Tensor


class WeightedMean(MeanMetric):
    """Mean of values (), or (B,), each with its weight; NaN passes through, and nothing waits for a GPU.

    torchmetrics (1.9) forgets the weights with ``nan_strategy="disable"``, and looks for NaN with every other.
    """

    def __init__(self) -> None:
        super().__init__(nan_strategy="disable")

    def update(self, value: Tensor, weight: Tensor | float = 1.0) -> None:  # type: ignore[override]
        self.mean_value += (value * weight).sum()
        self.weight += weight.sum() if isinstance(weight, Tensor) else weight * value.numel()


class GazeModule(LightningModule):
    """A network, trained with or without the gaze consistency loss and measured after every epoch.

    Its batches come from :class:`gaze.data.GazeDataModule`, or from a plain ``DataLoader`` of (image, class): see
    :func:`gaze.data.datamodule.as_batch`.

    Args:
        model: name of the network, "level1" .. "level5", or one of ``source``.
        num_classes: K.
        in_channels: of the images.
        image_size: in pixels; fixes the size of the class gaze maps.
        gaze_lambda: weight lambda of the gaze loss, of either sign; 0 trains plainly and computes no CAM.
        gaze: settings of the loss, as a ``GazeConfig`` or a plain dict of its fields.
        optimizer: settings of Adam, likewise, or of another one with its ``_target_``.
        channels_last: keep the backbone and its images in NHWC order. Same mathematics, other rounding.
        class_names: for pictures and tables; numbers where None.
        source: "gaze" (the levels), "torchvision", "timm" or "own".
        weights: pretrained ones of that source, see ``ModelConfig``; None for random ones.
        layer: of a network that is no level: where to look; None for the last layer with a spatial map.
        scheduler: settings of ReduceLROnPlateau, or of another one with its ``_target_``; None there for none.
        built: of the network in a checkpoint, see ``HookedBackbone``.
        class_weights: K weights of the cross entropy, in training and in ``val/loss``; None weighs all alike.
        label_smoothing: of the same, in [0, 1).
        mean, std: of each channel of an image in 0..1, as a network that is no level expects them; None for those of
            ``weights``, or 0.5. A checkpoint has them with its weights.
        own: of a network of one's own: ``_target_``, ``path``, ``kwargs``, ``output``, see ``ModelConfig``.
        freeze: weights that training leaves as they are, see ``ModelConfig``; their batch norms stay in evaluation.
        trust: whether its class may be imported, which runs its code, and an optimizer or scheduler of one's own. No
            checkpoint says so itself.

    Attributes:
        gaze_weight: lambda_t of Eq. 18, from ``gaze_lambda``, ``gaze.start_epoch`` and ``gaze.end_epoch``, set as an
            epoch of a fit begins; ``gaze_lambda`` itself before.
        mask_weight: that of the loss that guides by masks, from ``gaze.mask_weight`` and its epochs, likewise.

    Raises:
        ConfigError: unknown network or layer, a map under 2x2, or a CAM that the network's head does not allow.
    """

    def __init__(
        self,
        model: str = "level2",
        num_classes: int = 2,
        in_channels: int = 1,
        image_size: int = 224,
        gaze_lambda: float = 0.0,
        gaze: GazeConfig | dict[str, Any] | None = None,
        optimizer: OptimizerConfig | dict[str, Any] | None = None,
        channels_last: bool = True,
        class_names: list[str] | None = None,
        source: str = "gaze",
        weights: str | None = None,
        layer: str | None = None,
        scheduler: SchedulerConfig | dict[str, Any] | None = None,
        built: Built | None = None,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        own: Mapping[str, Any] | None = None,
        freeze: str | None = None,
        trust: bool = False,
    ) -> None:
        super().__init__()
        gaze = gaze if isinstance(gaze, GazeConfig) else GazeConfig(**(gaze or {}))
        old = migrate({"optimizer": optimizer or {}, "scheduler": scheduler or {}})  # of older checkpoints
        optimizer, scheduler = OptimizerConfig.of(old["optimizer"]), SchedulerConfig.of(old["scheduler"])
        own_network: dict[str, Any] = {
            "name": model,
            "source": source,
            "weights": weights,
            "layer": layer,
            "mean": mean,
            "std": std,
            "freeze": freeze,
            **(own or {}),
        }
        network = ModelConfig(channels_last=channels_last, **own_network)
        if trust:
            trust_own(network)
        check_method_of(gaze.method, network, in_channels)
        size = map_size(network, image_size, in_channels)
        self.backbone = build_network(network, num_classes, in_channels, image_size, built)
        names = frozen_names(network, image_size, in_channels)
        self._still = hold_still(getattr(self.backbone, "network", self.backbone), names)
        self.backbone.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        # Plain values: a checkpoint that holds objects does not load with weights_only=True.
        self.save_hyperparameters(
            {
                "model": model,
                "num_classes": num_classes,
                "in_channels": in_channels,
                "image_size": image_size,
                "gaze_lambda": float(gaze_lambda),
                "gaze": gaze.model_dump(),
                "optimizer": optimizer.model_dump(by_alias=True),
                "scheduler": scheduler.model_dump(by_alias=True),
                "channels_last": channels_last,
                "class_names": list(class_names or map(str, range(num_classes))),
                "source": source,
                "weights": None,  # a checkpoint has weights of its own: loading it downloads nothing
                "layer": layer,
                "built": getattr(self.backbone, "built", {}),
                "class_weights": None if class_weights is None else list(class_weights),
                "label_smoothing": label_smoothing,
                "own": None if own is None else dict(own),
                "freeze": freeze,
            },
            logger=False,
        )
        self.gaze_config = gaze
        self.optimizer_config, self.scheduler_config, self._trust = optimizer, scheduler, trust
        self.gaze_weight, self.mask_weight = float(gaze_lambda), gaze.mask_weight
        weights_of = None if class_weights is None else torch.tensor(class_weights, dtype=torch.get_default_dtype())
        self.register_buffer("class_weights", weights_of, persistent=False)
        self._logged_epoch = -1
        reference = "ema" if gaze.reference == VIEW else gaze.reference  # then no class has a gaze
        self.gaze_loss = GazeConsistencyLoss(
            num_classes, gaze.distance, reference, gaze.ema_decay, gaze.min_samples, map_size=size
        )
        # Kept in checkpoints, so that an epoch that was broken off goes on to the same means.
        guided = ["loss_mask"] if gaze.mask_weight else []
        means = {name: WeightedMean() for name in ("loss", "loss_cls", "loss_gaze", *guided)}
        self.train_means = torch.nn.ModuleDict(means)
        for each in means.values():
            each.persistent(True)
        self.val_loss = WeightedMean()
        self.val_metrics = _evaluation_metrics(num_classes, gaze.min_samples, gaze.common_grid, gaze.distance)
        self.mask_metrics = _mask_metrics(num_classes)
        self.marker_energy, self.group_accuracy = GazeMarkerEnergy(num_classes), GroupAccuracy(num_classes)
        self.human_metrics = _human_metrics(num_classes)
        self.human_by_class = torch.empty(0)
        self._masks_seen = self._markers_seen = self._human_seen = False

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Lightning's, of a file that is as it was written; nothing is downloaded, whatever the file says.

        Raises:
            CheckpointError: a file that is damaged.
        """
        if isinstance(checkpoint_path, str | Path) and Path(checkpoint_path).exists():  # no URL
            check_whole(Path(checkpoint_path))
        found: Self = super().load_from_checkpoint(
            checkpoint_path, *args, **{"weights": None, "trust": False, "weights_only": True, **kwargs}
        )
        return found

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self

    @property
    def class_names(self) -> list[str]:
        return list(self.hparams["class_names"])

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] to logits (B, K)."""
        # self.dtype is float32 unless trainer.precision=64-true; Lightning converts batches before their bytes do.
        return at_least_float32(self.backbone(image.to(self.dtype)))

    @property
    def target(self) -> Target:
        """The layer that ``gaze.look(module, images)`` looks at: the run's."""
        own: Target = self.backbone.target  # type: ignore[assignment]
        return own._replace(layer=f"backbone.{own.layer}")

    def look(self, image: Tensor, target: Tensor | None = None) -> Look:
        """:func:`gaze.look` at this run's network with its method: in training a function of the weights, to second
        order if ``gaze.second_order``; in evaluation without a graph.
        """
        create_graph = None if self.gaze_config.second_order else False
        return look(self.backbone, image, target, method=self.gaze_config.method, create_graph=create_graph)

    @torch.no_grad()
    def predict(self, images: Tensor | Sequence[str | Path]) -> Prediction:
        """What the network says of images as people have them, and where it looks: their range is not the caller's.

        Args:
            images: files, decoded as in training; or pixels (B, C, S, S), bytes or floating in 0..1.

        Raises:
            ValueError: pixels of another range or number of channels, a file beyond 8 bits, no image.
            OSError: a file that cannot be read.
        """
        training, parts = self.training, []
        pixels = images if isinstance(images, Tensor) else self._decoded(images)
        self.eval()
        try:
            for part in self._in_range(pixels).split(64):
                parts.append(self.look(part.to(self.device)))
        finally:
            self.train(training)
        logits, cam = (torch.cat(each) for each in zip(*parts, strict=True))
        return Prediction([self.class_names[i] for i in logits.argmax(1)], logits.softmax(1), cam)

    def _decoded(self, files: Sequence[str | Path]) -> Tensor:
        deep = [str(file) for file in files if is_deep(Path(file))]
        if deep:
            raise ValueError(
                f"{deep[0]} has more than 8 bits, and only the run's folder says which of them count: "
                f"python analyze.py explain=RUN images={deep[0]}"
            )
        if not files:
            raise ValueError("predict needs an image, or more.")
        channels, size = self.hparams["in_channels"], self.hparams["image_size"]
        return torch.stack([torch.from_numpy(decode_image(Path(f), channels, size).pixels.copy()) for f in files])

    def _in_range(self, pixels: Tensor) -> Tensor:
        """Bytes, or 0..1, to [-1, 1]."""
        channels = self.hparams["in_channels"]
        if pixels.ndim != 4 or pixels.shape[1] != channels or not len(pixels):
            raise ValueError(f"predict needs pixels (B, {channels}, S, S), got {tuple(pixels.shape)}.")
        if pixels.dtype == torch.uint8:
            return scaled(pixels)
        if not (pixels.is_floating_point() and pixels.amin() >= 0 and pixels.amax() <= 1):
            raise ValueError(
                f"predict needs bytes or floating pixels in 0..1, got {pixels.dtype} in {pixels.amin():g}.."
                f"{pixels.amax():g}. Images that are scaled to [-1, 1] already: module(images), module.look(images)."
            )
        return 2 * pixels - 1

    # ---- training

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch, cam, again = as_batch(batch), None, None
        if self.gaze_weight == self.mask_weight == 0:  # numbers of the host: 0 costs nothing, no branch on a tensor
            logits = self(batch.image)
        else:
            logits, cam = self.look(batch.image, batch.target)
            again = self._look_again(batch) if self.gaze_weight != 0 and self.gaze_config.reference == VIEW else None
        with torch.autocast(logits.device.type, enabled=False):
            loss = loss_cls = self._cross_entropy(logits, batch.target if batch.mixed is None else batch.mixed)
            if cam is not None and self.gaze_weight != 0:
                loss_gaze = self._loss_gaze(Look(logits, cam), again, batch)
                loss = loss + self.gaze_weight * loss_gaze
                self._log_mean("loss_gaze", loss_gaze, batch)
            if cam is not None and self.mask_weight != 0:
                if batch.mask is None:
                    raise ValueError("gaze.mask_weight needs batches with masks: a gaze.data.Batch, train_masks=True.")
                loss_mask = guidance_loss(cam, logits.argmax(1), batch.target, batch.mask, self.gaze_config.mask_form)
                loss = loss + self.mask_weight * loss_mask
                self._log_mean("loss_mask", loss_mask, batch)
        self._log_mean("loss_cls", loss_cls, batch)
        self._log_mean("loss", loss, batch)
        return loss

    def _look_again(self, batch: Batch) -> Look:
        if batch.view is None:
            raise ValueError(f"gaze.reference={VIEW} needs batches with a second view: a gaze.data.Batch, views=True.")
        return self.look(batch.view.image, batch.target)

    def _loss_gaze(self, first: Look, again: Look | None, batch: Batch) -> Tensor:
        """L_CAM: how far gazes are from their classes', or from those of another view of their images."""
        if again is None or batch.view is None:
            loss: Tensor = self.gaze_loss(first.cam, first.logits.argmax(1), batch.target)
            return loss
        logits, cam = (torch.stack(both) for both in zip(first, again, strict=True))
        return view_loss(cam, logits.argmax(2), batch.target, batch.view.frames, self.gaze_config.distance)

    def _cross_entropy(self, logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        own: dict[str, Any] = {"weight": self.class_weights, "label_smoothing": self.hparams["label_smoothing"]}
        return F.cross_entropy(logits, target, reduction=reduction, **own)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.world_size > 1:  # each process has means of its own share; the checkpoint gets their sum
            for key, value in checkpoint["state_dict"].items():
                if key.startswith("train_means."):
                    checkpoint["state_dict"][key] = self.trainer.strategy.reduce(value.clone(), reduce_op="sum")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "class_weights" not in checkpoint.get(
            "hyper_parameters", {}
        ):  # of before: it counted batches, here images count
            for key, value in checkpoint["state_dict"].items():
                if key.startswith("train_means."):
                    checkpoint["state_dict"][key] = value * self._images_a_batch()

    def _images_a_batch(self) -> int:
        """Of the loaders of a fit that goes on; 1 where there is none."""
        data = getattr(self._trainer, "datamodule", None)
        return data.config.batch_size if isinstance(data, GazeDataModule) else 1

    def on_train_start(self) -> None:
        self._logged_epoch = -1
        if self.trainer.global_rank > 0:  # the first process goes on with that sum
            self._reset_means()

    def _reset_means(self) -> None:
        for mean in self.train_means.values():
            mean.reset()  # type: ignore[operator]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Not in on_train_epoch_start: Lightning leaves that out where a run resumes in the middle of an epoch.
        if batch_idx == 0:
            self._reset_means()
        if self._logged_epoch != self.current_epoch:
            self._logged_epoch, g = self.current_epoch, self.gaze_config
            weight = self.hparams["gaze_lambda"]
            epoch = self.current_epoch + 1
            self.gaze_weight = curriculum(epoch, weight, g.start_epoch, g.end_epoch)
            self.mask_weight = curriculum(epoch, g.mask_weight, g.mask_start_epoch, g.mask_end_epoch)
            once: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True}
            self.log("train/lambda", self.gaze_weight, prog_bar=True, **once)
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], **once)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        def length(interval: str) -> int:
            return int(self.trainer.max_epochs if interval == "epoch" else self.trainer.estimated_stepping_batches)  # type: ignore[arg-type]

        trained = (weight for weight in self.parameters() if weight.requires_grad)
        own = optimizers(self.optimizer_config, self.scheduler_config, trained, length, self._trust)
        return cast("OptimizerLRScheduler", own)

    def on_train_epoch_end(self) -> None:
        """Step what waits for a measure. Lightning would step it after the epoch's checkpoint is saved, and a run that
        resumes from that checkpoint would lose the step.
        """
        for config in filter(self._stepped_early, self.trainer.lr_scheduler_configs):
            value = self.trainer.callback_metrics.get(config.monitor or "")
            if value is not None:
                config.scheduler.step(value)  # type: ignore[arg-type]

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Lightning's, but for what :meth:`on_train_epoch_end` has stepped."""
        early = filter(self._stepped_early, self.trainer.lr_scheduler_configs)
        if all(config.scheduler is not scheduler for config in early):
            super().lr_scheduler_step(scheduler, metric)

    def _stepped_early(self, config: LRSchedulerConfig) -> bool:
        own = type(self).lr_scheduler_step is not GazeModule.lr_scheduler_step  # a subclass steps in a way of its own
        due = config.interval == "epoch" and (self.current_epoch + 1) % config.frequency == 0
        return config.reduce_on_plateau and due and not own

    # ---- evaluation

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """Measure a batch; maps (B, H', W'), logits (B, K) and predicted classes (B,) are for callbacks."""
        batch = as_batch(batch)
        # Before the return: under DDP every process must log the same keys, or they wait for each other for ever.
        self._masks_seen |= batch.mask is not None
        self._markers_seen |= batch.marker is not None
        self._human_seen |= batch.human is not None
        if len(batch.target) == 0:  # nothing but padding, under DDP; torchmetrics refuses empty batches
            return None
        logits, cam = self.look(batch.image, batch.target)
        losses = self._cross_entropy(logits, batch.target, "none")
        if self.class_weights is None:
            self.val_loss.update(losses)
        else:  # F.cross_entropy's mean over the whole split
            weights = self.class_weights[batch.target]  # type: ignore[index]
            self.val_loss.update(losses / weights, weights)
        preds = logits.argmax(1)
        self.val_metrics.update(cam=cam, preds=preds, target=batch.target, logits=logits)
        if batch.mask is not None:
            self.mask_metrics.update(cam=cam, preds=preds, target=batch.target, mask=batch.mask)
        if batch.marker is not None:
            self.marker_energy.update(cam, preds, batch.target, batch.marker)
            self.group_accuracy.update(preds, batch.target, batch.marker.amax((1, 2, 3)).long())
        if batch.human is not None:
            self.human_metrics.update(cam=cam, preds=preds, target=batch.target, human=batch.human)
        return {"cam": cam, "logits": logits, "preds": preds}

    def on_validation_epoch_end(self) -> None:
        stage = "test" if self.trainer.testing else "val"
        values = {"loss": self.val_loss.compute(), **self.val_metrics.compute()}
        if self._masks_seen:
            values |= self.mask_metrics.compute()
        if self._markers_seen:
            groups = self.group_accuracy.compute()
            values |= {"gaze_marker_energy": self.marker_energy.compute()}
            values |= {"worst_group_accuracy": groups.nan_to_num(1.0).amin()}  # of those that have images
            values |= {f"group_accuracy/{n}": g for n, g in zip(group_names(self.class_names), groups, strict=True)}
        if self._human_seen:
            values |= self.human_metrics.compute()
            self.human_by_class = values.pop("human_by_class")  # (K + 1, 7)
        # For pictures: mean maps (K, H', W') and the correct images behind each (K,).
        self.class_gaze, self.class_counts = values.pop("class_gaze"), values.pop("class_counts")
        if len(self.class_names) <= CLASSES_COUNTED:
            own = zip(self.class_names, self.class_counts.float(), strict=True)
            values |= {f"n_correct/{name}": count for name, count in own}
        for name, value in values.items():
            self.log(f"{stage}/{name}", value, prog_bar=name in ("kappa", "gaze_consistency"), sync_dist=True)
        of_marker = (self.marker_energy, self.group_accuracy)
        for metric in (self.val_loss, self.val_metrics, self.mask_metrics, *of_marker, self.human_metrics):
            metric.reset()
        self._masks_seen = self._markers_seen = self._human_seen = False

    test_step, on_test_epoch_end = validation_step, on_validation_epoch_end

    def _log_mean(self, name: str, value: Tensor, batch: Batch) -> None:
        """Mean over the epoch, weighted by batch size, read once at its end."""
        mean = self.train_means[name]
        mean.update(value.detach(), len(batch.target))  # type: ignore[operator]
        self.log(f"train/{name}", mean, on_step=False, on_epoch=True, batch_size=len(batch.target))  # type: ignore[arg-type]


def _evaluation_metrics(
    num_classes: int, min_samples: int, common_grid: int, distance: str = "squared"
) -> MetricCollection:
    """Log names (below ``val/``) and their metrics, in the groups that share states. A distance that has no name of its
    own among them is measured as well.
    """
    sums = {
        "gaze_consistency": GazeConsistency(num_classes, "squared", min_samples),
        "gaze_consistency_balanced": BalancedGazeConsistency(num_classes),
        "gaze_eta_squared": GazeEtaSquared(num_classes),
        "gaze_epsilon_squared": GazeEpsilonSquared(num_classes),
        "gaze_empty_fraction": GazeEmptyFraction(num_classes),
        "gaze_entropy": GazeEntropy(num_classes),
        "n_correct": CorrectCount(num_classes),
        "class_gaze": ClassGaze(num_classes),
        "class_counts": ClassCounts(num_classes),
    }
    others = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
        "kappa": CohenKappa(num_classes),
        "balanced_accuracy": BalancedAccuracy(num_classes),
        "f1_macro": MacroF1(num_classes),
        "gaze_consistency_l2": GazeConsistency(num_classes, "l2", min_samples),
        "gaze_consistency_grid": GazeConsistency(num_classes, "squared", min_samples, common_grid),
        "gaze_consistency_all": BalancedGazeConsistency(num_classes, "all"),
    }
    kept = ["gaze_consistency_l2"]  # maps that have to be kept are kept once
    if distance not in ("squared", "l2"):
        metric = others[f"gaze_consistency_{distance}"] = GazeConsistency(num_classes, distance, min_samples)
        kept += [f"gaze_consistency_{distance}"] if metric.keeps_maps else []
    if distance == "soft_iou":
        others["gaze_c_score"] = CScore(num_classes, min_samples)
    counted = ["kappa", "balanced_accuracy", "f1_macro"]  # from one table
    groups = [list(sums), kept, counted, *([name] for name in others if name not in (*kept, *counted))]
    return MetricCollection({**others, **sums}, compute_groups=groups)


def _mask_metrics(num_classes: int) -> MetricCollection:
    """Log names (below ``val/``) of the metrics that need lesion masks; one group, since they share their states."""
    metrics: dict[str, Metric | MetricCollection] = {
        "gaze_mask_energy": GazeMaskEnergy(num_classes),
        "gaze_mask_lift": GazeMaskLift(num_classes),
        "gaze_pointing": GazePointing(num_classes),
    }
    return MetricCollection(metrics, compute_groups=[list(metrics)])


def _human_metrics(num_classes: int) -> MetricCollection:
    """The same of those that need what people looked at, and ``human_by_class``."""
    metrics: dict[str, Metric | MetricCollection] = {f"gaze_human_{m}": HumanGaze(num_classes, m) for m in HUMAN}
    metrics["human_by_class"] = HumanGazeByClass(num_classes)
    return MetricCollection(metrics, compute_groups=[list(metrics)])
