"""Images that a table names: CSV or TSV, Parquet, Hugging Face's metadata files, MONAI's decathlon JSON.

    file_name,label,patient,split,mask

Each row is an image: its file below ``dataset.root``, its class, and where such a column stands there, what it belongs
to (a patient, which no split divides), its split and its lesion mask. ``dataset.columns`` gives other names. The table
is checked as a whole, before an image is decoded; what is wrong comes as one error with a line each. Nothing of it is
taken for a number, a formula or a path beyond ``root``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import posixpath
import stat
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gaze.choices import did_you_mean
from gaze.config.data import ROLES, DatasetConfig
from gaze.data.audit import first_few
from gaze.data.sources.folders import Folder, entries
from gaze.data.sources.listing import Listing, MaskFiles, checked_masks, used_parts
from gaze.errors import ConfigError, DataError
from gaze.files import open_regular, read_bytes_of
from gaze.names import printable

MOST_BYTES = 1 << 28  # of a table
MOST_ROWS = 5_000_000
LONGEST = 200  # characters of a label
PARTS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
METADATA = ("metadata.csv", "metadata.parquet")  # of Hugging Face's ImageFolder
WANTED = (
    "Give a table of file names and labels, dataset.table=labels.csv dataset.root=PATH, or a folder with metadata.csv."
)
Columns = dict[str, Sequence[str]]


class Row(NamedTuple):
    """One image as its table has it: ``place`` says where, ``file`` is below the root, an empty text stands for
    nothing."""

    place: str
    file: str
    label: str
    patient: str
    part: str
    mask: str


def list_table(root: Path, config: DatasetConfig, remedy: str) -> Listing:
    """What a table names; nothing is decoded.

    Args:
        root: what its file names are relative to.
        config: group ``dataset``; ``table`` lies in the folder where the program runs, or below ``root``.
        remedy: a sentence on what to do, which ends an error.

    Raises:
        DataError: the table cannot be read or used, with a line for each thing that is wrong.
        ConfigError: it is a Parquet file, and pyarrow is not installed.
    """
    tables = _tables(root, config)
    rows = [row for file, below, part in tables for row in _rows(file, below, part, config)]
    name = str(tables[0][0])
    rows, problems = _resolved(root, rows, config)
    problems += _contradictions(rows)
    if problems:
        raise DataError("\n  ".join([f"{name} cannot be used:", *problems]) + (f"\n{remedy}" if remedy else ""))
    return _listing(root, name, rows, config)


def _listing(root: Path, name: str, rows: list[Row], config: DatasetConfig) -> Listing:
    there = sorted({row.part for row in rows})
    parts = used_parts(name, there, config)
    left = sum(row.part not in parts for row in rows)
    rows = [row for row in rows if row.part in parts]
    classes = sorted({row.label for row in rows}, key=_order({row.label for row in rows}))
    folders = {part: Folder(part, {label: [] for label in classes}, []) for part in parts}
    unique = {(row.part, row.file): row for row in rows}
    for part, file in sorted(unique):
        folders[part].files[unique[part, file].label].append(file)
    drawn = ("test" not in parts) + ("validation" not in parts and config.validation != "test")
    _check_classes(name, folders, classes, 1 + drawn)
    warnings = []
    if left:
        warnings.append(f"{left} validation images are not used: dataset.validation={config.validation}")
    if len(unique) < len(rows):
        warnings.append(f"{len(rows) - len(unique)} rows name a file again, with the same label: each counts once")
    groups = {row.file: row.patient for row in rows if row.patient}
    return Listing(root, folders, _masks(root, name, rows, config), warnings, groups or None)


def _order(labels: set[str]) -> Any:
    """By their value where all are numbers."""
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return None
    return (lambda label: (values[label], label)) if all(map(math.isfinite, values.values())) else None


def _check_classes(name: str, folders: dict[str, Folder], classes: list[str], fewest: int) -> None:
    if len(classes) < 2:
        raise DataError(f"{name} has one label, {printable(classes[0])}: two or more are needed.")
    train = folders["train"].counts
    if unseen := [label for label, count in train.items() if not count]:
        raise DataError(f"{name}: labels that no training image has: {len(unseen)} ({', '.join(first_few(unseen))}).")
    for part, folder in folders.items():
        if absent := [label for label, count in folder.counts.items() if not count]:
            said = ", ".join(first_few(absent))
            raise DataError(f"{name}: {part} has no image of {len(absent)} of {len(classes)} labels ({said}).")
    if few := [label for label, count in train.items() if count < fewest]:
        said = ", ".join(first_few(few))
        raise DataError(
            f"{name}: {len(few)} of {len(classes)} labels have fewer images than parts that need one ({said}). "
            "Is it the column of labels? dataset.columns={label: NAME} names another."
        )


def _masks(root: Path, name: str, rows: list[Row], config: DatasetConfig) -> MaskFiles | None:
    files = defaultdict[str, list[str]](list)
    for row in rows:
        if row.mask and row.mask not in files[row.file]:
            files[row.file].append(row.mask)
    if not any(files.values()):
        return None
    if config.frames == "all":
        raise DataError(f"{name} has a mask for each file, and dataset.frames=all takes several images of it.")
    return checked_masks(root, list({row.file: None for row in rows}), files, config)


# ---- files


def _tables(root: Path, config: DatasetConfig) -> list[tuple[Path, str, str]]:
    """Tables, the folder below the root that their names are relative to, and the part that all their images are of."""
    if config.table is not None:
        given = Path(config.table).expanduser()
        found = next((file for file in (given, root / given) if file.exists()), None)
        if found is None:
            near = did_you_mean(given.name, [entry.name for entry in entries(root)])
            raise DataError(f"dataset.table={config.table} does not exist, neither here nor in {root}. {near}".strip())
        if found.is_dir():
            raise DataError(f"dataset.table={config.table} is a folder: give a file. {WANTED}")
        return [(found, "", "")]
    for name in METADATA:
        if (root / name).is_file():
            return [(root / name, "", "")]
    found_parts = [
        (entry / name, entry.name, PARTS[entry.name.lower()])
        for entry in entries(root)
        for name in METADATA
        if entry.name.lower() in PARTS and (entry / name).is_file()
    ]
    if not found_parts:
        raise DataError(f"{root} has no {' or '.join(METADATA)}, nor has a folder train/ in it. {WANTED}")
    return found_parts


def _rows(file: Path, below: str, part: str, config: DatasetConfig) -> list[Row]:
    try:
        with open_regular(file, MOST_BYTES) as opened:
            head = opened.read(4)
        if head == b"PAR1":
            columns = _parquet(file, config)
        elif head[:2] == b"PK":
            raise DataError(f"{file} is a workbook or an archive: save the table as CSV.")
        else:
            columns = text_columns(file, read_bytes_of(file, MOST_BYTES))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
    own = {role: _column(file, columns, role, config) for role in ROLES}
    names = own["file_name"] or ()
    if not names:
        raise DataError(f"{file} has 0 rows.")
    if len(names) > MOST_ROWS:
        raise DataError(f"{file} has {len(names):,} rows, and at most {MOST_ROWS:,} are read.")
    splits = own["split"] if not part else None
    if splits is None and not part and file.name in METADATA:  # as Hugging Face's, which folders divide
        first = [name.replace("\\", "/").partition("/")[0] for name in names]
        splits = first if all(name.lower() in PARTS for name in first) else None
    nothing = [""] * len(names)
    joined = zip(
        (posixpath.join(below, name) if name else "" for name in names), own["label"] or nothing,
        own["patient"] or nothing, splits or [part or "train"] * len(names),
        (posixpath.join(below, name) if name else "" for name in own["mask"] or nothing), strict=True,
    )  # fmt: skip
    return [Row(f"row {number}", *each) for number, each in enumerate(joined, 1)]


def _column(file: Path, columns: Columns, role: str, config: DatasetConfig) -> list[str] | None:
    """A column's cells without blanks around them; None where an optional one is not there."""
    given = (config.columns or {}).get(role)
    name = given or (role if role in columns or role != "file_name" else "image")
    if name in columns:
        return [cell.strip() for cell in columns[name]]
    if given is None and role not in ("file_name", "label"):
        return None
    name = given or role
    hint, there = did_you_mean(name, columns), ", ".join(first_few(_cut(list(columns)), 20))
    raise DataError(
        f"{file} has no column {printable(name)}; it has: {there}. {hint}Name the column with "
        f"dataset.columns={{{role}: NAME}}."
    )


def text_columns(file: Path, data: bytes) -> Columns:
    """Cells of a CSV or TSV, or of a decathlon file, by the names of their columns.

    Raises:
        DataError: it is none, or has lines of other lengths than its head.
    """
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file} is no UTF-8 text: save the table as CSV in UTF-8.") from None
    if text.lstrip()[:1] in ("{", "["):
        return _decathlon(file, text)
    head = next(iter(text.splitlines()), "")
    separator = max(",;\t", key=head.count)
    try:
        read = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines = [line for line in read if any(line)]
    except csv.Error as error:
        raise DataError(f"{file} is no CSV: {error}.") from error
    if not lines:
        raise DataError(f"{file} is empty.")
    names = [name.strip() for name in lines[0]]
    while names and not names[-1]:
        names.pop()
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file} has two columns {', '.join(first_few(twice))}.")
    for number, line in enumerate(lines[1:], 1):
        if len(line) < len(names) or any(line[len(names) :]):
            raise DataError(f"{file}, row {number}: {len(line)} cells under {len(names)} names of columns.")
    cells: list[Sequence[str]] = list(zip(*(line[: len(names)] for line in lines[1:]), strict=True))
    return dict(zip(names, cells or [()] * len(names), strict=True))


def _decathlon(file: Path, text: str) -> Columns:
    """Lists of images by part, as ``{"training": [{"image": "a.png", "label": 1}], "test": []}``."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {str(error)[:200]}.") from error
    lists = {k: v for k, v in found.items() if k in PARTS and isinstance(v, list)} if isinstance(found, dict) else {}
    if not lists:
        raise DataError(f"{file} has no list training, validation or test, as MONAI's decathlon files have.")
    rows = [
        {"split": part} | ({"image": image} if isinstance(image, str) else image)
        for part, images in lists.items()
        for image in images
        if isinstance(image, str | dict)
    ]
    if len(rows) < sum(map(len, lists.values())):
        raise DataError(f"{file}: an image must be a name, or have image and label.")
    names = list(dict.fromkeys(["image", "label", *(name for row in rows for name in row)]))
    wanted = [name for name in names if name not in found]
    return {name: [_text(file, name, row.get(name)) for row in rows] for name in wanted}


def _parquet(file: Path, config: DatasetConfig) -> Columns:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            f"{file} is Parquet, which needs pyarrow: pip install 'gaze-consistency[parquet]'; or save it as CSV."
        ) from error
    wanted = {*ROLES, "image", *(config.columns or {}).values()}
    try:
        with open_regular(file, MOST_BYTES) as opened, parquet.ParquetFile(opened) as source:
            names = source.schema_arrow.names
            if source.metadata.num_rows > MOST_ROWS:
                raise DataError(f"{file} has {source.metadata.num_rows:,} rows, and at most {MOST_ROWS:,} are read.")
            found = source.read(columns=[name for name in names if name in wanted]).to_pydict()
    except (ArrowException, ValueError, MemoryError) as error:
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}.") from error
    others: Columns = dict.fromkeys(names, ())
    return others | {name: [_text(file, name, value) for value in values] for name, values in found.items()}


def _text(file: Path, name: str, value: Any) -> str:
    """A value as CSV would have it."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str | int | float):
        what = "several labels an image, and one class is taken" if name == "label" else f"a {type(value).__name__}"
        raise DataError(f"{file}: column {printable(name)} holds {what}.")
    return str(value)


# ---- what is wrong


def _resolved(root: Path, rows: list[Row], config: DatasetConfig) -> tuple[list[Row], list[str]]:
    """Rows with the paths of their files from ``root`` on, and what is wrong with them, a line each."""
    home, outside, missing = os.path.realpath(root), list[str](), dict[str, list[str]]()
    folders: dict[str, str] = {}

    def real(folder: str) -> str:
        if folder not in folders:
            folders[folder] = os.path.realpath(f"{home}/{folder}")
        return folders[folder]

    def resolved(name: str, what: str) -> str:
        path = posixpath.normpath(name)
        if posixpath.isabs(path):
            path = os.path.relpath(path, home)
        try:
            mode = os.lstat(f"{home}/{path}").st_mode
            if stat.S_ISLNK(mode):
                place = os.path.realpath(f"{home}/{path}")
                mode = os.stat(place).st_mode  # noqa: PTH116
            else:
                place = real(posixpath.dirname(path))
        except (OSError, ValueError):  # a name with a null byte
            place, mode = home if not path.startswith("..") else "", 0
        if not config.outside and (path == ".." or path.startswith("../") or not f"{place}/".startswith(f"{home}/")):
            outside.append(name)
        elif not stat.S_ISREG(mode):
            missing.setdefault(what, []).append(name)
        return path

    strange = [f"{row.place}: {row.part[:40] or 'nothing'}" for row in rows if row.part.lower() not in PARTS]
    problems = [
        *_listed("rows without a file name", [row.place for row in rows if not row.file], len(rows)),
        *_listed("rows without a label", [row.place for row in rows if not row.label], len(rows)),
        *_listed("labels are longer than a name", [row.place for row in rows if len(row.label) > LONGEST], len(rows)),
        *_listed("rows are of no split that is known (train, validation or test)", strange, len(rows)),
    ]
    known = [
        row._replace(
            file=resolved(row.file, "files"),
            mask=resolved(row.mask, "masks") if row.mask else "",
            part=PARTS.get(row.part.lower(), ""),
        )
        for row in rows
        if row.file
    ]
    for what, names in missing.items():
        problems += _listed(f"{what} are not in {root}", names, len(rows))
    out = f"files lie outside {root} (an absolute path, .. or a link), which dataset.outside=true allows"
    problems += _listed(out, outside, len(rows))
    return known, problems


def _contradictions(rows: list[Row]) -> list[str]:
    """Files that two rows say different things of."""
    problems = []
    for what in ("label", "patient"):
        said = defaultdict[str, set[str]](set)
        for row in rows:
            said[row.file].add(getattr(row, what))
        problems += _listed(f"files have two {what}s", [file for file, own in said.items() if len(own) > 1], len(said))
    return problems


def _listed(what: str, names: list[str], of: int) -> list[str]:
    return [f"{len(names)} of {of} {what}: {', '.join(first_few(_cut(names)))}"] if names else []


def _cut(names: list[str]) -> list[str]:
    return [f"{name[:120]}..." if len(name) > 120 else name for name in names]
