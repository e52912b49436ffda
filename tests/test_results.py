"""docs/results.md says what the runs in results/ give when they are analysed again."""

import json
import re
from collections.abc import Collection

import numpy as np
import pandas as pd
import pytest
from conftest import REPO, SHARED

from gaze.measures import measures
from gaze.runs.kept_maps import last_maps
from gaze.runs.load import load_runs, read_runs
from gaze.runs.run import runs_below
from gaze.statistics.intervals import folds_interval, folds_p, mean_interval, sign_flip_p
from gaze.statistics.permutation import mean_shift
from gaze.statistics.schedules import schedule_table
from gaze.statistics.seeds import pearson_table
from gaze.studies.consistency.common import common_table
from gaze.studies.shortcut.report import arm_table, arms_item, run_table

BRAIN = SHARED / "brain_tumor_mri"
SETS = {"Brain Tumor": "brain_tumor_mri", "Chest X-Ray": "chest_xray"}
STUDIES = ("thesis_64px", "thesis_64px_no_leaks")
LEVEL2 = "dataset == 'brain_tumor_mri' and model == 'level2' and `lambda` == 0 and epoch > 15"
EPOCHS = ("2 to 10", "12 to 18")  # over which lambda is turned up
IMAGES = {"correct": "", "all": "_all", "same": "_fixed"}


def rows_under(heading: str, begins: Collection[str] = SETS) -> list[list[str]]:
    """Cells of the tables in a section of the page, without their heads: rows that begin with one of ``begins``."""
    section = (REPO / "docs" / "results.md").read_text().partition(f"\n## {heading}")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines if line[0].strip() in begins]


@pytest.fixture(scope="module")
def ours():
    runs = load_runs(REPO / "results" / "thesis_64px")
    return pearson_table(runs[runs["lambda"] == 0]).set_index(["dataset", "model", "measure"])


def test_the_published_runs_give_the_pages_table():
    table = pearson_table(load_runs(REPO / "results" / "thesis" / "epochs.csv")).set_index(["dataset", "model"])
    rows = rows_under("The published runs")
    assert len(rows) == 10
    for name, level, *cells in rows:
        row = table.loc[(SETS[name], f"level{level}")]
        assert cells == [f"{row[c]:.3f}" for c in ("r", "strangers_r", "pairing_p", "pairing_p_holm")]


def test_our_runs_give_the_pages_tables(ours):
    rows = rows_under("Study 1 at 64x64")
    assert len(rows) >= 8
    alone = read_runs(REPO / "results" / "what_differs", include=["duplicate"]).epochs
    for name, level, *cells in rows:
        if "=" in cells[0]:  # one run of another size or precision
            measure = "gaze_consistency" + {"correct, l2 form": "_l2", **IMAGES}[cells[1]]
            own = alone[alone["run"].str.contains(cells[0])]
            assert cells[2] == f"{own['kappa'].corr(own[measure]):.3f}"
            continue
        if cells[0] in IMAGES:
            row = ours.loc[(SETS[name], f"level{level}", f"gaze_consistency{IMAGES[cells[0]]}")]
            assert cells[1:] == [f"{row['r']:.3f}", f"{row['strangers_r']:.3f}", f"{row['pairing_p']:.3f}"]
            continue
        row = ours.loc[(SETS[name], f"level{level}", "gaze_consistency_l2")]
        seeds, published, interval, inside, *others = cells
        assert [seeds, *others] == [str(row["n"]), f"{row['strangers_r']:.3f}", f"{row['pairing_p']:.3f}"]
        assert interval == f"{row['r']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        assert inside == ("yes" if row["ci_low"] <= float(published) <= row["ci_high"] else "no")


def test_our_runs_are_as_accurate_as_the_page_says():
    runs = load_runs(REPO / "results" / "thesis_64px")
    last = runs[(runs["epoch"] == 20) & (runs["lambda"] == 0)].groupby(["dataset", "model"])["accuracy"]
    text = (REPO / "docs" / "results.md").read_text().replace("\n", " ").partition("Accuracy at the last epoch")[2]
    for name, accuracy in zip(SETS, text.partition("; published")[0].split("Chest X-Ray"), strict=True):
        for level, mean, sd in re.findall(r"level (\d) (\S+) \((\S+)\)", accuracy):
            own = last.get_group((SETS[name], f"level{level}"))
            assert [mean, sd] == [f"{own.mean():.3f}", f"{own.std():.3f}"]
    assert len(re.findall(r"level \d", text.partition("; published")[0])) == (last.count() > 2).sum()


def test_lambdas_and_schedules_give_the_pages_tables():
    runs = read_runs(REPO / "results" / "thesis_64px")
    table = schedule_table(runs.epochs)
    of = ["study", "lambda", "against", "measure", "summary"]
    rows = {tuple(row[c] for c in of): row for _, row in table.iterrows()}
    studies = {epochs: "thesis_64px" + f", lambda from epoch {epochs}" * (epochs != "2 to 10") for epochs in EPOCHS}
    shown = rows_under("Study 2 at 64x64") + rows_under("Late constraint at 64x64")
    assert len(shown) == 15 + 20
    for *_, weight, epochs, total, against, measure, mean, change, p in shown:
        name, five, _ = measure.partition(", last 5 epochs")
        row = rows[studies[epochs], float(weight), against, name, "last5" if five else "last"]
        interval = f"[{row['ci_low']:.4f}, {row['ci_high']:.4f}]"
        assert row["n"] == row["n_against"] == 6 and row["family"] == (3 if epochs == "2 to 10" else 4)
        assert [total, mean, p] == [f"{row['lambda_sum']:.0f}", f"{row['mean']:.4f}", f"{row['p_holm']:.3f}"]
        assert change == f"{row['change']:.4f} {interval}"
    text = (REPO / "docs" / "results.md").read_text().replace("\n", " ")
    same = common_table(runs).query("study == 'thesis_64px'")
    weights = same["lambda"]
    for own in same.itertuples():
        change = f"{own.images} images, {own.diff:.4f} [{own.diff_low:.4f}, {own.diff_high:.4f}]"
        assert f"lambda {weights[own.Index]:g}: {change}" in text


def test_the_set_without_leaks_gives_the_pages_table():
    rows = rows_under("Without the leaked images")
    assert [row[2] for row in rows] == ["as published", "leaked images dropped"]
    for (*_, accuracy, kappa, r, strangers, p), study in zip(
        rows, ("thesis_64px", "thesis_64px_no_leaks"), strict=True
    ):
        runs = load_runs(REPO / "results" / study)
        runs = runs[(runs["lambda"] == 0) & (runs["dataset"] == "brain_tumor_mri") & (runs["model"] == "level2")]
        last = runs[runs["epoch"] == 20]
        assert len(last) == 6
        assert accuracy == f"{last['accuracy'].mean():.3f} ± {last['accuracy'].std():.3f}"
        assert kappa == f"{last['kappa'].mean():.3f} ± {last['kappa'].std():.3f}"
        row = pearson_table(runs).set_index("measure").loc["gaze_consistency_l2"]
        assert r == f"{row['r']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        assert [strangers, p] == [f"{row['strangers_r']:.3f}", f"{row['pairing_p']:.3f}"]


@pytest.mark.skipif(not BRAIN.is_dir(), reason=f"no folder {BRAIN} (set GAZE_SHARED_DATA)")
def test_it_is_the_leaked_images_that_were_known():
    trained = {path.read_bytes() for path in (BRAIN / "Training").rglob("*.jpg")}
    leaked = np.array([path.read_bytes() in trained for path in sorted((BRAIN / "Testing").rglob("*.jpg"))])
    assert leaked.sum() == 216 and len(leaked) == 1311
    text, shares = (REPO / "docs" / "results.md").read_text().replace("\n", " "), []
    for study in STUDIES:
        kept = [
            last_maps(run) for run in runs_below(REPO / "results" / study / "brain_tumor_mri" / "level2" / "lambda=0")
        ]
        right = np.array([own.correct[-1] for own in kept])
        shares.append([right.mean(1), right[:, leaked].mean(1), right[:, ~leaked].mean(1)])
    plain, dropped = shares
    every, known, new = (
        mean_shift([*b, *a], ["b"] * 6 + ["a"] * 6, "a", "b") for a, b in zip(plain, dropped, strict=True)
    )
    last = f"[{-every.ci_high:.3f}, {-every.ci_low:.3f}] (runs relabelled, p {every.p:.3f})"
    assert f"lower by {-every.change:.3f} {last}" in text
    seeds = [load_runs(REPO / "results" / s).query(LEVEL2).groupby("seed")["accuracy"].mean().tolist() for s in STUDIES]
    five = mean_shift([*seeds[1], *seeds[0]], ["b"] * 6 + ["a"] * 6, "a", "b")
    assert f"epochs by {-five.change:.3f} [{-five.ci_high:.3f}, {-five.ci_low:.3f}] (p {five.p:.3f})" in text
    assert f"from {plain[1].mean():.3f} to {dropped[1].mean():.3f} (p {known.p:.3f})" in text
    assert f"from {plain[2].mean():.3f} to {dropped[2].mean():.3f} (p {new.p:.2f}; four p" in text


def test_images_that_are_learned_late_deviate_more():
    values = []
    for run in runs_below(REPO / "results" / "thesis_64px" / "brain_tumor_mri" / "level2" / "lambda=0"):
        kept, deviation = last_maps(run), np.full(1311, np.nan)
        for label in range(4):
            own = kept.correct[-1] & (kept.target == label)
            maps = kept.maps[own] / 255
            deviation[own] = ((maps - maps.mean(0)) ** 2).mean((1, 2))
        groups = (~kept.correct[:5].any(0), kept.correct[:5].all(0))
        values.append([deviation[kept.correct[-1] & group].mean() for group in groups])
    assert len(values) == 6 and all(late > early for late, early in values)
    text = (REPO / "docs" / "results.md").read_text().replace("\n", " ")
    late, early = np.mean(values, 0)
    assert f"deviate by {late:.3f} and those that were right in all five by {early:.3f}, in each of the six" in text
    assert f"p {sign_flip_p([a - b for a, b in values]):.3f}" in text


def figure_of(run, weights: str, measure: str) -> float:
    return json.loads(run.test_file.read_text())[weights][f"test/{measure}"]


def test_the_runs_with_validation_images_give_the_pages_table():
    runs = read_runs(REPO / "results" / "thesis_64px_validation")
    row = pearson_table(runs.epochs).set_index("measure").loc["gaze_consistency_l2"]
    cells = [
        f"{np.mean(own):.3f} ± {np.std(own, ddof=1):.3f}"
        for weights, measure in (("last", "accuracy"), ("last", "kappa"), ("best", "accuracy"))
        for own in ([figure_of(run, weights, measure) for run in runs.used.values()],)
    ]
    r = f"{row['r']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    expected = [str(len(runs.used)), *cells, r, f"{row['strangers_r']:.3f}", f"{row['pairing_p']:.3f}"]
    assert rows_under("Test images seen once") == [["Brain Tumor", "2", *expected]]


def test_the_folds_of_breast_ultrasound_give_the_pages_table():
    runs, rows = read_runs(REPO / "results" / "ultrasound_folds"), []
    assert len(runs.used) == 20 and {*runs.epochs["fold"]} == set(range(5))
    keys = {"accuracy": 3, "kappa": 3, "gaze_consistency": 4, "gaze_mask_lift": 2}
    for measure, digits in keys.items():
        values = np.empty((2, 2, 5))
        for run in runs.used.values():
            own = run.settings
            values[int(own.lambda_ == 50), own.seed, own.dataset.fold] = figure_of(run, "last", measure)
        plain, forced, change = (
            (v.mean(), *folds_interval(v, 5)) for v in (*values, values[1] - values[0])
        )  # fmt: skip
        mean, low, high = (f"{v:.{digits}f}" for v in plain)
        naive = "[{}, {}]".format(*(f"{v:.{digits}f}" for v in mean_interval(values[0])))
        others = ["{} [{}, {}]".format(*(f"{v:.{digits}f}" for v in found)) for found in (forced, change)]
        title = "L_CAM, squared" if measure == "gaze_consistency" else measures()[measure].heading
        rows.append([title, f"{mean} [{low}, {high}]", naive, *others, f"{folds_p(values[1] - values[0], 5):.2g}"])
    assert rows_under("Five folds of breast ultrasound", {row[0] for row in rows}) == rows


def test_the_guided_gaze_on_breast_ultrasound_gives_the_pages_table():
    keys = {"accuracy": 3, "kappa": 3, "gaze_consistency": 4, "gaze_mask_lift": 2, "gaze_pointing": 3}
    values = np.empty((2, 2, 6, len(keys)))  # lambda, mask weight, seed, measure
    for run in read_runs(REPO / "results" / "ultrasound_guided").used.values():
        own = run.settings
        place = int(own.lambda_ == 50), int(own.gaze.mask_weight == 5), own.seed
        values[place] = [figure_of(run, "last", measure) for measure in keys]
    rows = []
    for weight, mask in np.ndindex(2, 2):
        changes = values[weight, mask] - values[0, 0]
        row = [f"lambda {50 * weight}, mask_weight {5 * mask}"]
        for i, digits in enumerate(keys.values()):
            mean, sd = values[weight, mask, :, i].mean(), values[weight, mask, :, i].std(ddof=1)
            row.append(f"{mean:.{digits}f} ± {sd:.{digits}f}")
            if weight or mask:
                low, high = mean_interval(changes[:, i])
                row[-1] += f" ({changes[:, i].mean():+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}])"
        rows.append(row)
    assert rows_under("Consistent and correct?", {row[0] for row in rows}) == rows


def test_no_run_in_results_holds_pictures_or_paths_of_a_machine():
    allowed = {"config.json", "status.json", "environment.json", "metrics.csv", "gaze_grid.csv", "gaze_last.npz"}
    allowed |= {"images.json", "test.json", "epochs.csv", "README.md", ".gitignore"}
    listed = pd.read_csv(REPO / "results" / "thesis" / "epochs.csv", nrows=0).columns
    assert "gaze_consistency" not in listed  # not published, so not there
    for path in (REPO / "results").rglob("*.*"):
        if path.is_file():
            assert path.name in allowed and not re.search(
                rb"(?<![\w.-])/(home|root|work|tmp|Users)/", path.read_bytes()
            ), path


@pytest.mark.parametrize(
    ("study", "runs"), [("shortcut", [8] + [5] * 8), ("ultrasound_shortcut", [6, 5, 5])], ids=lambda given: str(given)
)
def test_the_page_has_the_arms_that_may_mend_a_marker(study, runs):
    arms = arm_table(run_table(read_runs(REPO / "results" / study, arms=True)))
    lines = {line for line in (REPO / "docs" / "results.md").read_text().splitlines() if line.startswith("| ")}
    shown = arms_item(arms).shown.fillna("\N{EN DASH}")
    assert list(arms["runs"]) == runs and arms["verdict"].isna().tolist() == [True] + [False] * (len(runs) - 1)
    assert {f"| {' | '.join(row)} |" for row in shown.itertuples(index=False)} <= lines
