"""A network of one's own by commands alone: trained, interrupted and resumed, analysed, explained once trusted."""

import csv
import os
import shlex
import shutil
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


pytestmark = pytest.mark.slow


def command(home, *words, **more):
    line = [sys.executable, str(REPO / words[0]), *words[1:]]
    return subprocess.run(line, cwd=home, capture_output=True, text=True, env={**os.environ, **more})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Interrupted in its second epoch, then resumed by the same command."""
    home = tmp_path_factory.mktemp("own")
    (home / "of_ones_own.py").write_text(NET, encoding="utf-8")
    found = Run(home / "outputs/own/phantom/own-Net/lambda=50/seed=0")
    words = ("train.py", *SETTINGS, "study=own", f"hydra.run.dir={found.folder.relative_to(home)}")
    done = command(home, *words, ENDS_AT_STEP="3")  # of 2 + 2
    assert done.returncode == 128 + signal.SIGTERM, done.stdout + done.stderr
    done = command(home, *words)
    assert "Resumes after 1 of 2 epochs" in done.stdout and done.returncode == 0, done.stdout + done.stderr
    return found


def test_it_trains_resumes_and_is_analysed_without_an_import(run):
    assert run.label == "own-Net" and run.settings.model.kwargs == {"width": 6}
    with run.metrics_file.open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    home = run.folder.parents[5]
    shutil.move(home / "of_ones_own.py", home / "away")
    done = command(home, "analyze.py", "study=own")
    shutil.move(home / "away", home / "of_ones_own.py")
    assert done.returncode == 0 and "own-Net" in done.stdout, done.stdout + done.stderr


def test_it_is_explained_by_the_command_that_the_refusal_offers(run):
    home = run.folder.parents[5]
    where = run.folder.relative_to(home)
    done = command(home, "analyze.py", f"explain={where}")
    assert done.returncode == 1 and "of_ones_own.Net, and looking with it runs that code" in done.stderr, done.stderr
    offered = shlex.split(done.stderr.strip().rpartition("If you trust it: ")[2])
    assert offered[2:] == [f"explain={where}", "trust=true"]
    done = command(home, "analyze.py", *offered[2:])
    assert done.returncode == 0, done.stdout + done.stderr
    maps = [np.load(file) for file in (home / "outputs/analysis").rglob("maps/*.npy")]
    assert len(maps) == 16 and {cam.shape for cam in maps} == {(16, 16)} and max(cam.max() for cam in maps) > 0
