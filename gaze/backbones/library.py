"""Networks of torchvision, timm and one's own: any of them, looked at through a hook on one of its layers.

The network itself stays as its library or its class builds it, with that one's names for its weights. Images for a
library's have three channels: a grey one is repeated, which is what its pretrained weights expect.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from gaze.backbones.levels import SplitBackbone, build_backbone, check_method, hooked_map_size
from gaze.backbones.own import build_own, channels_of, takes_classes, tried
from gaze.cam.layers import Target, find_target
from gaze.cam.probe import check_target
from gaze.choices import did_you_mean, shown
from gaze.config.model import ModelConfig
from gaze.errors import ConfigError

WITH_AUXILIARY = ("googlenet", "inception_v3")  # their training output has heads of its own, which are left out
Built = dict[str, dict[str, Any]]  # name of a module -> name of an attribute -> its plain value
PLAIN = (bool, int, float, str, type(None))
SIZED = {"vit": "image_size", "maxvit": "input_size"}  # torchvision's networks that are built for one size


class HookedBackbone(nn.Module):
    """A classifier that need not be a head on one tensor: features and logits come from one pass through all of it.

    Args:
        network: images (B, 3, S, S) -> logits (B, K); with ``channels`` 1 (B, 1, S, S).
        target: the layer of ``network`` to look at.
        mean, std: of each channel on a scale of 0..1, as the pretrained weights expect them; None leaves images as
            they are, in [-1, 1]. Kept with the weights in ``state_dict``.
        built: what building ``network`` with pretrained weights changed in it besides the weights: plain values by
            the names of its modules (``""`` is the network itself) and of their attributes. They are set here.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, target: Target, mean: Any = None, std: Any = None, built: Built | None = None,
        channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network
        self.built = built or {}
        _set_plain(network, self.built)
        self.target = target._replace(layer=f"network.{target.layer}")  # where gaze.look looks
        mean = torch.tensor([0.5] * channels if mean is None else mean, dtype=torch.float32).view(1, channels, 1, 1)
        std = torch.tensor([0.5] * channels if std is None else std, dtype=torch.float32).view(1, channels, 1, 1)
        self.register_buffer("scale", 0.5 / std)  # ((x + 1) / 2 - mean) / std of an x in [-1, 1]
        self.register_buffer("shift", (0.5 - mean) / std)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 1 or 3, S, S) in [-1, 1] to logits (B, K)."""
        return self.network(x * self.scale + self.shift)  # one channel becomes three

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        # Checkpoints of before there was ``built`` tell by their scale alone that the network was a pretrained one.
        if hasattr(self.network, "transform_input"):
            vars(self.network)["transform_input"] = bool((state_dict.get(f"{prefix}scale", self.scale) != 1).any())
        super()._load_from_state_dict(state_dict, prefix, *others)


def build_network(
    model: ModelConfig, num_classes: int, in_channels: int, image_size: int, built: Built | None = None
) -> SplitBackbone | HookedBackbone:
    """The network of a run.

    Args:
        model: its settings. ``weights`` are downloaded where the source's library has not kept them; their
            classifier is left out, unless it has ``num_classes`` classes itself.
        num_classes: K.
        in_channels: of the images, 1 or 3.
        image_size: S.
        built: of a :class:`HookedBackbone` whose weights will be loaded.

    Raises:
        ConfigError: an unknown name, a layer that cannot be looked at, weights that cannot be had.
    """
    if model.source == "gaze":
        return build_backbone(model.name, num_classes, in_channels)
    if num_classes < 2:
        raise ConfigError(f"{num_classes} class: a classifier, and its kappa, need two or more.")
    target = _target(model, image_size, in_channels)
    network, mean, std = _weighted(model, num_classes, image_size)
    channels = 3
    if model.source == "own":
        tried(model, network, num_classes, image_size, in_channels)
        channels = channels_of(network, in_channels)
    if model.mean is not None:
        mean, std = model.mean, model.std
    if model.weights is not None:
        with torch.random.fork_rng(devices=[]):
            plain = _plain_values(_plain(model, num_classes, image_size))
        own = _plain_values(network)
        built = {name: dict(own[name].items() - plain[name].items()) for name in own if own[name] != plain[name]}
    return HookedBackbone(network, target, mean, std, built, channels)


def _plain_values(network: nn.Module) -> Built:
    """Attributes of all its modules that are plain values: options, no weights and no other modules."""
    return {
        name: {key: value for key, value in vars(module).items() if isinstance(value, PLAIN)}
        for name, module in network.named_modules()
    }


def _set_plain(network: nn.Module, built: Any) -> None:
    """Options of modules, which may come from a stranger's checkpoint: what is none there already is refused."""
    modules = dict(network.named_modules())
    for name, values in built.items() if isinstance(built, dict) else [("", built)]:
        own: dict[str, Any] = vars(modules[name]) if name in modules else {}  # type: ignore[assignment]
        known = {key for key, value in own.items() if isinstance(value, PLAIN) and not key.startswith("_")}
        if (
            not isinstance(values, dict)
            or not values.keys() <= known
            or not all(isinstance(v, PLAIN) for v in values.values())
        ):
            raise ConfigError(f"built: {shown(name)} has no such options: {shown(values)}.")
        own.update(values)


class Expected(NamedTuple):
    """How a network's published weights expect images: mean and SD of each channel of 0..1, and how to resize them."""

    mean: list[float]
    std: list[float]
    interpolation: str


def expected(model: ModelConfig) -> Expected | None:
    """What a library says of the images of a network; None where it says nothing, as of one without weights."""
    if model.source == "timm":
        timm = _timm()
        name = model.name if model.weights in (None, "default") else f"{model.name.split('.')[0]}.{model.weights}"
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if cfg is None:
            return None
        own = timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict())
        return Expected(list(own["mean"]), list(own["std"]), own["interpolation"])
    if model.source == "torchvision":
        known = torchvision.models.get_model_weights(model.name)
        if not len(known):
            return None
        chosen = "DEFAULT" if model.weights in (None, "default") else str(model.weights)
        own = known[chosen].transforms()
        return Expected(list(own.mean), list(own.std), own.interpolation.value)
    return None


def weight_shapes(model: ModelConfig, image_size: int, in_channels: int) -> tuple[dict[str, torch.Size], set[str]]:
    """Shapes of a network's weights at two classes, by its own names, and which of them have a row a class."""

    def shapes(classes: int) -> dict[str, torch.Size]:
        if model.source == "gaze":
            network: nn.Module = build_backbone(model.name, classes, in_channels)
        else:
            network = _plain(model, classes, image_size)
        return {key: value.shape for key, value in network.state_dict().items()}

    with torch.random.fork_rng(devices=[]):
        two, three = shapes(2), shapes(3)
    return two, {key for key in two if two[key] != three[key]}


def map_size(model: ModelConfig, image_size: int, in_channels: int) -> tuple[int, int]:
    """Height and width (H', W') of the map of ``model``, found without computing it.

    Raises:
        ConfigError: as :func:`build_network`, but for the weights; a map under 2x2.
    """
    if model.source == "gaze":
        return hooked_map_size(model.name, image_size, in_channels)
    return _target(model, image_size, in_channels).grid


def check_network(model: ModelConfig, image_size: int, in_channels: int) -> str | None:
    """Whatever :func:`build_network` would refuse is refused here, weights that cannot be downloaded included.

    Draws no random number.

    Returns:
        A line that names the layer that was found, and outputs that nothing trains, for the reader; None for the
        levels.

    Raises:
        ConfigError: see :func:`build_network`.
    """
    if model.source == "gaze":
        hooked_map_size(model.name, image_size, in_channels)
        return None
    left: list[str] = []
    if model.source == "own":
        with torch.random.fork_rng(devices=[]):
            known = 2 if takes_classes(model) else None
            left = tried(model, _plain(model, 2, image_size), known, image_size, in_channels, training=True)
    target = _target(model, image_size, in_channels, check=True)
    if model.weights is not None:
        with torch.random.fork_rng(devices=[]):
            _weighted(model, 2, image_size)
    if model.source == "torchvision" and model.name in WITH_AUXILIARY:
        left = ["what its auxiliary heads give"]
    line = f"{model.label}: looked at in {target.layer}, a {target.grid[0]}x{target.grid[1]} map"
    return line + (f". Without a part in the loss: {', '.join(left)}" if left else "")


def check_method_of(method: str, model: ModelConfig, in_channels: int) -> None:
    """Refuse a CAM that does not exist, or that the network's head does not allow.

    Raises:
        ConfigError: with what to take instead.
    """
    if model.source == "gaze":
        check_method(method, model.name, in_channels)
    elif method == "cam":
        raise ConfigError(
            f"gaze.method=cam reads class weights off the head of level2 .. level5; {model.label} is looked at through "
            "its layer alone. Take gaze.method=grad_cam: the same up to a factor behind a global average pool."
        )


@lru_cache(maxsize=64)
def _target(model: ModelConfig, image_size: int, in_channels: int, check: bool = False) -> Target:
    """The layer; with ``check`` a named one, or one of tokens, is tried out, which takes more than its shapes."""
    layer, size = model.layer, (image_size, image_size)
    asked = "" if layer is None else f" model.layer={layer}"
    where = f"{' '.join(model.words)}{asked} on {image_size}x{image_size} images"
    if model.source != "own":
        _check_name(model.source, model.name)
    error: Exception | None = None
    for device in ("meta", "cpu"):  # shapes only, or where a network's own code needs numbers, with them
        try:
            with torch.random.fork_rng(devices=[]):
                with torch.device(device):
                    network = _plain(model, 2, image_size)
                    channels = channels_of(network, in_channels) if model.source == "own" else 3
                    target = find_target(network, size, layer, channels)
                if check and (layer is not None or target.layout != "BCHW"):
                    check_target(_plain(model, 2, image_size), target, size, channels)
                return target
        except ConfigError as refused:
            raise ConfigError(f"{where}: {refused}") from refused
        except Exception as failed:  # whatever the network's own code raises
            error = failed
    first = (str(error) or type(error).__name__).splitlines()[0]
    raise ConfigError(f"{where} cannot be used: {first} Take another dataset.image_size or model.name.") from error


def _check_name(source: str, name: str) -> None:
    if source == "torchvision":
        known = torchvision.models.list_models(module=torchvision.models)
        if name in known:
            return
    else:
        timm = _timm()
        if timm.is_model(name):
            return
        known = timm.list_models()
    raise ConfigError(
        f"model={source} model.name={name} is unknown. {did_you_mean(name, known)}"
        f"All {len(known)} names: python -c 'from {source + '.models' if source == 'torchvision' else source} import "
        "list_models; print(*list_models())'"
    )


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise ConfigError(
            'model=timm needs the package timm: pip install -e ".[timm]" (or pip install timm).'
        ) from error


def _plain(model: ModelConfig, num_classes: int, image_size: int, weights: bool = False, **more: Any) -> nn.Module:
    """The network as its library builds it, with random weights unless ``more`` says otherwise."""
    name = model.name
    if model.source == "own":
        return build_own(model, num_classes)
    if model.source == "timm":
        timm = _timm()
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if cfg is not None and cfg.fixed_input_size:
            more["img_size"] = image_size
        return timm.create_model(name, num_classes=num_classes, in_chans=3, **more)
    if name in WITH_AUXILIARY:
        more |= {"aux_logits": False, "init_weights": False, "transform_input": weights}
    size = SIZED.get(name.partition("_")[0])
    if size is not None:
        more[size] = image_size if size == "image_size" else (image_size, image_size)
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **more)


def _weighted(model: ModelConfig, num_classes: int, image_size: int) -> tuple[nn.Module, Any, Any]:
    """The network, random or pretrained, and the mean and standard deviation of the images that it expects."""
    if model.weights is None:
        return _plain(model, num_classes, image_size), None, None
    try:
        if model.source == "timm":
            name = model.name if model.weights == "default" else f"{model.name.split('.')[0]}.{model.weights}"
            network = _plain(model.model_copy(update={"name": name}), num_classes, image_size, pretrained=True)
            own = expected(model)
            return network, own and own.mean, own and own.std
        return _from_torchvision(model, num_classes, image_size)
    except ConfigError:
        raise
    except Exception as error:  # no network, a broken download, no such weights: each library has its own errors
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"model.weights={model.weights} of {model.source}'s {model.name} cannot be had: {first} "
            "Take model.weights=null for random ones, or download them once where there is a connection."
        ) from error


def _from_torchvision(model: ModelConfig, num_classes: int, image_size: int) -> tuple[nn.Module, Any, Any]:
    known = torchvision.models.get_model_weights(model.name)
    names = list(known.__members__)
    if model.weights != "default" and model.weights not in names:
        near = did_you_mean(str(model.weights), names)
        raise ConfigError(f"model.weights={model.weights} is unknown. {near}Known: default, {', '.join(names)}.")
    weights = known["DEFAULT" if model.weights == "default" else str(model.weights)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial values that are replaced at once
        trained = torchvision.models.get_model(model.name, weights=weights, progress=False).state_dict()
    network = _plain(model, num_classes, image_size, weights=True)
    own = network.state_dict()
    fits = {key: value for key, value in trained.items() if key in own and own[key].shape == value.shape}
    classes = len(weights.meta["categories"])
    odd = [key for key, value in own.items() if key not in fits and trained[key].shape[0] != classes]
    if odd:  # not the classifier: position embeddings of another image size
        raise ConfigError(
            f"model.weights={model.weights} do not fit {image_size}x{image_size} images ({', '.join(odd[:3])}). "
            f"Take dataset.image_size={weights.transforms().crop_size[0]}."
        )
    own.update(fits)  # which keeps the versions of its modules, as a new dict would not
    network.load_state_dict(own)
    return network, weights.transforms().mean, weights.transforms().std
