"""The report's page in a real browser: it shows what it holds, its pictures decode, and it asks for nothing."""

import html
import re
import struct
from pathlib import Path

import pandas as pd
import pytest
from browser import needs_browser, open_in_browser
from matplotlib.figure import Figure

from gaze.report.write import FigureItem, Section, TableItem, write_report

# The study and the analysis open their pages in a browser as well.
pytestmark = [pytest.mark.slow, needs_browser]
OUTSIDE = '<img src="http://example.invalid/x.png">'
MAKERS = '<link rel="stylesheet" href="https://fonts.googleapis.com/css">'
LOCAL = '<img src="http://127.0.0.1:18999/x.png">'
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
# Runs only where the policy is taken out: what each picture decoded to, and how wide the page and its tables are.
PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.clientWidth].join(" "));
  document.body.dataset.images = images.join(";");
  const root = document.documentElement;
  document.body.dataset.overflow = root.scrollWidth - root.clientWidth;
  document.body.dataset.width = root.clientWidth;
  document.body.dataset.heights = [...document.querySelectorAll("figure")].map(f => f.offsetHeight).join(";");
  document.body.dataset.scrolls = [...document.querySelectorAll(".scroll")]
    .map(s => (s.scrollWidth > s.clientWidth) + " " + (s.scrollHeight > s.clientHeight)).join(";");
  document.body.dataset.background = getComputedStyle(document.body).backgroundColor;
})</script>"""

FRAME = """<!DOCTYPE html><body><iframe id="f" width="{width}" height="900" style="border: 0" srcdoc="{page}"></iframe>
<script>addEventListener("load", () => setTimeout(() =>
  Object.assign(document.body.dataset, document.getElementById("f").contentDocument.body.dataset), 0))</script>"""


def drawn(width: float) -> Figure:
    figure = Figure(figsize=(width, 3.0), layout="constrained")
    figure.subplots().plot([1, 2, 3], [0.1, 0.5, 0.4])
    return figure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with a small, a wide and a long table and two pictures, one wider than a telephone."""
    folder = tmp_path_factory.mktemp("browser") / "report"
    small = pd.DataFrame({"model": ["level1", "<b>level2</b>"], "kappa": [0.402, -0.5]})
    wide = pd.DataFrame({f"measure_{i}": [i + 0.125] for i in range(40)})
    long, short = pd.DataFrame({"epoch": range(1, 101)}), pd.DataFrame({"epoch": range(1, 25)})
    items = (
        TableItem("small", "Kappa & gaze", small, small.assign(kappa=["0.402", "−0.500"])),  # noqa: RUF001
        TableItem("wide", "Many columns", wide, wide.astype(str)),
        TableItem("short", "Some rows", short, short.astype(str)),
        TableItem("long", "Many rows", long, long.astype(str)),
        FigureItem("first", "A curve", drawn(9)),
        FigureItem("second", "Another curve", drawn(4)),
    )
    write_report("Report", ["<script>document.title = 'taken over'</script>"], [Section("All", (), items)], {}, folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    return folder / "report.html"


def changed(page: Path, copy: Path, addition: str, policy: bool = True) -> Path:
    """A copy of the page with something more at its end, and without its policy if so wished."""
    text = page.read_text(encoding="utf-8").replace("</body>", addition + "</body>")
    copy.write_text(text if policy else POLICY.sub("", text), encoding="utf-8")
    assert (POLICY.search(copy.read_text(encoding="utf-8")) is not None) == policy
    return copy


def measured(dom: str, name: str) -> list[str]:
    found = re.search(f'data-{name}="([^"]*)"', dom)
    assert found is not None, "the probe did not run"
    return found[1].split(";")


def test_page_shows_its_tables_and_fetches_nothing(page, tmp_path):
    visit = open_in_browser(page, tmp_path)
    assert visit.requests == []
    assert "<title>Report</title>" in visit.dom
    assert [len(re.findall(f"<{tag}[ >]", visit.dom)) for tag in ("table", "thead", "img")] == [4, 4, 2]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", visit.dom)
    assert cells[:4] == ["level1", "0.402", "&lt;b&gt;level2&lt;/b&gt;", "−0.500"]  # noqa: RUF001
    assert cells[4:44] == [f"{i}.125" for i in range(40)]
    assert cells[44:] == [str(i) for i in (*range(1, 25), *range(1, 101))]


def test_recorder_sees_what_a_page_fetches(tmp_path):
    """Without this, the test above could pass with a recorder that is deaf."""
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><body>{OUTSIDE}{LOCAL}{MAKERS}</body>")
    expected = {
        "GET http://127.0.0.1:18999/x.png",
        "GET http://example.invalid/x.png",
        "CONNECT fonts.googleapis.com:443",
    }
    assert set(open_in_browser(page, tmp_path).requests) == expected


def test_policy_is_what_keeps_an_outside_picture_out(page, tmp_path):
    kept_out = changed(page, tmp_path / "with.html", OUTSIDE)
    let_in = changed(page, tmp_path / "without.html", OUTSIDE, policy=False)
    assert open_in_browser(kept_out, tmp_path).requests == []
    assert set(open_in_browser(let_in, tmp_path).requests) == {"GET http://example.invalid/x.png"}


def test_policy_lets_no_script_run(page, tmp_path):
    assert "data-images" not in open_in_browser(changed(page, tmp_path / "copy.html", PROBE), tmp_path).dom


def test_pictures_decode_to_the_files_beside_the_page(folder, page, tmp_path):
    broken = '<img width="5" src="data:image/png;base64,AAAA">'
    visit = open_in_browser(changed(page, tmp_path / "copy.html", broken + PROBE, policy=False), tmp_path)
    *pictures, control = [image.split() for image in measured(visit.dom, "images")]
    assert control[1:3] == ["0", "0"]  # what is no picture would show
    sizes = [struct.unpack(">II", (folder / f"figures/{name}.png").read_bytes()[16:24]) for name in ("first", "second")]
    assert [(int(width), int(height)) for _, width, height, _ in pictures] == sizes


@pytest.mark.parametrize("width", [1200, 400])
def test_page_never_scrolls_sideways_but_its_wide_table_and_picture_do(page, tmp_path, width):
    """At 400 pixels inside a frame, for Chromium's own window is never narrower than 500."""
    copy = changed(page, tmp_path / "copy.html", PROBE, policy=False)
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(copy.read_text(encoding="utf-8"))), encoding="utf-8")
    visit = open_in_browser(frame, tmp_path, size=(1300, 900))
    assert measured(visit.dom, "width") == [str(width)]
    assert measured(visit.dom, "overflow") == ["0"]
    sideways = [each.split()[0] == "true" for each in measured(visit.dom, "scrolls")]
    small, wide, short, long, first, second = sideways
    assert [small, short, long, second] == [False] * 4
    assert wide
    assert first == (width == 400)  # 864 pixels wide: its text would be too small to read


def test_long_table_is_folded_until_it_is_opened_and_then_scrolls(page, tmp_path):
    closed = changed(page, tmp_path / "closed.html", PROBE, policy=False)
    opened = tmp_path / "opened.html"
    opened.write_text(closed.read_text(encoding="utf-8").replace("<details>", "<details open>"), encoding="utf-8")
    heights = []
    for file in (closed, opened):
        visit = open_in_browser(file, tmp_path, size=(1200, 900))
        heights.append(int(measured(visit.dom, "heights")[3]))
    assert heights[0] < 100 and 600 < heights[1] < 900  # 75 % of the window's height; 100 rows would need 3000 pixels
    assert measured(visit.dom, "scrolls")[3] == "false true"  # sideways, downwards


def test_dark_colours_where_they_are_preferred(page, tmp_path):
    copy = changed(page, tmp_path / "copy.html", PROBE, policy=False)
    shades = [measured(open_in_browser(copy, tmp_path, dark=dark).dom, "background")[0] for dark in (False, True)]
    light, dark = (sum(map(int, re.findall(r"\d+", shade)[:3])) for shade in shades)
    assert light > 700
    assert dark < 100


def test_screenshot_is_written(page, tmp_path):
    shot = tmp_path / "page.png"
    open_in_browser(page, tmp_path, screenshot=shot, size=(640, 480))
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (640, 480)
