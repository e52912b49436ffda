"""A network of one's own by commands alone: trained, interrupted and resumed, analysed, explained once trusted."""

import csv
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, TINY

from gaze.runs.run import Run

NET = """
import os, signal
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == int(os.environ.get("ENDS_AT_STEP", -1)):
            os.kill(os.getpid(), signal.SIGTERM)
        features = self.body(x)
        return {"features": features, "logits": self.head(features.mean((2, 3)))}
"""
SETTINGS = (
    *TINY[1:],
    "model=own",
    "model._target_=of_ones_own.Net",
    "model.output=logits",
    "model.width=6",
    "lambda=50",
)


@pytest.mark.slow
def test_a_network_of_ones_own_trains_resumes_and_is_analysed_and_explained(tmp_path):
    (tmp_path / "of_ones_own.py").write_text(NET, encoding="utf-8")

    def command(line, **more):
        words = [sys.executable, str(REPO / line[0]), *line[1:]]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **more})

    where = "hydra.run.dir=outputs/own/phantom/own-Net/lambda=50/seed=0"
    done = command(["train.py", *SETTINGS, "study=own", where], ENDS_AT_STEP="4")  # of 2 + 2, and one of the check
    assert done.returncode == 128 + signal.SIGTERM, done.stdout + done.stderr
    done = command(["train.py", *SETTINGS, "study=own", where])
    assert "Resumes after 1 of 2 epochs" in done.stdout and done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "outputs/own/phantom/own-Net/lambda=50/seed=0")
    assert run.label == "own-Net" and run.settings.model.kwargs == {"width": 6}
    assert [row["epoch"] for row in csv.DictReader(run.metrics_file.open())] == ["1", "2"]

    done = command(["analyze.py", "study=own"])  # tables need no network, and import none
    assert done.returncode == 0 and "own-Net" in done.stdout, done.stdout + done.stderr

    done = command(["analyze.py", f"explain={run.folder.relative_to(tmp_path)}"])
    assert done.returncode == 1 and "of_ones_own.Net, and looking with it runs that code" in done.stderr, done.stderr
    offered = shlex.split(done.stderr.strip().rpartition("If you trust it: ")[2])
    assert offered[2:] == [f"explain={run.folder.relative_to(tmp_path)}", "trust=true"]
    done = command(["analyze.py", *offered[2:]])
    assert done.returncode == 0, done.stdout + done.stderr
    maps = [np.load(file) for file in (tmp_path / "outputs/analysis").rglob("maps/*.npy")]
    assert len(maps) == 16 and {cam.shape for cam in maps} == {(16, 16)} and max(cam.max() for cam in maps) > 0
