"""What several test files share: the shipped configs, composed as train.py composes them, and one tiny run."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import DictConfig

from gaze.choices import AUGMENTATIONS, DISTANCES, GUIDANCE, METHODS, SOURCES
from gaze.config.train import TrainConfig, check_config
from gaze.measures import MEASURES

torch.set_num_threads(1)  # two test processes share the cores

REPO = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GAZE_SHARED_DATA", REPO.parent / "shared" / "data"))
FIXTURES = Path(__file__).parent / "fixtures"
TINY = (
    "model=level1",
    "dataset.train_images=16",
    "dataset.test_images=16",
    "dataset.image_size=32",
    "dataset.batch_size=8",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "pictures.every_n_epochs=0",
)
LONGEST = (  # files, so that none of them is begun last
    "end_to_end/test_launchers", "augmentation/test_study", "end_to_end/test_faults", "training/test_train",
    "consistency/test_plots", "check/test_checks", "runs/test_screening", "end_to_end/test_library",
    "end_to_end/test_distributed", "runs/test_grid", "end_to_end/test_default_run", "config/test_train",
    "augmentation/test_plots", "backbones/test_library", "consistency/test_analysis", "data/test_datasets",
    "training/test_module", "data/test_cache",
)  # fmt: skip
Compose = Callable[..., DictConfig]
TinyConfig = Callable[..., TrainConfig]


class Run(NamedTuple):
    """A finished run: what it was asked for, where it lies, and what it returned."""

    config: TrainConfig
    folder: Path
    row: dict[str, float]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(f"{item.path.parent.name}/{item.path.stem}", len(places)))


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded images go there, never into the user's own cache; processes that a test starts inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("gaze-cache")
        patch.setenv("GAZE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def composed() -> Compose:
    """``composed("model=level1", ...)``: what Hydra hands to train.py for a command line."""
    import gaze.config.naming  # noqa: F401 - makes its names known to OmegaConf

    def compose_overrides(*overrides: str, hydra: bool = False) -> DictConfig:
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            return compose("train", list(overrides), return_hydra_config=hydra)

    return compose_overrides


@pytest.fixture(scope="session")
def tiny(composed: Compose) -> TinyConfig:
    """``tiny("lambda=50", ...)``: a checked config whose run takes about a second."""
    return lambda *overrides: check_config(composed(*TINY, *overrides))


@pytest.fixture(scope="session")
def tiny_run(tiny: TinyConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs of level1 on the phantom with lambda 50 from the first epoch on, and with pictures."""
    from gaze.training.train import run_training

    folder = tmp_path_factory.mktemp("tiny") / "run"
    config = tiny("lambda=50", "gaze.start_epoch=0", "gaze.end_epoch=1", "pictures.every_n_epochs=1")
    return Run(config, folder, run_training(config, folder))


@pytest.fixture
def registries() -> Iterator[None]:
    """Entries that a test adds are taken out again."""
    before = {id(each): (each, dict(each)) for each in (METHODS, DISTANCES, GUIDANCE, SOURCES, AUGMENTATIONS, MEASURES)}
    yield
    for registry, entries in before.values():
        registry.clear()
        registry.update(entries)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made and not rendered, which is what takes the time; test_plots.py renders odd ones."""
    import gaze.report.write

    buffer = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(buffer, format="png")

    def picture(item, number):
        return gaze.report.write._Picture(
            "figure", number, item.name, item.caption, item.notes, buffer.getvalue(), b"%PDF"
        )

    monkeypatch.setattr(gaze.report.write, "_picture", picture)
