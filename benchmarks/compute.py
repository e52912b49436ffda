"""Rows about arithmetic: step, validation, maps, precision, memory. Synthetic tensors, no Trainer."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from lightning import seed_everything
from measure import MIB, Section, Settings, add_row, comparison, interleave
from torch import Tensor, nn
from torchmetrics import Metric

from gaze.backbones.levels import LEVELS
from gaze.cam.methods import normalize_cam
from gaze.data.datamodule import Batch
from gaze.metrics.consistency import KEPT, GazeConsistency
from gaze.training.module import GazeModule

CLASSES = 4
WEIGHT = 50.0
NETWORKS = [  # library, name, target of a training step
    ("torchvision", "resnet18", "<= 1.05"),
    ("torchvision", "resnet50", "<= 1.05"),
    ("torchvision", "mobilenet_v3_small", "<= 1.05"),
    ("timm", "vit_tiny_patch16_224", "<= 1.15"),
]
MODES = {"fp32": False, "bf16-mixed": True}  # name: half precision


class LoggedModule(GazeModule):
    """A GazeModule that works without a Trainer: what it would log is kept."""

    trainer = SimpleNamespace(testing=False)  # type: ignore[assignment]

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.logged: dict[str, Tensor | float] = {}

    def log(self, name: str, value: Metric | Tensor | float, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        self.logged[name] = value.compute() if isinstance(value, Metric) else value


def make_module(
    model: str, weight: float, settings: Settings, channels_last: bool = True, source: str = "gaze"
) -> LoggedModule:
    """A module with the same weights whatever its lambda."""
    seed_everything(0, verbose=False)
    # A tiny rate keeps the two compared in the state in which they started, for as many steps as are timed.
    module = LoggedModule(
        model,
        CLASSES,
        image_size=settings.image_size,
        gaze_lambda=weight,
        optimizer={"lr": 1e-6},
        channels_last=channels_last,
        source=source,
    )
    favour_class(module.backbone)
    return module.to(settings.device)


def autocast(settings: Settings, half: bool) -> torch.autocast:
    """As Lightning's precision=bf16-mixed does: around a step, not around its backward."""
    return torch.autocast(settings.device.type, torch.bfloat16, enabled=half)


def make_batch(size: int, settings: Settings) -> Batch:
    """Noise; every other image is of class 0, the one that :func:`favour_class` makes the network find."""
    generator = torch.Generator().manual_seed(0)
    shape = (size, 1, settings.image_size, settings.image_size)
    image = (torch.rand(shape, generator=generator) * 2 - 1).to(settings.device)
    place = torch.arange(size, device=settings.device)
    return Batch(image, torch.where(place % 2 == 0, 0, place % CLASSES), place, None)


@torch.no_grad()
def favour_class(backbone: nn.Module) -> None:
    """Let an untrained network say class 0 of every image, whatever dropout does, and see something in each.

    A network without two correct images of a class, or with empty maps, has no gaze loss to measure.
    """
    *_, linear = (module for module in backbone.modules() if isinstance(module, nn.Linear))
    if not linear.weight.any():  # timm's heads begin so
        nn.init.normal_(linear.weight, std=0.02)
    linear.bias[0] += 10
    linear.weight[0].abs_()


def make_step(module: LoggedModule, batch: Batch, settings: Settings, half: bool) -> Callable[[], None]:
    """One optimisation step, as Lightning's automatic optimisation orders it."""
    optimizer = module.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
    module.train()

    def step() -> None:
        optimizer.zero_grad()
        with autocast(settings, half):
            loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()

    return step


def step(settings: Settings) -> list[Section]:
    """What the gaze loss adds to a training step."""
    section = comparison("Training step", f"lambda={WEIGHT:g}", "lambda=0", settings)
    for model in LEVELS:
        for name, half in MODES.items():
            _step_row(section, model, name, half, settings)
    return [section]


def networks(settings: Settings) -> list[Section]:
    """What the gaze costs networks that are no levels: in a training step, and in evaluation."""
    steps = comparison("Training step of other networks", f"lambda={WEIGHT:g}", "lambda=0", settings)
    passes = comparison("Evaluation of other networks", "validation_step and metrics", "bare forward pass", settings)
    for source, model, target in NETWORKS:
        _step_row(steps, model, "fp32", False, settings, source, settings.number(16, 16, 4), target)
        _validation_row(passes, model, settings, source, settings.number(16, 16, 4), "<= 1.10")
    return [steps, passes]


def _step_row(
    section: Section,
    model: str,
    name: str,
    half: bool,
    settings: Settings,
    source: str = "gaze",
    images: int | None = None,
    target: str | None = None,
) -> None:
    with_gaze, plain = (make_module(model, weight, settings, source=source) for weight in (WEIGHT, 0.0))
    batch = make_batch(images or settings.batch_size, settings)
    steps = [make_step(module, batch, settings, half) for module in (with_gaze, plain)]
    steps[0]()
    first = _gaze_loss(with_gaze, model, name)
    number = settings.number_of_pairs()
    a, b = interleave(*steps, settings, number, repeat=settings.number(1, 10, 1), warmup=settings.number(1, 5, 1))
    last = _gaze_loss(with_gaze, model, name)
    assert "train/loss_gaze" not in plain.logged
    target = target or ("<= 1.10" if model != "level1" else "<= 1.2" if settings.cuda else "<= 1.5")
    add_row(section, f"{model}, {name}", a, b, target, f"gaze loss {first:.4f} .. {last:.4f}")


def _gaze_loss(module: LoggedModule, model: str, name: str) -> float:
    value = float(module.logged["train/loss_gaze"])
    if not value > 0:
        raise RuntimeError(f"{model}, {name}: the gaze loss is {value}, so the step had no gaze to work on.")
    return value


def precision(settings: Settings) -> list[Section]:
    """What half precision and NHWC order gain in plain training."""
    full, half = MODES
    section = comparison(
        "Precision: plain training step (lambda=0)", f"{full}, NCHW", f"{half}, channels_last", settings
    )
    for model in LEVELS:
        modules = [make_module(model, 0.0, settings, channels_last) for channels_last in (False, True)]
        batch = make_batch(settings.batch_size, settings)
        steps = [make_step(m, batch, settings, mode) for m, mode in zip(modules, MODES.values(), strict=True)]
        repeat, warmup = settings.number(1, 10, 1), settings.number(1, 5, 1)
        a, b = interleave(*steps, settings, settings.number_of_pairs(), repeat, warmup)
        add_row(section, model, a, b, "none" if model == "level1" else ">= 2")
    section.notes.append("A / B is how many times as fast half precision is.")
    return [section]


def validation(settings: Settings) -> list[Section]:
    """What Grad-CAM and all metrics add to a pass over evaluation images."""
    section = comparison("Validation", "validation_step and metrics", "bare no_grad forward pass", settings)
    for model in LEVELS:
        target = "<= 1.5" if model == "level1" else "<= 1.15"
        _validation_row(section, model, settings, "gaze", settings.batch_size, target)
    return [section]


def _validation_row(section: Section, model: str, settings: Settings, source: str, images: int, target: str) -> None:
    module = make_module(model, 0.0, settings, source=source).eval()
    batches = [make_batch(images, settings)] * settings.number(4, 40)
    pairs = settings.number_of_pairs()
    a, b = interleave(lambda: evaluate(module, batches), lambda: forward_all(module, batches), settings, pairs)
    kappa, gaze = (float(module.logged[f"val/{name}"]) for name in ("kappa", "gaze_consistency"))
    add_row(section, model, a, b, target, f"{len(batches)} batches, kappa {kappa:.3f}, gaze consistency {gaze:.4f}")


def evaluate(module: GazeModule, batches: list[Batch]) -> None:
    """What Lightning does with an evaluation set, metrics' end included."""
    with torch.inference_mode():
        for index, batch in enumerate(batches):
            module.validation_step(batch, index)
        module.on_validation_epoch_end()


@torch.no_grad()
def forward_all(module: GazeModule, batches: list[Batch]) -> None:
    for batch in batches:
        module.backbone(batch.image)


def maps(settings: Settings) -> list[Section]:
    """What Grad-CAM maps cost over the forward pass that they need anyway."""
    size = settings.number(64, 64, 8)
    section = comparison(f"Maps of {size} images, level2", "GazeModule.look", "bare no_grad forward pass", settings)
    for name, half in MODES.items():
        module = make_module("level2", 0.0, settings).eval()
        batch = make_batch(size, settings)

        def gaze(module: GazeModule = module, batch: Batch = batch, half: bool = half) -> None:
            with autocast(settings, half):
                module.look(batch.image, batch.target)

        def bare(module: GazeModule = module, batch: Batch = batch, half: bool = half) -> None:
            with autocast(settings, half):
                forward_all(module, [batch])

        # The two differ by little, so this row takes more pairs.
        number, repeat = settings.number_of_pairs(cpu=15), settings.number(1, 10, 1)
        a, b = interleave(gaze, bare, settings, number, repeat, warmup=2)
        filled = float((module.look(batch.image, batch.target).cam.amax((1, 2)) > 0).float().mean())
        add_row(section, name, a, b, "<= 1.02", f"{filled:.0%} of the maps are not empty")
    return [section]


def memory(settings: Settings) -> list[Section]:
    """Whether the squared gaze consistency stays as small as it starts."""
    header = ["maps of 28x28", "states", "growth of resident memory", "gaze consistency"]
    section = Section(f"Memory of GazeConsistency({CLASSES})", header)
    sizes = set()
    _feed(GazeConsistency(CLASSES), 1000)  # threads and allocators take their own share at first use
    for count in (1000, 2000, 4000) if settings.quick else (10**3, 10**5, 10**6):
        metric = GazeConsistency(CLASSES)
        before = _resident()
        grown = _feed(metric, count) - before
        states = sum(tensor.nbytes for tensor in metric.metric_state.values() if isinstance(tensor, Tensor))
        sizes.add(states)
        section.rows.append([f"{count:,}", f"{states:,} bytes", f"{grown / MIB:+.1f} MiB", f"{metric.compute():.4f}"])
    section.notes.append(f"States are {'constant' if len(sizes) == 1 else 'NOT constant'}; target: constant.")
    section.notes.append(f"Kept as they are, the maps would take {28 * 28 * 4} bytes each. Measured on the CPU.")
    return [section]


def kept(settings: Settings) -> list[Section]:
    """Whether the l2 form, which keeps its maps, stays within its limit, and what half precision costs it."""
    header = ["maps of 112x112", "as float32", "growth of peak memory", "l2 form", "off the two-pass value in float64"]
    section = Section(f"Memory of GazeConsistency({CLASSES}, 'l2')", header)
    coarse = torch.rand(1000, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    maps, target = normalize_cam(F.interpolate(coarse, size=112, mode="bilinear")[:, 0]), torch.arange(1000) % CLASSES
    away = [(own := maps[target == c].double()) - own.mean(0) for c in range(CLASSES)]
    exact = float(torch.cat(away).flatten(1).norm(dim=1).mean()) / 112**2
    for count in (1000, 2000) if settings.quick else (10**3, 10**5):
        metric, before = GazeConsistency(CLASSES, "l2"), _peak()
        for _ in range(count // 1000):  # the same again, so that the value stays
            for cam, own in zip(maps.split(50), target.split(50), strict=True):
                metric.update(cam, own, own)
        value, grown = float(metric.compute()), _peak() - before
        figures = [f"{grown / MIB:+.0f} MiB", f"{value:.8f}", f"{value / exact - 1:+.1e}"]
        section.rows.append([f"{count:,}", f"{count * 112**2 * 4 / MIB:,.0f} MiB", *figures])
    section.notes.append(f"More than {KEPT / MIB:.0f} MiB go to a temporary file in half precision. On the CPU.")
    return [section]


def _peak() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _feed(metric: GazeConsistency, count: int, size: int = 250) -> int:
    """Update with fresh random maps; returns the highest resident memory seen."""
    highest = 0
    target = torch.arange(size) % CLASSES
    for start in range(0, count, size):
        cam = torch.rand(size, 28, 28)
        metric.update(cam, target, target)
        if start % (100 * size) == 0 or start + size >= count:
            highest = max(highest, _resident())
    return highest


def _resident() -> int:
    """Bytes of this process in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError as error:
        raise SystemExit("The row memory reads /proc/self/statm, which only Linux has.") from error
    return pages * os.sysconf("SC_PAGE_SIZE")
