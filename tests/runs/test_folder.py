"""gaze.runs.folder: what a folder that somebody sent may not do."""

import json

import pytest

from gaze.errors import DataError
from gaze.runs.folder import finish_rerun
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
        ([], "mapping"),
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
        Run(tmp_path / "run").values()
