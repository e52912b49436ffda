"""gaze.training.checkpoints apart from a run: what is written is whole, what is read is safe, order and random
streams.
"""

import os
import pickle
import zipfile

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

import gaze.training.checkpoints
from gaze.config.augmentation import AugmentationConfig
from gaze.data.datamodule import TrainingLoader
from gaze.errors import CheckpointError, TrainingError
from gaze.runs.run import Run
from gaze.training.checkpoints import DAMAGED, WholeCheckpoints, find_checkpoint
from gaze.training.module import GazeModule


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


def flip_a_bit(path, member: str) -> None:
    """In the middle of what a file in the archive holds."""
    with zipfile.ZipFile(path) as archive:
        entry = next(info for info in archive.infolist() if info.filename.endswith(member))
        place = entry.header_offset + 30 + len(entry.filename)
        length = entry.file_size
    content = bytearray(path.read_bytes())
    place += int.from_bytes(content[entry.header_offset + 28 : entry.header_offset + 30], "little")  # the extra field
    content[place + length // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("member", ["/data/0", "data.pkl", "version"])
def test_every_reader_of_a_checkpoint_sees_a_flipped_bit(tmp_path, member):
    path = tmp_path / "checkpoints" / "last.ckpt"
    for epochs in (1, 2):
        WholeCheckpoints().save_checkpoint(checkpoint(epochs), path)
    flip_a_bit(path, member)
    if member == "/data/0":  # which PyTorch takes
        assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["w"], torch.arange(4.0))
    with pytest.raises(ValueError, match=f"wrong checksum of .*{member}, the file is damaged"):
        WholeCheckpoints().load_checkpoint(path)
    with pytest.raises(CheckpointError, match=rf"{path} is no whole checkpoint: wrong checksum of .*{member}"):
        GazeModule.load_from_checkpoint(path, weights_only=True)
    said = []
    assert find_checkpoint(Run(tmp_path), said.append) == (path.with_stem("before"), 1)
    assert f"{path} is damaged and left aside (wrong checksum" in said[0]


def test_what_is_no_regular_file_or_is_compressed_is_no_checkpoint(tmp_path):
    whole, packed = tmp_path / "whole.ckpt", tmp_path / "packed.ckpt"
    WholeCheckpoints().save_checkpoint(checkpoint(1), whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    os.mkfifo(tmp_path / "fifo.ckpt")
    (tmp_path / "zero.ckpt").symlink_to("/dev/zero")
    (tmp_path / "text.ckpt").write_text("no archive")
    (tmp_path / "linked.ckpt").symlink_to(whole)
    for name, why in (("fifo", "a FIFO"), ("zero", "a device"), ("packed", "compressed"), ("text", "not a zip file")):
        with pytest.raises(DAMAGED, match=why):
            WholeCheckpoints().load_checkpoint(tmp_path / f"{name}.ckpt")
    assert WholeCheckpoints().load_checkpoint(tmp_path / "linked.ckpt").keys() == checkpoint(1).keys()


def test_a_checkpoint_says_of_no_file_that_it_is_to_be_removed(tmp_path):
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("mine")
    (tmp_path / "run").mkdir()
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)

    def trained(epochs: int, ckpt_path=None) -> None:
        keep = ModelCheckpoint(tmp_path / "run" / "checkpoints", "last", enable_version_counter=False)
        trainer = Trainer(
            max_epochs=epochs, callbacks=[keep], plugins=[WholeCheckpoints()], limit_train_batches=1, **quiet
        )
        trainer.fit(BoringModel(), ckpt_path=ckpt_path)

    trained(1)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    state = next(value for name, value in content["callbacks"].items() if name.startswith("ModelCheckpoint"))
    state["best_model_path"] = str(last.parent / ".." / ".." / "foreign.txt")
    torch.save(content, last)
    trained(2, last)
    assert torch.load(last, weights_only=True)["epoch"] == 1 and foreign.read_text() == "mine"


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
