"""What stands in a run folder that somebody sent is data: no ``_target_`` in it is built, nothing in it is run."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import gaze
from gaze.errors import CheckpointError, ConfigError, DataError, GazeError, LeftOut
from gaze.runs.class_gaze import read_run_maps
from gaze.runs.kept_maps import last_maps
from gaze.runs.load import read_runs
from gaze.runs.run import Run
from gaze.studies.opened import load_module
from gaze.training.checkpoints import find_checkpoint
from gaze.training.module import GazeModule

SHELL = "torch.utils.collect_env.run"  # a function of a known library that runs a shell command


@pytest.fixture
def sent(tiny_run, tmp_path):
    """A good run's folder, to be changed, and a file that is there once something has run."""
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    return Run(tmp_path / "run"), tmp_path / "it_ran"


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def opened_everywhere(run):
    """Whatever reads a run folder, with the errors that came."""
    errors = []
    for read in (
        lambda: gaze.load_run(run.folder, device="cpu").predict(np.zeros((32, 32), np.uint8)),
        lambda: read_runs(run.folder.parent),
        lambda: read_run_maps(run),
        lambda: find_checkpoint(run, errors.append),
    ):
        try:
            read()
        except GazeError as error:
            errors.append(str(error))
    return errors


TARGETS = [SHELL, "torchvision.models.resnet18", "lightning.pytorch.loggers.WandbLogger"]


def with_target(run, marker, group, target):
    values = json.loads(run.config_file.read_text())
    own = values.setdefault(group, {}) if group else values
    own |= {"_target_": target, "command": f"touch {marker}", "_args_": [f"touch {marker}"]}
    run.config_file.write_text(json.dumps(values))


@pytest.mark.parametrize("group", ["model", "loss", "dataset", ""])
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_in_config_json_is_no_setting(sent, group, target):
    run, marker = sent
    with_target(run, marker, group, target)
    with pytest.raises(DataError, match="there is no such setting") as told:
        gaze.load_run(run.folder)
    assert "_target_" in str(told.value)
    assert all("no such setting" in line for line in opened_everywhere(run)[:2]) and not marker.exists()


@pytest.mark.parametrize("group", ["optimizer", "scheduler"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_of_a_group_that_has_one_is_never_built(sent, group, target):
    """Reading needs no optimizer; a training that goes on from the checkpoint refuses what is none."""
    run, marker = sent
    with_target(run, marker, group, target)
    content = torch.load(run.checkpoint(), weights_only=True)
    content["hyper_parameters"][group] = {"_target_": target, "command": f"touch {marker}"}
    torch.save(content, run.checkpoint())
    assert opened_everywhere(run) == []
    with pytest.raises(ConfigError, match=rf"^{group}\._target_={target} is no class of the kind torch\.optim\."):
        GazeModule.load_from_checkpoint(run.checkpoint()).configure_optimizers()
    assert not marker.exists()


@pytest.mark.parametrize("group", ["logger", "callbacks"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_logger_or_callback_in_config_json_is_never_built(sent, group, target):
    run, marker = sent
    values = json.loads(run.config_file.read_text())
    values[group] = {"mine": {"_target_": target, "command": f"touch {marker}"}}
    run.config_file.write_text(json.dumps(values))
    assert opened_everywhere(run) == [] and not marker.exists()


@pytest.mark.parametrize("name", ["hf-hub:a_b", "local-dir:a", f"resnet18.{SHELL}", "collect_env.run"])
@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_a_network_is_a_name_that_its_library_lists(sent, source, name):
    run, _ = sent
    content = torch.load(run.checkpoint(), weights_only=True)
    content["hyper_parameters"] |= {"model": name, "source": source}
    torch.save(content, run.checkpoint())
    with pytest.raises(DataError, match=r"is unknown|state_dict|cannot be read as a checkpoint of this project"):
        load_module(run.checkpoint())


def test_hydras_files_are_never_read(sent):
    run, marker = sent
    run.hydra.mkdir(exist_ok=True)
    hostile = f"x: !!python/object/apply:os.system ['touch {marker}']\nmodel: {{_target_: {SHELL}, command: x}}\n"
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (run.hydra / name).write_text(hostile)
    (run.folder / "hparams.yaml").write_text(hostile)
    assert opened_everywhere(run) == [] and not marker.exists()


@pytest.mark.parametrize("place", ["whole", "hyper_parameters", "callbacks", "state_dict"])
def test_a_checkpoint_that_would_run_code_is_refused(sent, place):
    run, marker = sent
    content = torch.load(run.checkpoint(), weights_only=True)
    if place != "whole":
        content[place]["more"] = Hostile(marker)
    torch.save(Hostile(marker) if place == "whole" else content, run.checkpoint())
    told = opened_everywhere(run)
    assert "cannot be read as a checkpoint of this project" in told[0]
    assert "holds objects that could run code" in told[-1]
    with pytest.raises(pickle.UnpicklingError):
        GazeModule.load_from_checkpoint(run.checkpoint())
    run.checkpoint().write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(CheckpointError):
        GazeModule.load_from_checkpoint(run.checkpoint())
    assert "cannot be read" in opened_everywhere(run)[0] and not marker.exists()


@pytest.mark.parametrize(
    "more",
    [
        {"_instantiator": SHELL}, {"_instantiator": "lightning.pytorch.cli.instantiate_module", "_class_path": SHELL},
        {"_target_": SHELL}, {"gaze": {"_target_": SHELL}}, {"built": {"": {"forward": "x"}}},
        {"built": {"": {"_compiled_call_impl": "x"}}}, {"built": {"gone": {"a": 1}}}, {"built": 3, "source": "timm"},
    ],
)  # fmt: skip
def test_hyper_parameters_build_nothing(sent, more):
    run, marker = sent
    content = torch.load(run.checkpoint(), weights_only=True)
    own = {"model": "resnet18", "source": "torchvision", "image_size": 64} if "built" in more else {}
    content["hyper_parameters"] |= {**own, **more}
    torch.save(content, run.checkpoint())
    words = "no such options" if "built" in more else "unexpected keyword|no such setting"
    with pytest.raises(DataError, match=f"cannot be read as a checkpoint of this project: .*({words})"):
        load_module(run.checkpoint())
    assert not marker.exists()


@pytest.mark.parametrize("file", ["maps.npz", "gaze_last.npz"])
def test_arrays_of_objects_are_left_out(sent, file):
    run, marker = sent
    with np.load(run.folder / file) as kept:
        arrays = dict(kept)
    arrays[next(iter(arrays))] = np.array([Hostile(marker)], dtype=object)
    np.savez(run.folder / file, **arrays)
    with pytest.warns(LeftOut, match=file):
        read_run_maps(run) if file == "maps.npz" else last_maps(run)
    assert not marker.exists()


def test_a_network_of_its_authors_own_is_not_imported_whatever_the_folder_says_of_trust(sent, tmp_path):
    run, marker = sent
    (tmp_path / "net.py").write_text(f"open({str(marker)!r}, 'w')", encoding="utf-8")
    own = {"_target_": "Net", "path": str(tmp_path / "net.py")}
    content = torch.load(run.checkpoint(), weights_only=True)
    content["hyper_parameters"] |= {"model": "Net", "source": "own", "own": own, "trust": True}
    torch.save(content, run.checkpoint())
    with pytest.raises(DataError, match="trust=true"):
        load_module(run.checkpoint())
    with pytest.raises(ConfigError, match="trust=true"):
        GazeModule.load_from_checkpoint(run.checkpoint())
    values = json.loads(run.config_file.read_text())
    values["model"] |= {"source": "own", "name": "Net", **own, "trust": True, "_trusted": True}
    run.config_file.write_text(json.dumps(values))
    assert "looking with it runs that code" in opened_everywhere(run)[0] and not marker.exists()
    with pytest.raises(GazeError):  # of what is no network
        gaze.load_run(run.folder, device="cpu", trust=True)
    assert marker.exists()
