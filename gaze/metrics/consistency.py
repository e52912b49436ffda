"""Gaze consistency and Cohen's kappa as torchmetrics, for one MetricCollection and one pass over the data.

    metrics = MetricCollection({"kappa": CohenKappa(4), "gaze_consistency": GazeConsistency(4)})
    metrics.update(cam=normalize_cam(cam), preds=preds, target=target)
    metrics.compute()

The gaze metrics share one set of sum states (count, sum of maps, sum of squared norms per class, in float64): memory
does not grow with the number of images, sums are exact under DDP, and a MetricCollection updates them once for all of
them. Gaze consistency by another distance than ``squared`` has states of its own: one more sum (``pearson``), or its
maps (the rest, which have no form in sums), beyond ``KEPT`` bytes in a temporary file. Maps are CAM^, scaled by
``gaze.cam.methods.normalize_cam``. Images classified wrongly, rows with a label below 0 (padding) and maps that are not
finite do not count; labels of K and more, and maps outside [0, 1], are errors (``gaze.metrics.watched``).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile, gettempdir
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from gaze.cam.pool import pool_to_grid
from gaze.choices import DISTANCES
from gaze.consistency.deviation import checked_batch, gaze_deviation, map_entropy
from gaze.consistency.distances import unit_map
from gaze.errors import TrainingError
from gaze.metrics.watched import WatchedMetric

SUMMED = ("squared", "pearson")  # distances that need no maps kept
CHUNK = 128  # kept maps that are widened to float64 at a time
KEPT = 2**28  # bytes of maps that a metric holds in memory; more go to a file
_pages = WeakTensorKeyDictionary()  # of maps in a file: its mapping into memory


class GazeSums(WatchedMetric):
    """Sum states per class over the correct images; the metrics below read them.

    Args:
        num_classes: K.
        kwargs: those of ``torchmetrics.Metric``.
    """

    count: Tensor  # (K,)
    map_sum: Tensor  # (K, H, W), (K, 1, 1) before the first batch
    square_sum: Tensor  # (K,): sum of squared norms
    empty: Tensor  # (K,): images whose map is all zero
    entropy_sum: Tensor  # (): of the maps that are not empty

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        zeros = torch.zeros(num_classes, dtype=self.excess.dtype)
        self.add_state("count", zeros, dist_reduce_fx="sum")
        self.add_state("map_sum", zeros.view(-1, 1, 1), dist_reduce_fx="sum")
        self.add_state("square_sum", zeros, dist_reduce_fx="sum")
        self.add_state("empty", zeros, dist_reduce_fx="sum")
        self.add_state("entropy_sum", zeros[0], dist_reduce_fx="sum")

    def update(self, cam: Tensor, preds: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            cam: normalised maps (B, H, W) in [0, 1], of the true class.
            preds: predicted classes (B,), or scores (B, K) such as logits.
            target: true classes (B,), whole numbers; one below 0 (padding) does not count.

        Raises:
            ValueError: shapes or types that do not fit.
        """
        preds, target = checked_batch(preds, target, self.num_classes, cam)
        if len(cam) > 0:
            member, cam = self._counted(preds, target, cam)
            self._add(member, cam)

    def _add(self, member: Tensor, cam: Tensor) -> None:
        self._check_map_size(cam)
        self.count = self.count + member.sum(0)
        self.map_sum = self.map_sum + torch.einsum("bk,bhw->khw", member, cam)
        self.square_sum = self.square_sum + member.T @ cam.square().sum((1, 2))
        self.empty = self.empty + member.T @ (cam.amax((1, 2)) <= 0).to(cam.dtype)
        self.entropy_sum = self.entropy_sum + member.sum(1) @ map_entropy(cam)

    def _check_map_size(self, cam: Tensor) -> None:
        seen = self.map_sum.shape[1:]
        if seen != (1, 1) and seen != cam.shape[1:]:
            raise ValueError(f"Maps of {tuple(cam.shape[1:])} after maps of {tuple(seen)}: reset() between sizes.")

    def _sync_dist(self, dist_sync_fn: Any = gather_all_tensors, process_group: Any = None) -> None:
        # A process that saw no image does not know the maps' size yet, and only equal shapes can be summed.
        own = torch.tensor(self.map_sum.shape[1:], device=self.map_sum.device)
        sizes = {tuple(s.tolist()) for s in dist_sync_fn(own, group=process_group or self.process_group)} - {(1, 1)}
        if len(sizes) > 1:
            raise ValueError(f"The processes saw maps of different sizes: {sorted(sizes)}.")
        self._take_map_size(sizes.pop() if sizes else (1, 1))
        super()._sync_dist(dist_sync_fn, process_group)

    def _take_map_size(self, size: tuple[int, ...]) -> None:
        self.map_sum = self.map_sum.expand(-1, *size)  # of zeros, or of this size already

    def class_means(self) -> Tensor:
        """Mean gaze of each class (K, H, W), zero for a class without a correct image."""
        return self.map_sum / self.count.clamp(min=1)[:, None, None]

    def _spreads(self) -> Tensor:
        """Sum of squared distances to the class's mean (K,)."""
        # n * ||mean||^2 = ||sum||^2 / n; clamped: rounding may leave -1e-16 where all maps are equal.
        return (self.square_sum - self.map_sum.square().sum((1, 2)) / self.count.clamp(min=1)).clamp(min=0)

    def _unless_empty(self, value: Tensor, chosen: Tensor) -> Tensor:
        """The value, NaN where every map of the ``chosen`` classes (K,) is all zero: such maps are alike, and there is
        no gaze in them that could be consistent.
        """
        return torch.where(((self.count - self.empty) * chosen).sum() > 0, value, math.nan)

    def _total(self) -> Tensor:
        """Sum of squared distances to the grand mean; NaN where it is rounding noise of its two terms."""
        number = self.count.sum()
        total = self.square_sum.sum() - self.map_sum.sum(0).square().sum() / number.clamp(min=1)
        negligible = total <= self.square_sum.sum() * number * torch.finfo(total.dtype).eps
        return torch.where(negligible, math.nan, total)


class GazeConsistency(GazeSums):
    """L_CAM (thesis, Eq. 5-10): mean deviation of the correct images from their class's mean gaze. Lower is
    more consistent; NaN where no class has ``min_samples`` correct images, and where every map of those that have is
    empty (all zero), which by itself would read as perfect.

    ``squared`` is read off the sums, ``pearson`` off one more: with u = (CAM^ - its mean) / norm, the r of all images
    with their class's mean gaze add up to ``<sum u, u(mean gaze)>``. The others, the published ``l2`` form among them,
    have no such sum and keep their maps, 4 H'W' bytes an image; whenever these reach ``KEPT`` bytes, they go to a
    temporary file in half precision, 2 H'W' bytes an image. Under DDP each process keeps its own.

    Args:
        num_classes: K.
        distance: "squared" (Eq. 9; a variance of values in 0..1, so 0..0.25), "l2" (0..0.5/sqrt(H'W')) or another of
            ``gaze.consistency.deviation.gaze_deviation``.
        min_samples: classes with fewer correct images are left out, as in the published runs.
        common_grid: pool the maps to that many tiles along each side first (``pool_to_grid``), so that networks
            with maps of different sizes compare; None takes them as they are.
        kwargs: those of ``torchmetrics.Metric``.

    Example:
        >>> metric = GazeConsistency(num_classes=2)
        >>> cam = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 4, 4)
        >>> metric.update(cam, preds=torch.tensor([1, 1]), target=torch.tensor([1, 1]))
        >>> metric.compute()  # both maps lie 0.5 from their mean in every cell
        tensor(0.2500)
    """

    higher_is_better = False
    unit_sum: Tensor  # pearson: sum of unit maps (K, H, W)
    maps: list[Tensor]  # not in SUMMED: every map (N, H, W), half precision where it is in a file ...
    classes: list[Tensor]  # ... and its class, K for an image that does not count (N,)
    apart = True  # kept maps are looked at one by one: those of another process, or in a file, can stay there

    def __init__(
        self,
        num_classes: int,
        distance: str = "squared",
        min_samples: int = 2,
        common_grid: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if min_samples < 1:
            raise ValueError(f"min_samples={min_samples} must be 1 or more.")
        if common_grid is not None and common_grid < 1:
            raise ValueError(f"common_grid={common_grid} must be 1 or more tiles a side, or None.")
        self.distance = DISTANCES[distance].name  # refuses an unknown one
        self.min_samples = min_samples
        self.common_grid = common_grid
        self.keeps_maps = distance not in SUMMED
        if distance == "pearson":
            self.add_state("unit_sum", torch.zeros_like(self.map_sum), dist_reduce_fx="sum")
        if self.keeps_maps:
            self.add_state("maps", [], dist_reduce_fx="cat")
            self.add_state("classes", [], dist_reduce_fx="cat")

    def _add(self, member: Tensor, cam: Tensor) -> None:
        if self.common_grid is not None:
            cam = pool_to_grid(cam, self.common_grid)
        super()._add(member, cam)
        if self.keeps_maps:
            self.maps.append(cam.float())
            self.classes.append(torch.where(member.sum(1) > 0, member.argmax(1), self.num_classes))
            held = [maps for maps in self.maps if maps.dtype != torch.half]
            if self.apart and sum(maps.nbytes for maps in held) > KEPT:
                self.maps = [*self.maps[: -len(held)], _in_file(held)]
                self.classes = [dim_zero_cat(self.classes)]
        elif self.distance == "pearson":
            self.unit_sum = self.unit_sum + torch.einsum("bk,bhw->khw", member, unit_map(cam))

    def _take_map_size(self, size: tuple[int, ...]) -> None:
        super()._take_map_size(size)
        if self.distance == "pearson":
            self.unit_sum = self.unit_sum.expand(-1, *size)
        if self.keeps_maps and len(self.maps) == 0:
            self.maps = [self.map_sum.new_zeros(0, *size, dtype=torch.float32)]
            self.classes = [self.map_sum.new_zeros(0, dtype=torch.int64)]

    def _value(self) -> Tensor:
        chosen = self.count >= self.min_samples
        return self._unless_empty(self._mean(chosen), chosen)

    def _mean(self, chosen: Tensor) -> Tensor:
        """Over the images of the ``chosen`` classes (K,); 0/0: NaN."""
        if self.keeps_maps:
            return self._mean_of_kept(chosen)
        if self.distance == "pearson":
            correlation = (self.unit_sum * unit_map(self.class_means())).sum((1, 2))  # (K,): sum of r
            apart = (self.count - correlation).clamp(min=0)
        else:
            apart = self._spreads() / math.prod(self.map_sum.shape[1:])
        return (apart * chosen).sum() / (self.count * chosen).sum()

    def _mean_of_kept(self, chosen: Tensor) -> Tensor:
        in_memory = all(maps.dtype != torch.half for maps in self.maps)
        kept = [dim_zero_cat(self.maps)] if in_memory and len(self.maps) else self.maps
        classes = dim_zero_cat([chosen.new_zeros(0, dtype=torch.int64), *self.classes])
        weight = torch.cat([chosen.to(self.count.dtype), self.count.new_zeros(1)])
        reference = torch.cat([self.class_means(), torch.zeros_like(self.map_sum[:1])])
        total = self.count.new_zeros(())
        for maps, slots in zip(kept, classes.split([len(maps) for maps in kept]), strict=True):
            for part, slot in zip(maps.split(CHUNK), slots.split(CHUNK), strict=True):  # bounds the float64 copy
                deviation = gaze_deviation(part.to(total), reference[slot], self.distance)
                total = total + deviation @ weight[slot]
            if maps in _pages and hasattr(mmap, "MADV_DONTNEED"):
                _pages[maps].madvise(mmap.MADV_DONTNEED)  # what was read need not stay in memory
        if self._is_synced:
            total = torch.stack((self.dist_sync_fn or gather_all_tensors)(total, group=self.process_group)).sum()
        return total / (self.count * chosen).sum()

    def _sync_dist(self, dist_sync_fn: Any = gather_all_tensors, process_group: Any = None) -> None:
        with self._without_maps():
            super()._sync_dist(dist_sync_fn, process_group)

    def _copy_state_dict(self) -> dict[str, Any]:
        with self._without_maps() as own:  # each map itself is never changed
            return super()._copy_state_dict() | {name: list(kept) for name, kept in own.items()}

    @contextmanager
    def _without_maps(self) -> Iterator[dict[str, list[Tensor]]]:
        """For a while, where each of them can be looked at where it is."""
        own = {name: getattr(self, name) for name in ("maps", "classes") if self.keeps_maps and self.apart}
        vars(self).update({name: [] for name in own})
        try:
            yield own
        finally:
            vars(self).update(own)


def _in_file(maps: list[Tensor]) -> Tensor:
    """Maps (N, H, W) in half precision, in a file that has no name: it is gone with the tensor, or with the process."""
    try:
        with TemporaryFile() as file:
            for part in maps:
                file.write(part.half().cpu().contiguous().numpy())
            file.flush()
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise TrainingError(
            f"Maps that are kept for a measure find no room in {gettempdir()}: {error.strerror}. Name a folder on a "
            "larger disk in the variable TMPDIR."
        ) from error
    kept = torch.frombuffer(pages, dtype=torch.half).view(-1, *maps[0].shape[1:])
    _pages[kept] = pages
    return kept


class BalancedGazeConsistency(GazeSums):
    """L_CAM, squared, with each class of the same weight and without the bias of few images:
    ``1/K' sum_c 1/((n_c - 1) H'W') sum_x ||CAM^(x) - mean_c||^2`` over the K' classes with at least 2 images.

    L_CAM itself weighs a class by its correct images and falls short by (n_c - 1)/n_c, so it changes with what is
    classified correctly even where no gaze does. Lower is more consistent, 0..0.5; NaN without such a class, and where
    every map of these classes is empty.

    Args:
        num_classes: K.
        images: "correct" ones, or "all": the same images in every epoch, each with the map of its true class.
        kwargs: those of ``torchmetrics.Metric``.
    """

    higher_is_better = False

    def __init__(self, num_classes: int, images: Literal["correct", "all"] = "correct", **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        if images not in ("correct", "all"):
            raise ValueError(f"images={images!r} must be 'correct' or 'all'.")
        self.images = images

    def _counted(self, preds: Tensor, target: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        return super()._counted(target if self.images == "all" else preds, target, *maps)

    def _value(self) -> Tensor:
        chosen = self.count >= 2
        variances = self._spreads() / ((self.count - 1).clamp(min=1) * math.prod(self.map_sum.shape[1:]))
        return self._unless_empty((variances * chosen).sum() / chosen.sum(), chosen)  # 0/0: NaN


class GazeEtaSquared(GazeSums):
    """Correlation ratio of the gaze: the share of its variance that the class explains, 0..1.

    ``1 - within / total`` over all correct images, total taken to their grand mean. 0: no class structure, or
    one map that all share; 1: each class has its own fixed map. NaN where all maps are equal.
    """

    higher_is_better = True

    def _value(self) -> Tensor:
        return (1 - self._spreads().sum() / self._total()).clamp(max=1)


class GazeEpsilonSquared(GazeSums):
    """Eta squared without its bias (Kelley 1935): ``1 - (within / (N - K')) / (total / (N - 1))``, up to 1.

    Without class structure eta squared is (K' - 1) / (N - 1) on average, for K' classes with N correct images between
    them; epsilon squared is 0, and below it by chance. NaN where all maps are equal and where N = K'.
    """

    higher_is_better = True

    def _value(self) -> Tensor:
        number, classes = self.count.sum(), (self.count > 0).sum()
        return 1 - self._spreads().sum() / (number - classes) * (number - 1) / self._total()


class GazeEmptyFraction(GazeSums):
    """Share of the correct images whose map is all zero, 0..1: nothing supports the class, or the map is flat.

    A consistency that falls while this rises is no gain. NaN without a correct image.
    """

    higher_is_better = False

    def _value(self) -> Tensor:
        return self.empty.sum() / self.count.sum()


class GazeEntropy(GazeSums):
    """Mean normalised entropy of the correct images' maps (see ``gaze.consistency.deviation.map_entropy``), 0 one cell,
    1 uniform. Empty maps have none and are left out; NaN where all are empty.
    """

    def _value(self) -> Tensor:
        return self.entropy_sum / (self.count.sum() - self.empty.sum())


class CorrectCount(GazeSums):
    """Number of correct images |D+| that have a finite map."""

    higher_is_better = True

    def _value(self) -> Tensor:
        return self.count.sum()


class ClassGaze(GazeSums):
    """Mean gaze of each class (K, H, W) in [0, 1], zero for a class without a correct image."""

    def _value(self) -> Tensor:
        return self.class_means()


class ClassCounts(GazeSums):
    """Correct images of each class (K,)."""

    def _value(self) -> Tensor:
        return self.count.long()
