"""gaze.runs.folder: what a folder that somebody sent may not do."""

import json

import pytest

from gaze.errors import DataError
from gaze.runs.folder import finish_rerun, move_to_previous
from gaze.runs.run import Run
from gaze.training.train import run_training


def tree(folder) -> dict[str, str | None]:
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("moving", "named"),
    [
        ({"new": ["../../foreign"], "old_to": "1"}, "new"),
        ({"new": ["/etc/passwd"], "old_to": "1"}, "new"),
        ({"new": [".."], "old_to": "1"}, "new"),
        ({"new": [], "old_to": "../../elsewhere"}, "old_to"),
        ({"new": [], "old_to": "1\n"}, "old_to"),
        ({"new": [], "old_to": 1}, "old_to"),
        ({"new": None, "old_to": "1"}, "new"),
        ({}, "new"),
        ([], "an object with named values"),
    ],
)
def test_the_move_of_a_rerun_stays_in_the_runs_folder(tmp_path, moving, named):
    run = Run(tmp_path / "outputs" / "run")
    run.rerun.folder.mkdir(parents=True)
    (tmp_path / "foreign").write_text("mine")
    (run.folder / "metrics.csv").write_text("epoch\n")
    (run.rerun.folder / "moving.json").write_text(json.dumps(moving))
    before = tree(tmp_path)
    with pytest.raises(DataError, match=rf"(?s)moving\.json is not of this project.*{named}.*Nothing was moved"):
        finish_rerun(run)
    assert tree(tmp_path) == before


def test_attempts_at_a_rerun_that_were_begun_anew_are_kept_too(tmp_path):
    run = Run(tmp_path / "run")
    for each, mark in ((run, "old"), (run.rerun, "new"), (Run(run.rerun.previous / "1"), "broken off")):
        each.folder.mkdir(parents=True)
        each.metrics_file.write_text("epoch\n1\n")
        each.config_file.write_text(mark)
        each.status_file.write_text(json.dumps({"state": "complete", "metrics_sha256": each.digest}))
    finish_rerun(run)
    found = {str(path.parent.relative_to(run.folder)): path.read_text() for path in run.folder.rglob("config.json")}
    assert found == {".": "new", "previous/1": "old", "previous/2": "broken off"}
    assert run.finished and not run.rerun.folder.exists()


def test_previous_holds_runs_with_an_epoch_and_none_that_goes_on(tmp_path):
    run = Run(tmp_path / "run")
    for text in (None, "epoch\n1\n"):
        run.hydra.mkdir(parents=True)
        (run.hydra / "config.yaml").write_text("seed: 0")
        run.config_file.write_text("{}")
        run.status_file.write_text('{"state": "running", "pid": 1}')
        if text is None:
            move_to_previous(run)
            assert tree(run.folder) == {}
    run.metrics_file.write_text(text)
    move_to_previous(run)
    kept = tree(run.previous / "1")
    assert kept.keys() == {".hydra", ".hydra/config.yaml", "config.json", "status.json", "metrics.csv"}
    assert json.loads(kept["status.json"]) == {"state": "interrupted", "pid": 1}


@pytest.mark.parametrize("name", ["checkpoints", "previous", "rerun", ".hydra", "pictures", "hparams.yaml", ".lock"])
def test_a_training_follows_no_link_out_of_its_folder(tiny, tmp_path, name):
    run, foreign = tmp_path / "run", tmp_path / "foreign"
    run.mkdir()
    foreign.mkdir()
    (foreign / "config.yaml").write_text("mine")
    (run / name).symlink_to(foreign / "config.yaml" if "." in name[1:] or name == ".lock" else foreign)
    before = tree(tmp_path)
    with pytest.raises(DataError, match=rf"{name} is a link out of its folder, to {foreign}"):
        run_training(tiny(), run)
    assert tree(tmp_path) == before
    with pytest.raises(DataError, match="is a link out of its folder"):
        _ = Run(run).settings


def test_links_beside_a_run_are_the_users_own(tmp_path):
    (tmp_path / "run" / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "run" / ".venv" / "bin" / "python").symlink_to("/usr/bin/python3")  # hydra.run.dir=.
    (tmp_path / "run" / "data").symlink_to("/")
    with pytest.raises(DataError, match=r"config\.json is missing"):
        _ = Run(tmp_path / "run").values
