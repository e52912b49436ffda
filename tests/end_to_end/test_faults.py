"""Whatever kills a run, the same command completes it, and the result is that of an undisturbed run.

Each fault strikes a real process; the comparison is of bytes and of every tensor.
"""

import os
import pickle
import signal
import time
from pathlib import Path

import faults
import pytest
import torch
from conftest import Run
from faults import assert_same_result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gaze.runs.status import is_busy, read_status, run_state

pytestmark = [  # processes of their own, killed and started again
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

# 4 epochs of 3 steps; dropout, augmentation, a growing lambda, and a rate that falls after each epoch without progress.
SETTINGS = (
    "model=level2", "dataset.train_images=24", "trainer.max_epochs=4", "lambda=50", "gaze.start_epoch=1",
    "gaze.end_epoch=3", "optimizer.lr=3e-3", "scheduler.patience=0",
)  # fmt: skip
STEPS = 3


@pytest.fixture(scope="module")
def config(tiny):
    return tiny(*SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    code, row, _ = faults.run(config, folder)
    assert code == 0
    return Run(config, folder, row)


def assert_completes(config, folder: Path, undisturbed: Run) -> str:
    code, row, shown = faults.run(config, folder)
    assert (code, row) == (0, undisturbed.row), shown
    assert read_status(folder)["state"] == "complete"
    assert not (folder / "checkpoints" / "before.ckpt").exists()
    assert_same_result(folder, undisturbed.folder)
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("val/kappa")] == [1, 2, 3, 4]  # no epoch twice
    return shown


def test_the_comparison_sees_a_difference(tiny, undisturbed, tmp_path):
    other = tiny(*SETTINGS, "seed=1")
    assert faults.run(other, tmp_path / "run")[0] == 0
    with pytest.raises(AssertionError):
        assert_same_result(tmp_path / "run", undisturbed.folder)


@pytest.mark.parametrize(
    ("fault", "number", "whole"),
    [
        ("at_step", 2, 0),  # nothing saved yet
        ("at_step", STEPS + 1, 1),
        ("at_step", 3 * STEPS, 2),  # the last step of an epoch
        ("while_saving", 2, 1),
        ("between_the_two_names", 2, 1),
        ("while_writing_metrics", 3, 2),
    ],
)
def test_a_killed_run_is_completed_by_the_same_command(config, undisturbed, tmp_path, fault, number, whole):
    folder = tmp_path / "run"
    code, _, _ = faults.run(config, folder, fault, number)
    assert code == -signal.SIGKILL
    assert read_status(folder)["state"] == "running"  # it could not say more
    assert run_state(folder) == "interrupted"
    shown = assert_completes(config, folder, undisturbed)
    assert ("Resumes after" in shown) == (whole > 0)
    if whole:
        assert f"Resumes after {whole} of 4 epochs" in shown


@pytest.mark.parametrize("step", [2, STEPS, STEPS + 2])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_saves_its_state_in_the_middle_of_an_epoch(
    config, undisturbed, tmp_path, signum, step
):
    folder = tmp_path / "run"
    code, _, shown = faults.run(config, folder, "at_step", step, signum)
    assert code == 128 + signum
    assert f"{signum.name}: the run ends as soon as its state is saved" in shown
    assert read_status(folder)["state"] == "interrupted"
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step  # at an epoch's last step its evaluation is waited for
    assert len(saved["callbacks"]["EpochTable"]["rows"]) == step // STEPS
    assert_completes(config, folder, undisturbed)


def test_a_second_signal_ends_at_once(config, undisturbed, tmp_path):
    folder = tmp_path / "run"
    code, _, _ = faults.run(config, folder, "at_step", STEPS + 2, signal.SIGINT, True)
    assert code == 128 + signal.SIGINT
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == STEPS
    assert_completes(config, folder, undisturbed)


@pytest.fixture
def interrupted(config, tmp_path) -> Path:
    """A run that was killed in its third epoch, with last.ckpt of the second and before.ckpt of the first."""
    assert faults.run(config, tmp_path / "run", "at_step", 2 * STEPS + 1)[0] == -signal.SIGKILL
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {
        "best.ckpt", "last.ckpt", "before.ckpt",
    }  # fmt: skip
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["half", "flipped", "empty"])
def test_a_damaged_last_checkpoint_leaves_the_one_before(config, undisturbed, interrupted, damage):
    path = interrupted / "checkpoints" / "last.ckpt"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 255
    path.write_bytes({"half": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    shown = assert_completes(config, interrupted, undisturbed)
    assert "last.ckpt is damaged and left aside" in shown
    assert "Resumes after 1 of 4 epochs" in shown


def test_without_a_checkpoint_that_can_be_read_the_run_starts_over(config, undisturbed, interrupted):
    for path in (interrupted / "checkpoints").iterdir():
        path.write_bytes(b"no checkpoint")
    shown = assert_completes(config, interrupted, undisturbed)
    assert shown.count("is damaged") == 3 and "Resumes" not in shown
    assert (interrupted / "previous" / "1" / "metrics.csv").exists()


def test_truncated_metrics_are_written_again(config, undisturbed, interrupted):
    for folder in (interrupted, interrupted):  # of an interrupted run, then of the finished one
        metrics = folder / "metrics.csv"
        metrics.write_bytes(metrics.read_bytes()[:-20])
        assert_completes(config, folder, undisturbed)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_checkpoint_with_a_pickled_object_is_refused(config, interrupted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "evil": Evil()}, interrupted / "checkpoints" / "last.ckpt")
    code, answer, _ = faults.run(config, interrupted)
    assert code == 1
    assert "last.ckpt holds objects that could run code" in answer["error"]
    assert not (tmp_path / "executed").exists()
    with (tmp_path / "plain").open("wb") as file:
        pickle.dump(Evil(), file)  # the object is what it says
    assert b"touch executed" in (tmp_path / "plain").read_bytes()


def test_two_processes_on_one_folder(config, undisturbed, tmp_path):
    folder = tmp_path / "run"
    first = faults.start(config, folder, "at_step", 2, signal.SIGSTOP)  # stands still, alive
    while not is_busy(folder) or not read_status(folder):
        assert first.is_alive()
        time.sleep(0.05)
    code, answer, _ = faults.run(config, folder)
    assert code == 1
    assert "another process trains in this folder" in answer["error"] and str(first.pid) in answer["error"]
    while run_state(folder) == "running" and Path(f"/proc/{first.pid}/stat").read_text().split()[2] != "T":
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGCONT)
    first.join(60)
    assert first.exitcode == 0
    assert_same_result(folder, undisturbed.folder)


def test_a_full_disk_leaves_the_last_good_checkpoint_whole(config, undisturbed, tmp_path):
    folder = tmp_path / "run"
    code, answer, _ = faults.run(config, folder, "full_disk", 4)
    assert code == 1
    assert "could not be written" in answer["error"] and "resumes" in answer["error"]
    assert_completes(config, folder, undisturbed)


def test_out_of_memory_says_what_to_do(tiny, tmp_path):
    big = tiny("model=level1", "dataset.train_images=400", "dataset.batch_size=400", "dataset.image_size=128")
    code, answer, _ = faults.run(big, tmp_path / "run", "little_memory")
    assert code == 1
    assert "Out of memory with dataset.batch_size=400, dataset.image_size=128, model=level1" in answer["error"]
    assert "smaller batch" in answer["error"]
    status = read_status(tmp_path / "run")
    assert status["state"] == "failed" and "Traceback" in status["traceback"]


def test_a_rerun_keeps_the_old_run_until_it_is_complete(tiny, config, undisturbed, tmp_path):
    folder = tmp_path / "run"
    assert faults.run(config, folder)[0] == 0
    (folder / "mark").write_text("of the old run")
    started = read_status(folder)["started"]
    anew = tiny(*SETTINGS, "rerun=true")
    assert faults.run(anew, folder, "at_step", STEPS + 1)[0] == -signal.SIGKILL
    assert_same_result(folder, undisturbed.folder)
    assert read_status(folder)["state"] == "complete" and read_status(folder)["started"] == started
    assert faults.run(anew, folder)[0] == 0
    assert_same_result(folder, undisturbed.folder)
    assert not (folder / "rerun").exists() and (folder / "mark").exists()
    assert (folder / "previous" / "1" / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
