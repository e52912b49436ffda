"""A grid of runs as one thing: checked before it starts, watched while it goes on, summed up at its end.

No PyTorch here: the process that starts a grid under Ray or SLURM trains nothing itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table

from gaze.choices import did_you_mean
from gaze.errors import BusyError, ConfigError, GazeError
from gaze.runs.collapse import shortly
from gaze.runs.folder import changed_images, plan_run
from gaze.runs.run import Run
from gaze.runs.status import state_of, wait_for_sign, written
from gaze.terminal import table

MOST = 12  # problems shown of a grid
NAME = 32  # characters of a run's name in its table
Say = Callable[[str], None]
Grid = dict[str, list[str]]


def selected(grids: Sequence[Grid], given: Grid) -> list[Grid]:
    """Those of an experiment's grids that have the values given. Where all grids are alike in a key, these replace
    theirs; where they differ by it, as by the augmentation, these select among theirs.

    Args:
        grids: overrides of each key, one for each of its values.
        given: those of the command line.

    Raises:
        ConfigError: a value would be lost, because no grid has it, or none beside the others that are given.
    """
    alike = {key: words for key, words in given.items() if all(g.get(key) == grids[0].get(key) for g in grids)}
    wanted = {key: set(map(_value, words)) for key, words in given.items() if key not in alike}
    found: list[Grid] = []
    for grid in grids:
        own = {key: [w for w in words if _value(w) in wanted.get(key, {_value(w)})] for key, words in grid.items()}
        found.append(own | {key: [] for key in wanted if key not in grid} | alike)
    left = [grid for grid in found if all(grid.values())]
    problems = [
        _lost(key, word, grids, found)
        for key in wanted
        for word in given[key]
        if not any(_value(word) in map(_value, grid[key]) for grid in left)
    ]
    if problems:
        raise ConfigError(shortened(problems))
    return left


def _lost(key: str, word: str, grids: Sequence[Grid], found: Sequence[Grid]) -> str:
    """Why no run has a value: there is none, or only beside other values than those given."""
    value = _value(word)
    there = {_value(w): w.partition("=")[2] for grid in grids for w in grid.get(key, [])}
    if value not in there:
        near = did_you_mean(str(value), there.values())
        if isinstance(value, float):
            numbers = sorted((v for v in there if isinstance(v, float)), key=lambda v: abs(v - value))
            near = f"Nearest: {', '.join(there[v] for v in numbers[:3])}."
        return f"{word.lstrip('+')}: no grid of this experiment has it. {near or 'It has ' + ', '.join(there.values())}"
    own = [(grid, left) for grid, left in zip(grids, found, strict=True) if value in map(_value, left.get(key, []))]
    beside = {w for grid, left in own for other in left if not left[other] for w in grid.get(other, [f"no {other}"])}
    return f"{word.lstrip('+')}: this experiment has it with {', '.join(sorted(beside))} only."


def _value(word: str) -> float | str:
    value = word.partition("=")[2]
    try:
        return float(value)
    except ValueError:
        return value


class Outcome(NamedTuple):
    """What became of a run."""

    state: str  # complete, failed, interrupted, running, left
    kappa: float | None
    gaze: float | None
    seconds: float | None
    error: str
    collapsed: str = ""  # how, in the words of a cell; its gaze then says nothing


def runs_left(runs: Sequence[Run]) -> list[Run]:
    """The runs of a grid that are not finished yet; those that another process is at work on come last.

    Raises:
        ConfigError: two runs share a folder, or folders hold other settings; all of them are named.
    """
    free, busy, problems = [], [], []
    for folder, number in Counter(run.folder for run in runs).items():
        if number > 1:
            problems.append(f"{number} runs of this grid have the folder {folder}. Give each settings of its own.")
    for run in runs:
        try:
            if plan_run(run).action != "skip":
                free.append(run)
        except BusyError:
            busy.append(run)
        except GazeError as error:
            problems.append(f"{' '.join(run.words)}: {error}")
    if problems:
        raise ConfigError(shortened(problems))
    return free + busy


def changed_line(finished: Sequence[Run]) -> str | None:
    """A sentence on finished runs whose images are other ones now; None where there is none."""
    seen: dict[str, Any] = {}
    changed = [(run, changes) for run in finished if (changes := changed_images(run, seen))]
    if not changed:
        return None
    (run, changes), *others = changed
    more = f" and {len(others)} more" if others else ""
    return (
        f"note: {' '.join(run.words)}{more} finished with other images than those at hand: {'; '.join(changes)}. "
        "rerun=true trains them anew."
    )


def shortened(problems: Sequence[str]) -> str:
    """Different problems one below the other, the first ones if there are many."""
    different = list(dict.fromkeys(problems))
    rest = len(different) - MOST
    return "\n".join([*different[:MOST], *([f"... and {rest} more"] if rest > 0 else [])])


def outcome(run: Run, error: BaseException | None = None, before: Mapping[str, Any] | None = None) -> Outcome:
    """What a run's folder says; ``error`` is what the launcher saw, for a run that left no status.

    Args:
        run: of the grid.
        error: from the launcher.
        before: the run's status before the grid was started. A run that still has it has not been begun since, and how
            an earlier start of it ended is no outcome of this one.
    """
    status = run.status
    state = state_of(status, run.folder) or "left"
    if status == before and state in ("failed", "interrupted"):
        status, state = {}, "left"
    metrics = status.get("metrics", {})
    text = str(status.get("error", ""))
    if state == "running":
        text = f"trained by process {status.get('pid')} on {status.get('host')}"
    elif state != "complete" and status.get("state") != "interrupted" and error is not None and not text:
        # one that was killed waits to go on from where it was
        state, text = "interrupted" if state == "interrupted" else "failed", f"{type(error).__name__}: {error}"
    if state == "interrupted" and not text:
        text = "killed" if status.get("state") == "running" else "ended by a signal"
    return Outcome(
        state,
        metrics.get("val/kappa"),
        metrics.get("val/gaze_consistency"),
        status.get("seconds"),
        text.splitlines()[0] if text and state != "complete" else "",
        shortly(run.collapse),
    )


def grid_table(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> Table:
    """All runs of a grid in 80 columns of a terminal, a line each; what is the same in all of them stands above."""
    common, numbers, rows = _common(runs), ("kappa", "L_CAM", "took"), []
    for run, o in zip(runs, outcomes, strict=True):
        shown = ["" if value is None else f"{value:.4f}" for value in (o.kappa, o.gaze)]
        shown[1] = o.collapsed or shown[1]
        took = "" if o.seconds is None else duration(o.seconds)
        rows.append([_shortened(_own_words(run, common)), o.state, *shown, took])
    return table(" ".join([f"{len(runs)} runs", *common]), ["run", "state", *numbers], rows, numbers)


def error_lines(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> list[str]:
    """Each different error of a grid, behind the first run that ended with it and the number of the others."""
    common, ended = _common(runs), defaultdict(list)
    for run, o in zip(runs, outcomes, strict=True):
        if o.error:
            ended[f"{o.state}: {o.error}"].append(" ".join(_own_words(run, common)) or "the run")
    others = {error: f" and {len(names) - 1} more" if len(names) > 1 else "" for error, names in ended.items()}
    return [f"{names[0]}{others[error]}: {error}" for error, names in ended.items()]


def _common(runs: Sequence[Run]) -> list[str]:
    names = [run.words for run in runs]
    return [word for word in names[0] if len(runs) > 1 and all(word in own for own in names)] if names else []


def _own_words(run: Run, common: Sequence[str]) -> list[str]:
    return [word for word in run.words if word not in common]


def _shortened(words: Sequence[str]) -> str:
    """In a line of :data:`NAME` characters: the longest words lose their beginnings, lambda and seed stay."""
    words = list(words)
    while len(" ".join(words)) > NAME:
        longest = max((word for word in words if not word.startswith(("lambda=", "seed="))), key=len, default="")
        if len(longest) < 3:
            break
        words[words.index(longest)] = "…" + longest.lstrip("…")[1:]
    return " ".join(words)[:NAME]


# ---- while it goes on


class Progress(NamedTuple):
    """A grid at one moment."""

    done: int
    running: int
    failed: int
    interrupted: int
    left: int
    seconds_left: float | None

    def line(self) -> str:
        """``grid: 12 done, 2 running, 1 failed, 10 left; about 14 min to go``."""
        interrupted = f", {self.interrupted} interrupted" if self.interrupted else ""
        parts = f"grid: {self.done} done, {self.running} running, {self.failed} failed{interrupted}, {self.left} left"
        if self.seconds_left is None or self.running + self.left == 0:
            return parts
        return f"{parts}; about {duration(self.seconds_left)} to go"


def progress(runs: Sequence[Run], ended: set[Path], at_once: int = 1, elapsed: float = 0.0) -> Progress:
    """Counts, and the time left from what finished runs of the same model and data set took, or what those that go on
    will take.

    Args:
        runs: all runs of the grid.
        ended: folders of runs that this start of the grid has seen end; an old "failed" does not count.
        at_once: how many run side by side.
        elapsed: seconds since this start: what they exceed the runs' own time by, such as the start of processes,
            is expected of the others too.
    """
    states = {run.folder: _state_now(run, ended) for run in runs}
    counts = Counter(states.values())
    finished, going_on = (_seconds_by_model(runs, states, state) for state in ("complete", "running"))
    known = going_on | finished
    left = None
    if known:
        everything = [value for values in known.values() for value in values]
        expected = {run.folder: fmean(known.get(run.words[:2], everything)) for run in runs}
        open_ = sum(expected[f] for f, state in states.items() if state == "left")
        now = time.time()  # a run's file of settings is as old as its status
        ages = {r.folder: now - written(r.config_file, now) for r in runs if states[r.folder] == "running"}
        begun = sum(max(0.0, expected[f] - age) for f, age in ages.items())
        used = sum(expected[f] for f in ended if states[f] == "complete") + sum(ages.values())
        overhead = max(1.0, elapsed * at_once / used) if used and ended else 1.0
        left = (open_ + begun) * overhead / max(1, at_once)
    c = counts
    return Progress(c["complete"], c["running"], c["failed"], c["interrupted"], c["left"], left)


def _seconds_by_model(runs: Sequence[Run], states: dict[Path, str], state: str) -> dict[tuple[str, ...], list[float]]:
    """What each run in a state took, or expects to take, by data set and model."""
    known: dict[tuple[str, ...], list[float]] = {}
    for run in runs:
        status = run.status
        seconds = float(status.get("seconds", 0.0))  # of a run that goes on: of its earlier starts
        if state == "running":
            begun = written(run.config_file, time.time())
            seconds = seconds + status["ends"] - begun if "ends" in status else 0.0
        if states[run.folder] == state and seconds > 0:
            known.setdefault(run.words[:2], []).append(seconds)
    return known


def _state_now(run: Run, ended: set[Path]) -> str:
    if run.finished:
        return "complete"
    state = run.state
    if state == "running" or (state in ("failed", "interrupted") and run.folder in ended):
        return state
    return "left"  # or about to go on: what was there has made room


def duration(seconds: float) -> str:
    """``40 s``, ``14 min`` or ``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def watched(runs: Sequence[Run], left: Sequence[Run], say: Say) -> Iterator[None]:
    """Say how the grid stands each time a run begins or ends, while the ``with`` block launches them."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(runs, left, say, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(runs: Sequence[Run], left: Sequence[Run], say: Say, stop: threading.Event) -> None:
    shown: tuple[int | bool, ...] | None = None
    begun, at_once, took = time.time(), 1, 0.0
    while True:
        last = stop.wait(max(1.0, 20 * took))  # hundreds of folders take a while to look at: 5 % of a core at most
        look = time.monotonic()
        states = {run.folder: run.state for run in left}
        over = ("complete", "failed", "interrupted")
        ended = {r.folder for r in left if states[r.folder] in over and written(r.status_file) >= begun}
        at_once = max(at_once, list(states.values()).count("running"))
        now = progress(runs, ended, at_once, time.time() - begun)
        counts = (*now[:-1], now.seconds_left is None)
        if counts != shown:
            shown = counts
            say(now.line())
        took = time.monotonic() - look
        if last:
            return


def refused(runs: Sequence[Run], errors: Mapping[Path, BaseException]) -> list[Run]:
    """Those of ``runs`` that found another process at work, which is there no longer and has not finished them."""
    found = [run for run in runs if isinstance(errors.get(run.folder), BusyError)]
    for run in found:
        wait_for_sign(run.folder)
    return [run for run in found if run.state not in ("running", "complete")]


def to_start_again(runs: Sequence[Run], seen: Mapping[Path, Mapping[str, Any]]) -> list[Run]:
    """Those of ``runs`` that were killed or have not begun since ``seen``, their status by folder. What was asked to
    end, as by scancel, is left to the next command.
    """
    killed = {run.folder for run in runs if run.status.get("state") == "running"}
    return [run for run in runs if not run.finished and (run.folder in killed or run.status == seen[run.folder])]


def wait_until_quiet(runs: Sequence[Run], seconds: float = 10.0) -> None:
    """Return when none of ``runs`` has been at work for ``seconds``: a launcher may have started others before it
    broke off.
    """
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < seconds:
        if any(run.state == "running" for run in runs):
            quiet_since = time.monotonic()
        time.sleep(0.5)
