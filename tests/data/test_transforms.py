"""gaze.data.augment: each single augmentation does what its config says, to each image by itself, and masks follow."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import kstest

from gaze.config.augmentation import AugmentationConfig
from gaze.config.data import DatasetConfig
from gaze.config.train import check_config
from gaze.data.augment import mix, transform
from gaze.data.datamodule import Batch, GazeDataModule
from gaze.errors import ConfigError

SIZE = 48
PHOTOMETRIC = {"brightness": 0.3, "contrast": 0.3, "gamma": [0.5, 2.0], "noise": 0.05, "blur": [0.02, 0.05]}
GEOMETRIC = {"rotation": 30.0, "translation": 0.2, "elastic": 0.5}


def config(**changes) -> AugmentationConfig:
    return AugmentationConfig(name="x", **changes)


def disc(count: int = 1, place: tuple[int, int] = (18, 30)) -> torch.Tensor:
    """Images in [-1, 1]: dark, a bright disc off the centre."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    inside = ((y - place[0]) ** 2 + (x - place[1]) ** 2 < 36).float()
    return (inside * 1.6 - 0.8).expand(count, 1, SIZE, SIZE).clone()


def grey(images: torch.Tensor) -> torch.Tensor:
    return (images + 1) / 2


def test_each_image_is_changed_by_itself_and_by_the_seed_alone():
    for name, value in [*PHOTOMETRIC.items(), *GEOMETRIC.items(), ("erasing", 1.0)]:
        images, settings = disc(6), config(**{name: value})
        assert list(settings.on("image")) == [name] and not settings.on("frame")
        torch.manual_seed(1)
        first, masks = transform(images, None, settings)
        torch.manual_seed(1)
        again, _ = transform(images, None, settings)
        assert masks is None and torch.equal(first, again)
        assert first.shape == images.shape and first.dtype == images.dtype
        assert first.min() >= -1 and first.max() <= 1
        assert len({tuple(image.flatten().tolist()) for image in first}) == 6
        assert torch.equal(images, disc(6))  # the batch that came in stays as it is


def test_masks_follow_the_image():
    for name, value in GEOMETRIC.items():
        torch.manual_seed(0)
        images = disc(16)
        masks = (images > 0).float()
        moved, moved_masks = transform(images, masks, config(**{name: value}))
        assert set(moved_masks.unique().tolist()) == {0.0, 1.0}
        centre = [ndimage.center_of_mass(m.numpy()) for m in moved_masks[:, 0]]
        bright = [ndimage.center_of_mass((i.numpy() > 0).astype(float)) for i in moved[:, 0]]
        np.testing.assert_allclose(centre, bright, atol=0.6)
        assert np.ptp([c[0] for c in centre]) > 1  # they did move


def test_masks_stay_where_only_grey_values_change():
    for name in [*PHOTOMETRIC, "erasing"]:
        images = disc(4)
        masks = (images > 0).float()
        assert torch.equal(transform(images, masks, config(**{name: PHOTOMETRIC.get(name, 1.0)}))[1], masks)


def test_rotation_is_uniform_within_its_degrees():
    torch.manual_seed(0)
    moved, _ = transform(disc(300), None, config(rotation=30.0))
    centre = (SIZE - 1) / 2
    angles = []
    for image in grey(moved)[:, 0].numpy():
        y, x = ndimage.center_of_mass(image > 0.5)
        angles.append(math.degrees(math.atan2(18 - centre, 30 - centre) - math.atan2(y - centre, x - centre)))
    assert kstest(angles, "uniform", (-30, 60)).pvalue > 0.01
    assert kstest(angles, "uniform", (-20, 40)).pvalue < 1e-3


def test_translation_is_uniform_within_its_share():
    torch.manual_seed(0)
    moved, _ = transform(disc(300, (24, 24)), None, config(translation=0.2))
    places = np.array([ndimage.center_of_mass(i > 0.5) for i in grey(moved)[:, 0].numpy()])
    for axis in (0, 1):
        assert kstest(places[:, axis] - 24, "uniform", (-9.6, 19.2)).statistic < 0.1
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.2


def test_brightness_multiplies_and_gamma_is_a_power():
    flat = torch.zeros(200, 1, 4, 4)  # grey 0.5
    torch.manual_seed(0)
    factors = grey(transform(flat, None, config(brightness=0.3))[0])[:, 0, 0, 0] / 0.5
    assert kstest(factors.numpy(), "uniform", (0.7, 0.6)).pvalue > 0.01
    powers = grey(transform(flat, None, config(gamma=[0.5, 2.0]))[0])[:, 0, 0, 0].log() / math.log(0.5)
    assert kstest(powers.log().numpy(), "uniform", (math.log(0.5), 2 * math.log(2))).pvalue > 0.01


def test_contrast_keeps_the_mean_and_scales_the_spread():
    torch.manual_seed(0)
    images = torch.rand(50, 1, 16, 16) * 0.8 - 0.4
    moved, _ = transform(images, None, config(contrast=0.3))
    factors = moved.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.7 <= factors.min() < 0.8 and 1.2 < factors.max() <= 1.3 + 1e-4
    torch.testing.assert_close(moved.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-3, rtol=0)


def test_noise_has_its_deviation_and_blur_its_width():
    torch.manual_seed(0)
    noisy, _ = transform(torch.zeros(4, 1, 64, 64), None, config(noise=0.05))
    assert grey(noisy).std().item() == pytest.approx(0.05, rel=0.05)
    point = torch.full((1, 1, 63, 63), -1.0)
    point[0, 0, 31, 31] = 1.0
    blurred, _ = transform(point, None, config(blur=[0.04, 0.04]))
    expected = ndimage.gaussian_filter(grey(point)[0, 0].double().numpy(), 0.04 * 63, truncate=6)
    np.testing.assert_allclose(grey(blurred)[0, 0].numpy(), expected, atol=2e-4)


def test_erasing_takes_2_to_20_percent_in_its_share_of_images():
    torch.manual_seed(0)
    moved, _ = transform(torch.ones(200, 1, 50, 50), None, config(erasing=0.5))
    erased = (moved < 0).float().mean((1, 2, 3))
    hit = erased[erased > 0]
    assert 75 < len(hit) < 125
    assert 0.01 < hit.min() < 0.04 and 0.16 < hit.max() < 0.21


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_labels_say_what_was_mixed(kind):
    torch.manual_seed(0)
    images, target = torch.stack([torch.full((1, 32, 32), float(i)) for i in range(4)]), torch.arange(4)
    mixed, labels = mix(images, target, 4, config(**{kind: 1.0}))
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    # Image i is i everywhere, so the mean of a mixed one is what its label says.
    torch.testing.assert_close(mixed.mean((1, 2, 3)), labels @ torch.arange(4.0), atol=1e-4, rtol=0)
    assert (labels > 0).sum(1).tolist() == [2] * 4


def test_the_datamodule_mixes_training_batches_only(composed):
    from gaze.data.datasets import load_dataset

    dataset = DatasetConfig(image_size=32, train_images=16, test_images=8, batch_size=8)
    data = GazeDataModule(dataset, config(mixup=0.5, rotation=10.0), data=load_dataset(dataset))
    raw = next(iter(data.train_dataloader()))
    batch, plain = data.prepare(raw, training=True), data.prepare(raw, training=False)
    assert isinstance(batch, Batch) and batch.mixed.shape == (8, 4) and batch.mask is None
    assert plain.mixed is None and plain.mask is not None
    assert torch.equal(batch.target, raw.target)


def test_a_run_trains_on_mixed_labels(tiny, tmp_path):
    from gaze.training.train import run_training

    row = run_training(tiny("augmentation=cutmix", "trainer.max_epochs=1"), tmp_path)
    assert 0 < row["train/loss"] < 3


def test_a_mixed_image_has_no_gaze_of_one_class(composed):
    for name in ["mixup", "cutmix"]:
        with pytest.raises(ConfigError, match=f"lambda=50 with augmentation={name}"):
            check_config(composed(f"augmentation={name}", "lambda=50"))


def test_strengths_out_of_range_are_refused(composed):
    for setting, words in [
        ("rotation=-1", "must be 1e-06 .. 180, or 0 (off)"),
        ("rotation=400", "180, or 0 (off): turned by up to X degrees to either side."),
        ("erasing=2", "1e-06 .. 1, or 0 (off): a rectangle erased"),
        ("gamma=[2,1]", "1e-06 <= low <= high <= 100000, or [1.0, 1.0] (off)"),
        ("blur=[0.5,0.6]", "<= 0.2"),
        ("noise=-1", "1e-06 .. 100000, or 0 (off)"),
        ("noise=true", "noise with an SD of X"),
        ("rotatoin=3", "Did you mean rotation?"),
    ]:
        with pytest.raises(ConfigError) as error:
            check_config(composed(f"+augmentation.{setting}"))
        assert f"augmentation.{setting.partition('=')[0]}=" in str(error.value) and words in str(error.value)
