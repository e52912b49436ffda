"""Run folders as somebody could have sent them: each differs from a good one in one file. No test in here.

A file is put in its place as bytes, or as something that is no file at all: a FIFO, a device, one of 65 MiB.
"""

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Change = Callable[[Path], None]
READ = ""  # it is read all the same
DEEP = b"[" * 100_000 + b"]" * 100_000


class Tampered(NamedTuple):
    """A file of a run, what is done to it, and what the listing says of the run (all of these words), or READ."""

    file: str
    change: Change
    reason: str | tuple[str, ...]


def _bytes(content: bytes) -> Change:
    return lambda path: _put(path, content)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def _huge(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(65 << 20)  # no block of it is written


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _set(name: str, value: Any) -> Change:
    """A dotted key of a JSON file; ``...`` takes it away."""

    def change(path: Path) -> None:
        values = json.loads(path.read_bytes())
        *groups, last = name.split("/")
        own = values
        for group in groups:
            own = own.setdefault(group, {})
        if value is ...:
            del own[last]
        else:
            own[last] = value
        path.write_text(json.dumps(values))

    return change


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def _arrays(**arrays: Any) -> Change:
    """An npz file with some of its arrays replaced; ``...`` leaves one out."""

    def change(path: Path) -> None:
        with np.load(path) as file:
            values = {**file, **arrays}
        np.savez(path, **{name: value for name, value in values.items() if value is not ...})

    return change


def _member(header: bytes, data: bytes = b"", says: int | None = None) -> Change:
    """An npz whose one array has this header, and in the archive's index ``says`` bytes."""

    def change(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("class_gaze", "maps"):
                head = header.ljust(118) + b"\n"
                archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data)
        if says is not None:
            content = path.read_bytes()
            size = struct.pack("<I", len(header.ljust(118) + b"\n") + 10 + len(data))
            path.write_bytes(content.replace(size, struct.pack("<I", says)))

    return change


def _pickled(path: Path) -> None:
    np.savez(path, class_gaze=np.array([print], object), maps=np.array([print], object))


def _row(*lines: str) -> Change:
    """Lines of a table after its first one."""

    def change(path: Path) -> None:
        head = path.read_text().splitlines()[0]
        path.write_text("\n".join([head, *lines]) + "\n")

    return change


def _of_columns(change: Callable[[list[list[str]]], Any]) -> Change:
    def changed(path: Path) -> None:
        rows = [line.split(",") for line in path.read_text().splitlines()]
        change(rows)
        path.write_text("\n".join(map(",".join, rows)) + "\n")

    return changed


def _cell(column: str, value: str, line: int = 1) -> Change:
    return _of_columns(lambda rows: rows[line].__setitem__(rows[0].index(column), value))


def _wide(rows: list[list[str]]) -> None:
    for number, row in enumerate(rows):
        row += [f"val/x{i}" if number == 0 else "1" for i in range(100_000)]


def _whole(name: str) -> list[Tampered]:
    """Of any file of JSON."""
    return [
        Tampered(name, _fifo, (name, "is no regular file but a FIFO")),
        Tampered(name, _device, (name, "is a link out of its folder, to /dev/zero")),
        Tampered(name, _huge, (name, "has 68,157,440 bytes, and at most 67,108,864 are read")),
        Tampered(name, _folder, (name, "Is a directory")),
        Tampered(name, _bytes(b""), f"{name} cannot be read: Expecting value"),
        Tampered(name, _bytes(b"\xff\xfe\xfd"), f"{name} cannot be read: "),
        Tampered(name, _bytes(b"null"), f"{name} must be an object with named values, and is null"),
        Tampered(name, _bytes(b"[1]"), f"{name} must be an object with named values, and is [1]"),
        Tampered(name, _bytes(DEEP), f"{name} is nested deeper than 20 levels"),
        Tampered(name, _set("more", _nested(25)), f"{name} is nested deeper than 20 levels"),
        Tampered(name, _bytes(b'{"a": ' + b"9" * 5000 + b"}"), f"{name} cannot be read: Exceeds the limit"),
    ]


def _setting(name: str, value: Any, reason: str) -> Tampered:
    return Tampered("config.json", _set(name, value), reason)


NO_ARRAYS = [
    _fifo, _folder, _bytes(b""), _bytes(b"PK\x03\x04 cut"), _bytes(b"\x93NUMPY\x01\x00"), _pickled,
    _member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
    _member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
    _member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}"),
    _member(b"{'descr': '<f8', 'fortran_order': False, 'shape': " + b"(" * 60 + b"}"),
    _member(b"{'descr': '<f8', 'fortran_order': 'shape'"),
    _member(b"{'descr': '|V999999999', 'fortran_order': False, 'shape': (2,)}"),
    _member(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", b"0" * 8, says=2**32 - 2),
]  # fmt: skip
CORPUS = [
    *(case for name in ("config.json", "status.json", "environment.json") for case in _whole(name)),
    Tampered("config.json", Path.unlink, "config.json is missing"),
    Tampered("config.json", _bytes(b"{}"), "config.json has no study"),
    _setting("study", ..., "config.json has no study"),
    _setting("study", 5, "study=5 must be text"),
    _setting("study", "../x", "study=../x names a folder: give one name without a slash"),
    _setting("seed", "3", "seed=3 must be a whole number"),
    _setting("seed", -1, "seed=-1 must be a whole number from 0 to below 4294967296"),
    _setting("seed", 10**23, "seed=100000000000000000000000 must be a whole number from 0 to below 4294967296"),
    _setting("seed", True, "seed=true must be a whole number"),
    _setting("lambda", float("inf"), "config.json: lambda=inf must be a finite number"),
    _setting("lambda", float("nan"), "config.json: lambda=nan must be a finite number"),
    _setting("lambda", [1], "lambda=[1] must be a number"),
    _setting("lambda", 10**400, "lambda=1000"),
    _setting("dataset", [1], "config.json has no dataset.name"),
    _setting("dataset/kind", [], "dataset.kind=[] must be text"),
    _setting("dataset/kind", "nowhere", "dataset.kind=nowhere is unknown: phantom"),
    _setting("dataset/image_size", 48.5, "dataset.image_size=48.5 must be a whole number"),
    _setting("dataset/window", {}, READ),  # which a phantom does not have
    _setting("dataset/name", ["a"] * 1000, "dataset.name=['a', 'a'"),
    _setting("dataset/colour", "blue", "dataset.colour=blue: there is no such setting"),
    _setting("dataset/drop_leaked", "x", "dataset.drop_leaked=x must be true or false, or null"),
    _setting("model", None, "config.json has no model.name"),
    _setting("model/source", "elsewhere", "model.source=elsewhere is unknown: gaze, torchvision, timm or own"),
    _setting("optimizer", {"plateau_patience": 3}, "optimizer.plateau_patience=3: there is no such setting"),
    _setting("optimizer/lr", 0, "optimizer.lr=0 must be a number above 0 to 1e+30"),
    _setting("gaze", "grad_cam", "gaze=grad_cam must be a group of settings"),
    _setting("gaze", {"method": {}}, "gaze.method={} must be text"),
    _setting("gaze", {"ema_decay": 1e999}, "config.json: gaze.ema_decay=inf must be a finite number"),
    _setting("augmentation", {"name": "none", "blur": "much"}, "augmentation.blur=much"),
    _setting("self", 1, "self=1: there is no such setting"),
    _setting("trainer", [1], "config.json has no trainer.max_epochs"),
    _setting("trainer/max_epochs", "3", "trainer.max_epochs=3 must be a whole number, 1 or more"),
    _setting("trainer/max_epochs", 1e999, "trainer.max_epochs=inf must be a finite number"),
    _setting("trainer/max_epochs", None, "trainer.max_epochs=null must be a whole number, 1 or more"),
    _setting("trainer/precision", {}, "trainer.precision={} is none of 32-true, 64-true, bf16-mixed, 16-mixed"),
    _setting("trainer/max_steps", [{"a": "b"}], READ),
    Tampered("status.json", _set("state", "well"), "status.json: state=well is unknown: running, complete, failed or"),
    Tampered("status.json", _set("state", ["complete"]), "status.json: state=['complete'] is unknown"),
    Tampered("status.json", _set("seconds", "long"), "status.json: seconds=long must be a number"),
    Tampered("status.json", _set("seconds", float("inf")), "status.json: seconds=inf must be a finite number"),
    Tampered("status.json", _set("ends", {}), "status.json: ends={} must be a number"),
    Tampered("status.json", _set("metrics", [1]), "status.json: metrics=[1] must be a group of settings"),
    Tampered("status.json", _set("metrics/val/kappa", "x"), "status.json: metrics.val={'kappa': 'x'} must be a number"),
    Tampered("status.json", _set("error", None), "status.json: error=null must be text"),
    Tampered("status.json", _set("pid", 10**400), READ),
    Tampered("status.json", Path.unlink, READ),
    Tampered("environment.json", _set("packages", [1]), "environment.json: packages=[1] must be a group of settings"),
    Tampered("environment.json", _set("packages", {"gaze": {}}), "environment.json: packages.gaze={} must be text"),
    Tampered("environment.json", _set("started", 5), "environment.json: started=5 must be text"),
    Tampered("environment.json", Path.unlink, READ),
    Tampered("metrics.csv", _fifo, ("metrics.csv", "is no regular file but a FIFO")),
    Tampered("metrics.csv", _device, ("metrics.csv", "is a link out of its folder, to /dev/zero")),
    Tampered("metrics.csv", _huge, ("metrics.csv", "has 68,157,440 bytes, and at most 67,108,864 are read")),
    Tampered("metrics.csv", _folder, ("metrics.csv", "Is a directory")),
    Tampered("metrics.csv", _bytes(b"\xff\xfe\x00"), "metrics.csv cannot be read"),
    Tampered("metrics.csv", _bytes(b"epoch,val/accuracy\n1,0.5\n"), "metrics.csv: no column kappa"),
    Tampered("metrics.csv", _bytes(b'"' + b"x" * 200_000), "field larger than field limit"),
    Tampered("metrics.csv", _of_columns(lambda rows: rows.append(rows[-1])), "line 5: epoch=3 occurs twice"),
    Tampered("metrics.csv", _of_columns(lambda rows: rows[0].__setitem__(1, "epoch")), "a column stands twice"),
    Tampered("metrics.csv", _of_columns(lambda rows: rows[1].append("1")), "line 2 is longer than the first one"),
    Tampered("metrics.csv", _cell("epoch", "x"), "epoch=x must be a number"),
    Tampered("metrics.csv", _cell("epoch", ""), "line 2: epoch is empty"),
    Tampered("metrics.csv", _cell("epoch", "1.5"), "line 2: epoch=1.5 is not a whole number"),
    Tampered("metrics.csv", _cell("epoch", "9" * 23), "line 2: epoch=1e+23 is outside 1 .. 9007199254740991"),
    Tampered("metrics.csv", _cell("val/accuracy", "83"), "line 2: accuracy=83.0 is outside 0 .. 1"),
    Tampered("metrics.csv", _cell("val/accuracy", "inf"), "line 2: accuracy=inf is outside 0 .. 1"),
    Tampered("metrics.csv", _cell("val/kappa", "1" + "0" * 400), "line 2: kappa=inf is outside -1 .. 1"),
    Tampered("metrics.csv", _of_columns(_wide), READ),
    Tampered("gaze_grid.csv", _fifo, ("gaze_grid.csv", "is no regular file but a FIFO")),
    Tampered("gaze_grid.csv", _row("1,0.1,0.1,2", "1,0.1,0.1,2"), "gaze_grid.csv, line 3: epoch=1 occurs twice"),
    Tampered("gaze_grid.csv", _row("1,x,0.1,2"), "gaze_consistency_cells=x must be a number"),
    Tampered("gaze_grid.csv", _bytes(b"a,b\n1,2\n"), READ),
    *(Tampered(name, _huge, READ) for name in ("audit.json", "images.json")),
    *(Tampered(name, _fifo, READ) for name in ("audit.json", "images.json")),
    *(Tampered(name, change, READ) for name in ("maps.npz", "gaze_last.npz") for change in NO_ARRAYS),
    Tampered("maps.npz", _arrays(class_gaze=...), READ),
    Tampered("maps.npz", _arrays(class_gaze=np.full((2, 3, 3), np.nan)), READ),
    Tampered("maps.npz", _arrays(class_gaze=np.zeros((2, 3))), READ),
    Tampered("maps.npz", _arrays(class_gaze=np.full((2, 3, 3), 7.0)), READ),
    Tampered("maps.npz", _arrays(class_gaze=np.zeros((2, 3, 3), "U3")), READ),
    Tampered("maps.npz", _arrays(counts=np.array([1, 2, 3])), READ),
    Tampered("maps.npz", _arrays(counts=np.array([-1, 2])), READ),
    Tampered("maps.npz", _arrays(epoch=np.array([3, 3])), READ),
    Tampered("maps.npz", _arrays(classes=np.array([1, 2])), READ),
    Tampered("gaze_last.npz", _arrays(maps=np.zeros((4, 8, 8))), READ),
    Tampered("gaze_last.npz", _arrays(maps=np.zeros((0, 8, 8), np.uint8)), READ),
    Tampered("gaze_last.npz", _arrays(target=np.zeros(3, int)), READ),
    Tampered("gaze_last.npz", _arrays(correct=np.zeros((3, 9), np.uint8)), READ),
]


def complete(folder: Path, model: str = "level2", seed: int = 0) -> Path:
    """A finished run of 3 epochs with every file that an analysis reads, its figures made up."""
    folder.mkdir(parents=True)
    values = {
        "study": "study", "seed": seed, "lambda": 0.0, "dataset": {"name": "phantom", "image_size": 48},
        "model": {"name": model}, "optimizer": {"lr": 1e-4}, "trainer": {"max_epochs": 3},
    }  # fmt: skip
    names = ["accuracy", "kappa", "gaze_consistency", "gaze_consistency_l2", "gaze_eta_squared", "loss"]
    rows = [f"{e},{e}," + ",".join(f"{0.05 * e + 0.0001 * seed:.4f}" for _ in names) for e in (1, 2, 3)]
    table = "\n".join([",".join(["epoch", "step", *(f"val/{name}" for name in names)]), *rows]) + "\n"
    status = {"state": "complete", "seconds": 5.0, "metrics": {}}
    environment = {"started": "2026-01-01T00:00:00+0000", "packages": {"gaze": "0.1.0"}}
    for name, content in (("config", values), ("status", status), ("environment", environment), ("audit", {})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "metrics.csv").write_text(table)
    (folder / "gaze_grid.csv").write_text(
        "epoch,gaze_consistency_cells,gaze_consistency_fixed,images_fixed\n1,0.1,0.1,2\n2,0.1,0.1,2\n3,0.1,0.1,2\n"
    )
    gaze, classes = np.full((2, 3, 3), 0.5, np.float32), np.array(["a", "b"])
    np.savez(folder / "maps.npz", class_gaze=gaze, counts=np.array([2, 1]), classes=classes, epoch=np.asarray(3))
    bits = np.packbits(np.ones((3, 4), bool), axis=1)
    np.savez(
        folder / "gaze_last.npz", maps=np.full((4, 8, 8), 9, np.uint8), target=np.array([0, 0, 1, 1]), correct=bits
    )
    return folder


def corpus(root: Path) -> dict[str, Tampered]:
    """One run a case below ``root`` (and not in it: a case may fill its folder), by its name in the listing."""
    good = complete(root / "good")
    cases = {}
    for number, case in enumerate(CORPUS, 1):
        folder = root / f"{number:03d}"
        shutil.copytree(good, folder)
        _set("seed", number)(folder / "config.json")
        case.change(folder / case.file)
        cases[folder.name] = case
    return cases
