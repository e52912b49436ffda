"""What every group of settings is: a pydantic model whose problems come as one error, a line each."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticKnownError

from gaze.choices import did_you_mean, either, shown, unknown
from gaze.errors import ConfigError

MOST = 10**9  # of what is counted, where nothing else limits it
TYPES = {
    "bool_type": "true or false", "string_type": "text", "list_type": "a list", "dict_type": "a group of settings",
    "model_type": "a group of settings",
}  # fmt: skip
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
LIMITS = ((Ge, "ge", "from"), (Gt, "gt", "above"), (Le, "le", "to"), (Lt, "lt", "to below"))


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
    """``gaze.ema_decay=1.5 must be a number from 0 to below 1.``"""
    known: dict[Any, Any] = {}
    kind: Any = model
    for part in problem["loc"]:
        group = next((own for own in (kind, *get_args(kind)) if _is_group(own)), None)  # or null
        if group is not None:
            known = {field.alias or name: _kind(field) for name, field in group.model_fields.items()}
            kind = known.get(part)
        else:  # of a list or of a dict's values
            kind = next((get_args(k)[-1] for k in [kind, *get_args(kind)] if get_origin(k) in (list, dict)), None)
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
            own = ", ".join(f"{name}.{f.alias or key}={shown(f.default)}" for key, f in kind.model_fields.items())
            return f"{name}={shown(value)} must be a group of settings, {what}. They are given one by one: {own}."
        case other if other.startswith(("int_", "float_", "finite_", "greater_", "less_")):
            allowed = said(kind)
            if other.startswith("finite_"):
                allowed = allowed.replace("a number", "a finite number")
            return f"{name}={shown(value)} must be {allowed}."
        case other:
            wanted = f"must be {TYPES[other]}" if other in TYPES else problem["msg"].replace("Input should", "must")
            return f"{name}={shown(value)} {wanted}{', or null' if NoneType in get_args(kind) else ''}."


def _kind(field: FieldInfo) -> Any:
    """A field's type with its bounds, of which null has none."""
    parts = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
    bounded = [part if part is NoneType else Annotated[part, *field.metadata] for part in parts if field.metadata]
    return Union[*bounded] if bounded else field.annotation


def said(kind: Any) -> str:
    """A type with its bounds in words: ``a whole number from 1 to 1000, or null``."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        words = [said(part) for part in parts if part is not NoneType]
        return ", or ".join([*dict.fromkeys(words), *(["null"] if NoneType in parts else [])])
    if get_origin(kind) is Literal:
        return either(shown(word) for word in parts)
    if get_origin(kind) is list:
        return f"a list, each {said(parts[0])}"
    if get_origin(kind) is not Annotated:
        return WORDS.get(kind, str(getattr(kind, "__name__", kind)))
    described = next((m.description for m in parts[1:] if isinstance(m, FieldInfo) and m.description), None)
    bounds = [bound for m in parts[1:] for bound in (m.metadata if isinstance(m, FieldInfo) else [m])]
    limits = [f"{word} {getattr(b, name)}" for b in bounds for limit, name, word in LIMITS if isinstance(b, limit)]
    return described or " ".join([said(parts[0]), *limits])
