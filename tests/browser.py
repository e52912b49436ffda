"""A page in headless Chromium, and a record of everything that it asked the network for."""

import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")

# "<-loopback>" sends requests to this machine through the recorder as well.
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--disable-extensions", "--no-pings", "--hide-scrollbars", "--proxy-bypass-list=<-loopback>"),
]
# No flag stops Chromium from asking its maker for updates and accounts at its start. Such a request is its own, and
# not in the record, unless the page names the host: without a script, a page can only ask for what it names.
MAKER = (".google.com", ".googleapis.com", ".gvt1.com", ".gstatic.com")


class Visit(NamedTuple):
    """What came of opening a page: its DOM as HTML after loading, and the requests as "METHOD URL".

    Over https a request is "CONNECT host:port".
    """

    dom: str
    requests: list[str]


class _Recorder(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    def _record(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.send_error(404)

    do_GET = do_HEAD = do_POST = do_CONNECT = do_OPTIONS = _record

    def log_message(self, *args: object) -> None:
        pass


def open_in_browser(
    page: Path, tmp: Path, screenshot: Path | None = None, size: tuple[int, int] = (1200, 900), dark: bool = False
) -> Visit:
    """Open ``page`` from disk with a recorder as the proxy of every request; its answer is always 404.

    Args:
        page: HTML file.
        tmp: a folder for Chromium's profile.
        screenshot: PNG to write as well.
        size: of the window, in pixels.
        dark: prefer dark colours.
    """
    assert BROWSER is not None
    with _Recorder() as recorder:
        thread = threading.Thread(target=recorder.serve_forever, daemon=True)
        thread.start()
        command = [BROWSER, *FLAGS, f"--user-data-dir={tmp / 'profile'}", f"--window-size={size[0]},{size[1]}"]
        command += [f"--proxy-server=127.0.0.1:{recorder.server_port}", "--dump-dom"]
        command += [f"--screenshot={screenshot}"] * (screenshot is not None)
        command += ["--blink-settings=preferredColorScheme=0"] * dark
        try:
            done = subprocess.run([*command, page.as_uri()], capture_output=True, timeout=120, check=False)
        finally:
            recorder.shutdown()
            thread.join()
    text = page.read_text(encoding="utf-8")
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return Visit(done.stdout.decode(), [request for request in recorder.requests if not _is_browsers(request, text)])


def _is_browsers(request: str, page: str) -> bool:
    """Whether Chromium made this request ("METHOD URL" or "CONNECT host:port") of its own accord."""
    method, url = request.split(" ", 1)
    host = urlsplit(f"//{url}" if method == "CONNECT" else url).hostname or ""
    return host.endswith(MAKER) and host not in page
