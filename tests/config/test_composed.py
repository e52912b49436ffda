"""gaze.config.composed: what many runs share is composed once, and each is what Hydra's own composition gives."""

from itertools import product
from pathlib import Path

import pytest
from conftest import REPO
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

import gaze.config.naming  # noqa: F401 - makes its names known to OmegaConf
from gaze.config.composed import Composer, _folder_and_settings
from gaze.errors import ConfigError


class Counted:
    """Hydra's loader, which counts the compositions asked of it."""

    def __init__(self, loader):
        self.loader, self.calls = loader, 0

    def load_sweep_config(self, *given):
        self.calls += 1
        return self.loader.load_sweep_config(*given)


@pytest.fixture
def composers():
    """``composers("hydra.sweep.dir=x")``: a Composer of a grid, its counting loader, and the plain way."""
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def make(*words):
            config = loader.load_configuration("train", list(words), RunMode.MULTIRUN)
            counted = Counted(loader)
            plain = lambda own: _folder_and_settings(loader.load_sweep_config(config, list(own)))  # noqa: E731
            return Composer(counted, config), counted, plain

        yield make


def grid(*axes):
    return [[word for word in words if word] for words in product(*axes)]


def words(key, *values):
    return [f"{key}={value}" for value in values]


SEEDS = words("seed", 0, 7)
GRIDS = [  # overrides of the runs, and how many compositions they may take
    (grid(["model=level1"], words("lambda", 0, "1e2"), ["gaze.ema_decay=0.5"], SEEDS), 1),
    (grid(["dataset=folder", "dataset=phantom"], ["study=a", "study='null'"]), 2),
    (grid(["++trainer.max_steps=5", "++trainer.max_steps=null"], ["~trainer.deterministic"]), 1),
    (grid(["study=${dataset.name}"], SEEDS), 2),
]
MORE = [
    (grid(words("model", "level1", "level3"), words("lambda", 0, 50, "-12.5", "1e2"), SEEDS), 2),
    (grid(["dataset=folder"], ["dataset.root='/a b,c=1'"], words("dataset.name", "x", "'1.10'", "true"), SEEDS), 4),
    (grid(words("experiment", "thesis_64px", "late_constraint"), ["dataset=phantom"], SEEDS), 2),
    (grid(words("augmentation", "mixup", "none"), words("++augmentation.noise", "0.1", "0.2")), 2),
    (grid(["model=torchvision"], words("model.name", "resnet18", "vgg11"), words("model.layer", "null", "layer3")), 1),
    (grid(words("study", "a", "'null'", '"it\'s"', "1.10", "null", "a$b"), ["rerun=true", "rerun=false"]), 1),
    (grid(["+trainer.fast_dev_run=true", "+trainer.fast_dev_run=false"], SEEDS), 1),
    (grid(words("optimizer.betas", "[0.8,0.9]", "[0.7,0.9]"), words("optimizer.lr", "1e-3", "0.002")), 2),
    (grid(["optimizer={lr: 0.5}"], ["optimizer.lr=0.25", "optimizer.lr=0.125"]), 2),
    (grid(words("dataset.image_size", 32, 64), ["dataset.train_images=${dataset.image_size}", ""]), 3),
]


def names(runs):
    return "; ".join(runs[-1])


@pytest.mark.parametrize(
    ("runs", "compositions"),
    [*(pytest.param(*own, id=names(own[0])) for own in GRIDS),
     *(pytest.param(*own, id=names(own[0]), marks=pytest.mark.slow) for own in MORE)],
)  # fmt: skip
def test_every_run_is_what_its_own_composition_gives(composers, runs, compositions):
    composer, loader, plain = composers()
    fast = [composer.run(own) for own in runs]
    assert loader.calls <= compositions
    assert repr(fast) == repr([plain(own) for own in runs])  # types and order as well


def test_names_that_the_user_gave_follow_each_run(composers):
    """Folders of Hydra's own making, and a resolver whose answers are kept."""
    OmegaConf.register_new_resolver("kept", lambda value: f"kept-{value}", use_cache=True, replace=True)
    composer, loader, plain = composers(
        "hydra.sweep.dir='out/${kept:${seed}}'", "hydra.sweep.subdir='${hydra.job.override_dirname}'"
    )
    runs = grid(["model=level1"], ["lambda=1", "lambda=2"], ["seed=3", "seed=4"])
    assert [composer.run(own)[0] for own in runs] == [plain(own)[0] for own in runs]
    assert composer.run(runs[-1])[0] == Path("out/kept-4/lambda=2,model=level1,seed=4") and loader.calls == 1


def test_what_cannot_be_composed_is_said_for_each_run(composers):
    composer, _, _ = composers()
    for seed in (0, 1):
        with pytest.raises(ConfigError, match="Interpolation key 'nowhere' not found"):
            composer.run(["study=${nowhere}", f"seed={seed}"])
        with pytest.raises(ConfigCompositionException, match=r"Could not override 'nowhere'"):
            composer.run(["nowhere=1", f"seed={seed}"])
