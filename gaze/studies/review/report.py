"""What comes of a review: how often the gaze is right, whether people agree, which number stands for their eye; and
what they drew, as masks that a training can take.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from gaze.config.analysis import AnalyzeConfig
from gaze.config.words import quoted
from gaze.consistency.deviation import map_entropy
from gaze.data.annotations import COCO, MASKS, Shape, image_size, said, write_coco, write_masks
from gaze.data.datasets import ImageData, Split
from gaze.errors import DataError
from gaze.files import check_links, read_bytes_of, write_csv
from gaze.metrics.lesion import mask_lift
from gaze.report.provenance import origin
from gaze.report.words import each, estimate
from gaze.report.write import Section, TableItem, write_report
from gaze.runs.predictions import Predictions, read_predictions, write_rows
from gaze.runs.run import Run, run_in
from gaze.statistics.agreement import (
    answers_matrix,
    cohen_kappa,
    crossed_weights,
    krippendorff_alpha,
    mutual_auroc,
    share,
)
from gaze.statistics.bootstrap import interval, resampling_weights
from gaze.statistics.classification import auroc
from gaze.statistics.intervals import Floats
from gaze.studies.opened import Opened, images_at_hand, open_run
from gaze.studies.review import store
from gaze.studies.review.shown import predicted
from gaze.terminal import say

DRAWS = 2000
COMMAND = "To train on them: "
# Settings of a run that one guided by what was drawn has, too: not where it goes, whom it trusts, what else guides it.
WORD = re.compile(
    r"(~|\+{0,2})(?!(hydra|trust|resume|rerun|gaze\.mask_weight|dataset\.(guide_dir|annotated))\b)[\w./]+(=|$)"
)
LABELS, TRUE, ANSWERS = "labels.csv", "true_masks", "answers.csv"
GUIDES = "They guide training images of the same set: its test images and their masks stay as they are."
TAUGHT = (
    "In labels.csv these images, and all of their groups, have left the test part for the training part: later runs "
    "are tested on the others, so compare them with runs on the same table."
)
RIGHT = ("wrong", "right", "unsure")  # codes 0, 1, 2
NUMBERS = {  # what they are called, and the sign that makes more of it better
    "gaze_deviation": ("deviation from the class's gaze", -1),
    "energy_in_mask": ("energy in mask", 1),
    "lift": ("lift in mask", 1),  # of the map, looked at again
    "map_entropy": ("entropy of the map", -1),
    "confidence": ("confidence", 1),
    "entropy": ("entropy of the probabilities", -1),
}
SHARES = (
    "Share right: of the answers right and wrong, those that say right; unsure ones stand beside. 95 % bootstrap "
    "intervals over images and, each drawn by itself, over reviewers (Owen 2007); repeated showings are left out. In "
    "simulations with 60 images and reviewers who differ by half a logit they held the truth in 91 % of studies with "
    "two reviewers, 92 % with three and 97 % with eight; intervals over images alone in 72 to 80 %."
)
ALONE = "One reviewer: the intervals are over images alone and say nothing of what others would have answered."
AGREEMENT = (
    "Within a reviewer: images that were shown twice. Between: images that two or more judged; Krippendorff's alpha "
    "takes any number of reviewers, Cohen's kappa two. Right, wrong and unsure are three answers; 1 is full "
    "agreement, 0 that of chance. 95 % bootstrap intervals over images."
)
EYE = (
    "AUROC: the share of pairs of an answer right and one wrong in which the number is the better one, 0.5 for one "
    "that knows nothing of a person's eye. The ceiling is what two people reach: one reviewer's answers scored against "
    "another's, on the images that both judged. Intervals as above, the ceiling's over images."
)


def judged(answers: pd.DataFrame) -> pd.DataFrame:
    """Answers that count, with numbers in place of images (``image``) and reviewers (``who``) and a ``code`` by
    :data:`RIGHT`; of two arms "better" is 1 where it is the first one.

    Raises:
        DataError: there is none.
    """
    found = answers[answers["counts"]].reset_index(drop=True)
    if found.empty:
        raise DataError("Nobody has answered yet: there is nothing to report.")
    images, who = (pd.factorize(found[name])[0] for name in ("place", "reviewer"))
    code = found["verdict"].map({name: k for k, name in enumerate(RIGHT)})
    first = found.loc[found["verdict"] == "better", "arm"]
    code = code.fillna((found["arm"] == (sorted(first)[0] if len(first) else "")).astype(int))
    return found.assign(image=images, who=who, code=code.astype(int))


def share_table(found: pd.DataFrame, correct: Mapping[str, bool]) -> pd.DataFrame:
    """Share right by class, and by whether the prediction is correct.

    Args:
        found: of :func:`judged`.
        correct: by file; empty where that is not known.

    Returns:
        ``of``, ``which``, ``answers``, ``images``, ``share``, ``low``, ``high``, ``unsure`` (share of all answers).
    """
    found = found[~found["repeat"]].reset_index(drop=True)
    sides = found["file"].map(correct).map({True: "correct", False: "wrong"})
    wholes = [("all", "", np.ones(len(found), bool))]
    wholes += [("class", name, (found["truth"] == name).to_numpy()) for name in sorted(found["truth"].unique())]
    wholes += [("prediction", name, (sides == name).to_numpy()) for name in ("correct", "wrong")]
    weights = crossed_weights(found["image"].to_numpy(), found["who"].to_numpy(), DRAWS)
    rows = []
    for of, which, own in wholes:
        sure = own & (found["code"] < 2).to_numpy()
        if own.any():
            code = found["code"].to_numpy()[sure] == 1
            low, high = interval(share(code, weights[:, sure])) if sure.any() else (np.nan, np.nan)
            value = float(code.mean()) if sure.any() else np.nan
            unsure = 1 - sure.sum() / own.sum()
            rows.append([of, which, int(own.sum()), found.loc[own, "image"].nunique(), value, low, high, unsure])
    return pd.DataFrame(rows, columns=["of", "which", "answers", "images", "share", "low", "high", "unsure"])


def agreement_table(found: pd.DataFrame) -> pd.DataFrame:
    """Within reviewers and between them: ``of``, ``measure``, ``images``, ``value``, ``low``, ``high``."""
    rows: list[list[Any]] = []

    def add(of: str, measure: str, number: int, statistic: Callable[..., Floats], of_images: Any) -> None:
        ones, drawn = (statistic(weights=weights[:, of_images]) for weights in _weights(int(found["image"].max()) + 1))
        rows.append([of, measure, number, float(ones[0]), *interval(drawn)])

    keys = ["reviewer", "who", "image"]
    both = found[~found["repeat"]].merge(found[found["repeat"]], on=keys, suffixes=("", "_again"))
    for name, own in [("all", both), *both.groupby("reviewer")]:
        if len(own) and (name != "all" or both["who"].nunique() > 1):
            first, second = own["code"].to_numpy(), own["code_again"].to_numpy()
            images = own["image"].to_numpy()
            of = f"within {name}" if name != "all" else "within reviewers"
            add(of, "share alike", len(set(images)), partial(share, first == second), images)
            add(of, "Cohen's kappa", len(set(images)), partial(cohen_kappa, first, second), images)
    once = found[~found["repeat"]]
    matrix = answers_matrix(*(once[name].to_numpy() for name in ("image", "who", "code")))
    common = (matrix >= 0).sum(1) > 1
    if common.any():
        places = np.arange(len(matrix))
        add("between reviewers", "Krippendorff's alpha", int(common.sum()), partial(krippendorff_alpha, matrix), places)
    names = found.drop_duplicates("who").sort_values("who")["reviewer"].tolist()
    for a, b in combinations(range(matrix.shape[1]), 2):
        images = np.flatnonzero((matrix[:, [a, b]] >= 0).all(1))
        if len(images):
            statistic = partial(cohen_kappa, matrix[images, a], matrix[images, b])
            add(f"{names[a]} and {names[b]}", "Cohen's kappa", len(images), statistic, images)
    return pd.DataFrame(rows, columns=["of", "measure", "images", "value", "low", "high"])


def eye_table(found: pd.DataFrame, numbers: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Which number stands for a person's eye: ``number``, ``answers``, ``auroc``, ``low``, ``high``; last the ceiling,
    NaN of one reviewer.

    Args:
        found: of :func:`judged`.
        numbers: by a name of :data:`NUMBERS`, by file.
    """
    found = found[~found["repeat"] & (found["code"] < 2)].reset_index(drop=True)
    rows: list[list[Any]] = []
    if found.empty:
        return pd.DataFrame(rows, columns=["number", "answers", "auroc", "low", "high"])
    weights = crossed_weights(found["image"].to_numpy(), found["who"].to_numpy(), DRAWS)
    for name in filter(numbers.__contains__, NUMBERS):
        title, sign = NUMBERS[name]
        scores = sign * found["file"].map(numbers[name]).to_numpy(np.float64)
        known, right = np.isfinite(scores), found["code"].to_numpy() == 1
        if known.any():
            both = np.vstack([np.ones(len(found)), weights])[:, known]
            areas = auroc(right[known], scores[known], np.ascontiguousarray(both.T))
            rows.append([title, int(known.sum()), float(areas[0]), *interval(areas[1:])])
    matrix = answers_matrix(*(found[name].to_numpy() for name in ("image", "who", "code")))
    ones, drawn = (mutual_auroc(matrix, own) for own in _weights(len(matrix)))
    rows.append(["what two people agree", int((matrix >= 0).sum()), float(ones[0]), *interval(drawn)])
    return pd.DataFrame(rows, columns=["number", "answers", "auroc", "low", "high"])


def _weights(images: int) -> tuple[Floats, Floats]:
    """Ones, and resamples of images."""
    place = np.arange(images)
    return np.ones((1, images)), resampling_weights(np.zeros(images, np.int64), place, DRAWS)


def numbers_of(found: Predictions) -> dict[str, dict[str, float]]:
    """Those of :data:`NUMBERS` that a run's predictions have, by file."""
    p = found.probabilities.astype(np.float64)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1)
    columns: dict[str, NDArray[Any] | None] = {
        "gaze_deviation": found.deviation, "energy_in_mask": found.energy, "confidence": p.max(1), "entropy": entropy,
    }  # fmt: skip
    return {name: dict(zip(found.files, v.tolist(), strict=True)) for name, v in columns.items() if v is not None}


def look_again(opened: Opened, split: Split, files: Collection[str]) -> dict[str, dict[str, float]]:
    """Those of :data:`NUMBERS` that take the maps of images, by file."""
    places = [i for i, path in enumerate(split.paths) if path in files]
    cam = torch.from_numpy(opened.look(split.images[places], split.targets[places]).cams)
    seen = cam.amax((1, 2)) > 0
    found = {"map_entropy": torch.where(seen, map_entropy(cam), torch.nan)}
    if split.masks is not None:
        mask = split.masks[places].float()
        found["lift"] = torch.where(seen & (mask.amax((1, 2, 3)) > 0), mask_lift(cam, mask), torch.nan)
    names = [split.paths[i] for i in places]
    return {name: dict(zip(names, values.tolist(), strict=True)) for name, values in found.items()}


def review_section(
    answers: pd.DataFrame, predictions: Predictions | None, looked: Mapping[str, Mapping[str, float]] | None = None
) -> Section:
    """Tables of a review.

    Args:
        answers: of ``gaze.studies.review.store.answers``.
        predictions: of the run that was judged; None where there are none, or two runs were compared.
        looked: further numbers of it, of :func:`look_again`.
    """
    found = judged(answers)
    correct, numbers = dict[str, bool](), dict[str, Mapping[str, float]](looked or {})
    if predictions is not None:
        correct = dict(zip(predictions.files, (predictions.truth == predictions.prediction).tolist(), strict=True))
        numbers |= numbers_of(predictions)
    reviewers, pair = found["reviewer"].nunique(), found["verdict"].eq("better").any()
    shares, agreement, eye = share_table(found, correct), agreement_table(found), eye_table(found, numbers)
    arms = sorted(found.loc[found["verdict"] == "better", "arm"].unique())
    title = f"How often does {arms[0]} look better?" if pair else "How often is the gaze right?"
    few = (ALONE,) if reviewers == 1 else ()
    items = [
        TableItem("review-shares", title, shares, _shares_shown(shares), (SHARES, *few)),
        TableItem("review-agreement", "Do people agree?", agreement, _shown(agreement, "value"), (AGREEMENT,)),
    ]
    if not pair:
        no_ceiling = ("One reviewer: there is no ceiling.",) if reviewers == 1 else ()
        caption = "Which number stands for a person's eye?"
        items.append(TableItem("review-eye", caption, eye, _shown(eye, "auroc"), (EYE, *no_ceiling)))
    counted = f"{len(found)} answers of {reviewers} reviewers on {found['image'].nunique()} images."
    return Section("What experts say of the gaze", (counted,), tuple(item for item in items if len(item.shown)))


def _shares_shown(table: pd.DataFrame) -> pd.DataFrame:
    shown = _shown(table, "share").rename(columns={"share": "share right"})
    return shown.assign(unsure=[f"{100 * value:.0f} %" for value in table["unsure"]])


def _shown(table: pd.DataFrame, value: str) -> pd.DataFrame:
    ends = zip(table[value], table["low"], table["high"], strict=True)
    cells: list[Any] = [estimate(v, low, high, 0, 2) for v, low, high in ends]
    return table.drop(columns=["low", "high"]).astype(object).assign(**{value: cells}).astype({value: object})


def run_report(config: AnalyzeConfig, directory: Path, console: Console) -> list[Path]:
    """``review=RUN review.report=true``: tables, ``answers.csv``, and what was drawn as masks, COCO and a table.

    Returns:
        Paths written; masks and images apart.

    Raises:
        GazeError: no answers, or images that are not those of the run.
    """
    assert config.review.run is not None
    run = run_in(Path(config.review.run))
    file = Path(config.review.file).expanduser() if config.review.file is not None else run.review_file
    given, titles = store.answers(file), store.arms(file)
    if run.title not in titles:
        raise DataError(f"{file} is a review of {' and '.join(titles)}, not of {run.title}.")
    data, files = images_at_hand(run.dataset, partial(say, console)).data, set(given["file"])
    part = "train" if files and files <= set(data.train.paths) else "test"
    found, looked = None, dict[str, dict[str, float]]()
    if len(titles) == 1:
        found = read_predictions(run) if part == "test" else None
        if run.checkpoint().exists():
            opened = open_run(run.folder, config.compare.model_copy(update={"checkpoint": "last"}), config.trust)
            looked = look_again(opened, getattr(data, part), files)
            found = predicted(opened, data.train) if part == "train" else found
    section = review_section(given, found, looked)
    check_links(directory, MASKS, "images", TRUE, COCO, LABELS, ANSWERS)
    texts, written = list(section.text), []
    if len(drawn_shapes(given)):
        masks, left = export(given, run, data, directory, part)
        what = TAUGHT if part == "test" else GUIDES
        texts.append(f"{masks} images have a mask of what was drawn{f'; left out: {left}' if left else ''}. {what}")
        texts.append(f"{COMMAND}{train_command(run, data, directory, part)}")
        written += [directory / COCO, *([directory / LABELS] if part == "test" else [])]
    kept = given.drop(columns=["file"] if data.private else []).assign(shapes=given["shapes"].map(json.dumps))
    write_csv(directory / ANSWERS, kept)
    for text in texts:
        say(console, text, whole=text.startswith(COMMAND))  # which a reader copies
    facts = {**origin(config), "run": str(run.folder), "answers": str(file)}
    page = write_report(f"Review: {' and '.join(titles)}", texts, [section], facts, directory)
    return [directory / ANSWERS, *written, *page]


def drawn_shapes(answers: pd.DataFrame) -> list[Shape]:
    """What reviewers drew, in the answers that count; a box as its four corners."""
    found = []
    for row in each(answers[answers["counts"]]):
        for shape in row.shapes:
            corners = np.array(shape["points"], dtype=np.float64)
            if shape["kind"] == "box":
                (left, top), (right, bottom) = corners.min(0), corners.max(0)
                corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            found.append(Shape(row.file, row.reviewer, corners))
    return found


def export(answers: pd.DataFrame, run: Run, data: ImageData, goal: Path, part: str) -> tuple[int, str]:
    """What reviewers drew: ``goal/annotations.json`` (COCO), ``goal/masks`` (in the layout of ``dataset.mask_dir`` and
    ``dataset.guide_dir``) and, of test images, the set as ``dataset=table`` takes it, ``goal/labels.csv``.

    In the table test images with a mask, and all that belong to the same group, are training images, the others what
    they were: what is tested later was neither drawn on nor trained on. Images that are no files, as a phantom's, are
    written to ``goal/images``, with the true masks of parts that are not trained on.

    Args:
        answers: of ``gaze.studies.review.store.answers``.
        run: that was judged.
        data: its images.
        goal: a folder.
        part: that was reviewed, "test" or "train".

    Returns:
        How many images have a mask; what was left out.

    Raises:
        ConfigError: ``goal/masks`` holds something else.
    """
    shapes, root = drawn_shapes(answers), data.audit.root
    of_set = {path for split in _parts(data).values() for path in split.paths}
    known = [shape for shape in shapes if shape.file in of_set and (root is None or _below(Path(root), shape.file))]
    square = (run.settings.dataset.image_size,) * 2
    sizes, left = write_masks(known, goal, lambda file: square if root is None else image_size(Path(root, file)))
    left["of images that are not there"] += len(shapes) - len(known)
    write_coco(goal / COCO, known, sizes, dict(zip(answers["file"], answers["truth"], strict=True)))
    if part == "test":
        if root is None:
            _write_images(data, goal)
        _write_labels(data, sizes, goal, drawn=root is None)
    return len(sizes), said(left)


def _parts(data: ImageData) -> dict[str, Split]:
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    return {name: split for name, split in parts.items() if split is not None}


def _write_images(data: ImageData, goal: Path) -> None:
    for name, split in _parts(data).items():
        kinds = {"images": split.images} | (
            {TRUE: split.masks * 255} if name != "train" and split.masks is not None else {}
        )
        for folder, pixels in kinds.items():
            for path, own in zip(split.paths, pixels.permute(0, 2, 3, 1).squeeze(3).numpy(), strict=True):
                file = goal / folder / f"{path}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(own).save(file)


def _write_labels(data: ImageData, masked: Collection[str], goal: Path, drawn: bool) -> None:
    images = [
        (part, path, data.classes[target], group, split.masks is not None)
        for part, split in _parts(data).items()
        for path, target, group in zip(
            split.paths, split.targets.tolist(), split.groups or [None] * len(split.paths), strict=True
        )
    ]
    numbers = {group: f"group {i}" for i, group in enumerate(dict.fromkeys(own[3] for own in images if own[3]))}
    taught, rows = {group for _, path, _, group, _ in images if group and path in masked}, []
    for part, path, label, group, has_mask in images:
        trained, mask = path in masked or group in taught, ""
        if path in masked:
            mask = str((goal / MASKS / PurePosixPath(path).with_suffix(".png")).absolute())
        elif drawn and has_mask and part != "train" and not trained:
            mask = str((goal / TRUE / f"{path}.png").absolute())
        row = [f"{path}.png" if drawn else path, label, "train" if trained else part, mask]
        rows.append(row + ([numbers.get(group or "", "")] if numbers else []))
    write_rows(goal / LABELS, [["file_name", "label", "split", "mask", *(["patient"] if numbers else [])], *rows])


def train_command(run: Run, data: ImageData, goal: Path, part: str, weight: float = 5.0) -> str:
    """The command that trains as the run was trained, and on what reviewers drew, as :func:`export` leaves it in
    ``goal``; of ``part`` "train" on the same set, in the same study."""
    d = run.settings.dataset
    if part == "train":
        words = [*run_words(run), f"dataset.guide_dir={(goal / MASKS).absolute()}"]  # as it stands: a path
    else:
        root = Path(data.audit.root) if data.audit.root is not None else goal / "images"
        words = [
            "dataset=table", f"dataset.table={quoted(str((goal / LABELS).absolute()))}",
            f"dataset.root={quoted(str(root.absolute()))}", "dataset.outside=true",
            "dataset.on_missing_mask=empty", f"dataset.name={d.name}",
            f"dataset.image_size={d.image_size}", f"dataset.channels={d.channels}",
            f"dataset.validation={'test' if data.validation is None else 'split'}", *run.settings.model.words,
            f"lambda={run.settings.lambda_:g}", f"seed={run.settings.seed}", "study=guided",
        ]  # fmt: skip
    return f"python train.py {shlex.join([*words, f'gaze.mask_weight={weight:g}'])}"


def run_words(run: Run) -> list[str]:
    """The settings that a run was started with, ``NAME=VALUE`` each, but for those that a guided run has otherwise;
    ``...`` in their place where its folder does not have them. A stranger's are shown, never used here."""
    try:
        words = yaml.safe_load(read_bytes_of(run.hydra / "overrides.yaml"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return ["..."]
    kept = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
    return [word for word in kept if WORD.match(word)]


def _below(root: Path, file: str) -> bool:
    """Whether a path that stands in a file leads to an image below the root."""
    path = (root / file).resolve()
    return not Path(file).is_absolute() and path.is_relative_to(root.resolve()) and path.is_file()
