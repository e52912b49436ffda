"""gaze.data.decode: which files are read as images. What becomes of their pixels is in test_datasets.py."""

import os

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError, features

from gaze.data.decode import FORMATS, decode_image, find_window, is_deep
from gaze.data.masks import decode_mask
from gaze.data.sources.folders import SUFFIXES
from gaze.files import UnreadableFile

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_that_is_listed_is_of_a_format_that_is_read(tmp_path, suffix):
    kind = Image.registered_extensions().get(suffix)
    if suffix in (".dcm", ".dicom"):
        pytest.skip("DICOM: test_dicom.py")
    if kind == "AVIF" and "AVIF" not in FORMATS:
        pytest.skip("this Pillow has no AVIF")
    if kind in ("AVIF", "WEBP", "JPEG2000") and not features.check({"JPEG2000": "jpg_2000"}.get(kind, kind.lower())):
        pytest.skip(f"this Pillow is built without {kind}")
    (PICTURE.convert("L") if suffix == ".pgm" else PICTURE).save(tmp_path / f"a{suffix}")
    (tmp_path / "linked").symlink_to(tmp_path / f"a{suffix}")
    for name in (f"a{suffix}", "linked"):  # nor does the name matter
        assert decode_image(tmp_path / name, 3, 12).size == (12, 12)
    assert kind in FORMATS


def test_a_picture_that_is_eps_reaches_no_ghostscript(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **_: started.append(given))
    PICTURE.save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    for read in (
        lambda path: decode_image(path, 1, 8),
        lambda path: decode_mask([path], 8),
        lambda p: find_window([p]),
    ):
        with pytest.raises(UnidentifiedImageError):
            read(tmp_path / "a.png")
    assert not is_deep(tmp_path / "a.png") and started == []


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "linked.png").symlink_to("fifo.png")
    for name in ("fifo.png", "zero.png", "linked.png"):
        for read in (lambda path: decode_image(path, 1, 8), lambda path: decode_mask([path], 8)):
            with pytest.raises(UnreadableFile, match=f"{name} is no regular file but a"):
                read(tmp_path / name)
        assert not is_deep(tmp_path / name)
    with (tmp_path / "large.png").open("wb") as file:
        PICTURE.save(file, "PNG")
        file.truncate(2 << 30)  # a hole: no byte of it is on the disk
    with pytest.raises(UnreadableFile, match=r"large\.png has 2,147,483,648 bytes, and at most 1,073,741,824 are read"):
        decode_image(tmp_path / "large.png", 1, 8)
