"""How two gazes differ, and the shape of one: the columns of the augmentation study (its table of metrics).

Un-normalised and normalised maps give the same answer: each is scaled here, ``s`` = min-max map (thesis, Eq. 2; no
eps, so that the unit of a map does not matter) and ``p = s / sum(s)``. A cell lies at its centre in [0, 1]^2.
Everything is batched, on the device of the maps, in float64, without gradient.

A map that is all zero or flat says nothing about where the network looked. Its columns are NaN, never a number,
and ``valid`` tells it, so that n_valid and dead_rate can be counted. Flat: a range of 1e-6 of the highest value.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.special import entr

from gaze.cam.methods import normalize_cam
from gaze.cam.pool import pool_to_grid
from gaze.errors import DataError

EMD_NATIVE, EMD_TILES = 8, 7  # earth mover's distance: a side of up to 8 cells as it is, a longer one in 7 tiles
MIN_GRID, FLAT = 4, 1e-6
TIE = 1e-12  # what a cell^2 of lag takes off a cross-correlation, so that rounding does not choose between equals


@torch.no_grad()
def compare_maps(
    a: Tensor,
    b: Tensor,
    *,
    region: int = 4,
    region_weights: Tensor | None = None,
    emd: bool = True,
    valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """Every pair column of the augmentation study (table of metrics) but pred_kl. Only the lags have a direction.

    ``mad``, ``msd`` 0..1: mean absolute, squared difference of s. ``pearson``, ``spearman`` -1..1: over the cells,
    average ranks for ties. ``overlap`` 0..1: IoU of the top 20 % cells, ceil(H W / 5) of them, the first in reading
    order among equals; a cell of s = 0 is never one of them. ``sim`` 0..1: ``sum min(p, q)``. ``js`` 0..1:
    Jensen-Shannon divergence in bits. ``emd`` 0..1: least cost of moving p onto q, Euclidean cost / sqrt 2; exact
    on the maps' own cells up to 8 a side, a longer side is pooled to 7 tiles first, which changes it by less than
    1/7 + 1/min(H, W). ``centroid_shift`` 0..1: distance of the centroids / sqrt 2. ``xcorr_peak`` 0..1,
    ``xcorr_lag_y``, ``xcorr_lag_x`` in cells: peak of the normalised cross-correlation of the maps less their means,
    zero outside; a lag of (2, -1) says that b is a moved 2 cells down and 1 to the left. ``region_mad`` 0..1:
    weighted mean absolute difference of s after pooling to ``region`` x ``region`` equal tiles.

    Args:
        a: maps (B, H, W), >= 0, finite, 4x4 or larger.
        b: maps of the same shape.
        region: tiles along each side, 1..min(H, W).
        region_weights: weights of the tiles (region, region), >= 0; default: all alike.
        emd: False leaves ``emd`` out, by far the slowest column.
        valid: pairs to look at (B,) bool; the others count as invalid.

    Returns:
        Columns (B,) float64, NaN for an invalid pair, and ``valid`` (B,) bool: both maps are neither zero nor flat.

    Raises:
        ValueError: shapes that differ, negative or non-finite values, regions or weights that do not fit.
        DataError: a grid under 4x4.
    """
    if a.shape != b.shape:
        raise ValueError(f"compare_maps needs maps of one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    usable = _usable(a, "compare_maps") & _usable(b, "compare_maps")
    if valid is not None:
        if valid.shape != a.shape[:1] or valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool ({len(a)},), got {valid.dtype} {tuple(valid.shape)}.")
        usable = usable & valid
    weights = _region_weights(a, region, region_weights)
    first, second = (_prepared(maps[usable], region) for maps in (a, b))
    return _with_invalid(_pair_columns(first, second, weights, emd), usable)


class PreparedMaps(NamedTuple):
    """What each pair column needs of one map alone, so that a map held against many is worked on once: from
    :func:`prepare_maps`, for :func:`compare_prepared`.
    """

    usable: Tensor
    s: Tensor
    p: Tensor
    s_unit: Tensor  # cells less their mean, of length 1
    rank_unit: Tensor
    top: Tensor
    entropy: Tensor
    centroid: Tensor
    tiles: Tensor
    spectrum: Tensor


@torch.no_grad()
def prepare_maps(maps: Tensor, region: int = 4, least: int = MIN_GRID) -> PreparedMaps:
    """Maps (B, H, W) of ``least`` or more cells a side made ready to be held against many others; arguments and errors
    as for :func:`compare_maps`.
    """
    usable = _usable(maps, "prepare_maps", least)
    _region_weights(maps, region, None)
    stand_in = torch.linspace(0, 1, maps[0].numel()).to(maps).view(maps.shape[1:]) if len(maps) else maps
    return _prepared(torch.where(usable[:, None, None], maps, stand_in), region)._replace(usable=usable)


@torch.no_grad()
def compare_prepared(a: PreparedMaps, b: PreparedMaps, *, emd: bool = True) -> dict[str, Tensor]:
    """The columns of :func:`compare_maps`, tiles weighted alike, of maps prepared with the same ``region``.

    Raises:
        ValueError: maps or tiles of other shapes.
    """
    if a.s.shape != b.s.shape or a.tiles.shape != b.tiles.shape:
        raise ValueError(
            f"compare_prepared needs maps and tiles of one shape, got {tuple(a.s.shape)} and {tuple(b.s.shape)}, "
            f"{tuple(a.tiles.shape)} and {tuple(b.tiles.shape)}."
        )
    usable, region = a.usable & b.usable, a.tiles.shape[1]
    weights = _region_weights(a.s, region, None)
    if not usable.all():
        a, b = (PreparedMaps(*(part[usable] for part in maps)) for maps in (a, b))
    return _with_invalid(_pair_columns(a, b, weights, emd), usable)


@torch.no_grad()
def map_shape(cam: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Every column of the augmentation study (table of metrics) that belongs to one map.

    ``dispersion`` 0..0.5: ``sqrt(1/2 sum p |u - c|^2)``, c the centroid. ``entropy`` 0..1: ``H(p) / ln(H W)``.
    ``gini`` 0..1 - 1/(H W): Gini coefficient of p. ``centroid_y``, ``centroid_x`` 0..1: from the top, the left.
    With masks also ``mask_energy`` 0..1: ``sum p mask``, 0 for an empty mask; ``mask_area`` 0..1: mean of the mask;
    ``mask_lift`` >= 0: energy / area, 1 for a gaze that does not know of the mask, NaN where the mask is empty.

    Args:
        cam: maps (B, H, W), >= 0, finite, 4x4 or larger.
        mask: masks (B, h, w) of any size, bool or 0..1; each cell of the map takes the mean over its area.

    Returns:
        Columns (B,) float64, NaN for an invalid map, and ``valid`` (B,) bool: the map is neither zero nor flat.

    Raises:
        ValueError: shapes that do not fit, values out of range.
        DataError: a grid under 4x4.
    """
    usable = _usable(cam, "map_shape")
    if mask is not None:
        _check_mask(mask, len(cam))
    s = normalize_cam(cam[usable].double(), eps=0)
    p = s / s.sum((1, 2), keepdim=True)
    cells, centroid = p.shape[1] * p.shape[2], _centroid(p)
    y, x = _positions(p)
    square = (y[:, None] - centroid[:, 0, None, None]).square() + (x - centroid[:, 1, None, None]).square()
    columns = {
        "dispersion": ((p * square).sum((1, 2)) / 2).sqrt(),
        "entropy": (entr(p).sum((1, 2)) / math.log(cells)).clamp(0, 1),
        "gini": (p.flatten(1).sort(1).values @ torch.arange(1 - cells, cells, 2).to(p) / cells).clamp(min=0),
        "centroid_y": centroid[:, 0],
        "centroid_x": centroid[:, 1],
    }
    if mask is not None:
        pooled = pool_to_grid(mask[usable].to(p.device, p.dtype), (p.shape[1], p.shape[2]))
        energy, area = (p * pooled).sum((1, 2)).clamp(max=1), pooled.mean((1, 2))
        lift = torch.where(area > 0, energy / area, math.nan)
        columns |= {"mask_energy": energy, "mask_area": area, "mask_lift": lift}
    return _with_invalid(columns, usable)


@torch.no_grad()
def compare_logits(logits_b: Tensor, logits_a: Tensor) -> dict[str, Tensor]:
    """``pred_kl`` (B,) float64: KL(softmax_b || softmax_a) in nats, >= 0 (augmentation study, table of metrics).

    Args:
        logits_b: pre-softmax scores (B, K) of the model that is looked at.
        logits_a: those of the model that it is compared with.

    Raises:
        ValueError: shapes that are not (B, K) or differ; one score an image; values that are not finite.
    """
    if logits_b.ndim != 2 or logits_b.shape != logits_a.shape:
        raise ValueError(f"compare_logits needs two (B, K), got {tuple(logits_b.shape)} and {tuple(logits_a.shape)}.")
    if logits_b.shape[1] == 1:  # its softmax is 1 whatever it says
        raise ValueError("compare_logits needs two scores or more: give one logit as torch.cat([0 * logit, logit], 1).")
    if not (logits_b.isfinite().all() and logits_a.isfinite().all()):
        raise ValueError("compare_logits needs finite logits: a model with NaN or infinite scores has no prediction.")
    b, a = logits_b.double().log_softmax(1), logits_a.double().log_softmax(1)
    return {"pred_kl": (b.exp() * (b - a)).sum(1).clamp(min=0)}


def _prepared(maps: Tensor, region: int) -> PreparedMaps:
    """Of maps that are all usable."""
    s = normalize_cam(maps.double(), eps=0)
    p = s / s.sum((1, 2), keepdim=True)
    rank, top = _ranks_and_top(s)
    return PreparedMaps(
        torch.ones(len(s), dtype=torch.bool, device=s.device),
        s,
        p,
        _unit(s.flatten(1)),
        _unit(rank),
        top,
        entr(p).sum((1, 2)),
        _centroid(p),
        pool_to_grid(s, region),
        _spectrum(s),
    )


def _pair_columns(a: PreparedMaps, b: PreparedMaps, weights: Tensor, emd: bool) -> dict[str, Tensor]:
    """Of maps that are all usable."""
    difference = a.s - b.s
    peak, lag = _cross_correlation(a.spectrum, b.spectrum, a.s.shape[1:])
    columns = {
        "mad": difference.abs().mean((1, 2)),
        "msd": difference.square().mean((1, 2)),
        "pearson": (a.s_unit * b.s_unit).sum(1).clamp(-1, 1),
        "spearman": (a.rank_unit * b.rank_unit).sum(1).clamp(-1, 1),
        "overlap": (a.top & b.top).sum(1).double() / (a.top | b.top).sum(1),
        "sim": torch.minimum(a.p, b.p).sum((1, 2)).clamp(max=1),
        "js": (entr((a.p + b.p) / 2).sum((1, 2)) - (a.entropy + b.entropy) / 2).div(math.log(2)).clamp(0, 1),
        "centroid_shift": (a.centroid - b.centroid).norm(dim=1) / math.sqrt(2),
        "region_mad": ((a.tiles - b.tiles).abs() * weights).sum((1, 2)),
        **{"xcorr_peak": peak, "xcorr_lag_y": lag[:, 0], "xcorr_lag_x": lag[:, 1]},
    }
    if emd:
        columns["emd"] = _earth_mover(a.p, b.p)
    return columns


def _spectrum(s: Tensor) -> Tensor:
    """Fourier transform (B, 2 H, W + 1) of the maps less their means, of length 1, with zeros around them."""
    height, width = s.shape[1:]
    if len(s) == 0:  # the FFT refuses it
        return torch.zeros(0, 2 * height, width + 1, dtype=torch.complex128, device=s.device)
    return torch.fft.rfft2(_unit(s.flatten(1)).view_as(s), (2 * height, 2 * width))  # one more than there are lags


def _cross_correlation(s: Tensor, t: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Peaks (B,) of ``r(l) = sum_u s'(u) t'(u + l) / (||s'|| ||t'||)``, s' = s - mean(s), and their lags l (B, 2), of
    the :func:`_spectrum` of maps of this size."""
    height, width = size
    lags = torch.cartesian_prod(*(torch.arange(1 - n, n, device=s.device) for n in (height, width))).double()
    if len(s) == 0:
        return lags.new_zeros(0), lags.new_zeros(0, 2)
    r = torch.fft.irfft2(s.conj() * t, (2 * height, 2 * width))
    r = torch.fft.fftshift(r, (1, 2))[:, 1:, 1:].flatten(1)
    place = (r - TIE * lags.square().sum(1)).argmax(1)  # the r of all lags sum to 0: no peak is below 0
    return r.gather(1, place[:, None])[:, 0].clamp(0, 1), lags[place]


def _earth_mover(p: Tensor, q: Tensor) -> Tensor:
    """Least cost (B,) of moving p onto q by POT's network simplex. What both have in a cell stays there, which is
    optimal for a cost that is a distance."""
    for name in ("JAX", "TENSORFLOW"):  # POT would import them where they are installed
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{name}", "1")
    from ot.lp import emd2  # takes seconds

    height, width = (n if n <= EMD_NATIVE else EMD_TILES for n in p.shape[1:])
    net = pool_to_grid(p - q, (height, width)) * (p.shape[1] * p.shape[2] / (height * width))
    centres = torch.cartesian_prod(*_positions(net))
    cost = ((centres[:, None] - centres).norm(dim=2) / math.sqrt(2)).cpu().numpy()
    found = np.zeros(len(net))
    for k, row in enumerate(net.flatten(1).cpu().numpy()):
        out, into = row > 0, row < 0
        if out.any() and into.any():  # else the two are equal, but for rounding
            found[k] = emd2(row[out], -row[into], cost[np.ix_(out, into)], center_dual=False, check_marginals=False)
    return torch.from_numpy(found).to(p.device).clamp(0, 1)


def _positions(maps: Tensor) -> tuple[Tensor, Tensor]:
    y, x = ((torch.arange(n).to(maps) + 0.5) / n for n in maps.shape[1:])
    return y, x


def _centroid(p: Tensor) -> Tensor:
    return torch.stack([p.sum(3 - axis) @ u for axis, u in enumerate(_positions(p), 1)], 1)  # (B, 2): y, x


def _unit(cells: Tensor) -> Tensor:
    """Rows (B, n) less their mean, of length 1: their products are Pearson's r."""
    cells = cells - cells.mean(1, keepdim=True)
    return cells / cells.norm(dim=1, keepdim=True)


def _ranks_and_top(s: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks (B, n), the mean rank for cells of one value, and which are the ceil(n / 5) highest cells (B, n)."""
    flat, number = s.flatten(1), s.shape[1] * s.shape[2]
    value, cell = flat.sort(1)
    place = torch.arange(number, device=s.device).expand_as(cell)
    first, last, new = place.clone(), place.clone(), value[:, 1:] != value[:, :-1]
    first[:, 1:] *= new
    last[:, :-1].masked_fill_(~new, number)
    first, last = first.cummax(1).values, last.flip(1).cummin(1).values.flip(1)
    ranks = torch.empty_like(flat).scatter_(1, cell, (first + last + 2).to(flat.dtype) / 2)
    wanted = -(-number // 5)
    above, equal = flat > value[:, number - wanted, None], flat == value[:, number - wanted, None]
    return ranks, (above | (equal & (equal.cumsum(1) <= wanted - above.sum(1, keepdim=True)))) & (flat > 0)


def _with_invalid(columns: dict[str, Tensor], usable: Tensor) -> dict[str, Tensor]:
    """Columns of all maps (B,), NaN for those that are not usable."""
    full = {name: torch.full(usable.shape, math.nan, dtype=torch.float64, device=usable.device) for name in columns}
    for name, column in columns.items():
        full[name][usable] = column
    return full | {"valid": usable}


def _usable(maps: Tensor, where: str, least: int = MIN_GRID) -> Tensor:
    """Which maps (B,) are neither zero nor flat, once shapes and values are checked."""
    if maps.ndim != 3 or not maps.is_floating_point():
        raise ValueError(f"{where} needs maps (B, H, W) of a floating type, got {maps.dtype} {tuple(maps.shape)}.")
    if min(maps.shape[1:]) < least:
        raise DataError(
            f"{where}: maps of {maps.shape[1]}x{maps.shape[2]} cells are too coarse to compare where networks look; "
            f"{least}x{least} cells is the least. Hook an earlier layer or use larger images."
        )
    if not ((maps >= 0) & maps.isfinite()).all():
        raise ValueError(f"{where} needs maps that are finite and >= 0; these hold negative, NaN or infinite values.")
    low, high = maps.double().amin((1, 2)), maps.double().amax((1, 2))
    return high - low > FLAT * high


def _check_mask(mask: Tensor, batch: int) -> None:
    if mask.ndim != 3 or len(mask) != batch or 0 in mask.shape[1:]:
        raise ValueError(f"map_shape needs one mask (h, w) per map, ({batch}, h, w), got {tuple(mask.shape)}.")
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError("map_shape needs masks in 0..1; divide a mask of 0 and 255 by 255.")


def _region_weights(maps: Tensor, region: int, weights: Tensor | None) -> Tensor:
    """Weights (region, region) of sum 1."""
    if not 1 <= region <= min(maps.shape[1:]):
        raise ValueError(f"region={region} must be 1..{min(maps.shape[1:])} tiles a side for maps of this size.")
    weights = torch.ones(region, region) if weights is None else weights
    if weights.shape != (region, region) or not (weights >= 0).all() or not 0 < weights.sum() < math.inf:
        raise ValueError(f"region_weights must be ({region}, {region}), finite, >= 0 and not all 0.")
    return weights.to(maps.device, torch.float64) / weights.double().sum().to(maps.device)
