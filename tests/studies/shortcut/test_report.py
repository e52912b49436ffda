"""gaze.studies.shortcut.report: arms are told by settings and tested by runs, and the association keeps its level."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import spearmanr

from gaze.config.analysis import AnalyzeConfig
from gaze.errors import DataError
from gaze.runs.load import read_runs
from gaze.runs.run import Run
from gaze.statistics.intervals import holm
from gaze.statistics.permutation import mean_shift
from gaze.studies.costs import Priced
from gaze.studies.run import run_analysis
from gaze.studies.shortcut import report

ARMS = {"plain": (), "dfr": ("dfr=true",), "sampler group": ("dataset.sampler=group",)}
LOG = {"kappa": 0.5, "accuracy": 0.6, "gaze_consistency": 0.03, "loss": 1.0}


def written(folder, tiny, marked=True):
    """A study of 8 plain runs and 5 of each of two arms, the first of which mends the worst group."""
    rng, marker = np.random.default_rng(0), ("dataset=phantom_shortcut",) if marked else ("dataset=phantom",)
    for number, (arm, words) in enumerate(ARMS.items() if marked else [("plain", ())]):
        for seed in range(8 if arm == "plain" else 5):
            run = Run(folder / f"{arm}{seed}")
            run.folder.mkdir(parents=True)
            config = tiny(*marker, *words, f"seed={100 * number + seed}", "study=s", "trainer.max_epochs=1")
            run.config_file.write_text(json.dumps(config.to_dict()))
            own = {"gaze_marker_energy": rng.random(), "gaze_mask_lift": 1 + rng.random(), **LOG}
            row = {"epoch": 1, **{f"val/{name}": value for name, value in own.items()}}
            with run.metrics_file.open("w", newline="") as file:
                table = csv.DictWriter(file, row)
                table.writeheader()
                table.writerow(row)
            worst = 0.2 + 0.05 * rng.random() + 0.4 * (arm == "dfr")
            tested = {"test/worst_group_accuracy": worst, "test/accuracy": worst + 0.1}
            run.test_file.write_text(json.dumps({"last": tested, "best": {}}))
    return folder


def test_a_study_says_which_arm_mended_and_calls_the_rest_an_association(tiny, tmp_path):
    config = AnalyzeConfig(source=str(written(tmp_path / "runs", tiny)), study="s")
    with Console(file=(tmp_path / "said.txt").open("w"), width=200) as console:
        run_analysis(config, tmp_path / "out", console)
    arms = pd.read_csv(tmp_path / "out" / "tables" / "arms.csv").set_index("arm")
    runs = pd.read_csv(tmp_path / "out" / "tables" / "runs.csv")
    assert list(arms.index) == list(ARMS) and list(arms["runs"]) == [8, 5, 5]
    shifts = [mean_shift(runs[report.WORST], list(runs["arm"]), "plain", arm) for arm in list(ARMS)[1:]]
    np.testing.assert_allclose(arms["p_holm"].iloc[1:], holm([shift.p for shift in shifts]))
    assert arms["smallest_p"].iloc[1] == pytest.approx(1 / 1287)
    assert list(arms["verdict"].iloc[1:]) == ["mended", "not shown"]
    page = (tmp_path / "out" / "report.md").read_text()
    assert "dfr: worst group 0.6" in page and "association over 18 runs" in page
    assert len(list((tmp_path / "out" / "figures").glob("worst_group_and_gaze.*"))) == 2


def test_costs_stand_beside_the_worst_group(tiny, tmp_path):
    runs = read_runs(written(tmp_path / "runs", tiny), study="s", arms=True)
    priced = {
        name: Priced(("x", "y"), np.arange(2), np.array([[i, i + 1.0], [i, i], [0, -1.0]]), 0.5, 0.1)
        for i, name in enumerate(sorted(runs.used))
    }
    del priced[sorted(runs.used)[-1]]
    report.run_study(runs, tmp_path / "out", Console(quiet=True), {}, priced)
    costs = pd.read_csv(tmp_path / "out" / "tables" / "costs.csv").set_index("arm")
    assert costs["runs"].to_dict() == {"plain": 8, "dfr": 5, "sampler group": 4}
    found = report.run_table(runs)
    for arm, own in found[found["run"].isin(list(priced))].groupby("arm"):
        assert costs.loc[arm, "cost"] == pytest.approx(np.mean([priced[name].costs[0].mean() for name in own["run"]]))
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| cost |" in " ".join(page.split()) and "1 runs without predictions.csv" in page


def test_runs_without_a_marker_are_refused(tiny, tmp_path):
    config = AnalyzeConfig(source=str(written(tmp_path / "runs", tiny, marked=False)), study="s", kind="shortcut")
    with pytest.raises(DataError, match="kind=shortcut needs runs of images with a marker"):
        run_analysis(config, tmp_path / "out", Console(quiet=True))


def made(rng, slope=0.0):
    """Arms that differ in both, and within them no relation beyond ``slope``."""
    arms = np.repeat(["plain", "a", "b"], [8, 5, 5])
    shift = np.repeat([0.0, 3.0, 6.0], [8, 5, 5])
    gaze = shift + rng.normal(size=18)
    worst = -shift + slope * gaze + rng.normal(size=18)
    return pd.DataFrame({"arm": arms, report.WORST: worst, report.GAZES[0]: gaze, report.GAZES[1]: gaze})


def test_the_association_is_spearmans_and_holds_its_level_within_arms(monkeypatch):
    monkeypatch.setattr(report, "DRAWS", 99)
    rng = np.random.default_rng(1)
    found = made(rng)
    row = report.association_table(found).iloc[0]
    assert row["rho"] == pytest.approx(spearmanr(found[report.WORST], found[report.GAZES[0]]).statistic)
    assert row["rho"] < -0.5
    p = [report.association_table(made(rng)).loc[0, "p"] for _ in range(150)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
    assert np.median([report.association_table(made(rng, 3.0)).loc[0, "p"] for _ in range(5)]) <= 0.05
