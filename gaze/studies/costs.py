"""What the mistakes of runs cost, from their ``predictions.csv`` and a ``costs.yaml``: one table for every study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gaze.config.costs import Costs
from gaze.errors import ConfigError, DataError
from gaze.report.words import estimate, number, with_sd
from gaze.report.write import TableItem
from gaze.runs.predictions import Predictions, read_predictions
from gaze.runs.run import Run
from gaze.statistics.costs import cheapest, image_costs, mean_costs
from gaze.statistics.intervals import Floats

DECISIONS = ("cost", "least", "change")  # of argmax, of the cheapest decision, and the second less the first
TITLES = ("cost", "cost, cheapest decision", "difference")
TITLE = "What do the mistakes cost?"
NOTES = (
    "On the test images, after the last epoch: mean cost of an image by argmax ± SD over runs [95 % bootstrap interval "
    "over images, or groups of them where there are any, the mean of these very runs]. The interval has other images, "
    "the SD other trainings; neither holds both.",
    "Cheapest: the prediction of least expected cost under the network's own probabilities (argmin), instead of the "
    "likeliest one. Nothing is chosen in it, so no test image has helped; it is only as good as the probabilities are "
    "calibrated, and can cost more than argmax. Decisions changed: the share of images that it predicts otherwise.",
)


class Priced(NamedTuple):
    """A run's test images, in order of their files' names (N).

    Attributes:
        costs: (3, N) by :data:`DECISIONS`.
        accuracy, changed: shares 0..1 of images, right by argmax and predicted otherwise by the cheapest decision.
    """

    files: tuple[str, ...]
    units: NDArray[np.int64]
    costs: Floats
    accuracy: float
    changed: float


def price_runs(runs: Mapping[str, Run], costs: Costs) -> dict[str, Priced]:
    """What the mistakes of each run cost; those without a whole ``predictions.csv`` are left out.

    Raises:
        ConfigError: the costs do not fit the classes; no run has predictions.
    """
    found = dict[str, Predictions]()
    for name, run in runs.items():
        try:
            own = read_predictions(run)
        except DataError:
            own = None
        if own is not None:
            found[name] = own
    if not found:
        raise ConfigError(
            f"costs={costs.path}: none of these runs has predictions: train.py leaves predictions.csv today. "
            "measure=true evaluates a checkpoint anew and leaves one."
        )
    costs.check(dict.fromkeys(own.classes for own in found.values()))
    return {name: _priced(own, costs.matrix(own.classes)) for name, own in found.items()}


def _priced(found: Predictions, costs: Floats) -> Priced:
    order = np.argsort(np.array(found.files, dtype=object), kind="stable")
    cheap = cheapest(found.probabilities, costs)
    argmax, least = (image_costs(found.truth, decision, costs) for decision in (found.prediction, cheap))
    units = np.unique(found.units[order], return_inverse=True)[1]
    right, changed = found.prediction == found.truth, cheap != found.prediction
    values = np.stack([argmax, least, least - argmax])[:, order]
    return Priced(tuple(found.files[i] for i in order), units, values, float(right.mean()), float(changed.mean()))


def cost_table(runs: pd.DataFrame, keys: Sequence[str], priced: Mapping[str, Priced]) -> pd.DataFrame:
    """A row an arm, or a run, those without a priced run left out.

    Args:
        runs: a row or more a run, with its name in ``run``.
        keys: columns that tell the arms apart.
        priced: of :func:`price_runs`.

    Returns:
        ``keys``, ``runs``, ``accuracy``, ``accuracy_sd``, ``changed`` and, for each of :data:`DECISIONS`, its mean, and
        with ``_low``, ``_high`` (over images; NaN where the runs have other images) and ``_sd`` (over runs) behind it.
    """
    rows = []
    for key, names in runs[runs["run"].isin(list(priced))].groupby(list(keys), sort=False)["run"]:
        found = [priced[name] for name in names.unique()]
        of_runs = np.array([own.costs.mean(1) for own in found])  # (R, 3)
        same = len({own.files for own in found}) == 1
        accuracy = pd.Series([own.accuracy for own in found])
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        row |= {"runs": len(found), "accuracy": accuracy.mean(), "accuracy_sd": accuracy.std()}
        row["changed"] = np.mean([own.changed for own in found])
        together = mean_costs(np.mean([own.costs for own in found], axis=0), found[0].units) if same else None
        for k, name in enumerate(DECISIONS):
            low, high = together[k][1:] if together else (np.nan, np.nan)
            sd = of_runs[:, k].std(ddof=1) if len(found) > 1 else np.nan
            row |= {name: of_runs[:, k].mean(), f"{name}_low": low, f"{name}_high": high, f"{name}_sd": sd}
        rows.append(row)
    return pd.DataFrame(rows)


def costs_item(table: pd.DataFrame, keys: Sequence[str], name: str, where: str, without: int = 0) -> TableItem:
    """Cost beside accuracy, a row an arm or run.

    Args:
        table: of :func:`cost_table`.
        keys: its columns that tell rows apart.
        name: of the files.
        where: study and data set in words.
        without: runs that have no predictions.
    """
    rows = []
    for row in table.to_dict("records"):
        shown: dict[str, str | None] = {key: _text(row[key]) for key in keys}
        shown |= {"runs": str(row["runs"]), "accuracy": with_sd(row["accuracy"], row["accuracy_sd"])}
        shown |= {title: _shown(row, decision) for decision, title in zip(DECISIONS, TITLES, strict=True)}
        rows.append({**shown, "decisions changed": f"{100 * row['changed']:.1f} %"})
    left = (f"{without} runs without predictions.csv, or with a damaged one, are left out.",) if without else ()
    return TableItem(name, f"{TITLE} {where}", table, pd.DataFrame(rows), (*NOTES, *left))


def with_cost(item: TableItem, table: pd.DataFrame, keys: Sequence[str]) -> TableItem:
    """An item with a column of what argmax's mistakes cost, by the texts in its columns ``keys``."""
    known = {tuple(_text(row[key]) for key in keys): _shown(row, "cost") for row in table.to_dict("records")}
    column: list[Any] = [known.get(row) for row in item.shown[list(keys)].itertuples(index=False, name=None)]
    return item._replace(shown=item.shown.assign(cost=column), notes=(*item.notes, f"Cost: {NOTES[0]}"))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(row: Mapping[Any, Any], decision: str) -> str | None:
    mean = with_sd(row[decision], row[f"{decision}_sd"])
    low, high = number(row[f"{decision}_low"]), number(row[f"{decision}_high"])
    return mean if mean is None or low is None else f"{mean} [{low}, {high}]"


def cost_finding(table: pd.DataFrame, keys: Sequence[str], where: str) -> str | None:
    """Which arm's mistakes cost least, and whether the cheapest decision saves anything; None without a cost."""
    known = table.dropna(subset="cost") if len(table) else table
    if known.empty:
        return None
    best, worst = (known.sort_values("cost").iloc[place].to_dict() for place in (0, -1))
    said = [
        f"{' '.join(_text(row[key]) if key == keys[0] else f'{key} {_text(row[key])}' for key in keys)}, "
        f"{estimate(row['cost'], row['cost_low'], row['cost_high'], 0)}"
        for row in (best, worst)
    ]
    most = f"; most: {said[1]}" if len(known) > 1 else ""
    saved = int((known["change_high"] < 0).sum())
    return (
        f"What do the mistakes cost an image, {where}? Least: {said[0]}{most}. The cheapest decision costs less than "
        f"argmax, its interval below 0, in {saved} of {len(known)}."
    )
