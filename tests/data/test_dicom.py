"""gaze.data.dicom: held against DCMTK on pydicom's own files and made ones; what is refused, and what is not copied."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import refused
from PIL import Image

from gaze.config.data import DatasetConfig
from gaze.data.datasets import load_dataset
from gaze.data.decode import Frame, decode_image, find_window, grey_image, is_deep, read_frame
from gaze.data.masks import decode_mask
from gaze.errors import ConfigError

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian  # noqa: E402

needs_dcmtk = pytest.mark.skipif(shutil.which("dcmj2pnm") is None, reason="needs DCMTK: apt-get install dcmtk")
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"  # no download: of the package itself
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def dicom(path: Path, values: np.ndarray = RAMP, bits: int = 12, **header) -> Path:
    """A made file; ``header`` by DICOM's keywords. A None leaves that out."""
    about = FileMetaDataset()
    about.TransferSyntaxUID = ExplicitVRLittleEndian
    about.MediaStorageSOPClassUID, about.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    file = FileDataset(str(path), {}, file_meta=about, preamble=b"\0" * 128)
    signed = values.dtype.kind == "i"
    told = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "SOPInstanceUID": "1.2.3", "PatientName": "Secret^Person",
        "PatientID": "ID-4711", "Rows": values.shape[-2], "Columns": values.shape[-1], "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 8 * values.itemsize, "BitsStored": bits,
        "HighBit": bits - 1, "PixelRepresentation": int(signed), "PixelData": values.tobytes(),
    }  # fmt: skip
    if values.ndim == 3:
        told["NumberOfFrames"] = len(values)
    for name, value in {**told, **header}.items():
        if value is not None:
            setattr(file, name, value)
    if "PixelData" in file:
        file["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def table(first: int, bits: int, entries: np.ndarray) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return [item]


def dcmtk(path: Path, *words: str) -> np.ndarray:
    made = subprocess.run(["dcmj2pnm", "+op", "-O", *words, str(path)], capture_output=True, check=True)
    return np.asarray(Image.open(io.BytesIO(made.stdout))).astype(int)


def shown(path: Path, window=None) -> np.ndarray:
    return np.asarray(grey_image(read_frame(path, own=window == "file"), window)).astype(int)


# ---- against DCMTK


@needs_dcmtk
@pytest.mark.parametrize(
    "name",
    ["CT_small", "MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_expb", "rtdose",
     "examples_overlay"],
)  # fmt: skip
def test_pydicoms_own_files_equal_dcmtk(name):
    path = SHIPPED / f"{name}.dcm"
    frame = read_frame(path, own=True)
    low, high = (int(end) for end in np.quantile(frame.values, [0.01, 0.99]))
    pair = ["+Ww", str((low + high) / 2 + 0.5), str(high - low + 1)]  # PS3.3 C.11.2.1.2: its ends are low and high
    assert abs(shown(path) - dcmtk(path, "-W")).max() <= 1
    assert abs(shown(path, [low, high]) - dcmtk(path, *pair)).max() <= 1
    if frame.own is not None:
        assert abs(shown(path, "file") - dcmtk(path, "+Wi", "1")).max() <= 1


@needs_dcmtk
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({}, ["-W"]),
        ({"WindowCenter": 1000, "WindowWidth": 700}, ["+Wi", "1"]),
        ({"WindowCenter": [1000, 3000], "WindowWidth": [700, 50]}, ["+Wi", "1"]),
        ({"WindowCenter": 40, "WindowWidth": 400, "RescaleSlope": "1", "RescaleIntercept": "-1024"}, ["+Wi", "1"]),
        ({"WindowCenter": 1000, "WindowWidth": 700, "VOILUTFunction": "SIGMOID"}, ["+Wi", "1"]),
        ({"RescaleSlope": "0.5", "RescaleIntercept": "-100.25"}, ["-W"]),
        ({"ModalityLUTSequence": table(0, 16, np.arange(4096) ** 2 // 256)}, ["-W"]),
        ({"VOILUTSequence": table(100, 12, 4095 - np.arange(2000))}, ["+Wl", "1"]),
        ({"VOILUTSequence": table(0, 8, np.arange(4096) // 16)}, ["+Wl", "1"]),
        ({"VOILUTSequence": table(-500, 10, np.arange(2000) // 2), "RescaleSlope": "1", "RescaleIntercept": "-1024"},
         ["+Wl", "1"]),
    ],
)  # fmt: skip
def test_made_files_equal_dcmtk(tmp_path, kind, header, words):
    path = dicom(tmp_path / "x.dcm", PhotometricInterpretation=kind, **header)
    assert abs(shown(path, "file") - dcmtk(path, *words)).max() <= 1
    assert len(np.unique(shown(path, "file"))) > 100


@needs_dcmtk
@pytest.mark.parametrize(
    ("bits", "kind"), [(8, np.uint8), (10, np.uint16), (16, np.uint16), (16, np.int16), (12, np.int16)]
)
def test_all_that_the_bits_hold_is_the_whole_range(tmp_path, bits, kind):
    low, high = (0, 1 << bits) if np.dtype(kind).kind == "u" else (-(1 << bits - 1), 1 << bits - 1)
    values = np.random.default_rng(0).integers(low, high, (20, 30)).astype(kind)
    path = dicom(tmp_path / "x.dcm", values, bits)
    assert abs(shown(path) - dcmtk(path, "-W")).max() <= 1
    assert is_deep(path) == (bits > 8) == read_frame(path).deep


def test_fewer_than_8_bits_reach_white(tmp_path):  # DCMTK multiplies by 4 there
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(shown(dicom(tmp_path / "x.dcm", values, 6)), np.rint(values / 63 * 255))


# ---- values


def test_compressed_files_hold_the_values_of_the_plain_one():
    plain = read_frame(SHIPPED / "MR_small.dcm").values
    for name in ("RLE", "bigendian", "implicit", "expb", "padded", "jp2klossless"):
        assert np.array_equal(read_frame(SHIPPED / f"MR_small_{name}.dcm").values, plain)
    assert np.array_equal(read_frame(SHIPPED / "CT_small.dcm").values, _hounsfield(SHIPPED / "CT_small.dcm"))


def _hounsfield(path: Path) -> np.ndarray:
    file = pydicom.dcmread(path)
    return file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)


def test_one_frame_of_an_enhanced_file_has_its_own_rescale_and_window(tmp_path):
    def group(**sequences) -> Dataset:
        made = Dataset()
        for name, values in sequences.items():
            item = Dataset()
            item.update(values)
            setattr(made, name, [item])
        return made

    def tags(**values) -> Dataset:
        made = Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    rescales = [tags(RescaleSlope=slope, RescaleIntercept=-1000) for slope in (1, 2)]
    path = dicom(
        tmp_path / "x.dcm", np.stack([RAMP, RAMP]),
        SharedFunctionalGroupsSequence=[group(FrameVOILUTSequence=tags(WindowCenter=40, WindowWidth=400))],
        PerFrameFunctionalGroupsSequence=[group(PixelValueTransformationSequence=own) for own in rescales],
    )  # fmt: skip
    frame = read_frame(path, own=True)
    assert np.array_equal(frame.values, RAMP.astype(int) - 1000) and frame.own is not None
    assert "several frames, of which the first is read" in frame.remarks


def test_an_inverted_image_is_the_twin_of_the_one_that_it_shows(tmp_path):
    one = decode_image(dicom(tmp_path / "1.dcm", RAMP, PhotometricInterpretation="MONOCHROME1"), 1, 64)
    two = decode_image(dicom(tmp_path / "2.dcm", 4095 - RAMP), 1, 64)
    assert one.digest == two.digest and np.array_equal(one.pixels, two.pixels) and one.pixels[0, 0, 0] == 255
    Image.fromarray(RAMP).save(tmp_path / "3.png")
    three = decode_image(dicom(tmp_path / "3.dcm"), 1, 64)
    assert decode_image(tmp_path / "3.png", 1, 64).digest == three.digest != one.digest
    grey = (RAMP >> 4).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "4.png")
    found = decode_image(dicom(tmp_path / "4.dcm", grey, 8), 1, 64)
    assert found.digest == decode_image(tmp_path / "4.png", 1, 64).digest and found.mode == "MONOCHROME2, 8 bits"


def test_a_dicom_file_is_a_mask(tmp_path):
    lesion = np.zeros((32, 32), np.uint8)
    lesion[8:16, 8:24] = 1
    pixels, size, seen = decode_mask([dicom(tmp_path / "x.dcm", lesion, 1)], 32)
    assert np.array_equal(pixels[0], lesion) and size == (32, 32) and seen


# ---- a whole set


def dicom_set(root: Path, suffix: str = ".dcm", **header) -> dict[str, np.ndarray]:
    """Two classes of 12-bit CT, values -1024..-600 but for a square in the middle; the values by path."""
    kept = {}
    for split, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                values = np.random.default_rng([count, label, i]).integers(0, 400, (24, 24)).astype(np.uint16)
                values[8:16, 8:16] += 100 + 200 * label
                path = f"{split}/{name}/1.2.840.{i}{suffix}"
                dicom(root / path, values, RescaleSlope="1", RescaleIntercept="-1024", **header)
                kept[path] = values.astype(int) - 1024
    return kept


def config(root: Path, **changes) -> DatasetConfig:
    return DatasetConfig(**{"name": "ct", "kind": "folder", "root": str(root), "image_size": 24, **changes})


@pytest.mark.parametrize("suffix", [".dcm", ".DICOM", ""])
def test_twelve_bits_in_hounsfield_units_are_not_black(tmp_path, suffix):
    values = dicom_set(tmp_path / "set", suffix)
    data = load_dataset(config(tmp_path / "set", validation=0.2))
    train = np.stack([values[path] for path in data.train.paths])
    low, high = (int(np.percentile(train, q, method="inverted_cdf")) for q in (0.5, 99.5))
    assert data.audit.window == [low, high] and -1024 <= low < high < -300
    assert np.array_equal(data.train.images[:, 0], np.rint(((train - low) / (high - low) * 255).clip(0, 255)))
    assert data.train.images.float().mean() > 60
    assert f"window: {low} becomes 0 and {high} becomes 255" in "\n".join(data.audit.lines())
    assert data.audit.modes == {"MONOCHROME2, 12 bits": 16} and data.audit.ignored == []


@pytest.mark.parametrize("window", ["file", "image", [-1024, -500], None])
def test_every_window_reaches_the_images(tmp_path, window):
    dicom_set(tmp_path / "set", WindowCenter=-800, WindowWidth=300)
    data = load_dataset(config(tmp_path / "set", window=window, validation="test"))
    path = tmp_path / "set" / data.train.paths[0]
    assert np.array_equal(data.train.images[0, 0], shown(path, window))
    assert data.audit.window == window and any("window: " in line for line in data.audit.lines())
    assert json.loads(json.dumps(data.audit.to_dict()))["window"] == window


def test_nothing_of_a_header_is_kept(tmp_path):
    dicom_set(tmp_path / "set")
    data = load_dataset(config(tmp_path / "set", cache=str(tmp_path / "kept")))
    text = json.dumps(data.audit.to_dict()) + "\n".join(data.audit.lines())
    kept = b"".join(file.read_bytes() for file in (tmp_path / "kept").rglob("*") if file.is_file())
    assert b"MONOCHROME2" in kept and "MONOCHROME2" in text
    for secret in ("Secret", "4711"):
        assert secret not in text and secret.encode() not in kept
    assert torch.equal(
        load_dataset(config(tmp_path / "set", cache=str(tmp_path / "kept"))).train.images, data.train.images
    )


def test_all_frames_are_images_of_one_group(tmp_path):
    draw = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 1)):
        for name in ("cat", "dog"):
            for i in range(count):
                dicom(tmp_path / split / name / f"{i}.dcm", draw.integers(0, 4096, (3, 16, 16)).astype(np.uint16))
    frames = [Image.fromarray(draw.integers(0, 256, (16, 16), np.uint8)) for _ in range(2)]
    frames[0].save(tmp_path / "train" / "cat" / "x.tif", save_all=True, append_images=frames[1:])
    first = load_dataset(config(tmp_path, image_size=16, validation=0.3))
    assert sum(first.audit.train_counts.values()) + sum(first.audit.validation_counts.values()) == 11
    assert first.audit.remarks["several frames, of which the first is read"] == 13
    data = load_dataset(config(tmp_path, image_size=16, validation=0.3, frames="all", window=[0, 4095]))
    assert len(data.train.paths) + len(data.validation.paths) == 32 and len(data.test.paths) == 6
    assert "several frames, of which the first is read" not in data.audit.remarks
    parts = [{path.partition("#")[0] for path in split.paths} for split in (data.train, data.validation)]
    assert not parts[0] & parts[1] and all(parts)
    for split in (data.train, data.validation):
        for shown_image, path in zip(split.images[:, 0], split.paths, strict=True):
            file, _, number = path.partition("#")
            if file.endswith(".tif"):
                expected = np.asarray(frames[int(number)])
            else:
                values = pydicom.dcmread(tmp_path / file).pixel_array[int(number)]
                expected = np.rint(values / 4095 * 255)
            assert np.array_equal(shown_image, expected)
    dicom(tmp_path / "test" / "cat" / "many.dcm", NumberOfFrames=2_000_000_000)
    assert "many.dcm says that it has 2,000,000,000 frames" in refused(config(tmp_path, frames="all"))
    with pytest.raises(ConfigError, match=r"dataset\.frames=all"):
        config(tmp_path, frames="all", mask_dir="masks")


# ---- what is refused


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"Rows": None, "Columns": None, "PixelData": None}, "a DICOM file without pixels"),
        ({"PixelData": None}, "a DICOM file without pixels"),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
            r"colours \(RGB, samples per pixel: 3\)",
        ),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"colours \(PALETTE COLOR, samples per pixel: 1\)"),
        ({"PixelData": b"\0" * 100}, "damaged pixels"),
        ({"Rows": 65535, "Columns": 65535}, "4,294,836,225 pixels, and at most"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "Window Width must be greater"),
        ({"RescaleSlope": "0", "RescaleIntercept": "3"}, "no range of values"),
    ],
)
def test_bad_files(tmp_path, header, why):
    path = dicom(tmp_path / "x.dcm", **header)
    with pytest.raises(ValueError, match=why):
        decode_image(path, 1, 8, "file")


def test_a_transfer_syntax_that_no_decoder_reads_is_named(tmp_path):
    for name, syntax, said in (
        ("MR_small_jpeg_ls_lossless", "1.2.840.10008.1.2.4.80", "JPEG-LS Lossless Image Compression"),
        ("JPGExtended", "1.2.840.10008.1.2.4.51", "JPEG Extended"),  # of 12 bits, where decoders have 8
        ("image_dfl", "1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian"),
    ):
        with pytest.raises(ValueError, match=f"compressed as {said}.*{syntax}.*no decoder here reads") as caught:
            decode_image(SHIPPED / f"{name}.dcm", 1, 8)
        assert "Secret" not in str(caught.value)


def test_bad_files_of_a_set_are_one_error_or_left_out(tmp_path):
    dicom_set(tmp_path / "set")
    for name, source in (("syntax", "JPGExtended"), ("colour", "examples_rgb_color"), ("report", "test-SR")):
        shutil.copy(SHIPPED / f"{source}.dcm", tmp_path / "set" / "train" / "cat" / f"{name}.dcm")
    said = refused(config(tmp_path / "set"))
    assert "Unreadable images" in said and "1.2.840.10008.1.2.4.51" in said
    assert "report.dcm: a DICOM file without pixels" in said and "colour.dcm: a DICOM file with colours (RGB" in said
    data = load_dataset(config(tmp_path / "set", on_bad_image="skip"))
    assert len(data.audit.unreadable) == 3 and sum(data.audit.train_counts.values()) == 12


def test_without_pydicom_one_line_says_what_to_install(tmp_path, monkeypatch):
    dicom_set(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"pip install 'gaze-consistency\[medical\]'"):
        load_dataset(config(tmp_path / "set", on_bad_image="skip"))


def test_a_window_is_found_in_files_of_several_kinds(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "x.png")
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "x.tif")
    expected = [int(np.percentile(RAMP, q, method="inverted_cdf")) for q in (0.5, 99.5)]
    assert find_window([dicom(tmp_path / "x.dcm"), tmp_path / "x.png", tmp_path / "x.tif"]) == expected
    assert isinstance(read_frame(tmp_path / "x.dcm"), Frame)
