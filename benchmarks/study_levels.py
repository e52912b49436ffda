"""How often the tests of the studies speak where there is nothing, and how often their intervals hold the truth.

    python benchmarks/study_levels.py [SECTION ...] [--studies 5000]

Sections: means, distances, families, flags, association, coverage, readings. Output is Markdown; a share stands with
its 95 % binomial interval (Clopper & Pearson). The slow tests of tests/statistics and tests/studies call the same
functions.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from gaze.statistics.bootstrap import interval, resampled_means, resampling_weights
from gaze.statistics.permutation import (
    _directions,
    _effects,
    _welch_p,
    effect_intervals,
    mean_shift,
    permutation_p,
    relabellings,
)
from gaze.statistics.power import noisy_distances, spectrum
from gaze.statistics.seeds import _shift_table
from gaze.studies.augmentation.association import _correlations

Floats = NDArray[np.float64]
SIZES = ((8, 4), (6, 3))  # runs of the baseline and of an arm
RATIOS = (1 / 3, 1.0, 2.0, 3.0)  # SD of the arm's runs over that of the baseline's
LEVEL = 0.05 * (1 + 1e-9)  # 1/120 * 6 is 0.05 but for rounding


def share(hits: Iterable[bool]) -> str:
    """A share of studies in percent, with its binomial interval."""
    values = [bool(hit) for hit in hits]
    ends = stats.binomtest(sum(values), len(values)).proportion_ci()
    return f"{100 * np.mean(values):.1f} ({100 * ends.low:.1f} to {100 * ends.high:.1f})"


def labels(n: int, k: int) -> list[str]:
    return ["base"] * n + ["arm"] * k


# ---- questions 1 and 2: one number per run


def mean_studies(
    n: int, k: int, ratio: float, studies: int, shift: float = 0.0, shape: str = "normal", seed: int = 0
) -> pd.DataFrame:
    """p of four tests of two means in studies whose runs scatter differently; ``shift`` in mean SDs.

    Columns: ``raw`` (mean difference, relabelled runs), ``studentised`` (Welch's t, relabelled), ``welch``, and ours,
    ``larger`` (of the last two).
    """
    random = np.random.default_rng(seed)
    draw = {
        "normal": random.standard_normal,
        "t3": lambda size: random.standard_t(3, size),
        "exponential": lambda size: random.standard_exponential(size) - 1,
    }[shape]
    values = draw((studies, n + k))
    values[:, n:] = values[:, n:] * ratio + shift * math.sqrt((1 + ratio**2) / 2)
    splits = np.vstack([np.r_[np.zeros(n), np.ones(k)], relabellings(n + k, k)[0]])
    own = values - values.mean(1, keepdims=True)
    mean = own @ splits.T / k, -(own @ splits.T) / n
    squares = (own**2) @ splits.T
    rest = (own**2).sum(1, keepdims=True) - squares
    scale = (squares / k - mean[0] ** 2) / (k - 1) + (rest / n - mean[1] ** 2) / (n - 1)
    difference = np.abs(mean[0] - mean[1])
    found = {
        name: (t[:, 1:] >= t[:, :1] * (1 - 1e-12)).mean(1)
        for name, t in (("raw", difference), ("studentised", difference / np.sqrt(scale)))
    }
    found["welch"] = stats.ttest_ind(values[:, n:], values[:, :n], axis=1, equal_var=False).pvalue
    found["larger"] = np.array([mean_shift(row, labels(n, k), "base", "arm").p for row in values])
    return pd.DataFrame(found)


def family_studies(arms: int, ratio: float, studies: int, seed: int = 0) -> pd.DataFrame:
    """Studies of 8 runs without augmentation and 4 of each arm, nothing moved, all arms scattering ``ratio`` times as
    much: does any arm pass Holm's first step, of a mean (``means``) and of distances in 30 directions (``distances``)?
    """
    random, n, k, rows = np.random.default_rng(seed), 8, 4, []
    sds, names = spectrum(30.0), labels(n, k)
    for _ in range(studies):
        maps = random.normal(size=(n + arms * k, sds.size + 1)) * np.r_[1, sds]
        maps[n:] *= ratio
        found = []
        for arm in range(arms):
            own = maps[[*range(n), *range(n + arm * k, n + (arm + 1) * k)]]
            squared = ((own[:, None, 1:] - own[None, :, 1:]) ** 2).sum(2) / 2
            ps = mean_shift(own[:, 0], names, "base", "arm").p, permutation_p(squared, names, "base", "arm").p
            found.append([arms * p <= LEVEL for p in ps])
        rows.append(np.any(found, 0))
    return pd.DataFrame(rows, columns=["means", "distances"])


# ---- the main test: distances of the maps of two runs


def distance_studies(
    n: int, k: int, ratio: float, directions: float, studies: int, shift: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """p of the tests of two centres, and which studies are flagged for their scatter.

    Columns: ``raw`` (the effect, relabelled runs), ``studentised`` (T^2, relabelled), ``welch`` (T^2 against F), ours,
    ``larger`` (of the last two); ``flag_before`` (mean distance between the arms no more than the larger within,
    give or take the noise), ``flag`` (95 % interval of the SD ratio without 1).
    """
    random, sds, names = np.random.default_rng(seed), spectrum(directions), labels(n, k)
    in_arm = np.r_[np.zeros(n), np.ones(k)]
    splits = np.vstack([in_arm, relabellings(n + k, k)[0]])
    rows = []
    for _ in range(studies):
        d = noisy_distances(random, n, k, sds, ratio, shift)
        found, of_arm, of_rest = _effects(d, splits)
        t2 = found / (of_arm / k + of_rest / n)
        welch = _welch_p(found[0], of_arm[0] / k, of_rest[0] / n, k, n, _directions(d, in_arm))
        near = d[:n, n:].mean() <= max(of_arm[0], of_rest[0]) + d[:n, :n][np.triu_indices(n, 1)].std(ddof=1)
        scatter = effect_intervals(d, names, "base", "arm")
        relabelled = [(s[1:] >= s[0] - 1e-12).mean() for s in (found, t2)]
        ours = permutation_p(d, names, "base", "arm").p
        rows.append([*relabelled, welch, ours, near, scatter.sd_low > 1 or scatter.sd_high < 1])
    return pd.DataFrame(rows, columns=["raw", "studentised", "welch", "larger", "flag_before", "flag"])


# ---- question 3


def associated_images(
    random: np.random.Generator, images: int, difficulty: float, n: int = 8, k: int = 4
) -> tuple[Floats, Floats]:
    """Distances (N, R, R) and log p (R, N) of a study whose arm moves the gaze and changes log p.

    What sets images apart are 3 features, so images alike in them are moved alike, by retraining and by the arm. The
    move and the gain go along features of their own, drawn independently: no association; ``difficulty`` above 0 makes
    both grow with the difficulty of the image, the mean of its features, as well.
    """
    features = np.abs(random.normal(size=(images, 3)))
    hard = features.mean(1)
    arm = np.arange(n + k) >= n
    looks = random.normal(size=(n + k, 3, 1)) + 1.5 * random.normal(size=(3, 1)) * arm[:, None, None]
    maps = looks * features.T + 0.5 * random.normal(size=(n + k, 3, images))
    maps[arm] += 2 * difficulty * hard
    log_p = -hard + 0.3 * (random.normal(size=(n + k, 3)) @ features.T) + 0.2 * random.normal(size=(n + k, images))
    log_p[arm] += 0.5 * features @ random.normal(size=3) + difficulty * hard
    distances = 0.05 * ((maps[:, None] - maps[None]) ** 2).sum(2).transpose(2, 0, 1)
    distances[:, np.arange(n + k), np.arange(n + k)] = np.nan
    return distances, log_p


def association_studies(difficulty: float, studies: int, images: int = 60, seed: int = 0) -> pd.DataFrame:
    """What a pass or fail by relabelled runs would have said of rho and of partial rho, without an association of their
    own. Both ways to a p must speak, as they had to before question 3 became exploratory: 200 labellings of the runs,
    and Fisher's interval over images. ``rho`` and ``partial`` are the values."""
    random, n, k = np.random.default_rng(seed), 8, 4
    arm, rows = np.arange(n + k) >= n, []
    splits = relabellings(n + k, k)[0]
    for _ in range(studies):
        distances, log_p = associated_images(random, images, difficulty)
        chosen = splits[random.choice(len(splits), 200, replace=False)] > 0
        found = np.array([_correlations(distances, log_p, one, ~one)[:2] for one in (arm, *chosen)])
        relabelled = (1 + (np.abs(found[1:]) >= np.abs(found[0])).sum(0)) / 201
        over_images = np.abs(np.arctanh(found[0])) > 1.96 / math.sqrt(images - 3)
        rows.append([*((relabelled <= LEVEL) & over_images), *found[0]])
    return pd.DataFrame(rows, columns=["decided", "decided_partial", "rho", "partial"])


# ---- intervals


def coverage_studies(n: int, k: int, ratio: float, shift: float, studies: int, seed: int = 0) -> pd.DataFrame:
    """Does the 95 % interval hold the true change: over images (bootstrap) and over runs, of a mean and of a distance?

    100 images; a run's effect on all of its images has SD 1 (``ratio`` in the arm), on one image SD 1 as well, and the
    arm's change differs from image to image (SD 0.3). Truth: the mean change over trainings, on these images.
    """
    random, images, cells, names = np.random.default_rng(seed), 100, 8, labels(n, k)
    target, rows = np.zeros(images, np.int64), []
    for _ in range(studies):
        weights = resampling_weights(target, np.arange(images), 400, int(random.integers(2**31)))
        change = shift + 0.3 * random.normal(size=images)
        scale = np.where(np.arange(n + k) < n, 1, ratio)[:, None]
        values = random.normal(size=images) + scale * (
            random.normal(size=(n + k, 1)) + random.normal(size=(n + k, images))
        )
        values[n:] += change
        over_images = interval(resampled_means((values[n:].mean(0) - values[:n].mean(0))[None], target, weights)[:, 0])
        over_runs = mean_shift(values.mean(1), names, "base", "arm")
        noise = random.normal(size=(n + k, 1, cells)) + random.normal(size=(n + k, images, cells))
        maps = scale[..., None] * noise / math.sqrt(cells)
        maps[n:] += change[:, None] * np.eye(cells)[0]
        squared = ((maps[:, None] - maps[None]) ** 2).sum(3) / 2  # (R, R, N)
        effects = np.array([_effects(squared[..., i], np.array([[0.0] * n + [1.0] * k]))[0][0] for i in range(images)])
        d_images = interval(resampled_means(effects[None], target, weights)[:, 0])
        d_runs = effect_intervals(squared.mean(2), names, "base", "arm")
        truth, far = change.mean(), (change**2).mean() / 2
        rows.append(
            [
                over_images[0] <= truth <= over_images[1], over_runs.ci_low <= truth <= over_runs.ci_high,
                d_images[0] <= far <= d_images[1], d_runs.ci_low <= far <= d_runs.ci_high,
            ]
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["mean_images", "mean_runs", "distance_images", "distance_runs"])


# ---- what lambda does to the gaze


def reading_studies(seeds: int, studies: int, seed: int = 0) -> pd.DataFrame:
    """Tables of 5 levels x 4 lambdas in which lambda does nothing; RMS deviation and eta squared move together, as they
    do in runs. ``unhedged``: the table has a reading without a reserve; ``before``: it would have had one by the
    intervals of each cell alone."""
    random, rows = np.random.default_rng(seed), []
    cells = [(f"level{i}", weight) for i in range(1, 6) for weight in (0.0, -100.0, 50.0, 100.0, 500.0)]
    for _ in range(studies):
        values = {}
        for model, weight in cells:
            common, *own = random.normal(size=(3, seeds))
            rms, eta = 0.2 + 0.01 * (common + 0.1 * own[0]), 0.5 - 0.03 * (common + 0.1 * own[1])
            for measure, numbers in (("gaze_consistency_rms", rms), ("gaze_eta_squared", eta)):
                values["s", "d", model, weight, measure, "last5"] = dict(enumerate(numbers[:, None]))  # of one fold
        table = _shift_table(values)
        before = [((table[f"diff_{m}_low"] > 0) | (table[f"diff_{m}_high"] < 0)) for m in ("rms", "eta")]
        rows.append([(before[0] & before[1]).any(), (~table["reading"].str.endswith(")")).any()])
    return pd.DataFrame(rows, columns=["before", "unhedged"])


# ---- output


def heading(text: str, *columns: str) -> None:
    print(f"\n## {text}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def means(studies: int) -> None:
    tests = ("raw, relabelled", "studentised, relabelled", "Welch", "the larger (ours)")
    heading(
        "Questions 1 and 2: % of studies rejected at 0.05, means equal",
        *("runs", "SD ratio", "noise", *tests, "power at 2 SD, ours / raw"),
    )
    for n, k in SIZES:
        for ratio in RATIOS:
            for shape in ("normal", "t3", "exponential"):
                found = mean_studies(n, k, ratio, studies, shape=shape) <= LEVEL
                moved = (mean_studies(n, k, ratio, studies, 2.0, shape) <= LEVEL).mean()
                power = f"{moved['larger']:.2f} / {moved['raw']:.2f}"
                row(f"{n} + {k}", f"{ratio:.2g}", shape, *(share(found[name]) for name in found), power)


def distances(studies: int) -> None:
    tests = ("effect, relabelled", "T^2, relabelled", "Welch", "the larger (ours)")
    heading(
        "The main test: % of studies rejected at 0.05, centres equal",
        *("runs", "SD ratio", "directions", *tests, "power at 1.6 SD, ours / effect"),
    )
    for n, k in SIZES:
        for directions in (3, 10, 30):
            for ratio in RATIOS:
                found = distance_studies(n, k, ratio, directions, studies).iloc[:, :4] <= LEVEL
                moved = (distance_studies(n, k, ratio, directions, studies // 5, 1.6) <= LEVEL).mean()
                power = f"{moved['larger']:.2f} / {moved['raw']:.2f}"
                row(f"{n} + {k}", f"{ratio:.2g}", directions, *(share(found[name]) for name in found), power)


def families(studies: int) -> None:
    heading(
        "14 arms of 4 runs beside 8, nothing moved: % of studies that call any arm moved",
        *("SD ratio of all arms", "means", "distances"),
    )
    for ratio in RATIOS:
        found = family_studies(14, ratio, studies)
        row(f"{ratio:.2g}", share(found["means"]), share(found["distances"]))


def flags(studies: int) -> None:
    heading(
        "Moved arms that scatter as the baseline does: % of those found that are flagged for their scatter, 8 + 4 runs",
        *("directions", "shift in SDs", "power, before / now", "flagged before", "flagged now"),
    )
    for directions in (4, 10, 30):
        for shift in (0.6, 0.8, 1.0):
            moved = distance_studies(8, 4, 1.0, directions, studies, shift)
            before, now = moved[moved["raw"] <= LEVEL], moved[moved["larger"] <= LEVEL]
            power = f"{len(before) / len(moved):.2f} / {len(now) / len(moved):.2f}"
            row(directions, shift, power, share(before["flag_before"]), share(now["flag"]))


def association(studies: int) -> None:
    heading(
        "Question 3: % of studies that a p by relabelled runs would have decided (8 + 4 runs, 60 images, a moved arm)",
        *("what drives both", "rho", "rho given difficulty", "mean rho", "mean rho given difficulty"),
    )
    for words, difficulty in (("nothing", 0.0), ("difficulty", 1.0)):
        found = association_studies(difficulty, studies)
        shown = [share(found[name]) for name in ("decided", "decided_partial")]
        row(words, *shown, f"{found['rho'].mean():.2f}", f"{found['partial'].mean():.2f}")


def coverage(studies: int) -> None:
    heading(
        "95 % intervals: % of studies whose interval holds the true change",
        *("runs", "SD ratio", "shift", "mean, over images", "mean, over runs", "distance, over images"),
        "distance, over runs",
    )
    for n, k in SIZES:
        for ratio in (1.0, 2.0):
            for shift in (0.0, 1.0, 3.0):
                found = coverage_studies(n, k, ratio, shift, studies)
                row(f"{n} + {k}", f"{ratio:g}", f"{shift:g}", *(share(found[name]) for name in found))


def readings(studies: int) -> None:
    heading(
        "gaze_shift_table, 20 cells in which lambda does nothing: % of tables with an unhedged reading",
        *("seeds", "by each interval alone (before)", "now"),
    )
    for seeds in (3, 6):
        found = reading_studies(seeds, studies)
        row(seeds, share(found["before"]), share(found["unhedged"]))


SECTIONS: dict[str, Callable[[int], None]] = {
    function.__name__: function for function in (means, distances, families, flags, association, coverage, readings)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--studies", type=int, default=5000, help="simulated studies for each row")
    given = parser.parse_args()
    print(f"{given.studies} studies for each row.")
    for name in given.sections or SECTIONS:
        SECTIONS[name](given.studies)


if __name__ == "__main__":
    main()
