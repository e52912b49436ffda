"""The augmentation study: trained runs to CAMs, comparisons, tables, figures and one report (Dorneles et al., 2025).

    python analyze.py study=augmentation

The specification's columns come from ``gaze.metrics.compare``, its test from ``gaze.statistics.permutation``, its
three questions from ``questions``; this module brings them together.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console

from gaze.config.analysis import CompareConfig
from gaze.errors import DataError
from gaze.files import atomic_path
from gaze.metrics.classification import CohenKappa
from gaze.names import slug
from gaze.runs.run import Run
from gaze.studies.arms import arm_names
from gaze.studies.augmentation.compared import PAIR_COLUMNS, Compared
from gaze.studies.augmentation.pairs import compare_runs, shapes_of_runs
from gaze.studies.augmentation.store import FOLDER, gaze_of_runs
from gaze.studies.opened import Images, Looked, check_images, compute_device, evaluation_images, how_looked
from gaze.terminal import progress_bar, say


class StudyPart(NamedTuple):
    """The arms of one data set and backbone: its name in words and for files, its runs, what stands out about them."""

    where: str
    slug: str
    runs: list[Run]
    arms: dict[str, str]  # by run
    notes: list[str]


class Measured(NamedTuple):
    """A part, compared; its evaluation images (N, S, S[, 3]) and masks (N, S, S) in 0..1, for the pictures."""

    part: StudyPart
    compared: Compared
    pictures: NDArray[np.float32]
    masks: NDArray[np.float32] | None


def study_parts(runs: Iterable[Run], baseline: str) -> list[StudyPart]:
    """Each data set, backbone and lambda by itself, the baseline's runs first.

    Raises:
        DataError: none of them has two runs of the baseline and an arm to hold against it.
    """
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.settings.dataset.name, run.label, run.settings.lambda_), []).append(run)
    parts: list[StudyPart] = []
    refused = []
    for (dataset, model, weight), members in sorted(groups.items()):
        where = f"{dataset}, {model}" + (f", lambda {weight:g}" if weight else "")
        arms = arm_names(members)
        counts = Counter(arms.values())
        if counts[baseline] < 2 or len(counts) < 2:
            said = ", ".join(f"{arm} {count}" for arm, count in counts.items())
            refused.append(f"{where}: runs by augmentation: {said}")
            continue
        order = [baseline, *(arm for arm in counts if arm != baseline)]
        own = sorted(members, key=lambda run: (order.index(arms[run.name]), run.settings.seed, run.name))
        name = slug(where, [part.slug for part in parts])
        parts.append(StudyPart(where, name, own, arms, _notes(own, arms)))
    if not parts:
        raise DataError(
            f"An augmentation study needs two runs or more of the baseline ({baseline}) and another augmentation.\n"
            + "\n".join(refused)
            + "\nTrain some: python train.py -m experiment=augmentation; or name another: compare.baseline=NAME."
        )
    return parts


def _notes(runs: Sequence[Run], arms: Mapping[str, str]) -> list[str]:
    """What a reader must know of these runs."""
    of_arm = {(run.settings.seed, arms[run.name]) for run in runs}
    shared = sorted(seed for seed, arms_with_it in Counter(seed for seed, _ in of_arm).items() if arms_with_it > 1)
    if not shared:
        return []
    return [
        f"Arms share seeds ({', '.join(map(str, shared[:8]))}{' ...' if len(shared) > 8 else ''}): such runs "
        "start from the same weights, so runs are not exchangeable and p is not exact. Give each arm seeds of its "
        "own, as experiment=augmentation does."
    ]


def measure(part: StudyPart, config: CompareConfig, directory: Path, console: Console) -> Measured:
    """CAMs of all runs over the same images, all pairs compared.

    Raises:
        DataError: images or a checkpoint that cannot be read.
    """
    check_images(part.runs)
    images = evaluation_images(part.runs[0].dataset, config.images, partial(say, console))
    device = compute_device(config.device)
    part = part._replace(notes=part.notes + how_looked(part.runs, device))
    with progress_bar(console, f"CAMs of {len(part.runs)} runs over {len(images.place)} images") as progress:
        found = gaze_of_runs(part.runs, images, directory, config.checkpoint, device, progress)
    batch = images.data.evaluation_batch(images.place.tolist())
    masks = None if batch.mask is None else batch.mask[:, 0].clamp(0, 1)
    arm_of = [part.arms[run.name] for run in part.runs]
    values = _values(found, arm_of, config.baseline, directory, device, console)
    shapes, valid = shapes_of_runs([gaze.cams for gaze in found], masks)
    pictures = ((batch.image.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()
    compared = Compared(
        runs=_runs(part, arm_of, found, images),
        baseline=config.baseline,
        classes=images.classes,
        target=images.target,
        place=images.place,
        pairs=np.array(list(combinations(range(len(found)), 2)), dtype=np.int64),
        columns=PAIR_COLUMNS,
        values=values,
        shapes=shapes,
        valid=valid,
        log_p=np.stack([_log_p(gaze.logits, images.target) for gaze in found]),
        correct=np.stack([gaze.logits.argmax(1) == images.target for gaze in found]),
        cams=np.stack([np.where(own[:, None, None], gaze.cams, 0) for gaze, own in zip(found, valid, strict=True)]),
    )
    return Measured(
        part,
        compared,
        pictures[..., 0] if pictures.shape[3] == 1 else pictures,
        None if masks is None else masks.float().numpy(),
    )


def _runs(part: StudyPart, arm_of: list[str], found: Sequence[Looked], images: Images) -> pd.DataFrame:
    rows, target = [], torch.from_numpy(images.target)
    for run, arm, gaze in zip(part.runs, arm_of, found, strict=True):
        preds, kappa = torch.from_numpy(gaze.logits.argmax(1)), CohenKappa(len(images.classes))
        kappa.update(preds=preds, target=target)
        accuracy = float((preds == target).double().mean())
        rows.append([run.name, arm, run.settings.seed, accuracy, float(kappa.compute())])
    return pd.DataFrame(rows, columns=["run", "arm", "seed", "accuracy", "kappa"])


def _log_p(logits: NDArray[np.float32], target: NDArray[np.int64]) -> NDArray[np.float64]:
    log_p: NDArray[np.float64] = torch.from_numpy(logits).double().log_softmax(1).numpy()
    return log_p[np.arange(len(target)), target]


def _values(
    found: Sequence[Looked], arm_of: list[str], baseline: str, directory: Path, device: torch.device, console: Console
) -> NDArray[np.float32]:
    """All pairs compared, out of ``directory/cams`` where these very maps were compared before."""
    # The earth mover's distance of two arms other than the baseline answers no question, and takes most of the time.
    wanted = np.array([b == a or baseline in (b, a) for b, a in combinations(arm_of, 2)])
    digest = hashlib.sha256(json.dumps([PAIR_COLUMNS, wanted.tolist()]).encode())
    for gaze in found:
        digest.update(gaze.cams.tobytes() + gaze.logits.tobytes())
    path = directory / FOLDER / f"pairs-{digest.hexdigest()[:16]}.npy"
    try:
        values: NDArray[np.float32] = np.load(path)
        if values.shape == (len(PAIR_COLUMNS), len(wanted), len(found[0].cams)):
            return values
    except (OSError, ValueError, EOFError):
        pass
    with progress_bar(console, f"comparing {len(wanted)} pairs of runs") as progress:
        values = compare_runs([g.cams for g in found], [g.logits for g in found], wanted, device, progress)
    with atomic_path(path) as part, part.open("wb") as file:
        np.save(file, values)
    return values
