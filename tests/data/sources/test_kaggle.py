"""Downloads, from a stub of Kaggle on the loopback: no test leaves this machine."""

import base64
import hashlib
import io
import os
import re
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO
from PIL import Image
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from gaze.config.data import DatasetConfig
from gaze.data.datasets import load_dataset
from gaze.data.sources.kaggle import download
from gaze.errors import DataError

kaggle_env = pytest.importorskip("kagglesdk.kaggle_env")

HANDLE = "someone/toy-set/versions/3"
ENDPOINT = "/v1/datasets.DatasetApiService/DownloadDataset"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, no credentials, and an endpoint where nothing listens until `point_to` says so."""
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    for name, folder in (("HOME", "home"), ("KAGGLEHUB_CACHE", "cache"), ("KAGGLE_CONFIG_DIR", "home")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        point_to(f"http://127.0.0.1:{unused.getsockname()[1]}", monkeypatch)
    return tmp_path / "cache"


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, url.rstrip("/"))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def archive() -> bytes:
    """Zip of toy/{train,test}/{cat,dog}: three and two images of each class."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for split, count in (("train", 3), ("test", 2)):
            for c, name in enumerate(("cat", "dog")):
                for i in range(count):
                    file.writestr(f"toy/{split}/{name}/{i}.png", png(len(split) * 100 + c * 10 + i))
        file.writestr("__MACOSX/._toy", b"x")
    return buffer.getvalue()


def serve(server: HTTPServer, content: bytes, *, digest_of: bytes | None = None, delay: float = 0.0) -> None:
    """Answer as Kaggle does: a redirect to the archive, with its MD5 in a header."""
    md5 = base64.b64encode(hashlib.md5(content if digest_of is None else digest_of).digest()).decode()

    def answer(request: Request) -> Response:
        time.sleep(delay)
        return Response(content, headers={"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"})

    server.expect_request(ENDPOINT, method="POST").respond_with_data(
        status=302, headers={"Location": server.url_for("/archive.zip")}
    )
    server.expect_request("/archive.zip").respond_with_handler(answer)


def config(**changes) -> DatasetConfig:
    counts = {"train_counts": {"cat": 3, "dog": 3}, "test_counts": {"cat": 2, "dog": 2}}
    return DatasetConfig(**{"name": "toy", "kind": "kaggle", "handle": HANDLE, "image_size": 8, **counts, **changes})


def requests_of(server: HTTPServer, path: str) -> int:
    return sum(request.path == path for request, _ in server.log)


def failure(**changes) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(config(**changes))
    return str(caught.value)


def check_ways_out(message: str, cause: str) -> None:
    assert message.startswith(f"Cannot download {HANDLE} from Kaggle: ") and "\n" not in message
    assert re.search(cause, message) and "dataset.root=PATH" in message and "dataset=phantom" in message


def test_download_then_cache_without_network(httpserver, monkeypatch, cache):
    serve(httpserver, archive())
    point_to(httpserver.url_for(""), monkeypatch)
    lines: list[str] = []
    first = load_dataset(config(), lines.append)
    assert first.audit.train_counts == {"cat": 3, "dog": 3} and not first.audit.warnings
    assert first.audit.root == str(cache / "datasets/someone/toy-set/versions/3/toy")
    assert lines[0].startswith(f"Downloading {HANDLE} to {cache}")
    point_to("http://127.0.0.1:9", monkeypatch)
    again = load_dataset(config(), lines.append)
    assert again.train.paths == first.train.paths
    assert len([line for line in lines if line.startswith("Downloading")]) == 1
    assert requests_of(httpserver, "/archive.zip") == 1


def test_request_names_the_pinned_version(httpserver, monkeypatch):
    serve(httpserver, archive())
    point_to(httpserver.url_for(""), monkeypatch)
    download(HANDLE, lambda line: None)
    body = httpserver.log[0][0].get_json()
    assert (body["ownerSlug"], body["datasetSlug"], body["datasetVersionNumber"]) == ("someone", "toy-set", 3)


def test_version_must_be_pinned():
    for handle in ("someone/toy-set", "someone/toy-set/versions/new", "../x/versions/1"):
        assert "must pin a version: owner/name/versions/N" in failure(handle=handle)


def test_offline():
    check_ways_out(failure(), "ConnectionError: ")


def test_refused(httpserver, monkeypatch):
    point_to(httpserver.url_for(""), monkeypatch)
    for status in (401, 403, 404, 500):
        httpserver.clear()
        httpserver.expect_request(ENDPOINT).respond_with_json({"code": status, "message": "no"}, status=status)
        check_ways_out(failure(), rf"KaggleApiHTTPError: .*({status}|no)")


def test_wrong_checksum(httpserver, monkeypatch, cache):
    serve(httpserver, archive(), digest_of=b"something else")
    point_to(httpserver.url_for(""), monkeypatch)
    check_ways_out(failure(), "DataCorruptionError: ")
    assert not (cache / "datasets/someone/toy-set/3.complete").exists()


def test_not_an_archive(httpserver, monkeypatch, cache):
    serve(httpserver, b"<html>sign in</html>")
    point_to(httpserver.url_for(""), monkeypatch)
    message = failure()
    check_ways_out(message, "ValueError: Unsupported archive type")
    assert f"delete {cache / 'datasets/someone/toy-set'}" in message


def test_broken_off(httpserver, monkeypatch):
    def half(request: Request) -> Response:
        content = archive()
        response = Response(content[: len(content) // 2])
        response.headers["Content-Length"] = str(len(content))
        return response

    httpserver.expect_request(ENDPOINT).respond_with_handler(half)
    point_to(httpserver.url_for(""), monkeypatch)
    check_ways_out(failure(), "ChunkedEncodingError|ConnectionError|IncompleteRead")


def test_any_other_failure(monkeypatch):
    def fail(handle: str) -> str:
        raise error

    monkeypatch.setattr("kagglehub.dataset_download", fail)
    for error in (OSError(28, "No space left on device"), TimeoutError("slow"), KeyError()):
        check_ways_out(failure(), f"{type(error).__name__}: ({error.args[-1] if error.args else 'KeyError'})")


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "file" / "cache"))
    check_ways_out(failure(), "NotADirectoryError: Not a directory")


def test_downloaded_counts_that_differ_are_an_error(httpserver, monkeypatch, cache):
    serve(httpserver, archive())
    point_to(httpserver.url_for(""), monkeypatch)
    message = failure(train_counts={"cat": 3, "dog": 4})
    assert "train/dog holds 3 images, the published set 4" in message
    assert f"Delete the folder {cache / 'datasets/someone/toy-set/versions/3'} and run again" in message


@pytest.mark.slow
def test_two_processes_download_once(httpserver, monkeypatch, tmp_path):
    serve(httpserver, archive(), delay=1.0)
    code = (
        "import sys, time, pathlib, kagglesdk.kaggle_env as k; from gaze.data.datasets import download\n"
        "k._env_to_endpoint[k.KaggleEnv.PROD] = sys.argv[1]; import kagglehub\n"
        "pathlib.Path(sys.argv[2]).touch(); go = pathlib.Path(sys.argv[3])\n"
        "while not go.exists(): time.sleep(0.01)\n"
        f"print(download({HANDLE!r}, print))"
    )
    ready = [tmp_path / "ready0", tmp_path / "ready1"]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, httpserver.url_for("").rstrip("/"), str(r), str(tmp_path / "go")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
        )
        for r in ready
    ]  # fmt: skip
    while not all(r.exists() for r in ready) and all(p.poll() is None for p in started):
        time.sleep(0.02)
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60) for process in started]
    assert [p.returncode for p in started] == [0, 0], outputs
    assert requests_of(httpserver, "/archive.zip") == 1
    assert sum("Another process downloads" in out for out, _ in outputs) == 1
    assert len({out.splitlines()[-1] for out, _ in outputs}) == 1
