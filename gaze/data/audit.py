"""What came: the plain facts about a loaded data set, for a person to glance at and a run to keep.

The trainer stores :meth:`Audit.to_dict` as ``audit.json`` with every run and prints :meth:`Audit.lines`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaze.config.data import Window
from gaze.names import printable

Pixels = NDArray[np.uint8]

# What is odd about an image that is read all the same; "3 images: ..." in the audit.
DEEP = "more than 8 bits"
TURNED = "turned as their EXIF orientation says"
FRAMES = "several frames, of which the first is read"
ALPHA = "a shape in transparency alone, which is dropped"
DEEP_COLOUR = "16 bits a colour, of which the upper 8 are read"


FRAME = re.compile(r"(.+)#(\d+)", re.DOTALL)  # no file that is listed as an image has such a name


def file_and_frame(path: str) -> tuple[str, int | None]:
    """The file and, where ``dataset.frames=all`` made images of its frames, the number (from 0) of ``FILE#NUMBER``."""
    found = FRAME.fullmatch(path)
    return (found[1], int(found[2])) if found else (path, None)


class Record(NamedTuple):
    """One decoded image. ``digest`` is of its values before they are resized, and beyond 8 bits before they are
    converted; ``size`` is (width, height) in pixels before resizing, ``mode`` is Pillow's; ``remarks`` say what is odd.
    """

    path: str
    split: str  # train | validation | test
    label: int
    digest: bytes
    size: tuple[int, int]
    mode: str
    remarks: tuple[str, ...] = ()


@dataclass
class Twins:
    """Pixel-identical images, counted before any is dropped.

    ``groups`` lists what the images of each set of equal ones are called (:func:`gaze.names.shown_name`). The
    ``*_groups`` count those that have two or more images inside one split, two or more classes, or images in both
    splits; ``test_in_train`` counts the test images that also stand in train, and ``train_in_test`` the training
    images that also stand in test.
    """

    groups: list[list[str]] = field(default_factory=list)
    train_groups: int = 0
    test_groups: int = 0
    class_groups: int = 0
    split_groups: int = 0
    test_in_train: int = 0
    train_in_test: int = 0


@dataclass
class Audit:
    """Plain data, JSON-able. Counts are of images in use: after unreadable and leaked ones are left out.

    ``widths`` and ``heights`` are (lowest, highest) in pixels before resizing, ``common_sizes`` maps the three
    most frequent "WIDTHxHEIGHT" to their counts, ``remarks`` what is odd about images to how many there are of them,
    ``window`` says what becomes 0 and 255 in images beyond 8 bits, ``unreadable`` holds "path: cause".
    """

    name: str
    root: str | None
    train_counts: dict[str, int]  # by class
    test_counts: dict[str, int]
    widths: tuple[int, int]
    heights: tuple[int, int]
    common_sizes: dict[str, int]
    modes: dict[str, int]
    remarks: dict[str, int] = field(default_factory=dict)
    window: Window = None
    validation_counts: dict[str, int] | None = None  # None where the test images are what each epoch is judged by
    twins: Twins = field(default_factory=Twins)
    dropped: int = 0  # training images left out because they also stand in test
    unreadable: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # files that are no images, by their name
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Every field, as values that ``json.dumps`` takes."""
        values = asdict(self)
        values["widths"], values["heights"] = list(self.widths), list(self.heights)
        return values

    def lines(self) -> list[str]:
        """The audit for a terminal: a table of counts, then one line for each thing worth knowing."""
        counts = ", ".join(f"{mode} ({n:,})" for mode, n in self.modes.items())
        return [
            f"Data set {self.name}" + (f" in {self.root}" if self.root else ""),
            *self._table(),
            f"  sizes: {self._sizes()}",
            f"  modes: {counts}",
            *(f"  {n:,} images: {remark}" for remark, n in self.remarks.items()),
            *([self._window_line()] if DEEP in self.remarks or self.window == "file" else []),
            *self._twin_lines(),
            *_listed("unreadable, left out", self.unreadable),
            *_listed("left out, no image of a format that is read", self.ignored),
            *(f"  warning: {warning}" for warning in self.warnings),
        ]

    def _table(self) -> list[str]:
        parts = {"train": self.train_counts, "validation": self.validation_counts, "test": self.test_counts}
        shown = {split: counts for split, counts in parts.items() if counts is not None}
        rows = [(name, [counts[name] for counts in shown.values()]) for name in self.train_counts]
        rows.append(("total", [sum(counts.values()) for counts in shown.values()]))
        width = max(len("images"), *(len(name) for name, _ in rows))
        head = f"  {'images':<{width}}" + "".join(f" {split:>{max(8, len(split))}}" for split in shown)
        body = [
            f"  {name:<{width}}" + "".join(f" {n:>{max(8, len(s))},}" for s, n in zip(shown, numbers, strict=True))
            for name, numbers in rows
        ]
        judged = (
            "  each epoch is judged by the test images, as published"
            if self.validation_counts is None
            else "  each epoch is judged by the validation images; the test images are evaluated once, at the end"
        )
        return [head, *body, judged]

    def _sizes(self) -> str:
        common, count = next(iter(self.common_sizes.items()))
        (w0, w1), (h0, h1) = self.widths, self.heights
        if (w0, h0) == (w1, h1):
            return f"all {common}"
        return f"width {w0}-{w1}, height {h0}-{h1} pixels; most often {common} ({count:,})"

    def _window_line(self) -> str:
        return f"  window: {window_text(self.window)} in images of more than 8 bits"

    def _twin_lines(self) -> list[str]:
        t = self.twins
        if not t.groups:
            return ["  pixel-identical images: none"]
        shown = [
            f"  pixel-identical images: {t.train_groups} groups inside train, {t.test_groups} inside test, "
            f"{t.class_groups} across classes (same pixels, different label), {t.split_groups} across train and test"
        ]
        if t.test_in_train:
            shown.append(self._leak_line())
        return shown

    def _leak_line(self) -> str:
        t = self.twins
        tests = sum(self.test_counts.values())
        if self.dropped:
            return f"  {t.test_in_train} of {tests} test images also stood in train; dropped there: {self.dropped}"
        return (
            f"  {t.test_in_train} of {tests} test images also stand in train; "
            f"dataset.on_leak=drop removes those {t.train_in_test} training images"
        )


def window_text(window: Window) -> str:
    """What becomes of images of more than 8 bits, in words."""
    if window == "file":
        return "what a DICOM file says itself, else all that its bits hold, becomes 0 to 255"
    if isinstance(window, str):
        return "0.5 % of each image's pixels become 0 and 0.5 % become 255"
    if window is None:
        return "0 becomes 0 and 65535 becomes 255 (of DICOM files what their bits hold)"
    low, high = (f"{end:.6g}" if isinstance(end, float) else str(end) for end in window)
    return f"{low} becomes 0 and {high} becomes 255"


def pixel_digest(pixels: NDArray[Any]) -> bytes:
    """Sixteen bytes that are equal for equal images: blake2b over the array's shape and its bytes.

    Args:
        pixels: (H, W) or (H, W, 3) uint8, decoded and converted to the channels in use, at native size. So two
            files are twins when a model would see the same image, whatever their names, formats or metadata. Beyond 8
            bits (H, W), the values of the file (:func:`gaze.data.decode.plain_values`): images that differ in them are
            not alike.
    """
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def find_twins(records: Iterable[Record], called: Mapping[Record, str] | None = None) -> Twins:
    """Group images by their digest; ``called`` says what to call them, else it is their path."""
    names = called or {}
    by_digest: defaultdict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        by_digest[record.digest].append(record)
    twins = Twins()
    for group in by_digest.values():
        if len(group) < 2:
            continue
        splits = Counter("test" if record.split == "test" else "train" for record in group)
        twins.groups.append(sorted(names.get(record, printable(record.path)) for record in group))
        twins.train_groups += splits["train"] > 1
        twins.test_groups += splits["test"] > 1
        twins.class_groups += len({record.label for record in group}) > 1
        if len(splits) > 1:
            twins.split_groups += 1
            twins.test_in_train += splits["test"]
            twins.train_in_test += splits["train"]
    twins.groups.sort()
    return twins


def make_audit(
    name: str,
    root: str | None,
    classes: Sequence[str],
    used: Sequence[Record],
    dropped: Sequence[Record] = (),
    called: Mapping[Record, str] | None = None,
) -> Audit:
    """Audit of decoded images; ``unreadable``, ``ignored`` and ``warnings`` are the caller's to fill in.

    Args:
        name: of the data set.
        root: folder that the paths are relative to, or None.
        classes: names, indexed by the records' labels.
        used: images that stay, at least one.
        dropped: leaked training images that do not.
        called: as :func:`find_twins`.
    """
    splits = dict.fromkeys(("train", "test", *(r.split for r in used)))
    by_label = {split: Counter(r.label for r in used if r.split == split) for split in splits}
    counts = {split: {c: own[i] for i, c in enumerate(classes)} for split, own in by_label.items()}
    widths, heights = zip(*(r.size for r in used), strict=True)
    return Audit(
        name=name,
        root=root,
        train_counts=counts["train"],
        test_counts=counts["test"],
        validation_counts=counts.get("validation"),
        widths=(min(widths), max(widths)),
        heights=(min(heights), max(heights)),
        common_sizes={f"{w}x{h}": n for (w, h), n in Counter(r.size for r in used).most_common(3)},
        modes=dict(Counter(r.mode for r in used).most_common()),
        remarks=dict(Counter(remark for r in used for remark in r.remarks).most_common()),
        twins=find_twins([*used, *dropped], called),
        dropped=len(dropped),
    )


def first_few(items: Sequence[str], limit: int = 5) -> list[str]:
    """The first ``limit`` items, printable, and "and N more" when there are more."""
    more = len(items) - limit
    return [*map(printable, items[:limit]), *([f"and {more} more"] if more > 0 else [])]


def _listed(title: str, items: Sequence[str]) -> list[str]:
    return [f"  {title}: {len(items)}", *(f"    {item}" for item in first_few(items))] if items else []
