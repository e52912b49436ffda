"""The file of a review: what is shown in which order, and what experts answered. SQLite, for several reviewers.

Answers are only ever added, each in a transaction of its own that is on the disk before the page hears of it: a killed
server or a closed browser loses none. Free of PyTorch.
"""

from __future__ import annotations

import json
import sqlite3
import time
import unicodedata
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal, NamedTuple

import pandas as pd
from filelock import FileLock, Timeout
from pydantic import AfterValidator, Field, field_validator

from gaze.config.settings import Settings
from gaze.errors import BusyError, DataError

APPLICATION, FORMAT = 0x67617A65, 1  # what SQLite itself keeps of whose file it is
DAMAGED = (sqlite3.Error, LookupError, TypeError, ValueError)  # what a file that somebody sent may lead to
REASONS = ("background", "artefact", "wrong organ", "too wide", "too narrow", "other")
MOST_NOTE, MOST_SHAPES, MOST_POINTS = 2000, 50, 200  # characters; shapes of an image; corners of a polygon
SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE queue (item INTEGER PRIMARY KEY, place INTEGER NOT NULL, file TEXT NOT NULL, truth TEXT NOT NULL,
    repeat INTEGER NOT NULL, swapped INTEGER NOT NULL);
CREATE TABLE answers (id INTEGER PRIMARY KEY, reviewer TEXT NOT NULL, item INTEGER NOT NULL REFERENCES queue,
    arm TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL, note TEXT NOT NULL, shapes TEXT NOT NULL,
    shown REAL NOT NULL, answered REAL NOT NULL);
CREATE TABLE undone (answer INTEGER PRIMARY KEY REFERENCES answers, at REAL NOT NULL);
CREATE INDEX whose ON answers (reviewer, item);
"""
COUNTS = """a.id = (SELECT max(b.id) FROM answers b WHERE b.reviewer = a.reviewer AND b.item = a.item
    AND b.id NOT IN (SELECT answer FROM undone))"""


def _name(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if not 0 < len(text) <= 80 or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text):
        raise ValueError("must be a name of 1 to 80 characters")
    return text


def _text(text: str) -> str:
    if len(text) > MOST_NOTE or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError(f"must be text of at most {MOST_NOTE:,} characters")
    return text


Reviewer = Annotated[str, AfterValidator(_name)]
Point = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]


class Shape(Settings):
    """Where one should look: a box by two corners, or a polygon; points (x, y) from the upper left corner in shares of
    the image's width and height, 0..1."""

    kind: Literal["box", "polygon"]
    points: Annotated[list[Point], Field(min_length=2, max_length=MOST_POINTS)]

    @field_validator("points")
    @classmethod
    def _with_area(cls, points: list[list[float]], info: Any) -> list[list[float]]:
        across, down = ({point[axis] for point in points} for axis in (0, 1))
        if (len(points) == 2) != (info.data.get("kind") == "box") or len(across) < 2 or len(down) < 2:
            raise ValueError("must be two corners of a box, or three and more of a polygon, with an area between them")
        return points


class Answer(Settings):
    """What a browser sends: verdict on an item; ``left`` and ``right side`` say which of two arms looks better."""

    reviewer: Reviewer
    item: Annotated[int, Field(ge=0)]
    verdict: Literal["right", "wrong", "unsure", "left side", "right side"]
    reason: Literal["", "background", "artefact", "wrong organ", "too wide", "too narrow", "other"] = ""
    note: Annotated[str, AfterValidator(_text)] = ""
    shapes: list[Shape] = Field([], max_length=MOST_SHAPES)
    seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0  # since it was shown


class Item(NamedTuple):
    """One turn of the queue.

    Attributes:
        place: of the image in the run's test part, from 0.
        file: its name in ``predictions.csv``, which no page shows.
        truth: name of its class.
        repeat: whether it was shown before.
        swapped: whether the second of two arms stands on the left.
    """

    place: int
    file: str
    truth: str
    repeat: bool = False
    swapped: bool = False


class Store:
    """An open review file, held by this process alone.

    Args:
        path: the file; made where there is none.
        images: digest of the images that are shown.
        arms: title, and digest of the checkpoint, of the run or of the two that are compared.
        queue: what a new file is to show; one that was begun keeps its own.
        order: the queue's, by name.

    Attributes:
        queue: the file's own.
        order: the file's own.

    Raises:
        BusyError: another process holds it.
        DataError: it is no review file, or of another run or other images.
    """

    def __init__(
        self, path: Path, images: str, arms: Sequence[tuple[str, str]], queue: Sequence[Item], order: str
    ) -> None:
        self.path, self.arms, self._one = path, [title for title, _ in arms], Lock()
        self._held = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            self._held.acquire(timeout=0)
        except Timeout:
            raise BusyError(f"{path}: another review has it open. Go on there, or end it with Ctrl-C.") from None
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}. Name another: review.file=PATH.") from error
        try:
            self._db = _connected(path, "rwc")
            try:
                self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")
                facts = {"images": images, "arms": json.dumps(list(arms), ensure_ascii=False), "order": order}
                if not _tables(self._db):
                    self._begin(facts, queue)
                self._check(facts)
                rows = self._db.execute("SELECT place, file, truth, repeat, swapped FROM queue ORDER BY item")
                self.queue = [Item(place, file, truth, bool(r), bool(s)) for place, file, truth, r, s in rows]
                self.order: str = self._about()["order"]
            except DAMAGED as error:
                raise _unusable(path, error) from error
        except BaseException:
            self.close()
            raise

    def _begin(self, facts: dict[str, str], queue: Sequence[Item]) -> None:
        with self._db:
            self._db.executescript(f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}")
            for statement in filter(str.strip, SCHEMA.split(";")):
                self._db.execute(statement)
            self._db.executemany("INSERT INTO about VALUES (?, ?)", facts.items())
            self._db.executemany("INSERT INTO queue VALUES (?, ?, ?, ?, ?, ?)", [(i, *q) for i, q in enumerate(queue)])

    def _about(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT key, value FROM about"))

    def _check(self, facts: dict[str, str]) -> None:
        there, another = self._about(), "Answers are not mixed: name another file by review.file=PATH"
        if there["arms"] != facts["arms"]:
            titles = " and ".join(title for title, _ in json.loads(there["arms"]))
            raise DataError(f"{self.path} is a review of {titles}, or of earlier weights of it. {another}.")
        if there["images"] != facts["images"]:
            raise DataError(f"{self.path} is of other images than those at hand. {another}, or put the images back.")

    def close(self) -> None:
        """Let go of the file, which is one file again, as to be sent."""
        if hasattr(self, "_db"):
            with suppress(sqlite3.Error):  # somebody reads it
                self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.close()
        self._held.release()

    def add(self, answer: Answer, arm: str, verdict: str) -> None:
        """Write an answer; it is on the disk when this returns."""
        shapes = json.dumps([shape.model_dump() for shape in answer.shapes])
        now = time.time()
        row = (
            answer.reviewer,
            answer.item,
            arm,
            verdict,
            answer.reason,
            answer.note,
            shapes,
            now - answer.seconds,
            now,
        )
        with self._one, self._db:
            self._db.execute(f"INSERT INTO answers VALUES (NULL{', ?' * len(row)})", row)

    def undo(self, reviewer: str) -> int | None:
        """Take a reviewer's last answer back: its item, or None where there is none. What stood before counts again."""
        with self._one, self._db:
            found = self._db.execute(
                "SELECT id, item FROM answers WHERE reviewer = ? AND id NOT IN (SELECT answer FROM undone) "
                "ORDER BY id DESC LIMIT 1", (reviewer,),
            ).fetchone()  # fmt: skip
            if found is None:
                return None
            self._db.execute("INSERT INTO undone VALUES (?, ?)", (found[0], time.time()))
        return int(found[1])

    def answered(self, reviewer: str, item: int | None = None) -> dict[int, dict[str, Any]]:
        """A reviewer's answers that count, by item; of one item alone where one is given."""
        with self._one:
            rows = self._db.execute(
                "SELECT item, arm, verdict, reason, note, shapes FROM answers a "
                f"WHERE reviewer = ? AND item = ifnull(?, item) AND {COUNTS}",
                (reviewer, item),
            ).fetchall()
        names = ("arm", "verdict", "reason", "note")
        return {item: {**dict(zip(names, own, strict=True)), "shapes": json.loads(s)} for item, *own, s in rows}


def answers(path: str | Path) -> pd.DataFrame:
    """Every answer of a review file, in the order in which they came; a server may be at work on it meanwhile.

    Returns:
        Columns:

        * ``answer``: its number; ``reviewer``: a name; ``item``: turn of the queue, from 0.
        * ``counts``: the last answer of this reviewer on this item, not taken back. The others are kept for the record.
        * ``undone``: taken back.
        * ``place``, ``file``, ``truth``: the image in the run's test part (from 0), its name as in ``predictions.csv``,
          its class.
        * ``repeat``: the second showing of an image.
        * ``arm``: title of the run that is judged; of two, the one that looks better, "" where none does.
        * ``verdict``: "right", "wrong" or "unsure"; of two arms "better" or "unsure".
        * ``reason``: one of :data:`REASONS` or ""; ``note``: free text.
        * ``shapes``: a list of ``{"kind": "box" | "polygon", "points": [[x, y], ...]}``, see :class:`Shape`.
        * ``shown``, ``answered``: UTC, when the image came up and when the answer was written.

    Raises:
        DataError: there is no such file, or it is no review file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not there. A review leaves it: python analyze.py review=RUN.")
    query = f"""SELECT a.id AS answer, reviewer, a.item, {COUNTS} AS counts, u.answer IS NOT NULL AS undone,
        place, file, truth, repeat, arm, verdict, reason, note, shapes, shown, answered
        FROM answers a JOIN queue q ON q.item = a.item LEFT JOIN undone u ON u.answer = a.id ORDER BY a.id"""
    try:
        with closing(_connected(path, "ro")) as db:
            found = pd.read_sql_query(query, db)
        found["shapes"] = found["shapes"].map(lambda text: [Shape(**each).model_dump() for each in json.loads(text)])
    except (*DAMAGED, pd.errors.DatabaseError) as error:
        raise _unusable(path, error) from error
    found = found.astype(dict.fromkeys(("counts", "undone", "repeat"), bool))
    return found.assign(**{name: pd.to_datetime(found[name], unit="s", utc=True) for name in ("shown", "answered")})


def arms(path: str | Path) -> list[str]:
    """Titles of the run, or of the two, that a review file is of.

    Raises:
        DataError: it is no review file.
    """
    try:
        with closing(_connected(Path(path), "ro")) as db:
            found = db.execute("SELECT value FROM about WHERE key = 'arms'").fetchone()
            return [title for title, _ in json.loads(found[0])]
    except DAMAGED as error:
        raise _unusable(Path(path), error) from error


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    """A review file, or with ``rwc`` one that is empty yet. Nothing that a stranger's file defines is run."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, check_same_thread=False)
        db.execute("PRAGMA trusted_schema = OFF")
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    if found != [APPLICATION, FORMAT] and (mode == "ro" or _tables(db) or any(found)):
        db.close()
        raise DataError(f"{path} is no review file of this version. Name another: review.file=PATH.")
    return db


def _tables(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _unusable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be used as a review file: {error}. Name another: review.file=PATH.")
