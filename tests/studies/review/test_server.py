"""The page's server takes what has the token, by a name of this machine, from its own page, and refuses the rest."""

import io
import json
import re
import socket
import sys

import pytest
from rich.console import Console
from run_folders import SMALL, write_run

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from gaze.cli import ANALYZE
from gaze.config.analysis import AnalyzeConfig, CompareConfig, ReviewConfig
from gaze.config.train import check_config
from gaze.data.datamodule import GazeDataModule
from gaze.errors import ConfigError
from gaze.studies.review.server import MOST_BODY, listen, make_app, run_review
from gaze.studies.review.shown import Review
from gaze.studies.review.store import answers

TOKEN, CPU = "a-token", CompareConfig(device="cpu")
HOME = "http://127.0.0.1:8765"
FROM_PAGE = {"origin": HOME}


@pytest.fixture(scope="module")
def review(composed, tmp_path_factory):
    config = check_config(composed(*SMALL))
    folder = write_run(tmp_path_factory.mktemp("served") / "run", config, list(GazeDataModule(config.dataset).classes))
    review = Review(ReviewConfig(run=str(folder), order="random"), CPU, Console(file=io.StringIO()))
    yield review
    review.close()


@pytest.fixture(scope="module")
def client(review):
    return TestClient(make_app(review, TOKEN), base_url=f"{HOME}/{TOKEN}/", follow_redirects=False)


def test_a_turn_from_the_page_to_the_file(client, review):
    page = client.get("")
    assert page.status_code == 200
    assert review.arms[0].run.method in page.text
    assert client.get("state?reviewer=Ann").json() == {"turns": len(review.store.queue), "answered": []}
    assert client.get("turn/0?reviewer=Ann").json()["prediction"] is None
    for path in ("image/0?low=0&high=255", "map/0/0"):
        found = client.get(path)
        assert (found.headers["content-type"], found.content[:4]) == ("image/png", b"\x89PNG")
    note = "größer als <script>alert(1)</script> 所見なし"
    body = {
        "reviewer": "Ann",
        "item": 0,
        "verdict": "wrong",
        "reason": "too wide",
        "note": note,
        "shapes": [],
        "seconds": 2,
    }
    found = client.post("answer", json=body, headers=FROM_PAGE).json()
    assert (found["answer"]["note"], bool(found["prediction"])) == (note, True)
    assert answers(review.store.path)["note"].tolist() == [note]
    assert client.get("state?reviewer=Ann").json()["answered"] == [0]
    assert client.post("undo", json={"reviewer": "Ann"}, headers=FROM_PAGE).json() == {"item": 0}
    assert client.get("state?reviewer=Ann").json()["answered"] == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}), ("/wrong-token/", {}), ("/a-toke/turn/0?reviewer=Ann", {}), ("/%61-token%ff/", {}),
        (f"/{TOKEN}/", {"host": "evil.example"}), (f"/{TOKEN}/", {"host": "evil.example:8765"}),
        (f"/{TOKEN}/", {"host": "127.0.0.1.evil.example"}), (f"/{TOKEN}/", {"host": "evil@127.0.0.2"}),
        (f"/{TOKEN}/", {"host": "[::1"}), (f"/{TOKEN}/image/0?low=0&high=1", {"host": ""}),
    ],
)  # fmt: skip
def test_no_token_or_another_hosts_name(client, path, headers):
    found = client.get(f"{HOME}{path}", headers=headers)
    assert found.status_code == 403
    assert "script" not in found.text


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:8765"]
)
def test_a_forged_form(client, review, origin):
    body = {"reviewer": "Eve", "item": 0, "verdict": "right"}
    headers = {"content-type": "text/plain"} | ({} if origin is None else {"origin": origin})
    for path in ("answer", "undo"):
        assert client.post(path, content=json.dumps(body), headers=headers).status_code == 403
    assert review.store.answered("Eve") == {}
    assert client.get("answer").status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"reviewer": 1}', b'{"item": 1e999}', b"9" * 5000,
        b'{"reviewer": "Ann", "item": 0, "verdict": "right", "file": "../../etc/passwd"}',
        b'{"reviewer": "Ann", "item": 0, "verdict": "right", "\\ud800": 1}',
        b'{"reviewer": "Ann", "item": 0, "verdict": "right", "seconds": NaN}',
        b'{"reviewer": "Ann", "item": 0, "verdict": "right", "shapes": [[[[]]]]}',
        b'{"reviewer": "Ann", "item": 0, "verdict": "left side"}',
        json.dumps({"reviewer": "Ann", "item": 0, "verdict": "right", "note": "x" * 2001}).encode(),
        json.dumps({"reviewer": "Ann", "item": 0, "verdict": "right", "shapes": '{"a":' * 900}).encode(),
    ],
)  # fmt: skip
def test_garbage(client, review, body):
    found = client.post("answer", content=body, headers=FROM_PAGE)
    assert (found.status_code, list(found.json())) == (400, ["error"])
    assert review.store.answered("Ann") == {}


def test_a_body_has_a_bound(client):
    large = json.dumps({"reviewer": "Ann", "item": 0, "verdict": "right", "note": "x" * (1 << 20)})
    assert client.post("answer", content=large, headers=FROM_PAGE).status_code == 413
    parts = iter([b"x" * (MOST_BODY // 2)] * 3)  # of no stated length
    assert client.post("answer", content=parts, headers=FROM_PAGE).status_code == 413


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("turn/99999?reviewer=Ann", 404), ("turn/-1?reviewer=Ann", 404), ("turn/0", 400), ("turn/0?reviewer=%00", 400),
        (f"turn/{'9' * 5000}?reviewer=Ann", 404), ("turn/..%2f..%2fetc%2fpasswd?reviewer=Ann", 404),
        ("image/0", 400), ("image/0?low=5&high=5", 400), ("image/0?low=nan&high=1", 400),
        ("image/0?low=0&high=inf", 400),
        ("image/0?low=0&high=1e300", 400), ("map/0/7", 404), ("map/0/-1", 404), ("mean/0/0", 404), ("map/²/0", 404),
        ("../store.py", 403), ("page.html.j2", 404), ("review.sqlite", 404), ("server.py", 404),
    ],
)  # fmt: skip
def test_addresses_that_are_none(client, path, status):
    assert client.get(path).status_code == status


def test_nothing_is_kept_framed_or_fetched(client):
    for path in ("", "review.js", "review.css", "turn/0?reviewer=Ann", "nothing"):
        found = client.get(path)
        assert found.headers["cache-control"] == "no-store"
        assert found.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in found.headers["content-security-policy"]
    for path in ("", "review.js", "review.css"):
        text = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?:|//[a-z]|innerHTML|insertAdjacentHTML|document\.write|eval\(| style=| on[a-z]+=\"", text
        )


def test_names_of_files_are_nowhere(client, review):
    files = {item.file for item in review.store.queue}
    for path in ("", "state?reviewer=Ann", "turn/0?reviewer=Ann", "image/0?low=0&high=255", "map/0/0"):
        found = client.get(path)
        assert not any(file.encode() in found.content for file in files), path


def test_a_taken_port_gives_the_next_one():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with listen(port) as found:
            assert found.getsockname()[0] == "127.0.0.1"
            assert port < found.getsockname()[1] < port + 20


def test_without_the_packages(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"pip install 'gaze-consistency\[review\]'"):
        run_review(AnalyzeConfig(review={"run": "x"}), tmp_path, Console(file=io.StringIO()))


def test_words_of_the_command_line():
    words = ANALYZE.prepared(["review=outputs/a,b/lambda=0", "review.file=x=y.sqlite", "review.blind=false"])
    assert words == ["review.run='outputs/a,b/lambda=0'", "review.file='x=y.sqlite'", "review.blind=false"]
