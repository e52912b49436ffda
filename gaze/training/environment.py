"""What a run ran on: versions, device, commit."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

import gaze
from gaze.config.train import TrainConfig, config_hash

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics", "numpy", "timm", "pillow", "kagglehub")


def environment(config: TrainConfig, trainer: Trainer) -> dict[str, Any]:
    """What made a run: versions, device, commit, command."""
    return {
        "config_hash": config_hash(config),
        "command": " ".join(sys.argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(trainer),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "packages": {"gaze": gaze.__version__, **{package: _version(package) for package in PACKAGES}},
    }


def device_name(trainer: Trainer) -> str:
    """Kind and name of the device, such as ``cuda (NVIDIA H100)``."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return f"{device.type} ({name})"


def _commit() -> str | None:
    """Commit of this source tree, "+dirty" where it has changes; None outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def processor_name() -> str:
    """The processor's name, which Python itself does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
