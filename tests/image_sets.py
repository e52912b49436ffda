"""What the tests of data sets share. No test in here."""

from pathlib import Path

import pytest
from conftest import REPO
from omegaconf import OmegaConf

from gaze.config.data import DatasetConfig
from gaze.data.datasets import load_dataset
from gaze.errors import DataError

CONF = REPO / "conf" / "dataset"


def refused(settings: DatasetConfig) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(settings)
    return str(caught.value)


def shipped(name: str, root: Path) -> DatasetConfig:
    merged = OmegaConf.merge(OmegaConf.structured(DatasetConfig), OmegaConf.load(CONF / f"{name}.yaml"))
    merged.root = str(root)
    return OmegaConf.to_object(merged)
