"""Rows about what surrounds the arithmetic: fit, gpu-run (Lightning against a bare loop) and input."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from compute import LoggedModule, autocast, evaluate
from hydra import compose, initialize_config_dir
from lightning import Callback, LightningModule, Trainer, seed_everything
from measure import REPO, Sample, Section, Settings, Stopwatch, add_row, comparison, interleave
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from gaze.config.augmentation import AugmentationConfig
from gaze.config.data import DatasetConfig
from gaze.config.train import TrainConfig, check_config
from gaze.data.datamodule import Batch, GazeDataModule
from gaze.data.datasets import ImageData, Split, load_dataset
from gaze.training.callbacks import EpochTable
from gaze.training.module import GazeModule
from gaze.training.train import build_trainer

FULL_WEIGHT = ("lambda=50", "gaze.start_epoch=0", "gaze.end_epoch=0")  # from the first epoch on: all epochs alike


# ---- fit


class BareEpochs(Callback):
    """Runs an epoch of the bare loop after each epoch of ``fit`` and times both; the first pair is warm-up.

    An epoch of ``fit`` lasts from its start to the start of the next, so that validation, the table, the
    checkpoints and the logger are in it.
    """

    def __init__(self, bare: Callable[[], object], device: torch.device) -> None:
        self.bare = bare
        self.device = device
        self.fit, self.loop = Sample(), Sample()
        self._watch: Stopwatch | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish_epoch()
        self._watch = Stopwatch(self.fit, self.device)
        self._watch.__enter__()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish_epoch()

    def _finish_epoch(self) -> None:
        if self._watch is None:
            return
        self._watch.__exit__()
        with plain_algorithms(), Stopwatch(self.loop, self.device):
            self.bare()

    def samples(self) -> tuple[Sample, Sample]:
        """Of ``fit`` and of the bare loop, without the first epoch."""
        return tuple(Sample(s.seconds[1:], s.peak) for s in (self.fit, self.loop))  # type: ignore[return-value]


@contextmanager
def plain_algorithms() -> Iterator[None]:
    """The Trainer's deterministic=warn holds for the whole process; a bare loop has PyTorch's defaults."""
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


def fit(settings: Settings) -> list[Section]:
    """What Lightning, logging, pictures and checkpoints add to the mathematics."""
    section = comparison("Fit: one epoch", "trainer.fit", "bare loop", settings)
    small = ("dataset.train_images=16", "dataset.test_images=8") if settings.quick else ()
    size = f"dataset.image_size={settings.image_size}"
    images = settings.number(256, 6400, 16), settings.number(64, 640, 8)
    epochs = settings.number_of_pairs(cpu=6, cuda=10)
    config = make_config(settings, epochs + 1, size, f"dataset.batch_size={settings.batch_size}", *FULL_WEIGHT)
    _fit_row(section, f"level2, {settings.image_size} px", config, noise_data(config.dataset, *images), settings)
    # As many epochs as the phantom's default run has: the share of epochs that draw pictures is then its own.
    epochs = settings.number_of_pairs(cpu=11, cuda=11)
    config = make_config(settings, epochs + 1, *small, *FULL_WEIGHT)
    _fit_row(section, "level2, phantom as configured, 48 px", config, load_dataset(config.dataset), settings)
    section.notes.append("Both train with lambda=50, validate with Grad-CAM and all metrics, and augment alike.")
    return [section]


def make_config(settings: Settings, epochs: int, *overrides: str) -> TrainConfig:
    """``conf/train.yaml`` with overrides, as train.py composes it."""
    accelerator = "gpu" if settings.cuda else "cpu"
    words = [f"trainer.accelerator={accelerator}", f"trainer.max_epochs={epochs}", *overrides]
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return check_config(compose("train", words))


def noise_data(config: DatasetConfig, train: int, test: int) -> ImageData:
    """Random bytes as a data set in memory, without masks."""
    small = load_dataset(config.model_copy(update={"train_images": 8, "test_images": 8}))  # for classes and audit
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        shape = (count, 1, config.image_size, config.image_size)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return Split(images, torch.arange(count) % len(small.classes), [f"{i:05d}" for i in range(count)])

    return replace(small, train=split(train), test=split(test))


def _fit_row(section: Section, case: str, config: TrainConfig, data: ImageData, settings: Settings) -> None:
    modules = GazeDataModule(config.dataset, config.augmentation, data=data)
    bare = BareLoop(config, data, modules, settings)
    a, b = fit_beside(config, modules, bare.epoch, settings)
    whole = sum(a.seconds) / sum(b.seconds)
    add_row(section, case, a, b, "<= 1.08", f"sum of epochs / sum of epochs: {whole:.3f}")


def fit_beside(
    config: TrainConfig, data: GazeDataModule, bare: Callable[[], object], settings: Settings
) -> tuple[Sample, Sample]:
    """Train as train.py does, in a temporary folder, with the bare loop's epochs in between."""
    module = make_module(GazeModule, config, len(data.classes))
    with tempfile.TemporaryDirectory() as folder:
        epochs = BareEpochs(bare, settings.device)
        table = EpochTable(Path(folder) / "metrics.csv")
        build_trainer(config, Path(folder), [epochs, table]).fit(module, datamodule=data)
    return epochs.samples()


def make_module(kind: type[GazeModule], config: TrainConfig, classes: int) -> GazeModule:
    seed_everything(0, verbose=False)
    size, half = config.dataset.image_size, config.model.channels_last
    return kind(
        config.model.name,
        classes,
        image_size=size,
        gaze_lambda=config.lambda_,
        gaze=config.gaze,
        optimizer=config.optimizer,
        channels_last=half,
    )


class BareLoop:
    """The same mathematics in plain PyTorch: bytes on the device already, no Trainer, nothing logged or saved."""

    def __init__(self, config: TrainConfig, data: ImageData, modules: GazeDataModule, settings: Settings) -> None:
        module = make_module(LoggedModule, config, len(data.classes))
        assert isinstance(module, LoggedModule)
        self.module = module.to(settings.device)
        self.optimizer = module.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
        self.train, self.test = (on_device(split, settings.device) for split in (data.train, data.test))
        self.size = config.dataset.batch_size
        self.prepare = modules.prepare

    def epoch(self) -> None:
        self.module.train()
        for batch in batches(self.train, self.size, shuffle=True):
            self.optimizer.zero_grad()
            loss = self.module.training_step(self.prepare(batch, training=True), 0)
            loss.backward()
            self.optimizer.step()
        self.module.eval()
        prepared = (self.prepare(batch, training=False) for batch in batches(self.test, self.size, shuffle=False))
        evaluate(self.module, prepared)  # type: ignore[arg-type]


def on_device(split: Split, device: torch.device) -> Split:
    masks = None if split.masks is None else split.masks.to(device)
    return split._replace(images=split.images.to(device), targets=split.targets.to(device), masks=masks)


def batches(split: Split, size: int, shuffle: bool) -> Iterator[Batch]:
    """Bytes, as the data module's own loader gives them."""
    count, device = len(split.targets), split.images.device
    order = (torch.randperm(count) if shuffle else torch.arange(count)).to(device)
    for index in order.split(size):
        masks = None if split.masks is None else split.masks[index]
        yield Batch(split.images[index], split.targets[index], index, masks)


# ---- gpu-run


def gpu_run(settings: Settings) -> list[Section]:
    """Whether a GPU is kept as busy as a compiled loop without any gaze keeps it."""
    title = "GPU run: level5, bf16-mixed, channels_last"
    if not settings.cuda:
        return [Section(title, [], notes=["Skipped: --device is cpu, and the row is about a GPU."])]
    section = comparison(title, "trainer.fit, lambda=50", "compiled bare loop, no gaze", settings)
    words = ("model=level5", "model.channels_last=true", "trainer.precision=bf16-mixed", *FULL_WEIGHT)
    size = (f"dataset.image_size={settings.image_size}", f"dataset.batch_size={settings.batch_size}")
    config = make_config(settings, settings.number_of_pairs(cpu=5, cuda=5) + 1, *words, *size)
    images = settings.number(12800, 12800, 32)  # whole batches, so that nothing is compiled twice
    data = noise_data(config.dataset, images, 2 * settings.batch_size)
    modules = GazeDataModule(config.dataset, config.augmentation, data=data)
    a, b = fit_beside(config, modules, _compiled_epoch(config, data, modules, settings), settings)
    add_row(section, f"batch {settings.batch_size}", a, b, ">= 0.80", f"epochs of {images} images", images)
    section.notes.append("fit's epochs validate on two batches and save checkpoints; the bare loop only trains.")
    return [section]


def _compiled_epoch(
    config: TrainConfig, data: ImageData, modules: GazeDataModule, settings: Settings
) -> Callable[[], None]:
    module = make_module(GazeModule, config, len(data.classes)).to(settings.device)
    optimizer = module.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
    compiled = torch.compile(module.backbone)
    train = on_device(data.train, settings.device)

    def epoch() -> None:
        for batch in batches(train, config.dataset.batch_size, shuffle=True):
            image, target, *_ = modules.prepare(batch, training=True)
            optimizer.zero_grad()
            with autocast(settings, half=True):
                logits = compiled(image)
            F.cross_entropy(logits.float(), target).backward()
            optimizer.step()

    return epoch


# ---- input


def input_pipeline(settings: Settings) -> list[Section]:
    """How fast training images arrive, against the usual way of reading them."""
    section = comparison("Input: Brain Tumor", "GazeDataModule", "ImageFolder, 2 workers", settings)
    if not settings.data.is_dir():
        note = f"Skipped: no folder {settings.data}. Give one with --data PATH or GAZE_SHARED_DATA."
        return [Section(section.title, [], notes=[note])]
    with tempfile.TemporaryDirectory() as folder:
        root = excerpt(settings.data, Path(folder), 4) if settings.quick else settings.data
        _input_row(section, root, settings)
    section.notes.append("Images are decoded once, before the first epoch of A; B decodes them in every epoch.")
    return [section]


def _input_row(section: Section, root: Path, settings: Settings) -> None:
    config = DatasetConfig(
        name="brain_tumor_mri", kind="folder", image_size=settings.image_size, batch_size=settings.batch_size,
        root=str(root), train_dir="Training", test_dir="Testing",
    )  # fmt: skip
    thesis = AugmentationConfig(name="thesis", hflip=0.5, crop_scale=[0.9, 1.0], crop_ratio=[3 / 4, 4 / 3])
    data = GazeDataModule(config, thesis)
    loading = Sample()
    with Stopwatch(loading, settings.device):
        data.setup("fit")
    ours, theirs = data.train_dataloader(), folder_loader(root / "Training", settings)
    a, b = interleave(
        lambda: drain(data.prepare(to_device(batch, settings), training=True) for batch in ours),
        lambda: drain((image.to(settings.device), target.to(settings.device)) for image, target in theirs),
        settings,
        settings.number_of_pairs(cpu=5, cuda=3),
    )
    images = len(data.data.train.targets)
    target = ">= 50" if settings.cuda else ">= 5"
    add_row(section, f"{images} images", a, b, target, f"A's first load: {loading.seconds[0]:.1f} s", images)


def folder_loader(root: Path, settings: Settings) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """torchvision's way, one image at a time in worker processes. They persist: starting them is not timed."""
    size = (settings.image_size, settings.image_size)
    transform = transforms.Compose(
        [
            transforms.Grayscale(),
            transforms.Resize(size),
            transforms.RandomHorizontalFlip(),
            transforms.RandomResizedCrop(size, scale=(0.9, 1.0)),
            transforms.ToTensor(),
            transforms.Normalize(0.5, 0.5),
        ]
    )
    dataset = ImageFolder(str(root), transform)
    return DataLoader(
        dataset, settings.batch_size, shuffle=True, num_workers=2, persistent_workers=True, pin_memory=settings.cuda
    )


def to_device(batch: Batch, settings: Settings) -> Batch:
    return Batch(*(part if part is None else part.to(settings.device, non_blocking=True) for part in batch))


def drain(items: Iterable[object]) -> None:
    for _ in items:
        pass


def excerpt(root: Path, folder: Path, count: int) -> Path:
    """The first ``count`` images of each class, as links."""
    for split in ("Training", "Testing"):
        for source in sorted(path for path in (root / split).iterdir() if path.is_dir()):
            target = folder / split / source.name
            target.mkdir(parents=True)
            for image in sorted(source.glob("*.jpg"))[:count]:
                (target / image.name).symlink_to(image.resolve())
    return folder
