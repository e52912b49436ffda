"""gaze.training.allocator: freed memory stays in the process, and nothing else changes."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from gaze.training.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
total = 0.0
for step in range(24):
    if step == 8:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    total += torch.full((16 << 20,), 0.5).sum().item()  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, total)
"""


def run(mode: str) -> tuple[int, float]:
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True)
    faults, total = done.stdout.split()
    return int(faults), float(total)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
@pytest.mark.slow
def test_pages_are_faulted_in_once():
    plain, kept = run("plain"), run("kept")
    assert kept[0] < plain[0] / 10
    assert kept[1] == plain[1]
