"""Figures hold what they should: every class, every image, and a mark where a CAM is empty."""

import numpy as np
import pytest
import torch

from gaze.report.pictures import RIGHT, WRONG, class_gaze_figure, figure_pixels, overlay_figure

NAMES = ["cat", "dog", "owl"]


def titles(figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes]


def overlays(cams=None, channels=1, preds=(0, 2)):
    images = torch.linspace(-1, 1, 2 * channels * 64).reshape(2, channels, 8, 8)
    cams = torch.rand(2, 3, 3) if cams is None else cams
    return overlay_figure(images, cams, preds, [0, 1], NAMES, "epoch 3")


def test_class_gaze_shows_every_class_with_its_count_and_one_colour_bar():
    figure = class_gaze_figure(torch.rand(3, 5, 5), [4, 0, 7], NAMES, "mean gaze")
    assert titles(figure)[:3] == ["cat\n4 correct", "dog\n0 correct", "owl\n7 correct"]
    assert len(figure.axes) == 3 + 1
    assert figure.get_suptitle() == "mean gaze"


LONG = ["tumour of the pituitary gland", "no tumour at all", "meningioma", "glioma", "metastasis, of a cancer"]


@pytest.mark.parametrize("kind", ["class gaze", "overlays"])
@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_titles_can_be_read_where_a_picture_is_as_wide_as_in_tensorboard(kind, count):
    """Each on the picture, none over another, and 7 pixels high in 330 pixels of width."""
    title = "HiResCAM for the true class: epoch 20, kappa 0.123, gaze consistency 0.0412"
    if kind == "class gaze":
        figure = class_gaze_figure(torch.rand(count, 5, 5), range(count), LONG[:count], title)
    else:
        cams, true = torch.rand(count, 3, 3), list(range(count))
        figure = overlay_figure(torch.zeros(count, 1, 8, 8), cams, [0] * count, true, LONG, title)
    figure_pixels(figure, dpi=100)
    whole = figure.bbox
    texts = [axis.title for axis in figure.axes if axis.get_title()] + [figure._suptitle]
    boxes = [text.get_window_extent() for text in texts]
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and box.y1 <= whole.y1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert min(text.get_fontsize() for text in texts) / 72 * 330 / figure.get_figwidth() >= 7


def test_a_class_without_a_correct_image_is_hatched():
    patches = [len(axis.patches) for axis in class_gaze_figure(torch.rand(3, 5, 5), [4, 0, 7], NAMES, "").axes[:3]]
    assert patches == [0, 1, 0]


def test_class_gaze_has_one_scale_for_all_classes():
    maps = torch.stack([torch.full((4, 4), 0.1), torch.full((4, 4), 0.9)])
    images = [axis.images[0] for axis in class_gaze_figure(maps, [1, 1], NAMES[:2], "").axes[:2]]
    assert [image.get_clim() for image in images] == [(0, 1), (0, 1)]
    np.testing.assert_array_equal(images[1].get_array(), maps[1])


def test_class_gaze_refuses_counts_that_do_not_match():
    with pytest.raises(ValueError, match="shorter"):
        class_gaze_figure(torch.rand(3, 2, 2), [1, 2], NAMES, "")


def test_overlays_name_truth_above_and_prediction_below():
    figure = overlays()
    assert titles(figure) == ["true: cat", "true: dog", "right: cat", "wrong: owl"]
    assert [axis.title.get_color() for axis in figure.axes[2:]] == [RIGHT, WRONG]


def test_overlays_lay_the_enlarged_map_over_the_image():
    figure = overlays()
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 2, 2]
    assert figure.axes[2].images[1].get_array().shape == (8, 8)


def test_zero_cam_is_marked_and_only_that():
    cams = torch.stack([torch.zeros(3, 3), torch.ones(3, 3)])
    assert ["CAM is zero" in title for title in titles(overlays(cams))] == [False, False, True, False]


def test_colour_images_keep_their_colours():
    shown = overlays(channels=3).axes[0].images[0].get_array()
    assert shown.shape == (8, 8, 3)
    assert (shown.min(), shown.max() < 1) == (0, True)
    assert not np.array_equal(shown[..., 0], shown[..., 2])


def test_single_image_has_a_figure_too():
    figure = overlay_figure(torch.zeros(1, 1, 8, 8), torch.ones(1, 2, 2), [0], [0], NAMES, "")
    assert len(figure.axes) == 2


def test_half_precision_maps_are_drawn():
    assert len(overlays(torch.rand(2, 3, 3).bfloat16()).axes) == 4


def test_pixels_have_three_channels_and_grow_with_dpi():
    figure = overlays()
    width, height = figure.get_size_inches() * 50
    pixels = figure_pixels(figure, dpi=50)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (pytest.approx(height, abs=1), pytest.approx(width, abs=1), 3)
    assert pixels.std() > 1


def test_pixels_are_a_copy_that_outlives_the_canvas():
    pixels = figure_pixels(overlays(), dpi=40)
    assert pixels.flags.owndata


def test_masks_are_outlined_where_there_is_something_to_outline():
    masks = torch.zeros(2, 1, 8, 8)
    masks[1, 0, 2:5, 2:5] = 1
    images = torch.zeros(2, 1, 8, 8)
    figure = overlay_figure(images, torch.rand(2, 3, 3), [0, 1], [0, 1], NAMES, "", masks)
    assert [len(axis.collections) for axis in figure.axes] == [0, 1, 0, 1]
