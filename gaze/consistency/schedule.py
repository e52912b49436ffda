"""The curriculum of the gaze loss's weight (thesis, Eq. 18)."""

from __future__ import annotations


def curriculum(epoch: int, weight: float, start: int = 2, end: int = 10) -> float:
    """Weight lambda_t of the gaze loss in an epoch (thesis, Eq. 18).

    0 before ``start`` (T0), then linear, ``weight`` from ``end`` (T1) on.

    Args:
        epoch: counts from 1.
        weight: lambda, of either sign.
        start: T0.
        end: T1 >= T0. With T1 = T0 the weight steps up at once.

    Raises:
        ValueError: ``end`` before ``start``.
    """
    if end < start:
        raise ValueError(f"The curriculum ends (epoch {end}) before it starts (epoch {start}).")
    if epoch >= end:
        return float(weight)
    if epoch < start:
        return 0.0
    return weight * (epoch - start) / (end - start)
