"""gaze.studies.consistency.overview: the cells say the table's numbers, and which collapsed."""

import io

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from made_up import made_up_runs
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gaze.statistics.seeds import lambda_table
from gaze.studies.consistency.overview import overview_figure

LEVELS = ("level1", "level2", "level3")
LAMBDAS = (-100.0, 0.0, 50.0, 500.0)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return made_up_runs(models=LEVELS, lambdas=LAMBDAS, epochs=8)


def drawn(runs: pd.DataFrame, metric: str = "accuracy") -> Figure:
    return overview_figure(lambda_table(runs), metric)


def cells(figure: Figure) -> dict[tuple[int, int], Rectangle]:
    """Cells by row and column."""
    found = [patch for patch in figure.axes[0].patches if patch.get_fill() and patch.get_width() == 1]
    return {(round(patch.get_y() + 0.5), round(patch.get_x() + 0.5)): patch for patch in found}


def said(figure: Figure) -> dict[tuple[int, int], list[str]]:
    found: dict[tuple[int, int], list[str]] = {}
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        found.setdefault((round(y), round(x)), []).append(text.get_text())
    return found


def blue_less_red(cell: Rectangle) -> float:
    red, _, blue, _ = cell.get_facecolor()
    return blue - red


@pytest.mark.parametrize(
    ("metric", "digits"), [("accuracy", 3), ("gaze_consistency_rms", 3), ("gaze_consistency_l2", 4)]
)
def test_a_cell_says_mean_and_sd_over_seeds_of_the_last_five_epochs(runs, metric, digits):
    last = runs[runs["epoch"] > 3].groupby(["model", "lambda", "seed"])[metric].mean().groupby(["model", "lambda"])
    mean, sd = last.mean(), last.std()
    figure = drawn(runs, metric)
    assert len(said(figure)) == len(LEVELS) * len(LAMBDAS)
    for (row, column), texts in said(figure).items():
        key = LEVELS[row], LAMBDAS[column]
        assert texts == [f"{mean[key]:.{digits}f}", f"± {sd[key]:.{digits}f}"]
    axis = figure.axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == list(LEVELS)
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["-100", "0", "50", "500"]


def test_one_seed_is_said_in_its_cell(runs):
    one = runs[(runs["seed"] == 0) | (runs["model"] != "level2")]
    behind = {place: texts[1] for place, texts in said(drawn(one)).items()}
    assert {text for (row, _), text in behind.items() if row == 1} == {"one seed"}
    assert all(text.startswith("± ") for (row, _), text in behind.items() if row != 1)


def test_colours_follow_the_difference_from_lambda_0_and_meet_white_there(runs):
    accuracy, rms = cells(drawn(runs)), cells(drawn(runs, "gaze_consistency_rms"))
    for row in range(len(LEVELS)):
        assert min(accuracy[row, 1].get_facecolor()) > 0.95  # lambda 0
        assert blue_less_red(accuracy[row, 3]) < -0.2  # accuracy falls at 500: red
        assert blue_less_red(rms[row, 0]) < -0.3  # less consistent at -100: orange
        assert blue_less_red(rms[row, 3]) > 0.1  # more consistent at 500: violet
    better = runs.assign(accuracy=runs["accuracy"] + 0.2 * (runs["lambda"] == 50))
    assert blue_less_red(cells(drawn(better))[0, 2]) > 0.3
    bar = drawn(runs, "gaze_consistency_rms").axes[1]
    assert [bar.get_xlabel(), bar.get_ylabel(), bar.get_title()] == [
        "more consistent", "difference from lambda 0", "less consistent"
    ]  # fmt: skip


def test_noise_stays_pale(runs):
    """Differences within two seed SDs, and within a twentieth of the mean, never get the full colour."""
    flat = runs.assign(accuracy=0.8 + 0.01 * np.random.default_rng(0).standard_normal(len(runs)))
    assert min(min(cell.get_facecolor()[:3]) for cell in cells(drawn(flat)).values()) > 0.3
    one = flat[flat["seed"] == 0]
    assert min(min(cell.get_facecolor()[:3]) for cell in cells(drawn(one)).values()) > 0.5


def test_without_lambda_0_there_is_no_colour_and_no_bar(runs):
    figure = drawn(runs[runs["lambda"] != 0])
    assert {cell.get_facecolor() for cell in cells(figure).values()} == {(1.0, 1.0, 1.0, 1.0)}
    assert len(figure.axes) == 1


def test_a_cell_without_a_run_is_blank_and_a_metric_without_a_value_is_refused(runs):
    holes = runs[(runs["model"] != "level1") | (runs["lambda"] != 50)]
    assert set(cells(drawn(runs))) - set(cells(drawn(holes))) == {(0, 2)}
    with pytest.raises(ValueError, match="No value of kappa"):
        drawn(runs.assign(kappa=np.nan), "kappa")


def test_hatched_where_half_of_the_runs_collapsed_and_the_colours_do_not_reach_for_those(runs):
    gone = runs.assign(kappa=runs["kappa"].clip(lower=0.1))
    for model, seeds in (("level1", (0,)), ("level2", (0, 2)), ("level3", (0, 1, 2))):
        own = (gone["model"] == model) & (gone["lambda"] == -100) & gone["seed"].isin(seeds)
        gone.loc[own, ["kappa", "accuracy"]] = [0.0, 0.25]
    figure = drawn(gone)
    assert {place for place, cell in cells(figure).items() if cell.get_hatch()} == {(1, 0), (2, 0)}
    table = lambda_table(gone).query("metric == 'accuracy' and summary == 'last5'")
    five = table.set_index(["model", "lambda"])["mean"]
    change = five - five.xs(0.0, level="lambda").reindex(five.index.get_level_values("model")).to_numpy()
    sound = change.drop([("level2", -100.0), ("level3", -100.0)]).abs().max()
    spread, plain = 2 * table["sd"].median(), five.xs(0.0, level="lambda").mean() / 20
    low, high = figure.axes[1].get_ylim()
    assert -low == pytest.approx(high) and high == pytest.approx(max(sound, spread, plain))


def test_a_collapsed_cell_says_how_and_a_gaze_that_is_not_compared_has_no_number(runs):
    gone = runs.copy()
    gone.loc[(gone["model"] == "level1") & (gone["lambda"] == 50), ["kappa", "accuracy"]] = [0.0, 0.25]
    gone.loc[(gone["model"] == "level2") & (gone["lambda"] == 500), "kappa"] = 0.03
    gone.loc[(gone["model"] == "level3") & (gone["lambda"] == 500), "gaze_empty_fraction"] = 0.9
    assert said(drawn(gone))[0, 2] == ["0.250", "one class"]
    rms = drawn(gone, "gaze_consistency_rms")
    assert said(rms)[0, 2] == ["\N{EN DASH}", "one class"] and said(rms)[1, 3] == ["\N{EN DASH}", "at chance"]
    assert said(rms)[2, 3][1] == "empty maps" and said(rms)[2, 3][0].startswith("0.")
    assert all(cells(rms)[place].get_hatch() for place in ((0, 2), (1, 3), (2, 3)))
    assert cells(rms)[0, 2].get_facecolor() == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("weights", [(0.0, 50.0), (-3.0, -2.0, -1.0, *map(float, range(12)))])
def test_everything_lies_inside_the_figure_and_can_be_read(weights):
    many = made_up_runs(models=("level1", "a_model_with_a_long_name", "resnet18"), lambdas=weights, epochs=2)
    for metric in ("accuracy", "gaze_consistency_rms"):
        figure = drawn(many, metric)
        figure.savefig(io.BytesIO(), format="png", dpi=60)
        inside, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert inside.x0 > -0.02 and inside.y0 > -0.02 and inside.x1 < width + 0.02 and inside.y1 < height + 0.02
        assert min(text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()) >= 7
