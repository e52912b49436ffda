"""A layer's output while images pass through a network, and the maps in it: channels first, NHWC or tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gaze.cam.layers import Target

# ---- the hook


@contextmanager
def captured(network: nn.Module, target: Target, leaf: bool, unread: str | None = None) -> Iterator[list[Tensor]]:
    """While this is entered, a forward pass of ``network`` leaves its map A (B, M, H', W') in the list.

    What follows the layer gets a copy, so that in-place activations do not change the map; its scores are a function
    of A, of any order of differentiability, whatever else of the network they depend on. From the layer on nothing is
    autocast, and attention runs by its plain formula: fused kernels cannot be differentiated twice.

    Args:
        network: that has the layer.
        target: from :func:`find_target`.
        leaf: True starts the graph at A, for evaluation: enter ``torch.no_grad`` around this, and what comes before
            the layer keeps nothing. False leaves A in the graph of the weights.
        unread: a module from :func:`gaze.cam.probe.find_unread`, which then works on the tokens before the grid alone.

    Returns:
        One tensor for each time the layer ran, float32 or float64.
    """
    found: list[Tensor] = []
    with ExitStack() as stack:

        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            on = torch.is_autocast_enabled(output.device.type)
            prefix, features = split_map(output, target)
            if leaf or not features.requires_grad:  # a frozen network has no graph before the layer either
                features = features.detach().requires_grad_(True)
                stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(features.device.type, enabled=False))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            found.append(features)
            joined = join_map(prefix, features, target)
            return joined if on else joined.to(output.dtype)  # weights of half precision want it back

        stack.callback(network.get_submodule(target.layer).register_forward_hook(hook).remove)
        if unread is not None:
            module, cells = network.get_submodule(unread), target.grid[0] * target.grid[1]
            first = module.register_forward_pre_hook(lambda module, args: (args[0][:, : target.prefix], *args[1:]))
            rest = module.register_forward_hook(lambda module, args, output: F.pad(output, (0, 0, 0, cells)))
            stack.callback(first.remove)
            stack.callback(rest.remove)
        yield found


def at_least_float32(x: Tensor) -> Tensor:
    """In half precision the double backward fails or loses the map."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def split_map(output: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """A layer's output as tokens before the grid (B, P, M), P = 0 but for BNC, and the map (B, M, H', W'), a copy.

    Half precision becomes float32.
    """
    output = at_least_float32(output)
    if target.layout == "BCHW":
        return output[:, :0].flatten(2), output.clone()
    if target.layout == "BHWC":
        return output[:, :0].flatten(2), output.permute(0, 3, 1, 2).clone()
    prefix, cells = output[:, : target.prefix], output[:, target.prefix :]
    return prefix, cells.transpose(1, 2).unflatten(2, target.grid).clone()


def join_map(prefix: Tensor, features: Tensor, target: Target) -> Tensor:
    """The other way round, a copy again: what the rest of the network expects."""
    if target.layout == "BCHW":
        return features.clone()
    if target.layout == "BHWC":
        return features.permute(0, 2, 3, 1).clone()
    return torch.cat([prefix, features.flatten(2).transpose(1, 2)], 1)
