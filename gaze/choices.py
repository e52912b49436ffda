"""What a user chooses by a word: CAM methods, distances, data sources, augmentations, a registry each. No PyTorch.

An entry names its code as text, which is imported when it is used. To add one, write an entry below or, before a run
and in every process of it, ``METHODS.add(Method("mine", "My CAM", "a paper", "my_package.cams:my_cam"))``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar

from gaze.errors import ConfigError


def did_you_mean(word: str, known: Iterable[str], most: int = 3) -> str:
    """``"Did you mean layer4 or layer3? "``; nothing where no name is near."""
    near = difflib.get_close_matches(word, list(known), n=most)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def unknown(setting: str, word: str, known: Iterable[str]) -> str:
    """Message for a word that is none of those a setting takes, with the nearest of them."""
    words = list(known)
    return f"{setting}={word} is unknown: {either(words)}. {did_you_mean(word, words, 1)}".rstrip()


def unknown_network(word: str, known: Iterable[str]) -> str:
    """The same of a network, which may be one that another library has."""
    text = unknown("model", word, known)
    others = (f"model={source} model.name={word}" for source in ("torchvision", "timm"))
    return text if text.endswith("?") else f"{text} A network of another library: {either(others)}."


def either(words: Iterable[str]) -> str:
    """``"a, b or c"``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def shown(value: Any, most: int = 80) -> str:
    """A value as a person writes it on the command line, for the middle of a line: ``most`` characters, none of
    control."""
    text = {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda sign: repr(sign[0])[1:-1], text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


@dataclass(frozen=True)
class Entry:
    """What a registry holds: a word, and what it is called in print."""

    name: str
    title: str


@dataclass(frozen=True)
class Choice(Entry):
    """An entry that names code.

    Attributes:
        source: where it was published; "" for what has no paper.
        code: where it stands, as ``package.module:name``.
    """

    source: str
    code: str

    @cached_property
    def function(self) -> Any:
        """The code itself, imported at the first use."""
        return _imported(self.code)


def _imported(code: str) -> Any:
    module, _, name = code.partition(":")
    return getattr(import_module(module), name)


class Method(Choice):
    """A CAM: ``(features (B, M, H, W), score (B,), *, create_graph, retain_graph) -> maps (B, H, W), >= 0``, not yet
    normalised, and differentiable as often as the head is; the last two arguments are for ``torch.autograd.grad``."""


@dataclass(frozen=True)
class Distance(Choice):
    """A distance: ``(maps (B, H, W) in [0, 1], references (B, H, W)) -> (B,)``, differentiable in both, 0..``most``."""

    most: float = 1.0


@dataclass(frozen=True)
class Source(Choice):
    """Where images come from: ``(config: DatasetConfig, say) -> gaze.data.datasets.ImageData``.

    Attributes:
        needs: settings of the group ``dataset`` of which one has to be given.
        takes: others that it reads and not every source does.
        groups: choices of the group ``dataset`` that are such; none where it has no YAML here.
        listing: code that finds its files without decoding any, as ``code``, so that a run notices when they change:
            ``(folder: Path, config: DatasetConfig, remedy) -> gaze.data.sources.listing.Listing``; "" where there are
            none.
        masks: whether it may have masks of its own, without ``dataset.mask_dir``.
    """

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    listing: str = ""
    masks: bool = True

    @property
    def lister(self) -> Any:
        """The code of ``listing``, or None."""
        return _imported(self.listing) if self.listing else None

    def reads(self, name: str) -> bool:
        """Whether it reads a setting of the group ``dataset``: what no source names, all do."""
        return name in self.own or not readers(name)

    @cached_property
    def own(self) -> frozenset[str]:
        """Settings of the group ``dataset`` that it names as its."""
        return frozenset((*self.needs, *self.takes))


def readers(name: str) -> list[Source]:
    """Sources that name a setting of the group ``dataset`` as theirs."""
    return [source for source in SOURCES.values() if name in source.own]


LEAST = 1e-6  # strength of an augmentation that is on


@dataclass(frozen=True)
class Augmentation(Choice):
    """What may happen to a training image, by a strength under its name in the group ``augmentation``. The title says
    it with ``{}`` for the strength.

    Attributes:
        off: the strength that does nothing: a number, or a pair (low, high) that each image draws from.
        most: the largest strength.
        scope: "image": ``(strength, side in pixels) -> a torchvision.transforms.v2.Transform`` of one image in 0..1
            and its mask. "label": ``(alpha=strength, num_classes=K) -> a callable`` that mixes a batch and its labels.
            "frame": a setting of the flips and crops of a whole batch.
    """

    off: float | list[float] = 0.0
    most: float = 100_000.0
    scope: str = "image"

    def strength(self, value: Any) -> float | list[float]:
        """``value`` as plain numbers.

        Raises:
            ConfigError: it is none, or out of range.
        """
        pair = isinstance(self.off, list)
        numbers = list(value) if pair and isinstance(value, list | tuple) else [value]
        if numbers and all(
            isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= self.most for n in numbers
        ):
            numbers = [float(n) for n in numbers]
            low, high = numbers[0], numbers[-1]
            if not pair and (low == 0 or low >= LEAST):
                return low
            if pair and (numbers == self.off or (len(numbers) == 2 and LEAST <= low <= high)):
                return numbers
        limits = f"{LEAST:g} <= low <= high <= {self.most:g}"
        wanted = f"[low, high] with {limits}, or {self.off}" if pair else f"{LEAST:g} .. {self.most:g}, or 0"
        raise ConfigError(f"augmentation.{self.name}={shown(value)} must be {wanted} (off): {self.title.format('X')}.")


E = TypeVar("E", bound=Entry)


class Registry(dict[str, E]):
    """Entries by their words, in order. A word that is not there is a ConfigError that names the nearest."""

    def __init__(self, setting: str, *entries: E) -> None:
        super().__init__()
        self.setting = setting
        for entry in entries:
            self.add(entry)

    def add(self, entry: E) -> None:
        """Put an entry behind the others.

        Raises:
            ValueError: its word is taken.
        """
        if entry.name in self:
            raise ValueError(f"{self.setting}={entry.name} is there already: {self[entry.name]}.")
        self[entry.name] = entry

    def __missing__(self, word: str) -> E:
        raise ConfigError(unknown(self.setting, str(word), self))


CAM, DISTANCE, AUGMENT = "gaze.cam.methods", "gaze.consistency.distances", "gaze.data.augment"
FRAME = f"{AUGMENT}:random_affine"
SPLITS = "gaze.data.sources.listing:list_splits"

METHODS = Registry(
    "gaze.method",
    Method("grad_cam", "Grad-CAM", "Selvaraju et al. 2017, arXiv:1610.02391", f"{CAM}:grad_cam"),
    Method("hires_cam", "HiResCAM", "Draelos and Carin 2020, arXiv:2011.08891", f"{CAM}:hires_cam"),
    Method("grad_cam_pp", "Grad-CAM++", "Chattopadhay et al. 2018, arXiv:1710.11063", f"{CAM}:grad_cam_pp"),
    Method("layer_cam", "LayerCAM", "Jiang et al. 2021, IEEE TIP 30", f"{CAM}:layer_cam"),
    Method("cam", "CAM", "Zhou et al. 2016, arXiv:1512.04150", f"{CAM}:class_activation_map"),
)
DISTANCES = Registry(
    "gaze.distance",
    Distance("squared", "squared", "thesis, Eq. 9", f"{DISTANCE}:squared"),
    Distance("l2", "l2", "thesis, published runs", f"{DISTANCE}:l2"),
    Distance("l1", "l1", "", f"{DISTANCE}:l1"),
    Distance("pearson", "Pearson", "", f"{DISTANCE}:pearson", most=2.0),
    Distance("js", "Jensen-Shannon", "Lin 1991, IEEE TIT 37", f"{DISTANCE}:js"),
    Distance("ssim", "SSIM", "Wang et al. 2004, IEEE TIP 13", f"{DISTANCE}:ssim", most=2.0),
    Distance("soft_iou", "soft IoU", "Ruzicka 1958", f"{DISTANCE}:soft_iou"),
)
GUIDANCE = Registry(  # maps and the share of each cell inside the mask, both (B, H, W) -> (B,), 0 where all lies inside
    "gaze.mask_form",
    Choice("energy", "share of the energy outside the mask", "Rao et al. 2023, arXiv:2303.11932",
           "gaze.consistency.guidance:energy_outside"),
    Choice("outside", "mean of the map outside the mask", "after Ross et al. 2017, arXiv:1703.03717",
           "gaze.consistency.guidance:mean_outside"),
    Choice("attention", "KL divergence of readers' attention from the map", "",
           "gaze.consistency.guidance:attention_kl"),
)  # fmt: skip
FOLDS = ("folds", "fold")  # settings of cross-validation
FILES = (*FOLDS, "window", "orient", "interpolation", "on_bad_image", "on_missing_mask")  # of images that lie in files
PAIR = (
    *FILES,
    "frames",
    "train_dir",
    "test_dir",
    "val_dir",
    "train_counts",
    "test_counts",
    "mask_dir",
)  # of two folders of class folders
SOURCES = Registry(
    "dataset.kind",
    Source(
        "phantom", "drawn slices of heads", "", "gaze.data.datasets:load_phantom",
        groups=("phantom", "phantom_shortcut"),
    ),
    Source(
        "folder", "class folders of images, ROOT/train/CLASS/*.png and ROOT/test/CLASS/*.png", "",
        "gaze.data.datasets:load_folders", needs=("root",), takes=(*PAIR, "test"), groups=("folder",), listing=SPLITS,
        masks=False,
    ),
    Source(
        "table", "images that a table names (CSV, TSV, Parquet, decathlon JSON, a folder with metadata.csv)", "",
        "gaze.data.datasets:load_table", needs=("table", "root"),
        takes=(*FILES, "frames", "columns", "outside", "test"), groups=("table",),
        listing="gaze.data.sources.table:list_table",
    ),
    Source(
        "npz", "a file of MedMNIST", "Yang et al. 2023", "gaze.data.datasets:load_npz", needs=("root",),
        takes=(*FOLDS, "interpolation", "test"), groups=("npz",), masks=False,
    ),
    Source(
        "kaggle", "class folders of images, published at Kaggle", "", "gaze.data.datasets:load_folders",
        needs=("handle", "root"), takes=PAIR, groups=("brain_tumor_mri", "chest_xray"), listing=SPLITS,
        masks=False,
    ),
    Source(
        "ultrasound", "images and masks side by side, without a published split", "Al-Dhabyani et al. 2020",
        "gaze.data.datasets:load_ultrasound", needs=("handle", "root"),
        takes=(*FILES, "classes", "counts", "test_fraction"), groups=("breast_ultrasound",),
        listing="gaze.data.sources.ultrasound:list_pairs",
    ),
)  # fmt: skip
MOVES = ("rotation", "translation", "elastic")  # of single images; flips and crops have matrices
AUGMENTATIONS = Registry(  # in the order in which they are applied
    "augmentation",
    Augmentation("hflip", "mirrored left to right with probability {}", "", FRAME, 0.0, 1.0, "frame"),
    Augmentation("crop_scale", "cropped to {} of the area", "", FRAME, [1.0, 1.0], 1.0, "frame"),
    Augmentation("crop_ratio", "crop's width / height {}", "", FRAME, [1.0, 1.0], scope="frame"),
    Augmentation("rotation", "turned by up to {} degrees to either side", "", f"{AUGMENT}:rotation", most=180.0),
    Augmentation("translation", "moved by up to {} of the side", "", f"{AUGMENT}:translation", most=1.0),
    Augmentation("elastic", "bent by a smooth field of strength {} (share of the side)", "Simard et al. 2003",
                 f"{AUGMENT}:elastic"),
    Augmentation("brightness", "brightness changed by a share of up to {}", "", f"{AUGMENT}:brightness", most=1.0),
    Augmentation("contrast", "contrast changed by a share of up to {}", "", f"{AUGMENT}:contrast", most=1.0),
    Augmentation("gamma", "grey values to a power of {}", "", f"{AUGMENT}:gamma", [1.0, 1.0]),
    Augmentation("blur", "blurred with an SD of {} of the side", "", f"{AUGMENT}:blur", [0.0, 0.0], 0.2),
    Augmentation("noise", "noise with an SD of {} of the range", "", f"{AUGMENT}:noise"),
    Augmentation("erasing", "a rectangle erased with probability {}",
                 "Zhong et al. 2020, arXiv:1708.04896", f"{AUGMENT}:erasing", most=1.0),
    Augmentation("mixup", "blended with another image, alpha {}", "Zhang et al. 2018, arXiv:1710.09412",
                 "torchvision.transforms.v2:MixUp", scope="label"),
    Augmentation("cutmix", "a rectangle from another image, alpha {}", "Yun et al. 2019, arXiv:1905.04899",
                 "torchvision.transforms.v2:CutMix", scope="label"),
)  # fmt: skip
