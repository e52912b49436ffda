"""Typed schema of ``conf/analyze.yaml`` and its rules; :mod:`gaze.config.train` checks with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gaze.config.data import is_folder_name

KINDS = ("auto", "consistency", "augmentation")  # of an analysis
LEFT_OUT = ("unfinished", "failed", "duplicate")  # runs that an analysis takes only when asked to


@dataclass
class CompareConfig:
    """Group ``compare``: how an augmentation study holds CAMs against each other."""

    baseline: str = "none"  # the arm that the others are held against
    images: int | None = 1000  # evaluation images at most, of each class alike; null takes all
    checkpoint: str = "last"  # last | best
    device: str = "auto"  # auto | cpu | cuda


@dataclass
class AnalyzeConfig:
    """The whole of ``conf/analyze.yaml``."""

    source: str = "outputs"  # a folder of runs, or a tidy CSV
    study: str | None = None  # one study; null takes all, apart from each other
    include: list[str] = field(default_factory=list)  # of LEFT_OUT
    kind: str = "auto"  # auto | consistency | augmentation
    check: str | None = None  # a run folder: is its gaze faithful?
    check_images: int | None = 200  # evaluation images at most, of each class alike; null takes all
    explain: str | None = None  # a run folder: where does its network look?
    images: str | None = None  # of explain: a folder or a file; null takes the run's evaluation images
    compare: CompareConfig = field(default_factory=CompareConfig)


def analysis_problems(a: AnalyzeConfig) -> list[str]:
    """What is out of its range, a line each."""
    c = a.compare
    rules = [
        *((name in LEFT_OUT, f"include={name} is unknown: {', '.join(LEFT_OUT)}.") for name in a.include),
        (
            a.study is None or is_folder_name(a.study),
            f"study={a.study} names a folder: give one name without a slash.",
        ),
        (a.kind in KINDS, f"kind={a.kind} is unknown: {', '.join(KINDS)}."),
        (a.check is None or a.explain is None, "check and explain are two questions: give one of them at a time."),
        (a.images is None or a.explain is not None, f"images={a.images} belongs to explain=RUN: name the run, too."),
        (
            a.check_images is None or a.check_images >= 10,
            f"check_images={a.check_images} must be 10 or more, or null for all.",
        ),
        (c.images is None or c.images >= 10, f"compare.images={c.images} must be 10 or more, or null for all."),
        (c.checkpoint in ("last", "best"), f"compare.checkpoint={c.checkpoint} must be last or best."),
        (c.device in ("auto", "cpu", "cuda"), f"compare.device={c.device} must be auto, cpu or cuda."),
    ]
    return [message for ok, message in rules if not ok]
