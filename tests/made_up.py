"""Made-up run logs with the tidy columns, and made-up augmentation studies, for the tests of the analysis."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gaze.studies.augmentation.compared import MASK_COLUMNS, PAIR_COLUMNS, SHAPE_COLUMNS, Compared


def made_up_runs(
    study: str = "made_up",
    datasets: Sequence[str] = ("phantom",),
    models: Sequence[str] = ("level1", "level2", "level3"),
    lambdas: Sequence[float] = (0.0,),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 6,
    noise: float = 0.01,
) -> pd.DataFrame:
    """Learning curves that rise with the epoch, a gaze that spreads as they do, and less so for lambda > 0."""
    random = np.random.default_rng(0)
    rows = []
    for dataset in datasets:
        for level, model in enumerate(models, 1):
            cells = 112**2 if model == "level1" else 28**2
            for weight in lambdas:
                for seed in seeds:
                    for epoch in range(1, epochs + 1):
                        learned = 1 - np.exp(-epoch / 3)
                        kappa = (0.35 + 0.1 * level) * learned - abs(weight) / 5000 + noise * random.standard_normal()
                        spread = (0.02 + 0.01 * learned) / (1 + max(weight, -40) / 50) + noise**2 * random.random()
                        eta = np.clip(0.3 + weight / 1000 + noise * random.standard_normal(), 0, 1)
                        rows.append(
                            {
                                "study": study,
                                "dataset": dataset,
                                "model": model,
                                "lambda": float(weight),
                                "seed": seed,
                                "epoch": epoch,
                                "accuracy": 0.25 + 0.75 * kappa,
                                "kappa": kappa,
                                "gaze_consistency": spread,
                                "gaze_consistency_l2": np.sqrt(0.9 * spread / cells),
                                "gaze_eta_squared": eta,
                                "loss": 1.4 - kappa,
                                "gaze_consistency_rms": np.sqrt(spread),
                                "gaze_consistency_grid": 0.8 * spread,
                                "gaze_consistency_grid_rms": np.sqrt(0.8 * spread),
                                "gaze_consistency_all": 1.1 * spread,
                                "gaze_consistency_fixed": 0.9 * spread,
                                "gaze_epsilon_squared": eta - 0.01,
                                "gaze_empty_fraction": 0.0,
                                "gaze_entropy": 0.9,
                                "n_correct": round(320 * (0.25 + 0.75 * kappa)),
                                "run": f"{study}/{dataset}/{model}/lambda={weight:g}/seed={seed}",
                            }
                        )
    return pd.DataFrame(rows)


def made_up_compared(
    arms: Mapping[str, int] | None = None,
    classes: int = 2,
    images: int = 24,
    size: int = 6,
    masks: bool = True,
    moved: float = 0.12,
    noise: float = 0.02,
) -> Compared:
    """Runs whose gaze is a blob near the middle; arm k's stands k * ``moved`` further to the right, in image sides.

    The first arm is the baseline. The first image has no valid map in the first run of each arm.
    """
    random = np.random.default_rng(0)
    arms = arms or {"none": 4, "blur": 3, "mixup": 3}
    runs = [(arm, 100 * k + seed) for k, (arm, count) in enumerate(arms.items()) for seed in range(count)]
    target = np.arange(images) % classes
    grid = (np.arange(size) + 0.5) / size
    place_y = 0.4 + 0.25 * target / max(classes - 1, 1) + 0.05 * random.standard_normal(images)
    cams = np.zeros((len(runs), images, size, size), np.float32)
    for r, (arm, _) in enumerate(runs):
        x = 0.3 + moved * list(arms).index(arm) + noise * random.standard_normal(images)
        y = place_y + noise * random.standard_normal()
        blob = (grid[:, None] - y[:, None, None]) ** 2 + (grid - x[:, None, None]) ** 2
        cams[r] = np.exp(-blob / 0.03)
    cams /= cams.max((2, 3), keepdims=True)
    valid = np.ones(cams.shape[:2], bool)
    valid[[i for i, (_, seed) in enumerate(runs) if seed % 100 == 0], 0] = False
    cams[~valid] = 0
    pairs = np.array(list(combinations(range(len(runs)), 2)))
    flat = cams.reshape(*cams.shape[:2], -1) - cams.mean((2, 3))[..., None]
    flat /= np.maximum(np.linalg.norm(flat, axis=2, keepdims=True), 1e-9)
    pearson = np.where(valid[pairs[:, 0]] & valid[pairs[:, 1]], (flat[pairs[:, 0]] * flat[pairs[:, 1]]).sum(2), np.nan)
    shapes = {name: np.where(valid, 0.3 + 0.1 * random.random(valid.shape), np.nan) for name in SHAPE_COLUMNS}
    if masks:
        shapes |= {name: np.where(valid, random.random(valid.shape), np.nan) for name in MASK_COLUMNS}
    correct = random.random(valid.shape) < 0.8
    listing = pd.DataFrame(runs, columns=["arm", "seed"])
    listing.insert(0, "run", [f"augmentation={arm}/seed={seed}" for arm, seed in runs])
    listing = listing.assign(accuracy=correct.mean(1), kappa=2 * correct.mean(1) - 1)
    log_p = np.log(0.2 + 0.7 * random.random(valid.shape))
    names = tuple(f"class {k}" for k in range(classes))
    places = 10 + 3 * np.arange(images)
    values, first = pearson[None].astype(np.float32), next(iter(arms))
    shown = (listing, first, names, target, places, pairs, ("pearson",), values)
    return Compared(*shown, shapes, valid, log_p, correct, cams)


def made_up_distances(c: Compared) -> NDArray[np.float64]:
    """(R, R): mean over images of 1 - pearson."""
    matrix = np.zeros((len(c.runs), len(c.runs)))
    matrix[c.pairs[:, 0], c.pairs[:, 1]] = np.nanmean(1 - c.values[c.columns.index("pearson")], axis=1)
    return np.clip(matrix + matrix.T, 0, None)


def made_up_images(c: Compared) -> pd.DataFrame:
    """Columns of ``gaze.studies.augmentation.effects.image_table``; the excess distance is that between the mean
    maps.
    """
    parts = []
    for arm in c.arms:
        own, base = (np.where(c.valid[c.rows(a)], 1 - c.cams[c.rows(a)].std((2, 3)), np.nan) for a in (arm, c.baseline))
        excess = np.nanmean(own, 0) - np.nanmean(base, 0) + 0.1 * np.arange(len(c.place)) / len(c.place)
        gain = c.log_p[c.rows(arm)].mean(0) - c.log_p[c.rows(c.baseline)].mean(0)
        columns = {"arm": arm, "place": c.place, "class": [c.classes[k] for k in c.target]}
        excess[1] = np.nan
        parts.append(pd.DataFrame({**columns, "excess_distance": excess, "delta_log_p": gain, "n_pairs": 12}))
    return pd.concat(parts, ignore_index=True)


def made_up_run_table(c: Compared) -> pd.DataFrame:
    """Columns of ``gaze.studies.augmentation.effects.run_table``, with plain means."""
    table = c.runs.assign(dead_rate=1 - c.valid.mean(1), n_valid=c.valid.sum(1))
    table = table.assign(**{name: np.nanmean(values, axis=1) for name, values in c.shapes.items()})
    return table.assign(centroid_variance=np.linspace(0.01, 0.02, len(table)))


def made_up_profile(c: Compared, metrics: Sequence[str]) -> pd.DataFrame:
    """Columns of ``gaze.studies.augmentation.effects.profile_table``: z runs from -6 to 6 through all cells, 0.4 SD to
    a unit of effect.
    """
    cells = [(arm, metric) for arm in c.arms for metric in metrics]
    z = np.linspace(-6, 6, len(cells)) if len(cells) > 1 else np.array([1.5])
    table = pd.DataFrame(cells, columns=["arm", "metric"])
    table["kind"] = np.where(table["metric"].isin(PAIR_COLUMNS), "pair", "shape")
    table = table.assign(effect=0.4 * z, unit_sd=0.4, z=z, ci_low=0.4 * z - 0.1, ci_high=0.4 * z + 0.1)
    table = table.assign(p=0.2, q=0.3, family=len(cells), smallest_p=0.01, underpowered=False, marked=abs(z) > 4)
    table.loc[table["marked"], ["p", "q"]] = 0.01
    return table


def made_up_questions(c: Compared) -> pd.DataFrame:
    """Columns of ``gaze.studies.augmentation.questions.question_table``; answers go round pass, fail, inconclusive,
    underpowered.
    """
    measures = [(1, "mask_energy"), (1, "mask_lift")] if "mask_energy" in c.shapes else [(1, "mask_energy")]
    measures += [(2, "centroid_variance"), (2, "dispersion"), (3, "spearman"), (3, "spearman_partial")]
    rows = []
    for k, arm in enumerate(c.arms):
        for number, measure in measures:
            answer = ("pass", "fail", "inconclusive", "inconclusive")[k % 4]
            change = (0.05, -0.05, 0.01, 0.02)[k % 4] * (-1 if number == 2 else 1)
            row = [arm, number, measure, change, change - 0.02, change + 0.02, 0.3, 0.3 + change, 1.25, 0.01, 0.02]
            reason = "underpowered: too few seeds." if k % 4 == 3 else f"The {measure} says so."
            rows.append([*row, k % 4 == 3, answer, reason])
            if number == 3:
                rows[-1][6:] = [*[np.nan] * 5, False, "exploratory", "An association."]
            elif k % 4 == 3:
                rows[-1][9:11] = [np.nan] * 2
            if number == 1 and "mask_energy" not in c.shapes:
                rows[-1][3:] = [*[np.nan] * 8, False, "not evaluated", "this set has no masks"]
    names = ["arm", "question", "measure", "change", "ci_low", "ci_high", "baseline", "arm_mean", "sd_ratio"]
    return pd.DataFrame(rows, columns=[*names, "p", "p_holm", "underpowered", "answer", "reason"])
