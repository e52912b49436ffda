"""Designs that can answer: the least p of every question of every shipped experiment, by the analyses' own tables."""

import math
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import REPO
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from made_up_study import made_up_study

from gaze.config.train import check_config
from gaze.errors import DataError
from gaze.runs.run import Run
from gaze.statistics.permutation import arms_table
from gaze.statistics.schedules import schedule_table
from gaze.statistics.seeds import lambda_table, pearson_table
from gaze.studies.augmentation.effects import distance_matrix
from gaze.studies.augmentation.questions import question_table
from gaze.studies.design import check_design, design_lines
from hydra_plugins.hydra_gaze_sweeper import GridSweeper

EXPERIMENTS = sorted(path.stem for path in (REPO / "conf" / "experiment").glob("*.yaml"))
KEYS = ("study", "dataset", "model", "lambda", "augmentation", "seed", "gaze.start_epoch", "gaze.distance")


def runs_of(composed, experiment: str) -> pd.DataFrame:
    """Each run of an experiment as ``python train.py -m experiment=...`` starts it: what its design is made of."""
    cfg = composed(f"experiment={experiment}", hydra=True)
    given = {"study": cfg.study, "dataset": cfg.dataset.name, "model": cfg.model.name, "lambda": cfg["lambda"]}
    given |= {"augmentation": cfg.augmentation.name, "seed": cfg.seed, "gaze.start_epoch": cfg.gaze.start_epoch}
    given |= {"gaze.distance": cfg.gaze.distance}
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        sweeper = GridSweeper(cfg.hydra.sweeper.params)
        sweeper.hydra_context = SimpleNamespace(config_loader=GlobalHydra.instance().config_loader())
        rows = [dict(word.split("=", 1) for word in words) for words in sweeper._combinations([])]
    frame = pd.DataFrame([given | row for row in rows])[list(KEYS)]
    return frame.astype({"lambda": float, "seed": int, "gaze.start_epoch": int})


def least(p: pd.Series) -> float:
    return 1.0 if p.isna().all() else float(p.min())


def of_arms(counts: Counter) -> dict[str, float]:
    """The least p of the questions of an augmentation study: its first arm as far off as can be, the others alike."""
    (baseline, first), size = list(counts)[:2], dict(counts)
    c = made_up_study(shift={first: {"mask_energy": 50.0}}, apart={first: 50.0}, dead=0, **size)
    for name in ("centroid_y", "centroid_x"):
        c.shapes[name][c.rows(first)] = np.arange(c.target.size)  # wander far, and alike in all runs
    questions = question_table(c)
    deciding = questions.drop_duplicates(["arm", "question"])
    return {
        "moved": least(arms_table(distance_matrix(c), list(c.runs["arm"]), baseline)["p_holm"]),
        **{f"question {q}": least(deciding.loc[deciding["question"] == q, "p_holm"]) for q in (1, 2)},
    }


def of_seeds(runs: pd.DataFrame) -> dict[str, float]:
    """The least p of Table 2, of lambda and of its schedule: kappa and gaze go together in own pairs and not in
    strangers', and lambda changes everything."""
    epochs, random = np.arange(1, 21), np.random.default_rng(0)
    late = runs["gaze.start_epoch"] != runs["gaze.start_epoch"].iloc[0]
    if runs["gaze.distance"].nunique() > 1:  # as gaze.runs.load parts them
        runs = runs.assign(study=runs["study"] + ", " + runs["gaze.distance"])
    runs = runs.assign(of_study=runs["study"], study=runs["study"].where(~late, runs["study"] + ", late"))
    parts = []
    for row in runs.to_dict("records"):
        kappa = 0.5 + 0.3 * np.cos(math.pi * (row["seed"] + 1) * (epochs - 0.5) / len(epochs))
        accuracy = 0.5 + 1e-6 * random.normal() + 0.3 * (row["lambda"] != 0)
        part = pd.DataFrame({"epoch": epochs, "kappa": kappa, "gaze_consistency": 0.1 - 0.05 * kappa})
        parts.append(part.assign(accuracy=accuracy, lambda_t=row["lambda"], **row))
    frame = pd.concat(parts, ignore_index=True)
    table = pearson_table(frame.drop(columns="of_study"))
    found = {"table 2": least(table.loc[table["lambda"] == 0, "pairing_p_holm"])}
    if (runs["lambda"] != 0).any():
        table = lambda_table(frame.drop(columns="of_study"))
        found["lambda"] = least(table.loc[(table["metric"] == "accuracy") & (table["summary"] == "last5"), "p_holm"])
    if late.any():
        table = schedule_table(frame)
        found["schedule"] = least(table.loc[table["measure"] == "accuracy", "p_holm"])
    return found


def least_ps(runs: pd.DataFrame) -> dict[str, float]:
    arms = Counter(runs["augmentation"])
    several = runs.groupby(["dataset", "model", "lambda"])["augmentation"].nunique().max() > 1
    if several:
        return of_arms(Counter({"none": arms["none"]} | {arm: n for arm, n in arms.items() if arm != "none"}))
    by_set = [of_seeds(part) for _, part in runs.groupby("dataset")]
    return {question: max(found[question] for found in by_set) for question in by_set[0]}


def descriptive(experiment: str) -> bool:
    """Whether an experiment's opening comment says that it describes and tests nothing."""
    lines = (REPO / "conf" / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8").splitlines()
    return any(line.startswith("#") and re.search(r"\bDescriptive\b", line) for line in lines)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_question_of_a_shipped_experiment_can_be_answered(composed, experiment):
    found = least_ps(runs_of(composed, experiment))
    able = {question: p < 0.05 for question, p in found.items()}
    assert found and (all(able.values()) or descriptive(experiment)), found
    assert not (all(able.values()) and descriptive(experiment)), "it calls itself descriptive and is not"


@pytest.mark.slow
def test_the_least_p_is_that_of_the_floors_and_families(composed):
    assert of_arms(Counter(none=8, **{f"arm_{i}": 4 for i in range(14)})) == pytest.approx(
        {"moved": 14 / 495, "question 1": 14 / 495, "question 2": 14 / 495}
    )
    assert set(of_arms(Counter(none=4, one=4, two=4)).values()) == {1.0}  # 2 x 2/70 is above 0.05: underpowered
    assert set(of_arms(Counter(none=6, a=3, b=3, c=3, d=3)).values()) == {4 / 84}
    table2 = runs_of(composed, "table2")
    assert least_ps(table2) == pytest.approx({"table 2": 5 / 720})
    assert least_ps(table2[table2["seed"] < 4]) == pytest.approx({"table 2": 5 / 24})
    assert least_ps(runs_of(composed, "learning_curves")) == {"table 2": 1.0, "lambda": 1.0}


# ---- what a grid says before it starts


def runs_with(tiny, tmp_path, *designs: tuple[str, ...]) -> list[Run]:
    return [Run(tmp_path / "-".join(words).replace("=", ""), tiny(*words)) for words in designs]


def arms(baseline: int, others: int, *names: str) -> list[tuple[str, str]]:
    own = [("augmentation=none", f"seed={seed}") for seed in range(baseline)]
    return own + [(f"augmentation={n}", f"seed={100 * i + s}") for i, n in enumerate(names, 1) for s in range(others)]


def test_an_augmentation_study_says_what_it_can_find(tiny, tmp_path):
    (line,) = design_lines(runs_with(tiny, tmp_path, *arms(8, 4, "blur", "noise")))
    assert line.startswith("This design: 8 runs of none, 4 of each of 2 other arms.")
    assert "1.05, 1.10, 1.25, 1.50 times as far" in line and line.endswith("Least p after Holm: 0.004.")
    chances = [int(chance) for chance in re.search(r"each other: ([\d, ]+) %", line).group(1).split(", ")]
    assert chances == sorted(chances) and chances[0] < 20 < 90 < chances[-1]


def test_a_study_that_can_answer_nothing_says_so(tiny, tmp_path):
    for baseline, others in ((4, 4), (3, 3), (8, 1)):
        (line,) = design_lines(runs_with(tiny, tmp_path, *arms(baseline, others, "blur", "noise")))
        assert "It can answer nothing: no arm can reach 0.05 after Holm over 2." in line


def test_a_marker_study_says_what_its_arms_can_show(tiny, tmp_path):
    def line(*seeds: int) -> str:
        arms = ((), ("dfr=true",), ("lambda=50",))
        each = [
            ("dataset=phantom_shortcut", *arm, f"seed={s}")
            for arm, n in zip(arms, seeds, strict=True)
            for s in range(n)
        ]
        (found,) = design_lines(runs_with(tiny, tmp_path, *each))
        return found

    start = "This design: 8 runs of plain, 5 or more of each of 2 other arms."
    assert line(8, 5, 6) == f"{start} Worst group against plain, runs relabelled: least p after Holm {2 / 1287:.3f}."
    assert "It can answer nothing: no arm can reach 0.05 after Holm over 2." in line(3, 3, 3)


@pytest.mark.slow
def test_seeds_and_lambdas_say_what_they_can_find(tiny, tmp_path):
    def lines(seeds: int, *weights: int) -> list[str]:
        return design_lines(
            runs_with(tiny, tmp_path, *((f"lambda={w}", f"seed={s}") for w in weights for s in range(seeds)))
        )

    assert lines(1, 0) == []
    assert lines(6, 0)[0].endswith("(pairing test, Holm over the models: 1): least p 0.001.")
    assert "too few seeds to reach 0.05" in lines(3, 0)[0]
    assert lines(1, 0, 50) == [
        "This design describes what lambda does, and tests nothing: a difference of one seed has no p."
    ]
    assert lines(6, 0, 50, 100)[1].endswith("6 seeds, Holm over 2 comparisons.")


def test_nothing_is_said_of_what_folds_can_find(composed, tmp_path):
    own = ("dataset=breast_ultrasound", "dataset.root=x", "dataset.folds=2", "seed=0")
    runs = [
        Run(tmp_path / f"{weight}{fold}", check_config(composed(*own, f"dataset.fold={fold}", f"lambda={weight}")))
        for weight in (0, 50)
        for fold in (0, 1)
    ]
    assert design_lines(runs) == []


def test_an_augmentation_study_of_coarse_maps_is_refused_before_it_trains(tiny, tmp_path):
    def runs(size: int, *designs: tuple[str, ...]) -> list[Run]:
        return runs_with(tiny, tmp_path, *((*words, "model=level2", f"dataset.image_size={size}") for words in designs))

    with pytest.raises(DataError, match=r"level2 at dataset.image_size=31 has maps of 3x3 cells.*4x4 is the least"):
        check_design(runs(31, *arms(2, 2, "blur")))
    check_design(runs(32, *arms(2, 2, "blur")))
    check_design(runs(16, ("lambda=0", "seed=0"), ("lambda=50", "seed=0")))  # which compares no maps


def test_it_takes_no_pytorch():
    code = "import sys, gaze.studies.design; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
