"""Every pair of runs, image by image: ``gaze.metrics.compare`` over whole studies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from gaze.metrics.compare import PreparedMaps, compare_logits, compare_prepared, map_shape, prepare_maps
from gaze.studies.augmentation.compared import MASK_COLUMNS, PAIR_COLUMNS, SHAPE_COLUMNS

IMAGES = 128  # at a time: fits a CPU's cache
MEMORY = 500_000_000  # bytes of prepared maps at a time
PER_CELL = 130  # bytes of a prepared map for each of its cells


def compare_runs(
    cams: Sequence[NDArray[np.float32]],
    logits: Sequence[NDArray[np.float32]],
    emd: NDArray[np.bool_],
    device: torch.device,
    progress: Callable[[float], None],
) -> NDArray[np.float32]:
    """PAIR_COLUMNS of every pair of runs and every image.

    Args:
        cams: R runs' maps (N, H, W) in 0..1.
        logits: their scores (N, K).
        emd: pairs (P,) whose earth mover's distance is wanted, by far the slowest column; it is NaN for the others.
        device: to work on.
        progress: told the share that is done, 0..1.

    Returns:
        (C, P, N) float32 in the order of PAIR_COLUMNS and ``itertools.combinations(range(R), 2)``, NaN where a map is
        zero or flat. Of a direction (pred_kl, lag) the mean of both, or its length.

    Raises:
        ValueError: maps or scores that do not fit or are not finite.
        DataError: maps under 4x4.
    """
    runs, images = len(cams), len(cams[0])
    values = np.full((len(PAIR_COLUMNS), runs * (runs - 1) // 2, images), np.nan, dtype=np.float32)
    size = max(1, min(IMAGES, MEMORY // (PER_CELL * runs * max(1, cams[0][0].size))))
    chunks = [slice(start, start + size) for start in range(0, images, size)]
    on_cpu, threads = device.type == "cpu", torch.get_num_threads()
    workers = min(len(chunks), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads)

    def work(chunk: slice) -> None:
        maps = [prepare_maps(torch.from_numpy(cam[chunk]).to(device)) for cam in cams]
        scores = [torch.from_numpy(own[chunk]).to(device) for own in logits]
        for pair, (b, a) in enumerate(combinations(range(runs), 2)):
            values[:, pair, chunk] = _pair(maps[b], maps[a], scores[b], scores[a], bool(emd[pair]))

    if on_cpu:  # operations this small gain more from a thread a chunk than from threads inside
        torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max(1, workers if on_cpu else 1)) as pool:
            waiting = [pool.submit(work, chunk) for chunk in chunks]
            try:
                for done, future in enumerate(as_completed(waiting), 1):
                    future.result()
                    progress(done / len(chunks))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)
    return values


def _pair(
    b: PreparedMaps, a: PreparedMaps, score_b: torch.Tensor, score_a: torch.Tensor, emd: bool
) -> NDArray[np.float32]:
    """(C, B) of one pair of runs."""
    found = compare_prepared(b, a, emd=emd)
    found["xcorr_lag"] = torch.hypot(found["xcorr_lag_y"], found["xcorr_lag_x"])
    there, back = compare_logits(score_b, score_a)["pred_kl"], compare_logits(score_a, score_b)["pred_kl"]
    found["pred_kl"] = (there + back) / 2
    empty = torch.full_like(found["mad"], torch.nan)
    return torch.stack([found.get(name, empty) for name in PAIR_COLUMNS]).float().cpu().numpy()


def shapes_of_runs(
    cams: Sequence[NDArray[np.float32]], masks: torch.Tensor | None
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """SHAPE_COLUMNS, and with masks MASK_COLUMNS, of every run and image (R, N); and which maps are valid (R, N).

    Args:
        cams: R runs' maps (N, H, W) in 0..1.
        masks: (N, h, w) in 0..1; an image without a lesion has no figures of its mask.
    """
    names = SHAPE_COLUMNS if masks is None else (*SHAPE_COLUMNS, *MASK_COLUMNS)
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    valid = []
    for cam in cams:
        found = map_shape(torch.from_numpy(cam), masks)
        if masks is not None:
            no_lesion = masks.amax((1, 2)) == 0
            found["mask_energy"] = found["mask_energy"].masked_fill(no_lesion, torch.nan)
        for name, column in columns.items():
            column.append(found[name].numpy())
        valid.append(found["valid"].numpy())
    return {name: np.stack(column) for name, column in columns.items()}, np.stack(valid)
