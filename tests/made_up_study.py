"""Studies of augmentations with a known answer, no network in them."""

from itertools import combinations

import numpy as np
import pandas as pd

from gaze.studies.augmentation.compared import MASK_COLUMNS, SHAPE_COLUMNS, SIMILARITIES, Compared

COLUMNS = ("mad", "pearson", "pred_kl", "sim")


def made_up_study(
    seed: int = 0,
    *,
    shift: dict[str, dict[str, float]] | None = None,
    apart: dict[str, float] | None = None,
    images: int = 12,
    classes: int = 3,
    columns: tuple[str, ...] = COLUMNS,
    masks: bool = True,
    dead: float = 0.1,
    **runs: int,
) -> Compared:
    """Runs that differ by retraining noise, a random effect of each run on all of its images.

    Args:
        shift: {arm: {shape column or "log_p": what is added in all runs}}.
        apart: {arm: what is added to its distance to every other arm}.
        dead: share of maps that are unusable.
        runs: {arm: its number of runs}, the baseline first.
    """
    random = np.random.default_rng(seed)
    labels = [arm for arm, count in runs.items() for _ in range(count)]
    total = len(labels)
    target = random.permutation(np.arange(images) % (classes + 1) % classes)  # class 0 has twice as many
    valid = random.random((total, images)) >= dead
    pairs = np.array(list(combinations(range(total), 2)))

    def noise(rows: int, scale: float) -> np.ndarray:
        return scale * (random.normal(size=(rows, 1)) + random.normal(size=(rows, images)))

    both = valid[pairs].all(1)
    further = [[(apart or {}).get(labels[i], 0) * (labels[b] != labels[a]) for i in (b, a)] for b, a in pairs]
    values = np.empty((len(columns), len(pairs), images), np.float32)
    for column, into in zip(columns, values, strict=True):
        distance = 0.4 + 0.1 * random.random((len(pairs), images)) + np.max(further, 1)[:, None]
        distance += np.abs(noise(total, 0.05))[pairs].sum(1)
        into[:] = np.where(both, 1 - distance if column in SIMILARITIES else distance, np.nan)
    shapes = {}
    for name in (*SHAPE_COLUMNS, *(MASK_COLUMNS if masks else ())):
        added = np.array([(shift or {}).get(arm, {}).get(name, 0) for arm in labels])
        shapes[name] = np.where(valid, 0.4 + noise(total, 0.03) + added[:, None], np.nan)
    gained = np.array([(shift or {}).get(arm, {}).get("log_p", 0) for arm in labels])
    correct = random.random((total, images)) < 0.7
    table = pd.DataFrame({"run": [f"{arm}/{i}" for i, arm in enumerate(labels)], "arm": labels, "seed": range(total)})
    return Compared(
        runs=table.assign(accuracy=correct.mean(1), kappa=random.random(total)),
        baseline=labels[0],
        classes=tuple(f"class {k}" for k in range(classes)),
        target=target,
        place=random.permutation(10 * images)[:images],
        pairs=pairs,
        columns=columns,
        values=values,
        shapes=shapes,
        valid=valid,
        log_p=-np.abs(noise(total, 0.5)) + gained[:, None],
        correct=correct,
        cams=np.zeros((total, images, 4, 4), np.float32),
    )


def without_maps(c: Compared, runs: list[int]) -> Compared:
    """The same, with every map of these runs unusable."""
    valid = c.valid.copy()
    valid[runs] = False
    values = np.where(valid[c.pairs].all(1), c.values, np.nan).astype(np.float32)
    return c._replace(valid=valid, values=values, shapes={k: np.where(valid, v, np.nan) for k, v in c.shapes.items()})


def other_order(c: Compared, seed: int = 0) -> Compared:
    """The same images in another order, the classes under other numbers."""
    random = np.random.default_rng(seed)
    order, number = random.permutation(c.target.size), random.permutation(len(c.classes))
    return c._replace(
        classes=tuple(c.classes[k] for k in number.argsort()),
        target=number[c.target[order]],
        place=c.place[order],
        values=c.values[:, :, order],
        shapes={name: values[:, order] for name, values in c.shapes.items()},
        **{name: getattr(c, name)[:, order] for name in ("valid", "log_p", "correct", "cams")},
    )
