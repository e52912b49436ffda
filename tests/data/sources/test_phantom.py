"""gaze.data.sources.phantom: the same bytes everywhere, balanced, masks that are true, a mean that gives nothing
away.
"""

import hashlib

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from torch.nn.functional import max_pool2d

from gaze.data.sources.phantom import CLASSES, SPLITS, Phantom, make_phantom
from gaze.errors import DataError

HEALTHY = CLASSES.index("healthy")
SIZE = 48
# Changes only when the drawing changes: every figure that was measured on the phantom must then be measured again.
CHECKSUM = "3d4eb725a90ff43e"


@pytest.fixture(scope="module")
def train() -> Phantom:
    return make_phantom(640, SIZE)


@pytest.fixture(scope="module")
def test() -> Phantom:
    return make_phantom(320, SIZE, split="test")


def _digests(images: torch.Tensor) -> set[bytes]:
    return {hashlib.sha256(image.numpy().tobytes()).digest() for image in images}


def test_cardinality_and_types():
    for size in (32, 64, 224):
        p = make_phantom(5, size)
        assert p.images.shape == p.masks.shape == (5, 1, size, size)
        assert p.images.dtype == p.masks.dtype == torch.uint8
        assert p.targets.tolist() == [0, 1, 2, 3, 0] and p.targets.dtype == torch.int64


def test_classes_stand_in_folder_order():
    assert list(CLASSES) == sorted(set(CLASSES))


def test_same_arguments_same_bytes_whatever_the_count(train):
    few = make_phantom(7, SIZE)
    for short, long in zip(few, train, strict=True):
        assert torch.equal(short, long[:7])


def test_no_image_is_shared_between_seeds_or_splits():
    sets = [_digests(make_phantom(40, 32, seed=s, split=split).images) for s in (0, 1) for split in SPLITS]
    assert len(set().union(*sets)) == 4 * 40


def test_checksum():
    p = make_phantom(24, SIZE, seed=3, split="test")
    digest = hashlib.sha256(p.images.numpy().tobytes() + p.masks.numpy().tobytes())
    assert digest.hexdigest()[:16] == CHECKSUM


def test_classes_are_balanced_to_within_one_image():
    for count in (4, 5, 6, 7, 30):
        per_class = torch.bincount(make_phantom(count, 32).targets, minlength=len(CLASSES))
        assert per_class.max() - per_class.min() <= 1


@pytest.mark.parametrize(("count", "size"), [(200, 32), (200, 64), (8, 224)])
def test_mask_is_the_lesion_and_lies_in_the_head(count, size):
    p = make_phantom(count, size, seed=1)
    assert set(p.masks.unique().tolist()) == {0, 1}
    pixels = p.masks.sum((1, 2, 3))
    sick = p.targets != HEALTHY
    assert (pixels[~sick] == 0).all()
    assert (pixels[sick] >= 3).all()
    assert (pixels < 0.12 * size**2).all()
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    outside = line[:, None] ** 2 + line[None, :] ** 2 > 0.98  # no head reaches the corners
    assert not (p.masks[:, 0].bool() & outside).any()


def test_lesions_lie_where_their_class_says(train):
    line = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    weight = train.masks[:, 0] / train.masks.sum((1, 2, 3)).clamp(min=1)[:, None, None]
    x, y = (weight * line).sum((1, 2)), (weight * line[:, None]).sum((1, 2))
    place = {name: torch.stack([x, y])[:, train.targets == i] for i, name in enumerate(CLASSES)}
    assert (place["midline"][0].abs() < 0.3).all() and (place["midline"][1] > 0.2).all()
    assert (place["meningeal"].norm(dim=0) > 0.4).all()
    assert (place["diffuse"].norm(dim=0) < 0.65).all() and place["diffuse"][0].abs().mean() > 0.2


@pytest.mark.parametrize(("name", "sign"), [("diffuse", -1), ("meningeal", 1), ("midline", 1)])
def test_lesion_is_visible_against_a_ring_around_it(train, name, sign):
    chosen = train.targets == CLASSES.index(name)
    images, masks = train.images[chosen].float(), train.masks[chosen].float()
    ring = max_pool2d(masks, 5, stride=1, padding=2) - masks
    ring *= images > 60  # tissue only: not the bone, the background or the ventricles
    contrast = (images * masks).sum((1, 2, 3)) / masks.sum((1, 2, 3)) - (images * ring).sum((1, 2, 3)) / ring.sum(
        (1, 2, 3)
    )
    assert sign * contrast.mean() > 20  # grey levels of 255; the noise has a standard deviation of 2 to 5


@pytest.mark.parametrize("classifier", [LogisticRegression(), DecisionTreeClassifier(max_depth=3, random_state=0)])
def test_mean_intensity_does_not_give_the_class_away(train, test, classifier):
    means = [np.asarray(p.images, np.float64).mean((1, 2, 3))[:, None] for p in (train, test)]
    accuracy = classifier.fit(means[0] - means[0].mean(), train.targets.numpy()).score(
        means[1] - means[0].mean(), test.targets.numpy()
    )
    assert accuracy <= 0.35


def test_exception_names_the_setting():
    for setting, arguments in {
        "dataset.train_images": {"count": 3, "image_size": 32},
        "dataset.test_images": {"count": 3, "image_size": 32, "split": "test"},
        "dataset.image_size": {"count": 8, "image_size": 31},
        "dataset.seed": {"count": 8, "image_size": 32, "seed": -1},
    }.items():
        with pytest.raises(DataError, match=setting):
            make_phantom(**arguments)
    with pytest.raises(ValueError, match="split"):
        make_phantom(8, 32, split="val")
