"""What metrics of maps refuse and what they leave out, found without a wait for the host in ``update``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn

from gaze.consistency.deviation import class_membership

# A within-class variance from sums cancels digits, so the sums are wide; Apple's MPS has no float64.
SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64
RANGE_TOLERANCE = 1e-3  # further outside 0..1, maps were not normalised; up to there, it is rounding


class WatchedMetric(Metric):
    """Counts, on the device, what cannot be; ``compute`` says it. Subclasses define ``_value``.

    A label below 0 is padding: its image is nobody's. Maps that are NaN or infinite are left out, and ``compute``
    warns. It raises a ValueError for a label or a predicted class outside 0..K-1, and for maps outside [0, 1].

    Args:
        num_classes: K.
        kwargs: those of ``torchmetrics.Metric``.
    """

    full_state_update = False
    is_differentiable = False
    outside: Tensor  # (): images whose true or predicted class is none of 0..K-1
    left_out: Tensor  # (): images that would count, had they a finite map
    excess: Tensor  # (): how far a finite map goes outside [0, 1]

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be 1 or more.")
        self.num_classes = num_classes
        for name, reduced in (("outside", "sum"), ("left_out", "sum"), ("excess", "max")):
            self.add_state(name, torch.zeros((), dtype=SUM_DTYPE), dist_reduce_fx=reduced)

    def _counted(self, preds: Tensor, target: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """One-hot rows (B, K) of the images that count, and their maps (B, ...), wide, without graph; zero where not
        finite, since 0 * NaN is NaN.
        """
        wide = [own.detach().to(self.excess.dtype) for own in maps]
        low = torch.stack([own.flatten(1).amin(1) for own in wide]).amin(0)  # (B,), NaN where a cell is
        high = torch.stack([own.flatten(1).amax(1) for own in wide]).amax(0)
        finite = low.isfinite() & high.isfinite()
        member = class_membership(preds, target, self.num_classes).to(self.excess.dtype)
        self.outside = self.outside + labels_outside(preds, target, self.num_classes).sum()
        self.left_out = self.left_out + (member.sum(1) * ~finite).sum()
        beyond = torch.where(finite & (target >= 0), torch.maximum(-low, high - 1), 0)
        self.excess = torch.maximum(self.excess, beyond.amax())
        return member * finite[:, None], *(torch.where(finite.view(-1, *[1] * (own.ndim - 1)), own, 0) for own in wide)

    def compute(self) -> Tensor:
        refuse_outside(self.outside, self.num_classes)
        if self.excess > RANGE_TOLERANCE:
            raise ValueError(
                f"{type(self).__name__} needs maps in [0, 1]; these go {self.excess.item():.3g} beyond. Scale them "
                "first, by gaze.normalize_cam (masks of 0 and 255: divide by 255), and reset() the metric."
            )
        if self.left_out > 0:
            rank_zero_warn(
                f"Images left out, since their map is NaN or infinite: {self.left_out.item():.0f}. Where the network's "
                "scores overflow, trainer.precision=bf16-mixed or 32-true has room for them."
            )
        value = self._value()
        return value.float() if value.is_floating_point() else value

    def _value(self) -> Tensor:
        raise NotImplementedError


def labels_outside(preds: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Images (B,) that are no padding and whose true or predicted class is none of 0..K-1."""
    return (target >= 0) & ((target >= num_classes) | (preds < 0) | (preds >= num_classes))


def refuse_outside(number: Tensor, num_classes: int) -> None:
    """Raise a ValueError where a count of :func:`labels_outside` is not 0."""
    if number > 0:
        raise ValueError(
            f"Images whose true or predicted class is outside 0..{num_classes - 1}: {number.item():.0f}. Give the "
            "right num_classes, label -1 to images that shall not count, and reset() the metric."
        )
