"""Rows about whole commands, run as a user runs them: start and grid."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from measure import REPO, Sample, Section, Settings, add_row, comparison

MARK = "reached"  # what a child prints, and ends, where its clock stops
IMPORTS = f"import torch, torchvision, lightning, hydra; print({MARK!r}, flush=True)"
LEVELS = ("level1", "level2", "level3", "level4", "level5")
LAMBDAS = ("-100", "0", "50", "100", "500")


def start(settings: Settings) -> list[Section]:
    """From the command to the first training step, from the second start on."""
    section = comparison("Start", "train.py to its first step", "the imports alone", settings)
    small = ["dataset.train_images=16", "dataset.test_images=8"] if settings.quick else []
    _start_row(section, "phantom", small, settings)
    if not settings.data.is_dir():
        section.notes.append(f"Brain Tumor skipped: no folder {settings.data} (--data PATH or GAZE_SHARED_DATA).")
    elif not settings.quick:
        _start_row(section, "Brain Tumor", ["dataset=brain_tumor_mri", f"dataset.root={settings.data}"], settings)
    section.notes.append("Both clocks stop at a line that the child prints, so Python's own exit is in neither.")
    return [section]


def _start_row(section: Section, case: str, overrides: list[str], settings: Settings) -> None:
    child = str(Path(__file__).with_name("first_step.py"))
    ours = [sys.executable, child, f"trainer.accelerator={_accelerator(settings)}", *overrides]
    theirs = [sys.executable, "-c", IMPORTS]
    a, b = Sample(), Sample()
    with tempfile.TemporaryDirectory() as folder:
        first = _seconds_to_mark(ours, folder, settings)  # fills caches; only later starts count
        _seconds_to_mark(theirs, folder, settings)
        for _ in range(settings.number_of_pairs(cpu=5, cuda=5)):
            a.seconds.append(_seconds_to_mark(ours, folder, settings))
            b.seconds.append(_seconds_to_mark(theirs, folder, settings))
    gap = median(x - y for x, y in zip(a.seconds, b.seconds, strict=True))
    add_row(section, case, a, b, "<= 1.3", f"A - B {gap:.2f} s; first start {first:.1f} s")


def _seconds_to_mark(command: list[str], folder: str, settings: Settings) -> float:
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment_of(settings, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        seconds = next((time.perf_counter() - started for line in child.stdout if line.strip() == MARK), None)
        errors = child.stderr.read()
    if seconds is None:
        raise RuntimeError(f"{' '.join(command)} did not get there:\n{errors[-2000:]}")
    return seconds


def allocator(settings: Settings) -> list[Section]:
    """What it brings a CPU that freed memory stays in the process: a plain training step with and without."""
    section = comparison("Allocator", "freed memory kept", "glibc's default", settings)
    if settings.cuda or not sys.platform.startswith("linux"):
        section.notes.append("Skipped: it is about glibc and a CPU.")
        return [section]
    cases = [("level1", "fp32"), ("level2", "fp32"), ("level2", "bf16"), ("level3", "fp32")]
    for model, precision in cases[: 1 if settings.quick else None]:
        a, b = Sample(), Sample()
        for _ in range(settings.number_of_pairs(cpu=3)):
            for mode, sample in (("kept", a), ("default", b)):
                sample.seconds.append(_seconds_of_a_step(model, precision, mode, settings))
        add_row(section, f"{model}, {precision}", a, b, "as measured")
    section.notes.append("Each figure is the median of 3 steps in a process of its own.")
    return [section]


def _seconds_of_a_step(model: str, precision: str, mode: str, settings: Settings) -> float:
    child = str(Path(__file__).with_name("one_step.py"))
    words = [model, precision, mode, str(settings.threads), "quick" if settings.quick else "full"]
    done = subprocess.run([sys.executable, child, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{child} {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return float(done.stdout)


def grid(settings: Settings) -> list[Section]:
    """README's grid on the phantom, from the command to its last run."""
    models, lambdas = (LEVELS[:2], ("0", "50")) if settings.quick else (LEVELS, LAMBDAS)
    words = ["-m", f"model={','.join(models)}", f"lambda={','.join(lambdas)}"]
    small = ["trainer.max_epochs=1", "dataset.train_images=32", "dataset.test_images=32", "dataset.image_size=32"]
    words += [f"trainer.accelerator={_accelerator(settings)}", *(small if settings.quick else [])]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        _run([sys.executable, str(REPO / "train.py"), *words], folder, settings)
        minutes = (time.perf_counter() - started) / 60
        runs = Path(folder) / "outputs" / "default" / "phantom"
        complete = sum(_is_complete(path) for path in runs.rglob("status.json"))
        kappas = {model: _last_kappa(runs / model / "lambda=0" / "seed=0") for model in models}
    rows = [["minutes", f"{minutes:.1f}", "<= 30"], ["complete runs", str(complete), str(len(models) * len(lambdas))]]
    rows += [[f"last kappa of {m}, lambda=0", f"{k:.3f}", "> 0.8"] for m, k in kappas.items() if m != "level1"]
    return [Section(f"Grid: train.py {' '.join(words)}", ["what", "measured", "target"], rows)]


def _run(command: list[str], folder: str, settings: Settings) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment_of(settings, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")


def _is_complete(path: Path) -> bool:
    return json.loads(path.read_text(encoding="utf-8")).get("state") == "complete"


def _last_kappa(folder: Path) -> float:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["val/kappa"])


def _accelerator(settings: Settings) -> str:
    return "gpu" if settings.cuda else "cpu"


def environment_of(settings: Settings, folder: str) -> dict[str, str]:
    """Of a child in ``folder``, which keeps its cache there: the first start finds none, the second does."""
    return {**os.environ, "OMP_NUM_THREADS": str(settings.threads), "GAZE_CACHE": str(Path(folder) / "cache")}
