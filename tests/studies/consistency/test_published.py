"""The published numbers against the tables that they were copied from."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import SHARED
from made_up import made_up_runs

from gaze.config.train import check_config
from gaze.runs.run import Run
from gaze.statistics.seeds import lambda_table, pearson_table
from gaze.studies.consistency.published import (
    STUDY1_EPOCH,
    STUDY2_EPOCH,
    differences,
    published_pearson,
    published_study1,
    published_study2,
)
from gaze.studies.consistency.tables import across_item, pearson_item, performance_item, study1_item

REFERENCE = SHARED.parent / "reference" / "gaze_consistency.md"
needs_reference = pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no file {REFERENCE} (set GAZE_SHARED_DATA)")
DATASETS = ["brain_tumor_mri", "chest_xray"]
MODELS = [f"level{n}" for n in range(1, 6)]


def printed(opening: str) -> dict[tuple[str, str], list[float]]:
    """{(dataset, model): numbers} of the Markdown table that follows the line with ``opening``."""
    text = REFERENCE.read_text(encoding="utf-8").split(opening)[1]
    block = re.search(r"\n((?:\|.*\n?)+)", text)
    assert block is not None
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block[1].splitlines()]
    assert head == ["level", "Brain Tumor MRI", "Chest X-Ray"]
    return {
        (dataset, f"level{level}"): [float(number) for number in cell.split("/")]
        for level, *cells in rows
        for dataset, cell in zip(DATASETS, cells, strict=True)
    }


def as_printed(frame: pd.DataFrame, values: list[str]) -> dict[tuple[str, str], list[float]]:
    """The same form, from our frame; accuracy back to %."""
    if "accuracy" in values:
        frame = frame.assign(accuracy=(frame["accuracy"] * 100).round(1))
    groups = frame.groupby(["dataset", "model"])
    return {key: group[values].to_numpy().ravel().tolist() for key, group in groups}


@needs_reference
def test_pearson_is_the_reference_table():
    assert as_printed(published_pearson(), ["r"]) == printed("Table 2, mean over 6 seeds")


@needs_reference
def test_study_1_is_the_reference_table():
    values = ["accuracy", "kappa", "gaze_consistency_l2"]
    assert as_printed(published_study1(), values) == printed("Study 1 at epoch 20, mean of 6 seeds")


@needs_reference
def test_study_2_is_the_reference_table():
    opening = "by lambda -100 / 0 / 50 / 100 / 500"
    assert as_printed(published_study2(), ["accuracy"]) == printed(opening)
    assert published_study2()["lambda"].tolist() == [-100, 0, 50, 100, 500] * 10


@pytest.mark.parametrize(
    ("frame", "columns", "rows"),
    [
        (published_pearson(), ["dataset", "model", "r"], 10),
        (published_study1(), ["dataset", "model", "accuracy", "kappa", "gaze_consistency_l2"], 10),
        (published_study2(), ["dataset", "model", "lambda", "accuracy"], 50),
    ],
    ids=["pearson", "study1", "study2"],
)
def test_frame_is_tidy(frame, columns, rows):
    assert list(frame) == columns
    assert len(frame) == rows
    keys = [c for c in columns if c in ("dataset", "model", "lambda")]
    assert not frame.duplicated(keys).any()
    assert sorted(set(frame["dataset"])) == DATASETS
    assert sorted(set(frame["model"])) == MODELS
    assert frame.notna().all(axis=None)
    assert all(frame[c].dtype == "float64" for c in columns[2:])


@pytest.mark.parametrize(
    ("frame", "where", "column", "value"),
    [
        (published_pearson(), {"dataset": "brain_tumor_mri", "model": "level1"}, "r", 0.735),
        (published_pearson(), {"dataset": "chest_xray", "model": "level4"}, "r", 0.0062),
        (published_study1(), {"dataset": "brain_tumor_mri", "model": "level5"}, "accuracy", 0.955),
        (published_study1(), {"dataset": "chest_xray", "model": "level1"}, "kappa", -0.009),
        (published_study1(), {"dataset": "brain_tumor_mri", "model": "level1"}, "gaze_consistency_l2", 0.0019),
        (published_study2(), {"dataset": "brain_tumor_mri", "model": "level3", "lambda": 50}, "accuracy", 0.975),
        (published_study2(), {"dataset": "chest_xray", "model": "level2", "lambda": 500}, "accuracy", 0.741),
    ],
)
def test_some_values_by_hand(frame, where, column, value):
    found = frame.loc[(frame[list(where)] == pd.Series(where)).all(axis=1), column]
    assert found.tolist() == [value]


def test_l2_form_fits_the_size_of_the_maps():
    """Level 1 has maps of 112x112, the others of 28x28: the l2 form's bound 1/sqrt(H'W') is a quarter."""
    study1 = published_study1()
    bound = study1["model"].map({"level1": 1 / 112}).fillna(1 / 28)
    assert (study1["gaze_consistency_l2"] < bound).all()
    by_level = study1.groupby("model")["gaze_consistency_l2"].mean()
    assert math.isclose(by_level["level1"] * 4, by_level.drop("level1").mean(), rel_tol=0.3)


# ---- beside runs of one's own


def trained(composed, *words: str) -> dict[str, Run]:
    """Runs of level 2 at lambda 0 and 50, by name."""
    names = {f"own/brain_tumor_mri/level2/lambda={weight}/seed=0": weight for weight in (0, 50)}
    own = ["dataset=brain_tumor_mri", "dataset.root=x", *words]
    return {
        name: Run(Path(name), check_config(composed(*own, f"lambda={w}"), trainer=False)) for name, w in names.items()
    }


def rows(epochs: int) -> pd.DataFrame:
    return made_up_runs("own", ("brain_tumor_mri",), ("level2",), (0, 50), (0,), epochs)


def test_runs_of_the_published_protocol_differ_in_nothing(composed):
    one = trained(composed, "experiment=table2")
    assert differences(rows(20), one, STUDY1_EPOCH)["level2", 0.0] == ""
    two = trained(composed, "experiment=learning_curves")
    assert differences(rows(50), two, STUDY2_EPOCH) == {("level2", 0.0): "", ("level2", 50.0): ""}


def test_what_differs_from_the_published_protocol_is_named(composed):
    words = ("dataset.image_size=64", "dataset.train_images=320", "trainer.precision=bf16-mixed", "optimizer.lr=0.001")
    words += ("dataset.validation=0.15",)
    found = differences(rows(12), trained(composed, *words), STUDY2_EPOCH)
    plain = "12 epochs, 64 px, 320 training images, lr 0.001, bf16-mixed, on validation images"
    assert found == {("level2", 0.0): plain, ("level2", 50.0): f"{plain}, squared form, second order"}
    assert differences(rows(20), {}, STUDY1_EPOCH)["level2", 0.0] == ""  # a CSV
    assert differences(rows(20), {}, STUDY2_EPOCH)["level2", 50.0] == "20 epochs"
    mixed = pd.concat([rows(20), rows(50).assign(run="other", seed=1)])
    assert differences(mixed, {}, STUDY2_EPOCH)["level2", 0.0] == "20 epochs or 50 epochs"


def test_the_difference_stands_in_the_cell_of_the_published_figure():
    runs, beside = rows(20), {("level2", 0.0): "64 px", ("level2", 50.0): ""}
    table = lambda_table(runs)
    cells = performance_item(table, "accuracy", "x", "here", "brain_tumor_mri", beside).shown["published"]
    assert cells.tolist() == ["0.910 (here 64 px)", "0.894"]
    across = across_item(table, "accuracy", "x", "here", "brain_tumor_mri", beside).shown.set_index("model")
    assert across.loc["published"].tolist() == ["0.910 (here 64 px)", "0.894"]
    r = pearson_item(pearson_table(runs), "x", "here", "brain_tumor_mri", beside).shown["published r"].dropna()
    assert r.tolist() == ["-0.626 (here 64 px)"]
    first = study1_item(runs, "x", "here", "brain_tumor_mri", beside).shown.set_index("model").loc["level2"]
    assert (
        first["accuracy, published"] == "0.813 (here 64 px)" and first["L_CAM, l2, published"] == "0.0069 (here 64 px)"
    )
