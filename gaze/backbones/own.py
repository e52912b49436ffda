"""A network of one's own: its class imported by name, what it returns picked, and what is wrong with either said.

Importing is running. A class is imported only once this process was told to trust the settings that name it: by the
command that trains it, or by ``trust=true`` where they come from a run folder, which is data.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from hydra.utils import get_object
from torch import Tensor, nn

from gaze.cam.layers import unchanged
from gaze.choices import did_you_mean, either
from gaze.config.model import ModelConfig
from gaze.errors import ConfigError
from gaze.files import file_digest

_trusted: set[tuple[str | None, ...]] = set()


def trust(model: ModelConfig) -> None:
    """Let this process import the class that ``model`` names, if any: a user said so."""
    _trusted.add((model.target, model.path, model.path_digest))


def build_own(model: ModelConfig, num_classes: int) -> nn.Module:
    """The network, which returns logits (B, K) whatever else its class returns.

    Args:
        model: its settings; ``model.kwargs`` are the arguments of the class.
        num_classes: K, an argument as well where the class has one of that name.

    Raises:
        ConfigError: settings that nobody trusts; no such file or class, one that does not take its arguments or is no
            network.
    """
    made, arguments = _found(model), dict(model.kwargs)
    if takes_classes(model, made):
        arguments["num_classes"] = num_classes
    try:
        network = made(**arguments)
    except Exception as error:  # whatever its code raises
        raise ConfigError(f"{_named(model)} cannot be made: {_first(error)}.{_parameters(made, arguments)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{_named(model)} gives a {type(network).__name__}, not a torch.nn.Module.")
    network.register_forward_hook(partial(_picked, model))
    return network


def takes_classes(model: ModelConfig, made: Any = None) -> bool:
    """Whether the class is told the number of classes: it has a parameter num_classes, and nobody has set it."""
    return "num_classes" not in model.kwargs and "num_classes" in _signature(made or _found(model))


def tried(
    model: ModelConfig, network: nn.Module, num_classes: int | None, size: int, in_channels: int, training: bool = False
) -> list[str]:
    """Pass two blank images through a network.

    Args:
        model: its settings.
        network: from :func:`build_own`.
        num_classes: that it must give; None where it alone knows.
        size: of the images, S.
        in_channels: of the data's images, 1 or 3.
        training: in this mode, which may move statistics of the network.

    Returns:
        What is left out of all that it returns.

    Raises:
        ConfigError: it does not give (B, ``num_classes``), or raises what it may.
    """
    like = next((weight for weight in network.parameters() if weight.is_floating_point()), torch.empty(0))
    channels = channels_of(network, in_channels)
    if model.mean is not None and len(model.mean) != channels:
        raise ConfigError(f"model.mean has {len(model.mean)} numbers, and {_named(model)} gets {channels} channel(s).")
    images = torch.zeros(2, channels, size, size).to(like)
    seen: list[Any] = []
    handle = network.register_forward_hook(lambda module, args, output: seen.append(output), prepend=True)
    try:
        with unchanged(network):
            width = network.train(training)(images).shape[1]
    except ConfigError:
        raise
    except Exception as error:  # whatever its code raises
        raise ConfigError(
            f"{_named(model)} cannot be used on images {tuple(images.shape)}: {_first(error)}. Their size is "
            "dataset.image_size, their channels dataset.channels, or three where its first convolution takes those."
        ) from error
    finally:
        handle.remove()
    if num_classes not in (None, width):
        raise ConfigError(
            f"{_named(model)} gives {width} scores an image, and there are {num_classes} classes. Let it have a "
            "parameter num_classes, which it is told, or give the argument that it has for it, model.NAME=NUMBER."
        )
    picked = _part(seen[0], model.output)
    return [word for word, part in _parts(seen[0]).items() if part is not picked]


def channels_of(network: nn.Module, in_channels: int) -> int:
    """Of the images that a network takes, where they have ``in_channels``: grey ones are repeated for one that begins
    with a convolution of three."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    return 3 if first is not None and first.in_channels == 3 else in_channels


# ---- the class


def _found(model: ModelConfig) -> Any:
    """The class, imported: here alone, and only where that is trusted."""
    if (model.target, model.path, model.path_digest) not in _trusted:
        raise ConfigError(
            f"{_named(model)} is code of whoever made this run or checkpoint, and loading it runs it. If you trust it: "
            "trust=true on the command line; in Python GazeModule.load_from_checkpoint(PATH, trust=True) or "
            "gaze.load_run(RUN, trust=True)."
        )
    for folder in (Path.cwd(), *([] if model.path is None else [Path(model.path).expanduser().resolve().parent])):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # and it stays: networks import when they are called, too
    try:
        if model.path is None:
            return get_object(str(model.target))
        module = _module_in(model)
    except ConfigError:
        raise
    except Exception as error:  # whatever its code raises
        hint = "" if model.path else " Give a name on sys.path or from the current folder, or model.path=FILE.py."
        raise ConfigError(f"{_named(model)} cannot be imported: {_first(error)}.{hint}") from error
    name = str(model.target).rpartition(".")[2]
    if not hasattr(module, name):
        classes = [key for key, own in vars(module).items() if inspect.isclass(own) and issubclass(own, nn.Module)]
        near = did_you_mean(name, classes)
        raise ConfigError(f"{model.path} has no {name}. {near}Its networks: {', '.join(classes) or 'none'}.")
    return getattr(module, name)


def _module_in(model: ModelConfig) -> ModuleType:
    """The file as a module, of a name by what stands in it."""
    file = Path(str(model.path)).expanduser()
    try:
        digest = file_digest(file)
    except OSError as error:
        raise ConfigError(f"model.path={file} cannot be read: {error.strerror or error}.") from error
    if model.path_digest not in (None, digest):
        raise ConfigError(
            f"model.path={file} is another file than the run's: its digest is {digest}, model.path_digest="
            f"{model.path_digest}. Put the run's file back."
        )
    name = f"{file.stem}_{digest}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"model.path={file} is no Python file.")
        module = sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _signature(made: Any) -> list[str]:
    try:
        return list(inspect.signature(made).parameters)
    except (TypeError, ValueError):  # of what is written in C, or cannot be called
        return []


def _parameters(made: Any, given: Mapping[str, Any]) -> str:
    names = _signature(made)
    near = "".join(did_you_mean(name, names) for name in given if name not in names)
    return f" {near}It takes {', '.join(names)}." if names else ""


def _named(model: ModelConfig) -> str:
    return " ".join(model.words)


def _first(error: Exception) -> str:
    """An error of somebody's code in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()][:2]
    return f"{type(error).__name__}: {' '.join(lines)}"[:300].rstrip(".: ")


# ---- what it returns


def _parts(output: Any) -> dict[str, Any]:
    """All that ``model.output`` could name of what a network returned; nothing of a tensor."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple | list):
        return dict(zip(getattr(output, "_fields", map(str, range(len(output)))), output, strict=True))
    return {} if isinstance(output, Tensor) else dict(getattr(output, "__dict__", {}))  # of a dataclass


def _part(output: Any, word: int | str | None) -> Any:
    """What is named; a tensor itself; of a named tuple also by place."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple) and str(word) in map(str, range(len(output))):
        return output[int(str(word))]
    return _parts(output).get(str(word))


def _picked(model: ModelConfig, network: nn.Module, args: Any, output: Any) -> Tensor:
    """The hook: logits out of what a network returned."""
    found = _part(output, model.output)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(args[0]):
        words = [word for word, part in _parts(output).items() if isinstance(part, Tensor) and part.ndim == 2]
        hint = f" Take model.output={either(words)}." if words else ""
        mode = "training" if network.training else "evaluation"
        raise ConfigError(
            f"{_named(model)} returns {_described(output)} in {mode}; needed are logits, a tensor (B, K).{hint}"
        )
    return found


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    parts = ", ".join(
        f"{key}: {tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__}"
        for key, part in _parts(output).items()
    )
    return f"a {type(output).__name__}" + (f" of {parts}" if parts else "")
