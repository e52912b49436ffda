"""What every group of settings is: a pydantic model whose problems come as one error, a line each."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticKnownError

from gaze.choices import did_you_mean, shown, unknown
from gaze.errors import ConfigError

MOST = 10**9  # of what is counted, where nothing else limits it
TYPES = {
    "int_type": "a whole number", "float_type": "a number", "bool_type": "true or false", "string_type": "text",
    "list_type": "a list", "dict_type": "a group of settings", "model_type": "a group of settings",
}  # fmt: skip


class Settings(BaseModel):
    """A group of settings. Neither true nor '3' is a number, and numbers are finite.

    Raises:
        ConfigError: names every setting that is unknown, of the wrong type or out of its range, a line each.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError("\n".join(_line(type(self), problem) for problem in error.errors())) from None

    # pydantic then makes inner groups without this __init__, so that the outermost one has the problems of all.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def one_of(known: Collection[str]) -> AfterValidator:
    """A word of ``known``, which may grow."""

    def check(value: str) -> str:
        if value not in known:
            raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, known))})
        return value

    return AfterValidator(check)


def _one_folder(name: str) -> str:
    if not name.strip() or Path(name).name != name or name == ".." or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name):
        raise ValueError("names a folder: give one name without a slash, in letters that can be printed")
    return name


FolderName = Annotated[str, AfterValidator(_one_folder)]


def no_such(
    setting: str, value: Any, known: Collection[str], what: str = "there is no such setting", elsewhere: str = ""
) -> str:
    """Message for a setting that is not there, with the nearest of those that are."""
    near = f"Did you mean {elsewhere}?" if elsewhere else did_you_mean(setting.rpartition(".")[2], known)
    hint = near or f"Known: {', '.join(sorted(known))}."
    return f"{setting}={shown(value)}: {what}. {hint}".rstrip()


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _elsewhere(model: type[BaseModel], name: str) -> str:
    """A setting of one of the model's groups that is called so, such as dataset.image_size; "" where none is."""
    last = name.rpartition(".")[2]
    groups: dict[str, Any] = {field.alias or key: field.annotation for key, field in model.model_fields.items()}
    found = (f"{key}.{last}" for key, kind in groups.items() if _is_group(kind) and last in kind.model_fields)
    return next(found, "")


def _line(model: type[BaseModel], problem: ErrorDetails) -> str:
    """``gaze.ema_decay=1.5 must be less than 1.``"""
    known: dict[Any, Any] = {}
    kind: Any = model
    for part in problem["loc"]:
        if _is_group(kind):
            known = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
            kind = known.get(part)
    name = ".".join(part for part in problem["loc"] if isinstance(part, str))
    value, words = problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return no_such(name, value, known, elsewhere=_elsewhere(model, name))
        case "literal_error":
            return unknown(name, shown(value), words["expected"].replace(", ", " or ").replace("'", "").split(" or "))
        case "value_error" if _is_group(kind):  # of a whole group, which names its settings itself
            return str(words["error"])
        case "value_error":
            return f"{name}={shown(value)} {words['error']}."
        case "model_type" | "dict_type" if _is_group(kind):
            what = (kind.__doc__ or "").partition(": ")[2].strip(".\n ")
            own = ", ".join(f"{name}.{key}={shown(field.default)}" for key, field in kind.model_fields.items())
            return f"{name}={shown(value)} must be a group of settings, {what}. They are given one by one: {own}."
        case other:
            wanted = f"must be {TYPES[other]}" if other in TYPES else problem["msg"].replace("Input should", "must")
            return f"{name}={shown(value)} {wanted}{', or null' if type(None) in get_args(kind) else ''}."
