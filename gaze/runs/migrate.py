"""Settings of earlier states of this project under today's names: run folders and checkpoints live on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gaze.choices import SOURCES


def migrate(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as today's models take them; what is missing has its default there.

    Args:
        values: a run's ``config.json``, or groups of it as a checkpoint has them, of any state of main.
    """
    values = dict(values)
    optimizer = values.get("optimizer")
    if isinstance(optimizer, Mapping) and {"plateau_factor", "plateau_patience"} <= optimizer.keys():
        values["optimizer"] = {key: value for key, value in optimizer.items() if not key.startswith("plateau_")}
        values["scheduler"] = {"factor": optimizer["plateau_factor"], "patience": optimizer["plateau_patience"]}
    scheduler = values.get("scheduler")
    if isinstance(scheduler, Mapping) and "_target_" not in scheduler:  # then plateau was the only name
        values["scheduler"] = {key: value for key, value in scheduler.items() if (key, value) != ("name", "plateau")}
    dataset = values.get("dataset")
    if isinstance(dataset, Mapping) and "window" not in dataset:  # then 0..65535 became 0..255, and nothing was turned
        dataset = values["dataset"] = {"window": None, "orient": None, **dataset}
    if isinstance(dataset, Mapping) and isinstance(dataset.get("drop_leaked", ""), bool | None):
        values["dataset"] = {key: value for key, value in dataset.items() if key != "drop_leaked"}
        values["dataset"]["on_leak"] = "drop" if dataset["drop_leaked"] else "warn"
        if dataset.get("kind") != "phantom":  # the numbers were the phantom's and counted for nothing
            values["dataset"] |= {"train_images": None, "test_images": None}
    source = SOURCES.get(str(dataset.get("kind", "phantom"))) if isinstance(dataset, Mapping) else None
    if source is not None:  # what counted for nothing
        values["dataset"] = {key: value for key, value in values["dataset"].items() if source.reads(key)}
    return values
