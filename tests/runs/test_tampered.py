"""Run folders from strangers (tests/tampered.py): each is listed as unreadable and why, or read; nothing is written."""

import os
import signal
import warnings
from pathlib import Path

import pytest
from tampered import CORPUS, READ, complete, corpus

from gaze.config.train import TrainConfig
from gaze.errors import DataError, GazeError
from gaze.files import write_json
from gaze.runs.class_gaze import read_maps
from gaze.runs.folder import changed_images, plan_run
from gaze.runs.kept_maps import last_maps
from gaze.runs.load import read_runs
from gaze.runs.run import Run

NO_MAPS = {number for number, case in enumerate(CORPUS, 1) if case.file in ("maps.npz", "gaze_last.npz")}


def stamps(root):
    """Everything below a folder: kind, size and when it was last written."""
    found = {}
    for folder, inner, files in os.walk(root):
        for name in (*inner, *files):
            about = (Path(folder) / name).lstat()
            found[Path(folder) / name] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    parent = tmp_path_factory.mktemp("parent")
    cases, before = corpus(parent / "sent"), stamps(parent)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for ever"))
    signal.alarm(120)
    found = read_runs(parent / "sent")
    yield parent / "sent", cases, found
    signal.alarm(0)
    assert stamps(parent) == before


def test_a_hundred_and_more_are_listed_with_the_reason_or_read(sent):
    _, cases, found = sent
    assert len(cases) >= 100
    rows = found.listing.set_index("run")
    assert rows.loc["good", "state"] == "complete" and len(rows) == len(cases) + 1
    wrong = []
    for name, case in cases.items():
        state, reason = rows.loc[name, "state"], rows.loc[name, "reason"]
        words = (case.reason,) if isinstance(case.reason, str) else case.reason
        good = state == ("complete" if case.reason == READ else "unreadable") and all(word in reason for word in words)
        if not good or len(reason) > 600:
            wrong.append((name, case.file, case.reason, state, reason[:300]))
    assert not wrong, "\n".join(map(str, wrong))


def test_a_start_in_each_is_refused_with_the_file_or_goes_on(sent):
    root, cases, _ = sent
    for name, case in cases.items():
        own = Run(root / name, TrainConfig(study="other", trainer={"max_epochs": 3}))
        with pytest.raises(GazeError) as error:  # never "finished already", never "resume"
            plan_run(own)
        assert str(root / name) in str(error.value)
        of_settings = case.reason and (case.file == "config.json" or "is a link out of" in str(case.reason))
        assert ("settings cannot be read" in str(error.value)) == bool(of_settings)
        assert all("not known" in line for line in changed_images(own))


def test_maps_that_are_damaged_are_left_out_and_said(sent):
    root, _, runs = sent
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (drawn,) = read_maps(root, runs.epochs)
        kept = {name: last_maps(run) for name, run in runs.used.items()}
    left = {f"{number:03d}" for number in NO_MAPS}
    assert drawn.counts[0] == 2 * drawn.counts[1] > 20  # seeds together, those of the others alone
    assert {name for name, maps in kept.items() if maps is None} == {
        name for name in left if CORPUS[int(name) - 1].file == "gaze_last.npz"
    }
    assert len({str(warning.message) for warning in said}) == len(left)


@pytest.mark.parametrize("content", [None, b"", b"null", b"[]", b"{}", b"\xff", b'{"study": "s"}'])
@pytest.mark.parametrize("state", ["complete", "interrupted"])
def test_a_run_whose_settings_cannot_be_read_is_neither_finished_nor_resumed(tmp_path, state, content):
    folder = complete(tmp_path / "run")
    (folder / "checkpoints").mkdir()
    run = Run(folder, Run(folder).settings)
    write_json(run.status_file, {"state": state, "metrics_sha256": run.digest})
    assert plan_run(run).action == ("skip" if state == "complete" else "resume")
    run.config_file.unlink() if content is None else run.config_file.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"{folder} holds a run whose settings cannot be read:\s+config.json .*\s.*rerun"
    ):
        plan_run(run)
    again = Run(folder, run.settings.model_copy(update={"rerun": True}))
    assert plan_run(again) == ("start", run.rerun)
