"""gaze.studies.consistency.tables: which measures of the gaze a reader sees."""

import numpy as np
import pandas as pd
from made_up import made_up_runs
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from gaze.files import write_json
from gaze.runs.collapse import COLLAPSED
from gaze.runs.predictions import write_figures
from gaze.runs.run import Run
from gaze.statistics.classification import class_figures, confusion_table
from gaze.statistics.intervals import folds_interval
from gaze.statistics.seeds import gaze_shift_table, lambda_table
from gaze.studies.consistency import tables
from gaze.studies.consistency.tables import (
    FOLDS_NOTE,
    MASK_NOTE,
    across_item,
    classes_item,
    figures_by_class,
    gaze_item,
    performance_item,
    shift_item,
)

MASK_TITLES = ["energy in mask", "lift in mask", "pointing game"]


def by_lambda() -> pd.DataFrame:
    """Two data sets, of which the phantom alone has masks."""
    runs = made_up_runs(datasets=("phantom", "plain"), models=("level1",), lambdas=(0.0, 50.0), epochs=2)
    masked = runs["dataset"] == "phantom"
    for name, value in (("gaze_mask_energy", 0.25), ("gaze_mask_lift", 3.5), ("gaze_pointing", 0.75)):
        runs[name] = np.where(masked, value, np.nan)
    return lambda_table(runs)


def test_mask_measures_are_columns_where_the_set_has_masks():
    table = by_lambda()
    item = gaze_item(table[table["dataset"] == "phantom"], "x", "here")
    assert item.shown[MASK_TITLES].to_numpy().tolist() == [["0.250 ± 0.000", "3.50 ± 0.00", "0.750 ± 0.000"]] * 2
    assert MASK_NOTE in item.notes


def test_a_set_without_masks_has_no_empty_columns_beside_one_that_has_them():
    table = by_lambda()
    item = gaze_item(table[table["dataset"] == "plain"], "x", "here")
    assert "RMS deviation" in item.shown and not set(MASK_TITLES) & set(item.shown)
    assert MASK_NOTE not in item.notes


def test_models_stand_down_and_lambdas_across_with_the_published_accuracy_beneath():
    runs = made_up_runs(datasets=("chest_xray",), models=("level2", "resnet18"), lambdas=(-100.0, 0.0, 50.0))
    runs = runs[(runs["model"] != "resnet18") | (runs["lambda"] != 50)]
    table = lambda_table(runs)
    item = across_item(table, "accuracy", "x", "here", "chest_xray", {})
    assert list(item.shown) == ["model", "-100", "0", "50"]
    assert item.shown["model"].tolist() == ["level2", "published", "resnet18"]
    assert item.shown.loc[1, ["-100", "0", "50"]].tolist() == ["0.815", "0.831", "0.835"]
    last = runs[runs["epoch"] > 1].groupby(["model", "lambda", "seed"])["accuracy"].mean().groupby(["model", "lambda"])
    mean, sd = last.mean(), last.std()
    for place, model in ((0, "level2"), (2, "resnet18")):
        for weight in (-100, 0):
            assert item.shown.loc[place, f"{weight}"] == f"{mean[model, weight]:.3f} ± {sd[model, weight]:.3f}"
    assert item.shown.loc[2, "50"] is None or pd.isna(item.shown.loc[2, "50"])
    lost = lambda_table(runs.assign(kappa=runs["kappa"].mask(runs["lambda"] == -100, 0.0)))
    cells = across_item(lost, "accuracy", "x", "here", "chest_xray", {}).shown["-100"]
    assert cells[0] == f"{mean['level2', -100]:.3f} ± {sd['level2', -100]:.3f}, one class"
    assert (
        across_item(lost, "gaze_consistency_rms", "x", "here", "chest_xray", {}).shown["-100"].tolist()
        == ["one class"] * 2
    )
    for item in (gaze_item(lost, "x", "here"), performance_item(lost, "kappa", "x", "here", "chest_xray", {})):
        assert item.shown.set_index("lambda")["collapsed"].dropna().to_dict() == {"-100": "one class"}
        assert item.notes[-1] == COLLAPSED
    assert gaze_item(lost, "x", "here").shown.set_index("lambda").loc["-100", "RMS deviation"].isna().all()
    kappa = across_item(table, "kappa", "x", "here", "chest_xray", {})
    assert kappa.shown["model"].tolist() == ["level2", "resnet18"]


def test_figures_by_class_are_means_over_seeds_and_the_confusion_is_their_sum(tmp_path):
    names, used, truth, preds = ("a", "b"), {}, [], []
    for seed in (0, 1, 2):
        random = np.random.default_rng(seed)
        t, p = random.integers(0, 2, 40), random.integers(0, 2, 40)
        run = Run(tmp_path / str(seed))
        run.folder.mkdir()
        write_figures(run, class_figures(names, t, p, np.eye(2, dtype=np.float32)[p]), names, confusion_table(t, p, 2))
        used[str(seed)], truth, preds = run, [*truth, t], [*preds, p]
    used["2"].confusion_file.write_text("damaged")
    runs = pd.DataFrame({"run": ["0", "1", "2", "csv"], "model": "level1", "lambda": 50.0, "seed": [0, 1, 2, 3]})
    figures, summed, without = figures_by_class(runs, used)
    assert without == 2 and list(summed) == [names]
    expected = sum(confusion_matrix(t, p) for t, p in zip(truth[:2], preds[:2], strict=True))
    assert (summed[names]["level1, lambda 50"] == expected).all()
    shown = classes_item(figures, ("class", "macro"), "x", "x").shown
    recalls = [recall_score(t, p, pos_label=1) for t, p in zip(truth[:2], preds[:2], strict=True)]
    assert list(shown["class"]) == ["a", "b", "mean over classes"] and list(shown["seeds"]) == ["2"] * 3
    assert shown["recall"][1] == f"{np.mean(recalls):.3f} ± {np.std(recalls, ddof=1):.3f}"
    whole = classes_item(figures, ("all",), "x", "x").shown
    right = [accuracy_score(t, p) for t, p in zip(truth[:2], preds[:2], strict=True)]
    assert "class" not in whole and whole["accuracy"][0].startswith(f"{np.mean(right):.3f}")


def test_figures_on_the_folds_held_out_have_the_corrected_interval(tmp_path):
    accuracies, rows, used = np.random.default_rng(0).uniform(0.6, 0.9, (2, 3)), [], {}
    for seed, fold in np.ndindex(2, 3):
        name = f"{seed}-{fold}"
        used[name] = Run(tmp_path / name)
        used[name].folder.mkdir()
        write_json(used[name].test_file, {"last": {"test/accuracy": accuracies[seed, fold]}})
        rows.append({"run": name, "model": "level1", "lambda": 0.0, "seed": seed, "fold": float(fold)})
    item = tables.tested_item(pd.DataFrame(rows), used, "x", "here")
    low, high = folds_interval(accuracies, 3)
    assert item.shown[["seeds", "accuracy"]].to_numpy().tolist() == [
        ["2", f"{accuracies.mean():.3f} [{low:.3f}, {high:.3f}]"]
    ]
    assert item.notes[-1] == FOLDS_NOTE and "[95 % interval]" in item.notes[0]
    assert item.frame["fold"].tolist() == [0, 1, 2, 0, 1, 2]


def test_tables_of_a_cross_validation_say_what_stands_behind_an_interval():
    whole = made_up_runs(models=("level1",), lambdas=(0.0, 50.0), epochs=2)
    folds = pd.concat([whole.assign(fold=fold, run=whole["run"] + f"/{fold}") for fold in (0.0, 1.0)])
    for runs, said in ((whole, False), (folds, True)):
        assert (FOLDS_NOTE in performance_item(lambda_table(runs), "accuracy", "x", "here", "d", {}).notes) == said
        assert (FOLDS_NOTE in shift_item(gaze_shift_table(runs), "x", "here").notes) == said
