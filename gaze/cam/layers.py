"""Where in a network Grad-CAM can look: its layers with a spatial map, and a hook on one of them.

A map comes in one of three layouts: ``BCHW`` (convolutions), ``BHWC`` (Swin), ``BNC`` (vision transformers: class and
register tokens first, then the cells of the grid, row by row). Which one it is follows from the shapes of a forward
pass, so no list of architectures is kept here. Images are square, so maps are.
"""

from __future__ import annotations

import math
from collections import Counter
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
        side: cells a side of the map.
    """

    layer: str
    layout: str
    prefix: int
    side: int


class _Call(NamedTuple):
    """A module that was called: when it began and ended (a count of such events), and its output's shape."""

    name: str
    began: int
    ended: int
    shape: tuple[int, ...] | None


def find_target(network: nn.Module, image_size: int, layer: str | None) -> Target:
    """The layer of that name, or the last one with a spatial map.

    In a network of tokens the last one is what the last attention looks at (in most the norm before it): behind it a
    class token alone is classified, and the cells of the grid have no gradient.

    Args:
        network: in evaluation mode; best on the device "meta", where this costs no arithmetic.
        image_size: S of its images (B, 3, S, S).
        layer: dotted name as in ``network.named_modules()``, or None to find one.

    Raises:
        ConfigError: names the nearest or all layers with a map where there is none of that name, or the layer has no
            map, one under 2x2, or runs more than once.
    """
    calls = _trace(network, image_size)
    targets = _targets(network, calls, image_size)
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
        and targets[call.name].side >= 2
        and not isinstance(kinds[call.name], NOT_FOUND)
        and not call.name.startswith(inside)
        and call not in attention
    ]
    if found and attention and targets[found[-1].name].layout == "BNC":
        found = [call for call in found if call.ended < attention[-1].began and targets[call.name].layout == "BNC"]
    if not found:
        raise ConfigError(
            f"No layer of this network has a map of 2x2 or more on {image_size}x{image_size} images, and a gaze needs "
            "that. Raise dataset.image_size, or take another model.name."
        )
    return targets[found[-1].name]


def _named(network: nn.Module, layer: str, calls: list[_Call], targets: dict[str, Target]) -> Target:
    names = [name for name, _ in network.named_modules() if name]
    shown = _shown(targets)
    if layer not in names:
        raise ConfigError(f"model.layer={layer}: there is no such layer. {did_you_mean(layer, names)}{shown}")
    own = [call for call in calls if call.name == layer]
    if layer not in targets and len(own) != 1:
        times = "never runs" if not own else f"runs {len(own)} times in a forward pass, and has as many outputs"
        raise ConfigError(f"model.layer={layer} {times}: there is no one map to look at. {shown}")
    if layer not in targets:
        what = "no tensor" if own[0].shape is None else f"a tensor {own[0].shape} for 2 images"
        raise ConfigError(f"model.layer={layer} gives {what}: no spatial map that could be told. {shown}")
    side = targets[layer].side
    if side < 2:
        raise ConfigError(
            f"model.layer={layer} has a {side}x{side} map to look at; a gaze needs 2x2 or more. "
            f"Raise dataset.image_size. {shown}"
        )
    return targets[layer]


def _shown(targets: dict[str, Target]) -> str:
    """The last layers with a map, those that are not deep inside a block first in choice."""
    fit = [target for target in targets.values() if target.side >= 2]
    flat = [target for target in fit if target.layer.count(".") <= 1]
    words = [f"{target.layer} ({target.side}x{target.side})" for target in (flat or fit)[-SHOWN:]]
    return f"Layers with a map, the last ones: {', '.join(words) or 'none'}."


def _trace(network: nn.Module, image_size: int) -> list[_Call]:
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
        like = next(network.parameters())
        logits = network(torch.zeros(2, 3, image_size, image_size, device=like.device, dtype=like.dtype))
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        raise ConfigError(
            "This network does not give one score per image and class, so it is no classifier to look at."
        )
    return calls


def _targets(network: nn.Module, calls: list[_Call], image_size: int) -> dict[str, Target]:
    """Layers with a map, in the order of their ends; those that run more than once have none."""
    # timm's name for it; torchvision's ViT has a class token and says nothing.
    prefix = int(getattr(network, "num_prefix_tokens", hasattr(network, "class_token")))
    counts = Counter(call.name for call in calls)
    found: dict[str, Target] = {}
    twins: dict[str, tuple[int, ...] | None] | None = None
    for call in calls:
        if counts[call.name] > 1 or call.shape is None or call.shape[0] != 2:
            continue
        layout = _layout(call.shape, prefix)
        if layout == "unknown":
            twins = _shapes_at_twice_the_size(network, image_size) if twins is None else twins
            layout = _layout_of_cube(call.shape, twins.get(call.name))
        if layout == "BNC":
            own = prefix if _square(call.shape[1] - prefix) else 0
            found[call.name] = Target(call.name, layout, own, math.isqrt(call.shape[1] - own))
        elif layout is not None:
            found[call.name] = Target(call.name, layout, 0, call.shape[2])
    return found


def _layout(shape: tuple[int, ...], prefix: int) -> str | None:
    """None where there is no square map; "unknown" where all three sides are equal."""
    if len(shape) == 3:
        return "BNC" if _square(shape[1] - prefix) or _square(shape[1]) else None
    if len(shape) != 4:
        return None
    if shape[1] == shape[2] == shape[3]:
        return "unknown"
    return "BCHW" if shape[2] == shape[3] else "BHWC" if shape[1] == shape[2] else None


def _square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _shapes_at_twice_the_size(network: nn.Module, image_size: int) -> dict[str, tuple[int, ...] | None]:
    try:
        return {call.name: call.shape for call in _trace(network, 2 * image_size)}
    except Exception:  # a network of one size; any error of its own
        return {}


def _layout_of_cube(shape: tuple[int, ...], larger: tuple[int, ...] | None) -> str | None:
    """What a (B, n, n, n) is: its channels are the side that does not grow with the image."""
    if larger is None or larger == shape:
        return None
    return "BCHW" if larger[1] == shape[1] else "BHWC" if larger[3] == shape[3] else None
