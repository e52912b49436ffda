"""gaze.studies.consistency.readers: what the tables say are plain means of human.npz and of the epochs."""

import math

import numpy as np
import pytest
from made_up import made_up_runs
from run_folders import SMALL, write_run

from gaze.config.train import check_config
from gaze.errors import LeftOut
from gaze.files import write_json
from gaze.measures import HUMAN
from gaze.runs.human import HumanFigures, write_human
from gaze.runs.load import read_runs
from gaze.runs.run import Run
from gaze.statistics.seeds import lambda_table
from gaze.studies.consistency.analysis import sections, split
from gaze.studies.consistency.atlas import READERS, atlas_figure
from gaze.studies.consistency.readers import ALL, CENTRE, OTHERS, readers_items, readers_of

CLASSES = ("a", "b")


def figures(seed: int, readers: int = 2) -> HumanFigures:
    g, fixed = np.random.default_rng(seed), np.random.default_rng(9).random
    network, centre, others, maps = g.random((3, 7)), fixed((3, 7)), fixed((3, 7)), fixed((2, 4, 4))
    return HumanFigures(CLASSES, readers, np.array([3, 4]), network, centre, others * (readers > 1 or math.nan), maps)


@pytest.fixture
def study(composed, tmp_path):
    """Runs of two lambdas and two seeds, whose epoch has measures beside readers'."""

    def make(readers: int = 2, apart: bool = False):
        for i, name in enumerate(("0-0", "0-1", "50-0", "50-1")):
            weight, seed = name.split("-")
            run = Run(write_run(tmp_path / name, check_config(composed(*SMALL, f"lambda={weight}", f"seed={seed}")),
                                list(CLASSES)))  # fmt: skip
            head, row = run.metrics_file.read_text().split()
            names, values = (",".join(own) for own in zip(*((f"val/gaze_human_{m}", f"0.{i}{k}") for k, m in
                                                            enumerate(HUMAN)), strict=True))  # fmt: skip
            run.metrics_file.write_text(f"{head},{names}\n{row},{values}\n")
            found = {"test": figures(i, readers)}
            if apart:
                write_json(run.test_file, {})
                found["validation"] = figures(i + 10, readers)
            write_human(run, found)
        return read_runs(tmp_path)

    return make


def items_of(runs):
    table, maps = readers_of(runs.epochs, runs.used)
    return readers_items(lambda_table(runs.epochs), table, "x", "here"), maps


def test_networks_stand_beside_the_yardsticks(study):
    (item, by_class), maps = items_of(study())
    assert item.shown["gaze"].tolist() == ["lambda 0", "lambda 50", CENTRE, OTHERS]
    assert item.shown["CC"].tolist()[:2] == ["0.05 ± 0.07", "0.25 ± 0.07"]  # of 0.00 and 0.10, 0.20 and 0.30
    own, g = figures(0), [figures(i).network for i in range(4)]
    assert item.shown["sAUC"].tolist()[2:] == [f"{own.centre[2, 6]:.2f}", f"{own.others[2, 6]:.2f}"]
    assert "all test images" in item.notes[0] and "2 readers" in item.notes[0]

    assert by_class.shown["class"].tolist() == ["a"] * 4 + ["b"] * 4 + [ALL] * 4
    assert by_class.shown["images"].tolist() == ["3"] * 4 + ["4"] * 4 + ["7"] * 4
    values = by_class.frame.set_index(["class", "gaze", "measure"])
    for k, label in enumerate((*CLASSES, ALL)):
        for column, measure in enumerate(HUMAN):
            assert values.loc[(label, "lambda 50", measure), "mean"] == pytest.approx((g[2] + g[3])[k, column] / 2)
            assert values.loc[(label, CENTRE, measure), "mean"] == pytest.approx(own.centre[k, column])
            assert values.loc[(label, OTHERS, measure), "mean"] == pytest.approx(own.others[k, column])
    assert {each.weight for each in maps} == {READERS} and len(maps) == 4
    drawn = maps[0]._replace(weight=0.0)
    unseen = [own._replace(counts=np.array([0, 4])) for own in maps]
    axis = atlas_figure([drawn, *unseen], "phantom").axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["readers", "0"]
    assert [text.get_text() for text in axis.texts] == ["nobody\nlooked"]


def test_where_validation_is_apart_the_yardsticks_are_of_both_parts(study):
    (item, validation, test), maps = items_of(study(apart=True))
    assert "all validation images" in item.notes[0]
    for own, part, first in ((validation, "validation", 10), (test, "test", 0)):
        assert f"all {part} images" in own.notes[0] and part in own.caption
        found = own.frame.set_index(["class", "gaze", "measure"]).loc[(ALL, "lambda 0", "cc"), "mean"]
        assert found == pytest.approx((figures(first).network + figures(first + 1).network)[2, 0] / 2)
    assert len(maps) == 4


def test_one_reader_is_no_ceiling(study):
    items, _ = items_of(study(readers=1))
    assert all("one reader: no ceiling" in item.notes[0] and OTHERS not in set(item.shown["gaze"]) for item in items)


def test_a_run_that_tells_no_classes_apart_and_a_damaged_file_are_left_out(study):
    runs = study()
    names = sorted(runs.used)
    runs.epochs.loc[runs.epochs["run"] == names[0], "kappa"] = 0.0
    runs.used[names[1]].human_file.write_text("no")
    with pytest.warns(LeftOut, match="yardsticks are left out: human.npz cannot be read"):
        table, _ = readers_of(runs.epochs, runs.used)
    assert set(table["gaze"]) == {"lambda 50", CENTRE, OTHERS}
    item = readers_items(lambda_table(runs.epochs), table, "x", "here")[0]
    assert item.shown["seeds"].tolist()[:2] == ["1", "2"]


def test_without_readers_there_is_no_section_and_without_run_folders_no_yardstick(study):
    runs = study()
    found = sections(runs, list(split(runs, [], {})))
    assert "Does it look where readers looked?" in [section.title for section in found]
    alone = runs._replace(used={})
    (item,) = readers_items(lambda_table(alone.epochs), readers_of(alone.epochs, {})[0], "x", "here")
    assert item.shown["gaze"].tolist() == ["lambda 0", "lambda 50"] and "No yardsticks" in item.notes[0]
    plain = made_up_runs()
    assert readers_items(lambda_table(plain), readers_of(plain, {})[0], "x", "here") == []
