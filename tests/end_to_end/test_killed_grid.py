"""Twenty SIGKILLs strike a grid of 20 runs and the report on it. Each time the same command goes on: the end is that of
a grid that nothing struck, in every byte.
"""

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faults
import pytest
from conftest import REPO, TINY

from gaze.runs.status import read_status

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL"),
]

GRID = (
    str(REPO / "train.py"),
    "-m",
    *TINY,
    "lambda=0,50",
    "seed=range(10)",
    "gaze.start_epoch=0",
    "pictures.every_n_epochs=2",
)
REPORT = (str(REPO / "analyze.py"),)
STRIKES = {  # place: the latest call of it that is struck; 20 runs have 80 steps and 80 batches of evaluation
    "at_step": 5, "while_evaluating": 5, "while_saving": 2, "between_the_two_names": 2, "while_writing_metrics": 2,
    "while_drawing": 2,
}  # fmt: skip


def whole(folder: Path, words: tuple[str, ...]) -> None:
    """A command, to its end."""
    code, shown = faults.command(folder, words)
    assert code == 0, shown


def struck(folder: Path, words: tuple[str, ...], place: str, number: int) -> bool:
    """A command, killed before the call of that number of a place: was it in the middle of a run, or of a report?"""
    code, shown = faults.command(folder, words, place, number)
    assert code == -signal.SIGKILL, f"{place} {number}: {shown}"
    if words is REPORT:
        return not list(folder.rglob("report.html"))  # its last file
    return [read_status(path.parent)["state"] for path in folder.rglob("status.json")].count("running") == 1


def test_twenty_kills_leave_what_an_undisturbed_grid_leaves(tmp_path):
    drawn = random.Random(25)
    places = [*STRIKES] * 3
    drawn.shuffle(places)
    strikes = [(GRID, place, drawn.randint(1, STRIKES[place])) for place in places]
    strikes += [(REPORT, "while_reporting", drawn.randint(1, 40)) for _ in range(2)]
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    killed.mkdir()
    calm.mkdir()
    with ThreadPoolExecutor() as beside:
        undisturbed = beside.submit(lambda: [whole(calm, words) for words in (GRID, REPORT)])
        hits = [struck(killed, *strike) for strike in strikes[:-2]]
        whole(killed, GRID)
        hits += [struck(killed, *strike) for strike in strikes[-2:]]
        whole(killed, REPORT)
        undisturbed.result()
    assert hits == [True] * 20, [strike[1:] for strike, hit in zip(strikes, hits, strict=True) if not hit]
    runs = sorted(path.parent.relative_to(calm) for path in calm.rglob("status.json"))
    assert len(runs) == 20
    assert any(read_status(killed / run)["resumed_from_epoch"] for run in runs)
    for run in runs:
        faults.assert_same_result(killed / run, calm / run)
    assert files(killed) == files(calm)


def files(folder: Path) -> dict[str, bytes]:
    """All that runs and report hold: tables, maps, pictures, settings. No file that a kill left behind may be there."""
    clocked = {"status.json", "environment.json", "hydra.yaml", "multirun.yaml"}  # time, process, path of the folder
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in clocked]
    found = [path for path in found if path.suffix != ".ckpt" and "tfevents" not in path.name]  # tensors: above
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}
