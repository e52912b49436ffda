"""Files of MedMNIST: what is read, and what a damaged or hostile one comes to."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from image_sets import refused
from PIL import Image

from gaze.config.data import DatasetConfig
from gaze.data.datasets import load_dataset

COUNTS = {"train": 40, "val": 8, "test": 12}


def arrays(channels: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """As medmnist's own files have them: labels (N, 1) uint8."""
    g = np.random.default_rng(0)
    found = {}
    for part, count in COUNTS.items():
        found[f"{part}_images"] = g.integers(0, 256, (count, 28, 28, *channels)).astype(np.uint8)
        found[f"{part}_labels"] = (np.arange(count) % 4)[:, None].astype(np.uint8)
    return found


def config(file: Path, **changes) -> DatasetConfig:
    settings = {"kind": "npz", "name": "mnist", "root": str(file), "image_size": 28, "cache": "off", "on_leak": "error"}
    return DatasetConfig(**{**settings, "validation": "auto", **changes})


@pytest.mark.parametrize("channels", [(), (3,)])
def test_images_and_labels_are_those_of_the_file(tmp_path, channels):
    own = arrays(channels)
    np.savez_compressed(tmp_path / "x.npz", **own)
    data = load_dataset(config(tmp_path / "x.npz", channels=3))
    assert data.classes == ("0", "1", "2", "3")
    for part, split in (("train", data.train), ("val", data.validation), ("test", data.test)):
        pixels = own[f"{part}_images"]
        wanted = np.moveaxis(pixels, 3, 1) if channels else np.repeat(pixels[:, None], 3, 1)
        np.testing.assert_array_equal(split.images.numpy(), wanted)
        assert split.targets.tolist() == own[f"{part}_labels"][:, 0].tolist()


def test_a_resized_image_is_what_a_file_of_it_would_give(tmp_path):
    own = arrays()
    np.savez(tmp_path / "x.npz", **own)
    data = load_dataset(config(tmp_path / "x.npz", image_size=20))
    for split in ("train", "test"):
        for label in range(4):
            (tmp_path / "set" / split / str(label)).mkdir(parents=True)
        for i, pixels in enumerate(own[f"{split}_images"]):
            Image.fromarray(pixels).save(tmp_path / "set" / split / str(i % 4) / f"{i}.png")
    files = DatasetConfig(kind="folder", name="f", root=str(tmp_path / "set"), image_size=20, cache="off")
    for path, image in zip(load_dataset(files).test.paths, load_dataset(files).test.images, strict=True):
        np.testing.assert_array_equal(data.test.images[int(Path(path).stem)].numpy(), image.numpy())


def test_the_parts_are_the_files_or_drawn(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays())
    assert load_dataset(config(tmp_path / "x.npz", validation="test")).validation is None
    assert len(load_dataset(config(tmp_path / "x.npz", validation=0.2)).validation.targets) == 8
    np.savez(tmp_path / "y.npz", **{k: v for k, v in arrays().items() if k.startswith("train")})
    data = load_dataset(config(tmp_path / "y.npz", test=0.2))
    assert [len(s.targets) for s in (data.train, data.validation, data.test)] == [27, 5, 8]
    assert "dataset.test=0.2" in refused(config(tmp_path / "y.npz"))


def test_it_comes_out_of_the_cache_until_the_file_changes(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, **arrays())
    cached = config(file, cache=str(tmp_path / "cache"))
    first, said = load_dataset(cached), []
    again = load_dataset(cached, said.append)
    assert said[-1].startswith("read 60 images from the cache")
    np.testing.assert_array_equal(first.train.images.numpy(), again.train.images.numpy())
    assert first.audit.to_dict() == again.audit.to_dict()
    np.savez(file, **{name: 255 - own if "images" in name else own for name, own in arrays().items()})
    np.testing.assert_array_equal(load_dataset(cached).train.images.numpy(), 255 - first.train.images.numpy())


def saved(**changes):
    return lambda file: np.savez(file, **{k: v for k, v in {**arrays(), **changes}.items() if v is not None})


def bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("train_images.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(
                entry, {"descr": "|u1", "fortran_order": False, "shape": (60_000, 28, 28)}
            )
            for _ in range(60_000):
                entry.write(bytes(28 * 28))
        small = io.BytesIO()
        np.save(small, np.zeros((60_000, 1), np.uint8))
        archive.writestr("train_labels.npy", small.getvalue())


def claimed(file: Path) -> None:
    """A header of a terabyte, and no bytes behind it."""
    with zipfile.ZipFile(file, "w") as archive, archive.open("train_images.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(
            entry, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000)}
        )


class Touch:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def whole_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps(Touch()))


HOSTILE = {
    "several": (saved(train_labels=np.zeros((40, 14), np.uint8)), "train has 14 labels an image"),
    "solids": (saved(train_images=np.zeros((40, 28, 28, 28), np.uint8)), "must be uint8, (N, H, W) or (N, H, W, 3)"),
    "floats": (saved(train_images=np.zeros((40, 28, 28))), "train images are float64 of shape (40, 28, 28)"),
    "none": (saved(train_images=np.zeros((0, 28, 28), np.uint8)), "must be uint8"),
    "lengths": (saved(test_labels=np.zeros((3, 1), np.uint8)), "test has 12 images and 3 labels"),
    "no labels": (saved(train_labels=None), "has no train_labels"),
    "negative": (saved(train_labels=np.full((40, 1), -1)), "labels of train are -1 .. -1"),
    "gap": (saved(test_labels=np.zeros((12, 1), np.uint8)), "test has no image of label 1, 2, 3."),
    "objects": (saved(train_images=np.array([Touch()] * 40)), "an array of Python objects"),
    "others": (lambda file: np.savez(file, x=np.arange(3)), "has no images. dataset=npz reads MedMNIST's files"),
    "no training": (saved(train_images=None), "has no training images"),
    "bomb": (bomb, "train_images.npy says that it has 47,040,128 bytes"),
    "claimed": (claimed, "train_images.npy says that it has 1,000,000,000,128 bytes, out of 128"),
    "no archive": (lambda file: file.write_text("x"), "cannot be read: File is not a zip file"),
    "pickle": (whole_pickle, "cannot be read: File is not a zip file"),
    "nothing": (lambda file: None, "does not exist"),
    "folder": (lambda file: file.mkdir(), "cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, wanted = HOSTILE[case]
    make(tmp_path / "x.npz")
    said = refused(config(tmp_path / "x.npz"))
    assert wanted in said and "\n" not in said and len(said) < 400
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_a_truncated_file_is_refused(tmp_path, keep):
    np.savez_compressed(tmp_path / "x.npz", **arrays())
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content[: int(keep * len(content))])
    assert "cannot be read" in refused(config(tmp_path / "x.npz"))
