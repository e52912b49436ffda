"""Every benchmark row runs in its smallest setting and gives finite numbers. How fast is not a test's business."""

import os
import re
import subprocess
import sys

import pytest
from conftest import REPO

FIGURE = re.compile(r"\d+(\.\d+)?")


ALL = pytest.mark.skipif("GAZE_ALL_BENCHMARKS" not in os.environ, reason="minutes: set GAZE_ALL_BENCHMARKS=1")


@pytest.mark.parametrize(
    "rows",
    [
        ("maps", "memory", "kept", "gpu-run"),
        pytest.param(("networks",), marks=ALL),
        pytest.param(("step", "validation", "precision", "allocator"), marks=ALL),
        pytest.param(("fit", "input"), marks=ALL),
        pytest.param(("start", "grid"), marks=ALL),
        pytest.param(("restart", "analysis"), marks=ALL),
    ],
    ids="-".join,
)
@pytest.mark.slow
def test_rows_run_and_give_finite_numbers(rows):
    command = [sys.executable, str(REPO / "benchmarks" / "run.py"), *rows, "--quick", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sections = done.stdout.split("\n## ")[1:]
    assert len(sections) == len(rows) + ("networks" in rows)  # which has two
    for section in sections:
        table = [line for line in section.splitlines() if line.startswith("| ")][2:]
        assert "Skipped: " in section or (table and all(FIGURE.search(line) for line in table)), section
        assert not re.search(r"\b(nan|inf)\b", section), section
