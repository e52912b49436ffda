"""A run's network as one program of PyTorch, ``network.pt2``: logits and map of any images, without this project.

torch.export.load("network.pt2").module()(images) -> logits, maps
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from gaze.backbones.levels import PooledHead, SplitBackbone
from gaze.backbones.looking import look
from gaze.cam.methods import normalize_cam, weighted_map
from gaze.errors import ConfigError, DataError
from gaze.files import atomic_path
from gaze.studies.opened import Opened

PROGRAM, ABOUT = "network.pt2", "about.json"
CHECKED, TOLERANCE = 64, 1e-4  # images at most; of maps, and of logits over the largest of them where that is above 1


class LogitsAndMap(nn.Module):
    """Images (B, C, S, S) in 0..1 -> logits (B, K), and maps (B, H', W') in [0, 1] of the predicted classes.

    Args:
        backbone: whose head has a closed form, so that a map takes no backward pass, which no program can hold.
        method: grad_cam or cam.
    """

    def __init__(self, backbone: SplitBackbone, method: str) -> None:
        super().__init__()
        self.backbone, self.method = backbone, method

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        head = self.backbone.head
        assert isinstance(head, PooledHead)
        seen, weights, logits = head.closed_form(self.backbone.forward_features(2 * images - 1), None, self.method)
        return logits, normalize_cam(weighted_map(seen, weights))


def check_export(one: Opened) -> None:
    """Raise ConfigError where a run's map has no closed form."""
    backbone, method = one.module.backbone, one.module.gaze_config.method
    if not isinstance(getattr(backbone, "head", None), PooledHead) or method not in ("grad_cam", "cam"):
        raise ConfigError(
            f"export=true: the map of {one.run.label} with gaze.method={method} takes a backward pass, which no "
            "program holds. Those of level1 .. level5 with gaze.method=grad_cam or cam have a closed form."
        )


def export_network(one: Opened, pixels: Tensor, file: Path) -> str:
    """Write the program, and run it once against the network that it was made from, in float32 on the CPU.

    Args:
        one: a run that :func:`check_export` passes.
        pixels: images (N, C, S, S) uint8 to compare the two on.
        file: where to write.

    Returns:
        How far they are apart, for the reader.

    Raises:
        DataError: further than :data:`TOLERANCE`.
    """
    method = one.module.gaze_config.method
    backbone = copy.deepcopy(one.module.backbone).cpu().float().to(memory_format=torch.contiguous_format)
    backbone.eval().requires_grad_(False)
    assert isinstance(backbone, SplitBackbone)
    images = pixels[:CHECKED].float() / 255
    about = {
        "classes": one.classes,
        "image_size": one.dataset.image_size,
        "channels": one.dataset.channels,
        "images": "(B, channels, image_size, image_size) float32, 0..1",
        "returns": "logits (B, classes), maps (B, H, W) of the predicted class, 0..1",
        "method": method,
    }
    with torch.no_grad(), atomic_path(file) as part, part.open("wb") as stream:
        example = (images[:1].expand(2, -1, -1, -1).clone(),)  # a batch of one would be taken for the only size
        shapes = {"images": {0: torch.export.Dim("batch")}}
        program = torch.export.export(LogitsAndMap(backbone, method), example, dynamic_shapes=shapes)
        torch.export.save(program, stream, extra_files={ABOUT: json.dumps(about)})
    found, wanted = torch.export.load(file).module()(images), look(backbone, 2 * images - 1, method=method)
    scales = (max(1.0, float(wanted.logits.abs().max())), 1.0)
    far = max(float((a - b).abs().max()) / s for a, b, s in zip(found, wanted, scales, strict=True))
    if not far <= TOLERANCE:
        file.unlink()
        raise DataError(f"The exported program differs from the network by {far:.2g}, more than {TOLERANCE:g}.")
    return f"{file.name}: logits and map of {len(images)} images differ from the network's by {far:.1g} at most."
