"""Which images belong together, and a part drawn of them: of each class alike, no group divided."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from gaze.data.audit import Record, file_and_frame, first_few
from gaze.errors import DataError

VALIDATION = 0.15  # share of the training images where dataset.validation=auto finds no part of the set's own
FOLDS = 10  # at most, unless the share is smaller: groups are drawn as m of k folds


def group_names(paths: Sequence[str], pattern: str | None, given: Mapping[str, str] | None = None) -> list[str | None]:
    """The group of each file by its name: what ``pattern`` captures there, all of it where it captures nothing by
    itself; None for a file that it does not match, which is a group of its own. Without a pattern, as ``given``.
    """
    named = []
    for path in paths:
        file, frame = file_and_frame(path)
        m = None if pattern is None else re.search(pattern, PurePosixPath(file).name)
        own = None if frame is None else file  # the frames of a file belong together
        own = own if given is None or pattern is not None else given.get(file, own)
        named.append(own if m is None else "/".join(part or "" for part in m.groups()) if m.groups() else m[0])
    return named


def groups_of(records: Sequence[Record], names: Sequence[str | None]) -> NDArray[np.int64]:
    """A number for each image, equal where images belong together: of one name, or pixel-identical, or by a chain of
    these.
    """
    first: dict[object, int] = {}  # the first image of a name, and of some pixels
    links = [
        (i, first.setdefault(shared, i))
        for i, (record, name) in enumerate(zip(records, names, strict=True))
        for shared in (record.digest, *([] if name is None else [name]))
    ]
    graph = coo_array((np.ones(len(links), bool), tuple(zip(*links, strict=True))), (len(records),) * 2)
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return groups


def drawn_part(
    labels: NDArray[np.int64], groups: NDArray[np.int64], share: float, seed: int, classes: Sequence[str], what: str
) -> NDArray[np.int64]:
    """Places of about ``share`` of the images, drawn by scikit-learn's StratifiedShuffleSplit, or StratifiedGroupKFold
    where several images make a group (m of k folds).

    Args:
        labels: (N,) indices of ``classes``.
        groups: (N,) of :func:`groups_of`.
        share: in [0.01, 0.5].
        seed: of the draw.
        classes: their names.
        what: the setting, for an error.

    Raises:
        DataError: a class that would be absent from one of both parts.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit  # a second, where it is needed

    of_class = [len(np.unique(groups[labels == label])) for label in range(len(classes))]
    lone = [name for name, number in zip(classes, of_class, strict=True) if number < 2]
    if lone:
        raise DataError(
            f"{what}: no two images, or groups of them, to part of: {', '.join(first_few(lone))}. Give more of them."
        )
    if len(np.unique(groups)) == len(groups):
        number = max(math.ceil(share * len(labels)), len(classes))  # it asks for one of each class
        drawn = next(StratifiedShuffleSplit(1, test_size=number, random_state=seed).split(labels, labels))[1]
    else:
        most = max(2, min(max(FOLDS, round(1 / share)), *of_class))
        fold = max(Fraction(share).limit_denominator(most), Fraction(1, most))
        folds = StratifiedGroupKFold(fold.denominator, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few images in a class: what comes of it is looked at below
            parts = [part for _, part in folds.split(labels, labels, groups)]
        drawn = np.concatenate(parts[: fold.numerator])
    kept = np.setdiff1d(np.arange(len(labels)), drawn)
    both = set(labels[drawn].tolist()) & set(labels[kept].tolist())
    absent = [name for label, name in enumerate(classes) if label not in both]
    if absent:
        raise DataError(
            f"{what}: no image of {', '.join(absent)} would be left in one of both parts, since its groups are few or "
            "large. Give another share or dataset.split_seed."
        )
    return np.sort(drawn)


def fold_part(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, fold: int, seed: int, classes: Sequence[str]
) -> NDArray[np.int64]:
    """Places of fold ``fold`` of ``folds``, drawn by scikit-learn's StratifiedKFold, or StratifiedGroupKFold where
    several images make a group, shuffled by ``seed``. The folds of one seed are disjoint, and all images together.

    Args:
        labels: (N,) indices of ``classes``.
        groups: (N,) of :func:`groups_of`.
        folds: 2 or more.
        fold: 0..folds - 1.
        seed: of the draw.
        classes: their names.

    Raises:
        DataError: a class that is absent from a fold, whichever is asked for, or from what is left of it.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # a second, where it is needed

    of_class = [len(np.unique(groups[labels == label])) for label in range(len(classes))]
    few = [f"{name} ({n})" for name, n in zip(classes, of_class, strict=True) if n < folds]
    if few:
        raise DataError(
            f"dataset.folds={folds}: fewer images, or groups of them, than folds of: {', '.join(first_few(few))}. A "
            "fold would be without; give fewer folds."
        )
    lone = len(np.unique(groups)) == len(groups)
    drawn = (StratifiedKFold if lone else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    parts = [part for _, part in drawn.split(labels, labels, None if lone else groups)]
    for place, part in enumerate(parts):
        kept = np.setdiff1d(np.arange(len(labels)), part)
        both = set(labels[part].tolist()) & set(labels[kept].tolist())
        if absent := [name for label, name in enumerate(classes) if label not in both]:
            raise DataError(
                f"dataset.folds={folds}: no image of {', '.join(first_few(absent))} in fold {place} or outside it, "
                "since its groups are few or large. Give fewer folds or another dataset.split_seed."
            )
    return np.sort(parts[fold])
