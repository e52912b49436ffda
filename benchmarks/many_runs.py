"""Rows about thousands of finished runs: their grid started again, and an analysis that reads them, or one study beside
them. The runs are made up out of one small real one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from commands import environment_of
from measure import MIB, REPO, Section, Settings

from gaze.config.model import ModelConfig
from gaze.config.naming import number, other_overrides
from gaze.files import write_json
from gaze.runs.run import Run
from gaze.training.callbacks import EpochTable

SMALL = (
    "dataset.train_images=16", "dataset.test_images=16", "dataset.image_size=32", "dataset.batch_size=8",
    "trainer.accelerator=cpu",
)  # fmt: skip
MODELS, SEEDS = ("level1", "level2"), 10
FEW = len(MODELS) * SEEDS  # runs of one lambda
# Linux counts what a process had before exec, so the one that is measured is begun by a small one.
WATCHED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stderr=subprocess.STDOUT)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
LEFT = ("checkpoints", "pictures", "events.*", "gaze_maps.npy")  # what neither command reads


def restart(settings: Settings) -> list[Section]:
    """A grid whose runs are all finished, started again."""
    section = Section("Restart of a finished grid", ["runs", "seconds of CPU", "MiB", "ms a run", "target"])
    with _runs(settings) as (folder, count):
        few, many = (_restarted(folder, runs, settings) for runs in (FEW, count))
    section.rows.append([f"{FEW}", f"{few[0]:.2f}", f"{few[1]:.0f}", "", ""])
    each = 1000 * (many[0] - few[0]) / (count - FEW)
    section.rows.append([f"{count}", f"{many[0]:.2f}", f"{many[1]:.0f}", f"{each:.2f}", "<= 5"])
    return [section]


def analysis(settings: Settings) -> list[Section]:
    """analyze.py of all runs, and of a small study beside them."""
    section = Section("Analysis of many runs", ["what", "runs read", "seconds of CPU", "MiB", "target"])
    with _runs(settings) as (folder, count):
        for study, read, target in (("few", FEW, "of few runs"), ("many", count, "<= 30 for 5,000")):
            seconds, memory = _measured([str(REPO / "analyze.py"), f"study={study}"], folder, settings)
            section.rows.append([f"study={study}", f"{read}", f"{seconds:.2f}", f"{memory:.0f}", target])
    return [section]


def _restarted(folder: Path, runs: int, settings: Settings) -> tuple[float, float]:
    grid = [f"model={','.join(MODELS)}", f"lambda=range({runs // FEW})", f"seed=range({SEEDS})"]
    return _measured([str(REPO / "train.py"), "-m", "study=many", *grid, *_words(settings)], folder, settings)


def _measured(words: Sequence[str], folder: Path, settings: Settings) -> tuple[float, float]:
    """Seconds of CPU of a command, and its MiB at the peak."""
    command = [sys.executable, "-S", "-c", WATCHED, sys.executable, *words]
    done = subprocess.run(
        command, cwd=folder, env=environment_of(settings, str(folder)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    seconds, kilobytes = done.stderr.split()[-2:]
    return float(seconds), float(kilobytes) * 1024 / MIB


@contextmanager
def _runs(settings: Settings) -> Iterator[tuple[Path, int]]:
    """A folder with ``outputs/many`` of so many finished runs, and ``outputs/few`` of one lambda."""
    count = 2 * FEW if settings.quick else settings.runs // FEW * FEW
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = _words(settings)
        _measured([str(REPO / "train.py"), "model=level1", *words, "hydra.run.dir=one"], folder, settings)
        one = Run(folder / "one")
        for study, runs in (("few", FEW), ("many", count)):
            for place in range(runs):
                _made_up(one, folder / "outputs" / study, place, other_overrides(words))
        yield folder, count


def _words(settings: Settings) -> list[str]:
    return [*SMALL, f"trainer.max_epochs={2 if settings.quick else 20}"]


def _made_up(one: Run, root: Path, place: int, others: str) -> None:
    """A run of its own settings, with curves of its own, as a training leaves it."""
    model, weight, seed = MODELS[place % 2], float(place // FEW), place // 2 % SEEDS
    own = {"study": root.name, "lambda_": weight, "seed": seed, "model": ModelConfig(name=model)}
    config, random = one.settings.model_copy(update=own), Random(place)
    run = Run(root / f"phantom/{model}/lambda={number(weight)}/seed={seed}{others}")
    shutil.copytree(one.folder, run.folder, ignore=shutil.ignore_patterns(*LEFT))
    table = EpochTable(run.metrics_file)
    for row in one.rows:
        learned = {key: row[key] * random.uniform(0.9, 1.0) for key in ("val/accuracy", "val/kappa", "val/loss")}
        gaze = {key: value * random.uniform(0.9, 1.0) for key, value in row.items() if key.startswith("val/gaze_")}
        table.rows.append(row | learned | gaze)
    table._write()
    write_json(run.config_file, config.to_dict())
    status = {**one.status, "metrics": table.rows[-1], "metrics_sha256": run.digest}
    write_json(run.status_file, status)
