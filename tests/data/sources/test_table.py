"""Tables of images: what is read, what is refused before an image is decoded, and that groups stay together."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from image_sets import refused
from PIL import Image

from gaze.config.data import DatasetConfig
from gaze.data.datasets import load_dataset
from gaze.data.sources.listing import files_at_hand
from gaze.data.sources.table import list_table
from gaze.errors import ConfigError, DataError

LABELS = ("ill", "well")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """60 images of two classes; image i is patient i // 3, who has one class alone."""
    g = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(60):
        Image.fromarray(g.integers(0, 256, (8, 8)).astype(np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def rows(**changes) -> pd.DataFrame:
    table = pd.DataFrame({"file_name": [f"pictures/{i}.png" for i in range(60)]})
    table["label"] = [LABELS[i // 3 % 2] for i in range(60)]
    return table.assign(**changes)


def config(root: Path, table: str | None = "labels.csv", **changes) -> DatasetConfig:
    settings = {"kind": "table", "name": "mine", "root": str(root), "image_size": 8, "cache": "off", "on_leak": "error"}
    return DatasetConfig(**{**settings, "table": table, "validation": "auto", "test": 0.2, **changes})


def write(root: Path, table: pd.DataFrame, name: str = "labels.csv", **options) -> None:
    table.to_csv(root / name, index=False, **options)


def parts(data) -> dict[str, set[str]]:
    own = {"train": data.train, "validation": data.validation, "test": data.test}
    return {part: set(split.paths) for part, split in own.items() if split is not None}


def test_a_flat_table_is_divided_by_patients_and_every_image_has_its_label(root):
    write(root, rows(patient=[f"P{i // 3}" for i in range(60)]))
    data = load_dataset(config(root))
    assert data.classes == LABELS and [len(own) for own in parts(data).values()] == [39, 9, 12]
    people = {}
    for split in (data.train, data.validation, data.test):
        for path, label, group in zip(split.paths, split.targets.tolist(), split.groups, strict=True):
            number = int(Path(path).stem)
            assert label == number // 3 % 2 and group == f"P{number // 3}"
            people.setdefault(group, set()).add(id(split))
    assert all(len(own) == 1 for own in people.values()) and len(people) == 20
    assert set.union(*parts(data).values()) == {f"pictures/{i}.png" for i in range(60)}
    assert "P1" not in json.dumps(data.audit.to_dict())
    other = load_dataset(config(root, split_seed=1))
    assert parts(other)["test"] != parts(data)["test"] and parts(load_dataset(config(root))) == parts(data)


def test_with_patients_images_are_called_by_their_number_and_without_by_their_name(root):
    shutil.copy(root / "pictures" / "0.png", root / "pictures" / "1.png")
    (root / "pictures" / "2.png").write_bytes(b"no image")
    own = {"split": ["train"] * 30 + ["test"] * 30}
    for more, twins, bad in (
        ({}, ["pictures/0.png", "pictures/1.png"], "pictures/2.png"),
        (
            {"patient": [f"P{i // 3}" for i in range(60)]},
            ["train image 0", "train image 1"],
            "train file 7",
        ),  # as text behind 0, 1, 12, 13, 14, 18 and 19
    ):
        write(root, rows(**own, **more))
        data = load_dataset(config(root, test=None, validation="test", on_bad_image="skip"))
        assert data.audit.twins.groups == [twins] and data.private == bool(more)
        assert data.audit.unreadable == [f"{bad}: no image of a format that is read"]
        assert data.shown(data.test)[0] == ("image 0" if more else data.test.paths[0])


def test_the_tables_own_parts_are_taken(root):
    write(root, rows(split=["Training"] * 36 + ["val"] * 12 + ["test"] * 12))
    data = load_dataset(config(root, test=None))
    assert [len(own) for own in parts(data).values()] == [36, 12, 12]
    assert load_dataset(config(root, test=None, validation="split")).validation.paths == data.validation.paths
    published = load_dataset(config(root, test=None, validation="test"))
    assert published.validation is None and len(published.train.targets) == 36
    assert published.audit.warnings == ["12 validation images are not used: dataset.validation=test"]
    share = load_dataset(config(root, test=None, validation=0.25))
    assert len(share.validation.targets) == 9 and parts(share)["validation"] < parts(data)["train"]
    assert "leave it out" in refused(config(root, test=0.2))


def test_without_a_test_part_a_share_is_asked_for(root):
    write(root, rows())
    assert "has no test part. Where there is no test part yet, dataset.test=0.2" in refused(config(root, test=None))
    assert "dataset.validation=split, and" in refused(config(root, validation="split"))
    write(root, rows(split=["train"] * 48 + ["val"] * 12))
    drawn = parts(load_dataset(config(root)))
    assert [len(own) for own in drawn.values()] == [38, 12, 10]


def test_a_patient_in_two_parts_is_a_leak_in_each_pair(root):
    patients = [f"P{i // 3}" for i in range(60)]
    patients[40], patients[59] = "P0", "P14"  # of validation and train; of test and validation
    write(root, rows(split=["train"] * 36 + ["val"] * 12 + ["test"] * 12, patient=patients))
    assert "Validation images of mine that also stand in the test set, or whose group (patient)" in refused(
        config(root, test=None)
    )
    dropped = load_dataset(config(root, test=None, on_leak="drop"))
    assert [len(own) for own in parts(dropped).values()] == [33, 9, 12] and dropped.audit.dropped == 6
    warned = load_dataset(config(root, test=None, on_leak="warn"))
    assert [line.partition(";")[0] for line in warned.audit.warnings] == [
        "1 of 20 groups stand in validation and in test",
        "1 of 20 groups stand in train and in validation or test",
    ]


def test_a_group_column_with_holes_is_counted(root):
    patients = ["" if i < 6 else f"P{i // 3}" for i in range(60)]
    write(root, rows(patient=patients))
    data = load_dataset(config(root))
    assert data.audit.warnings == ["6 of 60 images have no group (patient) in the table: each a group of its own"]
    assert sorted(map(str, {*data.train.groups, *data.validation.groups, *data.test.groups}))[:2] == ["None", "P10"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_line_ends_and_byte_order_marks_are_read(root, separator, ends, encoding):
    write(root, rows(), sep=separator, lineterminator=ends, encoding=encoding)
    listing = list_table(root, config(root), "")
    table = rows()
    assert listing.folders["train"].files == {
        label: sorted(table["file_name"][table["label"] == label]) for label in LABELS
    }


@pytest.mark.parametrize("form", ["parquet", "csv", "json"])
def test_each_form_gives_the_same_listing(root, form):
    table = rows(split=["train"] * 48 + ["test"] * 12, label=[10 if i // 3 % 2 else 9 for i in range(60)])
    write(root, table, "one.csv")
    if form == "parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(root / "other")
    elif form == "json":
        entries = [{"image": row.file_name, "label": row.label} for row in table.itertuples()]
        (root / "other").write_text(json.dumps({"name": "x", "training": entries[:48], "test": entries[48:]}))
    else:
        write(root, table.rename(columns={"label": "diagnosis"}), "other")
    columns = {"label": "diagnosis"} if form == "csv" else None
    one, other = (
        list_table(root, config(root, name, test=None, columns=own), "")
        for name, own in (("one.csv", None), ("other", columns))
    )
    assert one == other and one.classes == ("9", "10")  # as numbers, not as text


def test_a_parquet_file_without_pyarrow_is_one_line(root, monkeypatch):
    pytest.importorskip("pyarrow")
    rows().to_parquet(root / "x.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'gaze-consistency\[parquet\]'"):
        list_table(root, config(root, "x.parquet"), "")


def test_hugging_faces_metadata_files(root):
    """As in the documentation of datasets.ImageFolder: one file above split folders, or one in each."""
    for part, numbers in (("train", range(48)), ("test", range(48, 60))):
        (root / part).mkdir()
        for i in numbers:
            (root / "pictures" / f"{i}.png").rename(root / part / f"{i}.png")
    table = rows(file_name=[f"{'train' if i < 48 else 'test'}/{i}.png" for i in range(60)])
    write(root, table, "metadata.csv")
    above = list_table(root, config(root, None, test=None), "")
    assert {part: len(folder.labelled()) for part, folder in above.folders.items()} == {"train": 48, "test": 12}
    (root / "metadata.csv").unlink()
    for part, own in (("train", table[:48]), ("test", table[48:])):
        write(root / part, own.assign(file_name=own["file_name"].str.partition("/")[2]), "metadata.csv")
    assert list_table(root, config(root, None, test=None), "") == above
    single = config(root, str(root / "train" / "metadata.csv")).model_copy(update={"root": None})
    assert len(load_dataset(single).train.targets) == 32  # root is the table's folder


def test_masks_of_a_table_move_with_their_images(root):
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(root / "m.png")
    write(root, rows(mask=["m.png" if i % 2 else "" for i in range(60)]))
    assert "Images without a mask" in refused(config(root))
    data = load_dataset(config(root, on_missing_mask="empty"))
    for path, own in zip(data.train.paths, data.train.masks, strict=True):
        np.testing.assert_array_equal(own[0].numpy(), mask // 255 * (int(Path(path).stem) % 2))
    assert "dataset.frames=all" in refused(config(root, on_missing_mask="empty", frames="all"))


def test_a_changed_label_or_split_reaches_the_cache_and_the_record_of_a_run(root, tmp_path):
    kept = tmp_path / "cache"
    write(root, rows(split=["train"] * 48 + ["test"] * 12))
    first = config(root, test=None, cache=str(kept))
    load_dataset(first)
    facts = files_at_hand(first)
    said: list[str] = []
    load_dataset(first, said.append)
    assert said[-1].startswith("read 60 images from the cache")
    write(root, rows(split=["train"] * 47 + ["test"] * 13))
    assert len(load_dataset(first).test.targets) == 13
    write(root, rows(split=["train"] * 47 + ["test"] * 13, label=[LABELS[i % 2] for i in range(60)]))
    data = load_dataset(first)
    assert [int(Path(path).stem) % 2 for path in data.test.paths] == data.test.targets.tolist()
    assert files_at_hand(first)["sha256"] != facts["sha256"]


def outside(root: Path) -> Path:
    place = root.parent / f"{root.name}-elsewhere"
    place.mkdir(exist_ok=True)
    Image.new("L", (8, 8), 9).save(place / "x.png")
    return place


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "folder"])
def test_files_outside_the_root_are_refused_unless_allowed(root, way):
    place = outside(root)
    (root / "link.png").symlink_to(place / "x.png")
    (root / "folder").symlink_to(place)
    name = {
        "absolute": str(place / "x.png"), "dots": f"pictures/../../{place.name}/x.png", "link": "link.png",
        "folder": "folder/x.png",
    }[way]  # fmt: skip
    table = rows()
    table.loc[0, "file_name"] = name
    write(root, table)
    said = refused(config(root))
    assert "1 of 60 files lie outside" in said and "dataset.outside=true" in said and name in said
    data = load_dataset(config(root, outside=True))
    assert sum(map(len, parts(data).values())) == 60
    splits = (data.train, data.validation, data.test)
    pairs = [pair for s in splits for pair in zip(s.paths, s.images, strict=True)]
    (odd,) = (image for path, image in pairs if not path.startswith("pictures"))
    assert (odd == 9).all()


def changed(**cells):
    def change(root: Path) -> None:
        table = rows(patient=[f"P{i // 3}" for i in range(60)], split=["train"] * 48 + ["test"] * 12).astype(object)
        for column, (at, value) in cells.items():
            table.loc[at, column] = value
        write(root, table)

    return change


def text(content: str | bytes):
    def change(root: Path) -> None:
        (root / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def twice(root: Path) -> None:
    table = rows(split=["train"] * 48 + ["test"] * 12)
    table.loc[60] = ["pictures/./0.png", "well", "train"]
    write(root, table)


HOSTILE = {
    "missing": (changed(file_name=([3, 4], "pictures/none.png")), "2 of 60 files are not in .*: pictures/none.png"),
    "empty label": (changed(label=([7], " ")), r"1 of 60 rows without a label: row 8"),
    "empty name": (changed(file_name=([7], "")), r"1 of 60 rows without a file name: row 8"),
    "two labels": (twice, r"1 of 60 files have two labels: pictures/0.png"),
    "absent": (changed(label=(range(48, 60), "ill")), r"test has no image of 1 of 2 labels \(well\)"),
    "unseen": (changed(label=([59], "other")), r"labels that no training image has: 1 \(other\)"),
    "no split": (changed(split=([5], "holdout")), r"1 of 60 rows are of no split .*: row 6: holdout"),
    "empty split": (changed(split=([5], "")), r"row 6: nothing"),
    "one label": (changed(label=(range(60), "ill")), "has one label, ill"),
    "null byte": (changed(file_name=([5], "pictures/\x00.png")), "1 of 60 files are not in"),
    "a folder": (changed(file_name=([5], "pictures")), "1 of 60 files are not in .*: pictures"),
    "long name": (changed(file_name=([5], "a" * 5000)), r"1 of 60 files are not in .*a{120}\.\.\.$"),
    "long label": (changed(label=([5], "a" * 5000)), "1 of 60 labels are longer than a name: row 6"),
    "0 rows": (text("file_name,label\n"), "has 0 rows"),
    "nothing": (text(""), "is empty"),
    "zeros": (text(bytes(100)), "has no column file_name"),
    "no UTF-8": (text(b"file_name,label\n\xe4.png,a\n"), "is no UTF-8 text"),
    "workbook": (text(b"PK\x03\x04" + bytes(20)), "is a workbook or an archive"),
    "column": (text("filename,label\na,b\n"), r"column file_name; it has: filename, label\. Did you mean filename\?"),
    "no label": (text("file_name,labels\na,b\n"), r"Did you mean labels\? Name the column with dataset.columns={la"),
    "two columns": (text("file_name,label,label\na,b,c\n"), "has two columns label"),
    "ragged": (text("file_name,label\na,b\na\n"), "row 2: 1 cells under 2 names of columns"),
    "more": (text("file_name,label\na,b,c\n"), "row 1: 3 cells under 2"),
    "quote": (text('file_name,label\n"a,b\n'), "is no CSV"),
    "field": (text("file_name,label\na," + "b" * 200_000 + "\n"), "is no CSV: field larger"),
    "deep": (text("[" * 100_000), "is no JSON"),
    "JSON": (text('{"images": []}'), "has no list training, validation or test"),
    "several": (text('{"training": [{"image": "a", "label": [1, 0]}]}'), "column label holds several labels an image"),
    "number": (text('{"training": [3]}'), "an image must be a name, or have image and label"),
    "parquet": (text(b"PAR1" + bytes(100)), "cannot be read"),
    "pickle": (text(b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR."), "is no UTF-8 text"),
    "ids": (changed(label=(range(60), [f"L{i}" for i in range(60)])), "labels that no training image has: 12"),
    "two patients": (
        lambda root: write(root, pd.concat([rows(patient="a"), rows(patient="b")])), "60 of 60 files have two patients",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_table_is_refused_in_one_error_before_an_image_is_decoded(root, case, monkeypatch):
    change, wanted = HOSTILE[case]
    change(root)
    monkeypatch.setattr("gaze.data.datasets.read_images", lambda *_: pytest.fail("an image was decoded"))
    with pytest.raises(DataError, match=wanted) as caught:
        load_dataset(config(root, test=None))
    assert len(str(caught.value)) < 1000 and "P1" not in str(caught.value)


def test_all_that_is_wrong_comes_at_once(root):
    changed(file_name=([3], "none.png"), label=([7], ""), split=([9], "x"))(root)
    assert len(refused(config(root, test=None)).splitlines()) == 4


def test_a_table_that_is_no_file_is_refused(root):
    write(root, rows())
    assert "Did you mean labels.csv?" in refused(config(root, "label.csv"))
    assert "is a folder" in refused(config(root, "pictures"))
    assert "has no metadata.csv" in refused(config(root, None))
    os.mkfifo(root / "pipe")
    assert "is no regular file but a FIFO" in refused(config(root, "pipe"))


def test_roles_of_columns_are_checked():
    with pytest.raises(ConfigError, match=r"names lable.*Did you mean label\?"):
        DatasetConfig(kind="table", name="mine", table="x.csv", columns={"lable": "x"})
    with pytest.raises(ConfigError, match=r"without images: give dataset.table or dataset.root"):
        DatasetConfig(kind="table", name="mine")
