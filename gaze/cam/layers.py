"""Where in a network Grad-CAM can look: its layers with a spatial map, and a hook on one of them.

A map comes in one of three layouts: ``BCHW`` (convolutions), ``BHWC`` (Swin), ``BNC`` (vision transformers: class and
register tokens first, then the cells of the grid, row by row). Which one it is follows from the shapes of a forward
pass, so no list of architectures is kept here: maps have the images' proportions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gaze.choices import did_you_mean
from gaze.errors import ConfigError

# They resize or pass on what a layer before them found; found by themselves they are never, by name they can be asked.
NOT_FOUND = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Identity, nn.Dropout, nn.Dropout2d)
ATTENTION = ("Attention", "Attn")  # in the names of such classes, in PyTorch, torchvision and timm
SHOWN = 8  # layers in a message


class Target(NamedTuple):
    """A layer to look at.

    Attributes:
        layer: its dotted name.
        layout: of its output: "BCHW", "BHWC" or "BNC".
        prefix: tokens before those of the grid (BNC only).
        grid: rows and columns of the map.
    """

    layer: str
    layout: str
    prefix: int
    grid: tuple[int, int]


class _Call(NamedTuple):
    """A module that was called: when it began and ended (a count of such events), and its output's shape."""

    name: str
    began: int
    ended: int
    shape: tuple[int, ...] | None


def find_target(network: nn.Module, size: tuple[int, int], layer: str | None, channels: int = 3) -> Target:
    """The layer of that name, or the last one with a spatial map.

    In a network of tokens the last one is what the last attention looks at (in most the norm before it): behind it a
    class token alone is classified, and the cells of the grid have no gradient.

    Args:
        network: of a mode that is left as it is; best on the device "meta", where this costs no arithmetic.
        size: H and W of its images.
        layer: dotted name as in ``network.named_modules()``, or None to find one.
        channels: of its images.

    Raises:
        ConfigError: names the nearest or all layers with a map where there is none of that name, or the layer has no
            map, one under 2x2, or runs more than once.
    """
    calls = _trace(network, size, channels)
    targets = _targets(network, calls, size, channels)
    if layer is not None:
        return _named(network, layer, calls, targets)
    kinds = dict(network.named_modules())
    attention = [call for call in calls if any(word in type(kinds[call.name]).__name__ for word in ATTENTION)]
    inside = tuple(f"{call.name}." for call in attention)
    # A parent ends after its last child, whose output it passes on: of the two it is the shorter name.
    found = [
        call
        for call in calls
        if call.name in targets
        and min(targets[call.name].grid) >= 2
        and not isinstance(kinds[call.name], NOT_FOUND)
        and not call.name.startswith(inside)
        and call not in attention
    ]
    if found and attention and targets[found[-1].name].layout == "BNC":
        found = [call for call in found if call.ended < attention[-1].began and targets[call.name].layout == "BNC"]
    if not found:
        raise ConfigError(_none_found(targets, size))
    return targets[found[-1].name]


def _named(network: nn.Module, layer: str, calls: list[_Call], targets: dict[str, Target]) -> Target:
    names = [name for name, _ in network.named_modules() if name]
    shown = _shown(targets)
    if layer not in names:
        raise ConfigError(f"layer={layer}: there is no such layer. {did_you_mean(layer, names)}{shown}")
    own = [call for call in calls if call.name == layer]
    if layer not in targets and len(own) != 1:
        times = "never runs" if not own else f"runs {len(own)} times in a forward pass, and has as many outputs"
        raise ConfigError(f"layer={layer} {times}: there is no one map to look at. {shown}")
    if layer not in targets:
        what = "no tensor" if own[0].shape is None else f"a tensor {own[0].shape} for 2 images"
        raise ConfigError(f"layer={layer} gives {what}: no spatial map that could be told. {shown}")
    if min(targets[layer].grid) < 2:
        raise ConfigError(
            f"layer={layer} has a {_by(targets[layer].grid)} map to look at; a gaze needs 2x2 or more. "
            f"Take larger images (dataset.image_size). {shown}"
        )
    return targets[layer]


def _none_found(targets: dict[str, Target], size: tuple[int, int]) -> str:
    if any(min(target.grid) >= 2 for target in targets.values()):
        return (
            f"No layer of this network was found to look at on {_by(size)} images: it has maps, but none in the tokens "
            f"before its last attention. Name one with model.layer=NAME. {_shown(targets)}"
        )
    return (
        f"No layer of this network has a map of 2x2 or more on {_by(size)} images, and a gaze needs that. Take "
        "larger ones (dataset.image_size) or another network (model.name)."
    )


def _shown(targets: dict[str, Target]) -> str:
    """The last layers with a map, those that are not deep inside a block first in choice."""
    fit = [target for target in targets.values() if min(target.grid) >= 2]
    flat = [target for target in fit if target.layer.count(".") <= 1]
    words = [f"{target.layer} ({_by(target.grid)})" for target in (flat or fit)[-SHOWN:]]
    return f"Layers with a map, the last ones: {', '.join(words) or 'none'}."


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """Evaluation without gradients for a while; then modes and random numbers are what they were."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _trace(network: nn.Module, size: tuple[int, int], channels: int) -> list[_Call]:
    """All calls of modules below ``network`` in one forward pass of two images, in the order of their ends."""
    began: dict[str, list[int]] = {}
    calls: list[_Call] = []
    clock = iter(range(2**62))
    handles = []

    def begin(name: str) -> Any:
        return lambda module, args: began.setdefault(name, []).append(next(clock))

    def end(name: str) -> Any:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            calls.append(_Call(name, began[name].pop(), next(clock), shape))

        return note

    try:
        for name, module in network.named_modules():
            if name:
                handles += [module.register_forward_pre_hook(begin(name)), module.register_forward_hook(end(name))]
        like = next(network.parameters(), torch.empty(0))
        with unchanged(network):
            logits = network(torch.zeros(2, channels, *size, device=like.device, dtype=like.dtype))
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        raise ConfigError(
            "This network does not give one score per image and class, so it is no classifier to look at."
        )
    return calls


def _targets(network: nn.Module, calls: list[_Call], size: tuple[int, int], channels: int) -> dict[str, Target]:
    """Layers with a map, in the order of their ends; those that run more than once have none."""
    # timm's name for it; torchvision's ViT has a class token and says nothing.
    prefix = int(getattr(network, "num_prefix_tokens", hasattr(network, "class_token")))
    counts = Counter(call.name for call in calls)
    found: dict[str, Target] = {}
    twins: dict[str, tuple[int, ...] | None] | None = None
    for call in calls:
        if counts[call.name] > 1 or call.shape is None or call.shape[0] != 2:
            continue
        layout = _layout(call.shape, prefix, size)
        if layout == "unknown":
            twins = _shapes_at_twice_the_size(network, size, channels) if twins is None else twins
            layout = _layout_of_cube(call.shape, twins.get(call.name))
        grid = _grid(call.shape[1] - prefix, size) if layout == "BNC" else None
        own = prefix if grid else 0
        if layout == "BNC":
            grid = grid or _grid(call.shape[1], size)
        elif layout is not None:
            grid = call.shape[2:4] if layout == "BCHW" else call.shape[1:3]  # type: ignore[assignment]
        if layout is not None and grid is not None:
            found[call.name] = Target(call.name, layout, own, grid)
    return found


def _layout(shape: tuple[int, ...], prefix: int, size: tuple[int, int]) -> str | None:
    """None where there is no map of the images' proportions; "unknown" where it could be of either order."""
    if len(shape) == 3:
        return "BNC" if _grid(shape[1] - prefix, size) or _grid(shape[1], size) else None
    if len(shape) != 4:
        return None
    last, first = _fits(shape[2], shape[3], size), _fits(shape[1], shape[2], size)
    return "unknown" if last and first else "BCHW" if last else "BHWC" if first else None


def _fits(rows: int, columns: int, size: tuple[int, int]) -> bool:
    """Whether so many cells have the images' proportions: roughly where those are not square, since layers that do
    not pad take as much from either side.
    """
    height, width = size
    return rows == columns if height == width else 2 / 3 < rows * width / max(columns * height, 1) < 3 / 2


def _grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns that so many cells of the images' proportions stand in; None where there are no such."""
    rows = round(math.sqrt(max(tokens, 0) * size[0] / size[1]))
    columns = tokens // rows if rows else 0
    return (rows, columns) if rows and rows * columns == tokens and _fits(rows, columns, size) else None


def _shapes_at_twice_the_size(
    network: nn.Module, size: tuple[int, int], channels: int
) -> dict[str, tuple[int, ...] | None]:
    try:
        return {call.name: call.shape for call in _trace(network, (2 * size[0], 2 * size[1]), channels)}
    except Exception:  # a network of one size; any error of its own
        return {}


def _layout_of_cube(shape: tuple[int, ...], larger: tuple[int, ...] | None) -> str | None:
    """What a (B, n, n, n) is: its channels are the side that does not grow with the image."""
    if larger is None or larger == shape:
        return None
    return "BCHW" if larger[1] == shape[1] else "BHWC" if larger[3] == shape[3] else None
