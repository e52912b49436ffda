"""Maps on another grid, each tile the mean over its area."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_to_grid(cam: Tensor, grid: int | tuple[int, int]) -> Tensor:
    """Mean of each map over the ``grid`` x ``grid`` equal tiles of its area, so that maps of any size compare.

    A cell that lies on the border of two tiles counts in each by the area it has there. A map with fewer cells
    than the grid gains no detail. The values keep their unit, the map's own 0..1 range; they are not scaled anew.

    Args:
        cam: maps (B, H, W).
        grid: tiles along each side, 1 or more; or (rows, columns) of them.

    Returns:
        Maps (B, grid, grid), or (B, rows, columns).
    """
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    return _tile_weights(cam.shape[1], rows, cam) @ cam @ _tile_weights(cam.shape[2], columns, cam).T


def pool_by_cells(cam: Tensor, most: int) -> Tensor:
    """Mean of each map over blocks of whole cells, as small ones as leave at most ``most`` on each side. A block at the
    lower or right border has fewer cells where the side is no multiple.

    Args:
        cam: maps (B, H, W).
        most: blocks a side.

    Returns:
        Maps (B, h, w), h and w at most ``most``; ``cam`` itself where it is that small.
    """
    sides = [-(-size // most) for size in cam.shape[1:]]
    if sides == [1, 1]:
        return cam
    return F.avg_pool2d(cam[:, None], sides, ceil_mode=True, count_include_pad=False)[:, 0]


def _tile_weights(size: int, grid: int, like: Tensor) -> Tensor:
    """Share (grid, size) that each of ``size`` cells has in each of ``grid`` tiles of one side; rows sum to 1."""
    tile = torch.arange(grid, dtype=like.dtype, device=like.device)[:, None] / grid
    cell = torch.arange(size, dtype=like.dtype, device=like.device)[None] / size
    overlap = torch.minimum(tile + 1 / grid, cell + 1 / size) - torch.maximum(tile, cell)
    weights = overlap.clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
