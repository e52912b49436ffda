"""The thesis's published results as data, to lay beside one's own.

Source of all: K. Yonemura's thesis (NIT Ariake College, 2026) and the runs published with it. The gaze consistency
in them is the ``l2`` form, (1/H'W') ||.||_2 without the square, over classes of at least 2 correct images; Grad-CAM's
alpha was held constant. The form scales as 1/sqrt(H'W'): compare level 1 (112x112 maps) with itself only.
Evaluated on the test folder, which the learning rate's schedule saw too; 217 of the Brain Tumor set's test images are
pixel-identical to a training image (216 by this project's own count).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd

from gaze.choices import SOURCES
from gaze.runs.run import Run
from gaze.runs.tidy import run_keys

Row = TypeVar("Row")
DATASETS = ("brain_tumor_mri", "chest_xray")
STUDY1_EPOCH, STUDY2_EPOCH = 20, 50
# How the published runs were trained, as far as it changes their figures, and how a difference is said.
PROTOCOL: dict[str, tuple[Any, str]] = {
    "dataset.image_size": (224, "{} px"), "dataset.train_images": (None, "{} training images"),
    "dataset.test_images": (None, "{} test images"), "dataset.on_leak": ("warn", "leaks: {}"),
    "dataset.batch_size": (32, "batches of {}"), "augmentation.name": ("thesis", "augmentation {}"),
    "optimizer.target": ("torch.optim.Adam", "{}"),
    "scheduler.target": ("torch.optim.lr_scheduler.ReduceLROnPlateau", "{}"),
    "optimizer.lr": (1e-4, "lr {:g}"), "optimizer.weight_decay": (0.0, "weight decay {:g}"),
    "scheduler.factor": (0.1, "scheduler's factor {:g}"), "scheduler.patience": (5, "patience {}"),
    "gaze.method": ("grad_cam", "{}"), "trainer.precision": ("32-true", "{}"),
    "dataset.validation": ("test", "on validation images"),
}  # fmt: skip
# The same of the gaze loss, which runs at lambda = 0 do not have.
LOSS: dict[str, tuple[Any, str]] = {
    "gaze.distance": ("l2", "{} form"), "gaze.second_order": (False, "second order"),
    "gaze.reference": ("ema", "reference {}"), "gaze.ema_decay": (0.9, "EMA decay {:g}"),
    "gaze.start_epoch": (2, "lambda from epoch {}"), "gaze.end_epoch": (10, "lambda whole at epoch {}"),
}  # fmt: skip
UNKNOWN = (
    "How these runs were trained is not known from a CSV: whether they compare with the published ones was judged by "
    "the number of their epochs alone."
)
Beside = Mapping[tuple[str, float], str]  # (model, lambda): what differs
LAMBDAS = (-100.0, 0.0, 50.0, 100.0, 500.0)

# As printed: rows are level 1 to 5; in a row Brain Tumor MRI, then Chest X-Ray.
_PEARSON = (
    (0.735, -0.5587),
    (-0.6263, -0.5901),
    (-0.4495, -0.0956),
    (-0.6669, 0.0062),
    (-0.6309, -0.325),
)
_STUDY1 = (  # accuracy in %, kappa, L_CAM
    ((55.2, 0.402, 0.0019), (59.8, -0.009, 0.0021)),
    ((81.3, 0.748, 0.0069), (82.2, 0.593, 0.0062)),
    ((88.2, 0.842, 0.0067), (84.3, 0.634, 0.0067)),
    ((83.3, 0.775, 0.0069), (84.0, 0.627, 0.0062)),
    ((95.5, 0.940, 0.0064), (83.8, 0.621, 0.0067)),
)
_STUDY2 = (  # accuracy in %, one value for each of LAMBDAS
    ((58.0, 57.1, 56.8, 57.3, 43.8), (61.0, 61.9, 60.7, 62.3, 62.5)),
    ((83.3, 91.0, 89.4, 90.5, 88.6), (81.5, 83.1, 83.5, 82.8, 74.1)),
    ((90.6, 95.2, 97.5, 96.7, 90.2), (87.1, 85.0, 85.8, 82.8, 81.9)),
    ((84.5, 90.5, 89.7, 90.0, 87.1), (83.6, 84.8, 83.8, 84.4, 84.2)),
    ((93.2, 99.3, 99.5, 99.4, 98.0), (87.4, 85.7, 83.3, 84.1, 81.6)),
)


def differences(runs: pd.DataFrame, used: Mapping[str, Run], epochs: int) -> dict[tuple[str, float], str]:
    """What sets runs apart from the published ones, such as ``20 epochs, 64 px``; "" where nothing does.

    Args:
        runs: tidy frame of one study and data set.
        used: the runs with their settings, by the frame's ``run``; of a CSV there are none, and the epochs alone count.
        epochs: of the published study.

    Returns:
        By (model, lambda); values that differ within a cell stand side by side, ``20 epochs or 30 epochs``.
    """
    last = runs.groupby(run_keys(runs), as_index=False)["epoch"].max()
    found = {}
    for _, cell in last.groupby(["model", "lambda"]):
        model, weight = str(cell["model"].iloc[0]), float(cell["lambda"].iloc[0])
        settings = [_settings(used[name]) for name in cell["run"] if name in used]
        said = [_unlike(sorted(set(cell["epoch"])), epochs, "{} epochs")]
        for name, (value, form) in {**PROTOCOL, **(LOSS if weight else {})}.items():
            said.append(_unlike([own.get(name, value) for own in settings], value, form))
        found[model, weight] = ", ".join(filter(None, said))
    return found


def _settings(run: Run) -> dict[str, Any]:
    """Those of PROTOCOL and LOSS that are of this run: its source may not read one."""
    source, own = SOURCES[run.settings.dataset.kind], {"trainer.precision": run.precision}
    usual = {**PROTOCOL, **LOSS}
    for name in usual:
        group, _, key = name.partition(".")
        if group != "trainer" and (group != "dataset" or source.reads(key)):
            own[name] = getattr(getattr(run.settings, group), key, usual[name][0])  # cosine has no patience
    return own


def _unlike(values: Sequence[Any], published: Any, form: str) -> str:
    """In words, if not all of the values are the published one."""
    if all(value == published for value in values):
        return ""
    return " or ".join(dict.fromkeys(form.format("all" if value is None else value) for value in values))


def published_pearson() -> pd.DataFrame:
    """Table 2: does the gaze's consistency follow kappa? lambda = 0.

    Pearson's r of kappa and L_CAM (``l2``) across the 20 epochs of a run, then the mean of r over 6 seeds. L_CAM is
    lower where gazes are alike, so r < 0 means: the better the kappa, the more consistent the gaze.

    Returns:
        Columns dataset, model, r (-1..1). A row per data set and level, 10 in all.
    """
    return _frame([(d, m, row[i]) for i, d in enumerate(DATASETS) for m, row in _levels(_PEARSON)], ["r"])


def published_study1() -> pd.DataFrame:
    """Study 1: plain training (lambda = 0), epoch 20, mean of 6 seeds. Not in the thesis's text: read off its runs.

    Returns:
        Columns dataset, model, accuracy (0..1), kappa (-1..1), gaze_consistency_l2 (L_CAM, 0..1/sqrt(H'W'), lower is
        more consistent). A row per data set and level, 10 in all.
    """
    rows = [(d, m, _fraction(row[i][0]), *row[i][1:]) for i, d in enumerate(DATASETS) for m, row in _levels(_STUDY1)]
    return _frame(rows, ["accuracy", "kappa", "gaze_consistency_l2"])


def published_study2() -> pd.DataFrame:
    """Study 2: training with the gaze loss (``l2`` form), accuracy over the last 5 of 50 epochs, 1 run each.

    Not in the thesis's text: read off its runs. lambda belongs to the ``l2`` form; with the squared form (Eq. 9) the
    same lambda is a different strength. One run each: differences have no known error.

    Returns:
        Columns dataset, model, lambda, accuracy (0..1). A row per data set, level and lambda, 50 in all.
    """
    rows = [
        (d, m, weight, _fraction(percent))
        for i, d in enumerate(DATASETS)
        for m, row in _levels(_STUDY2)
        for weight, percent in zip(LAMBDAS, row[i], strict=True)
    ]
    return _frame(rows, ["lambda", "accuracy"])


def _levels(table: Sequence[Row]) -> list[tuple[str, Row]]:
    return [(f"level{number}", row) for number, row in enumerate(table, 1)]


def _fraction(percent: float) -> float:
    return round(percent / 100, 3)  # printed with one decimal; the rounding takes away 0.8329999...


def _frame(rows: Sequence[tuple[object, ...]], values: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["dataset", "model", *values])
