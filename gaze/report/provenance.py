"""What a report was made from: the command, versions, and what the runs say of themselves."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import pandas as pd

import gaze
from gaze.config.analysis import AnalyzeConfig
from gaze.names import printable
from gaze.report.write import TableItem
from gaze.runs.folder import flat_settings
from gaze.runs.load import Runs
from gaze.runs.run import Run

PACKAGES = ("pandas", "numpy", "scipy", "matplotlib", "jinja2", "tabulate")
SETTINGS_SHOWN = 400  # runs whose settings the report repeats in full; the run folders have them all


def provenance(config: AnalyzeConfig, runs: Runs) -> dict[str, Any]:
    """What the report was made from: command, versions, and what the runs say of themselves."""
    same, differing = _common(runs.used.values())
    facts: dict[str, Any] = {**origin(config), "source": config.source}
    environments = [run.environment for run in runs.used.values()]
    if any(environments):
        facts["made by"] = _made_by(filter(None, environments))
    if same:
        facts["settings that all runs share"] = same
        facts["settings that differ"] = dict(list(differing.items())[:SETTINGS_SHOWN])
    return facts


def origin(config: AnalyzeConfig) -> dict[str, Any]:
    """Command and versions."""
    packages = (*PACKAGES, *(("torch", "torchvision") if config.check or config.explain else ()))
    versions = {"python": platform.python_version(), "gaze": gaze.__version__}
    return {
        "command": printable(" ".join(["analyze.py", *sys.argv[1:]])),
        "analysis": {**versions, **{name: version(name) for name in packages}},
    }


def _made_by(environments: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Versions, devices and commits of the runs, each value once."""
    seen: dict[str, set[str]] = {}
    for environment in environments:
        for key in ("python", "device", "commit"):
            seen.setdefault(key, set()).add(str(environment.get(key)))
        for package, number in (environment.get("packages") or {}).items():
            seen.setdefault(package, set()).add(str(number))
    return {key: sorted(values) for key, values in seen.items()}


def _common(runs: Iterable[Run]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings that all runs share, and for each run the others."""
    flat = {run.name: flat_settings(run.settings.to_dict()) for run in runs}
    if not flat:
        return {}, {}
    first = next(iter(flat.values()))
    same = {name: value for name, value in first.items() if all(f.get(name) == value for f in flat.values())}
    return same, {run: {k: v for k, v in f.items() if k not in same} for run, f in flat.items()}


def left_out_item(listing: pd.DataFrame) -> TableItem | None:
    """Runs that were found and not used, and why; None where there is none."""
    left = listing[~listing["used"]]
    if left.empty:
        return None
    notes = ("include=[unfinished,failed,duplicate] takes them all the same.",)
    return TableItem("left_out", "Runs that were left out", left, left[["run", "state", "reason"]].astype(str), notes)
