"""The whole analysis: from runs to tables, figures and the report, on a small log that this project made.

tests/fixtures holds 10 runs of the phantom (level1, level2, level3, two seeds; level2 at three lambdas), 12 epochs
each.
The golden report is renewed with GAZE_RENEW_GOLDEN=1 pytest tests/studies/consistency/test_analysis.py -k golden.
"""

import io
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import needs_browser, open_in_browser
from conftest import FIXTURES, REPO
from made_up import made_up_runs
from rich.console import Console
from run_folders import SMALL, write_run
from scipy import stats

from gaze.config.analysis import AnalyzeConfig
from gaze.config.train import check_config
from gaze.data.sources.phantom import CLASSES
from gaze.errors import ConfigError, DataError
from gaze.files import write_json
from gaze.runs.load import read_runs
from gaze.runs.tidy import TIDY_COLUMNS
from gaze.studies.consistency.analysis import sections
from gaze.studies.run import run_analysis

DATA = FIXTURES / "epochs.csv"
GOLDEN = FIXTURES / "golden" / "analysis" / "report.md"
SLUG = "phantom_grid-phantom"


def analyse(source: Path, directory: Path, **settings) -> tuple[list[Path], str]:
    """Paths written and what the terminal showed."""
    console = Console(file=io.StringIO(), width=100)
    paths = run_analysis(AnalyzeConfig(source=str(source), **settings), directory, console)
    return paths, console.file.getvalue()


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    directory = tmp_path_factory.mktemp("analysis")
    return directory, *analyse(DATA, directory)


def test_the_report_names_the_version_that_made_it(analysis):
    assert f"gaze {version('gaze-consistency')}, " in (analysis[0] / "report.md").read_text(encoding="utf-8")


def without_provenance(report: str) -> str:
    return report[: report.index("## Provenance")]


# ---- what is written


def test_the_report_is_the_golden_one(analysis):
    text = without_provenance((analysis[0] / "report.md").read_text(encoding="utf-8"))
    if os.environ.get("GAZE_RENEW_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_the_report_names_the_cams_of_its_runs(composed, tmp_path):
    for seed, method in enumerate(("hires_cam", "layer_cam")):
        config = check_config(composed(*SMALL, f"gaze.method={method}", f"seed={seed}"))
        write_run(tmp_path / method, config, list(CLASSES))
    text = " ".join(words for section in sections(read_runs(tmp_path), []) for words in section.text)
    assert "the HiResCAM or LayerCAM map of a correctly classified image" in text and "Grad-CAM" not in text


def test_every_table_and_figure_is_there_in_every_form(analysis):
    directory, paths, shown = analysis
    assert {path for path in directory.rglob("*") if path.is_file()} == set(paths)
    assert all(path.stat().st_size > 0 for path in paths)
    names = {path.stem for path in paths if path.parent.name == "figures"}
    kinds = ("correlation-squared", "correlation-l2", "curves-accuracy", "curves-kappa", "curves-consistency_rms")
    kinds += ("overview-accuracy", "overview-consistency_rms", "curves-eta_squared", "eta", "scale", "atlas")
    assert names == {f"{kind}-{SLUG}" for kind in kinds}
    assert f"{len(paths)} files in {directory}, in " in shown and "epochs.csv" not in shown
    for path in paths:
        if path.parent.name == "figures":
            assert path.with_suffix(".png") in paths and path.with_suffix(".pdf") in paths
        if path.parent.name == "tables":
            assert {path.with_suffix(s) for s in (".csv", ".md", ".tex")} <= set(paths)
    assert "Open " in shown and "report.html in a browser" in shown


def test_numbers_are_those_of_scipy(analysis):
    runs = pd.read_csv(DATA)
    table = pd.read_csv(analysis[0] / "tables" / f"pearson-{SLUG}.csv").set_index(["model", "lambda", "measure"])
    for (model, weight), part in runs.groupby(["model", "lambda"]):
        for measure in ("gaze_consistency", "gaze_consistency_l2", "gaze_eta_squared"):
            each = [stats.pearsonr(run["kappa"], run[measure])[0] for _, run in part.groupby("seed")]
            assert table.loc[(model, weight, measure), "r"] == pytest.approx(np.mean(each), abs=1e-12)
    five = runs[runs["epoch"] > 7].groupby(["model", "lambda", "seed"])["accuracy"].mean()
    expected = stats.ttest_rel(five["level2", 50.0], five["level2", 0.0])
    row = pd.read_csv(analysis[0] / "tables" / f"accuracy-{SLUG}.csv").query(
        "model == 'level2' and `lambda` == 50 and summary == 'last5'"
    )
    assert row["p"].item() == pytest.approx(expected.pvalue)
    assert row["diff"].item() == pytest.approx((five["level2", 50.0] - five["level2", 0.0]).mean())


def test_the_csv_alone_repeats_the_analysis(analysis, tmp_path, undrawn):
    first = analysis[0]
    paths, _ = analyse(first / "epochs.csv", tmp_path)
    for path in paths:
        old = first / path.relative_to(tmp_path)
        if path.name in ("report.html", "report.md"):
            assert without_provenance(path.with_suffix(".md").read_text()) == without_provenance(
                old.with_suffix(".md").read_text()
            )
        elif path.suffix not in (".npz", ".png", ".pdf"):  # figures are made of the same rows
            assert path.read_bytes() == old.read_bytes(), path.name


def test_without_maps_the_report_says_so(tmp_path, undrawn):
    (tmp_path / "epochs.csv").write_bytes(DATA.read_bytes())
    paths, _ = analyse(tmp_path / "epochs.csv", tmp_path / "out")
    assert not [path for path in paths if "atlas" in path.name]
    assert "No maps: these runs drew no pictures" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
def test_an_earlier_analysis_is_replaced(analysis, tmp_path, undrawn):
    analyse(DATA, tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    made_up_runs(models=("level2",)).to_csv(tmp_path / "x.csv", index=False)
    paths, _ = analyse(tmp_path / "x.csv", tmp_path)
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {p.name for p in paths} | {"mine.txt", "x.csv"}


@needs_browser
def test_the_page_in_a_browser(analysis, tmp_path):
    visit = open_in_browser(analysis[0] / "report.html", tmp_path)
    assert visit.requests == []
    assert visit.dom.count("<img") == 11
    assert visit.dom.count("<table") == len(list((analysis[0] / "tables").glob("*.csv")))
    table = pd.read_csv(analysis[0] / "tables" / f"pearson-{SLUG}.csv").query("`lambda` == 0")
    for r in table["r"]:
        assert f"{r:.3f}" in visit.dom


# ---- what a reader sees first


def page_of(tmp_path: Path, runs: pd.DataFrame) -> tuple[str, str]:
    """report.md and the page's body."""
    runs.to_csv(tmp_path / "x.csv", index=False)
    analyse(tmp_path / "x.csv", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    return (tmp_path / "out" / "report.md").read_text(encoding="utf-8"), page.partition("<body>")[2]


LEVELS = tuple(f"level{i}" for i in range(1, 6))
GRID = {"models": LEVELS, "lambdas": (-100, 0, 50, 100, 500), "epochs": 6}


@pytest.mark.parametrize("seeds", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_grid_is_read_from_the_top_two_pictures_a_sentence_a_level_then_levels_down_lambda_across(
    tmp_path, undrawn, seeds
):
    text, page = page_of(tmp_path, made_up_runs(**GRID, seeds=range(seeds)))
    first, second, contents, tables = (page.index(f'id="{name}"') for name in (
        "figure-overview-accuracy-made_up-phantom", "figure-overview-consistency_rms-made_up-phantom", "contents",
        "table-across-accuracy-made_up-phantom",
    ))  # fmt: skip
    sentences = [page.index(f"<li>{level}: ") for level in LEVELS]
    assert first < second < sentences[0] and sentences == sorted(sentences)
    assert sentences[-1] < contents < page.index(">Further findings</h2>") < tables
    assert page[:contents].count("<li>") == 5
    assert page.index("<table") > contents
    assert page.index("Hatched: at least half of the cell's runs collapsed.".replace("'", "&#39;")) < second
    summary = text[text.index("## Further findings") : text.index("## Models down, lambda across")]
    assert "What lambda does to the gaze" not in summary  # twenty clauses
    row = next(line for line in text.splitlines() if line.startswith("| level1"))
    assert row.count("|") == 7  # the model and five lambdas


@pytest.mark.slow
def test_long_tables_of_a_grid_are_folded_and_the_rest_is_open(tmp_path, undrawn):
    _, page = page_of(tmp_path, made_up_runs(**GRID, seeds=[0]))
    folded = re.findall(
        r'<figure id="table-([a-z_-]+)-made_up-phantom">\s*<figcaption.*?</figcaption>\s*<details>', page
    )
    assert {"pearson-lambda", "accuracy", "kappa", "gaze"} <= set(folded)
    for name, rows in re.findall(r'id="table-([a-z_-]+)".*?<tbody>(.*?)</tbody>', page, re.DOTALL):
        assert (rows.count("<tr>") >= 25) == (name.removesuffix("-made_up-phantom") in folded), name


def test_a_study_with_one_lambda_opens_with_kappa_against_the_gaze(tmp_path, undrawn):
    text, page = page_of(tmp_path, made_up_runs(datasets=("a", "b"), models=LEVELS[:2]))
    assert "figure-overview" not in page and "table-across" not in page
    starts = [page.index(f'id="figure-correlation-l2-made_up-{name}"') for name in "ab"]
    said = [match.start() for match in re.finditer("<li>level1: accuracy", page)]
    assert starts[0] < said[0] < starts[1] < said[1] < page.index('id="summary"')
    assert re.search(r"- level2: accuracy 0\.\d{3} ± 0\.\d{3}; RMS deviation 0\.\d{3} ± 0\.\d{3}\.\n", text)


def test_a_grid_without_lambda_0_has_its_pictures_without_colour(tmp_path, undrawn):
    text, _ = page_of(tmp_path, made_up_runs(models=LEVELS[:2], lambdas=(50, 100)))
    assert "No runs at lambda 0, so no colour." in text
    assert "What lambda does to the gaze (" not in text  # there is nothing to hold it against
    assert re.search(r"- level1: accuracy 0\.\d{3} \(at 100\) to 0\.\d{3} \(at 50\); RMS", text)


def test_folds_are_one_study_whose_intervals_are_corrected(tmp_path, undrawn):
    whole = made_up_runs(models=LEVELS[:1], epochs=3)
    folds = pd.concat([whole.assign(fold=fold, run=whole["run"] + f"/{fold}") for fold in (0, 1)], ignore_index=True)
    text, _ = page_of(tmp_path, folds)
    assert "cross-validation of 2 folds. Folds share training images" in " ".join(text.split())
    assert ", fold 1" not in text and "Nadeau and Bengio" in text
    one, _ = page_of(tmp_path, folds[folds["seed"] == 0])
    assert "there is no interval and no p" not in one  # over two folds there is one:
    assert re.search(r"\| level1 +\| +0 +\| +1 +\| +0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", one)


# ---- from run folders


def test_test_figures_have_a_table_of_their_own(tiny, tmp_path, undrawn):
    for seed in (0, 1):
        folder = write_run(tmp_path / "runs" / str(seed), tiny(f"seed={seed}", "trainer.max_epochs=1"), list(CLASSES))
        figures = {"test/accuracy": 0.8 + 0.1 * seed, "test/kappa": 0.6, "test/gaze_consistency": 0.05}
        write_json(folder / "test.json", {"last": figures, "best": figures | {"test/kappa": 0.7}})
    analyse(tmp_path / "runs", tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    table = text[text.index("On the test images") :]
    assert re.search(r"\| last epoch +\| +2 \| +0\.850 ± 0\.071 \| +0\.600 ± 0\.000", table)
    assert re.search(r"\| best kappa +\| +2 \| +0\.850 ± 0\.071 \| +0\.700 ± 0\.000", table)


@pytest.mark.slow
def test_a_real_run_gives_a_report_with_what_made_it(tiny_run, tmp_path, undrawn):
    paths, shown = analyse(tiny_run.folder, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "1 run of phantom: 1 model, lambda 50, 1 seed, up to 2 epochs." in shown.replace("\n", " ")
    assert "(1 run)" in text and "there is no interval and no p" in text
    assert f"atlas-{'default-phantom'}.png" in {path.name for path in paths}
    provenance = text[text.index("## Provenance") :]
    import torch

    assert torch.__version__.split("+")[0] in provenance
    assert '"dataset.train_images": 16' in provenance


# ---- little or odd input


@pytest.mark.parametrize(
    "change",
    [
        lambda runs: runs[runs["seed"] == 0],
        lambda runs: runs[runs["epoch"] == 1],
        lambda runs: runs[(runs["seed"] == 0) & (runs["epoch"] == 1) & (runs["lambda"] == 0)],
        lambda runs: runs[runs["lambda"] != 0],
        lambda runs: runs[runs["model"] == "level2"],
        lambda runs: runs.assign(kappa=0.0),
        lambda runs: runs.assign(gaze_consistency=np.nan, gaze_consistency_l2=np.nan, gaze_eta_squared=np.nan),
        lambda runs: runs.assign(kappa=np.nan),
        lambda runs: runs.assign(accuracy=np.nan),
        lambda runs: runs.assign(model=runs["model"] + " (mine, 50 %) / <x>", dataset="Ärzte_1 & co"),
        lambda runs: runs[TIDY_COLUMNS],
        lambda runs: pd.concat([runs, runs.assign(study="other", dataset="chest_xray")]),
        lambda runs: runs[(runs["seed"] == 0) | (runs["epoch"] < 5)],
        lambda runs: runs.assign(seed=runs["seed"] + 10 * (runs["lambda"] != 0)),
    ],
    ids=[
        *("one seed", "one epoch", "one row a model", "no plain run", "one model", "constant kappa", "no gaze"),
        *("no kappa", "no accuracy", "awkward names", "bare columns", "two studies", "uneven", "no pairs"),
    ],
)
@pytest.mark.slow
def test_little_or_odd_input_gives_a_smaller_report_never_a_traceback(tmp_path, undrawn, change):
    change(pd.read_csv(DATA).drop(columns="run")).to_csv(tmp_path / "x.csv", index=False)
    analyse(tmp_path / "x.csv", tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert len(text) > 3000
    assert not re.search(r"\bnan\b|\binf\b|None", without_provenance(text))


@pytest.mark.slow
def test_mixed_studies_are_kept_apart_and_said(tmp_path, undrawn):
    runs = pd.read_csv(DATA)
    pd.concat([runs, runs.assign(study="other")]).to_csv(tmp_path / "x.csv", index=False)
    _, shown = analyse(tmp_path / "x.csv", tmp_path / "both")
    assert "Several studies (other, phantom_grid) are kept apart" in shown.replace("\n", " ")
    both = pd.read_csv(tmp_path / "both" / "tables" / "pearson-other-phantom.csv")
    assert set(both["study"]) == {"other"} and set(both["n"]) == {2}
    analyse(tmp_path / "x.csv", tmp_path / "one", study="other")
    assert not list((tmp_path / "one" / "tables").glob("*phantom_grid*"))


def test_runs_without_an_r_are_counted_in_the_report(tmp_path, undrawn):
    runs = pd.read_csv(DATA)
    runs.loc[(runs["model"] == "level1") & (runs["seed"] == 0), "kappa"] = 0.0
    runs.to_csv(tmp_path / "x.csv", index=False)
    analyse(tmp_path / "x.csv", tmp_path)
    assert "1 (constant kappa: 1 run)" in (tmp_path / "report.md").read_text()


def test_a_csv_without_what_some_tables_need_gives_the_others_and_says_so(tmp_path, undrawn):
    needed = ["study", "model", "seed", "epoch", "kappa", "gaze_consistency_l2"]
    pd.read_csv(DATA).query("`lambda` == 0")[needed].to_csv(tmp_path / "x.csv", index=False)
    paths, shown = analyse(tmp_path / "x.csv", tmp_path / "out")
    text = without_provenance((tmp_path / "out" / "report.md").read_text())
    for words in (" ".join(shown.split()), text):
        assert "No column dataset: it is taken as unnamed throughout." in words
        assert "No column lambda: it is taken as 0.0 throughout." in words
        assert "Not measured: accuracy, gaze_consistency, gaze_eta_squared, loss. Tables and figures that need" in words
    tables = {path.stem for path in paths if path.parent.name == "tables"}
    assert "pearson-phantom_grid-unnamed" in tables and not any(name.startswith("accuracy") for name in tables)
    assert not re.search(r"\bnan\b|\binf\b|None", text)


def test_published_values_stand_beside_ours(tmp_path, undrawn):
    made_up_runs("mine", ("brain_tumor_mri",), ("level1", "level2"), (0, 50), (0, 1), 20).to_csv(tmp_path / "x.csv")
    analyse(tmp_path / "x.csv", tmp_path)
    text = (tmp_path / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| level2") and "l2 (" in line)
    assert "-0.626" in row  # Table 2
    assert re.search(r"level2 +\| +0\.813 \|", text)  # study 1 ...
    assert re.search(r"level3 +\| +0\.882 \| +[^0-9 ] \|", text)  # ... level3 is not among ours
    assert "0.894 (here 20 epochs)" in text  # study 2: level2 at lambda 50
    assert "How these runs were trained is not known from a CSV" in text
    assert "The thesis's Table 2" not in text  # the whole of it only where there is nothing to compare


# ---- the command


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPO / "analyze.py"), *words], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_the_command_writes_below_outputs(tmp_path):
    runs = pd.read_csv(DATA)
    runs[(runs["model"] == "level3")].to_csv(tmp_path / "few.csv", index=False)  # fewer figures, less time
    done = command("source=few.csv", "study=phantom_grid", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "outputs" / "analysis" / "phantom_grid" / "report.html"
    assert page.stat().st_size > 100_000
    assert "outputs/analysis/phantom_grid/report.html" in done.stdout
    assert done.stderr == ""


def test_bad_input_ends_in_one_message(tmp_path):
    for words, message in (
        (["source=none"], "source=none: there is no such file or folder"),
        (
            [f"source={DATA}", "+sorce=x", "study=a/b"],
            "sorce=x: there is no such setting. Did you mean source or share?",
        ),
    ):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr and "error:" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list((tmp_path / "outputs").rglob("*.*"))


def test_bad_sources_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "empty").mkdir()
    made_up_runs().drop(columns="kappa").to_csv(tmp_path / "short.csv", index=False)
    for source, settings, message in (
        ("empty", {}, "source=.*empty: no run in this folder"),
        ("short.csv", {}, r"short\.csv: no column kappa"),
        (DATA, {"study": "other"}, "study=other: no run of it"),
    ):
        with pytest.raises(DataError, match=message):
            analyse(tmp_path / source, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written to .*file.x.*hydra\.run\.dir=PATH"):
        analyse(DATA, tmp_path / "file" / "x")
