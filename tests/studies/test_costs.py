"""What mistakes cost, from predictions on disk to both reports."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from run_folders import SMALL, write_run

from gaze.config.analysis import AnalyzeConfig, CompareConfig
from gaze.config.costs import read_costs
from gaze.config.train import check_config
from gaze.data.sources.phantom import CLASSES
from gaze.errors import ConfigError
from gaze.runs.predictions import Predictions, write_predictions
from gaze.runs.run import Run
from gaze.studies.costs import cost_finding, cost_table, price_runs
from gaze.studies.run import run_analysis

MATRIX = 10.0 * (np.arange(4)[:, None] + 1) + np.arange(4)
np.fill_diagonal(MATRIX, 0)
IMAGES = 24


def predict(folder, seed: int, names=None) -> tuple[np.ndarray, ...]:
    """A ``predictions.csv`` of made-up probabilities in the folder of a run."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(4), IMAGES).astype(np.float32)
    truth, nothing = np.arange(IMAGES) % 4, np.full(IMAGES, np.nan)
    files = names or [f"test/{i:05}" for i in range(IMAGES)]
    groups = [f"p{i // 2}" for i in range(IMAGES)]
    empty = np.zeros(IMAGES, bool)
    (folder / str(seed)).mkdir(exist_ok=True)
    found = Predictions(CLASSES, files, groups, truth, p.argmax(1), p, nothing, nothing, empty, None)
    write_predictions(Run(folder / str(seed)).predictions_file, found)
    return truth, p


@pytest.fixture
def costs(tmp_path):
    lines = [
        f"{t}: {{{', '.join(f'{p}: {MATRIX[i, j]:g}' for j, p in enumerate(CLASSES))}}}" for i, t in enumerate(CLASSES)
    ]
    (tmp_path / "costs.yaml").write_text("\n".join(lines))
    return str(tmp_path / "costs.yaml")


def analyse(source, directory, **settings) -> str:
    console = Console(file=io.StringIO(), width=100)
    config = AnalyzeConfig(source=str(source), compare=CompareConfig(device="cpu"), **settings)
    run_analysis(config, directory, console)
    return console.file.getvalue()


def test_costs_of_runs_and_arms_are_those_of_a_double_loop(tmp_path, costs):
    given = {seed: predict(tmp_path, seed) for seed in range(3)}
    runs = {f"{seed}": Run(tmp_path / str(seed)) for seed in range(4)}
    (tmp_path / "3").mkdir()
    runs["3"].predictions_file.write_text("file\n")  # damaged
    priced = price_runs(runs, read_costs(costs))
    frame = pd.DataFrame({"run": list(runs), "model": "level2", "lambda": [0.0, 0.0, 50.0, 50.0]})
    by_arm, by_run = (cost_table(frame, keys, priced) for keys in (["model", "lambda"], ["model", "lambda", "run"]))
    for row in by_run.itertuples():
        truth, p = given[int(row.run)]
        argmax = [MATRIX[t, q.argmax()] for t, q in zip(truth, p, strict=True)]
        least = [MATRIX[t, (q.astype(float) @ MATRIX).argmin()] for t, q in zip(truth, p, strict=True)]
        assert (row.cost, row.least) == pytest.approx((np.mean(argmax), np.mean(least)))
        assert row.change == pytest.approx(row.least - row.cost) and row.cost_low < row.cost < row.cost_high
        assert row.accuracy == np.mean(p.argmax(1) == truth)
    assert by_arm["runs"].tolist() == [2, 1]
    assert by_arm["cost"][0] == pytest.approx(by_run["cost"][:2].mean())
    assert by_arm["cost_sd"][0] == pytest.approx(by_run["cost"][:2].std())
    assert len(np.unique(priced["0"].units)) == IMAGES / 2
    predict(tmp_path, 1, [f"other/{i}" for i in range(IMAGES)])
    table = cost_table(frame, ["lambda"], price_runs(runs, read_costs(costs)))
    assert table["cost"].notna().all() and table["cost_low"].isna().tolist() == [True, False]
    assert "What do the mistakes cost an image, here?" in cost_finding(table, ["lambda"], "here")
    assert cost_finding(table.assign(cost=np.nan), ["lambda"], "here") is None


def test_what_is_wrong_is_said_before_any_work(composed, tmp_path, costs):
    for seed in (0, 1):
        folder = tmp_path / "runs" / str(seed)
        write_run(folder, check_config(composed(*SMALL, f"seed={seed}")), list(CLASSES))
    with pytest.raises(ConfigError, match="none of these runs has predictions"):
        analyse(tmp_path / "runs", tmp_path / "report", costs=costs)
    predict(tmp_path / "runs", 0)
    (tmp_path / "bad.yaml").write_text("diffuse: {healthy: 1}")
    with pytest.raises(ConfigError, match="class healthy is missing"):
        analyse(tmp_path / "runs", tmp_path / "report", costs=str(tmp_path / "bad.yaml"))
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_lambda_studies_show_cost_beside_accuracy(composed, tmp_path, costs):
    for weight, seed in ((0, 0), (0, 1), (50, 2), (50, 3)):
        folder = tmp_path / "runs" / str(seed)
        write_run(folder, check_config(composed(*SMALL, f"lambda={weight}", f"seed={seed}")), list(CLASSES))
        if seed < 3:
            predict(tmp_path / "runs", seed)
    assert "What do the mistakes cost?" in analyse(tmp_path / "runs", tmp_path / "report", costs=costs)
    accuracy = (tmp_path / "report/tables/accuracy-default-phantom.md").read_text()
    assert " cost |" in accuracy and "p (Holm)" in accuracy
    report = (tmp_path / "report/report.md").read_text()
    assert "1 runs without predictions" in report and "What do the mistakes cost an image, phantom?" in report
    assert pd.read_csv(tmp_path / "report/tables/run-costs-default-phantom.csv")["seed"].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_augmentation_studies_show_cost_and_its_association(composed, tmp_path, costs):
    for seed, arm in enumerate(("none",) * 3 + ("elastic",) * 3):
        folder = tmp_path / "runs" / str(seed)
        config = check_config(composed(*SMALL, f"augmentation={arm}", f"seed={seed}", "study=arms"))
        write_run(folder, config, list(CLASSES))
        predict(tmp_path / "runs", seed)
    analyse(tmp_path / "runs", tmp_path / "report", costs=costs)
    report = (tmp_path / "report/report.md").read_text()
    assert "Does moved gaze go with cost (an association over 6 runs, no cause)?" in report
    tables = {path.stem: pd.read_csv(path) for path in (tmp_path / "report/tables").glob("*.csv")}
    runs = next(table for name, table in tables.items() if name.startswith("runs-"))
    by_arm = next(table for name, table in tables.items() if name.startswith("costs-"))
    means = runs.groupby("arm", sort=False)["cost"].mean()
    assert dict(zip(by_arm["arm"], by_arm["cost"], strict=True)) == pytest.approx(means.to_dict())
    assert "cost (SD)" in report
    association = next(table for name, table in tables.items() if name.startswith("moved-and-cost"))
    assert association["runs"].item() == 6 and -1 <= association["rho"].item() <= 1


def test_costs_belong_to_studies():
    with pytest.raises(ConfigError, match="belongs to studies, not to check"):
        AnalyzeConfig(costs="costs.yaml", check="run")
