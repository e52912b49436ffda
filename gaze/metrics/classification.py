"""Cohen's kappa as the thesis logs it, and means over classes from the same table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassCohenKappa

from gaze.consistency.deviation import checked_batch
from gaze.metrics.watched import labels_outside, refuse_outside


class CohenKappa(MulticlassCohenKappa):
    """Cohen's kappa (thesis, Eq. 3-4), 0 where it is undefined because one class alone occurs.

    A label below 0 is padding, as for the gaze metrics. ``compute`` raises a ValueError for other labels, and for
    predicted classes, outside 0..K-1: checking them in ``update`` would make a GPU wait for the host in every batch.

    Args:
        num_classes: K.
        kwargs: those of ``torchmetrics.classification.MulticlassCohenKappa``.
    """

    outside: Tensor  # (): images whose true or predicted class is none of 0..K-1

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.add_state("outside", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            preds: predicted classes (B,), or scores (B, K) such as logits.
            target: true classes (B,), whole numbers.

        Raises:
            ValueError: shapes or types that do not fit.
        """
        preds, target = checked_batch(preds, target, self.num_classes)
        if self.ignore_index is not None:
            target = target.masked_fill(target == self.ignore_index, -1)
        outside, last = labels_outside(preds, target, self.num_classes), self.num_classes
        self.outside = self.outside + outside.sum()
        counts = (target >= 0) & ~outside
        place = torch.where(counts, target, last), torch.where(counts, preds, last)
        table = self.confmat.new_zeros(last + 1, last + 1)
        table.index_put_(place, torch.ones_like(target), accumulate=True)  # bincount would wait for the host
        self.confmat = self.confmat + table[:-1, :-1]

    def compute(self) -> Tensor:
        refuse_outside(self.outside, self.num_classes)
        return super().compute().nan_to_num(0.0)


class BalancedAccuracy(CohenKappa):
    """Mean recall of the classes that occur (Brodersen et al. 2010), 0..1, from the table of :class:`CohenKappa`."""

    def compute(self) -> Tensor:
        refuse_outside(self.outside, self.num_classes)
        right, images = self.confmat.diagonal().double(), self.confmat.sum(1)
        return ((right / images.clamp(min=1)).sum() / (images > 0).sum()).nan_to_num(0.0)


class GroupAccuracy(CohenKappa):
    """Accuracy of each of the 2 K groups class x marker (see ``gaze.data.marker``), 0..1; NaN for one of no image.

    Args:
        num_classes: K.
        kwargs: as above.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(2 * num_classes, **kwargs)

    def update(self, preds: Tensor, target: Tensor, marked: Tensor) -> None:  # type: ignore[override]
        """Add a batch of predicted and true classes (B,), with whether each image has the marker (B,)."""
        super().update(2 * preds + marked, 2 * target + marked)

    def compute(self) -> Tensor:
        refuse_outside(self.outside, self.num_classes)
        return (self.confmat.diagonal() / self.confmat.sum(1)).float()  # 0/0: NaN


class MacroF1(CohenKappa):
    """Mean F1 of the classes that occur or are predicted, 0..1, from the table of :class:`CohenKappa`."""

    def compute(self) -> Tensor:
        refuse_outside(self.outside, self.num_classes)
        right, named = self.confmat.diagonal().double(), self.confmat.sum(0) + self.confmat.sum(1)
        return ((2 * right / named.clamp(min=1)).sum() / (named > 0).sum()).nan_to_num(0.0)
