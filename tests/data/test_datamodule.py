"""gaze.data.datamodule: what a batch is, in which order it comes, and that every evaluation image comes once."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from gaze.backbones.levels import LEVELS
from gaze.config.augmentation import AugmentationConfig
from gaze.config.data import DatasetConfig
from gaze.data.audit import Record, make_audit
from gaze.data.augment import resize_crops
from gaze.data.datamodule import (
    PADDING,
    BalancedSampler,
    Batch,
    EvaluationSampler,
    GazeDataModule,
    SplitDataset,
    scaled,
)
from gaze.data.datasets import ImageData, Split
from gaze.training.module import GazeModule

CLASSES = ("a", "b", "c")
AUDIT = make_audit("made up", None, CLASSES, [Record(s, s, 0, s.encode(), (8, 8), "L") for s in ("train", "test")])
THESIS = AugmentationConfig(name="thesis", hflip=0.5, crop_scale=[0.5, 0.9], crop_ratio=[3 / 4, 4 / 3])


def _split(count: int, size: int = 8, masks: bool = False, seed: int = 0) -> Split:
    """Image i has the value i in its first pixel."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator)
    images[:, 0, 0, 0] = torch.arange(count, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 3, [str(i) for i in range(count)], images // 128 if masks else None)


def _data(train: int = 10, test: int = 7, masks: bool = False) -> ImageData:
    return ImageData(CLASSES, _split(train, masks=masks), _split(test, masks=masks, seed=1), AUDIT)


def _module(
    batch_size: int = 4, augmentation: AugmentationConfig | None = None, seed: int | None = None, **kwargs
) -> GazeDataModule:
    config = DatasetConfig(image_size=8, batch_size=batch_size)
    return GazeDataModule(config, augmentation, data=_data(**kwargs), seed=seed)


def _training(data: GazeDataModule, training: bool) -> GazeDataModule:
    data.trainer = SimpleNamespace(training=training, world_size=1, global_rank=0, current_epoch=0)
    return data


# ---- batches


def test_training_batches_are_named_and_of_bytes():
    data = _module()
    batches = list(data.train_dataloader())
    assert [len(b.target) for b in batches] == [4, 4, 2]
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.image.dtype == torch.uint8 and batch.image.shape[1:] == (1, 8, 8)
        assert batch.target.dtype == batch.place.dtype == torch.int64
        assert batch.mask is None
        assert torch.equal(batch.image, data.data.train.images[batch.place])
        assert torch.equal(batch.target, data.data.train.targets[batch.place])
    assert sorted(torch.cat([b.place for b in batches]).tolist()) == list(range(10))


def test_one_image_left_over_joins_the_last_batch_in_the_order_of_the_seed():
    said = []
    config, images = DatasetConfig(image_size=8, batch_size=4), _data(train=9, masks=True)
    data = GazeDataModule(config, data=images, seed=3, progress=said.append)
    loader = data.train_dataloader()
    order = DistributedSampler(range(9), 1, 0, seed=1_000_003 * 3)
    batches = list(loader)
    assert [len(b.target) for b in batches] == [4, 5] and len(loader) == 2
    assert torch.cat([b.place for b in batches]).tolist() == list(order)
    assert all(torch.equal(b.image, images.train.images[b.place]) for b in batches)
    assert all(torch.equal(b.mask, images.train.masks[b.place]) for b in batches)
    assert said == ["9 training images leave one over after batches of 4: it joins the last batch, since batch norm "
                    "needs more than one."]  # fmt: skip
    again = GazeDataModule(config, data=images, seed=3).train_dataloader()
    again.load_state_dict({"given": 1})  # a run that was broken off after its first batch
    assert [b.place.tolist() for b in again] == [batches[1].place.tolist()]
    sizes = {count: [len(b.target) for b in _module(train=count).train_dataloader()] for count in (1, 4, 5, 6, 8)}
    assert sizes == {1: [1], 4: [4], 5: [5], 6: [4, 2], 8: [4, 4]}
    assert [len(b.target) for b in _module(1, train=3).train_dataloader()] == [1, 1, 1]


def test_masks_come_with_their_images():
    data = _module(masks=True)
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert torch.equal(batch.mask, batch.image // 128)


def test_masks_that_do_not_guide_stay_out_of_training():
    data = GazeDataModule(DatasetConfig(image_size=8, batch_size=4), data=_data(masks=True), train_masks=False)
    assert all(batch.mask is None for batch in data.train_dataloader()) and data.annotated is None
    assert all(batch.mask is not None for batch in data.val_dataloader())


def test_annotated_masks_are_a_share_of_each_class_drawn_by_the_seed():
    images = _data(train=40, masks=True)
    images.train.masks[::5] = 0  # healthy ones

    def used(share: float, seed: int = 3) -> Tensor:
        config = DatasetConfig(image_size=8, batch_size=8, annotated=share)
        data = GazeDataModule(config, data=images, seed=seed)
        for batch in data.train_dataloader():
            kept = images.train.masks[batch.place] * data.annotated[batch.place, None, None, None]
            assert torch.equal(batch.mask, kept)
        assert all(torch.equal(b.mask, images.test.masks[b.place]) for b in data.val_dataloader())
        return data.annotated

    seen = images.train.masks.flatten(1).any(1)
    assert torch.equal(used(1.0), seen) and torch.equal(used(0.25), used(0.25))
    assert not torch.equal(used(0.25), used(0.25, seed=4))
    assert not (used(0.25) & ~used(0.5)).any() and not (used(0.5) & ~seen).any()
    for share in (0.25, 0.01):
        of_class = [images.train.targets == label for label in images.train.targets.unique()]
        expected = [max(1, round(share * int((seen & own).sum()))) for own in of_class]
        assert [int(used(share)[own].sum()) for own in of_class] == expected


def test_a_mask_fits_its_augmented_image():
    """The image is its own mask: after flips, crops and turns they are still one picture."""
    torch.manual_seed(0)
    blob = F.interpolate(torch.rand(12, 1, 4, 4), (48, 48)).gt(0.5)
    split = Split(blob.mul(255).byte(), torch.zeros(12, dtype=torch.int64), ["x"] * 12, blob.byte())
    images = ImageData(("a",), split, split, AUDIT)
    for kind in ({"hflip": 0.5, "crop_scale": [0.3, 0.9]}, {"rotation": 40.0}, {"translation": 0.3}, {"elastic": 0.5}):
        config = AugmentationConfig(name="x", **kind)
        data = GazeDataModule(DatasetConfig(image_size=48, batch_size=12), config, data=images)
        batch = data.prepare(next(iter(data.train_dataloader())), training=True)
        moved = (batch.mask != data.data.train.masks[batch.place]).flatten(1).any(1)
        assert moved.sum() >= 10
        assert ((batch.image > 0) == (batch.mask > 0.5)).float().mean() > 0.97


def test_a_second_view_is_the_same_image_in_a_frame_of_its_own():
    data = GazeDataModule(DatasetConfig(image_size=8, batch_size=4), THESIS, data=_data(masks=True), views=True)
    plain = GazeDataModule(DatasetConfig(image_size=8, batch_size=4), THESIS, data=_data(masks=True))
    raw = next(iter(data.val_dataloader()))
    batches = []
    for module in (data, plain):
        torch.manual_seed(3)
        batches.append(module.prepare(raw, training=True))
    batch, first = batches
    assert torch.equal(batch.image, first.image) and torch.equal(batch.mask, first.mask) and first.view is None
    for image, frames in zip((batch.image, batch.view.image), batch.view.frames, strict=True):
        torch.testing.assert_close(image, resize_crops(raw.image, frames, convert=scaled))
    assert not torch.equal(*batch.view.frames)
    assert data.prepare(raw, training=False).view is None
    still = GazeDataModule(DatasetConfig(image_size=8), data=_data(), views=True).prepare(raw, training=True)
    assert torch.equal(still.view.image, still.image)
    assert torch.equal(still.view.frames, torch.eye(2, 3).expand(2, 4, 2, 3))


def test_shuffle_follows_the_seed():
    def order(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return torch.cat([b.place for b in _module().train_dataloader()]).tolist()

    with torch.random.fork_rng():
        assert order(1) == order(1)
        assert order(1) != order(2)
        assert order(1) != list(range(10))


def test_a_new_epoch_has_a_new_order():
    loader = _module().train_dataloader()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (torch.cat([b.place for b in loader]).tolist() for _ in range(2))
    assert first != second and sorted(first) == sorted(second)


def test_a_balanced_epoch_has_each_class_alike_and_follows_seed_and_epoch():
    target = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    dataset = SplitDataset(Split(torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), target, [""] * 1000))
    samplers = [BalancedSampler(dataset, 2, rank, shuffle=True, seed=3) for rank in (0, 1)]
    drawn = torch.tensor([i for pair in zip(*samplers, strict=True) for i in pair])
    counts = target[drawn].bincount()
    assert len(drawn) == 1000 and (counts - 1000 / 3).abs().max() < 4 * (1000 * 2 / 9) ** 0.5
    assert len(drawn.unique()) > 300  # not the same few of a large class
    alone = BalancedSampler(dataset, 1, 0, shuffle=True, seed=3)
    assert list(alone) == drawn.tolist() and list(alone) != drawn.tolist()  # the second epoch
    alone.set_epoch(0)
    assert list(alone) == drawn.tolist()


def test_the_setting_draws_balanced_batches():
    data = GazeDataModule(DatasetConfig(image_size=8, batch_size=4, sampler="balanced"), data=_data(), seed=0)
    assert isinstance(data.train_dataloader().sampler, BalancedSampler)
    assert not isinstance(_module().train_dataloader().sampler, BalancedSampler)


def test_evaluation_is_in_order():
    for loader in (_module().val_dataloader(), _module().test_dataloader()):
        assert torch.cat([b.place for b in loader]).tolist() == list(range(7))


def test_one_item_is_a_batch_of_one():
    batch = SplitDataset(_split(5))[3]
    assert batch.place.tolist() == [3] and batch.image[0, 0, 0, 0] == 3


# ---- one image, once, whatever the number of processes


def test_every_image_comes_once_over_all_processes():
    for batch_size in [1, 2, 4]:
        for replicas in [1, 2, 3]:
            for count in [1, 6, 7, 8]:
                dataset = SplitDataset(_split(count))
                samplers = [EvaluationSampler(dataset, replicas, r) for r in range(replicas)]
                shares = [list(DataLoader(dataset, batch_size, sampler=s, collate_fn=lambda b: b)) for s in samplers]
                assert len({len(batches) for batches in shares}) == 1  # else the processes wait for each other for ever
                indices = [i for batches in shares for batch in batches for i in batch.place.tolist()]
                assert sorted(indices) == list(range(count))
                assert all(torch.equal(b.image, dataset.split.images[b.place]) for batches in shares for b in batches)


def test_rows_that_fill_up_are_dropped_from_their_batch():
    dataset = SplitDataset(_split(5, masks=True))
    assert dataset.__getitems__([3, PADDING, 1]).place.tolist() == [3, 1]
    empty = dataset.__getitems__([PADDING, PADDING])
    assert empty.image.shape == empty.mask.shape == (0, 1, 8, 8)
    assert empty.target.shape == empty.place.shape == (0,) and empty.target.dtype == torch.int64


def test_the_last_batch_of_the_last_process_may_be_empty():
    dataset = SplitDataset(_split(7))
    sampler = EvaluationSampler(dataset, 3, 1)
    assert list(sampler) == [1, 4, PADDING] and len(sampler) == 3
    sizes = [len(b.target) for b in DataLoader(dataset, 2, sampler=sampler, collate_fn=lambda b: b)]
    assert sizes == [2, 0]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", LEVELS)
def test_an_empty_batch_survives_evaluation_and_changes_nothing(name, inference):
    data = GazeDataModule(DatasetConfig(image_size=16), data=ImageData(CLASSES, _split(6, 16), _split(6, 16), AUDIT))
    empty = data.prepare(SplitDataset(data.data.test).__getitems__([PADDING] * 2), training=False)
    full = data.evaluation_batch(list(range(6)))
    module = GazeModule(name, 3, 1, 16).eval()

    def values(batches: list[Batch]) -> dict[str, torch.Tensor]:
        with torch.inference_mode(inference):
            for i, batch in enumerate(batches):
                module.validation_step(batch, i)
            result = {**module.val_metrics.compute(), "loss": module.val_loss.compute()}
        module.val_metrics.reset()
        module.val_loss.reset()
        return result

    torch.testing.assert_close(values([empty, full, empty]), values([full]), equal_nan=True)


# ---- scaling and augmentation


def test_bytes_are_scaled_to_mean_and_sd_one_half():
    images = torch.tensor([0, 51, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    batch = Batch(images, torch.tensor([0]), torch.tensor([0]), None)
    scaled = _module().prepare(batch, training=False).image
    expected = (images.double() / 255 - 0.5) / 0.5
    torch.testing.assert_close(scaled, expected.float())
    assert scaled.min() == -1 and scaled.max() == 1
    assert images.flatten().tolist() == [0, 51, 128, 255]  # the set in memory stays as it is


def test_evaluation_batch_is_ready_for_the_model():
    data = _module(augmentation=THESIS, masks=True)
    batch = data.evaluation_batch([5, 2])
    assert batch.place.tolist() == [5, 2] and torch.equal(batch.target, data.data.test.targets[[5, 2]])
    torch.testing.assert_close(batch.image, data.data.test.images[[5, 2]].float() / 127.5 - 1)
    assert torch.equal(batch.mask, data.data.test.masks[[5, 2]].float())


def test_training_augments_and_evaluation_does_not():
    data = _module(augmentation=THESIS)
    raw = next(iter(data.val_dataloader()))
    plain = data.prepare(raw, training=False).image
    assert torch.equal(_training(data, False).on_after_batch_transfer(raw, 0).image, plain)
    augmented = _training(data, True).on_after_batch_transfer(raw, 0).image
    assert ((augmented - plain).abs().flatten(1).amax(1) > 1e-3).all()
    assert augmented.min() >= -1 - 1e-6 and augmented.max() <= 1 + 1e-6


def test_no_augmentation_leaves_training_images_bit_equal_and_draws_nothing():
    data = _module()
    raw = next(iter(data.val_dataloader()))
    state = torch.get_rng_state()
    batch = data.prepare(raw, training=True)
    assert torch.equal(batch.image, data.prepare(raw, training=False).image)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_step_has_its_own_random_numbers_whatever_came_before():
    def drawn(seed: int = 0, epoch: int = 0, step: int = 0, rank: int = 0, noise: int = 0) -> float:
        data = _training(_module(batch_size=3, seed=seed), True)
        data.trainer.current_epoch, data.trainer.global_rank, data.trainer.world_size = epoch, rank, 2
        loader = iter(data.train_dataloader())
        batches = [next(loader) for _ in range(step + 1)]
        torch.rand(noise)
        data.on_after_batch_transfer(batches[step], 0)
        return float(torch.rand(1))

    with torch.random.fork_rng():
        assert drawn() == drawn(noise=7)
        others = [drawn(), drawn(seed=1), drawn(epoch=1), drawn(step=1), drawn(rank=1), drawn(seed=1, epoch=1)]
    assert len(set(others)) == len(others)


def test_masks_are_augmented_along():
    data = _module(augmentation=AugmentationConfig(name="x", hflip=1.0), masks=True)
    raw = next(iter(data.val_dataloader()))
    batch = data.prepare(raw, training=True)
    assert torch.equal(batch.mask, raw.mask.flip(3).float())
    torch.testing.assert_close(batch.image, (raw.image.flip(3).float() / 127.5 - 1), rtol=0, atol=1e-5)
    assert torch.equal(batch.target, raw.target) and torch.equal(batch.place, raw.place)


def test_setup_loads_the_configured_set_once():
    config = DatasetConfig(image_size=32, train_images=8, test_images=4, batch_size=8)
    data = GazeDataModule(config)
    data.setup("fit")
    assert data.data is data.data and data.classes == ("diffuse", "healthy", "meningeal", "midline")
    assert len(data.data.train.targets) == 8
    assert next(iter(data.val_dataloader())).mask.shape == (4, 1, 32, 32)
