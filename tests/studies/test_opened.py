"""gaze.studies.opened: a run is looked at with its own network, in its own precision, and its CAM is named."""

import numpy as np
import pytest
import torch
from lightning import Trainer
from run_folders import SMALL, write_run

from gaze.config.analysis import CompareConfig
from gaze.config.train import check_config
from gaze.data.sources.phantom import CLASSES
from gaze.errors import DataError
from gaze.runs.run import Run
from gaze.studies.opened import check_maps, how_looked, open_run, precision_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def run(composed, tmp_path):
    def make(name: str, *words: str) -> Run:
        return Run(write_run(tmp_path / name, check_config(composed(*SMALL, *words)), list(CLASSES)))

    return make


def logits_in_training(run: Run, images: torch.Tensor) -> np.ndarray:
    """What Lightning's own evaluation gives in the run's precision."""
    module = open_run(run.folder, CompareConfig(device="cpu")).module.float()
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", precision=run.precision, **quiet)
    return torch.cat(trainer.predict(module, torch.utils.data.DataLoader(images, 10))).float().numpy()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "64-true"])
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_looked_at_in_the_precision_that_it_was_trained_in(run, precision):
    own = run("a", f"trainer.precision={precision}")
    one = open_run(own.folder, CompareConfig(device="cpu"))
    pixels = torch.randint(0, 256, (20, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    looked = one.look(pixels, torch.zeros(20, dtype=torch.int64))
    images = one.prepare(pixels, torch.zeros(20, dtype=torch.int64)).image
    np.testing.assert_array_equal(looked.logits, logits_in_training(own, images))
    plain = open_run(run("b").folder, CompareConfig(device="cpu")).look(pixels, None).logits
    assert (looked.logits == plain).all() == (precision == "32-true")
    assert one.module.dtype == (torch.float64 if precision == "64-true" else torch.float32)
    assert looked.cams.dtype == np.float32 and torch.get_default_dtype() == torch.float32


def test_a_precision_that_the_device_does_not_have_is_replaced_and_it_is_said(run, monkeypatch):
    half, brain, plain = (run(name, f"trainer.precision={name}") for name in ("16-mixed", "bf16-mixed", "32-true"))
    assert [precision_of(r, CPU) for r in (half, brain, plain)] == ["bf16-mixed", "bf16-mixed", "32-true"]
    assert how_looked([half, plain], CPU)[1:] == [
        "Trained with trainer.precision=16-mixed, which cpu does not allow: looked at in bf16-mixed."
    ]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert [precision_of(r, GPU) for r in (half, brain, plain)] == ["16-mixed", "32-true", "32-true"]


def test_the_cam_of_the_runs_is_named(run):
    runs = [run(name, f"gaze.method={name}") for name in ("hires_cam", "grad_cam")]
    assert how_looked(runs[:1], CPU) == ["The gaze is a map of HiResCAM."]
    assert how_looked(runs, CPU) == ["The gaze is a map of Grad-CAM or HiResCAM."]


def test_a_run_with_a_coarse_map_can_be_looked_at_and_it_is_said(run):
    coarse = run("coarse", "model=level2", "dataset.image_size=16")
    one = open_run(coarse.folder, CompareConfig(device="cpu"))
    assert one.look(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), None).cams.shape == (2, 2, 2)
    assert how_looked([coarse], CPU)[1].startswith("A map has 2x2 cells: it tells roughly where")
    with pytest.raises(DataError, match="4x4 is the least"):
        check_maps([coarse])


def test_a_checkpoint_of_the_same_name_in_another_library_is_another_network(run):
    words = ("dataset.image_size=64", "model.name=resnet18", "model.layer=layer1")
    ours, theirs = run("ours", "model=torchvision", *words), run("theirs", "model=timm", *words)
    theirs.checkpoint().replace(ours.checkpoint())
    with pytest.raises(DataError, match=r"holds timm-resnet18 on .*config\.json says torchvision-resnet18"):
        open_run(ours.folder, CompareConfig(device="cpu"))
