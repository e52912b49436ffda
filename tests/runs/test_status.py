"""gaze.runs.status: what became of a run, and files that are written whole or not at all."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import filelock
import pytest
from conftest import REPO

import gaze.runs.status as status_module
from gaze.errors import BusyError, TrainingError
from gaze.files import atomic_path, write_json
from gaze.runs.status import (
    SILENCE,
    STATUS_FILE,
    Interrupted,
    is_busy,
    locked,
    read_status,
    run_state,
    tracked,
    wait_for_sign,
)  # fmt: skip


def test_a_run_that_ends_is_complete_and_was_running_before(tmp_path):
    with tracked(tmp_path):
        assert read_status(tmp_path)["state"] == "running"
    status = read_status(tmp_path)
    assert status["state"] == "complete"
    assert 0 <= status["seconds"] < 60
    assert status["started"] <= status["finished"]


def test_a_run_that_breaks_off_says_how_and_the_error_goes_on(tmp_path):
    for error, state in (
        (KeyboardInterrupt(), "interrupted"), (SystemExit(1), "interrupted"), (Interrupted(15), "interrupted"),
        (RuntimeError("no memory"), "failed"),
    ):  # fmt: skip
        with pytest.raises(type(error)), tracked(tmp_path):
            raise error
        status = read_status(tmp_path)
        assert status["state"] == state
        assert status.get("error") == ("RuntimeError: no memory" if state == "failed" else None)


@pytest.mark.parametrize(
    ("number", "raised", "goes_on"),
    [
        (signal.SIGTERM, subprocess.CalledProcessError(-15, ["scontrol", "requeue", "1"]), Interrupted),
        (signal.SIGUSR2, RuntimeError("timed-out too many times"), RuntimeError),  # SLURM's launcher passes it on
        (signal.SIGTERM, TrainingError("the disk is full"), TrainingError),
    ],
)
def test_what_fails_once_a_signal_has_come_is_interrupted(tmp_path, number, raised, goes_on):
    heard = []

    def end():
        os.kill(os.getpid(), number)
        raise raised

    before = signal.signal(number, lambda *_: heard.append(1))  # SLURM's launcher goes on at SIGTERM
    try:
        with pytest.raises(goes_on), tracked(tmp_path):
            end()
        status = read_status(tmp_path)
        told = "TrainingError: the disk is full" if goes_on is TrainingError else None
        assert (status["state"], status.get("error"), heard) == ("interrupted", told, [1])
        with pytest.raises(RuntimeError), tracked(tmp_path):  # the next run of this process
            raise RuntimeError("no memory")
        assert read_status(tmp_path)["state"] == "failed"
    finally:
        signal.signal(number, before)


def test_a_retry_waits_until_the_other_machine_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(status_module, "SILENCE", 2.0)
    status = tmp_path / STATUS_FILE
    write_json(status, {"state": "running", "host": "another-machine", "pid": 1})
    said, begun = [], time.monotonic()
    wait_for_sign(tmp_path, said.append)
    assert time.monotonic() - begun >= 1 and run_state(tmp_path) == "interrupted"
    assert said == [f"{tmp_path}: waits up to 2 s for a sign of life of process 1 on another-machine."]
    monkeypatch.setattr(status_module, "SILENCE", 60.0)
    os.utime(status)
    beat = threading.Timer(0.3, os.utime, [status])
    beat.start()
    wait_for_sign(tmp_path)  # lives, and is left alone
    assert run_state(tmp_path) == "running" and time.monotonic() - begun < 20
    beat.join()


def test_a_file_that_says_nothing_is_no_status(tmp_path):
    assert read_status(tmp_path) == {}
    for text in ("", "{", "[]", '{"state": "asleep"}'):
        (tmp_path / STATUS_FILE).write_text(text)
        assert read_status(tmp_path) == {}


def test_atomic_path_replaces_the_file_at_the_end(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    with atomic_path(path) as part:
        part.write_text(json.dumps("new"))
        assert path.read_text() == "old"
    assert json.loads(path.read_text()) == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_leaves_the_old_file_whole_when_the_writer_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as part:
            part.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# ---- who is at work


HOLD = (
    "import sys; from pathlib import Path; from gaze.runs.status import locked, tracked\n"
    "with locked(Path(sys.argv[1])), tracked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def other_process(tmp_path):
    """A process that works in tmp_path until its input ends."""
    line = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(line, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_folder_in_use_is_refused_with_the_name_of_the_process(tmp_path, other_process):
    assert is_busy(tmp_path) and run_state(tmp_path) == "running"
    with pytest.raises(BusyError, match=f"process {other_process.pid} on {socket.gethostname()}"), locked(tmp_path):
        pass
    other_process.communicate()
    assert not is_busy(tmp_path) and run_state(tmp_path) == "complete"
    with locked(tmp_path):
        assert is_busy(tmp_path)


def test_a_killed_run_is_interrupted_and_its_folder_free(tmp_path, other_process):
    other_process.kill()
    other_process.wait()
    assert read_status(tmp_path)["state"] == "running"
    assert run_state(tmp_path) == "interrupted"
    with locked(tmp_path):
        pass


def test_a_run_on_another_machine_lives_as_long_as_it_gives_signs(tmp_path):
    write_json(tmp_path / STATUS_FILE, {"state": "running", "host": "another-machine", "pid": 1})
    for age, alive in ((0, True), (SILENCE + 5, False)):
        then = time.time() - age
        os.utime(tmp_path / STATUS_FILE, (then, then))
        assert is_busy(tmp_path) == alive
        assert run_state(tmp_path) == ("running" if alive else "interrupted")


def test_a_file_system_without_locks_can_be_used(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    (tmp_path / status_module.LOCK_FILE).touch()
    with locked(tmp_path), tracked(tmp_path):
        assert not is_busy(tmp_path)
    assert run_state(tmp_path) == "complete"


def test_signs_of_life_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(status_module, "BEAT", 0.05)
    with locked(tmp_path), tracked(tmp_path):
        os.utime(tmp_path / STATUS_FILE, (0, 0))
        end = time.monotonic() + 10
        while (tmp_path / STATUS_FILE).stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_status_holds_facts_results_and_earlier_seconds(tmp_path):
    with tracked(tmp_path, device="cpu", seconds_before=100.0) as results:
        assert read_status(tmp_path)["device"] == "cpu" and read_status(tmp_path)["pid"] == os.getpid()
        results["metrics"] = {"val/kappa": 0.5}
    status = read_status(tmp_path)
    assert status["metrics"] == {"val/kappa": 0.5} and 100 <= status["seconds"] < 110


def test_a_failure_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), tracked(tmp_path):
        1 / 0  # noqa: B018
    assert "test_status.py" in read_status(tmp_path)["traceback"]
