"""One way to look: logits and maps of any network, in training and in evaluation."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gaze.backbones.levels import PooledHead, SplitBackbone
from gaze.cam.hook import at_least_float32, captured
from gaze.cam.layers import Target, find_target
from gaze.cam.methods import normalize_cam, weighted_map
from gaze.cam.probe import check_target, find_unread
from gaze.choices import METHODS
from gaze.errors import ConfigError

CACHE = 4_000_000  # bytes of features that a CPU works on at a time
# What was found in each network that lives, by layer and shape of an image: names and numbers alone.
_targets: WeakKeyDictionary[nn.Module, dict[tuple[str | None, torch.Size], Target]] = WeakKeyDictionary()
_unread: WeakKeyDictionary[nn.Module, dict[tuple[Target, torch.Size], str | None]] = WeakKeyDictionary()


class Look(NamedTuple):
    """Logits (B, K) and normalised maps (B, H', W') in [0, 1], float32 or float64."""

    logits: Tensor
    cam: Tensor


def look(
    network: nn.Module,
    images: Tensor,
    target: Tensor | None = None,
    layer: str | None = None,
    method: str = "grad_cam",
    create_graph: bool | None = None,
) -> Look:
    """How a classifier sees images and where it looks, in one pass: ``logits, cam = look(network, images, target)``.

    Works under autocast, ``torch.no_grad`` and ``torch.inference_mode``; what follows the layer runs outside autocast.
    With create_graph=None the result is a differentiable function of the weights while the network trains
    (``network.training`` and gradients enabled), the map to second order, and else has no graph: then what comes
    before the layer keeps nothing for a backward pass either.

    Args:
        network: a level, a network of torchvision or timm, a ``SplitBackbone`` or any classifier of one's own: images
            to logits (B, K). Nothing of it is changed, and it is not kept alive.
        images: (B, C, H, W), as the network wants them; its floating type is the weights'.
        target: classes to explain (B,); None explains the predicted ones.
        layer: to look at, a name of ``network.named_modules()``. None takes the network's own, or the last one with a
            spatial map, which one pass of two blank images finds, once for each network and size. A layer of that name,
            or of tokens, is checked then, with a few images of noise.
        method: of ``gaze.choices.METHODS``. "cam" is what its name says where an average pool reads the layer.
        create_graph: True keeps the graph of logits and map in evaluation mode, too; False holds the weights of the
            channels constant, so that in training gradients reach the map through the features alone.

    Raises:
        ConfigError: unknown method or layer, no layer with a map of 2x2 or more, one whose maps would be zero
            everywhere or scrambled, no classifier, compiled as a whole.
        ValueError: shapes that do not fit.
    """
    if images.ndim != 4 or (target is not None and target.shape != images.shape[:1]):
        shapes = f"{tuple(images.shape)} and {None if target is None else tuple(target.shape)}"
        raise ValueError(f"gaze.look needs images (B, C, H, W) and one class per image (B,) or None, got {shapes}.")
    function, training = METHODS[method].function, network.training and torch.is_grad_enabled()
    graph, second_order = create_graph or training, training if create_graph is None else create_graph
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), images.dtype)
    with torch.inference_mode(False), torch.set_grad_enabled(graph):
        # What was made in inference mode could not be saved for backward.
        images = (images.clone() if images.is_inference() else images).to(dtype)
        target = target.clone() if target is not None and target.is_inference() else target
        if layer is None and isinstance(network, SplitBackbone) and _has_closed_form(network.head, method):
            return _closed_form(network, images, target, method, graph, second_order)
        own = _target(network, images, layer)
        with captured(network, own, not graph, _unread_module(network, images, own)) as found:
            logits = network(images)
        if len(found) != 1:
            raise ConfigError(f"The layer to look at ran {len(found)} times in one forward pass. Name another layer.")
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ConfigError("This network does not give one score per image and class (B, K).")
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            logits = at_least_float32(logits)
            wanted = logits.argmax(1) if target is None else target
            score = logits.gather(1, wanted[:, None]).squeeze(1)
            cam = normalize_cam(function(found[0], score, create_graph=second_order, retain_graph=graph))
    return Look(logits, cam) if graph else Look(logits.detach(), cam.detach())


def _target(network: nn.Module, images: Tensor, layer: str | None) -> Target:
    if hasattr(network, "_orig_mod") or network._compiled_call_impl is not None:
        raise ConfigError(
            "This network is compiled as a whole by torch.compile, and its layers cannot be looked at. Give it as it "
            "was before; what comes before the layer may be compiled, such as network.layer1.compile()."
        )
    own = getattr(network, "target", None)
    if layer is None and isinstance(own, Target):
        return own
    known, key = _targets.setdefault(network, {}), (layer, images.shape[1:])
    if key not in known:
        size, channels = (images.shape[2], images.shape[3]), images.shape[1]
        found = find_target(network, size, layer, channels)
        if layer is not None or found.layout != "BCHW":
            check_target(network, found, size, channels)
        known[key] = found
    return known[key]


def _unread_module(network: nn.Module, images: Tensor, target: Target) -> str | None:
    """See :func:`find_unread`; none that somebody's hooks look at."""
    if target.layout != "BNC" or target.prefix == 0:
        return None
    known, key = _unread.setdefault(network, {}), (target, images.shape[1:])
    if key not in known:
        known[key] = find_unread(network, target, (images.shape[2], images.shape[3]), images.shape[1])
    name = known[key]
    inner = [] if name is None else network.get_submodule(name).modules()
    return None if any(module._forward_hooks or module._forward_pre_hooks for module in inner) else name


def _has_closed_form(head: nn.Module, method: str) -> bool:
    return isinstance(head, PooledHead) and (method == "grad_cam" or (method == "cam" and head.allows_cam))


def _closed_form(
    network: SplitBackbone, images: Tensor, target: Tensor | None, method: str, graph: bool, second_order: bool
) -> Look:
    """Without a backward pass. In evaluation on a CPU by as many images at a time as its cache holds, since each value
    is looked at often.
    """
    head, features = network.head, network.forward_features(images)
    assert isinstance(head, PooledHead)

    def one(part: Tensor, own: Tensor | None) -> Look:
        seen, weights, logits = head.closed_form(part, own, method)
        return Look(logits, normalize_cam(weighted_map(seen, weights if second_order else weights.detach())))

    with torch.autocast(images.device.type, enabled=False):
        if graph or images.device.type != "cpu" or not len(images):  # a part of features has no gradient in their order
            return one(features, target)
        size = max(1, CACHE // (4 * features[0].numel()))
        owns = [None] * len(images) if target is None else target.split(size)
        looks = [one(part, own) for part, own in zip(features.split(size), owns, strict=False)]
    return Look(*(torch.cat(parts) for parts in zip(*looks, strict=True)))
