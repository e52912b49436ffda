"""GazeDataModule: batches out of memory, augmented on the device.

Images are uint8 in memory or in a file that is mapped into it (:mod:`gaze.data.datasets`), so a batch is one indexing
operation and needs no worker process. Scaling to [-1, 1] and augmentation happen for a whole batch, on the
device, after the transfer of its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from gaze.config.augmentation import AugmentationConfig
from gaze.config.data import DatasetConfig
from gaze.data.augment import mix, random_affine, resize_crops, transform, warp
from gaze.data.cache import Say
from gaze.data.datasets import ImageData, Split, load_dataset
from gaze.data.masks import draw_annotated

PADDING = -1  # index of a row that only makes the processes' loads equal; it is dropped from its batch


class View(NamedTuple):
    """A batch's images (B, C, S, S) augmented once more, and the flips and crops (2, B, 2, 3) of both times, see
    :func:`gaze.data.augment.random_affine`."""

    image: Tensor
    frames: Tensor


class Batch(NamedTuple):
    """What a training or evaluation step receives.

    ``image`` (B, C, S, S), uint8 before the transfer and float in [-1, 1] after it; ``target`` (B,) int64;
    ``place`` (B,) in the split; ``mask`` (B, 1, S, S) in 0..1 where the set has masks, else None; ``mixed`` (B, K)
    labels that sum to 1 where mixup or cutmix blended the images, else None; ``view`` of the same images again, where
    they are looked at twice, else None; ``marker`` (B, 1, S, S) in 0..1 where the set has markers and the batch is for
    evaluation, else None; ``human`` (B, 4, S, S), what people looked at, likewise where somebody did
    (:meth:`gaze.data.human.Human.batch`).
    """

    image: Tensor
    target: Tensor
    place: Tensor
    mask: Tensor | None
    mixed: Tensor | None = None
    view: View | None = None
    marker: Tensor | None = None
    human: Tensor | None = None


def as_batch(batch: Any) -> Batch:
    """A batch of this project, or one of the (images, classes) that a plain ``DataLoader`` gives.

    Args:
        batch: bytes (B, C, H, W) are scaled to [-1, 1], floating images left as they are; classes (B,) are whole
            numbers.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(batch, Batch):
        return batch
    parts = batch if isinstance(batch, tuple | list) else ()
    if len(parts) != 2 or [getattr(part, "ndim", None) for part in parts] != [4, 1] or parts[1].is_floating_point():
        shapes = ", ".join(f"{type(part).__name__} {tuple(getattr(part, 'shape', ()))}" for part in parts)
        raise ValueError(
            "GazeModule takes a gaze.data.Batch, or images (B, C, H, W) and classes (B,) as whole numbers, as a "
            f"DataLoader of (image, class) gives them; this is a {type(batch).__name__} of {shapes or 'other things'}."
        )
    image, target = parts
    return Batch(scaled(image) if image.dtype == torch.uint8 else image, target.long(), torch.arange(len(target)), None)


class SplitDataset(Dataset[Batch]):
    """A split whose ``__getitems__`` fetches a whole batch at once. Padding rows are left out of it. Masks of images
    that are not ``annotated`` (N,) are empty. With ``attention``, what people looked at stands in place of masks."""

    def __init__(self, split: Split, annotated: Tensor | None = None, attention: bool = False) -> None:
        self.split, self.annotated, self.attention = split, annotated, attention

    def __len__(self) -> int:
        return len(self.split.targets)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = [i for i in indices if i != PADDING]
        index = torch.tensor(chosen, dtype=torch.int64)
        images, masks, markers = self.split.images, self.split.masks, self.split.markers
        human = self.split.human
        mask = None if masks is None else _rows(masks, chosen)
        if self.attention and human is not None:
            mask, human = human.masks(chosen), None
        if mask is not None and self.annotated is not None:
            mask = mask * self.annotated[index, None, None, None]
        marker = None if markers is None else _rows(markers, chosen)
        looked = None if human is None else human.batch(chosen)
        return Batch(_rows(images, chosen), self.split.targets[index], index, mask, marker=marker, human=looked)


def _rows(images: Tensor, indices: list[int]) -> Tensor:
    """``images[indices]``: whole images are copied as such, where indexing by a tensor goes byte by byte."""
    return torch.stack([images[i] for i in indices]) if indices else images[:0]


class EvaluationSampler(DistributedSampler[Batch]):
    """Every image once over all processes, in order, with as many batches in each.

    A plain DistributedSampler repeats images to make the shares equal, which counts them twice in a metric;
    here the rows that fill up carry :data:`PADDING` and never become images.
    """

    def __init__(self, dataset: SplitDataset, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]

    def __iter__(self) -> Any:
        for step in range(self.num_samples):
            index = step * self.num_replicas + self.rank
            yield index if index < len(self.dataset) else PADDING  # type: ignore[arg-type]


class TrainingSampler(DistributedSampler[Batch]):
    """A new order in each epoch, from the seed and the epoch. Lightning sets the epoch; a plain loop need not."""

    def __iter__(self) -> Any:
        yield from super().__iter__()
        self.epoch += 1


class BalancedSampler(TrainingSampler):
    """As many images as there are, drawn with replacement, each class as often as another."""

    def labels(self) -> Tensor:
        """What each of N images is balanced by (N,)."""
        return self.dataset.split.targets  # type: ignore[attr-defined]

    def __iter__(self) -> Any:
        labels = self.labels()
        weights = 1.0 / labels.bincount().double()[labels]
        draw = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = torch.multinomial(weights, self.total_size, replacement=True, generator=draw)
        yield from drawn[self.rank :: self.num_replicas].tolist()
        self.epoch += 1


class GroupSampler(BalancedSampler):
    """The same with each group (class x marker) that occurs as often as another."""

    def labels(self) -> Tensor:
        return self.dataset.split.marker_groups  # type: ignore[attr-defined]


class TrainingLoader(DataLoader[Batch]):
    """Remembers how many batches of the epoch it gave, so that Lightning can go on in the middle of one.

    Attributes:
        given: batches of this epoch so far.
        merged: an epoch's last image would be a batch by itself, which batch norm behind the pooling cannot take (one
            value has no variance); it joins the batch before.
    """

    given = 0
    _skip = 0

    @property
    def merged(self) -> bool:
        images, size = len(self.sampler), self.batch_size or 1  # type: ignore[arg-type]
        return images > size and images % size == 1

    def __len__(self) -> int:
        return super().__len__() - self.merged

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.given, self._skip = self._skip, 0
        batches = islice(super().__iter__(), self.given, None)
        for batch in batches:
            self.given += 1
            yield _joined(batch, next(batches)) if self.merged and self.given == len(self) else batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._skip = state["given"]


SAMPLERS = {"shuffle": TrainingSampler, "balanced": BalancedSampler, "group": GroupSampler}


class GazeDataModule(LightningDataModule):
    """Training and evaluation batches of a data set.

    Epochs are judged by the test images, as in the thesis, or by a part of the training images
    (``dataset.validation``); then ``test`` alone sees the test images.

    Args:
        dataset: checked group ``dataset``; or ready-made ``data``.
        augmentation: for training images; none where None.
        data: images that are loaded already, for use without files.
        progress: called with a line now and then while images are downloaded and decoded.
        train_masks: whether training batches have masks, where the set has some: ``dataset.annotated`` of them, drawn
            by the seed. A run that is not guided by them leaves them out.
        views: whether training batches have a second view of each image.
        attention: whether what people looked at stands in their place.
        seed: of the order of the training images, their augmentation and the step's dropout; None takes PyTorch's.
            Each training step has a stream of random numbers of its own, from the seed, the process, the epoch and
            the step. So processes differ, and a run that resumes needs no state of any generator.
    """

    def __init__(
        self,
        dataset: DatasetConfig,
        augmentation: AugmentationConfig | None = None,
        *,
        data: ImageData | None = None,
        progress: Say | None = None,
        train_masks: bool = True,
        views: bool = False,
        attention: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.config = dataset
        self.seed = torch.initial_seed() % 2**32 if seed is None else seed
        self.augmentation = augmentation or AugmentationConfig()
        self._data = data
        self._progress = progress
        self._train_masks, self._views, self._attention = train_masks, views, attention
        self._training: TrainingLoader | None = None

    @property
    def data(self) -> ImageData:
        """The loaded set; read at first use.

        Raises:
            DataError: it cannot be found, read or trusted.
        """
        if self._data is None:
            self._data = load_dataset(self.config, self._progress)
        return self._data

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.classes

    def setup(self, stage: str) -> None:
        _ = self.data  # an error belongs before the first step

    @cached_property
    def annotated(self) -> Tensor | None:
        """Which training images' masks are used (N,) bool; None where training batches have no masks."""
        train, seen = self.data.train, None
        if self._train_masks and self._attention and train.human is not None:
            seen = torch.zeros(len(train.targets), dtype=torch.bool)
            seen[train.human.places] = True
        elif self._train_masks and not self._attention and train.masks is not None:
            seen = train.masks.flatten(1).any(1)
        return None if seen is None else draw_annotated(seen, train.targets, self.config.annotated, self.seed)

    def train_dataloader(self) -> DataLoader[Batch]:
        train = self.data.train if self._attention else self.data.train._replace(human=None)
        train = train if self._train_masks else train._replace(masks=None)
        dataset, (world, rank) = SplitDataset(train, self.annotated, self._attention), self._place()
        # PyTorch's sampler adds the epoch to the seed: seeds a million apart share no order.
        sampler = SAMPLERS[self.config.sampler]
        order = sampler(dataset, world, rank, shuffle=True, seed=1_000_003 * self.seed)  # type: ignore[var-annotated, arg-type]
        self._training = TrainingLoader(dataset, self.config.batch_size, collate_fn=_as_is, sampler=order)
        if self._training.merged and self._progress is not None:
            self._progress(
                f"{len(order):,} training images leave one over after batches of {self.config.batch_size}: it joins "
                "the last batch, since batch norm needs more than one."
            )
        return self._training

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation(self.data.evaluated)

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation(self.data.test)

    def _evaluation(self, split: Split) -> DataLoader[Batch]:
        dataset = SplitDataset(split)
        order = EvaluationSampler(dataset, *self._place())
        return DataLoader(dataset, self.config.batch_size, collate_fn=_as_is, sampler=order)

    def evaluation_batch(self, indices: list[int]) -> Batch:
        """Evaluation images by their place in the split, ready for the model (on the host)."""
        return self.prepare(SplitDataset(self.data.evaluated).__getitems__(indices), training=False)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        training = self.trainer is not None and self.trainer.training
        if training and self.trainer is not None:
            _, rank = self._place()
            step = 0 if self._training is None else self._training.given
            stream = np.random.SeedSequence([self.seed, rank, self.trainer.current_epoch, step])
            torch.manual_seed(int(stream.generate_state(1, np.uint64)[0]))
        return self.prepare(batch, training)

    def prepare(self, batch: Batch, training: bool) -> Batch:
        """Bytes to floats in [-1, 1] (mean 0.5, SD 0.5), augmented where ``training``; masks move along."""
        mask = None if batch.mask is None else batch.mask.float()
        if not training:
            marker = None if batch.marker is None else batch.marker.float()
            return batch._replace(image=scaled(batch.image), mask=mask, marker=marker)
        config, mixed, view = self.augmentation, None, None
        image, mask, frames = _augmented(batch.image, mask, config)
        if config.on("label"):
            (image, mixed), mask = mix(image, batch.target, len(self.classes), config), None  # a blend has no lesion
        if self._views:
            again, _, others = _augmented(batch.image, None, config)
            view = View(again, torch.stack([frames, others]))
        return batch._replace(image=image, mask=mask, mixed=mixed, view=view, marker=None)

    def _place(self) -> tuple[int, int]:
        """Number of processes, and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)


def _augmented(image: Tensor, mask: Tensor | None, config: AugmentationConfig) -> tuple[Tensor, Tensor | None, Tensor]:
    """Images of bytes as floats in [-1, 1], each by itself; their masks; their flips and crops (B, 2, 3)."""
    if config.on("frame"):
        frames = random_affine(image.shape[0], (image.shape[2], image.shape[3]), config)
        image, mask = (_by_resize if image.device.type == "cpu" else _by_warp)(image, mask, frames)
    else:
        frames, image = torch.eye(2, 3).expand(len(image), 2, 3), scaled(image)
    if config.on("image"):
        image, mask = transform(image, mask, config)
    return image, mask, frames


def _by_resize(image: Tensor, mask: Tensor | None, matrices: Tensor) -> tuple[Tensor, Tensor | None]:
    moved = None if mask is None else resize_crops(mask, matrices, mode="nearest")
    return resize_crops(image, matrices, convert=scaled), moved


def _by_warp(image: Tensor, mask: Tensor | None, matrices: Tensor) -> tuple[Tensor, Tensor | None]:
    return scaled(warp(image.float(), matrices)), None if mask is None else warp(mask, matrices, "nearest")


def scaled(image: Tensor) -> Tensor:
    """0..255 to [-1, 1]: mean 0.5, SD 0.5 of a range of 1."""
    return image.float().div(127.5).sub_(1.0)


def _joined(first: Batch, second: Batch) -> Batch:
    mask = None if first.mask is None or second.mask is None else torch.cat([first.mask, second.mask])
    image, target, place = (torch.cat(both) for both in zip(first[:3], second[:3], strict=True))
    return Batch(image, target, place, mask)


def _as_is(batch: Any) -> Any:
    """``__getitems__`` made the batch already."""
    return batch
