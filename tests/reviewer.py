"""A scripted reviewer at the review page in a real browser, who errs as people do.

``python tests/reviewer.py RUN TURNS`` answers the first turns of a review of training images, and writes what was drawn
to ``drawn/masks`` and the true masks of these images to ``true/masks``.
"""

import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from browser import BROWSER
from conftest import REPO
from PIL import Image

from gaze.config.analysis import CompareConfig
from gaze.consistency.guidance import covered
from gaze.runs.run import Run
from gaze.studies.opened import images_at_hand, open_run

WRONG, OFF = 0.2, 0.15  # share of wrong answers, each with a box elsewhere; SD of a corner, in sides of the box


class Server:
    """``analyze.py review=RUN`` in a process."""

    def __init__(self, *words):
        command = [sys.executable, "analyze.py", *words, "compare.device=cpu"]
        self.process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+/\S+/", line):
                self.link = found[0]
                return
        raise AssertionError(self.said)

    def end(self, signum):
        self.process.send_signal(signum)
        return self.process.wait(60)


@contextmanager
def browser_page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.problems, page.asked = [], set()
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda line: page.problems.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: page.asked.add(request.url.split("/")[2]))
        yield page
        browser.close()


def turn(page, number):
    page.wait_for_selector(f"body[data-turn='{number}']")


def saved(page, text):
    page.locator("#said", has_text=f"Saved: {text}").wait_for()


def drag(page, *corners):
    box = page.locator(".drawing").first.bounding_box()
    (x0, y0), (x1, y1) = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move((x0 + x1) / 2, y1)
    page.mouse.move(x1, y1)
    page.mouse.up()


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


class Opinion(NamedTuple):
    """What is answered: "right", "wrong" or "unsure", and the corners of a box (2, 2) in shares, or None."""

    verdict: str
    box: np.ndarray | None


def opinions(run: Run, seed: int = 0) -> dict[int, Opinion]:
    """Of each training image by its place: right where the map's highest cell touches the lesion, and a box around it;
    unsure of an image without one. Some are wrong: another answer, and a box of that size elsewhere."""
    draw, split = np.random.default_rng(seed), images_at_hand(run.dataset, lambda line: None).data.train
    cams = open_run(run.folder, CompareConfig(device="cpu")).look(split.images, split.targets).cams
    inside = covered(split.masks.float(), torch.from_numpy(cams)).flatten(1).numpy()
    hit = inside[np.arange(len(cams)), cams.reshape(len(cams), -1).argmax(1)] > 0
    found = {}
    for place, mask in enumerate(split.masks[:, 0].numpy()):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box, verdict, side = None, "unsure", len(mask)
        if mask.any():
            box = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]) / side
            verdict = "right" if hit[place] else "wrong"
        if draw.random() < WRONG:
            verdict = {"right": "wrong", "wrong": "right", "unsure": "wrong"}[verdict]
            size = np.array([0.2, 0.2]) if box is None else box[1] - box[0]
            start = draw.random(2) * (1 - size)
            box = np.array([start, start + size])
        if box is not None:
            box = np.clip(np.sort(box + draw.normal(0, OFF, (2, 2)) * (box[1] - box[0]), axis=0), 0, 1)
            box[1] = np.maximum(box[1], box[0] + 0.02)
        found[place] = Opinion(verdict, box)
    return found


def review(page, run: Run, turns: int, out: Path) -> tuple[list[int], list[str]]:
    """Answer the first turns by keys and mouse; the browser is reloaded and the server killed on the way.

    Returns:
        Places of the training images that were judged, and the commands that the page shows: a report in ``out``, and a
        training.
    """
    words = (f"review={run.folder}", "review.images=train", "review.order=random", "review.repeat=0",
             f"hydra.run.dir={out}")  # fmt: skip
    server, judged = Server(*words), opinions(run)
    with closing(sqlite3.connect(run.review_file)) as db:
        places = [place for (place,) in db.execute("SELECT place FROM queue ORDER BY item")][:turns]
    page.goto(server.link)
    page.fill("#name", "Scripted")
    press(page, "Enter")
    for number, place in enumerate(places):
        turn(page, number)
        verdict, box = judged[place]
        if number % 10 == 1:
            press(page, "[", "[", "]")
            page.locator("#opacity").focus()
            press(page, "ArrowLeft", "Escape")
        if box is not None:
            press(page, "b")
            drag(page, *box.tolist())
            press(page, "Escape")
        if number == turns // 3:
            press(page, "w")
            page.reload()  # what is drawn and not saved yet is there again
            turn(page, number)
            assert page.locator(".drawing .shape").count() == (box is not None)
        press(page, *{"right": "r", "unsure": "u", "wrong": "w1"}[verdict])
        if verdict == "wrong":
            press(page, "Enter")
        saved(page, verdict)
        if number == turns // 2:
            assert server.end(signal.SIGKILL) == -signal.SIGKILL
            server = Server(*words)
            page.goto(server.link)
        elif number + 1 < turns:
            press(page, "Enter")
    commands = page.locator("#then pre").all_text_contents()
    assert server.end(signal.SIGINT) == 0
    return places, commands


def write_true_masks(run: Run, places: list[int], folder: Path) -> None:
    """True masks of these training images, as ``dataset.guide_dir`` takes them."""
    split = images_at_hand(run.dataset, lambda line: None).data.train
    for place in places:
        file = folder / f"{split.paths[place]}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 * split.masks[place, 0].numpy()).save(file)


if __name__ == "__main__":
    judged_run = Run(Path(sys.argv[1]))
    with browser_page() as opened:
        seen, typed = review(opened, judged_run, int(sys.argv[2]), Path("drawn").absolute())
    subprocess.run([sys.executable, *shlex.split(typed[0])[1:]], cwd=REPO, check=True)
    write_true_masks(judged_run, seen, Path("true/masks"))
    print(typed[1])
