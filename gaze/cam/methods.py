"""Grad-CAM as pure tensor functions (Selvaraju et al. 2017, arXiv:1610.02391; thesis, Eq. 1-2), and its relatives.

Maps are (B, H, W) in the hooked tensor's own grid. All functions stay on the device, work on any
floating type and can be differentiated twice.

Every method takes the features A, the score y^c and ``create_graph``, and gives an un-normalised map >= 0;
``gaze.choices.METHODS`` has them by their names in the settings. What differs is the weight of A^k, made of
g = dy^c/dA. With ``create_graph=False`` all of that weight is held constant, and gradients reach the map through A
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel


def grad_cam(features: Tensor, score: Tensor, *, create_graph: bool, retain_graph: bool | None = None) -> Tensor:
    """Grad-CAM of every image, un-normalised (thesis, Eq. 1).

    ``alpha_k = mean_ij d y / d A^k_ij``, ``CAM = ReLU(sum_k alpha_k A^k)``. One call serves a whole batch,
    because the score of an image depends on that image's features alone (no batch statistics in the head).

    Args:
        features: hooked tensor A (B, M, H, W) that ``score`` was computed from. Needs gradients.
        score: pre-softmax score y^c of the class asked for, one per image (B,).
        create_graph: True keeps ``d alpha / d theta``: the map can be differentiated as the function of the
            weights that it is. False holds alpha constant; gradients then reach the map through A alone.
        retain_graph: keep the graph of ``score``, for a loss that uses it as well. Default: yes where
            ``features`` is part of a larger graph (training), no where it is a leaf (evaluation).

    Returns:
        Maps (B, H, W), >= 0, unit of ``score``; one that no channel supports is all zero.

    Raises:
        ValueError: shapes that do not fit.
        RuntimeError: ``score`` does not depend on ``features``, these need no gradients, or what is between the two
            cannot be differentiated twice, where ``create_graph`` asks for that.
    """
    gradient = _gradient(features, score, create_graph, retain_graph)
    return weighted_map(features, gradient.mean((2, 3)))


def hires_cam(features: Tensor, score: Tensor, *, create_graph: bool, retain_graph: bool | None = None) -> Tensor:
    """HiResCAM: ``ReLU(sum_k g^k A^k)``, cell by cell, without the mean over the gradient's cells that can put the
    gaze where the score does not come from (Draelos and Carin 2020, arXiv:2011.08891; the ReLU as in Grad-CAM).

    Arguments, result and errors as for :func:`grad_cam`. Equal to it where the head is a global average pool and a
    linear layer.
    """
    return _cellwise_map(features, _gradient(features, score, create_graph, retain_graph))


def layer_cam(features: Tensor, score: Tensor, *, create_graph: bool, retain_graph: bool | None = None) -> Tensor:
    """LayerCAM: ``ReLU(sum_k ReLU(g^k) A^k)``, cell by cell (Jiang et al. 2021, IEEE TIP 30).

    Arguments, result and errors as for :func:`grad_cam`. Equal to HiResCAM where no gradient is negative.
    """
    return _cellwise_map(features, _gradient(features, score, create_graph, retain_graph).relu())


def grad_cam_pp(features: Tensor, score: Tensor, *, create_graph: bool, retain_graph: bool | None = None) -> Tensor:
    """Grad-CAM++: ``ReLU(sum_k w_k A^k)`` with ``w_k = sum_ij alpha_ij ReLU(g_ij)`` and
    ``alpha = g^2 / (2 g^2 + g^3 sum_ab A^k_ab)`` (Chattopadhay et al. 2018, arXiv:1710.11063).

    The powers of g are the second and third derivatives of exp(y^c) where y^c is linear in A, as the paper assumes.
    The factor exp(y^c) of the whole map, which min-max scaling takes out again, is left out: it would overflow.
    g^2 is divided out, which float32 needs for large maps. The paper's A are >= 0; where they are not,
    ``2 + g sum A`` could pass through 0, so it is held at 1 or more.

    Arguments, result and errors as for :func:`grad_cam`.
    """
    gradient = _gradient(features, score, create_graph, retain_graph)
    total = (features if create_graph else features.detach()).sum((2, 3), keepdim=True)  # (B, M, 1, 1)
    weights = gradient.relu() / (2 + gradient * total).clamp(min=1)
    return weighted_map(features, weights.expand_as(features).sum((2, 3)))


def class_activation_map(
    features: Tensor, score: Tensor, *, create_graph: bool, retain_graph: bool | None = None
) -> Tensor:
    """CAM: ``ReLU(sum_k W_ck A^k)``, W the linear layer behind a global average pool (Zhou et al. 2016,
    arXiv:1512.04150, Eq. 2; the ReLU as in Grad-CAM).

    ``features`` has to be what the average pool reads: then, and only then, ``W_ck = sum_ij g_ij``, which is how the
    weights are found here (Z times Grad-CAM's alpha), with dropout's factors in training.

    Arguments, result and errors as for :func:`grad_cam`.
    """
    gradient = _gradient(features, score, create_graph, retain_graph)
    return weighted_map(features, gradient.expand_as(features).sum((2, 3)))


def _gradient(features: Tensor, score: Tensor, create_graph: bool, retain_graph: bool | None) -> Tensor:
    """``dy^c/dA`` of every image (B, M, H, W); behind a global average pool, whose backward pass spreads dy^c/dP evenly
    over the cells, in closed form and once for all cells (B, M, 1, 1).
    """
    if features.ndim != 4 or score.shape != features.shape[:1]:
        raise ValueError(
            f"A CAM such as grad_cam needs features (B, M, H, W) and one score per image (B,), got "
            f"{tuple(features.shape)} and {tuple(score.shape)}. Pick the class first: "
            "logits.gather(1, target[:, None]).squeeze(1)."
        )
    if not features.requires_grad:
        raise RuntimeError(
            "A CAM needs features with gradients; these have none, as behind a frozen network. Begin a graph before "
            "the head reads them, features = body(images).detach().requires_grad_(), or call gaze.look, which does."
        )
    if retain_graph is None:
        retain_graph = create_graph or not features.is_leaf
    readers = _readers(score, features)
    pool = _average_pool(readers, features)
    with _differentiable_twice(readers) if create_graph else nullcontext():
        wanted = features if pool is None else pool
        (found,) = torch.autograd.grad(score.sum(), wanted, create_graph=create_graph, retain_graph=retain_graph)
    return found if pool is None else found.reshape(*features.shape[:2], 1, 1) / features[0, 0].numel()


Readers = dict[tuple[Node, int], list[Any]]  # by each result of a step of a graph, the steps that read it


def _readers(score: Tensor, features: Tensor) -> Readers:
    """The graph of ``score`` from ``features`` on."""
    readers: Readers = {}
    seen, rest = {None, features.grad_fn}, [score.grad_fn]
    while rest:
        node = rest.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for before, place in node.next_functions:
            if before is not None:
                readers.setdefault((before, place), []).append(node)
                rest.append(before)
    return readers


def _average_pool(readers: Readers, features: Tensor) -> GradientEdge | None:
    """The mean of all cells of each channel, where that and nothing else of ``features`` is read. It is the graph that
    says so: no module has to be recognised, and what hooks do is in it.
    """
    edge = get_gradient_edge(features)
    found = readers.get((edge.node, edge.output_nr), [])
    while len(found) == 1 and found[0].name() == "CloneBackward0":
        found = readers[found[0], 0]
    if len(found) == 1 and found[0].name() == "MeanBackward1" and {d % 4 for d in found[0]._saved_dim} == {2, 3}:
        return GradientEdge(found[0], 0)
    return None


@contextmanager
def _differentiable_twice(readers: Readers) -> Iterator[None]:
    """Fused attention between features and score is differentiated by its plain formula, which can be differentiated
    again; a compiled region cannot, and is refused.
    """
    handles = []
    for node in {node for own in readers.values() for node in own}:
        if node.name().startswith("CompiledFunction"):
            raise RuntimeError(
                "What follows the features is compiled by torch.compile, and cannot be differentiated twice. Compile "
                "what comes before them alone, such as network.features of a level, or take create_graph=False."
            )
        if node.name().startswith("ScaledDotProduct"):
            handles.append(node.register_hook(partial(_plain_attention, node)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _plain_attention(
    node: Any, found: tuple[Tensor | None, ...], given: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of query, key, value and mask of an attention, as functions of these and of its output's gradient."""
    if getattr(node, "_saved_dropout_p", 0) > 0:
        raise RuntimeError(
            "Fused attention with dropout cannot be differentiated twice. Run the network inside "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or call gaze.look, which does."
        )
    mask = getattr(node, "_saved_attn_mask", getattr(node, "_saved_attn_bias", None))
    query, key, value = node._saved_query, node._saved_key, node._saved_value
    causal, scale = node._saved_is_causal, node._saved_scale
    with sdpa_kernel(SDPBackend.MATH):
        output = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)
    inputs = [query, key, value, mask]
    wanted = [k for k, one in enumerate(found) if one is not None]
    plain = torch.autograd.grad(output, [inputs[k] for k in wanted], given[0], create_graph=True)
    return tuple(dict(zip(wanted, plain, strict=True)).get(k) for k in range(len(found)))


def _cellwise_map(features: Tensor, weights: Tensor) -> Tensor:
    return (weights * features).sum(1).relu()


def weighted_map(features: Tensor, alpha: Tensor) -> Tensor:
    """``ReLU(sum_k alpha_k A^k)`` (thesis, Eq. 1), without a copy of the features in either memory order.

    Args:
        features: A (B, M, H, W).
        alpha: weights of the channels (B, M).

    Returns:
        Maps (B, H, W), >= 0.
    """
    batch, channels, height, width = features.shape
    if features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous():
        # The gradient of this product has the order of its factors: NHWC stays NHWC on the way back as well.
        cells = features.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        return (cells @ alpha[:, :, None]).view(batch, height, width).relu()
    cells = features.reshape(batch, channels, height * width)
    return (alpha[:, None, :] @ cells).view(batch, height, width).relu()


def normalize_cam(cam: Tensor, eps: float = 1e-8) -> Tensor:
    """Min-max scale each map to [0, 1] (thesis, Eq. 2). An all-zero map, or a flat one, becomes zero.

    Args:
        cam: maps (B, H, W). Half precision, in which ``eps`` is 0 and its slope too steep, is scaled in float32.
        eps: added to the range, in the unit of ``cam``.

    Raises:
        ValueError: maps that are not (B, H, W), which would be scaled by parts.
    """
    if cam.ndim != 3:
        raise ValueError(f"Maps must be (B, H, W), got {tuple(cam.shape)}. Give cam[:, 0] of maps with a channel.")
    half = cam.dtype in (torch.float16, torch.bfloat16)
    cam = cam.float() if half else cam
    low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)  # (B, 1, 1)
    scaled = (cam - low) / (high - low + eps)
    return torch.where(high > low, scaled, 0) if half else scaled
