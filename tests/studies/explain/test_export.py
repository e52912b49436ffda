"""explain=RUN export=true: the program against the network that it was made from, in a process without this project."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from run_folders import SMALL, write_run

from gaze.backbones.levels import LEVELS
from gaze.config.analysis import AnalyzeConfig, CompareConfig
from gaze.config.train import check_config
from gaze.errors import ConfigError, DataError
from gaze.studies.explain import export
from gaze.studies.opened import open_run
from gaze.studies.run import run_analysis

CPU = CompareConfig(device="cpu")
CLASSES = ["a", "b", "c"]
ALONE = """
import sys, torch
assert "gaze" not in sys.modules
about, images = {"about.json": ""}, torch.load(sys.argv[2])
found = torch.export.load(sys.argv[1], extra_files=about).module()(images)
torch.save((*found, about["about.json"]), sys.argv[3])
"""


@pytest.fixture
def made(composed, tmp_path):
    """A run of a network with weights and statistics that are not those of its start."""

    def stir(module):
        for name, value in module.backbone.named_buffers():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if name.endswith("var") else 0.1 * torch.randn_like(value))
        module.backbone.head[-1].weight.data.abs_()  # leaves no map empty

    def run(*words):
        config = check_config(composed(*SMALL, *words))
        return write_run(tmp_path / "run", config, CLASSES, stir if "model=torchvision" not in words else None)

    return run


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in LEVELS if name != "level2"]


@pytest.mark.parametrize("level", ["level2", *SLOW])
def test_a_program_gives_logits_and_map_of_the_network(level, made, tmp_path):
    one, file = open_run(made(f"model={level}"), CPU), tmp_path / "network.pt2"
    pixels = torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    line = export.export_network(one, pixels, file)
    assert line.startswith("network.pt2: logits and map of 5 images differ from the network's by ")
    looked = one.look(pixels, None)  # as explain= looks
    torch.save(pixels.float() / 255, tmp_path / "images.pt")
    words = [sys.executable, "-c", ALONE, str(file), str(tmp_path / "images.pt"), str(tmp_path / "found.pt")]
    subprocess.run(words, cwd=tmp_path, check=True)
    logits, maps, about = torch.load(tmp_path / "found.pt")
    np.testing.assert_allclose(logits, looked.logits, atol=1e-4, rtol=0)
    np.testing.assert_allclose(maps, looked.cams, atol=1e-4, rtol=0)
    assert maps.amax() > 0.9 and len(maps) == 5
    assert json.loads(about)["classes"] == CLASSES and json.loads(about)["image_size"] == 32


def test_the_command_writes_it_beside_the_maps(made, tmp_path):
    folder, out = made("model=level1"), io.StringIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(tmp_path / "a.png")
    config = {"explain": str(folder), "images": str(tmp_path / "a.png"), "compare": CPU}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gaze.studies.explain.report.typical_gaze", _nothing_typical)
        run_analysis(AnalyzeConfig(**config, export=True), tmp_path / "out", Console(file=out, width=200))
        assert (
            tmp_path / "out" / "network.pt2"
        ).exists() and "network.pt2: logits and map of 1 images" in out.getvalue()
        run_analysis(AnalyzeConfig(**config), tmp_path / "out", Console(file=out, width=200))
    assert not (tmp_path / "out" / "network.pt2").exists()  # it was that of another call


def _nothing_typical(one, console):
    from gaze.studies.explain.explain import Typical

    return Typical(np.zeros((3, 16, 16), np.float32), np.ones(3, np.int64), [np.empty(0, np.float32)] * 3, None)


@pytest.mark.parametrize(
    "words", [("model=torchvision", "model.name=resnet18", "model.layer=layer2"), ("gaze.method=layer_cam",)]
)
def test_a_map_that_takes_a_backward_pass_is_refused(words, made):
    with pytest.raises(ConfigError, match=r"export=true: the map of .* takes a backward pass.*level1 \.\. level5"):
        export.check_export(open_run(made(*words), CPU))


def test_a_program_that_differs_is_not_left(made, tmp_path, monkeypatch):
    one = open_run(made("model=level1"), CPU)
    monkeypatch.setattr(export, "normalize_cam", lambda cam: cam + 1)
    with pytest.raises(DataError, match="differs from the network by"):
        export.export_network(one, torch.zeros(2, 1, 32, 32, dtype=torch.uint8), tmp_path / "network.pt2")
    assert list(tmp_path.glob("*.pt2")) == []


def test_it_belongs_to_explain():
    with pytest.raises(ConfigError, match="belongs to explain=RUN"):
        AnalyzeConfig(export=True)
