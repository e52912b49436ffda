"""What Hydra composes for each run of a grid. Runs that differ in plain values alone share one composition, in which
these values are replaced: a hundredth of the time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.grammar_parser import parse

from gaze.config.train import plain

PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Composer:
    """Folder and settings of one run of a grid after the other, equal to what Hydra's own composition of each gives.

    A composition is shared by runs with the same overrides but for the values of :func:`_is_plain` ones that stand in
    it as they were given. Where the settings hold an interpolation, each run is composed by itself.

    Args:
        loader: Hydra's.
        config: that of the whole grid.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self._parsed = cache(OverridesParser.create(loader).parse_override)
        self._is_plain = cache(lambda word: _is_plain(self._parsed(word)))
        self._shared: dict[tuple[str, ...], _Shared | None] = {}
        self._groups = set(map(str, config.hydra.runtime.choices))
        self._other: set[str] = set()  # keys that look plain and are not

    def run(self, words: Sequence[str]) -> tuple[Path, dict[str, Any]]:
        """Folder and settings of the run with the overrides ``words``.

        Raises:
            ConfigError: an interpolation that leads nowhere, a value that is missing.
        """
        overrides = [self._parsed(word) for word in words]
        replaced = self._plain(overrides)
        shape = _shape(overrides, replaced)
        if shape not in self._shared:
            composed = self.loader.load_sweep_config(self.config, list(words))
            own = _Shared(composed, overrides) if _is_whole(composed) else None
            self._other |= own.strange(replaced) if own else set()
            replaced = self._plain(overrides)
            shape = _shape(overrides, replaced)
            self._shared[shape] = own
            if own is None:
                return _folder_and_settings(composed)
        shared = self._shared[shape]
        if shared is None:
            return _folder_and_settings(self.loader.load_sweep_config(self.config, list(words)))
        OmegaConf.copy_cache(from_config=self.config, to_config=shared.config)
        return shared.run(overrides, replaced)

    def _plain(self, overrides: Sequence[Override]) -> dict[str, Override]:
        """Plain overrides that no other one of the run overlaps with, by key."""
        values = [o for o in overrides if o.key_or_group not in self._groups or isinstance(o.value(), dict)]
        alone = _alone(tuple(override.key_or_group for override in values)) - self._other
        return {o.key_or_group: o for o in values if o.key_or_group in alone and self._is_plain(o.input_line)}


@cache
def _alone(keys: tuple[str, ...]) -> frozenset[str]:
    """Those of ``keys`` that occur once, and neither hold another one nor stand in one."""
    dotted = [f"{key}." for key in keys]
    return frozenset(
        key for key, own in zip(keys, dotted, strict=True)
        if sum(own.startswith(other) or other.startswith(own) for other in dotted) == 1
    )  # fmt: skip


def _shape(overrides: Sequence[Override], replaced: dict[str, Override]) -> tuple[str, ...]:
    """What runs of one composition have in common."""
    return tuple(
        f"{override.type} {override.key_or_group}" if override.key_or_group in replaced else str(override.input_line)
        for override in overrides
    )


class _Shared:
    """A composition, and where in it values are replaced."""

    def __init__(self, config: DictConfig, overrides: Sequence[Override]) -> None:
        self.config, self.values, self.now = config, _unresolved(config), {str(o.key_or_group): o for o in overrides}
        task = [override.key_or_group for override in overrides if not override.is_hydra_override()]
        self.places = {key: place for place, key in enumerate(task)}
        self.parents: dict[str, Any] = {}
        hydra = config.hydra
        self.task, self.job, self.sweep = hydra.overrides.task, hydra.job, hydra.sweep
        names = hydra.job.config.override_dirname
        self.dirname = partial(
            get_overrides_dirname,
            exclude_keys=list(names.exclude_keys), item_sep=names.item_sep, kv_sep=names.kv_sep,
        )  # fmt: skip
        raw = OmegaConf.to_container(hydra.sweep, resolve=False)
        assert isinstance(raw, dict)
        self.trees = {key: parse(raw[key]) for key in ("dir", "subdir") if "${" in raw[key]}

    def strange(self, overrides: dict[str, Override]) -> set[str]:
        """Keys under which something else stands than the value given: the choice of a group, for example."""
        found, choices = set(), self.config.hydra.runtime.choices
        for key, override in overrides.items():
            *parents, name = key.split(".")
            there: Any = self.values
            for part in parents:
                there = there.get(part) if isinstance(there, dict) else None
            known = isinstance(there, dict) and name in there and key not in choices
            if known and repr(there[name]) == repr(override.value()):
                self.parents[key] = OmegaConf.select(self.config, ".".join(parents)) if parents else self.config
            else:
                found.add(key)
        return found

    def run(self, overrides: Sequence[Override], replaced: dict[str, Override]) -> tuple[Path, dict[str, Any]]:
        """Folder and settings with other values."""
        for key, override in replaced.items():
            if override is not self.now[key]:
                self.now[key], value, path = override, override.value(), key.split(".")
                self.parents[key][path[-1]] = value
                self.task[self.places[key]] = override.input_line
                self.values = _with(self.values, path, value)
        self.job.override_dirname = self.dirname([own for own in overrides if not own.is_hydra_override()])
        return Path(self._name("dir")) / self._name("subdir"), self.values

    def _name(self, key: str) -> str:
        if key not in self.trees:
            return str(self.sweep[key])
        return str(self.sweep.resolve_parse_tree(self.trees[key], self.sweep._get_node(key), set(), key))


def _is_plain(override: Override) -> bool:
    """Whether it gives one setting a number, a text, true, false or null, with no interpolation in it."""
    if override.is_delete() or override.is_sweep_override() or override.is_hydra_override() or override.package:
        return False
    value = override.value()
    return (
        bool(PLACE.fullmatch(override.key_or_group))
        and (value is None or isinstance(value, bool | int | float | str))
        and not (isinstance(value, str) and ("${" in value or value == "???"))
    )


def _is_whole(config: DictConfig) -> bool:
    """Whether the settings are values, none of them an interpolation or missing."""
    return all("${" not in text and text != "???" for text in _texts(_unresolved(config)))


def _texts(values: Any) -> list[str]:
    if isinstance(values, dict | list):
        return [text for value in (values.values() if isinstance(values, dict) else values) for text in _texts(value)]
    return [values] if isinstance(values, str) else []


def _unresolved(config: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}


def _with(values: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with another value; what is not on the way to it is shared."""
    first, *rest = path
    return {**values, first: _with(values[first], rest, value) if rest else value}


def _folder_and_settings(config: DictConfig) -> tuple[Path, dict[str, Any]]:
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    settings = plain(own)  # before the folder: its errors are clear
    folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
    return folder, settings
