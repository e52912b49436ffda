"""What the tests of data sets share. No test in here."""

from pathlib import Path
from typing import Any

import pytest
from conftest import REPO
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gaze.config.data import DatasetConfig
from gaze.data.datasets import load_dataset
from gaze.errors import DataError


def refused(settings: DatasetConfig) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(settings)
    return str(caught.value)


def shipped(name: str, root: Path, **changes: Any) -> DatasetConfig:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        group = compose("train", [f"dataset={name}", f"dataset.root={root}"]).dataset
    return DatasetConfig(**{**OmegaConf.to_container(group), **changes})
