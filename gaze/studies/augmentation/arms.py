"""Which runs of an augmentation study belong to which arm, by their settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gaze.config.augmentation import AugmentationConfig

OFF = AugmentationConfig().model_dump()


def arm_names(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The arm of each run: the name of its augmentation, with what differs where one name has several settings.

    Args:
        configs: settings (config.json) by run.
    """
    own = {run: _settings(config) for run, config in configs.items()}
    alike: dict[str, set[str]] = {}
    for run, settings in own.items():
        alike.setdefault(_name(configs[run]), set()).add(json.dumps(settings, sort_keys=True))
    names = {}
    for run, settings in own.items():
        name = _name(configs[run])
        members = [json.loads(text) for text in alike[name]]
        differing = [key for key in OFF if len({json.dumps(member.get(key)) for member in members}) > 1]
        values = ", ".join(f"{key} {json.dumps(settings.get(key, OFF[key]))}" for key in differing)
        names[run] = f"{name} ({values})" if values else name
    return names


def arm_settings(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each arm does: its settings that are not off."""
    names = arm_names(configs)
    return {
        names[run]: {key: value for key, value in _settings(config).items() if value != OFF.get(key)}
        for run, config in configs.items()
    }


def augmentation_studies(configs: Mapping[str, Mapping[str, Any]], baseline: str) -> list[str]:
    """Studies that hold several augmentations side by side, ``baseline`` among them, in order of name."""
    arms: dict[str, set[str]] = {}
    for config in configs.values():
        arms.setdefault(str(config["study"]), set()).add(json.dumps(config.get("augmentation"), sort_keys=True))
    with_baseline = {str(config["study"]) for config in configs.values() if _name(config) == baseline}
    return sorted(study for study, found in arms.items() if len(found) > 1 and study in with_baseline)


def _name(config: Mapping[str, Any]) -> str:
    return str((config.get("augmentation") or OFF)["name"])


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**OFF, **(config.get("augmentation") or {})}.items() if key != "name"}
