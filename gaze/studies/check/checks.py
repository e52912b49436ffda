"""Is the gaze of a run faithful? ``gaze.metrics.faithfulness`` over the run's own evaluation images, and what comes of
it.

Only correctly classified images whose map is not all zero are used: elsewhere this project speaks of no gaze.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from gaze.data.datasets import balanced_choice
from gaze.errors import DataError
from gaze.metrics.compare import compare_prepared, prepare_maps
from gaze.metrics.faithfulness import area, cascade, centred_maps, deletion_insertion, noise_change, random_maps, road
from gaze.metrics.lesion import mask_lift, pointing
from gaze.statistics.bootstrap import interval, nan_mean, resampled_means, resampling_weights
from gaze.statistics.intervals import Floats, mean_interval
from gaze.studies.opened import Opened, batches, check_images, evaluation_images
from gaze.terminal import progress_bar, say

KINDS = ("gaze", "random", "centred")  # of maps, in all that follows
NOISE = (0.01, 0.02, 0.05)  # SD, of the images' range
NOISE_JUDGED = 0.02
CHANGE_ALLOWED, RHO_ALLOWED = 0.25, 0.5
RANGE = 2.0  # of an image in -1..1
RANDOMISATIONS = 3  # draws of new weights
DRAWS = 2000  # of the bootstrap
SHOWN = 6  # images whose maps are shown while the weights go
Share = Callable[[float], None]


class Checked(NamedTuple):
    """What was measured.

    Attributes:
        counts: images in the evaluation set, correct ones, of these with an all-zero map, and used ones.
        place, target: of the used images (N,).
        share: of pixels changed (steps + 1,), for deletion and insertion.
        curves: name ("deletion", "insertion", "morf", "lerf") and kind of map -> scores (N, steps + 1) or (N, F).
        scores: a row per image: its path, class, and the scores of each kind of map, ``deletion_gaze`` and so on.
        layers: names, in the order in which they lost their weights.
        rho: |Spearman| of each image's map and the trained one, in each draw of new weights after each layer (D, L, N);
            NaN for a map that has vanished or is the same everywhere.
        cascade_maps: of the first draw (L + 1, n, H, W), the trained ones first; ``shown`` are their images (n,).
        change: relative change of the map under noise (SDs, N); ``kept``: share of draws with the same prediction.
        between: relative difference to the map of another image of the class (N,), for scale.
    """

    counts: dict[str, int]
    place: NDArray[np.int64]
    target: NDArray[np.int64]
    share: Floats
    curves: dict[tuple[str, str], Floats]
    scores: pd.DataFrame
    layers: list[str]
    rho: Floats
    cascade_maps: NDArray[np.float32]
    shown: NDArray[np.int64]
    pictures: NDArray[np.uint8]
    change: Floats
    kept: Floats
    between: Floats


def check_run(one: Opened, most: int | None, console: Console) -> Checked:
    """Measure all checks on a run's evaluation images.

    Args:
        one: the run.
        most: images at most, of each class alike; None takes all.
        console: for progress.

    Raises:
        DataError: the images cannot be read, are of other classes, or none has a gaze.
    """
    check_images([one.run])
    images = evaluation_images(one.dataset, None, partial(say, console))
    one.check_classes(images.classes)
    split, target = images.data.data.evaluated, images.target
    with progress_bar(console, f"maps of {len(target)} evaluation images") as progress:
        looked = one.look(split.images, torch.from_numpy(target), progress)
    correct = looked.probabilities.argmax(1) == target
    seen = looked.cams.max((1, 2)) > 0
    place = np.flatnonzero(correct & seen)
    if not place.size:
        raise DataError(
            f"{one.run.folder}: of {len(target)} evaluation images {correct.sum()} are classified correctly, and the "
            f"map of {'every one' if correct.any() else 'none'} of them is all zero: there is no gaze to check."
        )
    place = place[balanced_choice(target[place], len(place) if most is None else most)]
    counts = {
        "evaluation images": len(target),
        "classified correctly": int(correct.sum()),
        "of these with an all-zero map": int((correct & ~seen).sum()),
        "used": len(place),
    }
    pixels, maps = split.images[torch.from_numpy(place)], torch.from_numpy(looked.cams[place])
    masks = None if split.masks is None else split.masks[torch.from_numpy(place)]
    own = target[place]
    kinds = {"gaze": maps, "random": random_maps(maps), "centred": centred_maps(maps)}
    with progress_bar(console, f"deletion, insertion and ROAD on {len(place)} images") as progress:
        share, curves = _curves(one, pixels, own, kinds, progress)
    with progress_bar(console, f"randomising the weights, {RANDOMISATIONS} times") as progress:
        layers, rho, first, shown = _randomised(one, pixels, own, maps, progress)
    with progress_bar(console, "noise on the images") as progress:
        change, kept = _noise(one, pixels, own, progress)
    names = images.data.data.shown(split)
    scores = pd.DataFrame({"image": [names[i] for i in place], "class": [one.classes[c] for c in own]})
    scores = pd.concat([scores, pd.DataFrame(_scores(curves)), pd.DataFrame(_on_target(kinds, masks))], axis=1)
    scores["randomised_rho"] = nan_mean(rho[:, -1], 0)
    for sd, row in zip(NOISE, change, strict=True):
        scores[f"noise_{sd:g}_change"] = row
    between = _between(maps.flatten(1).double(), own)
    return Checked(
        counts, place, own, share, curves, scores, layers, rho, first, shown,
        pixels[torch.from_numpy(shown)].numpy(), change, kept, between,
    )  # fmt: skip


def _curves(
    one: Opened, pixels: Tensor, target: NDArray[np.int64], kinds: dict[str, Tensor], progress: Share
) -> tuple[Floats, dict[tuple[str, str], Floats]]:
    parts: dict[tuple[str, str], list[Tensor]] = {}
    share = torch.zeros(0)
    rows = batches(len(pixels), one.dataset.batch_size)
    for number, places in enumerate(rows):
        batch = one.prepare(pixels[places], torch.from_numpy(target)[places])
        score = one.score(batch.target)
        for kind, maps in kinds.items():
            own = maps[places].to(one.device)
            found = deletion_insertion(score, batch.image, own)
            removed = road(score, batch.image, own, seed=number)
            share = found.share
            for name, values in (
                ("deletion", found.deletion),
                ("insertion", found.insertion),
                ("morf", removed.morf),
                ("lerf", removed.lerf),
            ):
                parts.setdefault((name, kind), []).append(values.double().cpu())
        progress((number + 1) / len(rows))
    return share.double().cpu().numpy(), {key: torch.cat(own).numpy() for key, own in parts.items()}


def _scores(curves: dict[tuple[str, str], Floats]) -> dict[str, Floats]:
    """Deletion and insertion as areas, ROAD as the mean over shares of p(LeRF) - p(MoRF)."""
    found: dict[str, Floats] = {}
    for kind in KINDS:
        for name in ("deletion", "insertion"):
            found[f"{name}_{kind}"] = area(torch.from_numpy(curves[name, kind])).numpy()
        found[f"road_{kind}"] = (curves["lerf", kind] - curves["morf", kind]).mean(1)
    return found


def _on_target(kinds: dict[str, Tensor], masks: Tensor | None) -> dict[str, Floats]:
    """Pointing game and lift of each kind of map, NaN where an image has no mask; nothing where the set has none."""
    if masks is None:
        return {}
    mask = masks.double().clamp(0, 1)
    empty = mask.amax((1, 2, 3)) == 0
    found = {}
    for kind, maps in kinds.items():
        own = maps.double()
        found[f"pointing_{kind}"] = pointing(own, mask).masked_fill(empty, math.nan).numpy()
        found[f"lift_{kind}"] = mask_lift(own, mask).masked_fill(empty, math.nan).numpy()
    return found


def _randomised(
    one: Opened, pixels: Tensor, target: NDArray[np.int64], maps: Tensor, progress: Share
) -> tuple[list[str], Floats, NDArray[np.float32], NDArray[np.int64]]:
    """|Spearman| with the trained maps after each layer, and the maps of some images."""
    trained, wanted = prepare_maps(maps, region=1, least=2), torch.from_numpy(target)
    shown = balanced_choice(target, SHOWN)
    kept, layers = [maps[torch.from_numpy(shown)].numpy()], []
    rows: list[list[Floats]] = []
    for draw in range(RANDOMISATIONS):
        rows.append([])
        for name, module in cascade(one.module, seed=draw):
            cams = torch.from_numpy(one._replace(module=module).look(pixels, wanted).cams)  # type: ignore[arg-type]
            rho = compare_prepared(trained, prepare_maps(cams, region=1, least=2), emd=False)["spearman"].abs()
            rows[-1].append(rho.numpy())
            if draw == 0:
                layers.append(name.removeprefix("backbone."))
                kept.append(cams[torch.from_numpy(shown)].numpy())
        progress((draw + 1) / RANDOMISATIONS)
    return layers, np.asarray(rows), np.stack(kept), shown


def _noise(one: Opened, pixels: Tensor, target: NDArray[np.int64], progress: Share) -> tuple[Floats, Floats]:
    change, kept = np.full((len(NOISE), len(pixels)), np.nan), np.zeros((len(NOISE), len(pixels)))
    for number, places in enumerate(batches(len(pixels), one.dataset.batch_size)):
        batch = one.prepare(pixels[places], torch.from_numpy(target)[places])

        def gaze(images: Tensor, classes: Tensor = batch.target) -> tuple[Tensor, Tensor]:
            with one.precision():
                found = one.module.look(images, classes)
            return found.cam.float(), found.logits.argmax(1)

        for row, sd in enumerate(NOISE):
            moved, same = noise_change(gaze, batch.image, RANGE * sd, seed=number)
            change[row, places], kept[row, places] = moved.double().cpu(), same.double().cpu()
        progress((int(places[-1]) + 1) / len(pixels))
    return change, kept


def _between(maps: Tensor, target: NDArray[np.int64]) -> Floats:
    """Relative difference of each map (N, n) to that of the next image of its class; NaN where there is no other."""
    found = np.full(len(maps), np.nan)
    for label in np.unique(target):
        own = torch.from_numpy(np.flatnonzero(target == label))
        if len(own) > 1:
            found[own] = (maps[own.roll(-1)] - maps[own]).norm(dim=1) / maps[own].norm(dim=1)
    return found


# ---- verdicts


class Estimate(NamedTuple):
    """Mean over images, classes counted alike, with its 95 % bootstrap interval over images."""

    mean: float
    low: float
    high: float


class Verdict(NamedTuple):
    """One check: what was measured, for the gaze and the two baselines, and what follows.

    ``answer`` is "passes", "fails" or "not shown"; ``to_random`` and ``to_centred`` are the gaze's value less theirs.
    """

    check: str
    measure: str
    gaze: Estimate
    random: float
    centred: float
    to_random: Estimate | None
    to_centred: Estimate | None
    answer: str
    threshold: str
    source: str


def estimate(values: Floats, c: Checked) -> Estimate:
    """Of one value per image (N,), NaN left out."""
    weights = resampling_weights(c.target, c.place, DRAWS)
    ones = np.ones((1, len(c.target)))
    mean = float(resampled_means(values[None], c.target, ones)[0, 0])
    return Estimate(mean, *interval(resampled_means(values[None], c.target, weights)[:, 0]))


def over_draws(values: Floats, c: Checked) -> Estimate:
    """Mean over draws of new weights of a value per draw and image (D, N), with its t interval over the draws: what
    other new weights would give for these images.
    """
    ones = np.ones((1, len(c.target)))
    means = resampled_means(values, c.target, ones)[0]  # (D,): classes alike, NaN left out
    low, high = mean_interval(means)
    return Estimate(float(nan_mean(means)), max(low, 0.0), min(high, 1.0))


def vanished(c: Checked) -> Floats:
    """Share of maps that have no correlation left, over draws and images, after each layer (L,)."""
    return np.isnan(c.rho).mean((0, 2))


def verdicts(c: Checked) -> list[Verdict]:
    """Every check's verdict, in the order of the report."""
    beat = "better than a random map and than a centred Gaussian (95 % intervals of both differences)"
    found = [
        _against(c, "Deletion", "deletion", -1, f"AUC lower: {beat}", "Petsiuk et al. 2018"),
        _against(c, "Insertion", "insertion", 1, f"AUC higher: {beat}", "Petsiuk et al. 2018"),
        _against(c, "ROAD", "road", 1, f"p(LeRF) - p(MoRF) higher: {beat}", "Rong et al. 2022"),
    ]
    if "lift_gaze" in c.scores and c.scores["lift_gaze"].notna().any():
        found += [
            _against(c, "Pointing game", "pointing", 1, f"hits: {beat}", "Zhang et al. 2016"),
            _against(c, "Lift in the mask", "lift", 1, f"lift: {beat}", "Wang et al. 2020"),
        ]
    change = estimate(c.change[NOISE.index(NOISE_JUDGED)], c)
    return [
        *found,
        _below(
            "Randomised weights",
            f"|Spearman| with the trained map, all layers reset{', vanished maps apart' if vanished(c)[-1] else ''} "
            f"(interval over {len(c.rho)} draws of new weights)",
            over_draws(c.rho[:, -1], c), RHO_ALLOWED,
            "Adebayo et al. 2018; the threshold is our own",
        ),
        _below(
            "Small noise", f"relative change of the map, SD {NOISE_JUDGED:g} of the range", change, CHANGE_ALLOWED,
            "after Alvarez-Melis & Jaakkola 2018, Yeh et al. 2019; the threshold is our own",
        ),
    ]  # fmt: skip


MEASURES = {
    "deletion": "area under the deletion curve, 0..1, lower is better",
    "insertion": "area under the insertion curve, 0..1, higher is better",
    "road": "mean p(LeRF) - p(MoRF), -1..1, higher is better",
    "pointing": "share of maxima in the mask, 0..1, higher is better",
    "lift": "share of the map's sum in the mask over the mask's area, 1 by chance, higher is better",
}


def _against(c: Checked, check: str, name: str, sign: int, threshold: str, source: str) -> Verdict:
    """Held against both baselines, image by image."""
    own, *others = (c.scores[f"{name}_{kind}"].to_numpy(np.float64) for kind in KINDS)
    to_random, to_centred = (estimate(own - other, c) for other in others)
    better = [_side(e, sign) for e in (to_random, to_centred)]
    answer = "passes" if min(better) > 0 else "fails" if min(better) < 0 else "not shown"
    values = [estimate(other, c).mean for other in others]
    return Verdict(
        check, MEASURES[name], estimate(own, c), values[0], values[1], to_random, to_centred, answer, threshold, source
    )


def _side(e: Estimate, sign: int) -> int:
    """1 where the whole interval lies on the better side of 0, -1 where on the worse one, else 0."""
    low, high = sorted((sign * e.low, sign * e.high))
    return int(low > 0) - int(high < 0)


def _below(check: str, measure: str, e: Estimate, limit: float, source: str) -> Verdict:
    answer = "passes" if e.high < limit else "fails" if e.low > limit else "not shown"
    threshold = f"below {limit:g} (whole 95 % interval)"
    return Verdict(check, f"{measure}, lower is better", e, math.nan, math.nan, None, None, answer, threshold, source)
