"""gaze.data.augment against torchvision's own flip and crop, and the distribution of its draws."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from gaze.config.augmentation import AugmentationConfig
from gaze.data.augment import random_affine, resize_crops, warp


def _frame(hflip: float, scale: list[float], ratio: list[float]) -> AugmentationConfig:
    return AugmentationConfig(name="x", hflip=hflip, crop_scale=scale, crop_ratio=ratio)


THESIS = _frame(0.5, [0.9, 1.0], [3 / 4, 4 / 3])
WIDE = _frame(0.0, [0.2, 0.6], [0.5, 2.0])
S = 224
DRAWS = 20_000


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _crop_matrix(top: int, left: int, height: int, width: int, size: int, flip: bool) -> torch.Tensor:
    """What random_affine has to return for a crop in pixels, from the pixels of its left, right, top and bottom."""
    x0, x1, y0, y1 = (2 * v / size - 1 for v in (left, left + width, top, top + height))
    if flip:
        x0, x1 = x1, x0
    return torch.tensor([[[(x1 - x0) / 2, 0, (x0 + x1) / 2], [0, (y1 - y0) / 2, (y0 + y1) / 2]]])


def _boxes(matrices: torch.Tensor, size: int = S) -> dict[str, torch.Tensor]:
    """Crops in pixels, back from their matrices."""
    m = matrices.double()
    width, height = m[:, 0, 0].abs() * size, m[:, 1, 1] * size
    left, top = (m[:, 0, 2] + 1) * size / 2 - width / 2, (m[:, 1, 2] + 1) * size / 2 - height / 2
    return {"width": width, "height": height, "left": left, "top": top, "flip": m[:, 0, 0] < 0}


# ---- the resampling


def test_warp_is_torchvisions_resized_crop():
    """Inside. Half a source pixel from the crop's edge torchvision repeats the crop's last pixel, where one
    resampling of the whole image sees its neighbour; half a source pixel is here below one of the output."""
    for top, left, height, width in [(0, 0, 32, 32), (3, 1, 28, 30), (5, 9, 17, 20)]:
        for flip in [False, True]:
            image = torch.rand(2, 3, 32, 32, generator=_generator())
            expected = tv.resized_crop(image, top, left, height, width, [32, 32])
            expected = tv.horizontal_flip(expected) if flip else expected
            got = warp(image, _crop_matrix(top, left, height, width, 32, flip).expand(2, -1, -1))
            inside = (..., slice(2, -2), slice(2, -2))
            torch.testing.assert_close(got[inside], expected[inside], rtol=0, atol=1e-5)
            assert (got - expected).abs().max() < 1.0 and got.shape == expected.shape
            if (height, width) == (32, 32):  # no edge inside the image
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_resized_crops_are_torchvisions():
    for top, left, height, width in [(0, 0, 32, 32), (3, 1, 28, 30), (5, 9, 17, 20), (0, 31, 32, 1)]:
        for flip in [False, True]:
            image = torch.rand(2, 3, 32, 32, generator=_generator())
            matrices = _crop_matrix(top, left, height, width, 32, flip).expand(2, -1, -1)
            for mode, method in (("bilinear", "bilinear"), ("nearest", "nearest-exact")):
                expected = tv.resized_crop(
                    image, top, left, height, width, [32, 32], tv.InterpolationMode(method), antialias=False
                )
                expected = tv.horizontal_flip(expected) if flip else expected
                torch.testing.assert_close(resize_crops(image, matrices, mode), expected, rtol=0, atol=1e-6)


def test_the_fast_way_of_a_cpu_is_the_plain_one():
    config = _frame(0.5, [0.5, 1.0], [0.75, 1.33])
    images = F.avg_pool2d(torch.rand(40, 2, 68, 68, generator=_generator()), 5, 1)  # smooth: an edge says little
    matrices = random_affine(40, (64, 64), config, _generator())
    fast, plain = resize_crops(images, matrices), warp(images, matrices)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(fast[inside], plain[inside], rtol=0, atol=2e-6)
    assert (fast - plain).abs().max() < 0.05
    masks = (images[:, :1] > 0.5).float()
    differing = (resize_crops(masks, matrices, "nearest") != warp(masks, matrices, "nearest")).float().mean()
    assert differing < 2e-3  # ties of rounding


@pytest.mark.parametrize("config", [THESIS, WIDE])
def test_a_drawn_matrix_is_a_crop_of_whole_pixels_inside_the_image(config):
    box = _boxes(random_affine(1000, (S, S), config, _generator()))
    for name in ("width", "height", "left", "top"):
        torch.testing.assert_close(box[name], box[name].round(), rtol=0, atol=1e-3)
    assert (box["left"] > -1e-3).all() and (box["left"] + box["width"] < S + 1e-3).all()
    assert (box["top"] > -1e-3).all() and (box["top"] + box["height"] < S + 1e-3).all()


def test_a_drawn_matrix_reproduces_torchvision_on_its_box():
    config = _frame(0.5, [0.3, 0.9], [0.75, 1.33])
    images = torch.rand(16, 1, 32, 32, generator=_generator())
    matrices = random_affine(16, (32, 32), config, _generator(1))
    warped, box = warp(images, matrices), _boxes(matrices, 32)
    for i in range(16):
        top, left, height, width = (int(box[k][i].round()) for k in ("top", "left", "height", "width"))
        expected = tv.resized_crop(images[i], top, left, height, width, [32, 32])
        expected = tv.horizontal_flip(expected) if box["flip"][i] else expected
        torch.testing.assert_close(warped[i, :, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], rtol=0, atol=1e-5)
    assert 0 < box["flip"].sum() < 16


def test_rectangular_images_are_cropped_along_the_right_axes():
    config = _frame(0.0, [0.3, 0.3], [1.0, 1.0])  # a square crop of 0.3 * 40 * 20 = 240 pixels
    m = random_affine(200, (40, 20), config, _generator()).double()
    width, height = m[:, 0, 0] * 20, m[:, 1, 1] * 40
    torch.testing.assert_close(width, torch.full_like(width, 15.0))
    torch.testing.assert_close(height, torch.full_like(height, 15.0))
    left, top = (m[:, 0, 2] + 1) * 10 - 7.5, (m[:, 1, 2] + 1) * 20 - 7.5
    assert left.min() < 0.5 and 4.5 < left.max() < 5.001
    assert top.min() < 1.5 and 23.5 < top.max() < 25.001


# ---- the draws


@pytest.mark.parametrize("config", [THESIS, WIDE], ids=["thesis", "wide"])
def test_crops_are_distributed_as_torchvisions(config):
    image = torch.empty(1, S, S)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.tensor(
            [RandomResizedCrop.get_params(image, config.crop_scale, config.crop_ratio) for _ in range(5000)]
        ).double()
    top, left, height, width = theirs.unbind(1)
    ours = _boxes(random_affine(DRAWS, (S, S), config, _generator(1)))
    pairs = {
        "area": (ours["width"] * ours["height"], width * height),
        "aspect": (ours["width"] / ours["height"], width / height),
        "width": (ours["width"], width),
        "height": (ours["height"], height),
        "left": (ours["left"], left),
        "top": (ours["top"], top),
        "centre": (ours["left"] + ours["width"] / 2, left + width / 2),
    }
    for name, (a, b) in pairs.items():
        error = (a.var() / len(a) + b.var() / len(b)).sqrt()
        assert abs(a.mean() - b.mean()) < 4 * error, name
        assert 0.9 < a.std() / b.std() < 1.1, name
        assert ks_2samp(a.round(decimals=3), b.round(decimals=3)).pvalue > 1e-3, name


def test_a_crop_that_never_fits_is_the_whole_image_as_often_as_torchvisions():
    """With scale 0.9-1 most aspects do not fit, and all ten tries fail in about one image of six."""
    image = torch.empty(1, S, S)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        theirs = [RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3])[2:] == (S, S) for _ in range(5000)]
    box = _boxes(random_affine(DRAWS, (S, S), THESIS, _generator(3)))
    ours = ((box["width"].round() == S) & (box["height"].round() == S)).double().mean()
    assert ours == pytest.approx(sum(theirs) / 5000, abs=0.02)
    assert ours > 0.05


def test_only_an_allowed_aspect_stands_in_for_crops_that_never_fit():
    config = _frame(0.0, [1.0, 1.0], [2.0, 2.0])  # area 1 at aspect 2 never fits a square
    box = _boxes(random_affine(50, (S, S), config, _generator()))
    torch.testing.assert_close(box["width"], torch.full((50,), float(S), dtype=torch.float64))
    torch.testing.assert_close(box["height"], torch.full((50,), S / 2, dtype=torch.float64))


def test_flips_come_with_their_probability_whatever_the_crop():
    for probability in [0.0, 0.5, 0.9, 1.0]:
        config = _frame(probability, [0.5, 1.0], [0.75, 1.33])
        box = _boxes(random_affine(DRAWS, (S, S), config, _generator()))
        flips = box["flip"].double()
        assert flips.mean() == pytest.approx(probability, abs=4 * (probability * (1 - probability) / DRAWS) ** 0.5)
        if probability == 0.5:
            correlation = torch.corrcoef(torch.stack([flips, box["width"], box["left"]]))[0, 1:]
            assert correlation.abs().max() < 4 / DRAWS**0.5


def test_every_image_of_a_batch_gets_its_own_crop():
    matrices = random_affine(64, (S, S), WIDE, _generator())
    assert len({tuple(m.flatten().tolist()) for m in matrices}) == 64
    one = torch.rand(1, 1, 16, 16, generator=_generator())
    warped = warp(one.expand(8, -1, -1, -1), matrices[:8])
    assert all((warped[i] - warped[j]).abs().max() > 1e-3 for i in range(8) for j in range(i))


def test_a_seed_draws_the_same_and_another_does_not():
    a, b, c = (random_affine(8, (S, S), THESIS, _generator(seed)) for seed in (4, 4, 5))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_without_a_generator_the_global_seed_counts_and_with_one_it_does_not():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        a = random_affine(8, (S, S), THESIS)
        torch.manual_seed(4)
        state = torch.get_rng_state()
        own = random_affine(8, (S, S), THESIS, _generator(9))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(a, random_affine(8, (S, S), THESIS))
        assert not torch.equal(a, own)


# ---- identity and masks


def test_no_augmentation_is_the_identity():
    config = AugmentationConfig()
    assert not config.on("frame")
    matrices = random_affine(4, (S, S), config, _generator())
    assert torch.equal(matrices, torch.eye(2, 3).expand(4, 2, 3))
    images = torch.rand(4, 1, 32, 32)
    torch.testing.assert_close(warp(images, matrices), images, rtol=0, atol=1e-5)
    assert torch.equal(warp(images, matrices, mode="nearest"), images)


def test_any_change_is_not_the_identity():
    for changed in [{"hflip": 0.1}, {"crop_scale": [0.9, 1.0]}, {"crop_ratio": [0.9, 1.0]}, {"crop_ratio": [2.0, 2.0]}]:
        assert list(AugmentationConfig(**changed).on("frame")) == list(changed)


def test_flipping_twice_gives_the_image_back():
    images = torch.rand(3, 1, 33, 33)
    flip = random_affine(3, (33, 33), AugmentationConfig(name="x", hflip=1.0))
    torch.testing.assert_close(warp(images, flip), images.flip(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(warp(warp(images, flip), flip), images, rtol=0, atol=1e-5)


def test_masks_move_with_their_images_and_stay_binary():
    images = torch.zeros(50, 1, 64, 64)
    images[:, :, 20:36, 8:24] = 1.0  # off the centre: a flip or crop that missed the mask would show
    matrices = random_affine(
        50,
        (64, 64),
        _frame(0.5, [0.5, 1.0], [0.75, 1.33]),
        _generator(),
    )
    moved, mask = warp(images, matrices), warp(images, matrices, mode="nearest")
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert (mask[moved > 1 - 1e-4] == 1).all() and (mask[moved < 1e-4] == 0).all()
    assert ((moved > 0.5) != (mask > 0.5)).float().mean() < 1e-3  # but for the square's four corners
    assert (mask != images).flatten(1).any(1).float().mean() > 0.9


def test_a_warp_has_a_gradient_and_keeps_its_type():
    maps = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    moved = warp(maps, random_affine(2, (8, 8), WIDE, _generator()))
    moved.sum().backward()
    assert moved.dtype == torch.float64 and maps.grad.abs().sum() > 0
