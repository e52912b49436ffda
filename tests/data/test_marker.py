"""gaze.data.marker: the marker goes with the class as often as asked, and is the same for an image always."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gaze.config.data import DatasetConfig, MarkerConfig
from gaze.config.train import check_config
from gaze.data.datamodule import GazeDataModule
from gaze.data.datasets import load_dataset
from gaze.data.marker import GLYPHS, draw_markers, group_names
from gaze.errors import ConfigError
from gaze.metrics.classification import GroupAccuracy

N, SIZE, CLASSES = 4000, 32, ("a", "b", "c", "d")


def drawn(part="train", images=None, names=None, **settings):
    images = torch.full((N, 1, SIZE, SIZE), 90, dtype=torch.uint8) if images is None else images
    targets = torch.arange(len(images)) % 4
    names = names or [f"{part}/{i}" for i in range(len(images))]
    masks = draw_markers(images, targets, names, CLASSES, MarkerConfig(**settings), part, 0)
    return images, targets, masks, masks.flatten(1).any(1)


@pytest.mark.parametrize(
    ("part", "settings", "share"),
    [
        ("train", {}, 0.95), ("train", {"agreement": 0.7}, 0.7), ("train", {"agreement": 1.0}, 1.0),
        ("validation", {}, 0.5), ("test", {}, 0.0), ("test", {"test": "balanced"}, 0.5),
    ],
)  # fmt: skip
def test_markers_agree_with_the_class_as_often_as_asked(part, settings, share):
    _, targets, _, present = drawn(part, **settings)
    for label in range(4):
        agrees = (present == (targets >= 2))[targets == label].double().mean()
        assert abs(agrees - share) <= 4 * np.sqrt(share * (1 - share) / (N / 4))


def test_none_of_the_test_images_and_only_the_classes_that_are_named():
    assert not drawn("test", test="none")[3].any()
    _, targets, _, present = drawn(classes=["b"], agreement=1.0)
    assert torch.equal(present, targets == 1)


@pytest.mark.parametrize("form", GLYPHS)
def test_a_marker_changes_its_box_alone_and_the_box_is_where_it_may_be(form):
    images, _, masks, present = drawn(form=form, size=0.25, jitter=0.1)
    changed = images != 90
    assert torch.equal(changed.flatten(1).any(1), present)
    assert torch.equal(changed, masks.bool())  # every pixel of it is black or white
    assert set(images[masks.bool()].unique().tolist()) == {0, 255}
    rows, columns = (masks.amax((0, 1, dim)).nonzero()[:, 0] for dim in (3, 2))
    assert max(rows.max() - rows.min(), columns.max() - columns.min()) + 1 == 8 + 3  # its longer side, and the jitter
    assert rows.min() == columns.min() == 0
    assert len({tuple(m.nonzero()[0].tolist()) for m in masks[present.bool()]}) == 4 * 4


def test_an_image_has_its_marker_whatever_others_are_there():
    ones = [drawn(names=[f"x{i}" for i in chosen], images=torch.zeros(len(chosen), 3, SIZE, SIZE, dtype=torch.uint8))
            for chosen in (range(40), range(4, 12))]  # fmt: skip
    assert torch.equal(ones[0][0][4:12], ones[1][0]) and ones[1][3].any()


def test_masked_fills_the_place_in_every_image_and_keeps_the_groups():
    noise = torch.randint(256, (200, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = noise.clone()
    images, _, masks, present = drawn(images=noise, masked=True, jitter=0.0)
    assert torch.equal(present, drawn(images=before.clone(), jitter=0.0)[3])
    place = masks.amax(0, keepdim=True).bool().expand_as(images)
    mean = before.float().mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(images)
    assert torch.equal(images, torch.where(place, mean, before))


def test_what_cannot_be_drawn_is_refused(composed):
    marked = ("dataset=phantom_shortcut",)
    for words, said in {
        ("dataset.marker.agreement=1.2",): r"dataset.marker.agreement=1.2 must be a number from 0 to 1",
        ("dataset.marker.size=1.5",): r"dataset.marker.size=1.5 must be a number above 0 to 1",
        ("dataset.marker.size=0.99",): r"dataset.marker.jitter=0.04 and dataset.marker.size are more than 1 together",
        ("dataset.marker.size=0.05",): r"dataset.marker=.* is 2 pixels long: 4 or more",
        ("dataset.marker.test=all",): r"dataset.marker.test=all is unknown: opposite, none or balanced",
        ("dataset.marker=null", "dataset.sampler=group"): r"dataset.marker=null leaves dataset.sampler=group without",
        ("dataset.validation=test", "dfr=true"): r"dfr=true retrains the last layer on held-out images",
    }.items():
        with pytest.raises(ConfigError, match=said):
            check_config(composed(*marked, *words))
    with pytest.raises(ConfigError, match=r"dataset.marker.classes=A is unknown: a, b, c or d"):
        drawn(classes=["A"])
    with pytest.raises(ConfigError, match="names all classes"):
        drawn(classes=list("abcd"))


def test_any_data_set_takes_a_marker_on_the_command_line(composed):
    config = check_config(composed("dataset=breast_ultrasound", "++dataset.marker={classes: [malignant]}"))
    assert config.dataset.marker == MarkerConfig(classes=["malignant"])


@pytest.fixture(scope="module")
def phantom():
    marked = DatasetConfig(
        name="phantom_shortcut", image_size=32, train_images=120, test_images=24, validation=0.3, cache="off",
        marker=MarkerConfig(), sampler="group", batch_size=16,
    )  # fmt: skip
    return marked, load_dataset(marked)


def test_groups_of_a_loaded_set_and_batches(phantom):
    config, data = phantom
    plain = load_dataset(config.model_copy(update={"marker": None, "sampler": "shuffle"}))
    for split, own in ((data.train, plain.train), (data.evaluated, plain.evaluated), (data.test, plain.test)):
        assert own.markers is None and split.paths == own.paths
        assert torch.equal((split.images != own.images) & ~split.markers.bool(), torch.zeros_like(own.images).bool())
        assert torch.equal(split.marker_groups, 2 * split.targets + split.markers.flatten(1).any(1))
    assert set(data.test.marker_groups.tolist()) == {1, 3, 4, 6}  # each class without its marker, or with the wrong one
    module = GazeDataModule(config, data=replace(data), seed=0)
    training = next(iter(module.train_dataloader()))
    assert module.prepare(training, training=True).marker is None
    batch = module.evaluation_batch([0, 5])
    assert torch.equal(batch.marker, data.evaluated.markers[[0, 5]].float())


def test_the_group_sampler_draws_each_group_alike(phantom):
    config, data = phantom
    order = GazeDataModule(config, data=data, seed=0).train_dataloader().sampler
    drawn = torch.cat([data.train.marker_groups[list(order)] for _ in range(200)])
    share = drawn.bincount(minlength=8) / len(drawn)
    there = data.train.marker_groups.unique()
    torch.testing.assert_close(share[there], torch.full((len(there),), 1 / len(there)), atol=0.01, rtol=0)
    assert order.epoch == 200


def test_group_accuracy_against_a_literal_loop():
    rng = torch.Generator().manual_seed(1)
    preds, target, marked = (torch.randint(k, (300,), generator=rng) for k in (3, 3, 2))
    marked[target == 2] = 1
    target[:20] = -1  # padding
    metric = GroupAccuracy(3)
    for part in torch.arange(300).split(64):
        metric.update(preds[part], target[part], marked[part])
    expected = [
        (preds == c)[(target == c) & (marked == m)].float().mean() for c in range(3) for m in (0, 1)
    ]  # fmt: skip
    torch.testing.assert_close(metric.compute(), torch.stack(expected), equal_nan=True)
    assert metric.compute()[4].isnan() and group_names("ab")[2:] == ["b without marker", "b with marker"]
