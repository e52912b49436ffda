"""gaze.files: what is written is whole, nothing is written where a link leads, and reading ends."""

import os
import re

import pytest

from gaze.errors import DataError
from gaze.files import UnreadableFile, atomic_path, check_links, open_regular, read_bytes_of, remove_parts, write_json


def test_no_link_in_the_place_of_a_temporary_file_is_followed(tmp_path, monkeypatch):
    foreign, folder = tmp_path / "foreign", tmp_path / "run"
    foreign.write_text("mine")
    folder.mkdir()
    (folder / ".config.json.part").symlink_to(foreign)
    write_json(folder / "config.json", {"a": 1})
    assert foreign.read_text() == "mine" and (folder / "config.json").read_text() == '{\n  "a": 1\n}\n'
    monkeypatch.setattr("gaze.files.secrets.token_hex", lambda size: "0" * 8)  # even where the name was guessed
    (folder / ".config.json.00000000.part").symlink_to(foreign)
    with pytest.raises(FileExistsError):
        write_json(folder / "config.json", {"a": 2})
    assert foreign.read_text() == "mine"


def test_names_of_temporary_files_are_drawn_and_a_link_in_the_place_of_the_file_is_replaced(tmp_path):
    (tmp_path / "foreign").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "foreign")
    with atomic_path(tmp_path / "a") as one, atomic_path(tmp_path / "a") as two:
        assert one != two and re.fullmatch(r"\.a\.[0-9a-f]{8}\.part", one.name)
        one.write_text("new")
    assert (tmp_path / "foreign").read_text() == "mine"
    with atomic_path(tmp_path / ("a" * 250)) as part:
        part.write_text("a name as long as a file system takes")
    assert (tmp_path / ("a" * 250)).exists()


def test_links_that_stay_in_the_folder_or_lead_to_it_are_fine(tmp_path):
    (tmp_path / "disk" / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "disk" / "run" / "checkpoints" / "last.ckpt").write_text("")
    (tmp_path / "disk" / "run" / "best.ckpt").symlink_to("checkpoints/last.ckpt")
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "linked").symlink_to("run")
    for folder in (tmp_path / "outputs" / "run", tmp_path / "disk" / "linked", tmp_path / "absent"):
        check_links(folder)


@pytest.mark.parametrize("place", ["checkpoints", "config.json", ".lock", "pictures/deep/1.png"])
@pytest.mark.parametrize("goal", ["../foreign", "/dev/zero", "../run-2"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, place, goal):
    run, link = tmp_path / "run", tmp_path / "run" / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(goal if goal.startswith("/") else tmp_path / goal[3:])
    with pytest.raises(DataError, match=rf"{link} is a link out of its folder, to .*Put the file"):
        check_links(run)
    check_links(run, "tables")  # which is all that is asked about
    with pytest.raises(DataError):
        check_links(run, "tables", place.partition("/")[0])


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "foreign" / ".a.00000000.part").mkdir(parents=True)
    (tmp_path / "run" / "linked").symlink_to(tmp_path / "foreign")
    for name in (".a.part", "a.00000000.part", ".hidden", "checkpoints/.b.12345678.part.txt"):
        (tmp_path / "run" / name).write_text("stays")
    (tmp_path / "foreign" / ".b.00000000.part").write_text("stays")
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "run" / "checkpoints" / ".last.ckpt.0123abcd.part").write_text("half")
    remove_parts(tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_regular_file_is_read_and_others_are_refused_at_once(tmp_path):
    file, fifo, zero = (tmp_path / name for name in ("file", "fifo", "zero"))
    file.write_bytes(b"abc")
    os.mkfifo(fifo)
    zero.symlink_to("/dev/zero")
    link = tmp_path / "link"
    link.symlink_to(fifo)
    assert read_bytes_of(file, most=3) == b"abc"
    with pytest.raises(UnreadableFile, match=r"file has 3 bytes, and at most 2 are read"):
        read_bytes_of(file, most=2)
    for path, kind in ((fifo, "a FIFO"), (link, "a FIFO"), (zero, "a device or the like")):
        with pytest.raises(UnreadableFile, match=f"{path} is no regular file but {kind}"):
            open_regular(path)
    with pytest.raises(FileNotFoundError):
        read_bytes_of(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        read_bytes_of(tmp_path)


def test_a_file_whose_size_is_not_stated_is_read_up_to_the_bound():
    assert len(read_bytes_of("/proc/self/status", most=10)) == 10  # says that it has 0 bytes
