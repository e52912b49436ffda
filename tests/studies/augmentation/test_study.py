"""The augmentation study from run folders to its report, and whether its answers can be trusted."""

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from browser import needs_browser, open_in_browser
from PIL import Image
from rich.console import Console
from run_folders import SMALL, new_module, write_run

import gaze.studies.augmentation.study
from gaze.config.analysis import AnalyzeConfig, CompareConfig
from gaze.config.train import check_config
from gaze.data.sources.phantom import CLASSES as PHANTOM_CLASSES
from gaze.errors import DataError
from gaze.metrics.compare import compare_maps
from gaze.runs.load import read_runs
from gaze.runs.run import Run
from gaze.runs.tidy import read_tidy_csv
from gaze.studies.arms import arm_names, arm_settings, augmentation_studies
from gaze.studies.augmentation.effects import distance_matrix
from gaze.studies.augmentation.questions import question_table
from gaze.studies.augmentation.store import read_manifest
from gaze.studies.augmentation.study import measure, study_parts
from gaze.studies.run import run_analysis

ARMS = {"none": range(4), "hflip": range(100, 104)}


def analyse(source: Path, directory: Path, **settings) -> tuple[list[Path], str]:
    console = Console(file=io.StringIO(), width=80)
    paths = run_analysis(AnalyzeConfig(source=str(source), **settings), directory, console)
    return paths, console.file.getvalue()


@pytest.fixture(scope="module")
def config(composed):
    return lambda *words: check_config(composed(*SMALL, *words))


@pytest.fixture(scope="module")
def source(config, tmp_path_factory):
    """A study of 8 networks, not trained."""
    root = tmp_path_factory.mktemp("outputs")
    for arm, seeds in ARMS.items():
        for seed in seeds:
            own = config(f"augmentation={arm}", f"seed={seed}", "study=aug")
            write_run(root / "aug" / f"seed={seed}", own, list(PHANTOM_CLASSES))
    return root


@pytest.fixture(scope="module")
def analysis(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("analysis")
    return directory, *analyse(source, directory, study="aug")


def test_everything_is_written_and_the_terminal_says_what_was_found(analysis):
    directory, paths, shown = analysis
    assert all(path.is_file() for path in paths)
    names = {path.relative_to(directory).as_posix() for path in paths}
    slug = "phantom-level2"
    assert {"report.html", "report.md", "pairs.csv", "images.csv"} <= names
    for figure in ("noise", "gain", "profile", "where"):
        assert f"figures/{figure}-{slug}.pdf" in names
    assert f"figures/moved-{slug}-1.png" in names
    for table in ("arms", "criteria", "questions", "runs", "augmentations"):
        assert f"tables/{table}-{slug}.csv" in names
    assert "8 runs looked at the same 24 images of 4 classes, in maps of 4x4 cells" in shown.replace("\n", " ")
    assert max(len(line) for line in shown.splitlines() if "/" not in line) <= 80
    for word in ("hflip", "verdict", "on what matters?", "varies less?", "gain with gaze?"):
        assert word in shown


def test_the_report_opens_with_the_profile_and_one_sentence_an_arm(analysis):
    text = (analysis[0] / "report.md").read_text(encoding="utf-8")
    table = pd.read_csv(analysis[0] / "tables" / "arms-phantom-level2.csv").set_index("arm")
    [sentence] = re.findall(r"^- hflip: .*$", text, re.MULTILINE)
    assert text.index("8 runs looked at") < text.index("figures/profile-phantom-level2.png") < text.index(sentence)
    assert text.index(sentence) < text.index("## Summary") < text.index("## Is it more than retraining noise?")
    assert text.count("figures/profile-phantom-level2.png") == 1
    words = {"moved": "moved by more", "not shown": "not shown to move", "underpowered": "underpowered"}
    assert f"gaze {words[table.loc['hflip', 'verdict']]}" in sentence
    change = table.loc["hflip", "accuracy"] - table.loc["none", "accuracy"]
    assert sentence.endswith(f"accuracy {table.loc['hflip', 'accuracy']:.3f} ({change:+.3f}).")


def test_the_long_table_and_the_distances_are_those_of_the_maps_on_disk(analysis, source):
    directory = analysis[0]
    pairs = pd.read_csv(directory / "pairs.csv")
    assert len(pairs) == 28 * 4
    manifest = {entry["run"]: entry["file"] for entry in read_manifest(directory).values()}
    assert len(manifest) == 8
    dataset = Run(source / "aug" / "seed=0").settings.dataset
    images = gaze.studies.augmentation.study.evaluation_images(dataset, 1000, lambda line: None)
    row = pairs.sample(1, random_state=0).iloc[0]
    b, a = (np.load(directory / "cams" / manifest[row[f"run_{side}"]])["cams"] for side in "ba")
    own = images.target == list(images.classes).index(row["class"])
    plain = compare_maps(torch.from_numpy(b[own]), torch.from_numpy(a[own]))
    for column in ("mad", "pearson", "spearman", "js", "overlap", "centroid_shift", "region_mad", "xcorr_peak"):
        assert row[column] == pytest.approx(float(plain[column].nanmean()), rel=1e-5, abs=1e-7), column
    assert row["n"] == own.sum()
    assert row["n_valid"] == int(plain["valid"].sum())
    # two arms other than the baseline have no earth mover's distance; here every pair has
    assert pairs["emd"].notna().all() == (pairs["n_valid"] > 0).all()


@pytest.mark.slow
def test_a_second_analysis_computes_no_map_and_no_pair_and_says_the_same(analysis, source, monkeypatch):
    directory = analysis[0]
    before = {name: (directory / name).read_bytes() for name in ("pairs.csv", "images.csv", "report.html")}

    def never(*rest, **named):
        raise AssertionError("made anew")

    monkeypatch.setattr("gaze.studies.augmentation.store.gaze_of_run", never)
    monkeypatch.setattr("gaze.studies.augmentation.study.compare_runs", never)
    analyse(source, directory, study="aug")
    for name, content in before.items():
        assert (directory / name).read_bytes() == content


@needs_browser
def test_the_page_in_a_browser(analysis, tmp_path):
    page = analysis[0] / "report.html"
    visit = open_in_browser(page, tmp_path)
    assert visit.requests == []
    for text in ("Is it more than retraining noise?", "The three questions", "Where does the gaze go?", "Provenance"):
        assert text in visit.dom
    assert visit.dom.count("<img") == 5
    assert "Underpowered" in visit.dom


def test_the_consistency_analysis_leaves_the_study_out_and_says_so(config, source, tmp_path, undrawn):
    own = config("study=plain")
    run = write_run(tmp_path / "outputs" / "plain" / "seed=0", own, list(PHANTOM_CLASSES))
    for seed in (*ARMS["none"], *ARMS["hflip"]):
        (tmp_path / "outputs" / "aug").mkdir(exist_ok=True)
        (tmp_path / "outputs" / "aug" / f"seed={seed}").symlink_to(source / "aug" / f"seed={seed}")
    assert run.is_dir()
    both = tmp_path / "copy"
    _copied(tmp_path / "outputs", both)
    _, shown = analyse(both, tmp_path / "a")
    assert "python analyze.py study=aug" in shown.replace("\n", " ")
    assert set(read_tidy_csv(tmp_path / "a" / "epochs.csv")["study"]) == {"plain"}
    _, shown = analyse(both, tmp_path / "b", kind="consistency")
    assert set(read_tidy_csv(tmp_path / "b" / "epochs.csv")["study"]) == {"aug", "plain"}


def _copied(source: Path, target: Path) -> None:
    for file in source.glob("*/*/[cm]*.*"):
        (target / file.parent.relative_to(source)).mkdir(parents=True, exist_ok=True)
        (target / file.relative_to(source)).write_bytes(file.read_bytes())


def test_arms_that_share_seeds_are_no_duplicates_and_it_is_said(config, tmp_path):
    for arm in ("none", "hflip"):
        for seed in (0, 1):
            own = config(f"augmentation={arm}", f"seed={seed}", "study=aug")
            write_run(tmp_path / "aug" / arm / str(seed), own, list(PHANTOM_CLASSES))
    apart = read_runs(tmp_path).listing
    assert apart["used"].all() and set(apart["study"]) == {"aug", "aug, augmentation none"}
    runs = read_runs(tmp_path, study="aug", arms=True)
    assert runs.listing["used"].sum() == 4
    (part,) = study_parts(runs.used.values(), "none")
    assert "Arms share seeds (0, 1)" in part.notes[0]
    assert [part.arms[run.name] for run in part.runs] == ["none", "none", "hflip", "hflip"]


def test_too_little_to_compare_is_one_clear_error(config, tmp_path):
    for number, arm in enumerate(("none", "hflip", "blur")):
        own = config(f"augmentation={arm}", f"seed={number}", "study=aug")
        write_run(tmp_path / "aug" / arm, own, list(PHANTOM_CLASSES))
    with pytest.raises(
        DataError, match=r"needs two runs or more of the baseline \(none\)[\s\S]*none 1[\s\S]*experiment"
    ):
        analyse(tmp_path, tmp_path / "out", study="aug")
    assert not (tmp_path / "out" / "report.html").exists()
    with pytest.raises(DataError, match=r"compare.baseline=NAME"):
        analyse(tmp_path, tmp_path / "out", study="aug", compare=CompareConfig(baseline="blur"))


def test_several_studies_want_a_name(config, tmp_path):
    for study in ("a", "b"):
        for number, arm in enumerate(("none", "none", "hflip")):
            own = config(f"augmentation={arm}", f"seed={number}", f"study={study}")
            write_run(tmp_path / study / str(number), own, list(PHANTOM_CLASSES))
    with pytest.raises(DataError, match="study=a or study=b"):
        analyse(tmp_path, tmp_path / "out")


# ---- arms by their settings


def test_arms_are_named_by_their_settings(config):
    words = (["augmentation=none"], ["augmentation=rotation"], ["augmentation=rotation", "augmentation.rotation=5"])
    runs = [Run(Path(str(i)), config(*own)) for i, own in enumerate(words, 1)]
    usual = runs[1].settings.augmentation.rotation
    names = {"1": "none", "2": f"rotation (rotation {usual})", "3": "rotation (rotation 5.0)"}
    assert arm_names(runs) == names
    assert arm_settings(runs) == {"none": {}, names["2"]: {"rotation": usual}, names["3"]: {"rotation": 5.0}}
    assert arm_names(runs[1:2]) == {"2": "rotation"}
    assert augmentation_studies(runs, "none") == ["default"]
    assert augmentation_studies(runs[:1], "none") == []
    assert augmentation_studies(runs[1:], "none") == []


# ---- sanity, as the specification asks for it


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder of phantom images with a bright square in a corner that gives the class away; lesion masks."""
    from gaze.config.data import DatasetConfig
    from gaze.data.datasets import load_dataset

    root = tmp_path_factory.mktemp("planted")
    data = load_dataset(DatasetConfig(image_size=32, train_images=96, test_images=48, cache="off"))
    for name, split in (("train", data.train), ("test", data.test)):
        for i, (image, target, mask) in enumerate(zip(split.images, split.targets.tolist(), split.masks, strict=True)):
            picture = image[0].numpy().copy()
            rows, columns = (
                (slice(0, 6) if target < 2 else slice(26, 32)),
                (slice(0, 6) if target % 2 else slice(26, 32)),
            )
            picture[rows, columns] = 255
            for folder, pixels in ((root / name, picture), (root / "masks" / name, mask[0].numpy() * 255)):
                own = folder / data.classes[target]
                own.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(own / f"{i}.png")
    return root, data


def train(module, images, targets, steps=120):
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    module.train()
    for step in range(steps):
        rows = torch.randperm(len(targets), generator=torch.Generator().manual_seed(step))[:32]
        loss = F.cross_entropy(module(images[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.slow
def test_an_artefact_that_is_planted_flips_the_first_question_and_random_weights_part_the_maps(
    planted, composed, tmp_path
):
    root, clean = planted
    words = [
        "dataset=folder",
        f"dataset.root={root}",
        "dataset.mask_dir=masks",
        "model=level1",
        "dataset.image_size=32",
    ]
    make = lambda *own: check_config(composed(*words, "trainer.max_epochs=1", "trainer.accelerator=cpu", *own))  # noqa: E731
    spoilt = gaze.studies.opened.evaluation_images(make().dataset, None, lambda line: None).data.data.train
    for seed in range(4):
        for arm, split, shift in (("none", clean.train, 0), ("erasing", spoilt, 100)):
            images, targets = split.images.float() / 127.5 - 1, split.targets
            own = make(f"augmentation={arm}", f"seed={seed + shift}", "study=aug")
            folder = tmp_path / arm / str(seed)
            write_run(folder, own, list(clean.classes), lambda module, x=images, y=targets: train(module, x, y))
        random = make("augmentation=noise", f"seed={seed + 200}", "study=aug")  # weights as they were drawn
        write_run(tmp_path / "noise" / str(seed), random, list(clean.classes))
    (part,) = study_parts(read_runs(tmp_path, study="aug", arms=True).used.values(), "none")
    compared = measure(part, CompareConfig(), tmp_path / "out", Console(file=io.StringIO())).compared

    distances, names = distance_matrix(compared), compared.runs["arm"].to_numpy()
    own, other = np.flatnonzero(names == "none"), np.flatnonzero(names == "noise")
    within = distances[np.ix_(own, own)][np.triu_indices(4, 1)]
    assert distances[np.ix_(own, other)].min() > within.max()

    for baseline, arm, answer in (("none", "erasing", "fail"), ("erasing", "none", "pass")):
        rows = [i for i, name in enumerate(names) if name != "noise"]
        swapped = _only(compared, rows)._replace(baseline=baseline)
        table = question_table(swapped)
        row = table[(table["arm"] == arm) & (table["measure"] == "mask_energy")].iloc[0]
        assert row["answer"] == answer
        assert np.sign(row["change"]) == (1 if answer == "pass" else -1)


def _only(c, rows):
    """The study of some of its runs."""
    kept = [p for p, pair in enumerate(c.pairs) if set(pair) <= set(rows)]
    return c._replace(
        runs=c.runs.iloc[rows].reset_index(drop=True),
        pairs=np.searchsorted(rows, c.pairs[kept]),
        values=c.values[:, kept],
        shapes={name: values[rows] for name, values in c.shapes.items()},
        **{name: getattr(c, name)[rows] for name in ("valid", "log_p", "correct", "cams")},
    )


def test_modules_of_one_seed_are_alike(config):
    first, second = (new_module(config("seed=3"), list(PHANTOM_CLASSES)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.parameters(), second.parameters(), strict=True))
