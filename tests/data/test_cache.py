"""gaze.data.cache: decoded once, the same afterwards, and never the reason why a run fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO
from PIL import Image

from gaze.config.data import DatasetConfig
from gaze.data import cache, datasets, decode
from gaze.data.cache import ENTRY_FILE, FACTS_FILE, Entry, Request, cache_folder, cached
from gaze.data.datasets import ImageData, load_dataset
from gaze.errors import DataError

CLASSES = ("cat", "dog")


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12 + seed % 3, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, three training and two test images of each; one training image stands in test as well."""
    for s, (split, count) in enumerate((("train", 3), ("test", 2))):
        for c, name in enumerate(CLASSES):
            for i in range(count):
                save(tmp_path / "toy" / split / name / f"{i}.png", 100 * s + 10 * c + i)
    save(tmp_path / "toy" / "train" / "cat" / "leak.bmp", 110)
    return tmp_path / "toy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


class Loader:
    """Loads with one cache folder and remembers the lines of the last load."""

    def __init__(self, root: Path, folder: Path | str) -> None:
        self.settings = {"name": "toy", "kind": "folder", "root": str(root), "image_size": 16, "cache": str(folder)}
        self.lines: list[str] = []

    def __call__(self, **changes) -> ImageData:
        self.lines = []
        return load_dataset(DatasetConfig(**{**self.settings, **changes}), self.lines.append)

    @property
    def decoded(self) -> bool:
        return any(line.startswith("decoded") for line in self.lines)

    @property
    def read(self) -> bool:
        return any(line.startswith("read") for line in self.lines)


@pytest.fixture
def load(root: Path, folder: Path) -> Loader:
    return Loader(root, folder)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def assert_equal(a: ImageData, b: ImageData) -> None:
    assert a.classes == b.classes and a.audit == b.audit
    assert json.dumps(a.audit.to_dict()) == json.dumps(b.audit.to_dict())  # in order as well
    for x, y in ((a.train, b.train), (a.test, b.test)):
        assert torch.equal(x.images, y.images) and torch.equal(x.targets, y.targets) and x.paths == y.paths
        assert (x.masks is None) == (y.masks is None)
        assert x.masks is None or torch.equal(x.masks, y.masks)


# ---- the second start


@pytest.mark.parametrize("changes", [{}, {"channels": 3, "on_leak": "drop"}])
@pytest.mark.filterwarnings("error")
def test_second_start_gives_the_same_without_decoding(load, monkeypatch, changes):
    plain = load(**{**changes, "cache": "off"})
    first = load(**changes)
    assert load.decoded
    for module, name in ((decode, "decode_image"), (decode, "pixel_digest"), (datasets, "read_images")):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("decoded, hashed or resized"))
    second = load(**changes)
    assert load.read and len(load.lines) == 1
    assert_equal(first, plain)
    assert_equal(second, plain)


@pytest.mark.filterwarnings("error")
def test_phantom_is_kept_with_its_masks(folder, monkeypatch):
    lines: list[str] = []
    config = DatasetConfig(image_size=32, train_images=8, test_images=4, cache=str(folder))
    plain = load_dataset(DatasetConfig(image_size=32, train_images=8, test_images=4, cache="off"), lines.append)
    assert lines == []
    first = load_dataset(config, lines.append)
    for name in ("make_phantom", "pixel_digest"):
        monkeypatch.setattr(datasets, name, lambda *args, **kwargs: pytest.fail("drawn or hashed"))
    second = load_dataset(config, lines.append)
    (entry,) = entries(folder)
    assert lines == [f"drew 12 images into the cache {entry} (0.0 MB)", f"read 12 images from the cache {entry}"]
    assert_equal(first, plain)
    assert_equal(second, plain)
    colour = load_dataset(DatasetConfig(**{**vars(config), "channels": 3}), lines.append)
    assert colour.train.images.shape == (8, 3, 32, 32) and lines[2] == lines[1]  # one entry for both
    assert torch.equal(colour.train.images, plain.train.images.repeat(1, 3, 1, 1))


def test_phantom_is_drawn_anew_when_its_source_or_numpy_changes(folder, monkeypatch):
    config = DatasetConfig(image_size=32, train_images=8, test_images=4, cache=str(folder))
    lines: list[str] = []
    load_dataset(config, lines.append)
    other = folder.parent / "phantom.py"
    other.write_bytes(Path(datasets.phantom.__file__).read_bytes() + b"# another\n")
    monkeypatch.setattr(datasets.phantom, "__file__", str(other))
    load_dataset(config, lines.append)
    monkeypatch.setattr(np, "__version__", "0")
    load_dataset(config, lines.append)
    assert [line.split()[0] for line in lines] == ["drew"] * 3
    assert len(entries(folder)) == 1


def test_errors_of_the_phantom_are_the_same(folder):
    for where in ("off", str(folder), str(folder)):
        with pytest.raises(DataError, match="image_size=16 must be 32 or more"):
            load_dataset(DatasetConfig(image_size=16, cache=where))
    assert entries(folder) == []


def test_dropping_leaked_images_needs_no_second_entry(load, folder):
    load()
    assert load(on_leak="drop").audit.dropped == 1 and load.read
    assert len(entries(folder)) == 1


def test_images_are_mapped_and_stay_as_they_are_when_written_to(load):
    load()
    first, other = load(), load()
    before = other.train.images[0].clone()
    first.train.images[0] = 255 - before
    assert torch.equal(other.train.images[0], before) and torch.equal(load().train.images[0], before)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux says how much of a process is its own")
def test_mapped_images_are_no_memory_of_the_process(load, root):
    size = 1000
    load(image_size=size)
    split = load(image_size=size).train
    code = Path("/proc/self/smaps").read_text().partition(f"{split_file(load)}\n")[2].partition("VmFlags")[0]
    split.images.sum()
    after = Path("/proc/self/smaps").read_text().partition(f"{split_file(load)}\n")[2].partition("VmFlags")[0]
    kilobytes = {k: int(v.split()[0]) for k, _, v in (x.partition(":") for x in after.splitlines()) if " kB" in v}
    assert code and kilobytes["Rss"] >= 0.9 * split.images.numel() / 1024  # it was read
    assert kilobytes["Anonymous"] == 0  # and nothing of it copied


def split_file(load: Loader) -> str:
    return f"{load.lines[0].rpartition(' ')[2]}/train.npy"


# ---- what gives another entry


def change_content_only(root: Path) -> None:
    """Another image of the same size and date, as from an archive."""
    path = root / "train" / "cat" / "leak.bmp"
    content, time_before = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    content[-1] ^= 255
    time.sleep(0.02)  # one tick of the file system's clock
    path.write_bytes(content)
    os.utime(path, ns=(time_before, time_before))


def add(root: Path) -> None:
    save(root / "test" / "dog" / "new.png", 501)


CHANGES = {
    "size": lambda root: save(root / "train" / "cat" / "0.png", 500),
    "time": lambda root: os.utime(root / "train" / "cat" / "0.png", ns=(1, 1)),
    "content": change_content_only,
    "one more": add,
    "one less": lambda root: (root / "train" / "dog" / "1.png").unlink(),
    "name": lambda root: (root / "train" / "dog" / "2.png").rename(root / "train" / "dog" / "9.png"),
}


def test_a_changed_folder_is_decoded_anew_and_takes_the_old_place(load, root, folder):
    old = load()
    for what, change in CHANGES.items():
        change(root)
        new = load()
        assert load.decoded and len(entries(folder)) == 1, what
        assert_equal(new, load(cache="off"))
        load()
        assert load.read, what
    assert old.train.images.sum() > 0  # who has the old one mapped keeps it


def test_other_settings_have_entries_of_their_own(load, folder):
    load()
    for number, setting in enumerate(({"image_size": 8}, {"channels": 3}, {"on_bad_image": "skip"}), 2):
        load(**setting)
        assert load.decoded and len(entries(folder)) == number
    load()
    assert load.read


def test_versions_are_part_of_the_key(load, monkeypatch):
    load()
    for module, name, value in ((cache, "FORMAT", -1), (datasets.PIL, "__version__", "0"), (decode, "__file__", "/x")):
        monkeypatch.setattr(module, name, value)
        load()
        assert load.decoded, name


def test_files_that_are_no_images_change_the_audit_and_not_the_entry(load, root):
    load()
    (root / "train" / "cat" / "notes.txt").write_text("x")
    assert load().audit.ignored == ["train/cat/notes.txt"] and load.read


def test_only_entries_of_the_same_request_are_removed(load, root, folder):
    load()
    for name in ("toy-mine", "other"):
        (folder / name).mkdir()
    save(root / "test" / "dog" / "new.png", 502)
    load()
    assert {"toy-mine", "other"} < {path.name for path in entries(folder)} and len(entries(folder)) == 3


# ---- what is wrong with the images


def test_bad_images_are_the_same_error_and_are_not_kept(load, root, folder):
    (root / "train" / "cat" / "bad.png").write_bytes(b"x")
    messages = []
    for where in ("off", str(folder), str(folder)):
        with pytest.raises(DataError) as caught:
            load(cache=where)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] == messages[2] and "Unreadable images" in messages[0]
    assert entries(folder) == []


def test_bad_images_that_are_skipped_are_known_from_the_cache(load, root):
    (root / "train" / "cat" / "bad.png").write_bytes(b"x")
    (root / "train" / "cat" / "gone.png").symlink_to(root / "nowhere")
    first = load(on_bad_image="skip")
    second = load(on_bad_image="skip")
    assert load.lines[-1].startswith("read 11 images")
    assert_equal(first, second)
    assert len(second.audit.unreadable) == 2
    with pytest.raises(DataError):
        load()


def test_class_that_skipping_empties_is_not_kept(load, root, folder):
    for path in (root / "test" / "dog").iterdir():
        path.write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(DataError, match="left of: dog"):
            load(on_bad_image="skip")
    assert entries(folder) == []


def test_what_the_system_refuses_to_read_once_is_not_kept(load, monkeypatch):
    original = decode.decode_image

    def refused(path: Path, *args):
        if path.name == "2.png":
            raise OSError(5, "Input/output error")
        return original(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode_image", refused)
        assert len(load(on_bad_image="skip").audit.unreadable) == 2
    assert "not kept" in load.lines[-1]
    assert load(on_bad_image="skip").audit.unreadable == [] and load.decoded


def test_a_folder_that_changes_while_it_is_read_is_not_kept(load, root, folder, monkeypatch):
    original = datasets.read_images

    def slow(*args):
        half = original(*args)
        os.utime(root / "train" / "cat" / "0.png", ns=(2, 2))
        return half

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "read_images", slow)
        load()
    assert "changed meanwhile" in load.lines[-1] and entries(folder) == []
    load()
    assert load.decoded


def test_an_entry_does_not_hide_that_images_are_missing(load, root):
    load()
    (root / "train" / "dog").rename(root / "dog")
    with pytest.raises(DataError, match="Class folders differ"):
        load()


# ---- what is wrong with the cache


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_type(path: Path) -> None:
    np.save(path, np.load(path).astype(np.int16))


def other_shape(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


DAMAGE = [
    (truncate, "train.npy"),
    (truncate, ENTRY_FILE),
    (turn_one_bit, FACTS_FILE),
    (other_type, "test.npy"),
    (other_shape, "test.npy"),
    (Path.unlink, "test.npy"),
    (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x05\x00{{{{\n" + bytes(99)), "train.npy"),
    (lambda path: path.write_text("[1]"), ENTRY_FILE),
]


def test_a_damaged_entry_is_said_and_built_anew(load, folder):
    plain = load(cache="off")  # not out of the entry: a map of a file that is cut ends the process
    load()
    (entry,) = entries(folder)
    for damage, name in DAMAGE:
        damage(entry / name)
        assert_equal(load(), plain)
        assert [line.partition(" ")[0] for line in load.lines] == [str(entry), "decoded"], (damage, name)
        assert "damaged or was not written by this program" in load.lines[0]
        assert_equal(load(), plain)
        assert load.read and entries(folder) == [entry]


def test_something_else_in_an_entrys_place(load, folder):
    plain = load()
    (entry,) = entries(folder)
    for aside, foreign in (("a", lambda: entry.write_text("mine")), ("b", lambda: entry.symlink_to("/nowhere"))):
        entry.rename(folder.parent / aside)
        foreign()
        assert_equal(load(), plain)
        assert load.decoded and len(load.lines) == 2


def test_an_entry_for_something_else_is_not_taken(load, folder, root):
    load()
    (entry,) = entries(folder)
    add(root)
    load()
    (other,) = entries(folder)
    other.rename(entry)  # under the old name, the new content
    remove_added = root / "test" / "dog" / "new.png"
    remove_added.unlink()
    assert len(load().test.paths) == 4 and load.decoded


def test_a_cache_that_cannot_be_a_folder(load, tmp_path):
    plain = load(cache="off")
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_equal(load(cache=str(place)), plain)
        (line,) = load.lines
        assert line.startswith(f"the cache {place} cannot be used (") and line.endswith("going on without it")


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_may_not_be_written_to(load, folder):
    folder.mkdir(mode=0o500)
    load()
    assert "cannot be used (Permission denied)" in load.lines[0]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process's files there")
@pytest.mark.slow
def test_a_full_disk(load, folder):
    """A limit on the size of files stands in for it: the write fails half-way in the same call."""
    code = (
        "import resource, signal, sys; sys.path[:0] = ['tests', 'tests/data']\n"
        "from test_cache import Loader, assert_equal\n"
        "load = Loader(sys.argv[1], sys.argv[2])\n"
        "plain = load(cache='off')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "assert_equal(load(), plain)\n"
        "print(load.lines)\n"
    )
    arguments = [sys.executable, "-c", code, load.settings["root"], str(folder)]
    done = subprocess.run(arguments, cwd=REPO, capture_output=True, text=True, check=True)
    assert "cannot be used (File too large): going on without it" in done.stdout
    assert entries(folder) == []
    load()
    assert load.decoded


def test_a_file_system_without_maps(load, folder, monkeypatch):
    plain = load(cache="off")
    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "open_memmap", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no map")))
        assert_equal(load(), plain)
        assert "does not give back what was written: going on without it" in load.lines[-1]
    assert entries(folder) == []


# ---- several processes

CHILD = (
    "import sys, time, pathlib; sys.path[:0] = ['tests', 'tests/data']\n"
    "import gaze.data.decode\n"
    "from test_cache import Loader\n"
    "original = gaze.data.decode.decode_image\n"
    "def slow(*args):\n"
    "    with open(sys.argv[3], 'a') as file: file.write('x')\n"
    "    time.sleep(float(sys.argv[4]))\n"
    "    return original(*args)\n"
    "gaze.data.decode.decode_image = slow\n"
    "load = Loader(sys.argv[1], sys.argv[2])\n"
    "pathlib.Path(sys.argv[3]).touch()\n"
    "data = load()\n"
    "print(load.lines[-1].split()[0], int(data.train.images.sum()), data.audit)\n"
)


def start(load: Loader, folder: Path, count_file: Path, seconds: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CHILD, load.settings["root"], str(folder), str(count_file), str(seconds)]
    return subprocess.Popen(arguments, cwd=REPO, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_that_start_together_decode_once(load, folder, tmp_path):
    children = [start(load, folder, tmp_path / "count", 0.4) for _ in range(3)]
    outputs = [child.communicate(timeout=200)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert sorted(output.split()[0] for output in outputs) == ["decoded", "read", "read"]
    assert len({output.partition(" ")[2] for output in outputs}) == 1
    assert len((tmp_path / "count").read_text()) == 11


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_counts(load, folder, tmp_path):
    child = start(load, folder, tmp_path / "count", 30)
    limit = time.monotonic() + 200
    while not ((tmp_path / "count").exists() and (tmp_path / "count").read_text()):
        assert time.monotonic() < limit and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    child.communicate()
    assert entries(folder) == []
    load()
    assert load.decoded and load.lines[0].startswith("decoded")  # nor does its lock keep anyone waiting


def test_a_process_killed_while_it_writes(load, folder, monkeypatch):
    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *args: (_ for _ in ()).throw(Killed()))
        patch.setattr(cache, "_discard", lambda path: None)  # a killed process does not tidy up
        with pytest.raises(Killed):
            load()
    assert [path.suffix for path in entries(folder)] == [".part"]
    load()
    assert load.decoded
    assert [path.suffix for path in entries(folder)] == [""]


# ---- where


@pytest.fixture
def home(monkeypatch, tmp_path) -> Path:
    for name in ("GAZE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def test_auto_takes_the_first_that_is_set(home, monkeypatch):
    assert cache_folder("auto") == home / ".cache" / "gaze"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder("auto") == home / ".cache" / "gaze"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert cache_folder("auto") == home / "xdg" / "gaze"
    monkeypatch.setenv("GAZE_CACHE", str(home / "own"))
    assert cache_folder("auto") == home / "own"
    monkeypatch.setenv("GAZE_CACHE", "off")
    assert cache_folder("auto") is None
    monkeypatch.setenv("GAZE_CACHE", "")
    assert cache_folder("auto") == home / "xdg" / "gaze"


def test_off(home):
    assert [cache_folder(setting) for setting in (None, "off", "OFF", "False")] == [None] * 4


def test_a_folder_of_ones_own(home, monkeypatch):
    monkeypatch.chdir(home)
    assert cache_folder("~/mine") == cache_folder("mine") == home / "mine"


def test_tests_leave_the_users_cache_alone(cache_of_the_tests):
    assert cache_folder("auto") == cache_of_the_tests != Path.home() / ".cache" / "gaze"


def test_off_writes_nothing(load, cache_of_the_tests):
    before = sorted(cache_of_the_tests.iterdir())
    load(cache="off")
    assert load.lines == [] and sorted(cache_of_the_tests.iterdir()) == before


def test_settings_on_the_command_line(composed):
    from gaze.config.train import check_config
    from gaze.errors import ConfigError

    for value, folder in {"off": None, "null": None, "false": None, "/x/y": Path("/x/y")}.items():
        assert cache_folder(check_config(composed(f"dataset.cache={value}")).dataset.cache) == folder
    for value in ("''", "true"):
        with pytest.raises(ConfigError, match=r"dataset\.cache="):
            check_config(composed(f"dataset.cache={value}"))


def test_without_a_folder_nothing_is_asked_but_the_builder():
    made = Entry({}, {}, 0)
    request = Request("x", {}, lambda: pytest.fail("asked"))
    assert cached(None, request, lambda: made, lambda line: pytest.fail(line)) is made
