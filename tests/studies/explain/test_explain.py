"""explain=RUN images=PATH: every kind of file, the right class, the right map, the worst first."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from PIL import Image
from rich.console import Console
from run_folders import SMALL, write_run

from gaze.config.analysis import AnalyzeConfig, CompareConfig
from gaze.config.naming import analysis_name
from gaze.config.train import check_config
from gaze.data.datamodule import GazeDataModule
from gaze.errors import ConfigError, DataError
from gaze.metrics.consistency import ClassGaze
from gaze.runs.folder import with_dataset
from gaze.runs.run import Run
from gaze.studies.explain.explain import class_of, explain, find_images, ranked, typical_gaze, typical_of
from gaze.studies.opened import Looked, open_run
from gaze.studies.run import run_analysis

CPU = CompareConfig(device="cpu")
pytestmark = pytest.mark.usefixtures("undrawn")


def quiet():
    return Console(file=io.StringIO(), width=100)


@pytest.fixture(scope="module")
def config(composed):
    return check_config(composed(*SMALL))


@pytest.fixture(scope="module")
def data(config):
    return GazeDataModule(config.dataset)


@pytest.fixture(scope="module")
def one(config, data, tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("explained") / "run", config, list(data.classes))
    return open_run(folder, CPU)


@pytest.fixture
def folder(data, tmp_path):
    """Two class folders, a flat file, and what a folder of one's own may hold."""
    for i, place in enumerate((0, 1, 4, 5)):
        path = tmp_path / "in" / "deep" / data.classes[data.data.test.targets[place]] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.data.test.images[place, 0].numpy()).save(path)
    picture = np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "in" / "colour.jpg")
    Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(tmp_path / "in" / "deep16.png")
    Image.fromarray(np.zeros((3000, 4000), np.uint8)).save(tmp_path / "in" / "huge.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def run(one, out, images=None):
    console = quiet()
    run_analysis(
        AnalyzeConfig(explain=str(one.run.folder), images=None if images is None else str(images), compare=CPU),
        out,
        console,
    )
    return pd.read_csv(out / "manifest.csv"), json.loads((out / "manifest.json").read_text()), console.file.getvalue()


def test_what_is_written_of_dicom_files_keeps_their_names_and_nothing_of_their_headers(one, tmp_path):
    shipped = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
    for name in ("1.2.840.113.dcm", "1.2.840.114", "a.b/1.2.840.115.DCM"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped, tmp_path / "in" / name)
    run(one, tmp_path / "out", tmp_path / "in")
    names = {path.name.partition("-")[2] for path in (tmp_path / "out" / "overlays").iterdir()}
    stems = ("1.2.840.113", "1.2.840.114", "a.b-1.2.840.115")
    assert names == {f"{stem}{kind}" for stem in stems for kind in (".png", "-map.png", "-map.npy")}
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    header = pydicom.dcmread(shipped)
    assert str(header.PatientID).encode() not in written and str(header.PatientName).encode() not in written


def test_a_folder_of_all_kinds(one, data, folder, tmp_path):
    table, facts, said = run(one, tmp_path / "out", folder)
    kinds = [path.name.partition("-map.")[2] for path in (tmp_path / "out" / "overlays").iterdir()]
    assert len(table) == 7 and {kind: kinds.count(kind) for kind in kinds} == {"": 7, "npy": 7, "png": 7}
    np.testing.assert_allclose(table[[f"probability of {name}" for name in one.classes]].sum(axis=1), 1, atol=1e-6)
    for _, row in table.iterrows():
        assert row["probability"] == row[f"probability of {row['explained']}"]
        assert row["predicted"] == max(one.classes, key=lambda name: row[f"probability of {name}"])
    assert facts["unreadable"] == ["broken.png: no image of a format that is read"]
    assert "broken.png" in said and "1 of 8 files cannot be read" in said
    rows = table.set_index("path")
    known = rows[rows["because"] == "true class"]
    assert len(known) == 4 and all(path.split("/")[1] == row["true"] for path, row in known.iterrows())
    flat = rows.loc[["colour.jpg", "deep16.png", "huge.png"]]
    assert (flat["because"] == "predicted class").all() and (flat["explained"] == flat["predicted"]).all()
    assert flat["true"].isna().all() and flat["correct"].isna().all()
    assert rows.loc["colour.jpg", "changed"] == "resized to 32x32, RGB to L"
    assert rows.loc["deep16.png", "changed"].startswith("resized to 32x32, I;16 to L")
    assert (rows.loc["huge.png", "width"], rows.loc["huge.png", "height"]) == (4000, 3000)
    assert known["changed"].isna().all()
    for name, row in rows.iterrows():  # the map is the module's own
        pixels = torch.from_numpy(np.asarray(find_images(one, str(folder / name), quiet()).pixels))
        label = torch.tensor([one.classes.index(row["explained"])])
        cam = one.module.look(pixels.float() / 127.5 - 1, label).cam[0]
        kept = np.load(tmp_path / "out" / row["map"])
        assert kept.dtype == np.float32 and kept.shape == tuple(cam.shape)
        np.testing.assert_allclose(kept, cam, atol=1e-5)
        large = np.load(tmp_path / "out" / row["map_at_image_size"])
        assert large.dtype == np.float16 and large.shape == (row["height"], row["width"])
        pillows = Image.fromarray(kept).resize(large.shape[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(large, pillows, atol=2e-3)
        with Image.open((tmp_path / "out" / row["map_at_image_size"]).with_suffix(".png")) as grey:
            assert grey.mode == "L" and np.abs(np.asarray(grey) / 255 - large).max() < 3e-3
        with Image.open(tmp_path / "out" / row["overlay"]) as overlay:
            assert overlay.size[0] > 500
    assert facts["rows"][0]["path"] == table["path"][0] and facts["rows"][0]["rank"] == 1


def test_evaluation_images_worst_first_against_a_plain_computation(one, data, tmp_path):
    table, _, said = run(one, tmp_path / "out")
    batch = data.evaluation_batch(list(range(24)))
    found = one.module.look(batch.image, batch.target)
    cams, right = found.cam.numpy(), (found.logits.argmax(1) == batch.target).numpy()
    expected = {}
    for i in range(24):
        same = right & (batch.target == batch.target[i]).numpy()
        if same.any():
            expected[data.data.test.paths[i]] = np.square(cams[i] - cams[same].mean(0)).mean()
    rows = table[table["deviation"].notna()]
    assert dict(zip(rows["path"], rows["deviation"], strict=True)) == pytest.approx(expected, abs=1e-6)
    assert (rows["deviation"].diff().dropna() <= 0).all() and rows["rank"].tolist() == list(range(1, len(rows) + 1))
    assert len(table) == 24 and table["true"].notna().all()
    top = rows[rows["correct"]].groupby("explained")["percentile"].max()
    assert (top == 100).all()  # the farthest correct image of a class is the class's farthest
    assert "24 images from evaluation images of the run" in said.replace("\n", " ")


def test_one_file_and_its_folder_say_the_class(one, data, folder, tmp_path):
    file = next((folder / "deep").rglob("*.png"))
    table, _, _ = run(one, tmp_path / "a", file)
    assert table[["path", "true"]].to_numpy().tolist() == [[file.name, file.parent.name]]
    assert class_of(file, file.parent, one.classes) == one.classes.index(file.parent.name)
    assert class_of(folder / "deep" / "x.png", folder, one.classes) == -1


def test_an_earlier_call_is_replaced_and_other_files_stay(one, folder, tmp_path):
    run(one, tmp_path / "out", folder)
    (tmp_path / "out" / "maps" / "mine.npy").write_bytes(b"")
    for path in folder.rglob("*.png"):
        path.unlink()
    run(one, tmp_path / "out", folder)
    assert sorted(p.name for p in (tmp_path / "out" / "maps").iterdir()) == ["001-colour.npy", "mine.npy"]


@pytest.mark.parametrize("name", ["overlays", "maps"])
def test_pictures_are_neither_removed_nor_written_through_a_link(one, folder, tmp_path, name):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "001-a.png").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "foreign")
    with pytest.raises(DataError, match=f"{name} is a link out of its folder"):
        run(one, tmp_path / "out", folder / "colour.jpg")
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["001-a.png"]


def test_the_explanation_of_other_images_or_of_another_run_is_not_written_over(one, folder, tmp_path):
    run(one, tmp_path / "out", folder / "colour.jpg")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    other = tmp_path / "other"
    shutil.copytree(one.run.folder, other)
    for own, images in ((one, None), (one, folder), (open_run(other, CPU), folder / "colour.jpg")):
        with pytest.raises(
            ConfigError, match=r"holds the explanation of .*last\.ckpt on .*colour\.jpg.*hydra\.run\.dir"
        ):
            run(own, tmp_path / "out", images)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_folders_are_named_by_run_images_and_checkpoint(tmp_path):
    run_folder = "outputs/s/phantom/level2/lambda=0/seed=0"
    plain = analysis_name(None, None, run_folder)
    assert plain == "explain-s-phantom-level2-lambda=0-seed=0"
    names = [analysis_name(None, None, run_folder, images) for images in ("a/new", "b/new", "new", "~/new", tmp_path)]
    names += [
        analysis_name(None, None, run_folder, "new", "best"),
        analysis_name(None, None, run_folder, None, "best"),
        plain,
    ]
    assert len(set(names)) == len(names) and all(name.startswith(plain) for name in names)
    assert re.fullmatch(rf"{plain},new-[0-9a-f]{{8}}", names[0]) and names[-2] == f"{plain},best"
    assert analysis_name(None, None, run_folder, "new/") == analysis_name(None, None, run_folder, Path("new").resolve())
    elsewhere = [
        analysis_name(None, root + run_folder[len("outputs") :], None) for root in ("outputs", "results", "/outputs")
    ]
    assert len(set(elsewhere)) == 3
    assert analysis_name(None, run_folder, None, None, "last") == plain.replace("explain", "check")


def test_checkpoint_is_named_for_one_run(one, folder, tmp_path):
    assert AnalyzeConfig(explain="r", checkpoint="best").compare.checkpoint == "best"
    assert AnalyzeConfig(check="r", compare=CompareConfig(checkpoint="best")).compare.checkpoint == "best"
    with pytest.raises(ConfigError, match="checkpoint=best belongs to check=RUN and explain=RUN"):
        AnalyzeConfig(checkpoint="best")
    shutil.copy(one.run.checkpoint("last"), one.run.checkpoint("best"))
    settings = AnalyzeConfig(
        explain=str(one.run.folder), checkpoint="best", images=str(folder / "colour.jpg"), compare=CPU
    )
    run_analysis(settings, tmp_path / "out", quiet())
    assert "seed 0, best checkpoint" in (tmp_path / "out" / "report.md").read_text().splitlines()[0]


def test_zero_maps_are_flagged_and_have_no_rank(one, folder, tmp_path):
    blind = tmp_path / "blind"
    shutil.copytree(one.run.folder, blind)
    checkpoint = torch.load(blind / "checkpoints" / "last.ckpt", weights_only=True)
    key = next(key for key in checkpoint["state_dict"] if key.endswith("head.3.weight"))
    checkpoint["state_dict"][key].zero_()
    torch.save(checkpoint, blind / "checkpoints" / "last.ckpt")
    table, _, said = run(open_run(blind, CPU), tmp_path / "out", folder)
    assert table["empty_map"].all() and table["rank"].isna().all() and table["deviation"].isna().all()
    assert "7 have an all-zero map: no gaze" in said
    assert "map is zero" in (tmp_path / "out" / "report.md").read_text()


def test_the_page_names_the_cam_of_the_run_and_its_network(composed, data, folder, tmp_path):
    config = check_config(composed(*SMALL, "gaze.method=hires_cam"))
    own = open_run(write_run(tmp_path / "run", config, list(data.classes)), CPU)
    run(own, tmp_path / "out", folder / "colour.jpg")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Maps are HiResCAM of the class" in page and "Grad-CAM" not in page
    assert "# Where does it look? default, phantom, level2, lambda 0, seed 0" in page


def test_ranks_put_the_largest_first_and_nothing_last():
    table = ranked(pd.DataFrame({"path": list("abcd"), "deviation": [0.1, np.nan, 0.4, 0.2]}))
    assert table["path"].tolist() == ["c", "d", "a", "b"]
    assert table["rank"].tolist()[:3] == [1, 2, 3] and pd.isna(table["rank"][3])


def test_class_means_are_those_of_the_metric():
    random = np.random.default_rng(0)
    cams, target = random.random((30, 5, 5), np.float32), random.integers(0, 3, 30)
    cams[3] = 0
    looked = Looked(cams, random.random((30, 3), np.float32))
    correct = looked.probabilities.argmax(1) == target
    cams[np.flatnonzero(correct)[0], 2, 2] = np.nan  # left out
    metric = ClassGaze(3)
    preds = torch.from_numpy(looked.probabilities)
    metric.update(cam=torch.from_numpy(cams), preds=preds, target=torch.from_numpy(target))
    found = typical_of(looked, target, 3)
    with pytest.warns(UserWarning, match=r"NaN or infinite: 1\."):
        np.testing.assert_allclose(found.gaze, metric.compute(), atol=1e-6)
    assert found.counts.sum() == correct.sum() - 1 and np.isfinite(found.gaze).all()


def test_without_evaluation_images_the_runs_own_means_serve(one, data, folder, tmp_path, monkeypatch):
    import gaze.studies.explain.explain

    typical = typical_gaze(one, quiet())

    def gone(*rest):
        raise DataError("dataset.root=x does not exist.")

    monkeypatch.setattr(gaze.studies.explain.explain, "evaluation_images", gone)
    with pytest.raises(DataError, match="does not exist"):
        typical_gaze(one, quiet())
    path = one.run.folder / "maps.npz"
    classes = np.asarray(one.classes)
    np.savez(path, class_gaze=typical.gaze, counts=typical.counts, classes=classes, epoch=1)
    try:
        kept = typical_gaze(one, quiet())
    finally:
        path.unlink()
    np.testing.assert_array_equal(kept.gaze, typical.gaze)
    assert "not at hand" in kept.note
    table, _ = explain(one, find_images(one, str(folder), quiet()), kept, quiet())
    assert table["deviation"].notna().any() and table["percentile"].isna().all()


def test_deep_images_are_read_through_the_runs_window_and_what_is_left_out_is_named(one, folder, tmp_path):
    values = np.array([[1000, 1600], [2200, 3000]], np.uint16)
    (tmp_path / "deep" / "@eaDir").mkdir(parents=True)
    for name in ("a.png", "@eaDir/a.png"):
        Image.fromarray(values).save(tmp_path / "deep" / name)
    (tmp_path / "deep" / "b.heic").write_text("x")
    for window, low, high in ((None, 0, 65535), ([1000, 2500], 1000, 2500)):
        config = with_dataset(one.run.settings, window=window)
        own = one._replace(run=Run(one.run.folder, config))
        console = quiet()
        found = find_images(own, str(tmp_path / "deep"), console)
        exact = Image.fromarray(np.rint(((values - low) / (high - low) * 255.0).clip(0, 255)).astype(np.uint8))
        assert np.array_equal(found.pixels[0, 0], exact.resize((32, 32), Image.Resampling.BILINEAR))
        said = console.file.getvalue()
        assert found.names == ["a.png"] and f"1 of 1 images: more than 8 bits, {low} becomes 0 and {high} beco" in said
        assert "1 other files are left out, which are no images that are read: b.heic" in said
    (tmp_path / "deep" / "a.png").unlink()
    with pytest.raises(DataError, match=r"holds no image .* It holds b\.heic"):
        find_images(one, str(tmp_path / "deep"), quiet())


@pytest.mark.parametrize(("window", "ends"), [([-900, 1100], (-900, 1100)), ("file", None), (None, (-33792, 31743))])
def test_a_dicom_file_is_read_through_the_runs_window(one, tmp_path, window, ends):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels import apply_modality_lut

    name = "CT_small" if ends else "MR_small"  # the latter has a window of its own
    source = Path(pydicom.__file__).parent / "data" / "test_files" / f"{name}.dcm"
    shutil.copy(source, tmp_path / "1.2.3")  # as archives name them
    file, console = pydicom.dcmread(source), quiet()
    center, width = (0, 0) if ends else (float(file.WindowCenter) - 0.5, float(file.WindowWidth) - 1)
    low, high = ends or (center - width / 2, center + width / 2)
    values = (apply_modality_lut(file.pixel_array, file) - low) / (high - low)
    own = one._replace(run=Run(one.run.folder, with_dataset(one.run.settings, window=window)))
    found = find_images(own, str(tmp_path), console)
    exact = Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8))
    expected = np.asarray(exact.resize((32, 32), Image.Resampling.BILINEAR))
    assert abs(found.pixels[0, 0].numpy().astype(int) - expected).max() <= 1
    assert found.names == ["1.2.3"] and found.modes == ["MONOCHROME2, 16 bits"]
    assert "1 of 1 images: more than 8 bits, " in console.file.getvalue()
    assert str(file.PatientName) not in console.file.getvalue()


def test_names_that_are_no_utf8_line_breaks_and_markup(one, folder, tmp_path):
    place = tmp_path / os.fsdecode(b"f\xf6lder") / one.classes[0]
    (place / "x[").mkdir(parents=True)
    for name in (b"\x93\xfa.png", b"two\nlines.png", b"x[/b].png"):
        shutil.copy(folder / "colour.jpg", place / os.fsdecode(name))
    (place / os.fsdecode(b"\x93.png")).write_bytes(b"no image")
    table, facts, said = run(one, tmp_path / "out", place.parent)
    names = (r"\udc93\udcfa.png", r"two\nlines.png", "x[/b].png")
    assert set(table["path"]) == {f"{place.name}/{name}" for name in names}
    assert set(table["true"]) == {place.name} and facts["images"].endswith(r"f\udcf6lder")
    assert rf"{place.name}/\udc93.png: no image" in said
    assert r"two\nlines.png" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_bad_paths_are_refused_before_anything_is_written(one, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("")
    for images, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "empty", "holds no image"),
        (folder / "broken.png", "none of 1 files can be read"),
    ):
        with pytest.raises(DataError, match=message):
            run(one, tmp_path / "out", images)
    assert not (tmp_path / "out").exists()
