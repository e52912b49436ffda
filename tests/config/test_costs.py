"""A file of costs: what it says, and one clear error for what is wrong with it."""

import numpy as np
import pytest
import yaml

from gaze.config.costs import read_costs
from gaze.errors import ConfigError


def written(path, text: str):
    file = path / "costs.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_names_are_text_and_a_right_prediction_costs_nothing_unless_said(tmp_path):
    costs = read_costs(written(tmp_path, "no: {1: 2.5, no: 1}\n'1': {no: 1e3}\n脳腫瘍: {no: 7, 1: 8}\n"))
    np.testing.assert_array_equal(costs.matrix(["1", "no"]), [[0, 1000], [2.5, 1]])
    costs.check([["1", "no"], ["脳腫瘍"]])  # of two data sets
    with pytest.raises(ConfigError, match="what it costs to take no for 脳腫瘍 is missing"):
        costs.matrix(["no", "脳腫瘍"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {b: -1}\nb: {a: 1}", "a: b: -1 must be a number, 0 to"),
        ("a: {b: x}\nb: {a: 1}", "a: b: x must be a number"),
        ("a: {b: true}\nb: {a: 1}", "a: b: true must be a number"),
        ("a: {b: .nan}\nb: {a: .inf}", "a: b: .nan must be .*; b: a: .inf must be"),
        ("a: {b: }\nb: {a: [1]}", "a: b:  must be .*; b: a: a list or mapping must be"),
        ("a: {b: 1}\na: {b: 2}", "a stands there twice"),
        ("a: {b: 1, b: 2}", "a: b stands there twice"),
        ("[1, 2]", "must map names of classes"),
        ("", "must map names of classes"),
        ("a: 1", "a: must map names of classes"),
        ("{[a]: {b: 1}}", "costs.yaml"),
        ("a: [", "cannot be read"),
        ("&a {x: *a}", "costs.yaml"),
    ],
)
def test_what_is_no_file_of_costs_is_one_clear_error(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        read_costs(written(tmp_path, text)).check([["a", "b"]])


def test_missing_and_unknown_classes_are_named_with_the_nearest(tmp_path):
    costs = read_costs(written(tmp_path, "tumour: {helthy: 3, cyst: 1}\nhealthy: {tumour: 1, cyst: 1}"))
    with pytest.raises(ConfigError) as error:
        costs.check([["tumour", "healthy", "cyst"]])
    assert "helthy is no class. Did you mean healthy?; class cyst is missing" in str(error.value)
    assert "what it costs to take tumour for healthy is missing" in str(error.value)
    names = [f"class {k}" for k in range(30)]
    many = written(tmp_path, yaml.safe_dump({name: {names[0]: 1} for name in names}))
    with pytest.raises(ConfigError, match="; and 833 more") as error:  # 29 x 30 - 29 - 8
        read_costs(many).check([names])
    assert len(str(error.value)) < 1000


def test_a_file_that_is_none_or_too_large_is_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path, "/dev/zero"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_costs(path)
    (tmp_path / "huge.yaml").write_bytes(b"a" * (5 << 20))
    with pytest.raises(ConfigError, match="at most"):
        read_costs(tmp_path / "huge.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_costs(tmp_path / "bytes.yaml")
