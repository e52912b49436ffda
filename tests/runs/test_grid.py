"""gaze.runs.grid and the sweeper: a grid is checked whole, watched, and summed up; one failing run does not stop it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPO, TINY
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import ListConfig, OmegaConf
from rich.console import Console

from gaze.config.train import check_config
from gaze.errors import BusyError, ConfigError
from gaze.files import write_json
from gaze.runs.grid import (
    Outcome,
    Progress,
    duration,
    error_lines,
    grid_table,
    outcome,
    progress,
    runs_left,
    shortened,
)
from gaze.runs.run import Run
from gaze.runs.status import locked, note_progress


def finish(run: Run, seconds: float = 10.0, **status) -> None:
    """A folder as a complete run leaves it."""
    run.folder.mkdir(parents=True)
    run.metrics_file.write_text("epoch,val/kappa\n1,0.5\n")
    write_json(run.config_file, run.settings.to_dict())
    metrics = {"val/kappa": 0.5, "val/gaze_consistency": 0.01}
    values = {"state": "complete", "seconds": seconds, "metrics": metrics, "metrics_sha256": run.digest}
    write_json(run.status_file, {**values, **status})


@pytest.fixture
def runs(tiny, tmp_path):
    configs = [tiny(f"model=level{level}", f"seed={seed}") for level in (1, 2) for seed in (0, 1)]
    return [Run(tmp_path / f"{config.model.name}-{config.seed}", config) for config in configs]


def test_finished_runs_are_left_out(runs):
    finish(runs[1])
    assert runs_left(runs) == [runs[0], runs[2], runs[3]]


def test_a_finished_run_whose_table_was_changed_is_run_again(runs):
    finish(runs[1])
    runs[1].metrics_file.write_text("epoch,val/kappa\n")
    assert runs[1] in runs_left(runs)


def test_all_problems_of_a_grid_are_named_at_once(runs, tiny):
    for folder_of in (0, 1):
        other = Run(runs[folder_of].folder, tiny("optimizer.lr=0.5", "gaze.ema_decay=0.5"))
        finish(other)
    twice = [*runs, runs[3]]
    with pytest.raises(ConfigError) as error:
        runs_left(twice)
    text = str(error.value)
    assert text.count("holds a run with other settings") == 2
    assert "optimizer.lr: 0.5 there, 0.001 now" in text and "gaze.ema_decay: 0.5 there, 0.9 now" in text
    assert f"2 runs of this grid have the folder {runs[3].folder}" in text


def test_what_another_process_works_on_comes_last_and_is_no_failure(runs):
    runs[0].folder.mkdir()
    write_json(runs[0].status_file, {"state": "running", "host": "another", "pid": 7})
    assert runs_left(runs) == [*runs[1:], runs[0]]
    found = outcome(runs[0], BusyError("in use"))
    assert (found.state, found.error) == ("running", "trained by process 7 on another")


def test_many_problems_are_shortened():
    text = shortened([f"problem {i}" for i in range(20)] + ["problem 0"])
    assert text.splitlines()[0] == "problem 0" and text.splitlines()[-1] == "... and 8 more"


def test_outcome_is_what_the_folder_says(runs):
    runs[0].folder.mkdir()
    for status, state, error in (
        ({"state": "failed", "error": "TrainingError: NaN\nmore"}, "failed", "TrainingError: NaN"),
        ({"state": "interrupted"}, "interrupted", "ended by a signal"),
        ({"state": "running"}, "interrupted", "killed"),
    ):
        write_json(runs[0].status_file, status)
        found = outcome(runs[0])
        assert (found.state, found.error) == (state, error)


def test_outcome_of_a_run_without_status_is_what_the_launcher_saw(runs):
    assert outcome(runs[0]).state == "left"
    found = outcome(runs[0], ValueError("no such worker"))
    assert (found.state, found.error) == ("failed", "ValueError: no such worker")


def test_how_an_earlier_start_ended_is_no_outcome_of_this_one(runs):
    runs[0].folder.mkdir()
    for status in (
        {"state": "failed", "error": "DataError: no images"},
        {"state": "interrupted"},
        {"state": "running"},
    ):
        write_json(runs[0].status_file, {**status, "started": "yesterday"})
        before = runs[0].status
        assert outcome(runs[0], None, before)[::4] == ("left", "")
        assert outcome(runs[0], ValueError("no worker"), before)[::4] == ("failed", "ValueError: no worker")
        write_json(runs[0].status_file, {**status, "started": "today"})
        assert outcome(runs[0], None, before) == outcome(runs[0])
    finish(runs[1])
    assert outcome(runs[1], None, runs[1].status).state == "complete"


def sweeper_with(launch, runs):
    """A sweeper whose launcher is ``launch``; runs are told apart by their first override."""
    from hydra_plugins.hydra_gaze_sweeper import GridSweeper

    sweeper = GridSweeper()
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(runs[0].folder.parent)}}})
    sweeper.launcher = SimpleNamespace(launch=launch)
    return sweeper


def numbered(runs):
    return [replace(run, overrides=[f"number={i}"]) for i, run in enumerate(runs)]


def test_the_overrides_of_a_run_name_its_folder_wherever_they_are_read(runs, monkeypatch):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    monkeypatch.chdir(runs[0].folder.parent)
    run = Run(Path("grid/a, b/seed=0,gaze.distance=l2"), runs[0].settings, overrides=["seed=0"])
    sweeper = sweeper_with(None, runs)
    for grid in ("grid", "other/grid"):  # the latter where a run has another study than the grid's folder
        sweeper.config.hydra.sweep.dir = grid
        words = OverridesParser.create().parse_overrides(sweeper._words(run))
        values = {word.key_or_group: word.value() for word in words}
        assert values["seed"] == 0 and Path(values["hydra.sweep.dir"]).is_absolute()
        folder = os.path.abspath(os.path.join(values["hydra.sweep.dir"], values["hydra.sweep.subdir"]))  # noqa: PTH100, PTH118
        assert folder == str(run.folder.absolute())


def test_a_launcher_that_takes_no_run_is_not_asked_again(runs, monkeypatch, capsys):
    monkeypatch.setattr("gaze.runs.grid.wait_until_quiet", lambda runs: None)
    calls = []

    def launch(overrides, first):
        calls.append(overrides)
        raise ValueError("\nsbatch: error: Batch job submission failed: Invalid account\n")

    outcomes, code = sweeper_with(launch, runs)._run(runs, runs)
    assert len(calls) == 1 and code == 1 and {o.state for o in outcomes} == {"failed"}
    said = capsys.readouterr().out
    assert "broke off: ValueError: sbatch: error: Batch job submission failed: Invalid account" in said


def test_the_table_of_a_long_grid_leaves_out_what_was_finished_before(runs, monkeypatch, capsys):
    monkeypatch.setattr("gaze.studies.design.design_lines", lambda runs: [])
    plugin = import_module("hydra_plugins.hydra_gaze_sweeper")
    monkeypatch.setattr(plugin, "LONG", 3)
    runs = numbered(runs)
    for run in runs[:3]:
        finish(run)

    def launch(overrides, first):
        finish(runs[3])
        return [JobReturn(status=JobStatus.COMPLETED)]

    assert sweeper_with(launch, runs)._finish(runs, runs[3:]) == 0
    said = capsys.readouterr().out
    assert "3 of 4 runs are finished already." in said
    assert said.count("complete") == 1 and "level2 lambda=0 seed=1" in " ".join(said.split())
    assert sweeper_with(launch, runs)._finish(runs, []) == 0
    assert "complete" not in capsys.readouterr().out
    monkeypatch.setattr(plugin, "LONG", 4)
    assert sweeper_with(launch, runs)._finish(runs, []) == 0
    assert capsys.readouterr().out.count("complete") == 4


def test_after_a_launcher_broke_off_what_was_asked_to_end_is_left_and_the_rest_is_started_again(
    runs, monkeypatch, capsys
):
    monkeypatch.setattr("gaze.runs.grid.wait_until_quiet", lambda runs: None)
    runs, calls = numbered(runs), []

    def launch(overrides, first):
        calls.append([words[0] for words in overrides])
        if len(calls) == 2:
            for run in runs[2:]:
                shutil.rmtree(run.folder, ignore_errors=True)
                finish(run)
            return [JobReturn(status=JobStatus.COMPLETED) for _ in overrides]
        finish(runs[0])
        for run, state in ((runs[1], "interrupted"), (runs[2], "running")):  # by scancel; killed
            run.folder.mkdir()
            write_json(run.status_file, {"state": state})
        raise RuntimeError("job 1 has not produced any output (state: CANCELLED by 0)")

    outcomes, code = sweeper_with(launch, runs)._run(runs, runs)
    assert calls == [[f"number={i}" for i in range(4)], ["number=2", "number=3"]]
    assert [o.state for o in outcomes] == ["complete", "interrupted", "complete", "complete"] and code == 0
    assert "Starts 2 of the runs again." in capsys.readouterr().out


def test_a_run_refused_for_a_process_that_has_died_since_is_started_again(runs):
    runs, calls = numbered(runs[:2]), []

    def launch(overrides, first):
        calls.append([words[0] for words in overrides])
        if len(calls) == 2:
            finish(runs[1])
            return [JobReturn(status=JobStatus.COMPLETED)]
        finish(runs[0])
        refusal = JobReturn(status=JobStatus.FAILED, _return_value=BusyError("another process trains in this folder"))
        return [JobReturn(status=JobStatus.COMPLETED), refusal]

    outcomes, code = sweeper_with(launch, runs)._run(runs, runs)
    assert calls[1:] == [["number=1"]] and code == 0 and [o.state for o in outcomes] == ["complete"] * 2


def test_a_grid_that_is_ended_does_not_show_how_runs_ended_before_it(runs):
    def launch(overrides, first):
        write_json(runs[2].status_file, {"state": "failed", "error": "TrainingError: NaN", "started": "now"})
        raise KeyboardInterrupt

    finish(runs[0])
    for run in runs[1:3]:
        run.folder.mkdir()
        write_json(run.status_file, {"state": "failed", "error": "DataError: no images"})
    outcomes, code = sweeper_with(launch, runs)._run(runs, runs[1:])
    assert code == 130 and [(o.state, o.error) for o in outcomes] == [
        ("complete", ""), ("left", ""), ("failed", "TrainingError: NaN"), ("left", ""),
    ]  # fmt: skip


def test_a_run_that_was_asked_to_end_is_interrupted_in_every_count(runs):
    runs[0].folder.mkdir()
    write_json(runs[0].status_file, {"state": "interrupted"})
    found = outcome(runs[0], SystemExit(130))  # as a worker of another process ends
    assert (found.state, found.error) == ("interrupted", "ended by a signal")
    now = progress(runs, {runs[0].folder})
    assert now == Progress(0, 0, 0, 1, 3, None)
    assert now.line() == "grid: 0 done, 0 running, 0 failed, 1 interrupted, 3 left"
    write_json(runs[0].status_file, {"state": "running", "pid": 1})  # killed
    found = outcome(runs[0], RuntimeError("the worker died"))
    assert (found.state, found.error) == ("interrupted", "RuntimeError: the worker died")
    assert progress(runs, {runs[0].folder}) == now


LONGEST = ("dataset=brain_tumor_mri", "model=timm", "model.name=efficientnetv2_rw_s", "lambda=-100")


def test_table_has_a_line_a_run_and_fits_eighty_columns(runs, composed):
    name = check_config(composed(*LONGEST, "seed=11"))
    runs = [*runs, Run(runs[0].folder.with_name("seed=11,augmentation.crop_scale=[0.5,1.0]"), name)]
    error = "TrainingError: the loss is NaN at step 3, " + 200 * "and more words "
    outcomes = [
        Outcome("complete", 0.51234, 0.0123, 12.3, ""),
        Outcome("failed", None, None, 3.0, error),
        Outcome("interrupted", None, None, None, "killed"),
        Outcome("failed", None, None, 4000.0, error),
        Outcome("complete", -0.1, 0.2345, 400000.0, ""),
    ]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(grid_table(runs, outcomes))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if "complete" in line or "failed" in line or "interrupted" in line]
    assert [row[-1] for row in rows] == ["s", "s", "interrupted", "min", "h"]
    assert rows[0][-5:] == ["complete", "0.5123", "0.0123", "12", "s"]
    assert {"lambda=-100", "seed=11"} <= set(rows[4])  # whatever else is cut
    assert error_lines(runs, outcomes) == [
        f"phantom level1 lambda=0 seed=1 and 1 more: failed: {error}",
        "phantom level2 lambda=0 seed=0: interrupted: killed",
    ]


def test_a_run_that_predicts_one_class_has_no_gaze_in_the_table(runs):
    finish(runs[0])
    finish(runs[1])
    names = "epoch,val/kappa,val/gaze_consistency,val/gaze_eta_squared,val/gaze_empty_fraction"
    runs[0].metrics_file.write_text(f"{names}\n" + "".join(f"{epoch},0.0,0.0019,0.2,0.0\n" for epoch in range(1, 7)))
    assert [outcome(run).collapsed for run in runs[:3]] == ["one class", "", ""]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(grid_table(runs[:2], [outcome(run) for run in runs[:2]]))
    first, second = (line.split() for line in console.export_text().splitlines() if "complete" in line)
    assert first[-4:] == ["one", "class", "10", "s"] and second[-3:] == ["0.0100", "10", "s"]


def test_progress_counts_and_estimates_by_model(runs):
    assert progress(runs, set()) == Progress(0, 0, 0, 0, 4, None)
    finish(runs[0], seconds=10)
    finish(runs[2], seconds=100)
    now = progress(runs, set())
    assert now[:5] == (2, 0, 0, 0, 2)
    assert now.seconds_left == pytest.approx(110)
    assert progress(runs, set(), at_once=2).seconds_left == pytest.approx(55)
    both = {runs[0].folder, runs[2].folder}  # 110 s of training in 220 s: starting processes took as long
    assert progress(runs, both, elapsed=220).seconds_left == pytest.approx(220)
    assert progress(runs, both, elapsed=50).seconds_left == pytest.approx(110)
    assert now.line() == "grid: 2 done, 0 running, 0 failed, 2 left; about 2 min to go"
    assert progress(runs, {runs[1].folder})[:5] == (2, 0, 0, 0, 2)  # has ended and begins anew
    runs[1].folder.mkdir()
    write_json(runs[1].status_file, {"state": "failed"})
    assert progress(runs, {runs[1].folder})[:5] == (2, 0, 1, 0, 1)


def test_a_grid_knows_its_time_before_its_first_run_has_ended(runs, monkeypatch):
    """A run that has begun 60 s ago and expects to end in 40 s takes 100 s, and so do three others like it."""
    run = runs[0]
    run.folder.mkdir()
    write_json(run.config_file, {})
    begun = run.config_file.stat().st_mtime
    monkeypatch.setattr("gaze.runs.grid.time", SimpleNamespace(time=lambda: begun + 60))
    write_json(run.status_file, {"state": "running", "host": socket.gethostname(), "pid": os.getpid()})
    with locked(run.folder):
        assert progress(runs, set()).seconds_left is None
        note_progress(run.folder, ends=begun + 100)
        now = progress(runs, set())
        assert now[:5] == (0, 1, 0, 0, 3) and now.seconds_left == pytest.approx(340)
        assert run.status["pid"] == os.getpid()  # what was there stays
    note_progress(runs[1].folder, ends=1.0)  # nothing goes on there
    assert not runs[1].status_file.exists()


def test_durations_are_for_people():
    assert [duration(seconds) for seconds in (40, 840, 11520)] == ["40 s", "14 min", "3.2 h"]


# ---- combinations


@pytest.fixture
def combinations(composed):
    """``combinations(params, *arguments)``: overrides of every run, as the sweeper makes them."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from hydra_plugins.hydra_gaze_sweeper import GridSweeper

    def make(params, *arguments, **settings):
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            sweeper = GridSweeper(params, **settings)
            sweeper.hydra_context = SimpleNamespace(config_loader=GlobalHydra.instance().config_loader())
            return sweeper._combinations(list(arguments))

    return make


def test_combinations_are_the_product_and_the_command_line_replaces(combinations):
    assert combinations(None, "seed=0,1", "lambda=0,50") == [
        ["seed=0", "lambda=0"], ["seed=0", "lambda=50"], ["seed=1", "lambda=0"], ["seed=1", "lambda=50"],
    ]  # fmt: skip
    params = {"seed": "range(3)", "lambda": 0}
    assert combinations(params) == [["seed=0", "lambda=0"], ["seed=1", "lambda=0"], ["seed=2", "lambda=0"]]
    assert combinations(params, "seed=7") == [["seed=7", "lambda=0"]]
    assert combinations(params, limit={"seed": 1}) == [["seed=0", "lambda=0"]]
    assert combinations(None, "augmentation.crop_scale=[0.9,1.0]") == [["augmentation.crop_scale=[0.9,1.0]"]]


def test_several_grids_follow_each_other_and_the_command_line_selects(combinations):
    params = [{"augmentation": "none", "seed": "range(3)"}, {"augmentation": "blur", "seed": "range(100,102)"}]
    none = [["augmentation=none", f"seed={n}"] for n in range(3)]
    blur = [["augmentation=blur", f"seed={n}"] for n in (100, 101)]
    assert combinations(params) == none + blur
    assert combinations(params, "augmentation=blur") == blur
    assert combinations(params, "seed=2,101") == [none[2], blur[1]]
    assert combinations(params, "lambda=0", limit={"seed": 1}) == [[*none[0], "lambda=0"], [*blur[0], "lambda=0"]]


def test_what_all_grids_share_is_replaced(combinations):
    params = [{"dataset": "a", "seed": "range(2)", "lambda": weight, "gaze.start_epoch": 2} for weight in (0, 50)]
    del params[0]["gaze.start_epoch"]
    assert combinations(params, "dataset=phantom", "seed=9", "lambda=50.0") == [
        ["dataset=phantom", "seed=9", "lambda=50", "gaze.start_epoch=2"]
    ]
    assert combinations(params, "++dataset=phantom", "seed=9", "gaze.start_epoch=2") == [
        ["++dataset=phantom", "seed=9", "lambda=50", "gaze.start_epoch=2"]
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("augmentation=none,bluur", "augmentation=bluur: no grid of this experiment has it. Did you mean blur? "),
        ("augmentation=none,mixup", "augmentation=mixup: no grid of this experiment has it. It has none, blur"),
        ("seed=0,99", "seed=99: no grid of this experiment has it. Nearest: 100, 101, 2."),
        ("augmentation=none,blur seed=0,1", "augmentation=blur: this experiment has it with seed=100, seed=101 only."),
        ("augmentation=blur seed=0", "augmentation=blur: this experiment has it with seed=100, seed=101 only.\n"
         "seed=0: this experiment has it with augmentation=none only."),
    ],
)  # fmt: skip
def test_no_value_is_dropped_in_silence(combinations, words, said):
    params = [{"augmentation": "none", "seed": "range(3)"}, {"augmentation": "blur", "seed": "range(100,102)"}]
    with pytest.raises(ConfigError) as caught:
        combinations(params, *words.split())
    assert str(caught.value) == said


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (REPO / "conf" / "experiment").glob("*.yaml")))
def test_the_values_of_every_experiment_can_be_replaced_as_documented(composed, combinations, experiment, capsys):
    """docs/grids.md: ``dataset=phantom seed=0``."""
    sweeper = composed(f"experiment={experiment}", hydra=True).hydra.sweeper
    params = sweeper.params if isinstance(sweeper.params, ListConfig) else [sweeper.params]
    found = combinations(sweeper.params, "dataset=phantom", "seed=0")
    assert found and all({"dataset=phantom", "seed=0"} <= set(own) for own in found)
    every = combinations(sweeper.params, "dataset=phantom")
    assert len(every) == len(combinations(sweeper.params)) / len(str(params[0].get("dataset", "")).split(","))
    grids = {"shortcut": 7} | {name: 15 for name in (experiment,) if name.startswith("augmentation")}
    left_out = "1 of the {} grids of this experiment have the values given; the others are left out.\n"
    assert capsys.readouterr().out == (left_out.format(grids[experiment]) if experiment in grids else "")


def test_the_seeds_of_a_shipped_grid_are_limited_by_the_documented_setting(composed, combinations):
    sweeper = composed("experiment=augmentation", "hydra.sweeper.limit.seed=2", hydra=True).hydra.sweeper
    assert len(combinations(sweeper.params, limit=sweeper.limit)) == 15 * 2
    unlimited = composed("experiment=augmentation", hydra=True).hydra.sweeper
    assert len(combinations(unlimited.params, limit=unlimited.limit)) == 64


# ---- by the command


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    line = [sys.executable, "train.py", "-m", *TINY, *words, f"hydra.sweep.dir={folder}"]
    return subprocess.run(line, cwd=REPO, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Two runs by one command: one learns, one has a rate that makes its loss NaN."""
    folder = tmp_path_factory.mktemp("grid") / "study"
    return folder, command("trainer.max_epochs=1", "lambda=-100", "optimizer.lr=1e30,1e-3", folder=folder)


def test_one_failing_run_does_not_stop_the_grid(grid):
    folder, done = grid
    assert done.returncode == 1, done.stderr
    names = {path.parent.relative_to(folder): json.loads(path.read_text()) for path in folder.rglob("status.json")}
    assert {str(name.parent) for name in names} == {"phantom/level1/lambda=-100"}
    assert all(name.name.startswith("seed=0,") for name in names)
    assert sorted(status["state"] for status in names.values()) == ["complete", "failed"]
    assert "1 of 2 runs are not complete" in done.stdout
    assert "NaN" in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert "grid: 1 done, 0 running, 1 failed, 0 left" in done.stdout
    assert f"tensorboard --logdir {folder / 'phantom' / 'level1' / 'lambda=-100'}" in done.stdout
    assert done.stdout.count("pixel-identical images") == 1  # the images are the same


def test_what_is_finished_costs_no_training_and_no_lightning(grid):
    folder, _ = grid
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.csv")}
    code = (
        "import sys, runpy; sys.argv = ['train.py', '-m', *sys.argv[1:]]\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "finally: print('HEAVY', [name for name in ('torch', 'lightning', 'pandas') if name in sys.modules])"
    )
    words = (*TINY, "trainer.max_epochs=1", "lambda=-100.0", "optimizer.lr=0.001", f"hydra.sweep.dir={folder}")
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 runs are finished already." in done.stdout and "HEAVY []" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.csv")} == before


def test_a_bad_setting_anywhere_in_a_grid_ends_it_before_the_first_run(tmp_path):
    done = command("seed=0,-1", "gaze.distance=squared,manhattan", folder=tmp_path / "grid")
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "seed=-1 must be" in done.stderr and "gaze.distance=manhattan is unknown" in done.stderr
    assert not (tmp_path / "grid").exists()
