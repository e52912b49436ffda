"""How far a gaze is from its class's gaze: deviation, class reference, loss, curriculum (thesis, Eq. 5-18).

Everything here takes maps CAM^ that were scaled to [0, 1] by :func:`gaze.cam.methods.normalize_cam`. Classes are
handled by one-hot sums: no loop over them, no ``.item()``, nothing that makes a GPU wait for the host.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gaze.choices import DISTANCES
from gaze.config.train import REFERENCES
from gaze.consistency.deviation import checked_batch, class_membership, gaze_deviation


class GazeConsistencyLoss(nn.Module):
    """L_CAM on a mini-batch (thesis, Eq. 11-17): the mean deviation of each correct image from its class's gaze.

    ``L = (1/|B+'|) sum_{c in C'} sum_{x in B_c+} dev(CAM^(x), ref_c)``, C' = classes with at least
    ``min_samples`` correct images in the batch; 0, with a graph, when there is none.

    ``reference="ema"``: ``ref_c <- a ref_c + (1 - a) mean_c`` (Eq. 17), first value the first batch mean; the
    deviation is to the updated map, and no gradient flows into it. ``reference="batch"``: the batch mean
    itself, with gradient. In eval mode the EMA maps stay as they are and classes never seen are left out.

    Under ``torch.distributed`` the batch is the one of all processes together: sums are reduced before C' and
    the class means are formed, and the loss is scaled such that DDP's average of gradients is the gradient of
    the whole batch's loss. Every process has to call it in the same steps.

    Args:
        num_classes: K.
        distance: see :func:`gaze_deviation`.
        reference: "ema" or "batch".
        ema_decay: a in [0, 1).
        min_samples: correct images of a class that a batch needs.
        map_size: (H, W), where known. Otherwise the buffers take the size of the first maps.

    Buffers, kept in checkpoints: ``class_gaze`` (K, H, W) and ``seen`` (K,), 1 for a class that has a gaze, else 0.
    Weight averaging (Lightning's ``EMAWeightAveraging``, ``torch.optim.swa_utils``, timm's ``ModelEmaV3``) may take
    them: the averaged gaze of a class is ``class_gaze / seen``.

    Example:
        >>> loss = GazeConsistencyLoss(num_classes=2)
        >>> cam = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 4, 4)
        >>> loss(cam, preds=torch.tensor([1, 1]), target=torch.tensor([1, 1]))  # mean map 0.5: 0.5^2 each
        tensor(0.2500)
    """

    class_gaze: Tensor
    seen: Tensor

    def __init__(
        self,
        num_classes: int,
        distance: str = "squared",
        reference: str = "ema",
        ema_decay: float = 0.9,
        min_samples: int = 2,
        *,
        map_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if reference not in REFERENCES:
            raise ValueError(f"reference={reference!r} is unknown: {' or '.join(REFERENCES)}.")
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay={ema_decay} must be in [0, 1).")
        if num_classes < 1 or min_samples < 1:
            raise ValueError(f"num_classes={num_classes} and min_samples={min_samples} must be 1 or more.")
        self.num_classes = num_classes
        self.distance = DISTANCES[distance].name  # refuses an unknown one
        self.reference = reference
        self.ema_decay = ema_decay
        self.min_samples = min_samples
        self.register_buffer("class_gaze", torch.zeros(num_classes, *(map_size or (0, 0))))
        self.register_buffer("seen", torch.zeros(num_classes))  # no bool, which cannot be averaged
        self._unsized = _Unsized() if map_size else _Unsized([self])

    def forward(self, cam: Tensor, preds: Tensor, target: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            cam: normalised maps (B, H, W) in [0, 1], with graph. One that is NaN or infinite does not count.
            preds: predicted classes (B,), or scores (B, K) such as logits.
            target: true classes (B,), whole numbers; one below 0 (padding) does not count.

        Returns:
            Scalar >= 0.

        Raises:
            ValueError: shapes or types that do not fit; a label of K or more. On a GPU such a label ends in a
                device-side assertion, as in ``cross_entropy``: a message would make it wait for the host in every step.
        """
        preds, target = checked_batch(preds, target, self.num_classes, cam)
        finite = cam.isfinite().flatten(1).all(1)  # (B,)
        cam = torch.where(finite[:, None, None], cam, 0)  # 0 * NaN is NaN, in sums and in gradients
        member = class_membership(preds, target, self.num_classes).to(cam.dtype) * finite[:, None]  # (B, K)
        count, mean = self._class_means(cam, member)
        qualifies = count >= self.min_samples  # (K,): C'
        if self.reference == "ema":
            reference = self._updated_ema(mean, qualifies)
            qualifies = qualifies & (self.seen > 0)
        else:
            reference = mean
        deviation = gaze_deviation(cam, self._of_class(reference, target), self.distance)  # (B,)
        chosen = (member * qualifies).sum(1)  # (B,): 1 for the images of B+'
        number = (count * qualifies).sum().clamp(min=1)
        return world_size() * (deviation * chosen).sum() / number

    def _of_class(self, reference: Tensor, target: Tensor) -> Tensor:
        """The map of each image's class (B, H, W)."""
        try:
            return reference[target.clamp(min=0)]
        except IndexError as error:
            raise ValueError(
                f"target holds a class above {self.num_classes - 1}. Give the right num_classes, and label -1 to "
                "images that shall not count."
            ) from error

    def _class_means(self, cam: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
        """Counts (K,) and mean maps (K, H, W) of the correct images, over all processes."""
        if self.reference == "ema":
            cam = cam.detach()
        sums = torch.einsum("bk,bhw->khw", member, cam)
        count = member.sum(0)
        if world_size() > 1:
            packed = sum_over_processes(torch.cat([count, sums.flatten()]))  # one message instead of two
            count, sums = packed[: self.num_classes].detach(), packed[self.num_classes :].view_as(sums)
        return count, sums / count.clamp(min=1)[:, None, None]

    @torch.no_grad()
    def _updated_ema(self, mean: Tensor, qualifies: Tensor) -> Tensor:
        """The class gaze after this batch (Eq. 17)."""
        self._take_map_size(mean)
        seen = self.seen > 0
        # Both were averaged alike, from zeros for a class not yet seen: the quotient is a mean of real maps.
        gaze = self.class_gaze / torch.where(seen, self.seen, 1)[:, None, None]
        if self.training:
            decay = self.ema_decay * seen.to(mean.dtype)[:, None, None]
            updated = decay * gaze + (1 - decay) * mean
            gaze = torch.where(qualifies[:, None, None], updated, gaze)
            # In place: the buffers that DDP and the optimiser's checkpoint know stay the same objects.
            self.class_gaze.copy_(gaze)
            self.seen.copy_(seen | qualifies)
        return gaze

    def _take_map_size(self, mean: Tensor) -> None:
        """Zeros of the first maps' size, in this loss and in its copies that have none yet."""
        if self.class_gaze.shape == mean.shape:
            return
        if self not in self._unsized or (self.class_gaze.numel() > 0 and self.seen.any()):
            raise ValueError(
                f"The class gaze holds maps of {tuple(self.class_gaze.shape[1:])}, this batch has "
                f"{tuple(mean.shape[1:])}: keep one image size, or use one GazeConsistencyLoss for each."
            )
        dtype = torch.promote_types(mean.dtype, torch.float32)
        for loss in self._unsized:
            if loss is self or loss.class_gaze.numel() == 0:
                loss.class_gaze = torch.zeros_like(mean, dtype=dtype, device=loss.class_gaze.device)

    def __setstate__(self, state: dict[str, Any]) -> None:  # of a copy
        super().__setstate__(state)
        if self.class_gaze.numel() == 0:
            self._unsized.add(self)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        saved = state_dict.get(f"{prefix}class_gaze")
        if saved is not None and self.class_gaze.numel() == 0:
            self.class_gaze = torch.empty_like(saved, device=self.class_gaze.device)  # size learned from the maps
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, distance={self.distance!r}, reference={self.reference!r}"


class _Unsized(WeakSet["GazeConsistencyLoss"]):
    """A loss without a map_size and its copies. Weight averaging copies a model before its first batch, and later adds
    the model's buffers to the copy's: they have to take their size together.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> _Unsized:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Unsized, ()


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes. Each of them uses it, so its gradient is the sum of all their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _SumOverProcesses.apply(gradient)


def mean_over_images(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of ``values`` (B,) over the images that count (B,) bool, of all processes: scaled such that DDP's average of
    gradients is that of the whole batch; 0, with a graph, where there is none.
    """
    counts = counts.to(values.dtype)
    return world_size() * (values * counts).sum() / sum_over_processes(counts.sum()).clamp(min=1)


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum over all processes, differentiable; ``value`` itself where there is one."""
    return value if world_size() == 1 else _SumOverProcesses.apply(value)


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
