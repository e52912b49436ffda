"""A grid of runs as one thing: checked before it starts, watched while it goes on, summed up at its end.

No PyTorch here: the process that starts a grid under Ray or SLURM trains nothing itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from gaze.config.train import TrainConfig
from gaze.errors import BusyError, ConfigError, GazeError
from gaze.runs.folder import finished_run, is_finished
from gaze.runs.status import STATUS_FILE, read_status, run_state

MOST = 12  # problems shown of a grid
Say = Callable[[str], None]


class Job(NamedTuple):
    """One run of a grid: its overrides as Hydra takes them, its settings, its folder."""

    overrides: list[str]
    config: TrainConfig
    folder: Path

    @property
    def name(self) -> str:
        """``phantom level2 lambda=50 seed=0``, with what else the folder's name holds."""
        c = self.config
        _, _, others = self.folder.name.partition(",")
        words = [c.dataset.name, c.model.label, f"lambda={c.lambda_:g}", f"seed={c.seed}", others.replace(",", " ")]
        return " ".join(word for word in words if word)


class Outcome(NamedTuple):
    """What became of a run."""

    state: str  # complete, failed, interrupted, running, left
    kappa: float | None
    gaze: float | None
    seconds: float | None
    error: str


def jobs_to_run(jobs: Sequence[Job]) -> list[Job]:
    """The runs of a grid that are not finished yet; those that another process is at work on come last.

    Raises:
        ConfigError: two runs share a folder, or folders hold other settings; all of them are named.
    """
    free, busy, problems = [], [], []
    for folder, number in Counter(job.folder for job in jobs).items():
        if number > 1:
            problems.append(f"{number} runs of this grid have the folder {folder}. Give each settings of its own.")
    for job in jobs:
        try:
            if finished_run(job.folder, job.config) is None:
                free.append(job)
        except BusyError:
            busy.append(job)
        except GazeError as error:
            problems.append(f"{job.name}: {error}")
    if problems:
        raise ConfigError(shortened(problems))
    return free + busy


def shortened(problems: Sequence[str]) -> str:
    """Different problems one below the other, the first ones if there are many."""
    different = list(dict.fromkeys(problems))
    rest = len(different) - MOST
    return "\n".join([*different[:MOST], *([f"... and {rest} more"] if rest > 0 else [])])


def outcome(job: Job, error: BaseException | None = None) -> Outcome:
    """What a job's folder says; ``error`` is what the launcher saw, for a run that left no status."""
    status = read_status(job.folder) or {}
    state = run_state(job.folder) or "left"
    metrics = status.get("metrics", {})
    text = str(status.get("error", ""))
    if state == "running":
        text = f"trained by process {status.get('pid')} on {status.get('host')}"
    elif state != "complete" and error is not None and not text:
        state, text = "failed", f"{type(error).__name__}: {error}"
    if state == "interrupted" and not text:
        text = "killed" if status.get("state") == "running" else "ended by a signal"
    return Outcome(
        state,
        metrics.get("val/kappa"),
        metrics.get("val/gaze_consistency"),
        status.get("seconds"),
        text.splitlines()[0] if text and state != "complete" else "",
    )


def grid_table(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> Table:
    """All runs of a grid for a terminal; what is the same in all of them stands above."""
    words = [job.name.split() for job in jobs]
    common = [word for word in words[0] if len(jobs) > 1 and all(word in own for own in words)] if words else []
    table = Table(title=" ".join([f"{len(jobs)} runs", *common]))
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for label in ("kappa", "gaze consistency", "seconds"):
        table.add_column(label, justify="right")
    with_errors = any(o.error for o in outcomes)
    if with_errors:
        table.add_column("error", overflow="fold", ratio=1)
    for own, o in zip(words, outcomes, strict=True):
        name = " ".join(word for word in own if word not in common)
        numbers = [_shown(o.kappa, ".4f"), _shown(o.gaze, ".4f"), _shown(o.seconds, ".0f")]
        table.add_row(name, o.state, *numbers, *([o.error] if with_errors else []))
    return table


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


# ---- while it goes on


class Progress(NamedTuple):
    """A grid at one moment."""

    done: int
    running: int
    failed: int
    left: int
    seconds_left: float | None

    def line(self) -> str:
        """``grid: 12 done, 2 running, 1 failed, 10 left; about 14 min to go``."""
        parts = f"grid: {self.done} done, {self.running} running, {self.failed} failed, {self.left} left"
        if self.seconds_left is None or self.running + self.left == 0:
            return parts
        return f"{parts}; about {duration(self.seconds_left)} to go"


def progress(jobs: Sequence[Job], ended: set[Path], at_once: int = 1, elapsed: float = 0.0) -> Progress:
    """Counts, and the time left from what finished runs of the same model and data set took.

    Args:
        jobs: all runs of the grid.
        ended: folders of runs that this start of the grid has seen end; an old "failed" does not count.
        at_once: how many run side by side.
        elapsed: seconds since this start: what they exceed the runs' own time by, such as the start of processes,
            is expected of the others too.
    """
    states = {job.folder: _state_now(job, ended) for job in jobs}
    counts = Counter(states.values())
    known: dict[tuple[str, str], list[float]] = {}
    for job in jobs:
        seconds = (read_status(job.folder) or {}).get("seconds")
        if states[job.folder] == "complete" and seconds:
            known.setdefault(_kind(job), []).append(float(seconds))
    left = None
    if known:
        everything = [value for values in known.values() for value in values]
        expected = {job.folder: _mean(known.get(_kind(job), everything)) for job in jobs}
        open_ = sum(expected[f] for f, state in states.items() if state == "left")
        ages = {f: _age(f) for f, state in states.items() if state == "running"}
        begun = sum(max(0.0, expected[f] - age) for f, age in ages.items())
        used = sum(expected[f] for f in ended if states[f] == "complete") + sum(ages.values())
        overhead = max(1.0, elapsed * at_once / used) if used and ended else 1.0
        left = (open_ + begun) * overhead / max(1, at_once)
    return Progress(counts["complete"], counts["running"], counts["failed"], counts["left"], left)


def _state_now(job: Job, ended: set[Path]) -> str:
    if is_finished(job.folder):
        return "complete"
    if run_state(job.folder) == "running":
        return "running"
    return "failed" if job.folder in ended else "left"


def _kind(job: Job) -> tuple[str, str]:
    return job.config.dataset.name, job.config.model.label


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _age(folder: Path) -> float:
    """Seconds since a run's status was first written, by its file of settings."""
    try:
        return max(0.0, time.time() - (folder / "config.json").stat().st_mtime)
    except OSError:
        return 0.0


def duration(seconds: float) -> str:
    """``40 s``, ``14 min`` or ``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def watched(jobs: Sequence[Job], left: Sequence[Job], say: Say, every: float = 1.0) -> Iterator[None]:
    """Say how the grid stands each time a run begins or ends, while the ``with`` block launches them."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(jobs, left, say, every, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(jobs: Sequence[Job], left: Sequence[Job], say: Say, every: float, stop: threading.Event) -> None:
    shown: tuple[int, ...] | None = None
    begun, at_once, took = time.time(), 1, 0.0
    while True:
        last = stop.wait(max(every, 20 * took))  # hundreds of folders take a while to look at: 5 % of a core at most
        look = time.monotonic()
        states = {job.folder: run_state(job.folder) for job in left}
        over = ("complete", "failed", "interrupted")
        ended = {folder for folder, state in states.items() if state in over and _written(folder) >= begun}
        at_once = max(at_once, list(states.values()).count("running"))
        now = progress(jobs, ended, at_once, time.time() - begun)
        if now[:4] != shown:
            say(now.line())
            shown = now[:4]
        took = time.monotonic() - look
        if last:
            return


def _written(folder: Path) -> float:
    try:
        return (folder / STATUS_FILE).stat().st_mtime
    except OSError:
        return 0.0


def wait_until_quiet(jobs: Sequence[Job], seconds: float = 10.0) -> None:
    """Return when none of ``jobs`` has been at work for ``seconds``: a launcher may have started others before it
    broke off.
    """
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < seconds:
        if any(run_state(job.folder) == "running" for job in jobs):
            quiet_since = time.monotonic()
        time.sleep(0.5)
