"""The review page in a real browser: keys, mouse, slider, reload; after a killed server every answer is there."""

import json
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from browser import needs_browser
from conftest import REPO
from reviewer import Server, browser_page, drag, opinions, press, review, saved, turn
from run_folders import SMALL, write_run

from gaze.config.train import check_config
from gaze.data.datamodule import GazeDataModule
from gaze.runs.run import Run
from gaze.studies.review.store import answers

pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture
def page():
    with browser_page() as page:
        yield page


@pytest.fixture
def folder(composed, tmp_path):
    config = check_config(composed(*SMALL))
    return write_run(tmp_path / "run", config, list(GazeDataModule(config.dataset).classes))


def test_an_expert_at_work(folder, page):
    file, words = folder / "review.sqlite", (f"review={folder}", "review.order=random")
    server = Server(*words)
    page.goto(server.link)
    page.fill("#name", "Ann 所見")
    press(page, "Enter")
    turn(page, 0)

    press(page, "b")  # a box by the mouse, from its lower right corner
    drag(page, (0.75, 0.8), (0.25, 0.4))
    press(page, "Escape", "w", "4", "n")
    page.keyboard.type("größer als <b>nötig</b>")
    press(page, "Escape")
    assert page.locator("#said").inner_text().startswith("What is wrong?")  # and no prediction
    page.reload()
    turn(page, 0)
    assert page.input_value("#note") == "größer als <b>nötig</b>"  # what is not saved yet outlives a reload
    assert page.locator(".drawing .shape").count() == 1
    press(page, "Enter")
    saved(page, "wrong, too wide. Prediction: ")
    assert answers(file)["verdict"].tolist() == ["wrong"]

    press(page, "Enter")
    turn(page, 1)
    assert page.input_value("#note") == ""
    before = page.locator("#views .map").evaluate("map => getComputedStyle(map).opacity")
    page.locator("#opacity").focus()
    press(page, "ArrowLeft", "ArrowLeft", "ArrowLeft")
    page.locator("#opacity").blur()
    after = page.locator("#views .map").evaluate("map => getComputedStyle(map).opacity")
    assert float(after) == pytest.approx(float(before) - 0.03)
    source = page.locator("#views .image").get_attribute("src")
    page.locator("#width").focus()
    press(page, "PageDown", "Escape")
    page.wait_for_selector(f"#views .image:not([src='{source}'])")
    press(page, "h")
    assert not page.locator("#views .map").is_visible()
    press(
        page, "h", "p", "ArrowLeft", " ", "Shift+ArrowRight", " ", "Shift+ArrowDown", " ", "Enter", "Escape"
    )  # by keys
    press(page, "r")
    saved(page, "right. Prediction: ")

    press(page, "z")  # taken back, and answered otherwise
    page.locator("#said", has_text="Taken back: turn 2.").wait_for()
    press(page, "u")
    saved(page, "unsure")
    press(page, "ArrowLeft")
    turn(page, 0)
    assert page.locator("#note").input_value() == "größer als <b>nötig</b>"
    press(page, "ArrowRight", "ArrowRight")
    turn(page, 2)
    press(page, "w")
    page.locator("#said", has_text="What is wrong?").wait_for()
    press(page, "Enter")
    saved(page, "wrong")

    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    press(page, "u")
    page.locator("#said.bad", has_text="Not saved").wait_for()
    found = answers(file)
    assert found["verdict"].tolist() == ["wrong", "right", "unsure", "wrong"]
    assert found["counts"].tolist() == [True, False, True, True]
    assert found.loc[0, ["reviewer", "reason", "note"]].tolist() == ["Ann 所見", "too wide", "größer als <b>nötig</b>"]
    (shape,) = found.loc[0, "shapes"]
    assert shape["kind"] == "box"
    assert np.ravel(shape["points"]) == pytest.approx([0.25, 0.4, 0.75, 0.8], abs=0.005)
    (polygon,) = found.loc[1, "shapes"]
    assert np.ravel(polygon["points"]) == pytest.approx([0.49, 0.5, 0.54, 0.5, 0.54, 0.55])
    assert [problem for problem in page.problems if "ERR_CONNECTION_REFUSED" not in problem] == []
    assert page.asked == {server.link.split("/")[2]}

    again = Server(*words)
    page.goto(again.link)
    turn(page, 3)  # the first that is open
    press(page, "r")
    saved(page, "right")
    assert again.end(signal.SIGINT) == 0
    assert answers(file)["counts"].sum() == 4
    assert {each.name for each in folder.glob("review.sqlite*")} <= {file.name, f"{file.name}.lock"}


def test_the_next_image_is_there_at_once(folder, page):
    server = Server(f"review={folder}", "review.order=random", "review.blind=false")
    page.goto(server.link)
    page.fill("#name", "Bea")
    press(page, "Enter")
    turn(page, 0)
    time.sleep(2)  # a person looks
    took = page.evaluate("""() => new Promise((done) => {
      const began = performance.now();
      new MutationObserver(() => requestAnimationFrame(() => done(performance.now() - began)))
        .observe(document.body, { attributeFilter: ["data-turn"] });
      document.getElementById("on").click();
    })""")
    assert took < 100
    server.end(signal.SIGKILL)


def test_from_a_look_to_a_training_that_it_guides(folder, page, tmp_path):
    """Review of training images, report and training, each by the command that the page shows."""
    run, out = Run(folder), tmp_path / "it's drawn"
    run.hydra.mkdir()
    (run.hydra / "overrides.yaml").write_text(json.dumps(SMALL))
    places, commands = review(page, run, 9, out)
    found = answers(run.review_file)
    judged = opinions(run)
    assert found["place"].tolist() == places and found["counts"].all()
    assert found["verdict"].tolist() == [judged[place].verdict for place in places]
    for place, shapes in zip(places, found["shapes"], strict=True):
        box = judged[place].box
        assert len(shapes) == (box is not None)
        if box is not None:
            np.testing.assert_allclose(shapes[0]["points"], box, atol=0.005)
    for command, more in zip(commands, ([], [f"hydra.run.dir={tmp_path / 'guided'}"]), strict=True):
        words = [sys.executable, *shlex.split(command)[1:], *more]
        said = subprocess.run(words, cwd=REPO, text=True, capture_output=True, check=True).stdout
    assert commands[1] in (out / "report.html").read_text().replace("&#39;", "'").replace("&#34;", '"')
    drawn = len(list((out / "masks/train").glob("*.png")))
    assert drawn and f"Guided by the masks of {drawn} of 16 training images" in said
    assert page.problems == [] or all("ERR_CONNECTION_REFUSED" in problem for problem in page.problems)
