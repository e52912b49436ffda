"""The breast ultrasound set: masks beside images, and a split that is a function of names, settings and pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from image_sets import refused, shipped
from PIL import Image

from gaze.config.data import DatasetConfig
from gaze.data.datasets import ImageData, Split, load_dataset
from gaze.data.sources.listing import files_at_hand

BUSI = SHARED / "breast_ultrasound"
needs_busi = pytest.mark.skipif(not BUSI.is_dir(), reason=f"no folder {BUSI} (set GAZE_SHARED_DATA)")
COUNTS = {"benign": 25, "malignant": 15, "normal": 5}


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def draw(root: Path, seed: int = 0) -> Path:
    """A set like BUSI: 25 benign, 15 malignant and 5 normal images, the last with black masks."""
    random = np.random.default_rng(seed)
    for name, count in COUNTS.items():
        for i in range(1, count + 1):
            path = root / "Dataset_BUSI_with_GT" / name / f"{name} ({i}).png"
            lesion = np.zeros((30, 40), np.uint8)
            if name != "normal":
                top, left = random.integers(2, 14, 2)
                lesion[top : top + 10, left : left + 10] = 255
            save(path, np.maximum(random.integers(0, 90, (30, 40), dtype=np.uint8), lesion // 2))
            save(path.with_name(f"{name} ({i})_mask.png"), lesion)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return draw(tmp_path / "busi")


def config(root: Path | None, **changes) -> DatasetConfig:
    settings = {"name": "busi", "kind": "ultrasound", "root": root and str(root), "image_size": 20, "cache": "off"}
    return DatasetConfig(**{**settings, "classes": ["benign", "malignant"], "split_seed": 0, **changes})


def test_by_default_every_fifth_image_in_natural_order_is_for_testing(root):
    data = load_dataset(config(root, split_seed=None))
    numbers = {
        name: sorted(int(p.split("(")[1][:-5]) for p in data.test.paths if p.startswith(name)) for name in COUNTS
    }
    assert numbers == {"benign": [5, 10, 15, 20, 25], "malignant": [5, 10, 15], "normal": []}
    assert len(data.train.paths) == 20 + 12
    half = load_dataset(config(root, split_seed=None, test_fraction=0.5))
    assert len(half.test.paths) == 12 + 7


def image(root: Path, name: str, i: int, mask: str | None = None) -> Path:
    return root / "Dataset_BUSI_with_GT" / name / f"{name} ({i}){'' if mask is None else mask}.png"


def mask_of(split: Split, path: str) -> np.ndarray:
    return split.masks[split.paths.index(path), 0].numpy()


def side(data: ImageData, path: str) -> str:
    return {True: "train", False: "test"}[path in data.train.paths]


# ---- images and masks


def test_images_masks_and_classes(root):
    for given in (root, root / "Dataset_BUSI_with_GT"):
        data = load_dataset(config(given))
        assert data.classes == ("benign", "malignant")
        assert data.audit.train_counts == {"benign": 20, "malignant": 12}
        assert data.audit.test_counts == {"benign": 5, "malignant": 3}
        for split in (data.train, data.test):
            assert split.images.shape == split.masks.shape == (len(split.paths), 1, 20, 20)
            assert [data.classes[t] for t in split.targets] == [path.split("/")[0] for path in split.paths]
            assert not any("_mask" in path for path in split.paths)
            for i in range(len(split.paths)):  # lesions are brighter than all else
                lesion = split.masks[i] > 0
                assert split.images[i][lesion].float().mean() > split.images[i][~lesion].float().mean() + 40
        assert not data.audit.warnings and not data.audit.ignored


def test_normal_images_have_empty_masks_when_asked_for(root):
    for classes in (["normal", "benign", "malignant"], None):
        data = load_dataset(config(root, classes=classes))
        assert data.classes == ("benign", "malignant", "normal")
        for split in (data.train, data.test):
            assert split.masks.flatten(1).any(1).tolist() == [t != 2 for t in split.targets.tolist()]
        assert data.audit.test_counts["normal"] == 1


def test_several_masks_of_an_image_are_united(root):
    path = "benign/benign (7).png"
    before = load_dataset(config(root))
    extra = np.zeros((30, 40), np.uint8)
    extra[24:30, 30:40] = 255
    save(image(root, "benign", 7, "_mask_1"), extra)
    save(image(root, "benign", 7, "_mask_2"), np.fliplr(extra))
    after = load_dataset(config(root))
    split = side(before, path)
    one, all_three = mask_of(getattr(before, split), path), mask_of(getattr(after, split), path)
    added = all_three - one
    assert (all_three >= one).all() and added[16:, 15:].all() and added[16:, :5].all() and added[:16].sum() == 0


def test_a_missing_mask_is_an_error_or_empty(root):
    image(root, "malignant", 3, "_mask").unlink()
    message = refused(config(root))
    assert "Images without a mask" in message and ": 1 of 40\n  malignant/malignant (3).png\n" in message
    data = load_dataset(config(root, on_missing_mask="empty"))
    path = "malignant/malignant (3).png"
    assert mask_of(getattr(data, side(data, path)), path).sum() == 0
    assert sum(int((~split.masks.flatten(1).bool().any(1)).sum()) for split in (data.train, data.test)) == 1


def test_a_mask_without_its_image_is_a_warning(root):
    image(root, "benign", 2).unlink()
    assert load_dataset(config(root)).audit.warnings == ["masks without an image: 1 (benign/benign (2)_mask.png)"]


def test_what_is_not_there(root, tmp_path):
    (tmp_path / "other" / "x").mkdir(parents=True)
    message = refused(config(tmp_path / "other"))
    assert "no class folder benign, malignant. It holds: x." in message and "Dataset_BUSI_with_GT" in message
    assert "fewer than two class folders" in refused(config(tmp_path / "other", classes=None))
    assert "no class folder cyst." in refused(config(root, classes=["benign", "cyst"]))
    assert "does not exist" in refused(config(tmp_path / "no"))
    for path in (root / "Dataset_BUSI_with_GT" / "malignant").iterdir():
        if "_mask" not in path.name:
            path.unlink()
    assert "No image in" in refused(config(root))


def test_published_counts_are_those_before_the_split(root):
    assert load_dataset(config(root, counts=COUNTS)).audit.warnings == []
    warnings = load_dataset(config(root, counts={**COUNTS, "benign": 26})).audit.warnings
    assert warnings == ["benign holds 25 images, the published set 26"]


def test_a_download_takes_the_way_of_the_other_sets(root, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("gaze.data.datasets.download", lambda handle, say: asked.append(handle) or root)
    settings = {"handle": "a/b/versions/1", "counts": COUNTS}
    assert len(load_dataset(config(None, **settings)).test.paths) == 8
    assert asked == ["a/b/versions/1"]
    message = refused(config(None, **{**settings, "counts": {**COUNTS, "benign": 26}}))
    assert "a/b/versions/1 is not the published set: benign holds 25" in message and "Delete the folder" in message


# ---- the split


def test_the_split_depends_on_names_alone(root, tmp_path):
    expected = load_dataset(config(root))
    other = load_dataset(config(draw(tmp_path / "moved", seed=1)))  # other pixels, another place
    assert (other.train.paths, other.test.paths) == (expected.train.paths, expected.test.paths)
    assert set(expected.train.paths).isdisjoint(expected.test.paths)


def test_the_split_is_this_one(root):
    """So that no change of the code draws another one unseen."""
    assert load_dataset(config(root)).test.paths == [
        *(f"benign/benign ({i}).png" for i in (12, 14, 16, 17, 8)),
        *(f"malignant/malignant ({i}).png" for i in (3, 5, 9)),
    ]


def test_another_seed_or_fraction_is_another_split(root):
    paths = {seed: tuple(load_dataset(config(root, split_seed=seed)).test.paths) for seed in range(3)}
    assert len(set(paths.values())) == 3
    half = load_dataset(config(root, test_fraction=0.5))
    assert half.audit.test_counts == {"benign": 12, "malignant": 8}
    assert set(paths[0]) < set(half.test.paths)  # more of the same order
    assert load_dataset(config(root, test_fraction=0.01)).audit.test_counts == {"benign": 1, "malignant": 1}
    assert load_dataset(config(root, test_fraction=0.99)).audit.train_counts == {"benign": 1, "malignant": 1}


def test_identical_images_stay_on_one_side(root):
    plain = load_dataset(config(root))
    train = [path for path in plain.train.paths if path.startswith("benign")]
    (test,) = [path for path in plain.test.paths if path.startswith("benign")][:1]
    inner = root / "Dataset_BUSI_with_GT"
    for copy in train[:3]:  # one image four times, once as another format's bytes
        (inner / copy).write_bytes((inner / test).read_bytes())
    across = next(path for path in plain.train.paths if path.startswith("malignant"))
    (inner / across).write_bytes((inner / test).read_bytes())
    data = load_dataset(config(root))
    assert len({side(data, path) for path in (*train[:3], across, test)}) == 1
    twins = data.audit.twins
    assert (len(twins.groups), twins.split_groups, twins.test_in_train, twins.class_groups) == (1, 0, 0, 1)
    assert data.audit.test_counts == {"benign": 5, "malignant": 3}


def test_unreadable_images_are_in_neither_half(root):
    image(root, "benign", 4).write_bytes(b"hello")
    assert "benign/benign (4).png: no image of a format that is read" in refused(config(root))
    data = load_dataset(config(root, on_bad_image="skip"))
    assert len(data.train.paths) + len(data.test.paths) == 39
    assert data.audit.unreadable == ["benign/benign (4).png: no image of a format that is read"]


def test_one_entry_of_the_cache_serves_every_split(root, tmp_path):
    lines: list[str] = []
    kept = {"cache": str(tmp_path / "kept")}
    load_dataset(config(root, **kept), lines.append)
    again = load_dataset(config(root, split_seed=1, test_fraction=0.4, **kept), lines.append)
    plain = load_dataset(config(root, split_seed=1, test_fraction=0.4))
    assert [line.split()[0] for line in lines] == ["decoded", "read"]
    assert again.audit == plain.audit and again.test.paths == plain.test.paths
    assert torch.equal(again.train.masks, plain.train.masks) and torch.equal(again.test.images, plain.test.images)
    load_dataset(config(root, classes=["benign", "normal"], **kept), lines.append)
    assert lines[-1].startswith("decoded")


# ---- the real one


@needs_busi
@pytest.mark.timeout(120)
def test_breast_ultrasound_set():
    data = load_dataset(shipped("breast_ultrasound", BUSI, image_size=64))
    assert data.audit.train_counts == {"benign": 350, "malignant": 168}
    assert data.audit.test_counts == {"benign": 87, "malignant": 42}
    assert data.audit.warnings == []
    assert data.audit.twins.groups == [["benign/benign (433).png", "malignant/malignant (145).png"]]
    assert data.audit.twins.split_groups == 1  # the two stand on both sides: one more reason to look at the audit
    other = shipped("breast_ultrasound", BUSI, image_size=64, split_seed=0)
    assert load_dataset(other).audit.twins.split_groups == 0
    masks = torch.cat([data.train.masks, data.test.masks]).flatten(1).float()
    images = torch.cat([data.train.images, data.test.images]).flatten(1).float()
    assert (masks.sum(1) > 0).all() and 0.05 < masks.mean() < 0.15
    # Lesions are dark in ultrasound: most masks lie on pixels darker than the rest, those of other images do not.
    inside, outside = (images * masks).sum(1) / masks.sum(1), (images * (1 - masks)).sum(1) / (1 - masks).sum(1)
    shuffled = masks.roll(1, 0)
    wrong = (images * shuffled).sum(1) / shuffled.sum(1)
    assert (inside < outside).float().mean() > 0.6 and inside.mean() < wrong.mean() - 5


def test_beyond_8_bits_the_window_is_of_the_training_images_of_the_split(root, tmp_path):
    for number, path in enumerate(sorted(root.rglob("*).png"))):
        values = np.random.default_rng(number).integers(0, 100 * (number + 1), (30, 40))
        Image.fromarray(values.astype(np.uint16)).save(path)
    for changes in ({}, {"split_seed": 1}):
        data = load_dataset(config(root, cache=str(tmp_path / "kept"), **changes))
        place = root / "Dataset_BUSI_with_GT"
        values = np.concatenate([np.asarray(Image.open(place / path)).ravel() for path in data.train.paths])
        assert data.audit.window == [np.percentile(values, q, method="inverted_cdf") for q in (0.5, 99.5)]


def test_the_list_of_files_knows_images_and_masks(root):
    facts = files_at_hand(config(root))
    assert facts["classes"] == ["benign", "malignant"] and facts["all"] == 40
    assert files_at_hand(config(root, split_seed=1)) == facts == files_at_hand(config(root / "Dataset_BUSI_with_GT"))
    mask = next(root.rglob("benign*_mask.png"))
    mask.write_bytes(mask.read_bytes() + b"x")
    changed = files_at_hand(config(root))
    assert changed["all"] == 40 and changed["sha256"] != facts["sha256"]
    next(root.rglob("normal (1).png")).unlink()  # of a class that is not in use
    assert files_at_hand(config(root)) == changed
    mask.unlink()
    assert "Images without a mask" in files_at_hand(config(root))["error"]
