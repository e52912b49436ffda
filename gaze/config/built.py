"""Settings with a ``_target_``: a class of a library or of one's own and its arguments, for Hydra's instantiate.

PyTorch is imported when something is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import PurePath
from pkgutil import resolve_name
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from gaze.choices import either, shown
from gaze.config.settings import MOST, Settings, no_such
from gaze.errors import ConfigError
from gaze.measures import measures

KNOWN = ("torch", "torchvision", "lightning", "timm", "gaze")  # whose classes are built without trust=true
EXTRAS = {"wandb": "wandb", "mlflow": "mlflow", "sqlalchemy": "mlflow", "alembic": "mlflow"}  # modules of extras
REST = ("T_max", "total_steps")  # null: the rest of the training, in the scheduler's own interval


class Built(Settings):
    """A class by its dotted name, and its arguments.

    Attributes:
        target: ``_target_``; None builds nothing.
    """

    model_config = ConfigDict(extra="allow")
    target: str | None = Field(None, alias="_target_")
    published: ClassVar[type[Built] | None] = None  # with types of its own, where its target is meant
    reads: ClassVar[set[str]] = {"target"}  # what is no argument of the class

    @classmethod
    def of(cls, values: Mapping[str, Any] | Self) -> Self:
        """Settings of what ``_target_`` names; of the published one where there is none. ``_partial_``, which they
        have in other projects, is understood.
        """
        if isinstance(values, cls):
            return values
        own, kind = {key: value for key, value in dict(values).items() if key != "_partial_"}, cls.published or cls
        usual = kind.model_fields["target"].default
        return (kind if own.get("_target_", usual) == usual else cls)(**own)  # type: ignore[return-value]

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the class."""
        return self.model_dump(exclude=self.reads)


class OptimizerConfig(Built):
    """Group ``optimizer``: any of PyTorch's, or of one's own."""

    lr: float | None = Field(None, gt=0, le=1e30)

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the class; a rate that is not given is the class's own."""
        own = super().arguments
        return own if self.lr is not None else {key: value for key, value in own.items() if key != "lr"}

    @field_validator("target")
    @classmethod
    def _one(cls, value: str | None) -> str | None:
        if value is None:
            raise ValueError("trains nothing: name a class, such as torch.optim.SGD")
        return value


class AdamConfig(OptimizerConfig):
    """Group ``optimizer``: Adam, as published."""

    model_config = ConfigDict(extra="forbid")
    target: str | None = Field("torch.optim.Adam", alias="_target_")
    lr: float = Field(1e-4, gt=0, le=1e30)
    betas: list[float] = [0.9, 0.999]
    eps: float = Field(1e-8, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0, le=1000)

    @field_validator("betas")
    @classmethod
    def _two(cls, value: list[float]) -> list[float]:
        if len(value) != 2 or not all(0 <= beta < 1 for beta in value):
            raise ValueError("must be two numbers in [0, 1)")
        return value


class SchedulerConfig(Built):
    """Group ``scheduler``: any of PyTorch's, or of one's own."""

    reads: ClassVar[set[str]] = {"target", "monitor", "interval", "frequency"}  # the others are for Lightning
    monitor: str | None = None  # of those that wait for a measure
    interval: Literal["epoch", "step"] = "epoch"
    frequency: int = Field(1, ge=1, le=MOST)  # stepped every so many of these

    @field_validator("monitor")
    @classmethod
    def _measured(cls, value: str | None) -> str | None:
        if value is not None:
            check_monitor(value)
        return value


class PlateauConfig(SchedulerConfig):
    """Group ``scheduler``: ReduceLROnPlateau on val/loss, as published."""

    model_config = ConfigDict(extra="forbid")
    target: str | None = Field("torch.optim.lr_scheduler.ReduceLROnPlateau", alias="_target_")
    monitor: str = "val/loss"
    interval: Literal["epoch"] = "epoch"
    mode: Literal["min", "max"] = "min"
    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(5, ge=0, le=MOST)

    @field_validator("mode")
    @classmethod
    def _to_the_better(cls, value: str, info: ValidationInfo) -> str:
        check_mode(info.data.get("monitor", ""), value)
        return value


OptimizerConfig.published, SchedulerConfig.published = AdamConfig, PlateauConfig


def check_monitor(name: str) -> None:
    """Raise ValueError, as pydantic takes it, for a measure that no epoch has."""
    known = [measure.column for measure in measures().values() if measure.column]
    if name not in known and not name.startswith(("val/n_correct/", "val/group_accuracy/")):
        near = get_close_matches(name, known) or ["val/loss", "val/kappa", "val/gaze_consistency"]
        raise ValueError(f"is logged by no epoch: take one such as {either(near)}")


def check_mode(name: str, mode: str) -> None:
    """Raise ValueError for a ``mode``, min or max, that waits for a measure to get worse."""
    better = next((own.better for own in measures().values() if own.column == name), "")
    if better and mode != (wanted := {"lower": "min", "higher": "max"}[better]):
        raise ValueError(f"waits for {name} to get worse, of which {better} is better: take {wanted}")


def optimizers(
    optimizer: OptimizerConfig, scheduler: SchedulerConfig, parameters: Any, length: Callable[[str], int],
    trust: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """What ``configure_optimizers`` gives Lightning.

    Args:
        optimizer, scheduler: settings.
        parameters: of the network.
        length: of the training, by "epoch" or "step"; asked for only where a scheduler needs it.
        trust: as of :func:`build`.

    Raises:
        ConfigError: as of :func:`build`.
    """
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    own = build("optimizer", optimizer, Optimizer, parameters, trust=trust)
    if scheduler.target is None:
        return {"optimizer": own}
    whole = scheduler.model_copy(update=_filled(scheduler.arguments, lambda: length(scheduler.interval)))
    steps = {name: getattr(scheduler, name) for name in ("monitor", "interval", "frequency")}
    built = build("scheduler", whole, LRScheduler, own, trust=trust)
    return {"optimizer": own, "lr_scheduler": {"scheduler": built, "strict": False, **steps}}


def _filled(value: Any, length: Callable[[], int]) -> Any:
    """With each of :data:`REST` that is null as what is left of the training behind the last of its milestones."""
    if isinstance(value, list):
        return [_filled(each, length) for each in value]
    if not isinstance(value, dict):
        return value
    before = max(value.get("milestones") or [0])

    def left() -> int:
        return max(1, length() - before)

    return {k: left() if k in REST and v is None else _filled(v, left) for k, v in value.items()}


def optimizer_problems(optimizer: OptimizerConfig, scheduler: SchedulerConfig, epochs: int) -> list[str]:
    """What is wrong with them, found by building them around a weight that nothing depends on."""
    import torch

    try:
        weight = torch.nn.Parameter(torch.zeros(2, 2))
        optimizers(optimizer, scheduler, [weight], lambda interval: epochs * (1 if interval == "epoch" else 1000))
    except ConfigError as error:
        return [str(error)]
    return []


def class_problems(groups: Mapping[str, Mapping[str, Built]]) -> list[str]:
    """A line for each class of ``logger`` and ``callbacks`` that is not there or another kind, or waits for a measure
    that no epoch has."""
    from lightning import Callback
    from lightning.pytorch.loggers import Logger

    problems, kinds = [], {"logger": Logger, "callbacks": Callback}
    for setting, own, kind in ((f"{g}.{n}", own, kinds[g]) for g, each in groups.items() for n, own in each.items()):
        asked, key = {"mode": "min"} | own.arguments, "monitor"  # Lightning's own usual mode
        try:
            class_of(setting, own.target, kind)
            if asked.get("monitor") is not None and str(own.target).startswith("lightning."):
                check_monitor(asked["monitor"])
                key = "mode"
                check_mode(asked["monitor"], asked["mode"])
        except ConfigError as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{setting}.{key}={shown(asked[key])} {error}.")
    return problems


def build(setting: str, own: Built, kind: type, *args: Any, trust: bool = True, **usual: Any) -> Any:
    """What ``own`` says, by hydra.utils.instantiate.

    Args:
        setting: its name, for errors.
        own: the class and its arguments. Inner ones with ``_partial_: true`` take ``args`` as well.
        kind: that its class must be one of.
        args: come first.
        trust: False for what stands in somebody's file: then it must be a class of a library of :data:`KNOWN`.
        usual: arguments where ``own`` has no others.

    Raises:
        ConfigError: no such class, or one of another kind; a package that is missing; an argument that it does not
            take or refuses.
    """
    from hydra.utils import instantiate

    for inner in _targets(own.arguments):
        class_of(setting, inner, object if trust else kind, trust)
    built = class_of(setting, own.target, kind, trust)
    takes = inspect.signature(built).parameters
    more = usual | own.arguments
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes.values()):
        for name in [name for name in own.arguments if name not in takes]:
            raise ConfigError(
                no_such(f"{setting}.{name}", more[name], list(takes)[len(args) :], f"{own.target} has no such argument")
            )
    try:
        plain = {key: value for key, value in more.items() if not isinstance(value, PurePath)}
        made = instantiate({**plain, "_target_": own.target, "_partial_": True, "_convert_": "all"})
        inner = {key: _called(value, args) for key, value in made.keywords.items()}
        return made(*args, **{**more, **inner})
    except Exception as error:  # whatever a class of one's own raises
        why = _refused(error, "refuses its settings")
        raise ConfigError(f"{setting}: {own.target} {why}") from error


def class_of(setting: str, target: Any, kind: type, trust: bool = True) -> type:
    """The class that a ``_target_`` names; nothing else of it is called.

    Raises:
        ConfigError: it names none, one of another kind or, without ``trust``, one of no library of :data:`KNOWN`.
    """
    name = f"{setting}._target_={shown(target)}"
    if not trust and str(target).partition(".")[0] not in KNOWN:
        raise ConfigError(f"{name} is a class of no library of {', '.join(KNOWN)}: trust=True builds it.")
    try:
        found = resolve_name(str(target))
    except Exception as error:  # whatever a module of one's own raises
        raise ConfigError(f"{name} {_refused(error)}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ConfigError(f"{name} is no class of the kind {kind.__module__}.{kind.__name__}.")
    if not trust and found.__module__.partition(".")[0] not in KNOWN:
        raise ConfigError(f"{name} is a class of {found.__module__}: trust=True builds it.")
    return found


def _refused(error: Exception, what: str = "cannot be had") -> str:
    if isinstance(error, ModuleNotFoundError):  # Lightning's own has no name
        root = (error.name or next((name for name in EXTRAS if name in str(error).lower()), "")).partition(".")[0]
        package = f"'gaze-consistency[{EXTRAS[root]}]'" if root in EXTRAS else root
        where = "" if root in EXTRAS else ", or put it on PYTHONPATH"
        return f"needs the module {error.name or root}, which is not there: pip install {package}{where}."
    return f"{what}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"


def _targets(value: Any) -> list[Any]:
    """Each ``_target_`` within arguments."""
    if isinstance(value, Mapping):
        own = [value["_target_"]] if "_target_" in value else []
        return own + [target for each in value.values() for target in _targets(each)]
    return [target for each in value for target in _targets(each)] if isinstance(value, list | tuple) else []


def _called(value: Any, args: tuple[Any, ...]) -> Any:
    if isinstance(value, list):
        return [_called(each, args) for each in value]
    return value(*args) if isinstance(value, partial) else value
