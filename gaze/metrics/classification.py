"""Cohen's kappa as the thesis logs it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics.classification import MulticlassCohenKappa


class CohenKappa(MulticlassCohenKappa):
    """Cohen's kappa (thesis, Eq. 3-4), 0 where it is undefined because one class alone occurs.

    Args:
        num_classes: K.
        kwargs: those of ``torchmetrics.classification.MulticlassCohenKappa``.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        # Checking the labels' values would make a GPU wait for the host in every batch.
        super().__init__(num_classes, **{"validate_args": False, **kwargs})

    def compute(self) -> Tensor:
        return super().compute().nan_to_num(0.0)
