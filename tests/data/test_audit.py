"""What the audit counts, and what a person reads of it."""

import json

import numpy as np
import pytest

from gaze.data.audit import Record, find_twins, first_few, make_audit, pixel_digest


def record(path: str, split: str, label: int, digest: bytes) -> Record:
    return Record(path, split, label, digest, (8, 6), "L")


RECORDS = [
    record("train/a/1", "train", 0, b"x"),
    record("train/a/2", "train", 0, b"x"),
    record("train/b/3", "train", 1, b"y"),
    record("test/a/4", "test", 0, b"x"),
    record("test/a/5", "test", 0, b"x"),
    record("test/a/6", "test", 0, b"y"),
    record("test/b/7", "test", 1, b"z"),
]


def test_twins_are_counted_by_split_and_class():
    twins = find_twins(RECORDS)
    assert twins.groups == [["test/a/4", "test/a/5", "train/a/1", "train/a/2"], ["test/a/6", "train/b/3"]]
    assert (twins.train_groups, twins.test_groups) == (1, 1)
    assert (twins.class_groups, twins.split_groups) == (1, 2)
    assert (twins.test_in_train, twins.train_in_test) == (3, 3)


def test_digest_tells_shape_and_every_pixel():
    flat = np.zeros((2, 6), np.uint8)
    other = flat.copy()
    other[1, 5] = 1
    assert pixel_digest(flat) == pixel_digest(flat.copy())
    assert len({pixel_digest(x) for x in (flat, other, flat.reshape(3, 4), np.zeros((2, 2, 3), np.uint8))}) == 4


def test_digest_does_not_depend_on_memory_order():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert pixel_digest(np.asfortranarray(image)) == pixel_digest(image)


def test_lines_show_counts_sizes_and_the_leak():
    text = "\n".join(make_audit("toy", "/data/toy", ("a", "b"), RECORDS).lines())
    assert "Data set toy in /data/toy" in text
    assert ["a", "2", "3"] in [line.split() for line in text.splitlines()]
    assert ["total", "3", "4"] in [line.split() for line in text.splitlines()]
    assert "sizes: all 8x6" in text and "modes: L (7)" in text
    assert "3 of 4 test images also stand in train; dataset.on_leak=drop removes those 3 training images" in text


def test_lines_show_ranges_and_lists():
    mixed = [r._replace(size=(8 + i, 6)) for i, r in enumerate(RECORDS[:2])] + RECORDS[2:]
    audit = make_audit("toy", None, ("a", "b"), mixed)
    audit.unreadable = [f"train/a/{i}.png: truncated" for i in range(7)]
    audit.warnings = ["odd"]
    text = "\n".join(audit.lines())
    assert "width 8-9, height 6-6 pixels; most often 8x6 (6)" in text
    assert "unreadable, left out: 7" in text and "and 2 more" in text and "warning: odd" in text


def test_lines_after_dropping():
    audit = make_audit("toy", None, ("a", "b"), RECORDS[2:], RECORDS[:2])
    assert audit.dropped == 2 and audit.train_counts == {"a": 0, "b": 1}
    assert "3 of 4 test images also stood in train; dropped there: 2" in "\n".join(audit.lines())


def test_to_dict_survives_json():
    values = make_audit("toy", None, ("a", "b"), RECORDS).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["widths"] == [8, 8] and values["twins"]["test_in_train"] == 3


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (5, 5), (6, 6)])
def test_first_few(count, shown):
    items = first_few([str(i) for i in range(count)])
    assert len(items) == shown and ("and 1 more" in items) == (count == 6)
