"""gaze.runs.run: a run as its folder has it."""

import json
from pathlib import Path

import pytest

from gaze.errors import DataError
from gaze.runs.run import Run, methods, run_named, runs_below


@pytest.fixture
def run(tiny, tmp_path):
    """A folder with nothing but settings."""
    own = Run(tmp_path / "a" / "seed=0")
    own.folder.mkdir(parents=True)
    own.config_file.write_text(json.dumps(tiny("lambda=50", "gaze.method=hires_cam").to_dict()))
    return own


def changed(run: Run, change) -> Run:
    values = run.values
    change(values)
    run.config_file.write_text(json.dumps(values))
    return Run(run.folder)


def test_settings_are_those_that_were_written(run, tiny):
    assert run.settings == tiny("lambda=50", "gaze.method=hires_cam")
    assert run.title == "default, phantom, level1, lambda 50, seed 0"
    assert (run.name, run.label, run.method, run.precision) == ("seed=0", "level1", "HiResCAM", "32-true")
    assert (run.rows, run.begun, run.finished, run.state, run.environment) == ([], False, False, None, {})


def test_what_an_older_version_did_not_know_is_at_its_default(run, tiny):
    own = changed(run, lambda values: [values.pop("augmentation"), values["model"].pop("source")])
    assert own.settings == run.settings


def test_settings_of_no_known_version_are_refused_by_their_name(run):
    own = changed(run, lambda values: values["dataset"].update(colour="blue"))
    with pytest.raises(DataError, match=r"config\.json is not of this version[\s\S]*colour"):
        _ = own.settings
    own = changed(run, lambda values: values["trainer"].pop("max_epochs"))
    with pytest.raises(DataError, match=r"config\.json has no trainer\.max_epochs"):
        own.values()


def test_the_same_name_of_two_libraries_is_two_networks(run):
    for source in ("torchvision", "timm"):
        own = changed(run, lambda values, s=source: values["model"].update(name="resnet18", source=s, layer=None))
        assert own.label == own.keys["model"] == f"{source}-resnet18"
        assert f"{source}-resnet18" in own.title


@pytest.mark.parametrize(("given", "precision"), [("32", "32-true"), (64, "64-true"), ("bf16-mixed", "bf16-mixed")])
def test_lightnings_shorter_words_for_a_precision_are_the_same_precision(run, given, precision):
    assert changed(run, lambda values: values["trainer"].update(precision=given)).precision == precision


def test_rows_are_numbers_by_their_names_and_empty_fields_are_left_out(run):
    run.metrics_file.write_text("epoch,val/kappa,val/loss\n1,0.1,\n2,nan,2.0\n")
    first, second = run.rows
    assert first == {"epoch": 1, "val/kappa": 0.1} and isinstance(first["epoch"], int)
    assert second["val/kappa"] != second["val/kappa"] and isinstance(second["val/loss"], float)
    for damage in ("epoch\n1,2\n", "epoch\nx\n", "epoch\n\x00"):
        run.metrics_file.write_text(damage)
        with pytest.raises(DataError, match=r"metrics\.csv cannot be read"):
            _ = run.rows
        assert run.begun  # it may hold an epoch


def test_runs_are_found_below_a_folder_and_by_their_names_in_it(run, tmp_path):
    for inside in (run.rerun.folder, run.previous / "1"):
        inside.mkdir(parents=True)
        (inside / run.config_file.name).write_text("{}")
    other = Run(tmp_path / "b")
    other.folder.mkdir()
    other.metrics_file.write_text("epoch\n")
    assert [(found.folder, found.name) for found in runs_below(tmp_path)] == [
        (run.folder, "a/seed=0"), (other.folder, "b"),
    ]  # fmt: skip
    (itself,) = runs_below(run.folder)
    assert itself == run_named(run.folder, itself.name) == run and itself.name == "seed=0"
    assert run_named(tmp_path, "a/seed=0") == run


def test_methods_are_named_as_in_print(run, tiny):
    assert methods([run, Run(Path("x"), tiny()), run]) == "Grad-CAM or HiResCAM"
    assert methods([]) == "Grad-CAM"
