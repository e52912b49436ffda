"""Masks from files: what becomes of their pixels, to which image they belong, and that they stay aligned with it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gaze.config.augmentation import AugmentationConfig
from gaze.config.data import DatasetConfig
from gaze.data import datamodule
from gaze.data.datamodule import GazeDataModule
from gaze.data.datasets import ImageData, load_dataset
from gaze.data.masks import decode_mask, file_beside
from gaze.errors import DataError
from gaze.studies.opened import images_at_hand


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def box(shape: tuple[int, int], top: int, left: int, height: int, width: int) -> np.ndarray:
    """255 in a box, else 0."""
    pixels = np.zeros(shape, np.uint8)
    pixels[top : top + height, left : left + width] = 255
    return pixels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six bright boxes on black a split and class, each with its mask; images and masks 60 x 40 pixels."""
    root, g = tmp_path / "toy", np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(6):
                pixels = box((40, 60), *g.integers(2, 18, 2), *g.integers(14, 20, 2))
                save(root / split / name / f"{i}.png", np.where(pixels > 0, 200 + i, 0).astype(np.uint8))
                save(root / "masks" / split / name / f"{i}.png", pixels)
    return root


def config(root: Path, **changes) -> DatasetConfig:
    settings = {"name": "toy", "kind": "folder", "root": str(root), "image_size": 32, "mask_dir": "masks"}
    return DatasetConfig(**{**settings, **changes})


def refused(settings: DatasetConfig) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(settings)
    return str(caught.value)


# ---- pixels


@pytest.mark.parametrize("size", [5, 8, 13, pytest.param(40, marks=pytest.mark.slow)])
def test_a_pixel_is_lesion_where_half_of_its_area_is(tmp_path, size):
    g = np.random.default_rng(size)
    lesion = g.random((20, 30)) < 0.5
    lesion[3:12, 5:20] = True
    mask, shape, seen = decode_mask([save(tmp_path / "m.png", np.where(lesion, 255, 0).astype(np.uint8))], size)
    assert mask.shape == (1, size, size) and mask.dtype == np.uint8 and shape == (30, 20) and seen
    for i in range(size):
        for j in range(size):
            share = 0.0
            for y in range(20):
                for x in range(30):
                    tall = max(0.0, min((i + 1) / size, (y + 1) / 20) - max(i / size, y / 20))
                    wide = max(0.0, min((j + 1) / size, (x + 1) / 30) - max(j / size, x / 30))
                    share += lesion[y, x] * tall * wide * size * size
            if abs(share - 0.5) > 1e-4:
                assert mask[0, i, j] == (share > 0.5), (i, j, share)
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (0, 37), (10, 250)])
@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "P"])
def test_masks_of_every_range_and_mode_read_alike(tmp_path, mode, values):
    lesion = box((8, 8), 2, 3, 4, 2) > 0
    low, high = (0, 255) if mode in ("1", "P") else values
    Image.fromarray(np.where(lesion, high, low).astype(np.uint8)).convert(mode).save(tmp_path / "m.png")
    assert np.array_equal(decode_mask([tmp_path / "m.png"], 8)[0][0], lesion)


def test_masks_beyond_8_bits_and_in_opacity_alone(tmp_path):
    lesion = box((8, 8), 2, 3, 4, 2) > 0
    hidden = np.zeros((8, 8, 4), np.uint8)
    hidden[lesion, 3] = 255
    painted = np.where(lesion[..., None], np.uint8([255, 0, 0, 255]), np.uint8([0, 0, 0, 255]))
    kinds = {
        "deep.png": lesion.astype(np.uint16), "deep.tif": lesion.astype(np.uint16) * 300,
        "int.tif": lesion.astype(np.int32), "float.tif": lesion.astype(np.float32),
        "rgba.png": hidden, "la.png": hidden[..., 2:], "white.webp": hidden | np.uint8([255, 255, 255, 0]),
        "painted.png": painted,
    }  # fmt: skip
    for name, pixels in kinds.items():
        Image.fromarray(pixels).save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
        assert np.array_equal(decode_mask([tmp_path / name], 8)[0][0], lesion), name


def test_masks_are_turned_as_their_images(tmp_path):
    lesion = box((8, 12), 1, 2, 4, 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(lesion)).save(tmp_path / "m.png", exif=exif)
    mask, size, _ = decode_mask([tmp_path / "m.png"], 8)
    plain, own, _ = decode_mask([save(tmp_path / "plain.png", lesion)], 8)
    assert size == own == (12, 8) and np.array_equal(mask, plain) and mask.any()


def test_a_set_whose_masks_are_all_empty_is_refused(root):
    for path in (root / "masks").rglob("*.png"):
        save(path, np.zeros((40, 60), np.uint8))
    assert "Every mask in" in (message := refused(config(root))) and "white, 1 or opaque on the lesion" in message
    save(root / "masks" / "train" / "cat" / "0.png", box((40, 60), 5, 5, 20, 20))
    assert load_dataset(config(root)).train.masks.any()


def test_a_black_mask_is_empty(tmp_path):
    mask, _, seen = decode_mask([save(tmp_path / "m.png", np.zeros((9, 9), np.uint8))], 8)
    assert mask.sum() == 0 and not seen


def test_several_masks_are_united_and_must_have_one_size(tmp_path):
    a, b = box((8, 8), 0, 0, 2, 2), box((8, 8), 1, 1, 3, 3)
    paths = [save(tmp_path / "a.png", a), save(tmp_path / "b.png", b)]
    assert np.array_equal(decode_mask(paths, 8)[0][0], (a | b) // 255)
    paths.append(save(tmp_path / "c.png", np.zeros((8, 9), np.uint8)))
    with pytest.raises(ValueError, match="differ in size: 8x8, 9x8"):
        decode_mask(paths, 8)


# ---- a folder with masks


def aligned(images: torch.Tensor, masks: torch.Tensor) -> float:
    """Intersection over union of the bright box and the mask, the least of a batch; images of any range."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    bright = (images.double() - low) / (high.double() - low) > 0.5
    lesion = masks > 0.5
    return float(((bright & lesion).sum((1, 2, 3)) / (bright | lesion).sum((1, 2, 3))).min())


def test_masks_lie_on_their_images(root):
    data = load_dataset(config(root))
    for split in (data.train, data.test):
        assert split.masks.shape == (12, 1, 32, 32) and split.masks.dtype == torch.uint8
        assert set(split.masks.unique().tolist()) == {0, 1}
        assert aligned(split.images, split.masks) > 0.85
        assert aligned(split.images, split.masks.roll(1, 0)) < 0.5  # another image's mask would be seen
    assert data.audit.warnings == [] and data.audit.ignored == []


@pytest.mark.parametrize("device_way", ["resize_crops", "warp"])
def test_masks_stay_on_their_images_through_augmentation(root, monkeypatch, device_way):
    augmentation = AugmentationConfig(name="strong", hflip=0.5, crop_scale=[0.5, 0.8], crop_ratio=[3 / 4, 4 / 3])
    data = GazeDataModule(config(root), augmentation)
    if device_way == "warp":  # what a GPU does
        monkeypatch.setattr("gaze.data.datamodule._by_resize", datamodule._by_warp)
    raw = next(iter(data.val_dataloader()))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        moved = data.prepare(raw, training=True)
    seen = moved.mask.sum((1, 2, 3)) > 60  # some lesions leave the crop
    assert seen.sum() >= 8
    assert aligned(moved.image[seen], moved.mask[seen]) > 0.75
    assert aligned(moved.image[seen], raw.mask[seen].float()) < 0.3  # they did move


def test_an_absolute_folder_and_other_suffixes(root, tmp_path):
    expected = load_dataset(config(root)).train.masks
    (root / "masks").rename(tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere" / "train" / "cat").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
        path.unlink()
    data = load_dataset(config(root, mask_dir=str(tmp_path / "elsewhere")))
    assert torch.equal(data.train.masks, expected)


def test_folder_without_mask_dir_has_none(root):
    assert load_dataset(config(root, mask_dir=None)).train.masks is None


def test_missing_masks_are_named_in_one_error_or_empty(root):
    for i in range(6):
        (root / "masks" / "train" / "dog" / f"{i}.png").unlink()
    (root / "masks" / "test" / "cat" / "3.png").unlink()
    message = refused(config(root))
    assert "Images without a mask in" in message and ": 7 of 24\n" in message and "and 2 more" in message
    assert "train/dog/0.png" in message and "dataset.on_missing_mask=empty" in message
    data = load_dataset(config(root, on_missing_mask="empty"))
    assert data.train.masks.flatten(1).any(1).tolist() == [True] * 6 + [False] * 6
    assert data.test.masks.flatten(1).any(1).tolist() == [i != 3 for i in range(12)]


def test_mask_folder_that_is_not_there(root):
    for missing in ("error", "empty"):
        assert "has no folder train/ and test/." in refused(config(root, mask_dir="lesions", on_missing_mask=missing))


def test_masks_of_training_images_alone(root):
    shutil.rmtree(root / "masks" / "test")
    assert "has no folder test/." in refused(config(root))
    data = load_dataset(config(root, on_missing_mask="empty"))
    assert data.train.masks.any() and not data.test.masks.any()


def test_a_damaged_mask_is_a_damaged_image(root):
    (root / "masks" / "train" / "cat" / "2.png").write_bytes(b"hello")
    assert "mask of train/cat/2.png: no image of a format that is read" in refused(config(root))
    data = load_dataset(config(root, on_bad_image="skip"))
    assert "train/cat/2.png" not in data.train.paths and len(data.train.masks) == len(data.train.images) == 11
    assert aligned(data.train.images, data.train.masks) > 0.85
    assert data.audit.unreadable == ["mask of train/cat/2.png: no image of a format that is read"]


def test_odd_masks_are_warned_of(root):
    save(root / "masks" / "train" / "cat" / "0.png", box((40, 40), 5, 5, 9, 9))
    save(root / "masks" / "train" / "cat" / "1.png", box((40, 60), 5, 5, 1, 1))
    for _ in range(2):  # decoded, and out of the cache
        assert load_dataset(config(root)).audit.warnings == [
            "train/cat/0.png: image of 60x40 pixels, mask of 40x40",
            "train/cat/1.png: the lesion is too small for dataset.image_size, its mask is empty",
        ]


# ---- the cache


def equal(a: ImageData, b: ImageData) -> bool:
    return a.audit == b.audit and torch.equal(a.train.masks, b.train.masks) and torch.equal(a.test.masks, b.test.masks)


def test_masks_come_out_of_the_cache_until_they_change(root, tmp_path):
    lines: list[str] = []

    def load(**changes) -> tuple[ImageData, str]:
        lines.clear()
        data = load_dataset(config(root, **{"cache": str(tmp_path / "kept"), **changes}), lines.append)
        return data, lines[-1].split()[0] if lines else ""

    first, how = load()
    assert how == "decoded"
    again, how = load()
    assert how == "read" and equal(first, again)
    save(root / "masks" / "test" / "dog" / "5.png", box((40, 60), 0, 0, 30, 30))
    changed, how = load()
    assert how == "decoded" and not torch.equal(changed.test.masks, first.test.masks)
    assert equal(changed, load(cache="off")[0])
    (root / "masks" / "test" / "dog" / "5.png").unlink()
    emptied, how = load(on_missing_mask="empty")
    assert how == "decoded" and emptied.test.masks[11].sum() == 0
    assert load(mask_dir=None)[1] == "decoded" and load(mask_dir=None)[1] == "read"
    assert load(on_missing_mask="empty")[1] == "read"  # each has an entry of its own


# ---- masks that guide in place of the set's own


def test_drawn_masks_guide_training_images_alone(root, tmp_path):
    before = load_dataset(config(root))
    save(tmp_path / "drawn/train/cat/2.png", box((80, 120), 0, 0, 40, 60))  # of another size
    save(tmp_path / "drawn/train/dog/3.png", box((40, 60), 0, 0, 0, 0))
    save(tmp_path / "drawn/test/cat/1.png", box((40, 60), 0, 0, 40, 60))
    data = load_dataset(config(root, guide_dir=str(tmp_path / "drawn")))
    place = next(i for i, path in enumerate(data.train.paths) if path.startswith("train/cat/2."))
    assert data.train.masks.flatten(1).any(1).nonzero().flatten().tolist() == [place]
    side = data.train.masks.shape[-1]
    assert data.train.masks[place].sum() == data.train.masks[place, 0, : side // 2, : side // 2].sum() == side**2 // 4
    assert torch.equal(data.test.masks, before.test.masks) and torch.equal(data.train.images, before.train.images)
    own = config(root, mask_dir=None, guide_dir=str(tmp_path / "drawn"))  # a set without masks
    assert own.may_have_masks and torch.equal(load_dataset(own).train.masks, data.train.masks)
    assert images_at_hand(own, print).data.train.masks is None  # what is measured is not what somebody drew


def test_a_phantom_is_guided_by_what_was_drawn(tmp_path):
    settings = {"train_images": 16, "test_images": 8, "image_size": 32, "cache": "off"}
    save(tmp_path / "train/00005.png", box((32, 32), 0, 0, 32, 16))
    plain, data = (load_dataset(DatasetConfig(**settings, guide_dir=own)) for own in (None, str(tmp_path)))
    assert data.train.masks.sum() == data.train.masks[5, 0, :, :16].sum() == 32 * 16
    assert torch.equal(data.test.masks, plain.test.masks)


def test_guiding_masks_that_cannot_be_used_are_said(root, tmp_path):
    with pytest.raises(DataError, match=r"guide_dir=.*/none: .* is no folder\. Masks stand there"):
        load_dataset(config(root, guide_dir=str(tmp_path / "none")))
    save(tmp_path / "drawn/test/cat/1.png", box((40, 60), 0, 0, 40, 60))
    with pytest.raises(DataError, match="no training image of toy has a mask there"):
        load_dataset(config(root, guide_dir=str(tmp_path / "drawn")))
    (tmp_path / "drawn/train/cat").mkdir(parents=True)
    (tmp_path / "drawn/train/cat/1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cat/1\.png is no mask"):
        load_dataset(config(root, guide_dir=str(tmp_path / "drawn")))


def test_a_file_beside_an_image_lies_below_the_root(tmp_path):
    save(tmp_path / "a/1.png", box((4, 4), 0, 0, 2, 2))
    assert file_beside(tmp_path, "a/1.jpg", [".npy", ".png"]) == tmp_path / "a/1.png"
    for path in ("a/2.jpg", "b/../a/1.jpg", str(tmp_path / "a/1.jpg")):
        assert file_beside(tmp_path, path, [".png"]) is None
