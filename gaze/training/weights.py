"""Weights that were trained elsewhere: read as data, matched to a network by names, their classes to those of the data.

Taken are a ``state_dict`` (.pt, .pth), a checkpoint with one inside (Lightning's .ckpt, and others) and safetensors.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaze.backbones.library import WITH_AUXILIARY, HookedBackbone, weight_shapes
from gaze.config.data import DatasetConfig
from gaze.config.model import ModelConfig
from gaze.data.audit import first_few
from gaze.errors import CheckpointError, ConfigError
from gaze.files import open_regular
from gaze.training.checkpoints import DAMAGED, MOST_BYTES, check_sums
from gaze.training.module import GazeModule

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads that torchvision's two networks have in training alone
SCALING = ("scale", "shift")  # of a HookedBackbone


class Given(NamedTuple):
    """A checkpoint whose weights fit a network.

    Attributes:
        file: where they stand.
        weights: by the network's own names; those of ``head`` with a row a class of the checkpoint.
        head: names of those.
        classes: names of its classes, in the order of its scores; None where nothing says.
        own: of a checkpoint of this project, what stands beside the weights: ``built``, and the images' scaling.
        notes: what is odd, a line each.
    """

    file: Path
    weights: dict[str, Tensor]
    head: set[str]
    classes: list[str] | None
    own: dict[str, Any]
    notes: list[str]

    @property
    def rows(self) -> int:
        """Classes of its head."""
        return min(len(self.weights[name]) for name in self.head)


def read_given(model: ModelConfig, dataset: DatasetConfig) -> Given:
    """The weights of ``model.checkpoint``, for the network that ``model`` names. Nothing in the file is executed.

    Raises:
        CheckpointError: it is damaged, no checkpoint, wants to run code, or is of another network.
        ConfigError: its format needs a package that is not there.
    """
    file = Path(str(model.checkpoint)).expanduser()
    content = _safetensors(file) if file.suffix == ".safetensors" else _unpickled(file)
    places = [content, *(value for value in content.values() if isinstance(value, Mapping))]  # a state_dict inside
    tensors = max(map(_tensors, places), key=len)
    if not tensors:
        raise CheckpointError(f"{file} holds no weights: torch.save(network.state_dict(), PATH) writes what is read.")
    shapes, head = weight_shapes(model, dataset.image_size, dataset.channels)
    prefix, twins = _prefix(tensors, shapes)
    weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    outside = [key for key in tensors if not key.startswith(prefix)]
    if model.source == "torchvision" and model.name in WITH_AUXILIARY:
        weights = {key: value for key, value in weights.items() if not key.startswith(AUXILIARY)}
    _check_fit(file, model, dataset, weights, shapes, head)
    notes = [f"The weights of {file.name} stand under {prefix}* there."] if prefix else []
    if twins:
        notes.append(f"As many fit under {' and '.join(f'{twin}*' for twin in twins)}: those are left out.")
    own = _own(content, tensors)
    if model.mean is not None:
        own = {name: value for name, value in own.items() if name not in SCALING}
    left = [key for key in outside if not key.startswith((*twins, "backbone.", "gaze_loss.", "train_means."))]
    if left:
        notes.append(f"{len(left)} others in it are left out ({', '.join(first_few(left, 3))}).")
    given = Given(file, weights, head, model.classes or _classes(content), own, notes)
    if given.classes is not None and len(given.classes) != given.rows:
        there = f"{len(given.classes)} classes ({', '.join(given.classes)})"
        raise CheckpointError(f"{file} has {given.rows} scores and {there}: name as many, model.classes=[...].")
    return given


def _tensors(values: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in values.items() if isinstance(value, Tensor)}


def _unpickled(file: Path) -> dict[str, Any]:
    try:
        with open_regular(file, MOST_BYTES) as opened:
            if zipfile.is_zipfile(opened):  # PyTorch's older format is none
                check_sums(opened)
            opened.seek(0)
            content = torch.load(opened, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise TypeError(f"it holds a {type(content).__name__}, no state_dict")
        return dict(content)
    except UnpicklingError as error:
        first = str(error).partition("\n")[0].partition("WeightsUnpickler error: ")
        raise CheckpointError(
            f"{file} is no file of weights alone, or damaged, and nothing in it is run "
            f"({(first[2] or first[0])[:200]}). Where it was trained: torch.save(network.state_dict(), PATH)."
        ) from error
    except DAMAGED as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file} cannot be read as a checkpoint: {why.rstrip('.')}.") from error


def _safetensors(file: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConfigError(f"{file.name} needs the package safetensors: pip install safetensors.") from error
    try:
        open_regular(file, MOST_BYTES).close()
        found: dict[str, Any] = load_file(file)
        return found
    except (SafetensorError, *DAMAGED) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {str(error).splitlines()[0]}.") from error


def _prefix(tensors: Collection[str], shapes: Collection[str]) -> tuple[str, list[str]]:
    """What stands before the network's own names, such as ``model.``: the shortest that most names have; and others
    that as many have, such as those of averaged weights."""
    found: Counter[str] = Counter()
    for key in tensors:
        parts = key.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in shapes:
                found[".".join([*parts[:place], ""])] += 1
    if not found:
        return "", []
    best, *others = sorted((key for key in found if found[key] == max(found.values())), key=lambda key: (len(key), key))
    return best, others


def _check_fit(
    file: Path,
    model: ModelConfig,
    dataset: DatasetConfig,
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    head: Collection[str],
) -> None:
    missing = [key for key in shapes if key not in weights and not key.endswith("num_batches_tracked")]
    left = [key for key in weights if key not in shapes]
    other = [
        f"{key} {tuple(weights[key].shape)} for {tuple(shape)}"
        for key, shape in shapes.items()
        if key in weights and weights[key].shape[key in head :] != shape[key in head :]
    ]
    rows = {len(weights[key]) for key in head if key in weights and weights[key].ndim}
    kinds = {"missing": missing, "left over": left, "of another shape": other}
    said = [f"{len(keys)} {kind} ({', '.join(first_few(keys, 3))})" for kind, keys in kinds.items() if keys]
    if said or len(rows) != 1:
        words = model.name if model.source == "gaze" else " ".join(model.words)
        size = dataset.image_size
        raise CheckpointError(
            f"{file} is of another network than {words} on {size}x{size} images of {dataset.channels} "
            f"channel(s): of {len(shapes)} weights {'; '.join(said) or 'the heads do not match'}. Name "
            "the network that it was trained as (model, model.name), its dataset.image_size and dataset.channels."
        )


def _classes(content: Mapping[str, Any]) -> list[str] | None:
    """Those of a checkpoint of this project, unless they are mere numbers."""
    settings = content.get("hyper_parameters")
    names = settings.get("class_names") if isinstance(settings, Mapping) else None
    if not isinstance(names, list) or names == [str(number) for number in range(len(names))]:
        return None
    return [str(name) for name in names]


def _own(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """See :class:`Given`; nothing of another project's."""
    settings, scaling = content.get("hyper_parameters"), {name: tensors.get(f"backbone.{name}") for name in SCALING}
    if not isinstance(settings, Mapping) or any(v is None or v.shape != (1, 3, 1, 1) for v in scaling.values()):
        return {}
    return {"built": settings.get("built"), **scaling}


def place_weights(module: GazeModule, given: Given, measure: bool) -> list[str]:
    """Put them into a module's network, the rows of the head in the order of its classes.

    Args:
        module: of a run, with its data's classes.
        given: what fits its network.
        measure: a head of other classes is refused; else it is left out, and the module's stays new.

    Returns:
        What became of the classes, a line each.

    Raises:
        CheckpointError: a head of other classes.
    """
    network = module.backbone.network if isinstance(module.backbone, HookedBackbone) else module.backbone
    wanted, weights = module.class_names, dict(given.weights)
    said = None
    if given.classes is None and given.rows == len(wanted):
        said = (
            f"{given.file.name} does not name its classes: its scores are taken in the data's order, "
            f"{', '.join(wanted)}. If theirs is another: model.classes=[...]"
        )
    elif given.classes is not None and sorted(given.classes) == sorted(wanted):
        rows = torch.tensor([given.classes.index(name) for name in wanted])
        weights |= {key: weights[key][rows] for key in given.head}
        if given.classes != wanted:
            said = f"Its classes, {', '.join(given.classes)}, are put in the data's order."
    else:
        there = ", ".join(given.classes) if given.classes else f"{given.rows} without names"
        if measure:
            raise CheckpointError(
                f"{given.file} has other classes than the data: {there}; the data's are {', '.join(wanted)}. Classes "
                "are matched by name: rename the data's, or say what its scores stand for, model.classes=[...]."
            )
        weights = {key: value for key, value in weights.items() if key not in given.head}
        said = f"Its classes ({there}) are not the data's ({', '.join(wanted)}): the head is new, the rest is taken."
    network.load_state_dict(weights, strict=False)  # what may be absent was looked at
    for name in SCALING:
        if name in given.own and isinstance(module.backbone, HookedBackbone):
            getattr(module.backbone, name).copy_(given.own[name])
    return [said] if said else []
