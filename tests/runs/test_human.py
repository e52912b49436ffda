"""gaze.runs.human: what is written is read back, and a file of another shape is refused."""

import numpy as np
import pytest

from gaze.errors import DataError
from gaze.runs.human import HumanFigures, read_human, write_human
from gaze.runs.run import Run


def figures():
    g = np.random.default_rng(0)
    network = g.random((3, 7))
    network[1, 3] = np.nan
    values = network, g.random((3, 7)), np.full((3, 7), np.nan), g.random((2, 4, 5))
    return HumanFigures(("a", "b"), 2, np.array([3, 4]), *values)


def test_what_is_written_is_read_back(tmp_path):
    run, other = Run(tmp_path), figures()._replace(readers=1, classes=("c", "d"))
    assert read_human(run) == {}
    write_human(run, {"test": figures(), "validation": other})
    got = read_human(run)
    assert list(got) == ["validation", "test"]
    for part, own in (("test", figures()), ("validation", other)):
        assert got[part][:2] == own[:2]
        for ours, theirs in zip(got[part][2:], own[2:], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("other", [{"centre": np.zeros((3, 3))}, {"classes": ("a",)}, {"maps": np.zeros((2, 0, 0))}])
def test_other_shapes_are_refused(tmp_path, other):
    write_human(Run(tmp_path), {"test": figures()._replace(**other)})
    with pytest.raises(DataError, match=r"human.npz must have a row for each"):
        read_human(Run(tmp_path))


def test_no_archive(tmp_path):
    (tmp_path / "human.npz").write_text("no")
    with pytest.raises(DataError, match=r"human.npz cannot be read"):
        read_human(Run(tmp_path))


def test_a_file_that_does_not_say_of_which_images_is_passed_over(tmp_path):
    np.savez(tmp_path / "human.npz", classes=np.array(["a"]), counts=np.array([1]))
    assert read_human(Run(tmp_path)) == {}
