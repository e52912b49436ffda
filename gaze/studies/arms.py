"""Which runs of an augmentation study belong to which arm, by their settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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


def arm_settings(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """What each arm does: its settings that are not off."""
    given = {run.name: run.settings.augmentation.model_dump() for run in runs}
    return {
        arm: {key: given[run][key] for key in OFF if key != "name" and given[run][key] != OFF[key]}
        for run, arm in arm_names(runs).items()
    }


def augmentation_studies(runs: Iterable[Run], baseline: str) -> list[str]:
    """Studies that hold several augmentations side by side, ``baseline`` among them, in order of name."""
    arms: dict[str, dict[str, str]] = {}
    for run in runs:
        augmentation = run.settings.augmentation
        arms.setdefault(run.settings.study, {})[repr(augmentation)] = augmentation.name
    return sorted(study for study, found in arms.items() if len(found) > 1 and baseline in found.values())
