"""What became of a run: ``status.json`` in its folder, who is at work there, and files written whole or not at all."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from gaze.errors import BusyError, DataError, GazeError
from gaze.files import write_json
from gaze.runs.records import Status, read_facts

STATUS_FILE = "status.json"
LOCK_FILE = ".lock"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
BEAT = 15.0  # seconds between two signs of life
SILENCE = 90.0  # seconds without one after which a process on another machine is taken for dead
ENDS = (signal.SIGTERM, signal.SIGINT)  # signals that end a run; the others warn of it
WARNS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]  # Windows has neither
_heard: list[int] = []


class Interrupted(BaseException):
    """Somebody asked the run to end (SIGTERM, SIGINT): its state is saved. No Exception, so a grid ends as well.

    Attributes:
        signum: number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by signal {signum}")
        self.signum = signum


@contextmanager
def tracked(directory: Path, private: bool = False, **facts: Any) -> Iterator[dict[str, Any]]:
    """Keep ``directory/status.json`` true while a run goes on in the ``with`` block.

    state: "running" inside, then "complete", "failed" (with error and traceback) or "interrupted" (Ctrl-C, an exit
    that was asked for, or any error once a signal has asked for one: SLURM sends it to the run's children as well).
    A process that is killed leaves "running" behind; :func:`run_state` tells.

    Args:
        directory: the run's folder.
        private: errors may name files of patients; then only those of settings and training are kept.
        facts: written as well, all along. ``seconds_before`` counts earlier attempts in ``seconds``.

    Yields:
        A dict; what is put into it is written at the end.

    Raises:
        Interrupted: instead of an error, other than a :class:`GazeError`, behind SIGTERM or SIGINT.
    """
    before = float(facts.pop("seconds_before", 0.0))
    started, clock = time.strftime(TIME_FORMAT), time.monotonic()
    own = {"started": started, "host": socket.gethostname(), "pid": os.getpid(), **facts}
    results: dict[str, Any] = {}

    def note(state: str, **more: Any) -> None:
        write_json(directory / STATUS_FILE, {"state": state, **own, **more})

    def end(state: str, **more: Any) -> None:
        times = {"finished": time.strftime(TIME_FORMAT), "seconds": round(before + time.monotonic() - clock, 3)}
        note(state, **times, **results, **more)

    note("running", **({"seconds": before} if before else {}))
    with hearing() as heard:
        try:
            yield results
        except BaseException as error:
            asked = heard or isinstance(error, KeyboardInterrupt | SystemExit | Interrupted)
            named = private and (isinstance(error, DataError) or not isinstance(error, GazeError))
            said = "not kept, as it may name files of patients; it was shown when the run ended" if named else error
            told = {"error": f"{type(error).__name__}: {said}"} if not asked or isinstance(error, GazeError) else {}
            frames = "".join(traceback.format_tb(error.__traceback__)) if private else traceback.format_exc()
            told |= {} if asked else {"traceback": frames}
            with suppress(OSError):  # the disk may be full; what is raised says so
                end("interrupted" if asked else "failed", **told)
            ended = next((number for number in heard if number in ENDS), None)
            if ended is not None and isinstance(error, Exception) and not isinstance(error, GazeError):
                raise Interrupted(ended) from error
            raise
    end("complete")


@contextmanager
def hearing() -> Iterator[list[int]]:
    """Signals that ask this process to end, as they come, in whatever way they are handled; SLURM's warning of a
    time-out among them. One that nothing handles ends the process.
    """

    def hear(signum: int, frame: FrameType | None) -> Any:
        _heard.append(signum)
        return before[signum](signum, frame)

    _heard.clear()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # signals are heard there only
        handlers = {number: signal.getsignal(number) for number in (*ENDS, *WARNS)}
        before = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, hear)
        yield _heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def note_signal(signum: int) -> None:
    """To be called by a handler that was set inside of :func:`hearing`, in place of those that were there."""
    _heard.append(signum)


def note_progress(directory: Path, **facts: Any) -> None:
    """Add ``facts`` to ``status.json`` while the run goes on; its end leaves them out."""
    status = read_status(directory)
    if status.get("state") == "running":
        with suppress(OSError):  # the next one may come through
            write_json(directory / STATUS_FILE, {**status, **facts})


def read_status(directory: Path) -> dict[str, Any]:
    """What :func:`tracked` wrote into a folder; empty where that is not known."""
    return read_facts(directory / STATUS_FILE, Status)


def run_state(directory: Path) -> str | None:
    """State of a run as it is now: "running" only while a process works on it, "interrupted" where it was killed."""
    return state_of(read_status(directory), directory)


def state_of(status: Mapping[str, Any], directory: Path) -> str | None:
    """The same where :func:`read_status` was called already."""
    state = status.get("state")
    return "interrupted" if state == "running" and not is_busy(directory) else state


# ---- one process in one folder


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for this process; the system lets go when the process ends, however it ends.

    Raises:
        BusyError: another process holds it.
    """
    from filelock import FileLock, Timeout

    if _lives_elsewhere(directory):
        raise BusyError(busy_message(directory))
    lock, stop = FileLock(directory / LOCK_FILE), threading.Event()
    try:
        lock.acquire(timeout=2.0)  # some patience: is_busy holds it for a moment
    except Timeout:
        raise BusyError(busy_message(directory)) from None
    except NotImplementedError:  # a file system without locks: signs of life have to do
        pass
    beat = threading.Thread(target=_beat, args=(directory / STATUS_FILE, stop), daemon=True)
    try:
        beat.start()
        yield
    finally:
        stop.set()
        beat.join()
        lock.release()


def is_busy(directory: Path) -> bool:
    """Whether a living process holds ``directory``, here or on another machine."""
    from filelock import FileLock, Timeout

    if _lives_elsewhere(directory):
        return True
    if not (directory / LOCK_FILE).exists() or (directory / LOCK_FILE).is_symlink():  # which older locks would follow
        return False
    try:
        with FileLock(directory / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a folder that cannot be written to, or a file system without locks
        return False


def _beat(status: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with suppress(OSError):
            os.utime(status)


def _lives_elsewhere(directory: Path) -> bool:
    """Locks do not reach across machines on every shared file system; signs of life do."""
    status = read_status(directory)
    if status.get("state") != "running" or status.get("host") in (None, socket.gethostname()):
        return False
    return time.time() - written(directory / STATUS_FILE) < SILENCE


def written(path: Path, otherwise: float = 0.0) -> float:
    """When a file was written, in seconds since 1970."""
    try:
        return path.stat().st_mtime
    except OSError:
        return otherwise


def wait_for_sign(directory: Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Return when it is certain whether a process on another machine works in ``directory``: it has given another sign
    of life, or none for :data:`SILENCE` seconds, as after the end of that machine.
    """
    if not _lives_elsewhere(directory):
        return
    status, known = directory / STATUS_FILE, written(directory / STATUS_FILE)
    who = read_status(directory)
    say(
        f"{directory}: waits up to {SILENCE:.0f} s for a sign of life of process {who.get('pid')} on {who.get('host')}."
    )
    while _lives_elsewhere(directory) and written(status) == known:
        time.sleep(0.5)


def busy_message(directory: Path) -> str:
    """Who works in a folder, and what to do."""
    status = read_status(directory)
    who = f"process {status.get('pid', '?')} on {status.get('host', '?')}, since {status.get('started', '?')}"
    return f"{directory}: another process trains in this folder ({who}). Let it end, or give this run another study=."


def is_first_process() -> bool:
    """False in the other processes of a data-parallel run, whoever started them: Lightning, torchrun or SLURM."""
    return all(int(os.environ.get(name, "0")) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
