"""gaze.runs.load and gaze.runs.tidy: run folders and CSV files to one DataFrame, and what is left out."""

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPO
from made_up import made_up_runs

from gaze.errors import DataError
from gaze.files import write_json
from gaze.measures import epoch_columns
from gaze.runs.load import Runs, load_runs, mixed_settings, read_runs
from gaze.runs.run import Run
from gaze.runs.status import STATUS_FILE
from gaze.runs.tidy import NEEDED, RUN_KEYS, TIDY_COLUMNS, write_tidy_csv

COLUMNS = {"lambda_t": "train/lambda", "train_loss": "train/loss"}


def write_run(
    root: Path,
    model: str | dict[str, str] = "level2",
    seed: int = 0,
    epochs: int = 3,
    rows: int | None = None,
    name: str | None = None,
    started: str = "2026-01-01T00:00:00+0000",
    **settings,
) -> Path:
    """A run folder as train.py leaves it, with made-up figures."""
    folder = root / (name or f"study/phantom/{model}/lambda=0/seed={seed}")
    folder.mkdir(parents=True)
    table = pd.DataFrame(index=range(epochs if rows is None else rows), columns=epoch_columns(), dtype=float)
    table["epoch"] = np.arange(1, len(table) + 1)
    for column in ("accuracy", "kappa", "gaze_consistency", "gaze_consistency_l2", "gaze_eta_squared", "loss"):
        table[f"val/{column}"] = 0.05 * table["epoch"] + 0.01 * seed
    table.to_csv(folder / "metrics.csv", index=False)
    config = {
        "study": "study",
        "seed": seed,
        "lambda": 0.0,
        "dataset": {"name": "phantom", "image_size": 48},
        "model": model if isinstance(model, dict) else {"name": model},
        "optimizer": {"lr": 1e-4},
        "trainer": {"max_epochs": epochs, "max_steps": -1},
    }
    write_json(folder / "config.json", {**config, **settings})
    write_json(folder / "environment.json", {"started": started})
    return folder


def listing(path, **options):
    return read_runs(path, **options).listing.set_index("run")


# ---- folders


def test_a_row_per_run_and_epoch_with_the_columns_of_the_architecture(tmp_path):
    for seed in (1, 0):
        write_run(tmp_path, seed=seed)
    runs = load_runs(tmp_path)
    assert list(runs.columns[:12]) == TIDY_COLUMNS
    assert runs[["seed", "epoch"]].to_numpy().tolist() == [[s, e] for s in (0, 1) for e in (1, 2, 3)]
    assert set(runs["dataset"]) == {"phantom"}
    np.testing.assert_allclose(runs["kappa"], 0.05 * runs["epoch"] + 0.01 * runs["seed"])
    np.testing.assert_allclose(runs["gaze_consistency_rms"] ** 2, runs["gaze_consistency"])
    assert [runs[c].dtype.kind for c in ("lambda", "seed", "epoch", "kappa")] == ["f", "i", "i", "f"]


def test_a_real_run_is_read_as_it_was_written(tiny_run):
    runs = load_runs(tiny_run.folder)
    last = runs.iloc[-1]
    assert (last["study"], last["dataset"], last["model"], last["lambda"]) == ("default", "phantom", "level1", 50.0)
    for column in (*TIDY_COLUMNS[6:], "gaze_consistency_grid", "gaze_mask_energy", "gaze_mask_lift", "gaze_pointing"):
        assert last[column] == pytest.approx(tiny_run.row[f"val/{column}"], nan_ok=True), column
    assert last["lambda_t"] == tiny_run.row["train/lambda"]
    assert last["train_loss"] == tiny_run.row["train/loss"]


def test_a_run_is_known_by_its_settings_not_by_its_folder(tmp_path):
    write_run(tmp_path, model="level4", name="renamed/by hand")
    assert set(load_runs(tmp_path)["model"]) == {"level4"}
    assert list(listing(tmp_path).index) == ["renamed/by hand"]


def test_earlier_runs_in_previous_are_not_found_again(tmp_path):
    folder = write_run(tmp_path)
    shutil.copytree(folder, folder / "previous" / "1")
    assert list(listing(tmp_path).index) == ["study/phantom/level2/lambda=0/seed=0"]


def test_runs_that_are_not_whole_are_listed_and_left_out(tmp_path):
    write_run(tmp_path, seed=1)
    folder = write_run(tmp_path, seed=0, rows=2)
    for status, state, reason in (
        (None, "unfinished", "2 of 3 epochs"),
        ({"state": "running"}, "unfinished", "interrupted: 2 of 3 epochs"),
        ({"state": "interrupted"}, "unfinished", "interrupted: 2 of 3 epochs"),
        ({"state": "failed", "error": "ValueError: x\nmore"}, "failed", "ValueError: x (2 of 3 epochs)"),
        ({"state": "complete"}, "unfinished", "2 of 3 epochs"),  # metrics.csv was cut
    ):
        if status:
            write_json(folder / STATUS_FILE, status)
        runs = read_runs(tmp_path)
        row = runs.listing.iloc[0]
        assert (row["state"], row["reason"], row["used"], row["epochs"]) == (state, reason, False, 2)
        assert set(runs.epochs["seed"]) == {1}
        with pytest.warns(UserWarning, match=f"1 {state}"):
            assert len(load_runs(tmp_path)) == 3
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(load_runs(tmp_path, include=[state])) == 5


def test_a_run_that_was_asked_to_end_early_is_complete(tmp_path):
    folder = write_run(tmp_path, rows=2, trainer={"max_epochs": 3, "max_steps": 100})
    write_json(folder / STATUS_FILE, {"state": "complete"})
    assert listing(tmp_path)["state"].tolist() == ["complete"]


def test_of_duplicates_the_one_started_last_stands(tmp_path):
    write_run(tmp_path, name="a", started="2026-01-02T00:00:00+0000", pictures={"every_n_epochs": 1})
    write_run(tmp_path, name="b", started="2026-01-03T00:00:00+0000")
    write_run(tmp_path, name="c", started="2026-01-01T00:00:00+0000")
    write_run(tmp_path, name="d", rows=1)  # unfinished: no rival
    found = listing(tmp_path)
    assert found["state"].to_dict() == {"a": "duplicate", "b": "complete", "c": "duplicate", "d": "unfinished"}
    assert found["reason"]["a"] == "same keys as b, other settings: pictures.every_n_epochs"
    assert found["reason"]["c"] == "same keys as b, same settings"
    assert set(read_runs(tmp_path, ["duplicate"]).epochs["run"]) == {"a", "b", "c"}


def test_a_damaged_folder_is_listed_and_stops_nothing(tmp_path):
    for number, (name, content, reason) in enumerate((
        ("config.json", None, "config.json is missing"),
        ("config.json", b"{", "Expecting property name"),
        ("config.json", b"{}", "config.json has no study"),
        ("config.json", b"[1]", "config.json must be an object with named values, and is [1]"),
        ("metrics.csv", b"epoch,val/accuracy\n1,0.5\n", "metrics.csv: no column kappa"),
        ("metrics.csv", b"\xff\xfe\x00", ""),
    )):  # fmt: skip
        root = tmp_path / str(number)
        write_run(root, seed=1)
        file = write_run(root, seed=0) / name
        file.unlink() if content is None else file.write_bytes(content)
        found = listing(root)
        assert sorted(found["state"]) == ["complete", "unreadable"]
        (row,) = [row for row in found.itertuples() if row.state == "unreadable"]
        assert reason in row.reason and row.reason


def test_a_run_without_a_whole_epoch_is_unfinished(tmp_path):
    write_run(tmp_path, seed=1)
    path = write_run(tmp_path, seed=0) / "metrics.csv"
    for content in (",".join(epoch_columns()) + "\n", "", None):
        path.unlink() if content is None else path.write_text(content)
        assert listing(tmp_path, include=["unfinished"])["used"].tolist() == [False, True]
        assert listing(tmp_path)["reason"].tolist() == ["0 of 3 epochs", ""]


def test_one_study_of_several(tmp_path):
    write_run(tmp_path, name="a", study="a")
    write_run(tmp_path, name="b", study="b")
    assert set(read_runs(tmp_path).epochs["study"]) == {"a", "b"}
    assert set(read_runs(tmp_path, study="b").epochs["study"]) == {"b"}
    with pytest.raises(DataError, match=r"study=c: no run of it in .* Studies there: a, b"):
        read_runs(tmp_path, study="c")


def test_of_one_study_no_table_of_another_is_read(tmp_path, monkeypatch):
    for study in ("a", "b"):
        write_run(tmp_path, name=study, study=study)
    read = []
    table = Run.table
    monkeypatch.setattr(Run, "table", lambda run, *only, **file: read.append(run.name) or table(run, *only, **file))
    assert set(read_runs(tmp_path, study="b").epochs["study"]) == {"b"}
    assert set(read) == {"b"}


def test_one_run_among_many_with_a_column_or_a_value_that_cannot_be_is_the_only_one_unreadable(tmp_path):
    for seed in range(4):
        write_run(tmp_path, seed=seed, name=f"r{seed}")
    table = pd.read_csv(tmp_path / "r1" / "metrics.csv")
    table.drop(columns="val/kappa").to_csv(tmp_path / "r1" / "metrics.csv", index=False)
    table.assign(**{"val/kappa": [0.1, 7.0, 0.2]}).to_csv(tmp_path / "r2" / "metrics.csv", index=False)
    found = listing(tmp_path)
    assert found["state"].to_dict() == {"r0": "complete", "r1": "unreadable", "r2": "unreadable", "r3": "complete"}
    assert found["reason"]["r1"].startswith("metrics.csv: no column kappa.")
    assert found["reason"]["r2"].startswith("metrics.csv, line 3: kappa=7.0 is outside -1 .. 1")
    assert read_runs(tmp_path).epochs["seed"].tolist() == [0] * 3 + [3] * 3


def test_nothing_there_and_nothing_usable_are_two_messages(tmp_path):
    with pytest.raises(DataError, match="there is no such file or folder"):
        read_runs(tmp_path / "none")
    with pytest.raises(DataError, match=r"no run in this folder.*python train\.py"):
        read_runs(tmp_path)
    for seed in range(7):
        write_run(tmp_path, rows=1, seed=seed)
    with pytest.raises(
        DataError, match=r"none of the 7 runs can be used.*\n(.*1 of 3 epochs\n){5}and 2 more\n.*include="
    ):
        read_runs(tmp_path)
    with pytest.raises(DataError, match="include=half is unknown: unfinished, failed, duplicate"):
        read_runs(tmp_path, ["half"])


def test_settings_that_differ_though_they_are_no_key_are_found(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, optimizer={"lr": 1e-3})
    write_run(tmp_path, name="other", study="other", optimizer={"lr": 5.0})
    found = read_runs(tmp_path)
    assert mixed_settings(found) == {"study, phantom: optimizer.lr": [1e-4, 1e-3]}
    assert "variant" not in found.epochs


def test_runs_that_differ_in_a_setting_are_compared_apart_and_are_no_duplicates(tmp_path):
    network = {"name": "resnet18", "source": "torchvision"}
    changes = [
        ("base", {}), ("large", {"dataset": {"name": "phantom", "image_size": 64}}),
        ("layer3", {"model": {**network, "layer": "layer3"}}), ("layer4", {"model": {**network, "layer": "layer4"}}),
        ("decay", {"optimizer": {"lr": 1e-4, "weight_decay": 0.01}}), ("lost", {"trainer": {"max_epochs": 5}}),
    ]  # fmt: skip
    for name, change in changes:
        for seed in (0, 1):
            write_run(tmp_path, seed=seed, name=f"{name}/{seed}", **change)
    write_run(tmp_path, name="again", started="2025-01-01T00:00:00+0000", dataset={"name": "phantom", "image_size": 64})
    write_run(tmp_path, name="other", model="level5", dataset={"name": "phantom", "image_size": 64})
    found = read_runs(tmp_path)
    assert found.listing["state"].value_counts().to_dict() == {"complete": 11, "unfinished": 2, "duplicate": 1}
    assert found.listing.set_index("run")["reason"]["again"] == "same keys as large/0, same settings"
    studies = found.listing[found.listing["used"]].set_index("run")["study"]
    large = "study, image_size 64"
    assert studies[["base/0", "large/0", "large/1", "other"]].tolist() == ["study", large, large, large]
    others = ["study, layer layer3", "study, layer layer4", "study, weight_decay 0.01"]
    assert studies[["layer3/1", "layer4/1", "decay/1"]].tolist() == others
    variants = found.epochs.drop_duplicates("run").set_index("run")["variant"]
    assert variants["base/0"] == "image_size 48, layer None, weight_decay 0.0"
    assert variants["decay/0"] == "image_size 48, layer None, weight_decay 0.01"
    assert mixed_settings(found) == {}
    write_tidy_csv(found.epochs, tmp_path / "epochs.csv")
    again = read_runs(tmp_path / "epochs.csv", study="study")
    pd.testing.assert_frame_equal(again.epochs, found.epochs, check_exact=True)
    assert len(read_runs(tmp_path, study="study").epochs) == len(found.epochs)


def test_other_settings_of_a_study_of_augmentations_are_duplicates_still(tmp_path):
    for name, size in (("a", 48), ("b", 64)):
        write_run(tmp_path, name=name, dataset={"name": "phantom", "image_size": size})
    assert listing(tmp_path, arms=True)["reason"].tolist() == ["", "same keys as a, other settings: dataset.image_size"]


def test_augmentations_without_the_baseline_are_told_apart_by_their_name(tmp_path):
    for name in ("hflip", "rotation"):
        write_run(tmp_path, name=name, augmentation={"name": name, "hflip": 0.5 * (name == "hflip")})
    assert sorted(listing(tmp_path)["study"]) == ["study", "study, augmentation rotation"]


# ---- CSV


def test_csv_gives_back_what_was_written_bit_for_bit(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "runs", seed=seed)
    first = load_runs(tmp_path / "runs")
    write_tidy_csv(first, tmp_path / "epochs.csv")
    pd.testing.assert_frame_equal(load_runs(tmp_path / "epochs.csv"), first, check_exact=True)


def test_words_that_mean_nothing_elsewhere_are_names_of_a_study(tmp_path):
    for name in ("null", "nan", "NA", "None", "n/a"):
        table = made_up_runs(study=name, datasets=[name], models=[name])
        table.loc[0, "loss"] = np.nan
        write_tidy_csv(table, tmp_path / "epochs.csv")
        again = read_runs(tmp_path / "epochs.csv", study=name).epochs
        assert set(again["study"]) == set(again["dataset"]) == set(again["model"]) == {name}
        assert again["loss"].isna().sum() == 1
    (tmp_path / "own.csv").write_text("study,model,seed,epoch,kappa,gaze_consistency\nNA,m,1,1,NA,null\n")
    (row,) = load_runs(tmp_path / "own.csv").to_dict("records")
    assert row["study"] == "NA" and np.isnan(row["kappa"]) and np.isnan(row["gaze_consistency"])


@pytest.mark.parametrize(("between", "decimal"), [(";", ","), (";", "."), ("\t", "."), ("\t", ",")])
def test_csv_of_a_spreadsheet_is_read(tmp_path, between, decimal):
    table = load_runs(REPO / "results" / "thesis" / "epochs.csv")
    table.to_csv(tmp_path / "epochs.csv", index=False, sep=between, decimal=decimal, encoding="utf-8-sig")
    pd.testing.assert_frame_equal(load_runs(tmp_path / "epochs.csv"), table)


def test_csv_of_ones_own_with_the_twelve_columns_will_do(tmp_path):
    table = made_up_runs(lambdas=(0, 50))[TIDY_COLUMNS].sample(frac=1, random_state=0)
    table.to_csv(tmp_path / "own.csv", index=False)
    runs = load_runs(tmp_path / "own.csv")
    expected = made_up_runs(lambdas=(0, 50))[TIDY_COLUMNS].sort_values([*RUN_KEYS, "epoch"], ignore_index=True)
    pd.testing.assert_frame_equal(runs[TIDY_COLUMNS], expected, check_exact=True)
    assert runs["gaze_consistency_grid"].isna().all()


def test_csv_without_a_needed_column_is_refused_by_its_name(tmp_path):
    for column in NEEDED:
        made_up_runs().drop(columns=column).to_csv(tmp_path / "x.csv", index=False)
        with pytest.raises(
            DataError, match=rf"x\.csv: no column {column}\. Needed: study, model, seed, epoch, kappa and"
        ):
            load_runs(tmp_path / "x.csv")
    made_up_runs()[NEEDED].to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(
        DataError, match=r"no column of the gaze\. Needed: .* one of the gaze, such as gaze_consistency"
    ):
        load_runs(tmp_path / "x.csv")


def test_csv_with_the_least_columns_is_read_and_what_was_assumed_is_known(tmp_path):
    for column in ("gaze_consistency_l2", "gaze_eta_squared", "gaze_entropy"):
        made_up_runs()[[*NEEDED, column]].to_csv(tmp_path / "x.csv", index=False)
        found = read_runs(tmp_path / "x.csv")
        assert found.epochs[["accuracy", "gaze_consistency", "loss"]].isna().all(axis=None)
        assert set(found.epochs["dataset"]) == {"unnamed"} and set(found.epochs["lambda"]) == {0.0}
        assert found.epochs[column].notna().all() and {"dataset", "lambda", "accuracy"} < set(found.absent)


def test_a_value_that_cannot_be_is_refused_with_its_line(tmp_path):
    for column, value, message in (
        ("accuracy", 55.2, "accuracy=55.2 is outside 0 .. 1 (a share, not per cent)"),
        ("kappa", -1.5, "kappa=-1.5 is outside -1 .. 1"),
        ("gaze_consistency", -0.1, "gaze_consistency=-0.1 is outside"),
        ("gaze_eta_squared", 1.5, "gaze_eta_squared=1.5 is outside"),
        ("epoch", 0, "epoch=0.0 is outside 1 .. 9007199254740991"),
        ("epoch", 1.5, "epoch=1.5 is not a whole number"),
        ("seed", 10**23 - 1, "seed=1e+23 is outside 0 .. 9007199254740991"),
        *((empty, "", f"{empty} is empty") for empty in ("epoch", "seed", "lambda", "model")),
        ("kappa", "good", "kappa=good is not a number"),
    ):
        table = made_up_runs().drop(columns="run").astype(object)
        table.loc[5, column] = value
        table.to_csv(tmp_path / "x.csv", index=False)
        with pytest.raises(DataError, match=f"line 7: {re.escape(message)}"):
            load_runs(tmp_path / "x.csv")


def test_measures_may_be_empty(tmp_path):
    table = made_up_runs()
    table.loc[3, ["gaze_consistency", "kappa"]] = np.nan
    table.to_csv(tmp_path / "x.csv", index=False)
    runs = load_runs(tmp_path / "x.csv")
    assert len(runs) == len(table)
    assert runs[["gaze_consistency", "gaze_consistency_rms", "kappa"]].isna().sum().tolist() == [1, 1, 1]


def test_where_every_map_was_empty_runs_of_earlier_versions_have_no_consistency(tmp_path):
    of_images = ["gaze_consistency_all", "gaze_consistency_fixed"]
    table = made_up_runs(models=("level2",), seeds=(0,))[[*TIDY_COLUMNS, "run"]]
    table = table.assign(gaze_consistency_grid=0.01, gaze_consistency_js=0.4, gaze_empty_fraction=0.5)
    table[of_images] = 0.02
    table.loc[2, ["gaze_consistency", "gaze_consistency_l2", "gaze_consistency_grid", "gaze_empty_fraction"]] = (
        0,
        0,
        0,
        1,
    )
    table.loc[2, "gaze_consistency_js"] = 1.0
    table.loc[3, ["gaze_empty_fraction", *of_images]] = 1, 0, 0  # nor had the wrong images a map
    table.loc[4, ["gaze_consistency", *of_images]] = 0  # one gaze for all: perfect, and no empty map
    table.to_csv(tmp_path / "x.csv", index=False)
    runs = load_runs(tmp_path / "x.csv")
    gone = runs.filter(like="gaze_consistency").isna()
    assert gone.loc[[2, 3]].drop(columns=of_images).all(axis=None) and not gone.drop(index=[2, 3]).any(axis=None)
    assert gone.loc[[2, 3], of_images].to_numpy().tolist() == [[False, False], [True, True]]
    write_tidy_csv(runs, tmp_path / "y.csv")
    pd.testing.assert_frame_equal(load_runs(tmp_path / "y.csv"), runs, check_exact=True)


def test_rows_that_come_twice_are_a_second_run(tmp_path):
    table = made_up_runs(models=("level2",), seeds=(0,))[TIDY_COLUMNS]
    pd.concat([table, table]).to_csv(tmp_path / "x.csv", index=False)
    assert listing(tmp_path / "x.csv")["state"].tolist() == ["complete", "duplicate"]
    with pytest.warns(UserWarning, match="1 duplicate"):
        assert len(load_runs(tmp_path / "x.csv")) == len(table)
    named = pd.concat([table, table]).assign(run="one")
    named.to_csv(tmp_path / "y.csv", index=False)
    with pytest.raises(DataError, match=r"line 8: epoch=1 occurs twice in one run \(6 rows in all\)"):
        load_runs(tmp_path / "y.csv")


def test_what_is_no_csv_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    for content in (b"", b"\x89PNG\r\n\x1a\n\x00\xff", b'a,b\n"1,2\n3'):
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(path))):
            load_runs(path)
    path.write_text(",".join(TIDY_COLUMNS) + "\n")
    with pytest.raises(DataError, match="a header without rows"):
        load_runs(path)


def test_config_json_of_a_run_is_what_mixed_settings_needs(tiny_run):
    own = Run(tiny_run.folder)
    other = Run(Path("b"), own.settings.model_copy(update={"seed": 7, "lambda_": 1.0}))
    used = {run.name: run for run in (own, other)}
    assert (
        mixed_settings(
            Runs(pd.DataFrame(), pd.DataFrame([run.keys | {"run": run.name} for run in used.values()]), used)
        )
        == {}
    )


def test_runs_whose_lambda_turns_later_are_a_study_of_their_own(tmp_path):
    for number, (weight, start) in enumerate(((0.0, 2), (50.0, 2), (50.0, 12), (0.0, 12))):
        turned = {"lambda": weight, "gaze": {"start_epoch": start, "end_epoch": 18}}
        write_run(tmp_path, seed=number // 3, name=str(number), **turned)
    found = read_runs(tmp_path)
    late = "study, lambda from epoch 12 to 18"
    assert found.listing.set_index("run")["study"].to_dict() == {"0": "study", "1": "study", "2": late, "3": "study"}
    assert set(found.epochs["of_study"]) == {"study"} and found.listing["used"].all()
    assert not any("epoch" in name for name in mixed_settings(found))
    assert "of_study" not in load_runs(tmp_path / "1")


def write_folds(path, folds, seed=0, number=3, **settings):
    for fold in folds:
        data = {"name": "mine", "kind": "folder", "root": "x", "folds": number, "fold": fold}
        write_run(path, name=f"seed{seed},fold{fold}of{number}", seed=seed, dataset=data, **settings)


def test_folds_are_a_column_and_a_seed_without_one_is_left_out(tmp_path):
    write_folds(tmp_path, (0, 1, 2))
    write_folds(tmp_path, (0, 2), seed=1)
    found = read_runs(tmp_path)
    assert found.epochs[["study", "seed", "fold"]].drop_duplicates().to_numpy().tolist() == [
        ["study", 0, 0.0], ["study", 0, 1.0], ["study", 0, 2.0]
    ]  # fmt: skip
    left = found.listing[~found.listing["used"]]
    assert {*left["state"]} == {"without folds"}
    assert {*left["reason"]} == {"its seed has no finished fold 1 of 3"}
    write_tidy_csv(found.epochs, tmp_path / "epochs.csv")
    pd.testing.assert_frame_equal(read_runs(tmp_path / "epochs.csv").epochs, found.epochs)


def test_a_csv_of_folds_needs_no_names_of_runs(tmp_path):
    write_folds(tmp_path, (0, 1, 2))
    write_tidy_csv(read_runs(tmp_path).epochs.drop(columns="run"), tmp_path / "epochs.csv")
    again = read_runs(tmp_path / "epochs.csv").epochs
    assert [*again["run"].unique()] == [f"study/mine/level2/lambda=0/seed=0/fold={fold}" for fold in range(3)]


def test_other_numbers_of_folds_are_parts_of_a_study(tmp_path):
    write_folds(tmp_path, (0, 1, 2))
    write_folds(tmp_path, (0, 1), number=2)
    assert {*read_runs(tmp_path).epochs["study"]} == {"study", "study, folds 3"}


def test_maps_of_folds_are_compared_apart(tmp_path):
    write_folds(tmp_path, (0, 1), number=2)
    assert {*read_runs(tmp_path, arms=True).epochs["study"]} == {"study, fold 0", "study, fold 1"}
