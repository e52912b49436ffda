"""What is drawn is what was put in: lines, bands, dots and tiles are read back off the axes.

The thumbnails in tests/fixtures/golden/plots hold the look. After a change that is meant, look and renew them:

    GAZE_RENEW_GOLDEN=1 pytest tests/studies/consistency/test_plots.py -k golden
"""

import io
import os

import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import FIXTURES
from made_up import made_up_runs
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import linregress

from gaze.measures import label, measures
from gaze.runs.class_gaze import GazeMaps
from gaze.statistics.seeds import pearson_table
from gaze.studies.consistency.plots import (
    CHANCE,
    NOT_COMPARED,
    atlas_figure,
    chance,
    correlation_figure,
    curve_figure,
    eta_figure,
    lambda_styles,
    model_styles,
    scale_figure,
)

GOLDEN = FIXTURES / "golden" / "plots"
# Mean absolute difference of thumbnails in 0..255. Measured: another font 0.4 to 1.2, other data 2.4 and more.
TOLERANCE = 1.8
same_text = pytest.mark.skipif(
    tuple(map(int, matplotlib.__version__.split(".")[:2])) < (3, 11),
    reason="the golden thumbnails are of matplotlib 3.11 or later, whose text is wider and moves the axes",
)
LEVELS = ("level1", "level2", "level3")
LAMBDAS = (-100.0, 0.0, 50.0, 500.0)
MANY = ("resnet101", *(f"level{i}" for i in range(1, 6)), "resnet18", "vgg", "densenet", "mobilenet", "vit", "swin")


def gaze_maps(
    model="level2", weight=0.0, seed=0, value=None, size=4, counts=(3, 5), classes=("cat", "dog")
) -> GazeMaps:
    random = np.random.default_rng(seed + size)
    gaze = random.random((len(classes), size, size)) if value is None else np.full((len(classes), size, size), value)
    return GazeMaps("made_up", "phantom", model, weight, classes, gaze, np.array(counts))


def guessing(shares: tuple[float, ...], answers: list[tuple[float, ...]], n: int = 1000) -> pd.DataFrame:
    """Accuracy and kappa of networks that draw their answers with given shares, by the definition, in loops."""
    random, rows = np.random.default_rng(0), []
    for drawn in answers:
        true, said = (random.choice(len(shares), n, p=p) for p in (shares, drawn))
        agree = float(np.mean([a == b for a, b in zip(true, said, strict=True)]))
        expected = sum(float(np.mean(true == k)) * float(np.mean(said == k)) for k in range(len(shares)))
        rows.append({"accuracy": agree, "kappa": (agree - expected) / (1 - expected), "expected": expected})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return made_up_runs(models=LEVELS, lambdas=LAMBDAS, seeds=(0, 1, 2), epochs=8)


@pytest.fixture(scope="module")
def plain(runs) -> pd.DataFrame:
    return runs[runs["lambda"] == 0]


def every_figure(runs: pd.DataFrame) -> dict[str, Figure]:
    plain = runs[runs["lambda"] == 0]
    maps = [gaze_maps(model, weight) for model in set(runs["model"]) for weight in set(runs["lambda"])]
    return {
        "correlation": correlation_figure(plain, "phantom", table=pearson_table(plain)),
        "curve": curve_figure(runs, "phantom", "kappa"),
        "eta": eta_figure(runs, "phantom"),
        "scale": scale_figure(runs, "phantom"),
        "atlas": atlas_figure(maps, "phantom"),
    }


def pixels(figure: Figure, width: int | None = None) -> NDArray:
    """Grey pixels 0..255 (H, W)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    image = Image.open(buffer).convert("L")
    if width:
        image = image.resize((width, round(width * image.height / image.width)), Image.Resampling.BOX)
    return np.asarray(image, float)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def luminance(colour: str) -> float:
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


# ---- correlation


def points_of(axis) -> list[NDArray]:
    return [line.get_xydata() for line in axis.lines if line.get_linestyle() == "None"]


def test_correlation_shows_kappa_across_and_the_gaze_up_with_every_epoch_of_every_run(plain):
    for model, axis in zip(LEVELS, correlation_figure(plain, "phantom").axes, strict=True):
        own = plain[plain["model"] == model]
        drawn = np.concatenate(points_of(axis))
        expected = own[["kappa", "gaze_consistency"]].to_numpy()
        np.testing.assert_array_equal(drawn[np.lexsort(drawn.T)], expected[np.lexsort(expected.T)])
        assert all(line.get_rasterized() for line in axis.lines if line.get_linestyle() == "None")


def test_correlation_colours_the_run_whose_r_is_nearest_to_the_mean_and_draws_its_line(plain):
    measure = "gaze_consistency_l2"
    figure = correlation_figure(plain, "phantom", measure)
    for model, axis in zip(LEVELS, figure.axes, strict=True):
        own = dict(iter(plain[plain["model"] == model].groupby("seed")))
        r = {seed: linregress(run["kappa"], run[measure]).rvalue for seed, run in own.items()}
        nearest = min(own, key=lambda seed: abs(r[seed] - np.mean(list(r.values()))))
        assert axis.get_title() == f"{model}, seed {nearest}"
        grey, coloured = points_of(axis)
        np.testing.assert_array_equal(coloured, own[nearest][["kappa", measure]])
        assert len(grey) == 2 * 8
        kappa, truth = own[nearest]["kappa"], linregress(own[nearest]["kappa"], own[nearest][measure])
        line = next(line for line in axis.lines if line.get_linestyle() != "None")
        np.testing.assert_allclose(line.get_xdata(), [kappa.min(), kappa.max()])
        np.testing.assert_allclose(line.get_ydata(), truth.intercept + truth.slope * line.get_xdata(), rtol=1e-6)
        assert line.get_color() == axis.lines[1].get_color() == model_styles(LEVELS)[model].colour
    assert "the model's other runs" in texts(figure)


def test_correlation_says_own_and_strangers_r_and_the_p_of_the_pairing(plain):
    table = pearson_table(plain).drop(columns=["strangers_r", "pairing_p"], errors="ignore")
    row = table.query("model == 'level2' and measure == 'gaze_consistency'").iloc[0]
    title = correlation_figure(plain, "phantom", "gaze_consistency", table, ["level2"]).axes[0].get_title()
    assert title.endswith(f"\nmean r {row['r']:.2f}")
    more = table.assign(strangers_r=-0.5978, pairing_p=0.6681)
    title = correlation_figure(plain, "phantom", "gaze_consistency", more, ["level2"]).axes[0].get_title()
    assert title.endswith(f"\nmean r {row['r']:.2f}, strangers' -0.60\np of the pairing 0.668")
    one = plain[plain["seed"] == 0]
    title = correlation_figure(one, "phantom", "gaze_consistency", pearson_table(one), ["level2"]).axes[0].get_title()
    assert title.startswith("level2, seed 0\nr ") and "strangers" not in title
    constant = plain.assign(kappa=0.5)
    figure = correlation_figure(constant, "phantom", "gaze_consistency", pearson_table(constant), ["level2"])
    assert figure.axes[0].get_title() == "level2, seed 0"


def test_correlation_tells_duplicates_of_a_seed_apart(plain):
    double = pd.concat([plain, plain[plain["model"] == "level2"].assign(run="copy")])
    axis = correlation_figure(double, "phantom", models=["level2"]).axes[0]
    assert [len(points) for points in points_of(axis)] == [5 * 8, 8]
    alone = correlation_figure(plain[plain["seed"] == 0], "phantom", models=["level2"])
    assert [len(points) for points in points_of(alone.axes[0])] == [8]
    assert "other runs" not in texts(alone)


def test_correlation_skips_missing_values_and_draws_no_line_through_one_kappa(plain):
    gappy = plain.assign(gaze_consistency=plain["gaze_consistency"].where(plain["epoch"] > 2))
    axis = correlation_figure(gappy, "phantom", models=["level2"]).axes[0]
    assert [len(line.get_xdata()) for line in axis.lines] == [2 * 6, 6, 2]
    constant = correlation_figure(plain.assign(kappa=0.5), "phantom", models=["level2"]).axes[0]
    assert [len(line.get_xdata()) for line in constant.lines] == [2 * 8, 8]
    empty = correlation_figure(plain.assign(gaze_consistency=np.nan), "phantom", models=["level2"])
    assert "no epoch has both values" in texts(empty)
    assert empty.axes[0].get_ylim() == measures()["gaze_consistency"].range


# ---- curves


def test_accuracy_is_drawn_from_0_to_1_as_published(runs):
    axes = {measure: curve_figure(runs, "phantom", measure).axes[0] for measure in ("accuracy", "kappa")}
    assert axes["accuracy"].get_ylim() == (0, 1)
    assert axes["kappa"].get_ylim()[1] < 1


@pytest.mark.parametrize("measure", ["kappa", "gaze_consistency", "gaze_eta_squared", "loss"])
def test_curves_are_mean_and_sd_over_seeds(runs, measure):
    figure = curve_figure(runs, "phantom", measure)
    for model, axis in zip(LEVELS, figure.axes, strict=True):
        for weight, line, band in zip(LAMBDAS, axis.lines[: len(LAMBDAS)], axis.collections, strict=True):
            own = runs[(runs["model"] == model) & (runs["lambda"] == weight)]
            seeds = own.pivot(index="epoch", columns="seed", values=measure).to_numpy()
            np.testing.assert_allclose(line.get_ydata(), seeds.mean(1))
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 9))
            corners = band.get_paths()[0].vertices
            low, high = (reduce(corners[corners[:, 0] == 3, 1]) for reduce in (np.min, np.max))
            spread = seeds[2].std(ddof=1)
            np.testing.assert_allclose([low, high], [seeds[2].mean() - spread, seeds[2].mean() + spread])
    assert "1 SD over 3 seeds" in texts(figure)


def test_curves_skip_missing_values_and_say_how_many_seeds(runs):
    gone = (runs["epoch"] == 2) | ((runs["epoch"] == 4) & (runs["seed"] == 0))
    figure = curve_figure(runs.assign(kappa=runs["kappa"].mask(gone)), "phantom", "kappa")
    line = figure.axes[0].lines[1]
    assert np.isnan(line.get_ydata()[1])
    own = runs[(runs["model"] == "level1") & (runs["lambda"] == 0) & (runs["epoch"] == 4) & (runs["seed"] > 0)]
    assert line.get_ydata()[3] == pytest.approx(own["kappa"].mean())
    assert line.get_markevery()[0]  # epoch 1 stands alone: without a marker nothing would show
    assert "1 SD over 2 to 3 seeds" in texts(figure)


def test_one_seed_has_no_band(runs):
    figure = curve_figure(runs[runs["seed"] == 1], "phantom", "kappa")
    assert "no band" in texts(figure)
    assert "SD" not in texts(figure)


def test_same_seed_twice_is_called_runs_not_seeds(runs):
    double = pd.concat([runs, runs.assign(run=runs["run"] + "again")])
    assert "1 SD over 6 runs" in texts(curve_figure(double, "phantom", "kappa"))


def test_wide_consistency_gets_a_log_axis_and_nothing_else_does(runs):
    assert curve_figure(runs, "phantom", "gaze_consistency").axes[0].get_yscale() == "log"
    near = runs[runs["lambda"].isin([0, 50])]
    assert curve_figure(near, "phantom", "gaze_consistency").axes[0].get_yscale() == "linear"
    steep = runs.assign(loss=10.0 ** runs["epoch"])
    assert curve_figure(steep, "phantom", "loss").axes[0].get_yscale() == "linear"


def test_log_axis_follows_the_means_though_a_band_reaches_far_down(runs):
    two = runs[runs["seed"] < 2]
    first = two.groupby(["model", "lambda", "epoch"])["gaze_consistency"].transform("first")
    wild = two.assign(gaze_consistency=first * two["seed"].map({0: 1.0, 1: 0.1717}))  # mean - SD: 1.5e-4 of the first
    axis = curve_figure(wild, "phantom", "gaze_consistency").axes[0]
    means = wild.groupby(["model", "lambda", "epoch"])["gaze_consistency"].mean()
    assert axis.get_yscale() == "log"
    assert means.min() / 3 < axis.get_ylim()[0] < means.min()
    assert axis.get_ylim()[1] > means.max()


def test_measure_that_old_runs_lack_is_said_to_be_missing(runs):
    old = runs.drop(columns="gaze_consistency_grid")
    assert texts(curve_figure(old, "phantom", "gaze_consistency_grid")).count("not logged by these runs") == 3


# ---- eta squared and scales


def test_eta_points_are_the_means_of_the_last_five_epochs(runs):
    axis = eta_figure(runs.sample(frac=1, random_state=0), "phantom").axes[0]
    last = runs[runs["epoch"] > 3].rename(columns={"gaze_consistency_rms": "x", "gaze_eta_squared": "y"})
    styles = lambda_styles(LAMBDAS)
    for model, cloud, mean, line in zip(
        LEVELS, axis.collections[::2], axis.collections[1::2], axis.lines, strict=False
    ):
        own = last[last["model"] == model].groupby(["lambda", "seed"])[["x", "y"]].mean()
        order = np.lexsort(own.to_numpy().T)
        drawn = np.asarray(cloud.get_offsets())
        drawn_order = np.lexsort(drawn.T)
        np.testing.assert_allclose(drawn[drawn_order], own.to_numpy()[order])
        colours = [to_rgb(styles[weight].colour) for weight in own.index.get_level_values("lambda")]
        np.testing.assert_allclose(cloud.get_facecolors()[drawn_order, :3], np.array(colours)[order])
        np.testing.assert_allclose(line.get_xydata(), own.groupby("lambda").mean().loc[list(LAMBDAS)])
        np.testing.assert_allclose(mean.get_offsets(), line.get_xydata())  # no line that touches no point
    one = eta_figure(runs[runs["seed"] == 0], "phantom").axes[0]
    for cloud, line in zip(one.collections, one.lines, strict=False):  # behind them the line at 0
        assert {*map(tuple, line.get_xydata())} == {*map(tuple, np.asarray(cloud.get_offsets()))}


def test_eta_says_how_to_read_the_corners_outside_the_data(runs):
    figure = eta_figure(runs, "phantom")
    figure.canvas.draw()
    axis = figure.axes[0]
    height = axis.get_window_extent().height
    for text in axis.texts:
        box = text.get_window_extent()
        points = np.concatenate([cloud.get_offsets() for cloud in axis.collections])
        y = axis.transData.transform(points)[:, 1]
        assert ((y < box.y0) | (y > box.y1)).all()
        assert box.height < 0.1 * height
    assert "alike within its class, different between classes" in texts(figure)


def test_scale_shows_each_run_and_the_mean_of_the_last_epoch(runs):
    figure = scale_figure(runs, "phantom")
    readings = ["gaze_consistency_l2", "gaze_consistency_rms", "gaze_consistency_grid_rms", "gaze_eta_squared"]
    last = runs[(runs["epoch"] == 8) & (runs["lambda"] == 0)]
    for reading, axis in zip(readings, figure.axes, strict=True):
        truth = last.groupby("model")[reading]
        for model, dots, bar in zip(LEVELS, axis.lines, axis.collections, strict=True):
            np.testing.assert_array_equal(np.sort(dots.get_ydata()), np.sort(truth.get_group(model)))
            assert bar.get_paths()[0].vertices[0, 1] == pytest.approx(truth.mean()[model])
        assert axis.get_ylim()[0] == 0
    for axis in figure.axes[2:]:  # the upper panels share their x axes
        assert [label.get_text() for label in axis.get_xticklabels()] == list(LEVELS)


def test_scale_says_what_was_not_logged(runs):
    old = runs.drop(columns="gaze_consistency_grid_rms").assign(gaze_eta_squared=np.nan)
    said = [
        "not logged by these runs" in "".join(t.get_text() for t in a.texts) for a in scale_figure(old, "phantom").axes
    ]
    assert said == [False, False, True, True]


# ---- atlas


def atlas_tiles(figure: Figure, image: int, rows: int, columns: int) -> NDArray:
    """(rows, columns, H, W) of one model."""
    data = np.ma.filled(figure.axes[0].images[image].get_array(), np.nan)
    return data.reshape(rows, data.shape[0] // rows, columns, -1).transpose(0, 2, 1, 3)


def test_atlas_tile_is_the_mean_over_all_correct_images():
    first, second = gaze_maps(seed=0, counts=(3, 0)), gaze_maps(seed=1, counts=(1, 5))
    tiles = atlas_tiles(atlas_figure([first, second], "phantom"), 0, 2, 1)
    np.testing.assert_allclose(tiles[0, 0], 0.75 * first.gaze[0] + 0.25 * second.gaze[0])
    np.testing.assert_allclose(tiles[1, 0], second.gaze[1])


def test_atlas_puts_each_map_into_its_row_and_column():
    values = {("level1", 50.0): 0.1, ("level1", -10.0): 0.2, ("resnet18", 50.0): 0.3, ("resnet18", -10.0): 0.4}
    figure = atlas_figure(
        [gaze_maps(m, w, value=v, size=8 if m == "level1" else 4) for (m, w), v in values.items()], "phantom"
    )
    for image, model in enumerate(["level1", "resnet18"]):
        tiles = atlas_tiles(figure, image, 2, 2)
        for column, weight in enumerate([-10.0, 50.0]):
            np.testing.assert_allclose(tiles[:, column], values[model, weight])
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["-10", "50"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog"] * 2
    assert [label.get_text() for label in axis.get_yticklabels(minor=True)] == ["level1", "resnet18"]
    assert {image.get_clim() for image in axis.images} == {(0, 1)}
    assert figure.axes[1].get_ylabel() == "mean CAM (0..1)"


def test_atlas_rows_line_up_with_their_names():
    figure = atlas_figure([gaze_maps("level1"), gaze_maps("level2")], "phantom")
    axis = figure.axes[0]
    for k, image in enumerate(axis.images):
        left, right, bottom, top = image.get_extent()
        assert (left, right) == (-0.5, 0.5)
        np.testing.assert_allclose(axis.get_yticks()[2 * k : 2 * k + 2], [top + 0.5, bottom - 0.5])


def test_atlas_marks_a_class_without_correct_images_and_leaves_missing_runs_blank():
    figure = atlas_figure([gaze_maps(counts=(0, 4)), gaze_maps("level3", 50.0)], "phantom")
    axis = figure.axes[0]
    assert len(axis.patches) == len(axis.texts) == 1
    assert axis.texts[0].get_position() == (0, 0)
    missing = [np.isnan(atlas_tiles(figure, image, 2, 2)).all((2, 3)).tolist() for image in (0, 1)]
    assert missing == [[[True, True], [False, True]], [[True, False], [True, False]]]


@pytest.mark.parametrize("classes", [("a",), ("a", "b", "c")])
def test_atlas_names_a_model_also_beside_a_class_at_the_same_height(classes):
    figure = atlas_figure([gaze_maps(classes=classes, counts=[1] * len(classes))], "phantom")
    shown = [tick.label1.get_text() for tick in figure.axes[0].yaxis.get_minor_ticks()]
    assert shown == ["level2"]
    assert len(figure.axes[0].yaxis.get_minorticklocs()) == 1


def test_atlas_enlarges_the_smaller_maps_of_a_model_by_nearest_neighbour():
    small, large = gaze_maps(size=2), gaze_maps(weight=1.0, size=4)
    tiles = atlas_tiles(atlas_figure([small, large], "phantom"), 0, 2, 2)
    np.testing.assert_allclose(tiles[0, 0], small.gaze[0].repeat(2, 0).repeat(2, 1))
    np.testing.assert_allclose(tiles[0, 1], large.gaze[0])


# ---- all of them


@pytest.mark.parametrize("extra", [(), (-500.0, -1.0, 1.0, 10.0, 100.0, 1000.0)])
def test_lambda_colours_get_lighter_with_lambda_and_zero_is_black(extra):
    styles = lambda_styles([*LAMBDAS, *extra, 0.0])
    assert list(styles) == sorted({*LAMBDAS, *extra})
    grey = [luminance(style.colour) for weight, style in styles.items() if weight != 0]
    assert (np.diff(grey) > 0.03).all()
    assert min(grey) > 0.2
    assert luminance(styles[0.0].colour) == 0
    assert styles[0.0].width > max(style.width for weight, style in styles.items() if weight)
    assert {weight < 0 for weight, style in styles.items() if style.line != "-"} == {True}
    assert len({style.marker for style in styles.values()}) == len(styles)


def test_model_keeps_its_style_whoever_else_is_there():
    everyone = model_styles(MANY)
    assert list(everyone)[:7] == ["level1", "level2", "level3", "level4", "level5", "densenet", "mobilenet"]
    assert list(everyone).index("resnet18") < list(everyone).index("resnet101")
    assert model_styles(["level3", "level2"])["level3"] == everyone["level3"]
    assert len({(style.colour, style.marker) for style in everyone.values()}) == len(MANY)


def test_each_axis_has_its_label(runs):
    for name, figure in every_figure(runs).items():
        if name in ("correlation", "curve", "scale"):  # panels share axes: the rim is labelled
            columns = 2 if name == "scale" else 3
            assert all(axis.get_ylabel() for axis in figure.axes[::columns]), name
            assert all(axis.get_xlabel() for axis in figure.axes[-columns:]), name
        else:
            assert all(axis.get_ylabel() for axis in figure.axes), name
            assert all(axis.get_xlabel() for axis in figure.axes if axis.get_label() != "<colorbar>"), name


def test_labels_reach_the_axis_unbroken_but_for_line_ends(runs):
    for measure in measures():
        shown = curve_figure(runs, "phantom", measure).axes[0].get_ylabel()
        assert shown.replace("\n", " ") == label(measure)
        assert max(map(len, shown.split("\n"))) <= 36


def test_figures_write_no_file_and_leave_global_state_alone(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(matplotlib.rcParams)
    every_figure(runs)
    assert list(tmp_path.iterdir()) == []
    assert dict(matplotlib.rcParams) == before


def test_data_set_without_rows_is_named(runs):
    dataset = "elsewhere"
    for draw in (correlation_figure, eta_figure, scale_figure, lambda r, d: curve_figure(r, d, "kappa")):
        with pytest.raises(ValueError, match=r"No run of data set 'elsewhere'.*phantom"):
            draw(runs, dataset)
    with pytest.raises(ValueError, match=r"'elsewhere'.*phantom"):
        atlas_figure([gaze_maps()], dataset)
    with pytest.raises(ValueError, match="elsewhere"):
        atlas_figure([], dataset)


def test_other_requests_that_leave_nothing_are_refused(runs):
    with pytest.raises(ValueError, match="level9"):
        correlation_figure(runs, "phantom", models=["level9"])
    with pytest.raises(ValueError, match="lambda 0"):
        scale_figure(runs[runs["lambda"] > 0], "phantom")
    with pytest.raises(ValueError, match="'kapa'"):
        curve_figure(runs, "phantom", "kapa")


CASES = {
    "one of everything": {"models": ["level2"], "lambdas": [0.0], "seeds": [0], "epochs": 1},
    "many models": {"models": MANY, "lambdas": [0.0, 50.0], "seeds": [0], "epochs": 3},
    "many lambdas": {"models": ["level1"], "lambdas": [-3.0, -2.0, -1.0, *range(12)], "seeds": [0, 1], "epochs": 2},
    "many seeds": {"models": ["resnet18"], "lambdas": [0.0], "seeds": range(40), "epochs": 2},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_unusual_frames_are_drawn_with_everything_inside_the_figure(case):
    for name, figure in every_figure(made_up_runs(**CASES[case])).items():
        assert pixels(figure).std() > 1
        inside = figure.get_tightbbox()  # inches
        width, height = figure.get_size_inches()
        assert inside.x0 > -0.02, name
        assert inside.y0 > -0.02, name
        assert inside.x1 < width + 0.02, name
        assert inside.y1 < height + 0.02, name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
@pytest.mark.slow
def test_frames_without_a_usable_number_are_drawn(runs, value):
    logged = [name for name in measures() if name in runs]
    for figure in every_figure(runs.assign(**dict.fromkeys(logged, value))).values():
        assert pixels(figure).std() > 1
    assert pixels(curve_figure(runs.assign(gaze_consistency=value), "phantom", "gaze_consistency")).std() > 1


def test_no_text_is_smaller_than_seven_points(runs):
    for figure in every_figure(runs).values():
        figure.canvas.draw()
        assert min(t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text()) >= 7


def thumbnails(runs: pd.DataFrame) -> dict[str, NDArray]:
    return {name: pixels(figure, width=96) for name, figure in every_figure(runs).items()}


def golden_distances(drawn: dict[str, NDArray]) -> dict[str, float]:
    """Mean absolute difference from each golden thumbnail, at the golden one's size."""
    distances = {}
    for name, thumbnail in drawn.items():
        golden = Image.open(GOLDEN / f"{name}.png")
        fitted = Image.fromarray(thumbnail.astype(np.uint8)).resize(golden.size)
        distances[name] = float(np.abs(np.asarray(golden, float) - np.asarray(fitted, float)).mean())
    return distances


@same_text
def test_figures_look_like_their_golden_thumbnails(runs):
    drawn = thumbnails(runs)
    if os.environ.get("GAZE_RENEW_GOLDEN") == "1":
        GOLDEN.mkdir(parents=True, exist_ok=True)
        for name, thumbnail in drawn.items():
            Image.fromarray(thumbnail.astype(np.uint8)).save(GOLDEN / f"{name}.png")
    assert max(golden_distances(drawn).values()) < TOLERANCE
    assert {path.stem for path in GOLDEN.iterdir()} == drawn.keys()


@same_text
@pytest.mark.slow
def test_golden_thumbnails_survive_another_font(runs):
    with matplotlib.rc_context({"font.family": "DejaVu Serif"}):
        distances = golden_distances(thumbnails(runs))
    assert min(distances.values()) > 0.1  # the font did change
    assert max(distances.values()) < TOLERANCE


@pytest.mark.slow
def test_golden_thumbnails_notice_other_data():
    other = made_up_runs(models=LEVELS, lambdas=[0.0, 7.0], seeds=[0], epochs=30, noise=0.3)
    assert min(golden_distances(thumbnails(other)).values()) > TOLERANCE


# ---- chance, and what collapsed


def test_chance_is_the_accuracy_at_which_kappa_is_0():
    known = guessing((0.375, 0.625), [(0.5, 0.5), (0.3, 0.7), (0.0, 1.0)])
    assert chance(known, "accuracy") == pytest.approx([known["expected"].min(), known["expected"].max()])
    alike = made_up_runs(models=LEVELS, lambdas=(0, 50))  # accuracy is 0.25 + 0.75 kappa: four classes alike
    assert chance(alike, "accuracy") == pytest.approx([0.25])
    assert chance(alike, "kappa") == [0.0] and chance(alike, "gaze_eta_squared") == []
    assert chance(alike.assign(kappa=alike["accuracy"]), "accuracy") == []  # no kappa of its own
    assert chance(alike.assign(kappa=1.0, accuracy=1.0), "accuracy") == []


@pytest.mark.parametrize(("measure", "height"), [("accuracy", 0.25), ("kappa", 0.0), ("gaze_consistency_rms", None)])
def test_curves_have_the_line_of_chance(runs, measure, height):
    figure = curve_figure(runs, "phantom", measure)
    dotted = [[line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == ":"] for axis in figure.axes]
    flat = [[y[0] for line in axis.lines if len(set(y := list(line.get_ydata()))) == 1] for axis in figure.axes]
    assert flat == [[pytest.approx(height)] if height is not None else []] * 3 and not any(dotted)
    assert (CHANCE in [text.get_text() for text in figure.legends[0].get_texts()]) == (height is not None)


def test_the_gaze_of_runs_that_predict_one_class_is_not_drawn(runs):
    gone = runs.assign(kappa=runs["kappa"].mask((runs["model"] == "level2") | (runs["lambda"] == 50), 0.0))
    figure = curve_figure(gone, "phantom", "gaze_consistency_rms")
    drawn = [sum(bool(np.isfinite(line.get_ydata()).any()) for line in axis.lines) for axis in figure.axes]
    assert drawn == [3, 0, 3] and [text.get_text() for text in figure.axes[1].texts] == [NOT_COMPARED]
    kappa = curve_figure(gone, "phantom", "kappa")
    assert [len(axis.lines) for axis in kappa.axes] == [5, 5, 5]
    dots = sum(len(points.get_offsets()) for points in eta_figure(gone, "phantom").axes[0].collections)
    assert dots == 2 * 3 * (3 + 1)  # of two models three lambdas, three seeds and their mean
    assert NOT_COMPARED in [text.get_text() for text in scale_figure(gone.assign(kappa=0.0), "phantom").axes[0].texts]
