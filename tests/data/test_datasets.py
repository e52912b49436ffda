"""Reading folders: every mode of image, every way in which a folder can be wrong."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from image_sets import refused, shipped
from PIL import Image, features
from torchvision import transforms
from torchvision.transforms.v2 import InterpolationMode, Resize

from gaze.config.data import DatasetConfig
from gaze.data import decode
from gaze.data.audit import ALPHA, DEEP_COLOUR, FRAMES, Audit
from gaze.data.datasets import _unnamed, load_dataset
from gaze.data.decode import convert_image, decode_image, find_window, grey_image, read_frame
from gaze.data.sources.folders import Folder
from gaze.data.sources.listing import Listing
from gaze.data.sources.phantom import CLASSES
from gaze.errors import ConfigError

BRAIN, CHEST = SHARED / "brain_tumor_mri", SHARED / "chest_xray"
needs_brain = pytest.mark.skipif(not BRAIN.is_dir(), reason=f"no folder {BRAIN} (set GAZE_SHARED_DATA)")
needs_chest = pytest.mark.skipif(not CHEST.is_dir(), reason=f"no folder {CHEST} (set GAZE_SHARED_DATA)")


def noise(seed: int, shape: tuple[int, ...] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, seed: int, shape: tuple[int, ...] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, shape)).save(path)
    return path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, three training and two test images of each, all different."""
    root = tmp_path / "toy"
    for s, (split, count) in enumerate((("train", 3), ("test", 2))):
        for c, name in enumerate(("cat", "dog")):
            for i in range(count):
                save(root / split / name / f"{i}.png", seed=100 * s + 10 * c + i)
    return root


def config(root: Path | None, **changes) -> DatasetConfig:
    return DatasetConfig(**{"name": "toy", "kind": "folder", "root": root and str(root), "image_size": 16, **changes})


# ---- what is read


def test_a_line_about_a_file_is_about_its_place_and_repeats_no_name():
    names = ["train/cat/Quintana: 1.png", "train/cat/Brzezinski_2.png"]
    listing = Listing(Path("/clinic"), {"train": Folder("train", {"cat": names}, [])}, None, [])
    lines = [f"{names[0]}: truncated", f"mask of {names[1]}: image of 3x4 pixels, mask of 4x4", f"{names[1]}: x: y",
             f"{names[1]}: /clinic/{names[1]} is no regular file",
             f"mask of {names[1]}: Brzezinski_2 differs", "Thorvald"]  # fmt: skip
    assert _unnamed(lines, listing) == [
        "train file 0: truncated", "mask of train file 1: image of 3x4 pixels, mask of 4x4", "train file 1: x: y",
        "train file 1: cannot be read", "mask of train file 1: cannot be read", "a file: cannot be read",
    ]  # fmt: skip


def test_folder_pair(root):
    data = load_dataset(config(root))
    assert data.classes == ("cat", "dog")
    assert data.train.images.shape == (6, 1, 16, 16) and data.train.images.dtype == torch.uint8
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1] and data.train.targets.dtype == torch.int64
    assert data.test.paths == ["test/cat/0.png", "test/cat/1.png", "test/dog/0.png", "test/dog/1.png"]
    assert data.train.masks is None
    assert data.audit.train_counts == {"cat": 3, "dog": 3} and data.audit.test_counts == {"cat": 2, "dog": 2}
    assert not data.audit.twins.groups


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (9, 7, 3), (16, 16), (1, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_torchvision(tmp_path, suffix, shape, channels):
    path = save(tmp_path / f"x.{suffix}", 1, shape)
    pixels, _, size, *_ = decode_image(path, channels, 16)
    steps = [transforms.Grayscale()] if channels == 1 else []
    oracle = transforms.Compose([*steps, transforms.Resize((16, 16)), transforms.PILToTensor()])
    with Image.open(path) as image:  # ImageFolder's loader converts to RGB first
        assert np.array_equal(pixels, oracle(image.convert("RGB")).numpy())
    assert size == (shape[1], shape[0])


def colours() -> Image.Image:
    return Image.fromarray(noise(3, (4, 5, 3)))


@pytest.mark.parametrize("word", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_an_image_is_resized_as_torchvision_does_it(tmp_path, word):
    colours().convert("RGB").save(tmp_path / "x.png")
    resize = Resize((24, 24), InterpolationMode(word))
    expected = np.asarray(resize(colours().convert("RGB"))).transpose(2, 0, 1)
    assert np.array_equal(decode_image(tmp_path / "x.png", 3, 24, interpolation=word).pixels, expected)


def test_modes_equal_a_conversion_to_rgb():
    for channels in [1, 3]:
        for mode in ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"]:
            image = colours().convert(mode)
            expected = image.convert("RGB").convert("L" if channels == 1 else "RGB")
            converted = convert_image(image, channels)
            assert converted.mode == ("L" if channels == 1 else "RGB")
            assert np.array_equal(np.asarray(converted), np.asarray(expected))


def test_transparency_is_dropped_not_blended():
    values = np.dstack([noise(4, (4, 5, 3)), np.zeros((4, 5), np.uint8)])
    assert np.array_equal(np.asarray(convert_image(Image.fromarray(values), 3)), values[..., :3])


def test_palette_with_transparency(tmp_path):
    grey = noise(5)
    image = Image.fromarray(grey).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Image.open(tmp_path / "p.png") as opened:
            assert opened.mode == "P"
            assert np.array_equal(np.asarray(convert_image(opened, 1)), grey)


def test_sixteen_bits_scale_to_eight(tmp_path):
    for suffix in ["png", "tif"]:
        values = np.array([[0, 128, 129, 257], [385, 386, 32768, 65535]], np.uint16)
        Image.fromarray(values).save(tmp_path / f"x.{suffix}")
        frame = read_frame(tmp_path / f"x.{suffix}")
        assert frame.mode.startswith("I") and frame.values.dtype == np.uint16
        assert np.asarray(grey_image(frame)).tolist() == [[0, 0, 1, 1], [1, 2, 128, 255]]


def test_mode_i_scales_like_sixteen_bits(tmp_path):
    Image.fromarray(np.array([[0, 257], [514, 65535]], np.int32)).save(tmp_path / "x.tif")
    assert read_frame(tmp_path / "x.tif").mode == "I"
    assert decode_image(tmp_path / "x.tif", 3, 2).pixels[2].tolist() == [[0, 1], [2, 255]]


def test_pixels_without_known_range_need_a_window(tmp_path):
    values = np.array([[0.25, 0.5], [0.75, 1.5]], np.float32)
    for kind, scale in ((np.float32, 1), (np.int32, 80000), (np.int32, -80000)):
        Image.fromarray((values * scale).astype(kind)).save(tmp_path / "x.tif")
        for window in (None, "file"):
            with pytest.raises(ValueError, match=r"no fixed range: give it by dataset\.window=\[low,high\]"):
                decode_image(tmp_path / "x.tif", 1, 2, window)
        low, high = sorted((0.25 * scale, 1.25 * scale))
        shown = decode_image(tmp_path / "x.tif", 1, 2, [low, high]).pixels[0]
        assert shown.tolist() == ([[0, 64], [128, 255]] if scale > 0 else [[255, 191], [128, 0]])
        ends = decode_image(tmp_path / "x.tif", 1, 2, "image").pixels
        assert (ends.min(), ends.max()) == (0, 255)
    Image.fromarray(np.array([[np.nan, 1]], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="no numbers"):
        decode_image(tmp_path / "x.tif", 1, 2, [0, 1])


def test_tiff_files_hold_what_tifffile_writes(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    draw = np.random.default_rng(0)
    for kind in ("uint16", "int16", "uint32", "int32", "float32"):
        ends = (-1000.0, 1000.0) if kind[0] == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
        values = draw.uniform(*ends, (7, 9)).astype(kind)
        tifffile.imwrite(tmp_path / "x.tif", values)
        frame = read_frame(tmp_path / "x.tif")
        assert frame.deep and np.array_equal(frame.values, values)
        low, high = np.quantile(values, [0.1, 0.9]).tolist()
        expected = np.rint(np.clip((values.astype(float) - low) / (high - low) * 255, 0, 255))
        assert abs(np.asarray(grey_image(frame, [low, high])) - expected).max() <= (kind[0] == "f")


def test_a_window_of_floats_is_that_of_all_their_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MOST_VALUES", 0)  # 1,000 of each image
    draw, files = np.random.default_rng(0), [tmp_path / f"{i}.tif" for i in range(5)]
    values = draw.normal(0, 300, (5, 80, 80)).astype(np.float32)
    for file, each in zip(files, values, strict=True):
        Image.fromarray(each).save(file)
    ranks = [(values <= end).mean() for end in find_window(files)]
    assert np.allclose(ranks, decode.PERCENTILES, atol=0.0006)


def bright(seed: int, name: str) -> np.ndarray:
    """Values 20..69, in the middle 60 more for dogs: what tells the classes apart is brightness."""
    values = np.random.default_rng(seed).integers(20, 70, (24, 24))
    values[8:16, 8:16] += 60 * (name == "dog")
    return values


def deep_set(root: Path, values=lambda v: v.astype(np.uint16), suffix: str = "png") -> dict[str, np.ndarray]:
    """Two classes, four training and two test images of each; the training values by class."""
    kept: dict[str, list[np.ndarray]] = {"cat": [], "dog": []}
    for s, (split, count) in enumerate((("train", 4), ("test", 2))):
        for name in ("cat", "dog"):
            for i in range(count):
                drawn = bright(100 * s + i, name)
                path = root / split / name / f"{i}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values(drawn)).save(path)
                kept[name] += [drawn] if split == "train" else []
    return {name: np.stack(drawn) for name, drawn in kept.items()}


@pytest.mark.parametrize(("scale", "suffix"), [(1, "png"), (16, "png"), (257, "tif"), (500, "png")])
def test_beyond_8_bits_one_window_is_taken_from_the_training_images(tmp_path, scale, suffix):
    train = deep_set(tmp_path, lambda v: (v * scale).astype(np.uint16), suffix)
    pixels = np.concatenate([*train.values()]).ravel() * scale
    low, high = (int(np.percentile(pixels, q, method="inverted_cdf")) for q in (0.5, 99.5))
    data = load_dataset(config(tmp_path, image_size=24))
    assert data.audit.window == [low, high] and not data.audit.twins.groups
    expected = (np.concatenate([*train.values()]) * scale - low) / (high - low) * 255
    assert np.array_equal(data.train.images[:, 0], np.rint(expected.clip(0, 255)))
    assert f"window: {low} becomes 0 and {high} becomes 255" in "\n".join(data.audit.lines())
    assert data.audit.remarks == {"more than 8 bits": 12}
    again = load_dataset(config(tmp_path, image_size=24))  # out of the cache
    assert again.audit == data.audit and torch.equal(again.test.images, data.test.images)
    given = load_dataset(config(tmp_path, image_size=24, window=[low, high], cache="off"))
    assert torch.equal(given.train.images, data.train.images) and given.audit.window == [low, high]
    whole = load_dataset(config(tmp_path, image_size=24, window=None))
    assert np.array_equal(whole.train.images[:4, 0], np.rint(train["cat"] * scale / 257))


def test_the_window_sees_no_validation_image(tmp_path):
    """Of the images that are trained on alone: not those of the validation part, nor what is dropped or too many."""
    deep_set(tmp_path, lambda v: (v * 16).astype(np.uint16))
    for changes in ({"validation": 0.5}, {"validation": 0.5, "split_seed": 3}, {"validation": "test"}):
        for more in ({}, {"train_images": 4}):
            data = load_dataset(config(tmp_path, image_size=24, **changes, **more))
            pixels = np.concatenate([np.asarray(Image.open(tmp_path / path)).ravel() for path in data.train.paths])
            expected = [int(np.percentile(pixels, q, method="inverted_cdf")) for q in (0.5, 99.5)]
            assert data.audit.window == expected
    for path in data.test.paths:
        (tmp_path / path).unlink()
        Image.fromarray(np.full((24, 24), 65535, np.uint16)).save(tmp_path / path)
    Image.fromarray(np.full((24, 24), 65535, np.uint16)).save(tmp_path / "train" / "cat" / "9.png")
    settings = config(tmp_path, image_size=24, validation=0.5, on_leak="warn")
    drawn = load_dataset(settings)
    assert ("train/cat/9.png" in drawn.validation.paths) == (drawn.audit.window[1] < 65535)
    other = load_dataset(settings.model_copy(update={"on_leak": "drop"}))
    assert "train/cat/9.png" not in other.train.paths and other.audit.window[1] < 65535


def test_a_window_of_each_image(tmp_path):
    train = deep_set(tmp_path, lambda v: (v * 16).astype(np.uint16))
    data = load_dataset(config(tmp_path, image_size=24, window="image", validation="test"))
    assert data.audit.window == "image" and "0.5 % of each image's pixels become 0" in "\n".join(data.audit.lines())
    for shown, values in zip(data.train.images[:4, 0], train["cat"] * 16, strict=True):
        low, high = np.percentile(values, [0.5, 99.5], method="inverted_cdf")
        assert np.array_equal(shown, np.rint(np.clip((values - low) / (high - low) * 255, 0, 255)))


def test_8_bit_images_have_no_window(root):
    audit = load_dataset(config(root)).audit
    assert audit.window is None and "window" not in "\n".join(audit.lines())


def test_window_of_flat_images(tmp_path):
    for i, values in enumerate((np.full((9, 9), 700), np.pad([[9]], ((0, 39), (0, 39))))):
        Image.fromarray(values.astype(np.uint16)).save(tmp_path / f"{i}.png")
    assert find_window([tmp_path / "0.png"]) == [700, 701]
    assert find_window([tmp_path / "1.png"]) == [0, 9]
    assert find_window([]) is None


def test_a_format_that_declares_its_range_keeps_it(root):
    """12-bit values 3520, 2080, 640 of a PGM file with maxval 4095 are 219, 130, 40 of 255."""
    for split in ("train", "test"):
        for name, shift in (("cat", 0), ("dog", 1)):
            values = np.array([[3520, 2080], [640 + (split == "test"), shift]], ">u2")
            (root / split / name / "deep.pgm").write_bytes(b"P5 2 2 4095\n" + values.tobytes())
    data = load_dataset(config(root, image_size=2))
    assert data.audit.window is None and data.audit.remarks == {}
    image = data.train.images[data.train.paths.index("train/cat/deep.pgm"), 0]
    assert image.tolist() == [[219, 130], [40, 0]]


def test_windows_that_are_none_are_refused():
    for value in ([3, 3], [1], [0.5, 0.25], "wide", 5, [True, 4], [0.0, float("nan")], [0.0, float("inf")]):
        with pytest.raises(
            ConfigError, match=r"window=.* must be auto, file, image, null or two numbers \[low, high\]"
        ):
            DatasetConfig(window=value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_orientation_is_applied_and_counted(root, suffix):
    plain = np.zeros((32, 48), np.uint8)
    plain[:8, :8] = 200
    for name in ("cat", "dog"):
        for orientation in (3, 6):
            exif = Image.Exif()
            exif[0x0112] = orientation  # 3: stored upside down; 6: to be turned by 90 degrees clockwise
            values = plain + 9 * orientation * (name == "dog")
            stored = Image.fromarray(values).rotate({3: 180, 6: 90}[orientation], expand=True)
            stored.save(root / "test" / name / f"turned{orientation}.{suffix}", exif=exif)
    data = load_dataset(config(root, on_leak="warn"))
    turned = [i for i, path in enumerate(data.test.paths) if "turned" in path]
    assert len(turned) == 4 and (data.test.images[turned, 0, 1, 1] > 190).all()
    assert (data.test.images[turned, 0, -2, -2] < 100).all()
    assert data.audit.remarks == {"turned as their EXIF orientation says": 4}
    assert "4 images: turned as their EXIF orientation says" in "\n".join(data.audit.lines())
    assert data.audit.common_sizes["48x32"] == 4


def test_orientation_is_left_alone_where_that_is_asked_for(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpg", "webp"):
        Image.fromarray(noise(1, (32, 48))).save(tmp_path / f"x.{suffix}", exif=exif)
        assert decode_image(tmp_path / f"x.{suffix}", 1, 8).size == (32, 48)
        for orient in (False, None):
            found = decode_image(tmp_path / f"x.{suffix}", 1, 8, orient=bool(orient))
            assert found.size == (48, 32) and found.remarks == ()


def test_damaged_exif_data_say_nothing(tmp_path):
    Image.fromarray(noise(6)).save(tmp_path / "x.jpg", exif=b"Exif\x00\x00MM\x00*garbage")
    assert decode_image(tmp_path / "x.jpg", 1, 16).remarks == ()


def test_what_is_dropped_is_said(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (1, 90)]
    for suffix in ("gif", "tif", "png", "webp"):
        frames[1].save(tmp_path / f"several.{suffix}", save_all=True, append_images=frames[:1])
        found = decode_image(tmp_path / f"several.{suffix}", 1, 8)
        assert found.remarks == (FRAMES,) and abs(int(found.pixels.max()) - 90) < 3
        frames[1].save(tmp_path / f"one.{suffix}")
        assert decode_image(tmp_path / f"one.{suffix}", 1, 8).remarks == ()
    frames[1].convert("RGB").save(
        tmp_path / "camera.jpg", "MPO", save_all=True, append_images=[frames[0].convert("RGB")]
    )
    assert decode_image(tmp_path / "camera.jpg", 1, 8).remarks == ()  # what follows is a preview
    shape = np.zeros((8, 8, 4), np.uint8)
    shape[2:5, 2:5, 3] = 255
    Image.fromarray(shape).save(tmp_path / "alpha.png")
    assert decode_image(tmp_path / "alpha.png", 3, 8).remarks == (ALPHA,)
    Image.fromarray(noise(1, (8, 8, 4))).save(tmp_path / "both.png")
    assert decode_image(tmp_path / "both.png", 3, 8).remarks == ()
    deep = np.random.default_rng(0).integers(0, 65536, (5, 4, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)  # Pillow writes no such file
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks)
    (tmp_path / "colour.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png))
    assert decode_image(tmp_path / "colour.png", 3, 8).remarks == (DEEP_COLOUR,)


def test_clutter_links_and_nested_folders(root):
    (root / "train" / "cat" / ".DS_Store").write_text("x")
    (root / "train" / "cat" / "._0.png").write_text("x")
    (root / "train" / "cat" / "Thumbs.db").write_text("x")
    for folder in ("__MACOSX", "@eaDir", "#recycle", "cat/@eaDir", ".ipynb_checkpoints"):
        save(root / "train" / folder / "thumb.jpg", 7)
    (root / "train" / "cat" / "notes.txt").write_text("x")
    save(root / "train" / "loose.png", 900)
    save(root / "elsewhere" / "deep" / "far.PNG", 901)
    (root / "train" / "cat" / "linked").symlink_to(root / "elsewhere")
    (root / "elsewhere" / "circle").symlink_to(root / "elsewhere")
    data = load_dataset(config(root))
    assert data.train.paths[:4] == [*(f"train/cat/{i}.png" for i in range(3)), "train/cat/linked/deep/far.PNG"]
    assert data.audit.ignored == ["train/cat/notes.txt", "train/loose.png"]


def test_formats_that_are_read(root):
    suffixes = [
        "jpeg",
        "jfif",
        "bmp",
        "gif",
        "pgm",
        "tiff",
        "webp",
        "jp2",
        *(["avif"] if features.check("avif") else []),
    ]
    for number, suffix in enumerate(suffixes):
        save(root / "train" / "cat" / f"x{suffix}.{suffix}", 50 + number)
    (root / "train" / "cat" / "x.heic").write_text("x")
    data = load_dataset(config(root))
    assert {path.rpartition(".")[2] for path in data.train.paths} == {"png", *suffixes}
    assert data.audit.ignored == ["train/cat/x.heic"] and data.audit.unreadable == []


def test_other_folder_names_and_one_level_off(root):
    (root / "train").rename(root / "Training")
    (root / "val").mkdir()  # a third split is not used
    for given in (root, root.parent):
        data = load_dataset(config(given, train_dir="Training"))
        assert len(data.train.paths) == 6 and data.train.paths[0] == "Training/cat/0.png"
        assert data.audit.root == str(root)


def test_progress_is_told(root, monkeypatch):
    monkeypatch.setattr("gaze.data.decode.REPORT_EVERY", 4)
    lines: list[str] = []
    load_dataset(config(root, cache="off"), lines.append)
    assert lines == ["train: 4 of 6 images read", "test: 4 of 4 images read"]


def test_phantom():
    wanted = {"kind": "phantom", "name": "phantom", "image_size": 32, "train_images": 12, "test_images": 8}
    data = load_dataset(config(None, channels=3, **wanted))
    assert data.classes == tuple(CLASSES) and data.test.paths[7] == "test/00007"
    assert data.train.images.shape == (12, 3, 32, 32) and data.train.masks.shape == (12, 1, 32, 32)
    assert torch.equal(data.test.images[:, :1], load_dataset(config(None, **wanted)).test.images)
    assert sum(data.audit.train_counts.values()) == 12 and not data.audit.twins.groups
    assert data.audit.common_sizes == {"32x32": 20}


# ---- what is refused


def test_root_missing_file_or_empty(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    assert "does not exist. Give the folder that holds train/ and test/" in refused(config(tmp_path / "no"))
    assert "is not a folder" in refused(config(tmp_path / "file"))
    assert "is empty" in refused(config(tmp_path / "empty"))


def test_split_folder_missing(root):
    message = refused(config(root, train_dir="Training", test_dir="Testing"))
    assert "no folder Training/ and Testing/. It holds: test, train." in message and "dataset.train_dir" in message
    assert "no folder Testing/." in refused(config(root, test_dir="Testing"))


def test_two_sets_below_the_root(root):
    for name in ("a", "b"):
        save(root / name / "Training" / "x" / "0.png", 1)
        save(root / name / "Testing" / "x" / "0.png", 2)
    assert "several data sets: a, b." in refused(config(root, train_dir="Training", test_dir="Testing"))


def test_class_folders_differ(root):
    (root / "test" / "dog").rename(root / "test" / "wolf")
    assert "only in train/: dog; only in test/: wolf" in refused(config(root))


def test_one_class_or_none(root, tmp_path):
    for split in ("train", "test"):
        (root / split / "dog").rename(tmp_path / split)
    assert "two or more class folders; found: cat." in refused(config(root))
    for split in ("train", "test"):
        (root / split / "cat").rename(tmp_path / f"{split}-cat")
    assert "found: none." in refused(config(root))


def test_class_without_images(root):
    for path in (root / "test" / "dog").iterdir():
        path.rename(path.with_suffix(".txt"))
    assert "in: test/dog." in refused(config(root))


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_folder_that_may_not_be_read(root):
    (root / "train" / "cat").chmod(0)
    try:
        assert "cannot be listed: Permission denied" in refused(config(root))
    finally:
        (root / "train" / "cat").chmod(0o755)


def spoil(root: Path) -> list[Path]:
    """Seven files that cannot be read, in ways that differ."""
    cat = root / "train" / "cat"
    bad = [truncate(save(cat / f"cut{i}.{s}", i, (80, 80))) for i, s in enumerate(("png", "jpg", "bmp", "tif"))]
    for name, content in (("empty.png", b""), ("text.jpg", b"hello")):
        (cat / name).write_bytes(content)
        bad.append(cat / name)
    (cat / "gone.png").symlink_to(root / "nowhere")
    return [*bad, cat / "gone.png"]


def test_unreadable_images_are_named_in_one_error(root):
    spoil(root)
    truncate(root / "test" / "dog" / "1.png")
    message = refused(config(root))
    assert ": 8\n" in message and "and 3 more" in message
    assert "train/cat/cut0.png: " in message and "truncated" in message and "on_bad_image=skip" in message


def test_unreadable_images_are_skipped(root):
    bad = spoil(root)
    data = load_dataset(config(root, on_bad_image="skip"))
    assert data.train.paths == [f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(3)]
    assert data.train.images.shape[0] == 6 and data.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(line.split(":")[0] for line in data.audit.unreadable) == sorted(f"train/cat/{p.name}" for p in bad)
    assert "train/cat/text.jpg: no image of a format that is read" in data.audit.unreadable
    assert "train/cat/gone.png: No such file or directory" in data.audit.unreadable


def test_class_that_skipping_empties(root):
    for path in (root / "test" / "dog").iterdir():
        truncate(path)
    assert "test in" in (message := refused(config(root, on_bad_image="skip"))) and "left of: dog." in message


# ---- published counts and leaked images


PUBLISHED = {"train_counts": {"cat": 3, "dog": 3}, "test_counts": {"cat": 2, "dog": 2}}


def test_local_copy_that_is_short_is_a_warning(root):
    assert load_dataset(config(root, kind="kaggle", **PUBLISHED)).audit.warnings == []
    (root / "train" / "dog" / "1.png").unlink()
    audit = load_dataset(config(root, kind="kaggle", **PUBLISHED)).audit
    assert audit.warnings == ["train/dog holds 2 images, the published set 3"]


def test_local_copy_with_other_classes_is_an_error(root):
    counts = {"cat": 3, "wolf": 3}
    message = refused(config(root, train_counts=counts, test_counts=counts))
    assert "holds the classes cat, dog, but cat, wolf are expected" in message


def leak(root: Path) -> None:
    """Test image dog/0 stands in train too: as a copy in another format, twice, once with another label."""
    with Image.open(root / "test" / "dog" / "0.png") as image:
        image.convert("RGB").save(root / "train" / "dog" / "copy.bmp")
        image.save(root / "train" / "cat" / "copy.tif")


def test_leaked_images_are_found_and_dropped(root):
    leak(root)
    twins = load_dataset(config(root)).audit.twins
    assert twins.groups == [["test/dog/0.png", "train/cat/copy.tif", "train/dog/copy.bmp"]]
    assert (twins.test_in_train, twins.train_in_test, twins.class_groups) == (1, 2, 1)
    data = load_dataset(config(root, on_leak="drop"))
    assert data.audit.dropped == 2 and not any("copy" in path for path in data.train.paths)
    assert len(data.train.paths) == len(data.train.images) == len(data.train.targets) == 6
    assert data.audit.twins == twins and len(data.test.paths) == 4
    text = refused(config(root, on_leak="error"))
    assert "also stand in the test set: 2\n  train/cat/copy.tif\n  train/dog/copy.bmp\n" in text


def test_at_most_so_many_images_of_each_class_alike(root):
    leak(root)
    everything = load_dataset(config(root, on_leak="drop"))
    few, same = (load_dataset(config(root, train_images=4, test_images=2, on_leak="drop")) for _ in range(2))
    assert few.train.paths == same.train.paths and set(few.train.paths) < set(everything.train.paths)
    assert few.audit.train_counts == {"cat": 2, "dog": 2} and few.audit.test_counts == {"cat": 1, "dog": 1}
    places = [everything.train.paths.index(path) for path in few.train.paths]
    assert torch.equal(few.train.images, everything.train.images[places])
    others = {tuple(load_dataset(config(root, train_images=4, seed=seed)).train.paths) for seed in range(5)}
    assert len(others) > 1
    assert "train_images are left out" in refused(config(root, train_images=1))


def test_class_that_dropping_empties(root):
    for i, path in enumerate((root / "train" / "dog").iterdir()):
        (root / "test" / "dog" / f"same{i}.png").write_bytes(path.read_bytes())
    assert "on_leak=warn" in refused(config(root, on_leak="drop"))


# ---- what ships


@pytest.mark.parametrize("name", ["brain_tumor_mri", "chest_xray", "breast_ultrasound", "folder"])
def test_shipped_configs_fit_the_schema(name, root):
    settings = shipped(name, root)
    assert settings.name == name and (settings.image_size, settings.channels, settings.batch_size) == (224, 1, 32)
    assert (settings.handle is None) == (settings.kind == "folder")


def twin_counts(audit: Audit) -> tuple[int, int, int]:
    return audit.twins.test_in_train, audit.twins.train_in_test, audit.twins.class_groups


@needs_brain
@pytest.mark.timeout(120)
def test_brain_tumor_set():
    data = load_dataset(shipped("brain_tumor_mri", BRAIN))
    assert data.train.images.shape[1:] == (1, 224, 224)
    assert data.audit.test_counts == {"glioma": 300, "meningioma": 306, "notumor": 405, "pituitary": 300}
    assert data.audit.warnings == ["Training/notumor holds 1591 images, the published set 1595"]
    # 216 by pixels and by file bytes alike; Te-no_0349 and Tr-no_0445 are near twins (467 pixels differ by <= 6).
    assert twin_counts(data.audit) == (216, 263, 0)


@needs_chest
@pytest.mark.timeout(120)
def test_chest_xray_set():
    data = load_dataset(shipped("chest_xray", CHEST, image_size=32))
    assert data.audit.train_counts == {"NORMAL": 1341, "PNEUMONIA": 3875} and not data.audit.warnings
    assert twin_counts(data.audit) == (0, 0, 0)
