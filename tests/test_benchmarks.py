"""Every benchmark row runs in its smallest setting and gives finite numbers. How fast is not a test's business."""

import re
import subprocess
import sys

import pytest
from conftest import REPO

FIGURE = re.compile(r"\d+(\.\d+)?")


@pytest.mark.parametrize(
    "rows",
    [("step", "validation", "maps", "precision", "memory"), ("fit", "gpu-run", "input"), ("start",), ("grid",)],
    ids="-".join,
)
def test_rows_run_and_give_finite_numbers(rows):
    command = [sys.executable, str(REPO / "benchmarks" / "run.py"), *rows, "--quick", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sections = done.stdout.split("\n## ")[1:]
    assert len(sections) == len(rows)
    for section in sections:
        table = [line for line in section.splitlines() if line.startswith("| ")][2:]
        assert "Skipped: " in section or (table and all(FIGURE.search(line) for line in table)), section
        assert not re.search(r"\b(nan|inf)\b", section), section
