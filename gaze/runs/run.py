"""A run as its folder has it: settings, places of its files, state, rows of its table.

Nobody else joins paths in a run's folder or reads its ``config.json``. Free of PyTorch and pandas: whether a run is
finished is known within milliseconds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from gaze.choices import METHODS, shown
from gaze.config.data import DatasetConfig
from gaze.config.train import TrainConfig
from gaze.config.trainer import PRECISIONS
from gaze.errors import ConfigError, DataError
from gaze.files import MOST_BYTES, check_links, open_regular, read_bytes_of
from gaze.runs.collapse import collapse_of
from gaze.runs.migrate import migrate
from gaze.runs.records import Audit, Environment, Status, endless, read_facts, read_json, read_record
from gaze.runs.status import LOCK_FILE, STATUS_FILE, read_status, run_state

LAST, BEFORE, BEST = "last", "before", "best"  # checkpoints, in the order in which a run resumes from them
RERUN = "rerun"
SHARE = "share"  # below outputs/: copies without ids
ROOT_GIVEN = "dataset.root"  # in audit.json, which stays on this machine: the folder that was given, absolute
NEEDED = ("study", "seed", "lambda", "dataset.name", "model.name", "trainer.max_epochs")  # of config.json
IS_A_RUN = (
    "A run folder is what python train.py leaves: it holds config.json and checkpoints/, as "
    "outputs/STUDY/DATASET/MODEL/lambda=0/seed=0."
)


class Place:
    """The path of a file or folder in a run's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: Run, owner: type[Run]) -> Path:
        return run.folder / self.name


@dataclass(frozen=True)
class Run:
    """One run; equal where the folder is.

    Attributes:
        folder: where it lies, or will.
        given: the settings that it is to be trained with; None where those of ``config.json`` count.
        name: in lists of runs; that of the folder where it is left out.
        overrides: what a grid starts it with, as Hydra takes it.
    """

    folder: Path
    given: TrainConfig | None = field(default=None, compare=False, repr=False)
    name: str = field(default="", compare=False)
    overrides: Sequence[str] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.folder.resolve().name)

    config_file = Place("config.json")
    metrics_file = Place("metrics.csv")
    maps_file = Place("maps.npz")
    kept_maps = Place("gaze_maps.npy")  # of every evaluated image and epoch, see gaze.runs.kept_maps
    last_maps = Place("gaze_last.npz")
    grid_file = Place("gaze_grid.csv")
    audit_file = Place("audit.json")
    images_file = Place("images.json")  # which files its images were, see gaze.data.sources.listing
    environment_file = Place("environment.json")
    test_file = Place("test.json")  # figures on the test images, once, where each epoch is judged by others
    split_file = Place("split.csv")  # which image stands in which part
    predictions_file = Place("predictions.csv")  # of each test image, see gaze.runs.predictions
    classes_file = Place("classes.csv")
    confusion_file = Place("confusion.csv")
    human_file = Place("human.npz")  # how near the gaze is to readers', see gaze.runs.human
    status_file = Place(STATUS_FILE)
    shared_file = Place("shared.json")  # in a copy without ids, see gaze.studies.share
    review_file = Place("review.sqlite")  # experts' answers, see gaze.studies.review.store; a rerun leaves it alone
    csv_logs, wandb_logs = Place("csv"), Place("wandb")  # the latter holds links and stays where it is
    pictures = Place("pictures")
    gaze_picture = Place("pictures/class_gaze.png")
    confusion_picture = Place("pictures/confusion.png")
    checkpoints = Place("checkpoints")
    hydra = Place(".hydra")  # Hydra's own three files, where its users look for them
    previous = Place("previous")  # what had to make room, by number

    def checkpoint(self, name: str = LAST) -> Path:
        """Of :data:`LAST`, :data:`BEFORE` and :data:`BEST`."""
        return self.checkpoints / f"{name}.ckpt"

    @property
    def rerun(self) -> Run:
        """Where it is trained anew while the old one stands."""
        return Run(self.folder / RERUN, self.given)

    @property
    def named(self) -> list[Path]:
        """What a training leaves under fixed names, whether it is there or not."""
        return [
            *(self.hydra, self.config_file, self.metrics_file, self.maps_file, self.environment_file, self.audit_file),
            *(self.kept_maps, self.last_maps, self.grid_file, self.images_file, self.test_file, self.split_file),
            *(self.predictions_file, self.classes_file, self.confusion_file, self.human_file),
            *(self.pictures, self.checkpoints, self.folder / "hparams.yaml", self.status_file),
            self.csv_logs,
        ]

    @property
    def files(self) -> list[Path]:
        """What a training left there."""
        return [path for path in self.named if path.exists()] + list(self.folder.glob("events.out.tfevents.*"))

    @property
    def names(self) -> list[str]:
        """Of all that belongs to it in its folder, which may hold a user's other things as well."""
        return [path.name for path in (*self.named, self.previous, self.folder / RERUN, self.folder / LOCK_FILE)]

    # ---- settings

    @cached_property
    def values(self) -> dict[str, Any]:
        """``config.json`` under today's names, as it stood there at the first look.

        Raises:
            DataError: it is absent, damaged, or has no :data:`NEEDED` setting; a link leads out of the folder.
        """
        check_links(self.folder, *self.names)
        try:
            values = read_json(self.config_file)
        except FileNotFoundError:
            raise DataError("config.json is missing") from None
        for name in NEEDED:
            group, _, key = name.rpartition(".")
            own = values.get(group) if group else values
            if not isinstance(own, dict) or key not in own:
                raise DataError(f"config.json has no {name}")
        problem = endless(values)
        if problem:
            raise DataError(f"config.json: {problem} must be a finite number")
        return migrate(values)

    @cached_property
    def settings(self) -> TrainConfig:
        """Typed; what the run's version did not know is at its default.

        Raises:
            DataError: as :meth:`values`; a setting that this version does not know.
        """
        if self.given is not None:
            return self.given
        try:
            settings = TrainConfig(**self.values)
        except ConfigError as error:
            raise DataError(f"config.json is not of this version of the project: {error}") from error
        _check_trainer(settings.trainer)
        return settings

    @property
    def dataset(self) -> DatasetConfig:
        """Settings of its images, ``dataset.root`` as an absolute path."""
        dataset = self.settings.dataset
        if dataset.root is None:
            return dataset
        root = absolute(dataset.root) if self.given is not None else self.where(dataset.root)
        return dataset.model_copy(update={"root": root})

    def where(self, root: str) -> str:
        """A ``dataset.root`` of ``config.json`` as an absolute path. A relative one is where the training found it,
        which stands in ``audit.json``; else, or where nothing is there any more, it is one from here.
        """
        given = os.path.isabs(os.path.expanduser(root))  # noqa: PTH111, PTH117 - Path raises for ~nobody
        there = None if given else read_facts(self.audit_file, Audit).get(ROOT_GIVEN)
        return there if there and os.path.exists(there) else absolute(root)  # noqa: PTH110 - any text will do

    @property
    def label(self) -> str:
        """Name of the network: ``level2``, ``timm-resnet18``."""
        return self.settings.model.label

    @property
    def precision(self) -> str:
        """One of ``gaze.config.trainer.PRECISIONS``, which Lightning has shorter names for as well."""
        precision = str(self.settings.trainer.get("precision", "32-true"))
        return f"{precision}-true" if precision in ("32", "64") else precision

    @property
    def method(self) -> str:
        """What its CAM is called in print."""
        return METHODS[self.settings.gaze.method].title

    @property
    def keys(self) -> dict[str, Any]:
        """What tells it apart from others in a table."""
        s = self.settings
        return {"study": s.study, "dataset": s.dataset.name, "model": self.label, "lambda": s.lambda_, "seed": s.seed}

    @property
    def words(self) -> tuple[str, ...]:
        """``phantom level2 lambda=50 seed=0``, and what else the name of its folder holds."""
        k, others = self.keys, filter(None, self.folder.name.split(",")[1:])
        return k["dataset"], k["model"], f"lambda={k['lambda']:g}", f"seed={k['seed']}", *others

    @property
    def title(self) -> str:
        """The same in a headline, with the study where that has another name than the data set."""
        k, others = self.keys, self.words[4:]
        names = dict.fromkeys((k["study"], k["dataset"], k["model"]))
        return ", ".join([*names, f"lambda {k['lambda']:g}", f"seed {k['seed']}", *others])

    # ---- what became of it

    @property
    def status(self) -> dict[str, Any]:
        """See :func:`gaze.runs.status.read_status`."""
        return read_status(self.folder)

    @property
    def state(self) -> str | None:
        """See :func:`gaze.runs.status.run_state`."""
        return run_state(self.folder)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device, commit; empty where that is not known."""
        return read_facts(self.environment_file, Environment)

    def check_files(self) -> None:
        """Raise DataError where what it says of itself beside its settings and its table cannot be."""
        read_record(self.status_file, Status)
        read_record(self.environment_file, Environment)

    @property
    def finished(self) -> bool:
        """Whether it ended well and its table is still the one that it wrote."""
        status = self.status
        return status.get("state") == "complete" and status.get("metrics_sha256", "") == self.digest

    @property
    def digest(self) -> str | None:
        """SHA-256 of ``metrics.csv``; None where it is missing."""
        try:
            return hashlib.sha256(read_bytes_of(self.metrics_file)).hexdigest()
        except OSError:
            return None

    def table(self, only: Collection[str] = (), file: Path | None = None) -> tuple[list[str], list[dict[str, float]]]:
        """Columns of ``metrics.csv`` and its rows, one an epoch; empty fields are left out. Nothing where it is absent.

        Args:
            only: columns whose values are read; all of them where none is named.
            file: another table of its.

        Raises:
            DataError: it is damaged.
        """
        path = file or self.metrics_file
        try:
            reader = csv.reader(io.StringIO(read_bytes_of(path).decode(), newline=""))
            columns = next(reader, [])
            places = [(place, name) for place, name in enumerate(columns) if not only or name in only]
            if len({name for _, name in places}) < len(places):
                raise ValueError("a column stands twice in its first line")
            rows = []
            for line in filter(None, reader):
                if len(line) > len(columns):
                    raise ValueError(f"line {reader.line_num} is longer than the first one")
                rows.append({name: _number(line[p], name) for p, name in places if p < len(line) and line[p]})
            return columns, rows
        except FileNotFoundError:
            return [], []
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{path} cannot be read: {error}") from error

    @property
    def rows(self) -> list[dict[str, float]]:
        """Those of :meth:`table`."""
        return self.table()[1]

    @property
    def collapse(self) -> str:
        """How it collapsed (:func:`gaze.runs.collapse.collapse_of`); "" where it did not, or its table is damaged."""
        names = ("val/kappa", "val/gaze_empty_fraction", "val/gaze_consistency", "val/gaze_eta_squared")
        try:
            rows = self.table(names)[1]
        except DataError:
            return ""
        kappa, empty, squared, eta = ([row.get(name, math.nan) for row in rows] for name in names)
        return collapse_of(kappa, empty, [math.sqrt(max(value, 0)) for value in squared], eta)

    @property
    def begun(self) -> bool:
        """Whether it left a whole epoch; a damaged table may hold one."""
        try:
            file = open_regular(self.metrics_file, MOST_BYTES)
            with io.TextIOWrapper(file, encoding="utf-8", newline="") as lines:
                return next(csv.DictReader(lines), None) is not None
        except FileNotFoundError:
            return False
        except (OSError, ValueError, csv.Error):
            return True


def absolute(path: str) -> str:
    """An absolute path; ``X``, ``X/`` and ``./X`` are one."""
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - Path keeps ".."


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{name}={shown(text)} must be a number") from None
    return int(number) if text.isdecimal() and number < 2**53 else number  # epochs and steps stay whole


def _check_trainer(trainer: dict[str, Any]) -> None:
    """What is read back of Lightning's own arguments, which are settings without a type."""
    epochs, precision = trainer["max_epochs"], str(trainer.get("precision", "32-true"))
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise DataError(f"config.json: trainer.max_epochs={shown(epochs)} must be a whole number, 1 or more")
    if precision not in (*PRECISIONS, "32", "64"):
        raise DataError(f"config.json: trainer.precision={shown(precision)} is none of {', '.join(PRECISIONS)}")


def methods(runs: Iterable[Run]) -> str:
    """CAM methods of runs in print, such as "Grad-CAM or HiResCAM"; the default's where nothing says."""
    return " or ".join(sorted({run.method for run in runs})) or METHODS["grad_cam"].title


def runs_below(root: Path) -> Iterator[Run]:
    """Runs in ``root`` and below, in order of their folders' names; earlier ones that made room are none of them, nor
    copies in :data:`SHARE` beside their runs."""
    for folder, inner, files in os.walk(root):
        name = Path(folder).relative_to(root).as_posix()
        run = Run(Path(folder), name="" if name == "." else name)
        if name.startswith(f"{SHARE}/") and run.shared_file.name in files:
            inner.clear()
            continue
        if run.config_file.name in files or run.metrics_file.name in files:
            inner.clear()
            yield run
        inner[:] = sorted(name for name in inner if name not in (run.previous.name, RERUN))


def run_named(root: Path, name: str) -> Run:
    """A run by its name in a list of those in ``root``, which may be that run's folder itself."""
    return Run(root / name if (root / name).is_dir() else root, name=name)


def run_in(folder: Path) -> Run:
    """The run in a folder that somebody named.

    Raises:
        DataError: there is none, or its settings cannot be read.
    """
    run = Run(folder.expanduser())
    if not run.folder.is_dir():
        kind = "is a file, no run folder" if run.folder.exists() else "does not exist"
        raise DataError(f"{folder} {kind}. {IS_A_RUN}")
    try:
        _ = run.settings
    except DataError as error:
        inside = [str(other.folder) for other in islice(runs_below(run.folder), 5)]
        hint = "\nRuns in it:\n  " + "\n  ".join(inside) if inside and inside != [str(run.folder)] else ""
        raise DataError(f"{folder}: {error}. {IS_A_RUN}{hint}") from error
    return run
