"""Which runs of a study belong to which arm, by their settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from gaze.choices import shown
from gaze.config.augmentation import AugmentationConfig
from gaze.config.train import TrainConfig
from gaze.runs.folder import flat_settings
from gaze.runs.run import Run

OFF = AugmentationConfig().model_dump()
PLAIN = "plain"
REMEDIES = (  # settings that may keep a network from a marker, or take it back
    "dataset.sampler", "dataset.marker.masked", "dataset.annotated", "dataset.guide_dir", "dfr", "lambda",
    "gaze.mask_weight", "gaze.mask_form", "loss.class_weights",
)  # fmt: skip


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


def setting_arms(runs: Iterable[Run]) -> dict[str, str]:
    """The arm of each run with a marker: its :data:`REMEDIES` that are not off; "plain" where all are."""
    off = flat_settings(TrainConfig().to_dict()) | {"dataset.marker.masked": False}
    flat = {run.name: flat_settings(run.settings.to_dict()) for run in runs}
    words = {
        name: [
            f"{key.rpartition('.')[2]} {shown(own[key])}".removesuffix(" true")
            for key in REMEDIES
            if own.get(key, off[key]) != off[key]
        ]
        for name, own in flat.items()
    }
    return {name: ", ".join(own) or PLAIN for name, own in words.items()}


def marker_studies(runs: Iterable[Run]) -> list[str]:
    """Studies all of whose images have markers, in several arms, plain runs among them, in order of name."""
    arms: dict[str, set[str]] = {}
    for run in runs:
        own = arms.setdefault(run.settings.study, set())
        own |= set(setting_arms([run]).values()) if run.dataset.marker else {""}
    return sorted(study for study, found in arms.items() if len(found) > 1 and PLAIN in found and "" not in found)
