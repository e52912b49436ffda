"""Whether maps of a layer mean anything: the scores depend on its cells, and each cell stands for its own place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gaze.cam.hook import captured
from gaze.cam.layers import Target, find_target, unchanged
from gaze.errors import ConfigError

TILES = 3  # of each side, that are brightened one by one
BRIGHTER = 2.0  # in SDs of the noise around them


def check_target(network: nn.Module, target: Target, size: tuple[int, int], channels: int = 3) -> None:
    """Refuse a layer whose maps would be all zero or scrambled, by what a few images of noise do to the network.

    Its gradient is zero in every cell where a class token alone is classified. Its cells can be in another order than
    the image's where a network sorts its tokens into windows; that is asked of layouts other than BCHW.

    Args:
        network: any classifier; modes, weights and random numbers stay what they were.
        target: a layer of it, from :func:`find_target`.
        size: H and W of its images.
        channels: of its images.

    Raises:
        ConfigError: says what is wrong, and names another layer where one is found.
    """
    noise = _noise(network, size, channels)
    with unchanged(network):
        # Once more with moved weights: a head of zeros, or what training has silenced, is no fault of the layer.
        if not _has_gradient(network, target, noise, {}) and not _has_gradient(network, target, noise, _moved(network)):
            raise ConfigError(
                f"layer={target.layer} has no gradient: the scores do not depend on the cells of its map, which would "
                f"be zero everywhere. {_instead(network, target, size, channels)}"
            )
        astray, tiles = (0, 1) if target.layout == "BCHW" else _astray(network, target, noise[0])
    if astray > tiles / 3:
        raise ConfigError(
            f"layer={target.layer} does not hold its cells in the order of the image, so its maps would be scrambled: "
            f"of {tiles} tiles that were brightened one by one, {astray} moved another cell instead of their own. "
            f"{_instead(network, target, size, channels)}"
        )


def find_unread(network: nn.Module, target: Target, size: tuple[int, int], channels: int = 3) -> str | None:
    """The last MLP, where the scores do not depend on what it makes of the grid's tokens: behind the last attention of
    a vision transformer a class token alone is classified. For that one alone it costs the map next to nothing.

    It is tried out on noise, with moved weights: logits, map and gradient must be the same without.

    Arguments as for :func:`check_target`.

    Returns:
        Its dotted name, or None where there is none.
    """
    names = [name for name, _ in network.named_modules() if name.split(".")[-1] == "mlp"]
    if target.layout != "BNC" or target.prefix == 0 or not names:
        return None
    noise, moved, found = _noise(network, size, channels), _moved(network), []
    try:
        with unchanged(network):
            for unread in (None, names[-1]):
                with captured(network, target, True, unread) as features:
                    logits = torch.func.functional_call(network, moved, (noise,))
                found.append((logits.detach(), features[0].detach(), _slope(logits, features[0])))
    except (RuntimeError, IndexError):  # shapes of another kind of MLP
        return None
    same = all(
        a is not None and b is not None and (a - b).abs().max() <= 1e-4 * a.abs().max()
        for a, b in zip(*found, strict=True)
    )
    return names[-1] if same else None


def _noise(network: nn.Module, size: tuple[int, int], channels: int) -> Tensor:
    like = next((weight for weight in network.parameters() if weight.is_floating_point()), torch.empty(0))
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0)).to(like)


def _has_gradient(network: nn.Module, target: Target, images: Tensor, weights: dict[str, Tensor]) -> bool:
    with captured(network, target, True) as found:
        logits = torch.func.functional_call(network, weights, (images,))
    gradient = _slope(logits, found[0])
    return gradient is not None and bool(gradient.any())


def _slope(logits: Tensor, features: Tensor) -> Tensor | None:
    """Gradient of a sum of the scores, each with a weight of its own."""
    if not logits.requires_grad:
        return None
    with torch.enable_grad():
        score = (logits * torch.arange(1, logits.shape[1] + 1, device=logits.device)).sum()
    return torch.autograd.grad(score, features, allow_unused=True)[0]


def _moved(network: nn.Module) -> dict[str, Tensor]:
    """Its weights and a little noise, by their names."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: weight + 0.02 * torch.randn(weight.shape, generator=generator).to(weight)
        for name, weight in network.named_parameters()
        if weight.is_floating_point()
    }


def _astray(network: nn.Module, target: Target, image: Tensor) -> tuple[int, int]:
    """How many tiles of an image (C, H, W) move another cell of the map than their own, and of how many.

    ``share`` is a tile's part in all that moves a cell. A tile is astray that alone moves some cell (a share above
    1/2) and has less than half that share in its own. Where every tile moves all cells alike, as behind an attention
    without its skip connection, none is.
    """
    height, width = image.shape[1:]
    rows, columns = target.grid
    places = [(i, j) for i in _spread(rows) for j in _spread(columns)]
    images = image.repeat(len(places) + 1, 1, 1, 1)
    for own, (i, j) in zip(images, places, strict=False):
        top, left = i * height // rows, j * width // columns
        own[:, top : -(-(i + 1) * height // rows), left : -(-(j + 1) * width // columns)] += BRIGHTER
    with captured(network, target, True) as found:
        network(images)
    moved = (found[0][:-1] - found[0][-1]).detach().square().sum(1).sqrt()  # (T, rows, columns)
    moved = (moved / moved.sum((1, 2), keepdim=True)).nan_to_num()
    share = (moved / moved.sum(0)).nan_to_num()  # 0 where no tile moves a cell
    most = share.flatten(1).amax(1)
    own_share = torch.stack([one[place] for one, place in zip(share, places, strict=True)])
    return int(((most > 0.5) & (own_share < most / 2)).sum()), len(places)


def _spread(cells: int) -> list[int]:
    """Up to ``TILES`` of so many, the first and the last among them."""
    return sorted({round((cells - 1) * k / (TILES - 1)) for k in range(TILES)})


def _instead(network: nn.Module, target: Target, size: tuple[int, int], channels: int) -> str:
    try:
        found = find_target(network, size, None, channels).layer
    except ConfigError:
        found = target.layer
    return "Name another layer." if found == target.layer else f"Name another layer, such as {found}."
