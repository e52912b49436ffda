"""Screening by successive halving: the decision, what it reads, what it does when it is broken off, and the command."""

import csv
import json
import math
import os
import random
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPO, TINY
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import open_dict

from gaze.config.train import check_config
from gaze.errors import ConfigError, TrainingError
from gaze.files import write_json
from gaze.runs.run import Run
from gaze.runs.screening import Rung, last_accuracy, load_rungs, promoted, remaining, rung_epochs, save_rungs

NAN = math.nan
COLUMNS = ["epoch", "val/accuracy", "val/kappa", "val/gaze_consistency", "val/gaze_mask_energy"]

# ---- the decision


def test_the_best_of_a_rung_go_on_in_whatever_order_they_come():
    for n, factor in product((1, 2, 3, 5, 14), (2, 3, 4)):
        values = [i / 20 for i in range(n)]
        for order in (values, values[::-1], random.Random(n).sample(values, n)):
            accuracy = {f"c{i}": value for i, value in enumerate(order)}
            kept = promoted(accuracy, factor)
            assert {accuracy[name] for name in kept} == set(values[-max(1, n // factor) :])
            assert kept == [name for name in accuracy if name in kept]


def test_equals_go_on_together_and_what_failed_never_does():
    assert promoted({"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.1}, 2) == ["a", "b", "c"]  # no arbitrary choice among equals
    assert promoted({"a": NAN, "b": 0.1, "c": NAN, "d": 0.2, "e": 0.3}, 3) == ["e"]  # 1 of the 3 that ended
    assert promoted({"a": NAN, "b": NAN}, 2) == promoted({}, 2) == []
    assert promoted({"a": 0.0}, 3) == ["a"]


def test_what_is_left_after_each_rung():
    first = Rung(1, {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})
    assert remaining("abcd", [], 2) == ["a", "b", "c", "d"]
    assert remaining("abcd", [first], 2) == ["c", "d"]
    assert remaining("abcd", [first, Rung(2, {"c": 0.9, "d": 0.8})], 2) == ["c"]
    assert remaining("abcd", [first, Rung(2, {"c": NAN, "d": NAN})], 2) == []


def test_epochs_of_the_rungs():
    assert rung_epochs(3, 2, 2, 12) == [3, 6]
    assert rung_epochs(1, 3, 3, 9) == [1, 3, 9]
    with pytest.raises(ConfigError, match="last rung of the screening has 16 epochs"):
        rung_epochs(4, 2, 3, 12)
    with pytest.raises(ConfigError) as error:
        rung_epochs(0, 1, True, 12)
    assert len(str(error.value).splitlines()) == 3


def test_rungs_that_are_over_are_kept_exactly_and_a_damaged_file_is_named(tmp_path):
    path, rungs = tmp_path / "screen.json", [Rung(3, {"a": 0.1 + 0.2, "b": NAN}), Rung(6, {"a": 1 / 3})]
    assert load_rungs(path) == []
    save_rungs(path, rungs)
    assert repr(load_rungs(path)) == repr(rungs)
    path.write_text('{"rungs": [{"epo')
    with pytest.raises(ConfigError, match=r"screen\.json cannot be read"):
        load_rungs(path)


def test_the_last_validation_accuracy_is_read_and_nothing_else(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,val/gaze_consistency,val/accuracy\n1,0.1,0.9\n2,no number,0.25\n")
    assert last_accuracy(Run(tmp_path)) == 0.25
    (tmp_path / "metrics.csv").write_text("epoch,val/accuracy\n1,\n")
    assert math.isnan(last_accuracy(Run(tmp_path)))
    (tmp_path / "metrics.csv").write_text("epoch,val/kappa\n1,0.5\n")
    with pytest.raises(ConfigError, match="no column val/accuracy"):
        last_accuracy(Run(tmp_path))


# ---- the sweeper, with a launcher that writes what runs would leave


ARMS = {"blur": 0.4, "noise": 0.7, "rotation": 0.5, "hflip": 0.6}  # accuracy at every rung, unless a test says more
WORDS = (
    "experiment=augmentation_screen", "augmentation=none,blur,noise,rotation,hflip", "hydra.sweeper.min_epochs=1",
    "hydra.sweeper.limit.seed=1", "hydra.sweeper.seeds=[10000,10001]", *TINY,
)  # fmt: skip


COMPOSED: dict = {}  # which takes most of the time, so it is done once for all tests


def remembered(key, make):
    if key not in COMPOSED:
        COMPOSED[key] = make()
    return COMPOSED[key]


class World:
    """Sweepers on one folder. ``accuracy``: of an arm, or of (arm, seed), or "failed"; ``die_at``: Ctrl-C before that
    launched run; ``launched``: runs of the last sweep; ``gaze``: what the other columns hold.
    """

    def __init__(self, folder: Path):
        self.folder, self.accuracy, self.die_at, self.gaze = folder, dict(ARMS), None, 0.5
        self.launched: list[str] = []

    def sweep(self, *words: str) -> int:
        """Exit code of the command."""
        from hydra_plugins.hydra_gaze_sweeper.screen import ScreenSweeper

        words, self.launched = (*WORDS, *words), []
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            hydra, loader = GlobalHydra.instance().hydra, GlobalHydra.instance().config_loader()
            set_up = [w for w in words if not w.startswith("augmentation=")]
            config = remembered(words, lambda: hydra.compose_config("train", set_up, run_mode=RunMode.MULTIRUN))
            self.sweeper = ScreenSweeper(**{k: v for k, v in config.hydra.sweeper.items() if k != "_target_"})
            compose = self.sweeper._runs
            self.sweeper._runs = lambda combinations: self.runs(compose, combinations)
            self.sweeper.config, self.sweeper.launcher = config, SimpleNamespace(launch=self.launch)
            self.sweeper.hydra_context = SimpleNamespace(config_loader=loader)
            config.hydra.sweep.dir = str(self.folder)
            try:
                self.sweeper.sweep([w for w in words if not w.startswith("hydra.")])
            except SystemExit as ended:
                return ended.code
        return 0

    def runs(self, compose, combinations):
        """What the sweeper would compose, in the folders of this world."""
        runs = []
        for overrides in combinations:
            screened = any(word.startswith("study=") and "-screen" in word for word in overrides)
            own = sorted(word for word in overrides if not word.startswith("hydra."))
            run = remembered(tuple(own), lambda own=own: compose([own])[0])
            (_, place) = str(run.folder).split("/phantom/")
            top = f"{self.folder}-screen" if screened else self.folder
            runs.append(Run(Path(top) / "phantom" / place, run.settings, overrides=overrides))
        return runs

    def launch(self, all_overrides, _):
        results = []
        for run in self.sweeper._runs(all_overrides):
            if self.die_at is not None and len(self.launched) >= self.die_at:
                raise KeyboardInterrupt
            config = run.settings
            name, epochs = config.augmentation.name, config.trainer["max_epochs"]
            self.launched.append(f"{config.study} {name} {config.seed} {epochs}")
            value = self.accuracy.get((name, config.seed), self.accuracy.get(name, 0.5))
            results.append(self.leave(run, value))
        return results

    def leave(self, run, value) -> JobReturn:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.config_file, run.settings.to_dict())
        result = JobReturn()
        result.status = JobStatus.FAILED if value == "failed" else JobStatus.COMPLETED
        if value == "failed":
            write_json(run.status_file, {"state": "failed", "error": "TrainingError: the loss is NaN"})
            result.return_value = TrainingError("the loss is NaN")
            return result
        row = [run.settings.trainer["max_epochs"], value, 0.0, self.gaze, self.gaze]
        run.metrics_file.write_text(f"{','.join(COLUMNS)}\n{','.join(map(str, row))}\n")
        write_json(run.status_file, {"state": "complete", "seconds": 1.0, "metrics_sha256": run.digest})
        return result

    def study(self) -> set[str]:
        return {path.parent.name.split(",")[1].split("=")[1] for path in self.folder.rglob("metrics.csv")}

    def table(self) -> list[list[str]]:
        (path,) = Path(f"{self.folder}-screen").rglob("screen.csv")
        return list(csv.reader(path.open()))


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr("gaze.config.train.check_trainer", lambda config: None)
    return World(tmp_path / "study")


@pytest.mark.slow
def test_the_screening_runs_rung_by_rung_and_the_study_with_what_is_left(world, capsys):
    assert world.sweep() == 0
    first = [f"augmentation-screen {arm} {seed} 1" for arm in ("hflip", "rotation", "blur", "noise")
             for seed in (10000, 10001)]  # fmt: skip
    second = [f"augmentation-screen {arm} {seed} 2" for arm in ("hflip", "noise") for seed in (10000, 10001)]
    assert world.launched == [*first, *second, "augmentation none 0 2", "augmentation noise 1100 2"]
    assert world.table() == [
        ["augmentation", "accuracy_1_epochs", "accuracy_2_epochs", "outcome"],
        ["noise", "0.7000", "0.7000", "kept"],
        ["hflip", "0.6000", "0.6000", "dropped at 2 epochs"],
        ["rotation", "0.5000", "", "dropped at 1 epochs"],
        ["blur", "0.4000", "", "dropped at 1 epochs"],
    ]
    told = capsys.readouterr().out
    before = told[: told.index("Rung 1 of 2")]
    for part in ("val/accuracy alone, never a CAM metric", "double dipping", "fresh seeds", "optimistic",
                 "4 x 2 runs of 1 epochs, 2 of 4 go on", "16 epochs", "2 runs of 2 epochs"):  # fmt: skip
        assert part in before
    assert world.sweep() == 0
    assert world.launched == []


def test_the_study_has_the_folders_and_settings_of_the_unscreened_one(world, composed):
    world.sweep("augmentation=noise,blur", "hydra.sweeper.rungs=1")  # the baseline comes unasked
    paths = {path.parent.name.split(",")[0]: path for path in world.folder.rglob("config.json")}
    assert set(paths) == {"seed=0", "seed=1100"}
    cfg = composed("experiment=augmentation", *TINY, "augmentation=noise", "seed=1100", hydra=True)
    assert paths["seed=1100"].parent == world.folder / cfg.hydra.sweep.subdir
    with open_dict(cfg):
        del cfg["hydra"]
    assert json.loads(paths["seed=1100"].read_text()) == check_config(cfg, trainer=False).to_dict()


def test_accuracy_is_the_mean_of_the_seeds(world):
    world.accuracy |= {("noise", 10000): 1.0, ("noise", 10001): 0.0, ("blur", 10000): 0.9, ("blur", 10001): 0.8}
    world.sweep()
    assert world.study() == {"none", "blur"}
    assert world.table()[1][:2] == ["blur", "0.8500"]


def test_broken_off_at_any_run_it_ends_with_the_same_survivors(world, tmp_path):
    for step in range(15):
        own = World(tmp_path / f"study{step}")
        own.die_at = step
        assert own.sweep() == (130 if step < 14 else 0)
        begun = list(own.launched)
        own.die_at = None
        assert own.sweep() == 0
        assert not set(begun) & set(own.launched) and len(begun) + len(own.launched) == 14
        assert own.study() == {"none", "noise"}


def test_no_other_column_of_metrics_csv_has_a_say(world, tmp_path):
    world.sweep()
    other = World(tmp_path / "other")
    other.gaze = "no number"
    other.sweep()
    assert other.table() == world.table()
    assert other.study() == world.study()


def test_a_failed_candidate_is_dropped_and_named_and_the_rest_goes_on(world, capsys):
    world.accuracy[("noise", 10001)] = "failed"
    assert world.sweep() == 1
    told = capsys.readouterr().out
    assert re.search(r"seed=10001 augmentation=noise.* failed: TrainingError: the loss is NaN", told)
    assert "Failed in the screening, and dropped: noise." in told
    assert world.table()[-1] == ["noise", "", "", "failed at 1 epochs"]
    assert world.study() == {"none", "hflip"}
    world.accuracy = dict(ARMS)  # what has been decided stays decided: the study has begun
    assert world.sweep() == 1
    assert world.launched == []
    (record,) = Path(f"{world.folder}-screen").rglob("screen-*.json")
    record.unlink()
    assert world.sweep() == 0
    assert "augmentation noise 1100 2" in world.launched


def test_where_all_fail_nothing_is_decided(world, capsys):
    world.accuracy = dict.fromkeys(ARMS, "failed")
    assert world.sweep() == 1
    assert "nothing is decided" in capsys.readouterr().out and not list(world.folder.rglob("config.json"))
    world.accuracy = dict(ARMS)
    assert world.sweep() == 0


def test_bad_input_is_one_error_before_the_first_run(world, capsys):
    for words, message in {
        "model=level1,level2": "model has several values",
        "augmentation=none,sepia": "augmentation=sepia: this experiment has none, thesis",
        "augmentation=none": "leaves no candidate beside the baseline none",
        "hydra.sweeper.seeds=[3,1100]": "the study has 1100 too",
        "hydra.sweeper.factor=1": "hydra.sweeper.factor=1 must be a whole number, 2 or more",
        "hydra.sweeper.rungs=3": "The last rung of the screening has 4 epochs",
        "hydra.sweeper.baseline=nothing": "hydra.sweeper.baseline=nothing: this experiment has",
    }.items():
        assert world.sweep(words) == 1
        assert message in capsys.readouterr().err
        assert world.launched == [] and not world.folder.exists()


def test_the_shipped_screening_has_no_seed_of_the_study(composed):
    sweeper = composed("experiment=augmentation_screen", hydra=True).hydra.sweeper
    study = composed("experiment=augmentation", hydra=True).hydra.sweeper
    assert sweeper.params == study.params
    numbers = lambda text: set(range(*map(int, re.findall(r"\d+", str(text)))))  # noqa: E731
    assert numbers(sweeper.seeds) and not any(numbers(sweeper.seeds) & numbers(grid.seed) for grid in study.params)
    names = [grid.augmentation for grid in study.params]
    assert (names[0], len(names), sweeper.baseline) == ("none", 15, "none")
    assert rung_epochs(sweeper.min_epochs, sweeper.factor, sweeper.rungs, composed().trainer.max_epochs) == [3, 6]


# ---- by the command


@pytest.mark.slow
def test_the_command_screens_trains_and_skips_all_of_it_when_started_again(tmp_path):
    words = (
        "experiment=augmentation_screen", *TINY, "optimizer.lr=0.03", "augmentation=none,rotation,noise,blur",
        "hydra.sweeper.min_epochs=1", "hydra.sweeper.limit.seed=1", "hydra.sweeper.seeds=[10000]",
        f"hydra.sweep.dir={tmp_path / 'out'}",
    )  # fmt: skip
    line = [sys.executable, "train.py", "-m", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run(line, cwd=REPO, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = (tmp_path / "out-screen").rglob("screen.csv")
    kept = [row["augmentation"] for row in csv.DictReader(table.open()) if row["outcome"] == "kept"]
    configs = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("config.json")]
    assert kept and {c["augmentation"]["name"] for c in configs} == {"none", *kept}
    assert {(c["study"], c["trainer"]["max_epochs"]) for c in configs} == {("augmentation", 2)}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.csv")}
    code = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path('train.py', run_name='__main__')"
    code += "; print('HEAVY', [name for name in ('torch', 'lightning') if name in sys.modules])"
    line[1:1] = ["-c", code]
    again = subprocess.run(line, cwd=REPO, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "HEAVY []" in again.stdout
    assert f"{len(configs)} of {len(configs)} runs are finished already." in again.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.csv")} == before
