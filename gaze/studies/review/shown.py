"""What a reviewer sees: a run's test or training images in an order, each at its file's own size, and the gaze on it.

Images are read and looked at when they are asked for; a few are kept.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from gaze.config.analysis import CompareConfig, ReviewConfig
from gaze.config.costs import Costs
from gaze.data.audit import file_and_frame
from gaze.data.datasets import Split
from gaze.data.decode import Frame, convert_image, grey_image, limits, read_frame
from gaze.errors import ConfigError, DataError
from gaze.files import check_links, file_digest
from gaze.names import visible
from gaze.report.style import GAZE_COLOURS
from gaze.runs.class_gaze import read_run_maps
from gaze.runs.predictions import Predictions, read_predictions
from gaze.statistics.classification import percentiles
from gaze.studies.opened import Opened, check_images, images_at_hand, open_run
from gaze.studies.review.store import Answer, Item, Store
from gaze.terminal import say

AGAIN = (10, 50)  # turns after which a repeated image comes again, or at the end
SIDE = 256  # pixels of a map's picture: it is enlarged as other pictures of maps are, not by the browser
SIDES = ("left side", "right side")
MOST_SIDE = 4096  # pixels of an image that is sent


class Picture(NamedTuple):
    """An image as it can be windowed: ``frame``; the range of its values, and the window that it is first seen in."""

    frame: Frame
    range: tuple[float, float]
    window: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        if self.frame.image is not None:
            return self.frame.image.size
        assert self.frame.values is not None
        return self.frame.values.shape[1], self.frame.values.shape[0]


def queue_of(
    split: Split, names: Sequence[str], found: Predictions | None, config: ReviewConfig, costs: Costs | None = None
) -> list[Item]:
    """Turns: each image once, in the order that is asked for, and ``review.repeat`` of them again, later.

    Args:
        split: the images.
        names: of the classes.
        found: of these images, for an order by them; what has no deviation (a wrong prediction) comes last.
        config: group ``review``.
        costs: of ``review.order=costly``: what a prediction costs, given the truth; of equal ones the expected cost.

    Raises:
        ConfigError: costs that do not fit the classes.
        DataError: the order needs predictions, and there are none or others.
    """
    draw, number = np.random.default_rng(0), len(split.targets)
    order = draw.permutation(number)
    swapped = draw.random(2 * number) < 0.5
    if config.order != "random":
        if found is None or list(found.files) != split.paths:
            why = "is missing" if found is None else "is of other images than the run's test part"
            raise DataError(
                f"review.order={config.order} needs predictions.csv, which {why}: take review.order=random."
            )
        keys = {"worst": -np.nan_to_num(found.deviation, nan=-1.0), "uncertain": found.probabilities.max(1)}
        if costs is not None and config.order == "costly":
            costs.check([found.classes])
            paid = costs.matrix(found.classes)
            expected = (found.probabilities @ paid)[np.arange(number), found.prediction]
            keys["costly"] = -paid[found.truth, found.prediction] - 1e-6 * expected
        order = np.argsort(keys[config.order], kind="stable")
    again = np.sort(draw.choice(number, round(config.repeat * number), replace=False))
    turns = [(float(turn), turn, False) for turn in range(number)]
    turns += [
        (turn + gap + 0.5, turn, True) for turn, gap in zip(again, draw.integers(*AGAIN, len(again)), strict=True)
    ]
    items = []
    for count, (_, turn, repeat) in enumerate(sorted(turns)):
        place = int(order[turn])
        items.append(Item(place, split.paths[place], names[int(split.targets[place])], repeat, bool(swapped[count])))
    return items


class Review:
    """One review at work: runs, images and the file of answers.

    Args:
        config: group ``review``.
        compare: on which device.
        console: told what takes long.
        costs: for ``review.order=costly``.
        trusted: as of :func:`gaze.studies.opened.check_runs`.

    Raises:
        GazeError: a run, its images or the file cannot be used, or do not belong together.
    """

    def __init__(
        self, config: ReviewConfig, compare: CompareConfig, console: Console, costs: Costs | None = None,
        trusted: bool = False,
    ) -> None:  # fmt: skip
        assert config.run is not None
        compare = compare.model_copy(update={"checkpoint": "last"})
        folders = [Path(folder) for folder in (config.run, config.against) if folder is not None]
        self.arms = [open_run(folder, compare, trusted) for folder in folders]
        first, runs = self.arms[0].run, [arm.run for arm in self.arms]
        check_images(runs)
        sets = [images_at_hand(run.dataset, partial(say, console)).data for run in runs]
        for arm, own in zip(self.arms, sets, strict=True):
            arm.check_classes(own.classes)
        self.data, self.split = sets[0], getattr(sets[0], config.images)
        digests = {images_digest(own.classes, getattr(own, config.images)) for own in sets}
        if len({run.folder.resolve() for run in runs}) < len(runs) or len(digests) > 1:
            raise ConfigError(
                f"review.against={config.against} must be another run, on the same {config.images} images."
            )
        self.means = [read_run_maps(run) for run in runs]
        found = None
        if config.order != "random":
            train = config.images == "train"
            found = predicted(self.arms[0], self.split) if train else read_predictions(first)
        queue = queue_of(self.split, self.data.classes, found, config, costs)
        check_links(first.folder, first.review_file.name)
        self.store = Store(
            Path(config.file).expanduser() if config.file is not None else first.review_file,
            digests.pop(), [(run.title, file_digest(run.checkpoint())) for run in runs], queue, config.order,
        )  # fmt: skip
        self.blind, self._one = config.blind, Lock()
        self.picture, self.looked = lru_cache(4)(self._picture), lru_cache(64)(self._looked)

    def close(self) -> None:
        """Let go of the file of answers."""
        self.store.close()

    # ---- what the page asks for

    def turn(self, item: int, reviewer: str) -> dict[str, Any]:
        """What a page shows of an item before and, once this reviewer has answered, after the answer.

        Raises:
            IndexError: there is no such item.
        """
        own = self._item(item)
        picture, given = self.picture(own.place), self.store.answered(reviewer, item).get(item)
        sides = [self._side(own, side) for side in range(len(self.arms))]
        if given is not None and len(self.arms) == 2 and given["verdict"] == "better":
            given["verdict"] = SIDES[(self.store.arms.index(given["arm"])) ^ own.swapped]
        if given is not None:
            del given["arm"]  # two arms stay without names
        width, height = picture.size
        return {
            "item": item, "class": visible(own.truth), "width": width, "height": height, "range": picture.range,
            "window": picture.window, "sides": sides, "answer": given,
            "prediction": self._predicted(own) if given is not None or not self.blind else None,
        }  # fmt: skip

    def answer(self, given: Answer) -> dict[str, Any]:
        """Keep an answer; the turn as it is now.

        Raises:
            IndexError: there is no such item.
            ConfigError: a verdict on one gaze where two are compared, or the other way round.
        """
        own, single = self._item(given.item), len(self.arms) == 1
        if given.verdict in SIDES and not single:
            arm, verdict = self.store.arms[SIDES.index(given.verdict) ^ own.swapped], "better"
        elif given.verdict == "unsure" or (single and given.verdict not in SIDES):
            arm, verdict = self.store.arms[0] if single else "", given.verdict
        else:
            raise ConfigError(f"verdict={given.verdict} is of another kind of review.")
        self.store.add(given, arm, verdict)
        return self.turn(given.item, given.reviewer)

    def image(self, item: int, low: float, high: float) -> bytes:
        """An image as PNG, of 8 bits: ``low`` and below black, ``high`` and above white, by the file's own values.

        Raises:
            IndexError: there is no such item.
        """
        frame = self.picture(self._item(item).place).frame
        if frame.image is None:
            image = grey_image(frame._replace(deep=True), [low, high])
        else:
            image = convert_image(frame.image, 1 if frame.image.mode in ("1", "L") else 3)
            if (low, high) != (0, 255):
                levels = ((np.arange(256) - low) / (high - low) * 255).round().clip(0, 255)
                image = image.point(levels.astype(int).tolist() * len(image.getbands()))
        image.thumbnail((MOST_SIDE, MOST_SIDE))
        return _png(image)

    def map(self, item: int, side: int) -> bytes:
        """A gaze in colours as PNG, square over the whole image.

        Raises:
            IndexError: there is no such item or side.
        """
        own = self._item(item)
        return _coloured(self.looked(own.place)[self._arm(own, side)][0])

    def mean(self, item: int, side: int) -> bytes:
        """The mean gaze of the image's class, as :meth:`map`.

        Raises:
            IndexError: there is no such item or side, or the run kept no such gaze.
        """
        own = self._item(item)
        found = self._mean(own, side)
        if found is None:
            raise IndexError
        return _coloured(found)

    # ---- behind it

    def _item(self, item: int) -> Item:
        if not 0 <= item < len(self.store.queue):
            raise IndexError
        return self.store.queue[item]

    def _arm(self, own: Item, side: int) -> int:
        return range(len(self.arms))[side] ^ own.swapped if len(self.arms) == 2 else range(1)[side]

    def _side(self, own: Item, side: int) -> dict[str, bool]:
        """What is to be seen of a gaze."""
        cam = self.looked(own.place)[self._arm(own, side)][0]
        return {"empty": not cam.any(), "mean": self._mean(own, side) is not None}

    def _mean(self, own: Item, side: int) -> NDArray[np.float32] | None:
        kept = self.means[self._arm(own, side)]
        if kept is None or own.truth not in kept.classes:
            return None
        label = kept.classes.index(own.truth)
        return kept.gaze[label] if kept.counts[label] else None

    def _predicted(self, own: Item) -> list[str]:
        """Class and probability by each side's network."""
        found = []
        for side in range(len(self.arms)):
            chances = self.looked(own.place)[self._arm(own, side)][1]
            name = self.data.classes[int(chances.argmax())]
            found.append(f"{visible(name)} ({chances.max():.2f}), which is {'right' if name == own.truth else 'wrong'}")
        return found

    def _looked(self, place: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Map (H, W) of the true class, and probabilities (K,), by each arm."""
        pixels, target = self.split.images[place : place + 1], self.split.targets[place : place + 1]
        with self._one:
            looked = [arm.look(pixels, target) for arm in self.arms]
        return [(each.cams[0], each.probabilities[0]) for each in looked]

    def _picture(self, place: int) -> Picture:
        """The file where it can still be read, else what the network gets of it."""
        path = Path(self.data.audit.root or "", self.split.paths[place])
        frame = None
        if self.data.audit.root is not None and Path(file_and_frame(str(path))[0]).is_file():
            with suppress(Exception):  # decoders raise many; the pixels that the network gets were read once
                frame = read_frame(path, bool(self.arms[0].dataset.orient))
        if frame is None:
            pixels = self.split.images[place].numpy()
            frame = Frame("", (), Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)))
        if frame.values is None:
            return Picture(frame, (0, 255), (0, 255))
        window = self.arms[0].dataset.window
        low, high = window if isinstance(window, list) and frame.deep else limits(frame.values)
        return Picture(frame, (float(frame.values.min()), float(frame.values.max())), (low, high))


def predicted(arm: Opened, split: Split) -> Predictions:
    """What a run's final evaluation writes of test images, of any others: the network looks at them now."""
    looked, truth = arm.look(split.images, split.targets), split.targets.numpy()
    prediction, deviation = looked.logits.argmax(1), np.full(len(truth), np.nan)
    for label in np.unique(truth):
        own = (truth == label) & (prediction == label)
        if own.any():
            deviation[own] = ((looked.cams[own] - looked.cams[own].mean(0)) ** 2).mean((1, 2))
    return Predictions(
        tuple(arm.classes), split.paths, split.groups, truth, prediction, looked.probabilities, deviation,
        percentiles(deviation, truth), looked.cams.max((1, 2)) == 0, None,
    )  # fmt: skip


def images_digest(classes: Sequence[str], split: Split) -> str:
    """SHA-256 of a set's images: classes, names, which is of which, and pixels."""
    digest = hashlib.sha256(json.dumps([classes, split.paths, split.targets.tolist()]).encode())
    for image in split.images:
        digest.update(image.numpy().tobytes())
    return digest.hexdigest()


def _coloured(cam: NDArray[np.float32]) -> bytes:
    large = np.asarray(Image.fromarray(cam).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return _png(Image.fromarray((255 * matplotlib.colormaps[GAZE_COLOURS](large)[..., :3]).astype(np.uint8)))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
