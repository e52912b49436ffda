"""Patients' ids: in split.csv and predictions.csv of a run alone, and nowhere in the copy that share=RUN writes."""

import contextlib
import io
import json
import re
import shutil
import socket
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console

from gaze.config.analysis import AnalyzeConfig, CompareConfig
from gaze.config.naming import analysis_folder
from gaze.config.train import check_config
from gaze.errors import BusyError, ConfigError, DataError
from gaze.files import write_json
from gaze.runs.human import HumanFigures, read_human, write_human
from gaze.runs.load import read_runs
from gaze.runs.run import Run, runs_below
from gaze.runs.status import locked
from gaze.studies.run import run_analysis
from gaze.studies.share import placeless
from gaze.training.train import run_training

PEOPLE = ("Quintana", "Oyelaran", "Brzezinski", "Thorvald", "Vandermeer", "Szymborska", "Ferreira", "Nakagawa")
IDS = [name.encode() for name in (*PEOPLE, *map(str.lower, PEOPLE))]
WHERE_IDS_STAND = {"split.csv", "predictions.csv"}
CPU = CompareConfig(device="cpu")


def plant(root):
    """Two classes of patients' images, with a leaked twin, an unreadable file and one that is no image."""
    g = np.random.default_rng(0)
    for split, people in (("train", PEOPLE[:4]), ("test", PEOPLE[4:])):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i, person in enumerate(people * 2):
                pixels = g.integers(0, 120, (24, 24)) + 100 * (name == "dog")
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{person}_{i}.png")
    shutil.copy(root / "test" / "cat" / "Vandermeer_0.png", root / "train" / "cat" / "Quintana_90.png")
    shutil.copy(root / "train" / "dog" / "Quintana_0.png", root / "train" / "dog" / "Quintana_91.png")
    (root / "train" / "dog" / "Brzezinski_92.png").write_bytes(b"no image of Brzezinski")
    (root / "test" / "dog" / "Ferreira_notes.txt").write_text("no image")


def settings(composed, root, *more):
    own = ("dataset=folder", f"dataset.root={root}", "dataset.name=clinic", "dataset.group='([A-Za-z]+)_'",
           "dataset.on_bad_image=skip", "dataset.on_leak=drop", "dataset.validation=test",
           "pictures.every_n_epochs=1")  # fmt: skip
    words = [word for word in TINY if not word.startswith(("dataset.train_images", "dataset.test_images", "pictures"))]
    return check_config(composed(*words, *own, *more))


@pytest.fixture(scope="module")
def run(composed, tmp_path_factory):
    home = tmp_path_factory.mktemp("private")
    plant(home / "pictures")
    config = settings(composed, home / "pictures")
    with contextlib.redirect_stdout(io.StringIO()) as terminal:
        run_training(config, home / "outputs" / "run")
    own = Run(home / "outputs" / "run")
    (own.folder / "Quintana.txt").write_text("what a user put there")
    write_human(own, {"test": HumanFigures(("cat", "dog"), 1, np.arange(2), *np.zeros((3, 3, 7)), np.ones((2, 4, 4)))})
    return own, terminal.getvalue()


@pytest.fixture(scope="module")
def copy(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("shared")
    console = quiet()
    written = run_analysis(AnalyzeConfig(share=str(run[0].folder), compare=CPU), out, console)
    folder = out / "default-clinic-level1-lambda=0-seed=0"
    assert set(written) == {path for path in folder.rglob("*") if path.is_file()}
    return Run(folder), console.file.getvalue()


def quiet():
    return Console(file=io.StringIO(), width=150)


def contents(folder):
    """Name and bytes of each file below, archives' entries unpacked, pictures' and arrays' texts among them."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            yield name, name.encode()
            continue
        yield name, name.encode() + path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    yield name, entry.filename.encode() + entry.comment + entry.extra + archive.read(entry)
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                yield name, " ".join(str(own.tolist()) for own in arrays.values() if own.dtype.kind == "U").encode()
        if path.suffix == ".png":
            yield name, repr(Image.open(path).info).encode()


def holding(folder, words):
    return {name for name, content in contents(folder) if any(word in content for word in words)}


def test_ids_stand_in_two_files_of_a_run_alone(run):
    own, said = run
    found = holding(own.folder, IDS)
    assert found == {*WHERE_IDS_STAND, "Quintana.txt"}, found
    assert "Data set clinic" in said and not any(word.decode() in said for word in IDS)
    assert (own.folder / "pictures" / "overlays.png").exists() and list(own.folder.glob("events*"))


def test_what_readers_looked_at_travels(run, copy):
    for ours, theirs in zip(read_human(copy[0])["test"], read_human(run[0])["test"], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_audit_calls_images_by_their_number(run):
    own, said = run
    audit = json.loads(own.audit_file.read_text())
    split = pd.read_csv(own.split_file)
    place = {file: f"{part} image {i}" for part, rows in split.groupby("part")["file"] for i, file in enumerate(rows)}
    assert place["test/cat/Vandermeer_0.png"] == "test image 6" and "train/cat/Quintana_90.png" not in place
    twins = [[place["train/dog/Quintana_0.png"], place["train/dog/Quintana_91.png"]], ["left out", "test image 6"]]
    assert sorted(map(sorted, twins)) == audit["twins"]["groups"]
    assert audit["unreadable"] == ["train file 11: no image of a format that is read"] and audit["ignored"] == [
        "a file"
    ]
    files = sorted(str(path) for path in Path(audit["root"], "train").rglob("*.png"))
    assert files[11].endswith("Brzezinski_92.png") and "train file 11" in said


def test_an_error_of_the_images_is_shown_and_not_kept(composed, run, tmp_path):
    root = Path(run[0].settings.dataset.root)
    with pytest.raises(DataError, match="Brzezinski_92"):
        run_training(settings(composed, root, "dataset.on_bad_image=error"), tmp_path / "failed")
    assert not holding(tmp_path, IDS)
    status = Run(tmp_path / "failed").status
    assert status["state"] == "failed" and "may name files of patients" in status["error"]
    assert "gaze/data/datasets.py" in status["traceback"]


def test_check_and_explain_call_evaluation_images_by_their_number(run, tmp_path, undrawn):
    own = str(run[0].folder)
    run_analysis(AnalyzeConfig(explain=own, compare=CPU), tmp_path / "explain", quiet())
    run_analysis(AnalyzeConfig(source=own, compare=CPU), tmp_path / "all", quiet())
    run_analysis(AnalyzeConfig(check=own, check_images=10, compare=CPU), tmp_path / "check", quiet())
    assert not holding(tmp_path, IDS)
    manifest = pd.read_csv(tmp_path / "explain" / "manifest.csv")
    assert sorted(manifest["path"]) == sorted(f"image {i}" for i in range(16))
    assert pd.read_csv(tmp_path / "check" / "images.csv")["image"].str.fullmatch(r"image \d+").all()
    console = quiet()
    images = str(Path(run[0].settings.dataset.root) / "test")
    run_analysis(AnalyzeConfig(explain=own, images=images, compare=CPU), tmp_path / "named", console)
    assert "may hold patients' ids" in console.file.getvalue()
    assert holding(tmp_path / "named", IDS)


def test_the_copy_holds_no_id_no_place_and_no_host(run, copy):
    own, _ = run
    shared, said = copy
    words = [*IDS, str(own.folder.parents[1]).encode(), str(Path.cwd()).encode()]
    assert not holding(shared.folder, words)
    host = re.compile(rf"(?<![\w.-]){re.escape(socket.gethostname())}(?![\w.-])".encode())  # it may be two letters
    packed = (".png", ".npz", ".npy")
    assert not [n for n, own in contents(shared.folder) if not n.endswith(packed) and host.search(own)]
    assert sorted(path.name for path in shared.folder.rglob("*") if path.is_file()) == sorted(
        ["audit.json", "class_gaze.png", "classes.csv", "config.json", "confusion.csv", "confusion.png",
         "environment.json", "gaze_grid.csv", "gaze_last.npz", "gaze_maps.npy", "human.npz", "maps.npz",
         "metrics.csv", "predictions.csv", "shared.json", "split.csv", "status.json"]
    )  # fmt: skip
    for word in ("checkpoints", "TensorBoard", "pictures", "what else lies in the folder: 1", "images.json"):
        assert word in said
    assert str(shared.settings.dataset.root) == "pictures" and shared.settings.dataset.group is None


def test_the_copy_says_what_the_run_says(run, copy):
    own, shared = run[0], copy[0]
    assert shared.finished and shared.metrics_file.read_bytes() == own.metrics_file.read_bytes()
    np.testing.assert_array_equal(np.load(shared.kept_maps), np.load(own.kept_maps))
    with np.load(shared.maps_file) as there, np.load(own.maps_file) as here:
        assert there.files == here.files
        for name in here.files:
            np.testing.assert_array_equal(there[name], here[name])
    for file in ("classes.csv", "confusion.csv"):
        assert (shared.folder / file).read_text() == (own.folder / file).read_text()
    pixels = [np.asarray(Image.open(each.gaze_picture).convert("RGB")) for each in (shared, own)]
    np.testing.assert_array_equal(*pixels)
    for name in ("split.csv", "predictions.csv"):
        here, there = (pd.read_csv(each.folder / name) for each in (own, shared))
        others = [column for column in here if column not in ("file", "group")]
        pd.testing.assert_frame_equal(here[others], there[others])
        assert pd.concat([here["group"], there["group"]], axis=1).drop_duplicates().shape[0] == there["group"].nunique()
    split, test = pd.read_csv(shared.split_file), pd.read_csv(shared.predictions_file)
    assert test["file"].tolist() == split.loc[split["part"] == "test", "file"].tolist()
    assert json.loads(shared.audit_file.read_text())["twins"] == json.loads(own.audit_file.read_text())["twins"]


def test_the_copy_is_analysed_and_is_no_run_beside_its_own(run, copy, tmp_path, undrawn):
    shared = copy[0]
    run_analysis(AnalyzeConfig(source=str(shared.folder), compare=CPU), tmp_path / "analysis", quiet())
    assert (tmp_path / "analysis" / "report.html").exists()
    assert read_runs(shared.folder.parent).listing["state"].tolist() == ["complete"]
    outputs = tmp_path / "outputs"
    shutil.copytree(run[0].folder, outputs / "study")
    shutil.copytree(shared.folder, outputs / "share" / "copy")
    assert [own.name for own in runs_below(outputs)] == ["study"]
    assert [own.name for own in runs_below(outputs / "share")] == ["copy"]


def test_what_cannot_be_shared_is_refused_and_leaves_nothing(run, tmp_path):
    def refused(folder, kind, match):
        with pytest.raises(kind, match=match):
            run_analysis(AnalyzeConfig(share=str(folder), compare=CPU), tmp_path / "out", quiet())
        assert not [path for path in (tmp_path / "out").glob("*") if path.name.startswith(".")]

    def changed(name):
        return Run(Path(shutil.copytree(run[0].folder, tmp_path / name)))

    refused(tmp_path / "absent", DataError, "does not exist")
    refused(tmp_path, DataError, "config.json is missing")
    linked = changed("linked")
    linked.split_file.unlink()
    linked.split_file.symlink_to("/etc/hostname")
    refused(linked.folder, DataError, "is a link out of its folder")
    busy = changed("busy")
    write_json(busy.status_file, {**busy.status, "state": "running"})
    with locked(busy.folder):
        refused(busy.folder, BusyError, "still being trained")
    torn = changed("torn")
    torn.metrics_file.write_text("epoch,val/kappa\n1,Quintana\n")
    refused(torn.folder, DataError, "metrics.csv cannot be shared")
    assert not list((tmp_path / "out").iterdir())
    run_analysis(AnalyzeConfig(share=str(run[0].folder), compare=CPU), tmp_path / "out", quiet())
    refused(run[0].folder, ConfigError, "is there already")


def test_what_somebody_put_into_a_file_stays_behind(run, tmp_path):
    own = Run(Path(shutil.copytree(run[0].folder, tmp_path / "run")))
    for file in (own.status_file, own.environment_file, own.audit_file, own.config_file):
        values = json.loads(file.read_text())
        file.write_text(json.dumps({**values, **({} if file == own.config_file else {"who": "Quintana"})}))
    with np.load(own.maps_file) as arrays:
        np.savez(own.maps_file, **dict(arrays), who=np.array(["Quintana"]))
    picture = Image.open(own.gaze_picture)
    text = PngInfo()
    text.add_text("who", "Quintana")
    picture.save(own.gaze_picture, pnginfo=text)
    with own.kept_maps.open("ab") as file:
        file.write(b"Quintana")
    own.classes_file.write_text("who\nQuintana\n")
    console = quiet()
    run_analysis(AnalyzeConfig(share=str(own.folder), compare=CPU), tmp_path / "out", console)
    assert not holding(tmp_path / "out", IDS)
    assert "classes.csv: it cannot be read" in console.file.getvalue()


def test_paths_of_any_system_are_cut_to_their_last_part():
    values = {"root": "data/set/", "table": "C:\\clinic\\labels.csv", "cache": "auto", "mask_dir": None, "name": "a/b",
              "other": ["/home/a/x", "~/y", "\\\\host\\z", "file:///w", 1, "~", "/"]}  # fmt: skip
    assert placeless(values) == {
        "root": "set", "table": "labels.csv", "cache": "auto", "mask_dir": None, "name": "a/b",
        "other": ["x", "y", "z", "w", 1, "images", "images"],
    }  # fmt: skip
    assert placeless({"root": ".."}) == {"root": "images"}


def test_share_is_asked_by_itself():
    for other in ("check", "explain", "study"):
        with pytest.raises(ConfigError, match=f"share=b asks another question than {other}"):
            AnalyzeConfig(share="b", **{other: "a"})
    assert analysis_folder(None, None, None, None, None, "x") == "share"
    assert analysis_folder("a", None, None, None, None, None) == "analysis/a"


def test_a_copy_of_a_table_has_its_names_alone(composed, tmp_path):
    home = tmp_path / "clinic"
    own = Run(home / "run")
    own.folder.mkdir(parents=True)
    words = ("dataset=table", f"dataset.root='{home}'", f"dataset.table='{home}/labels.csv'", "dataset.cache=off")
    keys = [word for word in TINY if "_images" not in word]
    write_json(own.config_file, check_config(composed(*keys, *words)).to_dict())
    own.metrics_file.write_text("epoch,val/kappa\n1,0.5\n2,0.5\n")
    run_analysis(AnalyzeConfig(share=str(own.folder), compare=CPU), tmp_path / "out", quiet())
    (copy,) = (tmp_path / "out").iterdir()
    dataset = Run(copy).settings.dataset
    assert (dataset.table, dataset.cache) == ("labels.csv", "off")
    assert not holding(copy, [str(tmp_path).encode()])
    assert sorted(path.name for path in copy.iterdir()) == ["config.json", "metrics.csv", "pictures", "shared.json"]
