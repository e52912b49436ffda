"""gaze.training.checkpoints apart from a run: what is written is whole, what is read is safe, order and random
streams.
"""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader

import gaze.training.checkpoints
from gaze.config.augmentation import AugmentationConfig
from gaze.data.datamodule import TrainingLoader
from gaze.errors import TrainingError
from gaze.runs.run import Run
from gaze.training.checkpoints import WholeCheckpoints, find_checkpoint


def checkpoint(epochs: int) -> dict:
    return {"state_dict": {"w": torch.arange(4.0)}, "callbacks": {"EpochTable": {"rows": [{}] * epochs}}}


def test_last_leaves_its_predecessor(tmp_path):
    folder, io = tmp_path / "checkpoints", WholeCheckpoints()
    for epochs in (1, 2, 3):
        io.save_checkpoint(checkpoint(epochs), folder / "last.ckpt")
    io.save_checkpoint(checkpoint(1), folder / "best.ckpt")
    io.save_checkpoint(checkpoint(3), folder / "best.ckpt")
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", "before.ckpt", "best.ckpt"}
    said = []
    assert find_checkpoint(Run(tmp_path), said.append) == (folder / "last.ckpt", 3)
    (folder / "last.ckpt").unlink()
    assert find_checkpoint(Run(tmp_path), said.append) == (folder / "before.ckpt", 2)
    assert said == []


def test_no_checkpoint_is_none(tmp_path):
    assert find_checkpoint(Run(tmp_path), print) is None


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path, monkeypatch):
    io, path = WholeCheckpoints(), tmp_path / "last.ckpt"
    io.save_checkpoint(checkpoint(1), path)
    content = path.read_bytes()

    def full(part, content):
        part.write_bytes(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gaze.training.checkpoints, "_write", full)
    with pytest.raises(TrainingError, match=r"last\.ckpt could not be written.*No space left"):
        io.save_checkpoint(checkpoint(2), path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_another_error_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises((AttributeError, pickle.PicklingError)) as error:  # the latter since Python 3.14
        WholeCheckpoints().save_checkpoint({"function": lambda: None}, tmp_path / "last.ckpt")
    assert not isinstance(error.value, TrainingError)


def test_loading_takes_plain_values_only(tmp_path):
    torch.save({"config": AugmentationConfig()}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        WholeCheckpoints().load_checkpoint(tmp_path / "last.ckpt")


def test_loader_goes_on_where_it_was():
    def loader() -> TrainingLoader:
        return TrainingLoader(list(range(11)), 3)

    whole, first = [batch.tolist() for batch in DataLoader(list(range(11)), 3)], loader()
    taken = iter(first)
    assert [next(taken).tolist() for _ in range(2)] == whole[:2]
    again = loader()
    again.load_state_dict(first.state_dict())
    assert [batch.tolist() for batch in again] == whole[2:]
    assert [batch.tolist() for batch in again] == whole  # only once
    assert again.state_dict() == {"given": 0}  # a whole epoch: the next one begins at its beginning
