"""gaze.data.splits and dataset.validation: no group is divided, classes keep shares, the test images stay apart."""

import json
import re

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gaze.config.data import DatasetConfig
from gaze.data.audit import Record
from gaze.data.datasets import load_dataset
from gaze.data.sources.folders import list_folder
from gaze.data.splits import drawn_part, fold_part, group_names, groups_of
from gaze.errors import ConfigError, DataError

CHEST = SHARED / "chest_xray" / "chest_xray"
NUMBER_AND_GERM = r"person(\d+)_(bacteria|virus)"
PATIENT = r"person([a-z]+\d+)_"


def record(path, digest):
    return Record(path, "train", 0, digest.encode(), (8, 8), "L")


def test_images_of_one_name_or_of_the_same_pixels_are_one_group_also_by_a_chain():
    records = [record("a1", "x"), record("a2", "y"), record("b1", "y"), record("c1", "z"), record("d", "w")]
    names = group_names([r.path for r in records], r"([a-c])\d")
    assert names == ["a", "a", "b", "c", None]
    groups = groups_of(records, names)
    assert groups[0] == groups[1] == groups[2] and len(set(groups)) == 3


def test_a_group_is_what_the_pattern_captures_in_the_files_name():
    paths = ["train/P/person7_virus_1.jpeg", "person7/x_bacteria.jpeg", "person7_bacteria_2.jpeg"]
    assert group_names(paths, NUMBER_AND_GERM) == ["7/virus", None, "7/bacteria"]
    assert group_names(paths, r"person\d+") == ["person7", None, "person7"] and group_names(paths, None) == [None] * 3


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.15, 0.2, 0.25, 0.4, 0.5]), st.integers(1, 5))
def test_a_drawn_part_divides_no_group_and_has_each_class(seed, share, largest):
    g = np.random.default_rng(seed)
    sizes = g.integers(1, largest + 1, 90)
    groups = np.repeat(np.arange(90), sizes)
    labels = np.repeat(g.permutation(np.arange(90) % 3), sizes)
    part = drawn_part(labels, groups, share, seed % 100, ("a", "b", "c"), "x")
    kept = np.setdiff1d(np.arange(len(labels)), part)
    assert not set(groups[part]) & set(groups[kept])
    for label in range(3):
        assert (labels[part] == label).sum() / (labels == label).sum() == pytest.approx(share, abs=0.12)
    np.testing.assert_array_equal(part, drawn_part(labels, groups, share, seed % 100, ("a", "b", "c"), "x"))


def test_a_share_below_one_image_a_class_still_has_one_of_each():
    labels = np.repeat(np.arange(4), 5)
    assert sorted(labels[drawn_part(labels, np.arange(20), 0.05, 0, tuple("abcd"), "x")]) == [0, 1, 2, 3]


def test_what_cannot_be_parted_is_refused_by_name():
    with pytest.raises(DataError, match="no two images, or groups of them, to part of: b"):
        drawn_part(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 3, 3]), 0.5, 0, ("a", "b"), "x")


@pytest.fixture
def folder(tmp_path):
    """20 training images of each of two classes, two a patient, and 6 test images of other patients."""
    g = np.random.default_rng(0)
    for split, count, letter in (("train", 20, ""), ("test", 6, "t")):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = Image.fromarray(g.integers(0, 256, (8, 8)).astype(np.uint8))
                pixels.save(tmp_path / split / name / f"person{letter}{name[0]}{i // 2}_{i}.png")
    return tmp_path


def config(root, **more):
    return DatasetConfig(kind="folder", name="mine", root=str(root), image_size=8, cache="off", **more)


def test_the_validation_part_comes_out_of_train_and_keeps_patients_together(folder):
    data = load_dataset(config(folder, validation=0.2, group=PATIENT))
    parts = (data.train, data.validation, data.test)
    assert [len(split.targets) for split in parts] == [32, 8, 12]
    assert data.evaluated is data.validation and data.audit.validation_counts == {"cat": 4, "dog": 4}
    people = [{re.search(PATIENT, path)[1] for path in split.paths} for split in parts]
    assert not people[0] & people[1] and not people[0] & people[2]
    assert "each epoch is judged by the validation images" in "\n".join(data.audit.lines())
    other = load_dataset(config(folder, validation=0.2, group=PATIENT, split_seed=1))
    assert set(other.validation.paths) != set(data.validation.paths)
    assert json.dumps(data.audit.to_dict())


def test_as_published_the_test_images_judge(folder):
    data = load_dataset(config(folder))
    assert data.validation is None and data.evaluated is data.test
    assert "each epoch is judged by the test images, as published" in "\n".join(data.audit.lines())


def test_a_group_on_both_sides_is_a_leak(folder):
    Image.new("L", (8, 8), 7).save(folder / "test" / "cat" / "personc0_9.png")
    said = load_dataset(config(folder, group=PATIENT)).audit.warnings
    assert said == ["1 of 26 groups stand in train and in test; dataset.on_leak=drop removes their training images"]
    dropped = load_dataset(config(folder, group=PATIENT, on_leak="drop"))
    assert len(dropped.train.targets) == 38 and dropped.audit.dropped == 2
    with pytest.raises(DataError, match=r"or whose group \(dataset.group\) does: 1 groups, 2\n"):
        load_dataset(config(folder, group=PATIENT, on_leak="error"))


def test_files_that_the_pattern_does_not_match_are_counted(folder):
    said = load_dataset(config(folder, group=r"person(t?c\d+)_")).audit.warnings
    assert said == [r"26 of 52 file names do not match dataset.group=person(t?c\d+)_: each a group of its own"]


@pytest.mark.parametrize("value", [0, 0.6, 1, -0.1, "folders", True, None, float("nan")])
def test_a_share_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="validation"):
        DatasetConfig(kind="folder", name="mine", root="x", validation=value)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"group.*must be a regular expression"):
        DatasetConfig(kind="folder", name="mine", root="x", group="person(")


@pytest.mark.skipif(not CHEST.is_dir(), reason=f"no folder {CHEST} (set GAZE_SHARED_DATA)")
def test_numbers_of_chest_xray_restart_with_the_germ():
    files = {split: [path for path, _ in list_folder(CHEST, split).labelled()] for split in ("train", "test")}
    by_number, by_both = (
        [set(group_names(own, pattern)) - {None} for own in files.values()]
        for pattern in (r"person(\d+)_", NUMBER_AND_GERM)
    )
    assert len(by_number[0] & by_number[1]) == 170
    assert not by_both[0] & by_both[1] and len(by_both[0] | by_both[1]) == 2646


def moved(folder, to):
    """Class folders of the validation part: the last five of each class of train."""
    for name in ("cat", "dog"):
        (folder / to / name).mkdir(parents=True)
        for file in sorted((folder / "train" / name).iterdir())[-4:]:
            file.rename(folder / to / name / file.name)
    return folder


def test_a_validation_folder_is_taken_where_it_is_there(folder):
    assert len(load_dataset(config(folder, validation="auto")).validation.targets) == 6  # 0.15 of 40
    with pytest.raises(DataError, match="has no validation part"):
        load_dataset(config(folder, validation="folder"))
    moved(folder, "val")
    for word in ("auto", "folder", "split"):
        data = load_dataset(config(folder, validation=word))
        assert {path.split("/")[0] for path in data.validation.paths} == {"val"}
        assert [len(split.targets) for split in (data.train, data.validation, data.test)] == [32, 8, 12]
    assert load_dataset(config(folder)).validation is None
    (folder / "val").rename(folder / "dev")
    assert len(load_dataset(config(folder, validation="auto", val_dir="dev")).validation.targets) == 8
    with pytest.raises(DataError, match=r"has no folder other/ \(dataset.val_dir\)"):
        load_dataset(config(folder, validation="auto", val_dir="other"))


def test_test_images_are_drawn_by_groups_where_there_are_none(folder):
    with pytest.raises(DataError, match=r"draws test images, and .* has some: leave it out"):
        load_dataset(config(folder, test=0.2))
    (folder / "test").rename(folder.parent / f"{folder.name}-test")
    with pytest.raises(DataError, match=r"has no folder test/.*dataset.test=0.2"):
        load_dataset(config(folder))
    below = load_dataset(config(folder, test=0.2, validation=0.25, group=PATIENT))
    parts = (below.train, below.validation, below.test)
    people = [{re.search(PATIENT, path)[1] for path in split.paths} for split in parts]
    assert [len(split.targets) for split in parts] == [24, 8, 8] and len(set.union(*people)) == sum(map(len, people))
    flat = load_dataset(config(folder / "train", test=0.2, validation=0.25, group=PATIENT))
    assert [f"train/{path}" for path in flat.test.paths] == below.test.paths


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 4))
def test_folds_hold_each_image_once_divide_no_group_and_have_each_class(seed, folds, largest):
    g = np.random.default_rng(seed)
    sizes = g.integers(1, largest + 1, 60)
    groups, labels = np.repeat(np.arange(60), sizes), np.repeat(g.permutation(np.arange(60) % 3), sizes)
    parts = [fold_part(labels, groups, folds, fold, seed % 100, ("a", "b", "c")) for fold in range(folds)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert sum(len(set(groups[part])) for part in parts) == 60
    assert all(set(labels[part]) == {0, 1, 2} for part in parts)


def test_folds_that_leave_a_class_absent_are_refused_whichever_is_asked_for():
    labels = np.repeat([0, 1], [20, 4])
    with pytest.raises(DataError, match=r"folds=5: fewer images.* of: b \(4\)"):
        fold_part(labels, np.arange(24), 5, 0, 0, ("a", "b"))


def test_a_fold_of_a_set_with_a_test_part_is_for_validation(folder):
    parts = [load_dataset(config(folder, folds=5, fold=k, group=PATIENT)) for k in range(5)]
    held = [set(data.validation.paths) for data in parts]
    assert len(set.union(*held)) == sum(map(len, held)) == 40 and {len(data.test.targets) for data in parts} == {12}
    assert all(not own & set(data.train.paths) for own, data in zip(held, parts, strict=True))
    other = load_dataset(config(folder, folds=5, fold=0, group=PATIENT, split_seed=1))
    assert set(other.validation.paths) != held[0]


def test_a_fold_of_a_flat_set_is_its_test_part(folder):
    flat = [load_dataset(config(folder / "train", folds=4, fold=k, group=PATIENT)) for k in range(4)]
    held = [set(data.test.paths) for data in flat]
    assert len(set.union(*held)) == sum(map(len, held)) == 40
    assert all(data.validation is None for data in flat)  # the fold judges each epoch, with dataset.validation=test
    data = load_dataset(config(folder / "train", folds=4, fold=0, group=PATIENT, validation=0.2))
    parts = [set(split.paths) for split in (data.train, data.validation, data.test)]
    assert parts[2] == held[0] and len(set.union(*parts)) == sum(map(len, parts)) == 40


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"folds": 5, "fold": 5}, "must be 0 to 4, with dataset.folds=5"),
        ({"folds": 5}, "goes with dataset.folds: give both"),
        ({"fold": 0}, "goes with dataset.folds: give both"),
        ({"folds": 5, "fold": 0, "test": 0.2}, "leave one of them out"),
        ({"folds": 1, "fold": 0}, "folds"),
    ],
)
def test_folds_that_make_no_sense_are_refused(more, said):
    with pytest.raises(ConfigError, match=said):
        config("x", **more)
