"""Figures of the augmentation study: what is drawn is what was put in, read back off the axes."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from made_up import (
    made_up_compared,
    made_up_distances,
    made_up_images,
    made_up_profile,
    made_up_questions,
)
from matplotlib.figure import Figure

from gaze.statistics.permutation import arms_table, effect
from gaze.studies.augmentation.compared import PAIR_COLUMNS, SHAPE_COLUMNS
from gaze.studies.augmentation.moved_plots import moved_figure, where_figure
from gaze.studies.augmentation.profile_plots import (
    BETWEEN,
    CHANGE_COLOURS,
    CLIP,
    GROUPS,
    METRIC_NAMES,
    WITHIN,
    gain_figure,
    noise_figure,
    profile_figure,
    short_name,
)

LONG = "an_augmentation_with_a_name_that_no_figure_has_room_for_however_wide"


@pytest.fixture(scope="module")
def c():
    return made_up_compared()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def assert_inside(figure: Figure) -> None:
    """Every text lies within the figure; tick labels are left out: those beyond an axis are kept, and not drawn."""
    figure.set_dpi(72)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    ticks = {t for a in figure.axes for axis in (a.xaxis, a.yaxis) for t in axis.get_ticklabels(which="both")}
    for text in set(figure.findobj(matplotlib.text.Text)) - ticks:
        if text.get_text() and not (text.axes and not text.axes.axison):
            box = text.get_window_extent()
            assert box.x0 >= -2 and box.y0 >= -2 and box.x1 <= width + 2 and box.y1 <= height + 2, text.get_text()


# ---- names


def test_every_metric_has_a_name_a_direction_and_one_group():
    grouped = [metric for group in GROUPS.values() for metric in group]
    assert grouped == list(METRIC_NAMES)
    assert set(PAIR_COLUMNS) == set(next(iter(GROUPS.values())))
    assert set(SHAPE_COLUMNS) < set(METRIC_NAMES)
    assert all(way.startswith(("lower = ", "higher = ")) for _, way in METRIC_NAMES.values())
    assert len({name for name, _ in METRIC_NAMES.values()}) == len(METRIC_NAMES)


def test_short_names():
    assert short_name("hflip") == "hflip"
    assert short_name("scale_crop_strong", 12) == "scale_crop_\nstrong"
    assert short_name("two words", 5) == "two\nwords"
    lines = short_name(LONG, 20).split("\n")
    assert len(lines) == 2 and max(map(len, lines)) <= 20 and lines[1].endswith("…")
    assert len(short_name("x" * 90, 20, 1)) <= 20


# ---- profile


def cells(figure: Figure) -> dict[tuple[float, float], matplotlib.text.Text]:
    return {
        text.get_position(): text for text in figure.axes[0].texts if text.get_text() and "retrain" not in str(text)
    }


def z_of(figure: Figure) -> np.ndarray:
    return np.concatenate([np.ma.filled(image.get_array(), np.nan) for image in figure.axes[0].images], axis=1)


def test_profile_has_each_z_in_its_cell_in_the_order_of_the_metrics(c):
    profile = made_up_profile(c, list(METRIC_NAMES)[::-1])
    figure = profile_figure(profile)
    wide = profile.pivot(index="arm", columns="metric", values="z").loc[list(c.arms), list(METRIC_NAMES)]
    np.testing.assert_allclose(z_of(figure), wide)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == [name for name, _ in METRIC_NAMES.values()]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(c.arms)
    shown = cells(figure)
    for y in range(2):
        for x, z in zip(axis.get_xticks(), wide.iloc[y], strict=True):
            assert float(shown[x, y].get_text()) == pytest.approx(z, abs=0.051)
    lefts = [image.get_extent()[0] for image in axis.images]
    assert lefts == [axis.get_xticks()[place] - 0.5 for place in (0, 13, 20, 22)]


def test_profile_is_red_above_and_blue_below_and_clipped(c):
    figure = profile_figure(made_up_profile(c, list(METRIC_NAMES)))
    assert {image.get_clim() for image in figure.axes[0].images} == {(-CLIP, CLIP)}
    assert {image.get_cmap().name for image in figure.axes[0].images} == {CHANGE_COLOURS.name}
    red, blue = CHANGE_COLOURS(1.0), CHANGE_COLOURS(0.0)
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0]
    assert min(CHANGE_COLOURS(0.5)[:3]) > 0.9
    assert "colours end at 4" in figure.axes[1].get_xlabel()
    assert figure.axes[1].get_xlim() == (-CLIP, CLIP)


def test_profile_frames_the_marked_cells_and_no_others(c):
    profile = made_up_profile(c, ["pearson", "mad", "gini", "accuracy"])
    figure = profile_figure(profile)
    framed = {(p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2) for p in figure.axes[0].patches}
    bold = {place for place, text in cells(figure).items() if text.get_fontweight() == "bold"}
    ticks = dict(zip(["pearson", "mad", "gini", "accuracy"], figure.axes[0].get_xticks(), strict=True))
    marked = profile[profile["marked"]]
    wanted = {(ticks[row.metric], list(c.arms).index(row.arm)) for row in marked.itertuples()}
    assert 0 < len(wanted) < len(profile)
    assert sorted(bold) == sorted(wanted)
    np.testing.assert_allclose(sorted(framed), sorted(wanted))
    assert all(not patch.get_fill() for patch in figure.axes[0].patches)


def test_profile_greys_what_has_no_test_no_value_or_no_row(c):
    profile = made_up_profile(c, ["pearson", "mad", "gini"])
    profile.loc[0, "underpowered"] = True
    profile.loc[1, "z"] = np.nan
    profile.loc[2, ["z", "marked"]] = [np.nan, True]
    figure = profile_figure(profile.drop(index=5))
    assert np.isnan(z_of(figure)).tolist() == [[True, True, True], [False, False, True]]
    dashes = [text for text in cells(figure).values() if text.get_text() == "–"]  # noqa: RUF001
    assert len(dashes) == 4
    assert len(figure.axes[0].patches) == int(profile.loc[3:4, "marked"].sum())
    image = figure.axes[0].images[0]
    grey = image.to_rgba(image.get_array())[0, 0]
    assert grey[0] == grey[1] == grey[2] < 0.95
    assert "too few seeds to test" in " ".join(figure.axes[1].get_xlabel().split())


def test_profile_numbers_fit_their_cells(c):
    for z, text in ((0.04, "0.0"), (-0.04, "0.0"), (12.34, "+12.3"), (-250.0, "-250"), (4e4, "> 999")):
        figure = profile_figure(made_up_profile(c, ["mad"]).assign(z=z))
        assert [t.get_text() for t in cells(figure).values()] == [text] * 2


def test_profile_says_what_it_cannot_draw(c):
    with pytest.raises(ValueError, match="No arm"):
        profile_figure(made_up_profile(c, ["mad"])[:0])
    with pytest.raises(ValueError, match="Unknown metric 'glance'"):
        profile_figure(made_up_profile(c, ["mad", "glance"]))


# ---- noise


def strips(figure: Figure) -> list[np.ndarray]:
    return [line.get_xdata() for line in figure.axes[0].lines]


def test_noise_draws_every_pair_of_runs_once(c):
    distances = made_up_distances(c)
    table = arms_table(distances, list(c.runs["arm"]), c.baseline)
    figure = noise_figure(c, table, distances)
    assert [len(strip) for strip in strips(figure)] == [6, 3, 12, 6, 3, 12]
    labels = c.runs["arm"].to_numpy()
    for k, arm in enumerate(c.arms):
        for strip, pair in zip(strips(figure)[3 * k :], (("none", "none"), (arm, arm), ("none", arm)), strict=False):
            own = [distances[i, j] for i in range(10) for j in range(i + 1, 10) if (labels[i], labels[j]) == pair]
            np.testing.assert_allclose(np.sort(strip), np.sort(own))
    assert [line.get_color() for line in figure.axes[0].lines][1:3] == [WITHIN, BETWEEN]
    heights = [np.mean(line.get_ydata()) for line in figure.axes[0].lines]
    assert heights == sorted(heights) and all(abs(h - k // 3) < 0.4 for k, h in enumerate(heights))


def test_noise_arrow_is_the_effect_and_the_verdict_stands_beside(c):
    distances = made_up_distances(c)
    labels = list(c.runs["arm"])
    table = arms_table(distances, labels, c.baseline)
    figure = noise_figure(c, table, distances)
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None) is not None]
    for arm, arrow in zip(c.arms, arrows, strict=True):
        assert arrow.xy[0] - arrow.xyann[0] == pytest.approx(effect(distances, labels, c.baseline, arm))
    said = [text.get_text() for text in figure.axes[0].texts if text not in arrows]
    assert table["verdict"].tolist() == ["underpowered"] * 2
    assert said == ["underpowered:\ntoo few seeds"] * 2
    strong = table.assign(verdict=["moved", "not shown"], p_holm=[0.0004, 0.25], effect=[0.3, -0.01])
    found = [t for t in noise_figure(c, strong, distances).axes[0].texts if t.get_text()]
    assert [t.get_text() for t in found] == ["moved (p < 0.001)\neffect +0.300", "not shown (p = 0.250)\neffect -0.010"]
    assert [t.get_fontweight() for t in found] == ["bold", "normal"]


def test_noise_of_an_arm_with_one_run_has_no_arrow():
    c = made_up_compared({"none": 3, LONG: 1})
    distances = made_up_distances(c)
    table = arms_table(distances, list(c.runs["arm"]), c.baseline)
    figure = noise_figure(c, table, distances)
    assert [len(strip) for strip in strips(figure)] == [3, 0, 3]
    assert [text.get_text() for text in figure.axes[0].texts] == ["underpowered:\ntoo few seeds"]
    assert_inside(figure)


def test_noise_says_what_it_cannot_draw(c):
    table = arms_table(made_up_distances(c), list(c.runs["arm"]), c.baseline)
    with pytest.raises(ValueError, match="of 10 runs"):
        noise_figure(c, table, np.zeros((3, 3)))
    with pytest.raises(ValueError, match="No arm"):
        noise_figure(c, table[:0], made_up_distances(c))


# ---- gain


def test_gain_draws_each_image_and_says_the_correlation(c):
    images, questions = made_up_images(c), made_up_questions(c)
    figure = gain_figure(images, questions)
    for arm, axis in zip(c.arms, figure.axes, strict=True):
        own = images[images["arm"] == arm].dropna()[["excess_distance", "delta_log_p"]].to_numpy()
        inside, rim = (np.asarray(cloud.get_offsets()) for cloud in axis.collections)
        low, high = np.array([axis.get_xlim(), axis.get_ylim()]).T
        assert len(inside) + len(rim) == len(own) == 23
        clipped = np.clip(own, low, high)
        both = np.concatenate([inside, rim])
        np.testing.assert_allclose(both[np.lexsort(both.T)], clipped[np.lexsort(clipped.T)])
    assert [axis.get_title() for axis in figure.axes] == [
        "blur\nSpearman 0.05 [0.03, 0.07]\n0.05 given difficulty",
        "mixup\nSpearman -0.05 [-0.07, -0.03]\n-0.05 given difficulty",
    ]
    assert {axis.get_ylim() for axis in figure.axes} == {figure.axes[0].get_ylim()}


def test_gain_puts_outliers_at_the_rim():
    images = pd.DataFrame({"arm": "blur", "excess_distance": np.linspace(0, 1, 400), "delta_log_p": 0.1})
    images.loc[7, "delta_log_p"] = -30.0
    axis = gain_figure(images, made_up_questions(made_up_compared())).axes[0]
    assert axis.get_ylim()[0] > -2
    rim = np.asarray(axis.collections[1].get_offsets())
    assert [axis.get_ylim()[0]] == [y for x, y in rim if x == images["excess_distance"][7]]


def test_gain_without_distances_or_correlation_says_so(c):
    images = made_up_images(c)
    images.loc[images["arm"] == "blur", "excess_distance"] = np.nan
    questions = made_up_questions(c)
    questions.loc[questions["question"] == 3, ["change", "ci_low", "ci_high"]] = np.nan
    figure = gain_figure(images, questions[questions["arm"] == "mixup"])
    assert [axis.get_title() for axis in figure.axes] == ["blur\nnot evaluated", "mixup\nnot evaluated"]
    assert "no image with" in figure.axes[0].texts[0].get_text()
    gain_figure(images.assign(excess_distance=np.nan), questions)
    with pytest.raises(ValueError, match="No image"):
        gain_figure(images[:0], questions)


# ---- where


def tiles(figure: Figure, axis: int, rows: int, columns: int) -> np.ndarray:
    """(rows, columns, H, W)."""
    data = np.ma.filled(figure.axes[axis].images[0].get_array(), np.nan)
    return data.reshape(rows, data.shape[0] // rows, columns, -1).transpose(0, 2, 1, 3)


def class_means(c, runs) -> np.ndarray:
    """(K, H, W), by plain loops."""
    means = []
    for k in range(len(c.classes)):
        per_run = [
            np.mean([c.cams[r, i] for i in np.flatnonzero(c.target == k) if c.valid[r, i]], axis=0) for r in runs
        ]
        means.append(np.mean(per_run, axis=0))
    return np.array(means)


def test_where_shows_class_means_and_their_change_from_the_baseline(c):
    figure = where_figure(c, list(c.arms))
    maps = {arm: class_means(c, c.rows(arm)) for arm in ("none", *c.arms)}
    shown, change = tiles(figure, 0, 3, 3), tiles(figure, 1, 3, 3)
    for row, arm in enumerate(maps):
        np.testing.assert_allclose(shown[row, 1:], maps[arm], atol=1e-6)
        np.testing.assert_allclose(shown[row, 0], maps[arm].mean(0), atol=1e-6)
        if row:
            np.testing.assert_allclose(change[row, 1:], maps[arm] - maps["none"], atol=1e-6)
            np.testing.assert_allclose(change[row, 0], (maps[arm] - maps["none"]).mean(0), atol=1e-6)
    halves = class_means(c, [0, 2]) - class_means(c, [1, 3])
    np.testing.assert_allclose(change[0, 1:], halves, atol=1e-6)
    low, high = figure.axes[1].images[0].get_clim()
    assert -low == high == pytest.approx(np.abs(change).max())
    assert figure.axes[1].images[0].get_cmap().name == CHANGE_COLOURS.name
    assert figure.axes[0].images[0].get_clim() == (0, pytest.approx(shown.max()))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["none\n(4 runs)", "blur\n(3 runs)", "mixup\n(3 runs)"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["all\nclasses", "class 0", "class 1"]


def test_where_does_not_blow_up_noise(c):
    still = c._replace(cams=np.broadcast_to(c.cams[1:2], c.cams.shape), valid=np.ones_like(c.valid))
    assert where_figure(still, ["blur"]).axes[1].images[0].get_clim() == (-0.05, 0.05)


def test_where_leaves_out_a_class_without_maps_and_columns_of_many_classes():
    c = made_up_compared({"none": 2, "blur": 1}, classes=2, images=8)
    blind = c._replace(valid=c.valid & (c.target == 0))
    shown = tiles(where_figure(blind, ["blur"]), 0, 2, 3)
    assert np.isnan(shown[:, 2]).all() and np.isfinite(shown[:, :2]).all()
    np.testing.assert_allclose(shown[:, 0], shown[:, 1])
    many = made_up_compared({"none": 2, "blur": 1}, classes=7, images=14)
    assert tiles(where_figure(many, ["blur"]), 0, 2, 1).shape == (2, 1, 6, 6)
    alone = made_up_compared({"none": 1, "blur": 1})
    assert np.isnan(tiles(where_figure(alone, ["blur"]), 1, 2, 3)[0]).all()  # one run has no other half
    with pytest.raises(ValueError, match="No run of arm 'none_such'"):
        where_figure(c, ["none_such"])


# ---- moved


def moved(c, images=None, most=2, colour=False, masks=True) -> tuple[Figure, np.ndarray]:
    """The figure of "blur", whose picture i is grey i / N, and its panels (3, columns)."""
    shape = (len(c.place), 12, 12, *([3] if colour else []))
    pictures = np.broadcast_to(np.arange(len(c.place)).reshape(-1, *[1] * (len(shape) - 1)) / len(c.place), shape)
    outlines = np.zeros(shape[:3])
    outlines[::2, 3:7, 4:9] = 1
    figure = moved_figure(
        c, made_up_images(c) if images is None else images, "blur", pictures, outlines if masks else None, most
    )
    panels = np.array([axis for axis in figure.axes if axis.images and axis.get_label() != "<colorbar>"])
    return figure, panels.reshape(3, -1)


@pytest.mark.parametrize("colour", [False, True])
def test_moved_puts_the_right_images_in_order(c, colour):
    _, panels = moved(c, colour=colour)
    own = made_up_images(c).query("arm == 'blur'").dropna().sort_values("excess_distance")
    wanted = own.iloc[[-1, -2, 0, 1]]
    for column, row in zip(panels.T, wanted.itertuples(), strict=True):
        i = int(np.flatnonzero(c.place == row.place)[0])
        assert all(np.allclose(axis.images[0].get_array(), i / 24) for axis in column)
        assert len(column[0].images) == 1
        for axis, arm in zip(column[1:], ("none", "blur"), strict=True):
            rows = [r for r in c.rows(arm) if c.valid[r, i]]
            np.testing.assert_allclose(axis.images[1].get_array(), c.cams[rows, i].mean(0), atol=1e-6)
            assert axis.images[1].get_clim() == (0, 1)
            assert axis.images[1].get_extent() == [-0.5, 11.5, 11.5, -0.5]
        said = column[2].get_xlabel().split("\n")
        assert said == [
            c.classes[c.target[i]],
            f"excess {row.excess_distance:+.3f}",
            f"change of log p {row.delta_log_p:+.2f}",
            f"image {row.place}",
        ]
        assert [len(axis.collections) for axis in column] == [1 - i % 2] * 3  # images of odd number have no mask
    assert [axis.get_title(loc="left") for axis in panels[0]] == ["moved most", "", "moved least", ""]
    assert [axis.get_ylabel() for axis in panels[:, 0]] == ["image", "none\n(4 runs)", "blur\n(3 runs)"]


def test_moved_leaves_out_invalid_maps_and_images_without_distance(c):
    images = made_up_images(c)
    images.loc[images["place"] == c.place[0], "excess_distance"] = 9.0  # no gaze in the first run of each arm
    figure, panels = moved(c, images, most=1)
    rows = c.rows("none")[1:]
    np.testing.assert_allclose(panels[1, 0].images[1].get_array(), c.cams[rows, 0].mean(0), atol=1e-6)
    assert f"image {c.place[1]}" not in "\n".join(texts(figure))
    blind = c._replace(valid=c.valid & (c.runs["arm"] != "blur").to_numpy()[:, None])
    assert [len(axis.images) for axis in moved(blind, images, most=1)[1][:, 0]] == [1, 2, 1]
    assert "no gaze" in texts(moved(blind, images, most=1)[0])


def test_moved_shows_no_image_twice(c):
    images = made_up_images(c)
    for n, columns in ((1, 1), (2, 2), (3, 3)):
        few = images[images["arm"] == "blur"].dropna()[:n]
        figure, panels = moved(c, few, most=2)
        assert panels.shape[1] == columns
        heads = [axis.get_title(loc="left") for axis in panels[0] if axis.get_title(loc="left")]
        assert heads == ["moved most", "moved least"][:columns]  # two images: one of each kind
        assert len({text for text in texts(figure) if "image " in text}) == columns
    figure = moved_figure(c, images.assign(excess_distance=np.nan), "blur", np.zeros((24, 8, 8)), None)
    assert "no image has an excess distance" in texts(figure)


def test_moved_without_masks_has_no_outline_and_checks_its_input(c):
    assert not any(axis.collections for axis in moved(c, masks=False)[1].flat)
    images = made_up_images(c)
    with pytest.raises(ValueError, match="each of 24 images"):
        moved_figure(c, images, "blur", np.zeros((3, 8, 8)), None)
    with pytest.raises(ValueError, match="each of 24 images"):
        moved_figure(c, images, "blur", np.zeros((24, 8, 8)), np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match="at least 1"):
        moved_figure(c, images, "blur", np.zeros((24, 8, 8)), None, most=0)


# ---- all of them


@pytest.mark.parametrize(
    ("arms", "classes"), [({"none": 2, LONG: 2}, 2), ({"none": 2, **{f"arm_{k}": 1 for k in range(14)}}, 6)]
)
@pytest.mark.slow
def test_figures_of_one_arm_and_of_many_fit_their_page(arms, classes):
    c = made_up_compared(arms, classes=classes, images=12)
    distances = made_up_distances(c)
    assert_inside(profile_figure(made_up_profile(c, list(METRIC_NAMES))))
    assert_inside(noise_figure(c, arms_table(distances, list(c.runs["arm"]), c.baseline), distances))
    assert_inside(gain_figure(made_up_images(c), made_up_questions(c)))
    figure = where_figure(c, list(c.arms))
    assert_inside(figure)
    assert tiles(figure, 0, len(arms), classes + 1).shape[:2] == (len(arms), classes + 1)
    if len(arms) == 2:
        assert_inside(moved_figure(c, made_up_images(c), LONG, np.zeros((12, 8, 8)), None, most=1))
