"""Is a map faithful to the network that it explains? Pure tensor functions; nothing here knows of runs.

Deletion and insertion (Petsiuk et al. 2018, RISE, arXiv:1806.07421), ROAD with noisy linear imputation (Rong et al.
2022, arXiv:2202.00449), cascading randomisation of the weights (Adebayo et al. 2018, arXiv:1810.03292) and stability
under small noise. Everything is batched, on the device of the images. A number of this kind says little by itself:
hold it against that of :func:`random_maps` and :func:`centred_maps`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

STEPS = 20  # of a curve; the paper goes by single pixels or rows of them
ROAD_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the pixels that are removed
IMPUTATION_NOISE = 0.01  # SD of what is added to an imputed pixel, as in the authors' code
BLUR = 0.1  # SD of the blur that insertion starts from, share of the side
CENTRE_SD = 0.25  # of the centred Gaussian, share of the side
DIRECT, DIAGONAL = 1 / 6, 1 / 12  # weights of a pixel's neighbours in the imputation (Rong et al.)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

Score = Callable[[Tensor], Tensor]  # images (B, C, S, T) -> score of the explained class (B,)


class Curves(NamedTuple):
    """Scores (B, steps + 1) while pixels are taken away or put in, at the shares (steps + 1,) 0..1 of the pixels."""

    share: Tensor
    deletion: Tensor
    insertion: Tensor


class Road(NamedTuple):
    """Scores (B, F) after the most relevant (``morf``) or least relevant (``lerf``) shares (F,) are imputed."""

    share: Tensor
    morf: Tensor
    lerf: Tensor


def pixel_ranks(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Place of each pixel in the order of relevance, 0 for the highest.

    Maps are enlarged bilinearly, as in the pictures. Equals (large parts of a map are 0) stand in a random order, the
    same for every map, so that their place in the picture counts for nothing.

    Args:
        maps: (B, H, W).
        size: of the image (S, T) in pixels.

    Returns:
        (B, S, T) int64, each row a permutation of 0 .. S T - 1.
    """
    large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False).flatten(1)
    shuffle = torch.randperm(large.shape[1], generator=torch.Generator().manual_seed(0)).to(maps.device)
    order = shuffle[large[:, shuffle].argsort(dim=1, descending=True, stable=True)]  # (B, S T): pixels by relevance
    place = torch.arange(large.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place).view(-1, *size)


@torch.no_grad()
def deletion_insertion(score: Score, images: Tensor, maps: Tensor, steps: int = STEPS) -> Curves:
    """Deletion and insertion curves (Petsiuk et al. 2018, section 4.2).

    Deletion replaces pixels, the most relevant first, by the image's own mean; the paper's zero of a normalised image
    is the mean of all. A faithful map's curve falls at once. Insertion puts them into a blurred image; a faithful map's
    curve rises at once. The blur has an SD of a tenth of the side: the prediction often survives the paper's smaller
    one.

    Args:
        score: of the class that the maps explain.
        images: (B, C, S, T), any unit.
        maps: (B, H, W), of any size.
        steps: equal steps, 1 or more; the k-th has changed round(k / steps * S T) pixels.

    Returns:
        Curves; :func:`area` makes them numbers.

    Raises:
        ValueError: shapes that do not fit, or no step.
    """
    _check(images, maps)
    if steps < 1:
        raise ValueError(f"steps={steps} must be 1 or more.")
    size = (images.shape[2], images.shape[3])
    ranks, pixels = pixel_ranks(maps, size)[:, None], size[0] * size[1]
    mean, blurred = images.mean((2, 3), keepdim=True), blur(images)
    deletion, insertion = [], []
    for step in range(steps + 1):
        changed = ranks < round(step / steps * pixels)
        deletion.append(score(torch.where(changed, mean, images)))
        insertion.append(score(torch.where(changed, images, blurred)))
    share = torch.linspace(0, 1, steps + 1, device=images.device)
    return Curves(share, torch.stack(deletion, 1), torch.stack(insertion, 1))


def area(curve: Tensor) -> Tensor:
    """Area under curves (..., steps + 1) over 0..1 by the trapezoid rule, in the unit of the score."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[-1] - 1))


def blur(images: Tensor) -> Tensor:
    """Images (B, C, S, T) with a Gaussian of SD 0.1 of each side, mirrored at the border."""
    sds = [BLUR * side for side in images.shape[2:]]
    kernel = [2 * min(math.ceil(3 * sd), side - 1) + 1 for sd, side in zip(sds, images.shape[2:], strict=True)]
    return gaussian_blur(images, kernel[::-1], sds[::-1])  # torchvision's order is x, y


@torch.no_grad()
def road(score: Score, images: Tensor, maps: Tensor, shares: Sequence[float] = ROAD_SHARES, seed: int = 0) -> Road:
    """Remove and debias (Rong et al. 2022): scores after the most, and after the least relevant pixels are imputed.

    Imputed pixels (:func:`linear_imputation`) carry next to nothing of the removed region's shape, which a constant
    would give away. Each image is its own reference; nothing is trained again (the paper's NoRetrain).

    Args:
        score, images, maps: as for :func:`deletion_insertion`; images in -1..1, the unit of the noise.
        shares: of the pixels, each above 0 and below 1.
        seed: of the noise.

    Raises:
        ValueError: shapes that do not fit, or a share out of range.
    """
    _check(images, maps)
    if not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares={tuple(shares)} must lie between 0 and 1.")
    pixels = images.shape[2] * images.shape[3]
    ranks = pixel_ranks(maps, (images.shape[2], images.shape[3]))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for share in shares:
        count = min(pixels - 1, max(1, round(share * pixels)))
        for scores, missing in zip(found, (ranks < count, ranks >= pixels - count), strict=True):
            filled = linear_imputation(images, missing)
            scores.append(score(torch.where(missing[:, None], filled + IMPUTATION_NOISE * noise, filled)))
    return Road(torch.tensor(shares, device=images.device), torch.stack(found[0], 1), torch.stack(found[1], 1))


@torch.no_grad()
def linear_imputation(images: Tensor, missing: Tensor, tolerance: float = 1e-5) -> Tensor:
    """Each missing pixel becomes the weighted mean of its eight neighbours: 1/6 direct, 1/12 diagonal (Rong et al.
    2022).

    All missing pixels depend on each other, ``d_i x_i - sum_j w_ij x_j = 0``, which is one linear system: the Laplacian
    of the grid with the known pixels as its boundary. At the image's border d_i is the sum of the weights that are
    left. The system is symmetric and positive definite, so conjugate gradients solve it, all images side by side, with
    a 3x3 convolution in the place of a matrix.

    Args:
        images: (B, C, S, T) of a floating type; what is missing is not looked at.
        missing: (B, S, T) bool, at least one pixel of each image known.
        tolerance: residual at which an image and channel is done, relative to its right-hand side.

    Returns:
        Images (B, C, S, T), known pixels as they were. No noise is added.

    Raises:
        ValueError: shapes that do not fit, or an image without a known pixel.
    """
    if images.ndim != 4 or missing.shape != (len(images), *images.shape[2:]) or missing.dtype != torch.bool:
        raise ValueError(f"images (B, C, S, T) need missing (B, S, T) bool, got {images.shape} and {missing.shape}.")
    if len(images) and missing.flatten(1).all(1).any():
        raise ValueError("linear_imputation needs at least one known pixel in each image.")
    hole = missing[:, None].to(images)
    known = torch.where(missing[:, None], 0.0, images)
    right = _neighbours(known) * hole
    degree = _neighbours(torch.ones_like(images[:1, :1]))
    mean = known.sum((2, 3), keepdim=True) / (1 - hole).sum((2, 3), keepdim=True)
    x = mean * hole
    residual = right - (degree * x - _neighbours(x)) * hole
    direction, squared = residual.clone(), _sum(residual * residual)
    goal = tolerance**2 * _sum(right * right)
    for _ in range(4 * sum(images.shape[2:])):  # about one side is needed
        if not (squared > goal).any():
            break
        moved = (degree * direction - _neighbours(direction)) * hole
        curvature = _sum(direction * moved)
        step = torch.where(curvature > 0, squared / curvature.clamp(min=torch.finfo(x.dtype).tiny), 0.0)
        x, residual = x + step * direction, residual - step * moved
        before, squared = squared, _sum(residual * residual)
        direction = residual + direction * torch.where(before > 0, squared / before.clamp(min=1e-30), 0.0)
    return known + x


def random_maps(maps: Tensor, seed: int = 0) -> Tensor:
    """Uniform random maps of the shape of ``maps`` (B, H, W): what a map that knows nothing scores."""
    return torch.rand(maps.shape, generator=torch.Generator().manual_seed(seed)).to(maps)


def centred_maps(maps: Tensor) -> Tensor:
    """The same Gaussian in the middle for every image, SD a quarter of the side, of the shape of ``maps`` (B, H, W):
    what a map scores that knows only that objects stand in the middle (Judd et al. 2012)."""
    y, x = ((torch.arange(n).to(maps) + 0.5) / n - 0.5 for n in maps.shape[1:])
    return torch.exp(-(y[:, None].square() + x.square()) / (2 * CENTRE_SD**2)).expand_as(maps)


# ---- weights


def layer_groups(net: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Modules with weights of their own, from the last to the first in order of definition; a normalisation belongs to
    the layer before it. Each with its name."""
    groups: list[tuple[str, list[nn.Module]]] = []
    for name, module in net.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        if isinstance(module, NORMS) and groups:
            groups[-1][1].append(module)
        else:
            groups.append((name or type(module).__name__, [module]))
    return groups[::-1]


def cascade(net: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Cascading randomisation (Adebayo et al. 2018): a copy of the network whose layers lose what they learned, from
    the last to the first, one more at each step. ``net`` itself stays as it is.

    A layer is set back by its own ``reset_parameters``, the distribution that it was trained from; parameters that have
    none (such as a class token) are shuffled.

    Args:
        net: any network.
        seed: of the new weights. PyTorch's generator is left as it was.

    Yields:
        Name of the layer that was reset last, and the one copy, changed again by the next step.
    """
    own = copy.deepcopy(net)
    state = torch.Generator().manual_seed(seed).get_state()
    for name, modules in layer_groups(own):
        with torch.random.fork_rng(devices=_cuda(own)), torch.no_grad():
            torch.random.set_rng_state(state)
            if _cuda(own):
                torch.cuda.manual_seed_all(seed)
            for module in modules:
                reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
                if callable(reset):
                    reset()
                else:
                    for parameter in module.parameters(recurse=False):
                        flat = parameter.flatten()
                        parameter.copy_(flat[torch.randperm(len(flat)).to(flat.device)].view_as(parameter))
            state = torch.random.get_rng_state()
        yield name, own


# ---- noise


@torch.no_grad()
def noise_change(
    gaze: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, sd: float, draws: int = 4, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """How much of a map small noise changes, as long as the prediction stays (Alvarez-Melis & Jaakkola 2018, Yeh et al.
    2019: explanations of nearly equal inputs should be nearly equal).

    Args:
        gaze: images (B, C, S, T) -> maps (B, H, W) and predictions (B,).
        images: any unit.
        sd: of the Gaussian noise, in the images' unit.
        draws: of the noise, 1 or more.
        seed: of the noise.

    Returns:
        Relative change ``||CAM' - CAM|| / ||CAM||`` (B,), mean over the draws that leave the prediction the same, NaN
        where none does or the map is zero; and the share of those draws (B,).
    """
    maps, preds = gaze(images)
    size = maps.flatten(1).norm(dim=1)
    total, kept = torch.zeros_like(size), torch.zeros_like(size)
    random = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        moved, then = gaze(images + sd * torch.randn(images.shape, generator=random).to(images))
        same = then == preds
        total += torch.where(same, (moved - maps).flatten(1).norm(dim=1), 0)  # 0 * NaN is NaN
        kept += same
    change = torch.where((kept > 0) & (size > 0), total / (kept * size), math.nan)
    return change, kept / draws


# ---- tools


def _neighbours(x: Tensor) -> Tensor:
    """Weighted sum of the eight neighbours of each pixel, those outside the image 0."""
    row = torch.tensor([DIAGONAL, DIRECT, DIAGONAL])
    kernel = torch.stack([row, torch.tensor([DIRECT, 0.0, DIRECT]), row]).to(x)[None, None]
    flat = x.reshape(-1, 1, *x.shape[2:])
    return F.conv2d(flat, kernel, padding=1).view_as(x)


def _sum(x: Tensor) -> Tensor:
    return x.sum((2, 3), keepdim=True)


def _cuda(net: nn.Module) -> list[torch.device]:
    return sorted({p.device for p in net.parameters() if p.device.type == "cuda"}, key=str)


def _check(images: Tensor, maps: Tensor) -> None:
    if images.ndim != 4 or maps.ndim != 3 or len(images) != len(maps):
        raise ValueError(
            f"Images (B, C, S, T) and one map (H, W) for each are needed, got {tuple(images.shape)} and "
            f"{tuple(maps.shape)}."
        )
    if not maps.isfinite().all():
        raise ValueError("Maps must be finite: the pixels of one that is NaN or infinite have no order. Leave it out.")
