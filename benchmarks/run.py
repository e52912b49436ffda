"""The project's benchmarks: ``python benchmarks/run.py ROW [ROW ...]``. Rows and targets: benchmarks/README.md.

Every figure is a ratio of two things timed in turn in one process (or in child processes, in turn).
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import commands
import compute
import many_runs
import pipeline
import torch
from measure import REPO, Section, Settings, machine

from gaze.training.allocator import keep_freed_memory

ROWS: dict[str, Callable[[Settings], list[Section]]] = {
    "step": compute.step,
    "validation": compute.validation,
    "networks": compute.networks,
    "fit": pipeline.fit,
    "maps": compute.maps,
    "input": pipeline.input_pipeline,
    "precision": compute.precision,
    "memory": compute.memory,
    "kept": compute.kept,
    "start": commands.start,
    "allocator": commands.allocator,
    "grid": commands.grid,
    "restart": many_runs.restart,
    "analysis": many_runs.analysis,
    "gpu-run": pipeline.gpu_run,
}


def read_arguments() -> tuple[list[str], Settings]:
    parser = argparse.ArgumentParser(description="Benchmarks, as Markdown tables.")
    parser.add_argument("rows", nargs="+", choices=[*ROWS, "all"], metavar="ROW", help=", ".join([*ROWS, "all"]))
    parser.add_argument(
        "--quick", action="store_true", help="smallest setting: shows that a row runs, measures nothing"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch on the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pairs", type=int, default=None, help="A B pairs (fit and gpu-run: epochs) of each case")
    parser.add_argument("--data", type=Path, default=default_data(), help="folder of the Brain Tumor set")
    parser.add_argument("--runs", type=int, default=1000, help="of restart and analysis")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here.")
    rows = list(ROWS) if "all" in given.rows else given.rows
    return rows, Settings(
        torch.device(given.device),
        given.quick,
        given.threads,
        given.pairs,
        given.data.expanduser().resolve(),
        given.runs,
    )


def default_data() -> Path:
    """Where the tests look for it as well."""
    shared = Path(os.environ.get("GAZE_SHARED_DATA", REPO.parent / "shared" / "data"))
    return shared / "brain_tumor_mri"


def quiet() -> None:
    """Lightning's advice would stand between the tables."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")


def main() -> None:
    rows, settings = read_arguments()
    torch.set_num_threads(settings.threads)
    if settings.device.type == "cpu":
        keep_freed_memory()  # as train.py does: without it both sides of a ratio are slower
    quiet()
    print(f"# Benchmarks\n\n{machine(settings)}\n- command: {shlex.join(['python', *sys.argv])}", flush=True)
    if settings.quick:
        print("- quick: these figures say that the rows run, nothing more")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GAZE_CACHE"] = cache  # a first load is then a first load, and the user's own cache stays as it is
        for row in rows:
            run_row(row, settings)


def run_row(row: str, settings: Settings) -> None:
    torch.use_deterministic_algorithms(False)  # a Trainer of an earlier row leaves it on for the whole process
    for section in ROWS[row](settings):
        print(f"\n{section}", flush=True)


if __name__ == "__main__":
    main()
