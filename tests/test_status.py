"""gaze.status: what became of a run, and files that are written whole or not at all."""

import json

import pytest

from gaze.status import STATUS_FILE, atomic_path, read_status, tracked


def test_a_run_that_ends_is_complete_and_was_running_before(tmp_path):
    with tracked(tmp_path):
        assert read_status(tmp_path)["state"] == "running"
    status = read_status(tmp_path)
    assert status["state"] == "complete"
    assert 0 <= status["seconds"] < 60
    assert status["started"] <= status["finished"]


@pytest.mark.parametrize(
    ("error", "state"),
    [(KeyboardInterrupt(), "interrupted"), (SystemExit(1), "interrupted"), (RuntimeError("no memory"), "failed")],
)
def test_a_run_that_breaks_off_says_how_and_the_error_goes_on(tmp_path, error, state):
    with pytest.raises(type(error)), tracked(tmp_path):
        raise error
    status = read_status(tmp_path)
    assert status["state"] == state
    assert status.get("error") == ("RuntimeError: no memory" if state == "failed" else None)


def test_a_process_that_does_not_own_the_folder_writes_nothing(tmp_path):
    with tracked(tmp_path, owner=False):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"state": "asleep"}'])
def test_a_file_that_says_nothing_is_no_status(tmp_path, text):
    if text is not None:
        (tmp_path / STATUS_FILE).write_text(text)
    assert read_status(tmp_path) is None


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
