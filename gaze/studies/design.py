"""What a grid of runs can show, said before the first of them is trained. Free of PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gaze.runs.run import Run
from gaze.statistics.pairing import pairing_floor
from gaze.statistics.permutation import permutation_floor
from gaze.statistics.power import moved_power, paired_power
from gaze.studies.arms import PLAIN, arm_names, marker_studies, setting_arms

RATIOS = (1.05, 1.10, 1.25, 1.50)  # distance between the arms over that within
SIZES = (1, 2, 3)  # of a difference, in SDs of the differences between seeds


def design_lines(runs: Sequence[Run], baseline: str = "none") -> list[str]:
    """Sentences on the least p that a grid's questions can reach after Holm, and the chance of finding an effect.

    Args:
        runs: all of the grid, with settings.
        baseline: the arm of an augmentation study that the others are held against.

    Returns:
        One or two for each kind of design in the grid; none for a single run.
    """
    datasets: dict[str, list[Run]] = {}
    for run in runs:
        datasets.setdefault(run.settings.dataset.name, []).append(run)
    lines: list[str] = []
    for own in datasets.values():
        of_marker = [
            _arms_line(Counter(setting_arms(run for run in own if run.settings.study == study).values()), PLAIN, "")
            for study in marker_studies(own)
        ]
        of_augmentation = [_arms_line(counts, baseline) for _, counts in _studies(own, baseline)]
        found = of_marker or of_augmentation or _seeds_lines(own)
        lines += [line for line in found if line not in lines]
    return lines


def check_design(runs: Sequence[Run], baseline: str = "none") -> None:
    """Refuse a grid that is an augmentation study whose maps are too coarse to be compared.

    Raises:
        DataError: names a run.
    """
    for study, _ in _studies(runs, baseline):
        from gaze.studies.opened import check_maps  # PyTorch

        check_maps(study)


def _studies(runs: Sequence[Run], baseline: str) -> list[tuple[list[Run], Counter[str]]]:
    """The augmentation studies among runs, and how many runs each of their arms has."""
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.settings.dataset.name, run.label, run.settings.lambda_), []).append(run)
    arms = [(group, Counter(arm_names(group).values())) for group in groups.values()]
    return [(group, counts) for group, counts in arms if counts[baseline] > 1 and len(counts) > 1]


def _arms_line(counts: Counter[str], baseline: str, gaze: str = "gaze") -> str:
    """An augmentation study; or, where no ``gaze`` is tested, one of remedies for a marker."""
    n, others = counts[baseline], [count for arm, count in counts.items() if arm != baseline]
    tests, k = len(others), min(others)
    more = " or more" if max(others) > k else ""
    text = f"This design: {n} runs of {baseline}, {k}{more} of each of {tests} other arm{'s' * (tests > 1)}."
    least = tests * permutation_floor(n, k)
    if not least <= 0.05:  # NaN: one run
        return f"{text} It can answer nothing: no arm can reach 0.05 after Holm over {tests}. Take more seeds."
    if not gaze:
        return f"{text} Worst group against {baseline}, runs relabelled: least p after Holm {least:.3f}."
    chances = [100 * moved_power(n, k, tests, ratio) for ratio in RATIOS]
    return (
        f"{text} Chance to find a gaze moved, if its runs are {_listed(RATIOS, '.2f')} times as far from the "
        f"baseline's as runs of one arm from each other: {_listed(chances, '.0f')} %. Least p after Holm: {least:.3f}."
    )


def _seeds_lines(runs: Sequence[Run]) -> list[str]:
    """Seeds of models and lambdas on one data set."""
    cells: dict[tuple[str, float, int, int], set[int]] = {}
    for run in runs:
        gaze = run.settings.gaze
        key = (run.label, run.settings.lambda_, gaze.start_epoch, gaze.end_epoch)
        cells.setdefault(key, set()).add(run.settings.seed)
    plain = {label: seeds for (label, weight, *_), seeds in cells.items() if weight == 0}
    pairs = [len(seeds & plain[label]) for (label, weight, *_), seeds in cells.items() if weight and label in plain]
    seeds = min((len(own) for own in plain.values()), default=0)
    lines = []
    if seeds > 1:
        least = len(plain) * pairing_floor(seeds)
        able = f"least p {least:.3f}" if least <= 0.05 else "too few seeds to reach 0.05"
        lines.append(
            f"This design: kappa and gaze over {seeds} seeds at lambda 0 "
            f"(pairing test, Holm over the models: {len(plain)}): {able}."
        )
    if any(run.dataset.folds for run in runs):  # their spread within a seed counts, which nobody knows before
        return lines
    if pairs and min(pairs) < 2:
        lines.append("This design describes what lambda does, and tests nothing: a difference of one seed has no p.")
    elif pairs:
        chances = [100 * paired_power(min(pairs), len(pairs), size) for size in SIZES]
        lines.append(
            f"This design: chance to find a difference from lambda 0 of {_listed(SIZES, 'd')} times the seeds' SD: "
            f"{_listed(chances, '.0f')} %, {min(pairs)} seeds, Holm over {len(pairs)} comparisons."
        )
    return lines


def _listed(values: Sequence[float], form: str) -> str:
    return ", ".join(f"{value:{form}}" for value in values)
