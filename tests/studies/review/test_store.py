"""The file of a review: nothing is lost, nothing is mixed, what was taken back is kept and does not count."""

import os
import signal
import sqlite3
import subprocess
import sys

import pandas as pd
import pytest
from conftest import REPO

from gaze.errors import BusyError, ConfigError, DataError
from gaze.studies.review.store import Answer, Item, Store, answers, arms

ARMS = [("phantom level2", "0123456789ab")]
QUEUE = [Item(4, "test/4", "cat"), Item(1, "test/1", "dog"), Item(4, "test/4", "cat", repeat=True)]
BOX = {"kind": "box", "points": [[0.1, 0.2], [0.5, 1]]}


def opened(path, images="digest", arms=ARMS, queue=QUEUE, order="worst"):
    return Store(path, images, arms, queue, order)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "review.sqlite"


@pytest.fixture
def store(path):
    store = opened(path)
    yield store
    store.close()


def say(store, item=0, verdict="wrong", reviewer="Ann", **more):
    store.add(Answer(reviewer=reviewer, item=item, verdict=verdict, **more), ARMS[0][0], verdict)


def test_answers_come_back_as_they_were_given(store, path):
    note = "日本語, größer <b>&amp; \u202e'\"; DROP TABLE answers"
    say(store, reason="too wide", note=note, shapes=[BOX], seconds=5.0)
    say(store, 2, "right", reviewer="  Jürgen ")
    say(store, 0, "unsure", reviewer="Ju\u0308rgen")  # another form of the same letters
    found = answers(path)  # while the store is open
    first = found.iloc[0]
    assert first[["reviewer", "item", "place", "file", "truth", "verdict", "reason"]].tolist() == [
        "Ann", 0, 4, "test/4", "cat", "wrong", "too wide",
    ]  # fmt: skip
    assert (first["note"], first["shapes"], first["arm"]) == (note, [BOX], ARMS[0][0])
    assert 4.9 < (first["answered"] - first["shown"]).total_seconds() < 5.1
    assert abs(first["answered"] - pd.Timestamp.now("UTC")).total_seconds() < 60
    assert found["repeat"].tolist() == [False, True, False]
    assert found["reviewer"].tolist() == ["Ann", "Jürgen", "Jürgen"]
    assert arms(path) == [ARMS[0][0]]


def test_the_last_answer_counts_until_it_is_taken_back(store, path):
    for verdict in ("wrong", "right", "unsure"):
        say(store, 0, verdict)
    say(store, 0, "wrong", reviewer="Bea")
    assert store.undo("Ann") == 0
    found = answers(path)
    assert found["verdict"].tolist() == ["wrong", "right", "unsure", "wrong"]  # all are kept
    assert found["undone"].tolist() == [False, False, True, False]
    assert found["counts"].tolist() == [False, True, False, True]
    assert store.answered("Ann")[0]["verdict"] == "right"
    assert [store.undo("Ann") for _ in range(3)] == [0, 0, None]
    assert store.answered("Ann") == {}
    assert set(store.answered("Bea")) == {0}


def test_a_file_that_was_begun_keeps_its_queue(store, path):
    say(store)
    store.close()
    again = opened(path, queue=QUEUE[::-1], order="random")
    assert (again.queue, again.order) == (QUEUE, "worst")
    assert set(again.answered("Ann")) == {0}
    again.close()
    assert answers(path)["counts"].all()
    assert [file.name for file in path.parent.glob("review.sqlite*") if not file.name.endswith(".lock")] == [path.name]


def test_what_does_not_belong_together_is_not_mixed(store, path):
    with pytest.raises(BusyError, match="another review has it open"):
        opened(path)
    store.close()
    with pytest.raises(DataError, match="other images than those at hand"):
        opened(path, images="others")
    with pytest.raises(DataError, match="is a review of phantom level2, or of earlier weights"):
        opened(path, arms=[(ARMS[0][0], "ba9876543210")])
    opened(path).close()  # a refused one has let go of it


def test_files_that_are_no_review(tmp_path):
    text, other = tmp_path / "text", tmp_path / "other.sqlite"
    text.write_text("no database, " * 100)
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE answers (id INTEGER)")
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(DataError, match=r"review file.*review\.file=PATH"):
            opened(path)
        with pytest.raises(DataError, match="review file"):
            answers(path)
        assert path.read_bytes() == before
    with pytest.raises(DataError, match="is not there"):
        answers(tmp_path / "none")
    with pytest.raises(DataError, match="cannot be written"):
        opened(text / "review.sqlite")  # in a file


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE answers SET shapes = '['", "UPDATE answers SET shapes = '[1]'", "DROP TABLE queue",
        """UPDATE answers SET shapes = '[{"kind": "box", "points": [[-5, 0], [1e9, 1]]}]'""",
    ],
)  # fmt: skip
def test_answers_that_somebody_changed(store, path, change):
    say(store, shapes=[BOX])
    store.close()
    with sqlite3.connect(path) as db:
        db.execute(change)
    with pytest.raises(DataError, match="cannot be used as a review file"):
        answers(path)


@pytest.mark.parametrize(
    "change", ["DELETE FROM about", "UPDATE about SET value = '[' WHERE key = 'arms'", "DROP TABLE about"]
)
def test_a_file_that_somebody_changed_is_not_opened(store, path, change):
    store.close()
    with sqlite3.connect(path) as db:
        db.execute(change)
    with pytest.raises(DataError):
        opened(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": "maybe"}, {"reason": "tired"}, {"note": "x" * 2001}, {"note": "\ud800"}, {"reviewer": " "},
        {"reviewer": "x" * 81}, {"reviewer": "a\x00b"}, {"item": -1}, {"item": "0"}, {"seconds": float("nan")},
        {"file": "/etc/passwd"}, {"shapes": [BOX] * 51},
        {"shapes": [{**BOX, "points": [[0.1, 0.1], [1.1, 0.5]]}]}, {"shapes": [{**BOX, "points": [[0.1, 0.1]] * 2}]},
        {"shapes": [{**BOX, "points": [[0, 0], [1, 0], [1, 1]]}]}, {"shapes": [{**BOX, "kind": "polygon"}]},
        {"shapes": [{**BOX, "points": [[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]]}]},
    ],
)  # fmt: skip
def test_answers_that_cannot_be(wrong):
    with pytest.raises(ConfigError):
        Answer(**{"reviewer": "Ann", "item": 0, "verdict": "wrong", **wrong})


def test_a_killed_process_loses_no_answer(path):
    code = f"""
import sys; sys.path.insert(0, {str(REPO / "tests" / "studies" / "review")!r})
sys.path.insert(0, {str(REPO / "tests")!r})
from pathlib import Path
from test_store import opened, say
store = opened(Path({str(path)!r}))
for number in range(100_000):
    say(store, number % 3, note=str(number))
    print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPO) as process:
        said = [process.stdout.readline() for _ in range(30)]
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    assert answers(path)["note"].tolist()[: len(said)] == [str(number) for number in range(len(said))]
    opened(path).close()  # and nothing is in the way of the next server
