"""Which runs of an augmentation study belong to which arm, by their settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from gaze.config.augmentation import AugmentationConfig
from gaze.runs.run import Run

OFF = AugmentationConfig().model_dump()


def arm_names(runs: Iterable[Run]) -> dict[str, str]:
    """The arm of each run: the name of its augmentation, with what differs where one name has several settings."""
    own = {run.name: run.settings.augmentation.model_dump() for run in runs}
    names = {}
    for run, settings in own.items():
        alike = [other for other in own.values() if other["name"] == settings["name"]]
        several = [key for key in OFF if len({json.dumps(other[key]) for other in alike}) > 1]
        values = ", ".join(f"{key} {json.dumps(settings[key])}" for key in several)
        names[run] = f"{settings['name']} ({values})" if values else settings["name"]
    return names


def arm_settings(runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
    """What each arm does: its settings that are not off."""
    own, runs = {}, list(runs)
    names = arm_names(runs)
    for run in runs:
        settings = run.settings.augmentation.model_dump()
        own[names[run.name]] = {key: settings[key] for key in OFF if key != "name" and settings[key] != OFF[key]}
    return own


def augmentation_studies(runs: Iterable[Run], baseline: str) -> list[str]:
    """Studies that hold several augmentations side by side, ``baseline`` among them, in order of name."""
    arms: dict[str, set[str]] = {}
    named: dict[str, set[str]] = {}
    for run in runs:
        arms.setdefault(run.settings.study, set()).add(repr(run.settings.augmentation))
        named.setdefault(run.settings.study, set()).add(run.settings.augmentation.name)
    return sorted(study for study, found in arms.items() if len(found) > 1 and baseline in named[study])
