"""Settings ``trainer.*``: arguments of Lightning's Trainer, held against its own signature and within bounds of ours.

Lightning itself takes most values unseen, and some end hours later in an error or, worse, in none.
"""

from __future__ import annotations

import inspect
import re
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from gaze.choices import either, shown
from gaze.config.settings import MOST, no_such, one_of, said

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
OWN = ("logger", "callbacks", "default_root_dir", "enable_checkpointing", "enable_progress_bar", "plugins", "barebones",
       "model_registry")  # fmt: skip
EVERY = "Else there are epochs without a kappa and a gaze consistency."
WHY = {"check_val_every_n_epoch": EVERY, "limit_val_batches": EVERY}
FORKED = ("spawn", "fork", "notebook")


def _duration(value: str | dict[str, float]) -> str | dict[str, float]:
    """Lightning's two ways of writing one, longer than nothing."""
    units: dict[str, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", value.strip())
        units = (
            dict(zip(("days", "hours", "minutes", "seconds"), map(int, match.groups()), strict=True)) if match else {}
        )
    try:
        if timedelta(**units) > timedelta(0):
            return value
    except (TypeError, OverflowError):
        pass
    raise ValueError


def _whole(least: int, most: int = MOST) -> Any:
    return Annotated[int, Ge(least), Le(most)]


def _text(pattern: str, called: str) -> Any:
    return Annotated[str, Field(pattern=f"^(?:{pattern})$", description=called)]


Duration = Annotated[
    str | dict[str, float],
    AfterValidator(_duration),
    Field(description="a time above 0 (DD:HH:MM:SS, or such as {hours: 2, minutes: 30})"),
]
MINUS_ONE = Annotated[int, Ge(-1), Le(-1), Field(description="-1")]  # Literal[-1] takes -1.0 as well
Batches = _whole(1) | Annotated[float, Gt(0), Le(1)]  # so many, or a share of them
BOUNDS: dict[str, Any] = {  # of what Lightning's annotation alone leaves too wide
    "devices": _whole(1, 1024) | MINUS_ONE | Annotated[list[Annotated[int, Ge(0), Le(1023)]], Field(min_length=1)]
    | _text(r"auto|-1|\d{1,4}(,\d{1,4})*", "auto"),
    "num_nodes": _whole(1, 100_000),
    "fast_dev_run": bool | _whole(0),
    "max_epochs": _whole(1),
    "min_epochs": _whole(0) | None,
    "max_steps": MINUS_ONE | _whole(1),
    "min_steps": _whole(0) | None,
    "max_time": Duration | None,
    "limit_train_batches": Batches | None,
    "limit_val_batches": Batches | None,
    "limit_test_batches": Batches | None,
    "limit_predict_batches": Batches | None,
    "overfit_batches": _whole(0) | Annotated[float, Ge(0), Le(1)],
    "val_check_interval": Batches | Duration | None,
    "check_val_every_n_epoch": Annotated[int, Ge(1), Le(1), Field(description="1")],
    "num_sanity_val_steps": _whole(-1) | None,
    "log_every_n_steps": _whole(0) | None,
    "accumulate_grad_batches": _whole(1),
    "gradient_clip_val": Annotated[float, Ge(0), Le(MOST)] | None,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "profiler": Literal["simple", "advanced", "pytorch", "xla"] | None,
    "reload_dataloaders_every_n_epochs": _whole(0),
}  # fmt: skip


@cache
def arguments() -> dict[str, Any]:
    """What each argument of Lightning's Trainer may be, as a type; the first call imports Lightning."""
    from lightning import Trainer
    from lightning.pytorch.accelerators import AcceleratorRegistry
    from lightning.pytorch.strategies import StrategyRegistry

    own = {name: p.annotation for name, p in inspect.signature(Trainer.__init__).parameters.items() if name != "self"}
    words = {
        "accelerator": ("auto", "gpu", *AcceleratorRegistry.available_accelerators()),
        "strategy": (
            "auto",
            *(name for name in StrategyRegistry.available_strategies() if not any(word in name for word in FORKED)),
        ),
    }
    named = {key: Annotated[str, one_of(known), Field(description=either(known))] for key, known in words.items()}
    return own | {key: kind for key, kind in {**BOUNDS, **named}.items() if key in own}


def trainer_problems(trainer: dict[str, Any]) -> list[str]:
    """A line for each value that Lightning's Trainer does not have, or that makes no sense here."""
    return [problem for key, value in trainer.items() if (problem := _problem(key, value)) is not None]


def _problem(key: str, value: Any) -> str | None:
    kinds, given = arguments(), f"trainer.{key}={shown(value)}"
    if key not in kinds:
        return no_such(f"trainer.{key}", value, list(kinds), "Lightning's Trainer has no such argument")
    if key in OWN:
        return f"{given}: this project sets it itself. Leave it out."
    if key == "precision":
        return None if str(value) in (*PRECISIONS, "32", "64") else (
            f"{given} is not supported: {', '.join(PRECISIONS)}. "
            "(Pure half precision loses the Grad-CAM map, which is computed in float32.)"
        )  # fmt: skip
    if key == "strategy" and any(word in str(value) for word in FORKED):
        return (
            f"{given}: a run that has begun cannot be copied into other processes. Take "
            "trainer.strategy=ddp, which starts each process by itself."
        )
    try:
        _adapter(key).validate_python(value)
    except ValidationError:
        return f"{given} must be {said(kinds[key])}. {WHY.get(key, '')}".rstrip()
    return None


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return TypeAdapter(arguments()[key], config=config)
