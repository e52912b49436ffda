"""How two gazes differ, and the shape of one: the columns of the augmentation study (its table of metrics).

Un-normalised and normalised maps give the same answer: each is scaled here, ``s`` = min-max map (thesis, Eq. 2; no
eps, so that the unit of a map does not matter) and ``p = s / sum(s)``. A cell lies at its centre in [0, 1]^2.
Everything is batched, on the device of the maps, in float64, without gradient.

A map that is all zero or flat says nothing about where the network looked. Its columns are NaN, never a number,
and ``valid`` tells it, so that n_valid and dead_rate can be counted. Flat: a range of 1e-6 of the highest value.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import entr

from gaze.cam.methods import normalize_cam
from gaze.errors import DataError

EMD_NATIVE, EMD_TILES = 8, 7  # earth mover's distance: a side of up to 8 cells as it is, a longer one in 7 tiles
MIN_GRID, FLAT = 4, 1e-6
TIE = 1e-12  # what a cell^2 of lag takes off a cross-correlation, so that rounding does not choose between equals
SUPPLY, GAIN = 1e-12, 1e-10  # earth mover's distance: amount that keeps pivots from going round; rounding of a cost
CHUNK = {"cpu": 128, "cuda": 8192}  # pairs at a time: fits a CPU's cache; about 1 GB on a GPU


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
def prepare_maps(maps: Tensor, region: int = 4) -> PreparedMaps:
    """Maps (B, H, W) made ready to be held against many others; arguments and errors as for :func:`compare_maps`."""
    usable = _usable(maps, "prepare_maps")
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
        pooled = _area_pool(mask[usable].to(p.device, p.dtype), *p.shape[1:])
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
        ValueError: shapes that are not (B, K) or differ; values that are not finite.
    """
    if logits_b.ndim != 2 or logits_b.shape != logits_a.shape:
        raise ValueError(f"compare_logits needs two (B, K), got {tuple(logits_b.shape)} and {tuple(logits_a.shape)}.")
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
        _area_pool(s, region, region),
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
    """Least cost (B,) of moving p onto q, exact up to 1e-9: network simplex on p - q, all pairs side by side."""
    height, width = (n if n <= EMD_NATIVE else EMD_TILES for n in p.shape[1:])
    net = _area_pool(p - q, height, width) * (p.shape[1] * p.shape[2] / (height * width))
    centres = torch.cartesian_prod(*_positions(net))
    cost = (centres[:, None] - centres).norm(dim=2) / math.sqrt(2)
    chunks = net.flatten(1).split(CHUNK.get(p.device.type, 128))
    return torch.cat([(_potentials(chunk, cost) * chunk).sum(1) for chunk in chunks]).clamp(0, 1)


def _potentials(supply: Tensor, cost: Tensor) -> Tensor:
    """Optimal prices y (B, n): ``y_i - y_j <= cost_ij``, and ``sum y supply`` is the least cost of the flow.

    A basis is a tree of n - 1 arcs, at first all by the most central cell; its inverse (B, arcs, cells) holds only
    -1, 0 and 1. A tiny extra supply keeps each flow above 0, so that no pivot stands still (Cunningham 1976).
    """
    cells, root = supply.shape[1], int(cost.sum(1).argmin())
    flow = supply + SUPPLY
    flow[:, root] = 0
    sign = flow.sign()
    inverse, flow, y = sign.float().diag_embed(), flow.abs(), sign * cost[root]
    best, pair = torch.zeros_like(supply), torch.arange(len(supply), device=supply.device)
    for _ in range(100 * cells):  # about cells * 1.3 are needed
        gain, i = (y - (cost + y[:, None]).amin(2)).max(1)  # cell from which a new arc saves most
        busy = gain > GAIN
        if busy.sum() <= 0.8 * len(busy):  # hand the finished pairs over, go on with the others
            best[pair[~busy]] = y[~busy]
            pair, inverse, flow, y = pair[busy], inverse[busy], flow[busy], y[busy]
            if len(pair) == 0:
                return best
            continue
        _pivot(inverse, flow, y, i, (cost[i] + y).argmin(1), gain * busy, busy)
    raise RuntimeError("The earth mover's distance found no optimum: please report the maps as a bug.")


def _pivot(inverse: Tensor, flow: Tensor, y: Tensor, i: Tensor, j: Tensor, gain: Tensor, busy: Tensor) -> None:
    """Let the arcs i -> j (B,) enter the trees, in place, where ``busy``: one step of the simplex method."""
    row = torch.arange(len(flow), device=flow.device)
    change = (inverse[row, :, i] - inverse[row, :, j]) * busy[:, None]  # what one unit on i -> j takes off each arc
    amount, out = torch.where(change > 0, flow, math.inf).min(1)  # the arc that runs dry first leaves
    amount.masked_fill_(~busy, 0)
    flow.addcmul_(change.double(), amount[:, None], value=-1)
    flow[row, out] += amount
    leaving = inverse[row, out]
    change[row, out] = 0  # its row of the inverse becomes that of i -> j
    y.addcmul_(gain[:, None], leaving.double(), value=-1)
    inverse.addcmul_(change[:, :, None], leaving[:, None], value=-1)


def _area_pool(maps: Tensor, height: int, width: int) -> Tensor:
    """Means (B, height, width) over equal tiles of any size; a cell counts in each tile by the area it has there."""
    return _shares(maps.shape[1], height, maps) @ maps @ _shares(maps.shape[2], width, maps).T


def _shares(size: int, tiles: int, like: Tensor) -> Tensor:
    """Share (tiles, size) that each cell of a side has in each of its tiles; rows sum to 1."""
    tile, cell = torch.arange(tiles).to(like)[:, None] * size, torch.arange(size).to(like) * tiles  # starts
    return (torch.minimum(tile + size, cell + tiles) - torch.maximum(tile, cell)).clamp(min=0) / size


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


def _usable(maps: Tensor, where: str) -> Tensor:
    """Which maps (B,) are neither zero nor flat, once shapes and values are checked."""
    if maps.ndim != 3 or not maps.is_floating_point():
        raise ValueError(f"{where} needs maps (B, H, W) of a floating type, got {maps.dtype} {tuple(maps.shape)}.")
    if min(maps.shape[1:]) < MIN_GRID:
        raise DataError(
            f"{where}: maps of {maps.shape[1]}x{maps.shape[2]} cells are too coarse to compare where networks look; "
            f"{MIN_GRID}x{MIN_GRID} cells is the least. Hook an earlier layer or use larger images."
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
