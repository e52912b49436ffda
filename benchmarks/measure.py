"""Two things timed in turn, A B A B ..., and their ratios as a Markdown table.

Absolute times drift with the machine's load and clock; the ratio of two neighbours drifts far less, so the
figure of a row is the median of the ratios of its pairs.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

from gaze.training.environment import processor_name

REPO = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics")
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """What the command line asked for.

    Attributes:
        device: where tensors live.
        quick: the smallest setting, to see that a row runs; its figures mean nothing.
        threads: of PyTorch on the CPU, here and in child processes.
        pairs: A B pairs of a row; None leaves it to the row.
        data: folder of the Brain Tumor set.
        runs: of the rows about many of them.
    """

    device: torch.device
    quick: bool
    threads: int
    pairs: int | None
    data: Path
    runs: int

    @property
    def image_size(self) -> int:
        return 64 if self.quick else 224  # the last map of most networks has 2x2 cells at 64

    @property
    def batch_size(self) -> int:
        return 8 if self.quick else 32

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def number(self, cpu: int, cuda: int, quick: int = 2) -> int:
        """A count of things that depends on how fast the device is."""
        return quick if self.quick else cuda if self.cuda else cpu

    def number_of_pairs(self, cpu: int = 7, cuda: int = 20) -> int:
        return self.pairs or self.number(cpu, cuda, quick=1)


@dataclass
class Sample:
    """Seconds of each call of one of the two, and on a GPU the peak of its allocated bytes."""

    seconds: list[float] = field(default_factory=list)
    peak: int = 0


class Stopwatch:
    """Context manager: seconds (divided by ``repeat``) into a sample, with the GPU's queue empty at both ends."""

    def __init__(self, sample: Sample, device: torch.device, repeat: int = 1) -> None:
        self.sample = sample
        self.cuda = device.type == "cuda"
        self.repeat = repeat

    def __enter__(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            self.sample.peak = max(self.sample.peak, torch.cuda.max_memory_allocated())
        self.sample.seconds.append((time.perf_counter() - self.started) / self.repeat)


def interleave(
    a: Callable[[], object], b: Callable[[], object], settings: Settings, pairs: int, repeat: int = 1, warmup: int = 1
) -> tuple[Sample, Sample]:
    """Time ``a`` and ``b`` in turn.

    Args:
        a: the thing measured.
        b: what it is compared with.
        settings: the device.
        pairs: A B pairs.
        repeat: calls within one timing; a single one of a GPU's short steps is mostly noise.
        warmup: untimed calls of each first.
    """
    samples = Sample(), Sample()
    for call in (a, b):
        for _ in range(warmup):
            call()
    for _ in range(pairs):
        for call, sample in zip((a, b), samples, strict=True):
            with Stopwatch(sample, settings.device, repeat):
                for _ in range(repeat):
                    call()
    return samples


@dataclass
class Section:
    """One Markdown table with its heading."""

    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        table = [self.header, ["---"] * len(self.header), *self.rows] if self.rows else []
        lines = [f"| {' | '.join(row)} |" for row in table]
        parts = [f"## {self.title}", "\n".join(lines), "\n".join(f"- {note}" for note in self.notes)]
        return "\n\n".join(part for part in parts if part)


def comparison(title: str, a: str, b: str, settings: Settings) -> Section:
    """An empty table for :func:`add_row`; ``a`` and ``b`` are column headings."""
    memory = ["peak memory A", "peak memory B"] if settings.cuda else []
    header = ["case", f"A: {a}", f"B: {b}", "A / B, median", "min .. max", "pairs", *memory, "target", "note"]
    return Section(title, header)


def add_row(
    section: Section,
    case: str,
    a: Sample,
    b: Sample,
    target: str,
    note: str = "",
    images: int | None = None,
) -> None:
    """Append a comparison; with ``images`` both are shown as images a second, and the ratio is of those."""
    pairs = list(zip(a.seconds, b.seconds, strict=True))
    ratios = [x / y if images is None else y / x for x, y in pairs]
    if not ratios or not all(math.isfinite(ratio) and ratio > 0 for ratio in ratios):
        raise RuntimeError(f"{section.title}, {case}: the ratios {ratios} are no measurement.")
    shown = [_amount(median(s.seconds), images) for s in (a, b)]
    memory = [f"{s.peak / MIB:.0f} MiB" for s in (a, b)] if "peak memory A" in section.header else []
    span = f"{min(ratios):.3f} .. {max(ratios):.3f}"
    section.rows.append([case, *shown, f"**{median(ratios):.3f}**", span, str(len(ratios)), *memory, target, note])


def _amount(seconds: float, images: int | None) -> str:
    if images is not None:
        return f"{images / seconds:,.0f} images/s"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.2f} ms"


def machine(settings: Settings) -> str:
    """Device, threads, versions: what a figure must not be quoted without."""
    name = torch.cuda.get_device_name(settings.device) if settings.cuda else processor_name()
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    lines = [
        f"device: {settings.device.type} ({name})",
        f"threads: {settings.threads}",
        f"versions: Python {platform.python_version()}, {packages}",
        f"date: {time.strftime('%Y-%m-%d %H:%M %z')}",
    ]
    return "\n".join(f"- {line}" for line in lines)
