"""Weights that training leaves as they are: ``model.freeze``."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import filter as matching

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gaze.backbones.library import weight_shapes
from gaze.config.model import ModelConfig
from gaze.errors import ConfigError

ALL_BUT_HEAD = "all_but_head"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
SHOWN = 8  # names in a message


def frozen_names(model: ModelConfig, image_size: int, in_channels: int) -> set[str]:
    """What ``model.freeze`` names among the weights and statistics of a network, by its own names.

    The head is what has a row for each class.

    Raises:
        ConfigError: it names no weight, or all of them; no head can be told.
    """
    if model.freeze is None:
        return set()
    names, head = weight_shapes(model, image_size, in_channels)
    weights = [name for name in names if not name.endswith(STATISTICS)]
    if model.freeze == ALL_BUT_HEAD and not head:
        raise ConfigError(
            f"model.freeze={ALL_BUT_HEAD}: no weight of {' '.join(model.words)} has a row for each class, since its "
            f"class has no parameter num_classes. Give a pattern instead. {_some(weights)}"
        )
    found = set(names) - head if model.freeze == ALL_BUT_HEAD else set(matching(names, model.freeze))
    if not found.intersection(weights):
        raise ConfigError(f"model.freeze={model.freeze} matches no weight of {' '.join(model.words)}. {_some(weights)}")
    if found.issuperset(weights):
        raise ConfigError(f"model.freeze={model.freeze} leaves nothing to train: freeze less.")
    return found


def _some(names: list[str]) -> str:
    """The first and the last names, which tell how the others are built."""
    if len(names) > SHOWN:
        names = [*names[: SHOWN // 2], "...", *names[-SHOWN // 2 :]]
    return f"It has {', '.join(names)}; * stands for any letters, as in {names[0].partition('.')[0]}.*"


def freeze(network: nn.Module, names: Collection[str]) -> list[nn.Module]:
    """Hold weights still.

    Args:
        network: with these weights.
        names: from :func:`frozen_names`.

    Returns:
        The batch norms whose weights, or where they have none whose statistics, are among them: they must stay in
        evaluation, or their statistics would move.
    """
    for name, weight in network.named_parameters():
        if name in names:
            weight.requires_grad_(False)
    still: list[nn.Module] = []
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm):
            own = [key for key, _ in layer.named_parameters(name)] or [f"{name}.running_mean"]
            still += [layer.eval()] if set(own) <= set(names) else []
    return still
