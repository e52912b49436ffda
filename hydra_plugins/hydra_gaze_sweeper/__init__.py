"""The sweeper of ``train.py -m``: grids that finish (see ``gaze.runs.grid``). Set in
``conf/hydra/sweeper/grid.yaml``.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf

if TYPE_CHECKING:
    from rich.table import Table

    from gaze.runs.grid import Outcome
    from gaze.runs.run import Run

ATTEMPTS = 3  # to launch what is left, where a launcher itself breaks off
LONG = 200  # runs: the table of a longer grid leaves out those that were finished before


def say(what: str | Table) -> None:
    """A line or a table on the terminal, also while a progress bar stands there."""
    from rich import get_console

    from gaze import terminal

    terminal.say(get_console(), what)


@contextmanager
def later(seconds: float, line: str) -> Iterator[None]:
    """Say ``line`` where the ``with`` block takes longer than so many seconds."""
    timer = threading.Timer(seconds, say, [line])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class GridSweeper(Sweeper):
    """Every combination of the values given, as Hydra's own sweeper makes them. Before the first run starts all are
    checked; finished ones are not launched; one that fails does not stop the others; a table ends it.

    Args:
        params: values to sweep over, by name; those of the command line replace them. Or a list of such grids, one
            after the other: see :func:`gaze.runs.grid.selected`.
        limit: by name, how many of the values a grid has at most.
    """

    def __init__(self, params: Any = None, limit: dict[str, int] | None = None) -> None:
        self.grids: list[dict[str, Any]] = [
            dict(grid) for grid in (params if isinstance(params, list | ListConfig) else [params or {}])
        ]
        self.limit = dict(limit or {})
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before :meth:`sweep`."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run what is left of the grid. Exits with 1 where a run did not become complete."""
        from gaze.errors import clear_errors  # Hydra imports this file at every start, also where it is not used
        from gaze.runs.grid import runs_left

        with clear_errors():
            combinations = self._combinations(arguments)
            with later(1.0, f"Looks which of {len(combinations)} runs are finished."):
                runs = self._runs(combinations)
                left = runs_left(runs)
            self._check_trainers(left)
            if left:
                self._check_design(runs)
            self._save_grid()
        code = self._finish(runs, left)
        if code:
            sys.exit(code)
        return [[]]

    def _finish(self, runs: list[Run], left: list[Run]) -> Any:
        """Say what all ``runs`` can show, run ``left`` and sum all up in a table; the exit code."""
        from gaze.runs.grid import error_lines, grid_table

        if left:
            from gaze.studies.design import design_lines  # with pandas and SciPy

            for line in design_lines(runs):
                say(line)
        outcomes, code = self._run(runs, left)
        begun = {run.folder for run in left}
        listed = [pair for pair in zip(runs, outcomes, strict=True) if len(runs) <= LONG or pair[0].folder in begun]
        if listed:
            say(grid_table(*zip(*listed, strict=True)))
        for line in error_lines(runs, outcomes):
            say(line)
        say(f"Look at them: tensorboard --logdir {os.path.commonpath([run.folder for run in runs])}")  # short names
        broken = sum(o.state != "complete" for o in outcomes)
        if broken:
            say(f"{broken} of {len(runs)} runs are not complete. The same command goes on with them.")
        return code or (1 if broken else 0)

    def _run(self, runs: list[Run], left: list[Run]) -> tuple[list[Outcome], Any]:
        """Run ``left``, and say what became of all ``runs``; the code is 0 unless something broke the launcher off."""
        from gaze.runs.grid import changed_line, outcome

        begun = {run.folder for run in left}
        finished = [run for run in runs if run.folder not in begun]
        if finished:
            say(f"{len(finished)} of {len(runs)} runs are finished already.")
            changed = changed_line(finished)
            if changed:
                say(changed)
        errors: dict[Path, BaseException] = {}
        before = {run.folder: run.status for run in left}
        code: Any = 0
        try:
            code = 0 if self._launch(runs, left, errors) else 1
        except KeyboardInterrupt:
            code = 130
        except SystemExit as ended:  # of a run in this process, at a signal
            code = ended.code
        return [outcome(run, errors.get(run.folder), before.get(run.folder)) for run in runs], code

    def _launch(self, runs: list[Run], left: list[Run], errors: dict[Path, BaseException]) -> bool:
        """Whether the launcher came to its end; ``errors`` takes what went wrong in each run."""
        from gaze.runs.grid import refused, to_start_again, wait_until_quiet, watched

        assert self.launcher is not None
        for attempt in range(ATTEMPTS):
            if not left:
                return True
            if attempt:
                say(f"Starts {len(left)} of the runs again.")
            seen = {run.folder: run.status for run in left}
            try:
                with watched(runs, left, say):
                    results: Sequence[JobReturn] = self.launcher.launch([self._words(run) for run in left], 0)
            except Exception as error:  # a worker that was killed, for example for want of memory
                said = [line for line in str(error).splitlines() if line.strip()] or ["-"]
                say(f"The launcher broke off: {type(error).__name__}: {said[0]}")
                wait_until_quiet(left)
                errors |= {run.folder: error for run in left}
                if all(run.status == seen[run.folder] for run in left):
                    return False  # it takes none of them, as an sbatch that refuses, and would not the next time
                left = to_start_again(left, seen)
                continue
            ended = {run.folder: result for run, result in zip(left, results, strict=True)}
            errors |= {f: result._return_value for f, result in ended.items() if result.status is JobStatus.FAILED}
            left = refused(left, errors)
        return not left

    def _words(self, run: Run) -> list[str]:
        """Overrides that start a run, its folder among them: where it is trained, a relative one may be another."""
        from gaze.config.words import quoted

        assert self.config is not None
        grid = Path(str(self.config.hydra.sweep.dir)).absolute()
        inner = os.path.relpath(run.folder.absolute(), grid)
        return [*run.overrides, f"hydra.sweep.dir={quoted(str(grid))}", f"hydra.sweep.subdir={quoted(f'./{inner}')}"]

    def _runs(self, combinations: list[list[str]]) -> list[Run]:
        """Every combination, composed and checked.

        Raises:
            ConfigError: names what is wrong with any of them.
        """
        from gaze.config.composed import Composer
        from gaze.config.train import TrainConfig
        from gaze.errors import ConfigError
        from gaze.runs.grid import shortened
        from gaze.runs.run import Run

        assert self.config is not None and self.hydra_context is not None
        composer = Composer(self.hydra_context.config_loader, self.config)
        runs, problems = [], []
        for overrides in combinations:
            try:
                folder, values = composer.run(overrides)
                runs.append(Run(folder, TrainConfig(**values), overrides=overrides))
            except ConfigError as error:
                problems += str(error).splitlines()
        if problems:
            raise ConfigError(shortened(problems))
        return runs

    def _combinations(self, arguments: list[str]) -> list[list[str]]:
        """Overrides of every run.

        Raises:
            ConfigError: a value that no run would have, see :func:`gaze.runs.grid.selected`.
        """
        from gaze.runs.grid import selected

        grids = [self._values([f"{name}={value}" for name, value in grid.items()]) for grid in self.grids]
        given = self._values(arguments)
        every = len(grids)
        grids = [grids[0] | given] if every == 1 else selected(grids, given)
        if len(grids) < every:
            say(f"{len(grids)} of the {every} grids of this experiment have the values given; the others are left out.")
        for key, number in self.limit.items():
            grids = [grid | {key: grid[key][:number]} if key in grid else grid for grid in grids]
        return [list(combination) for grid in grids for combination in itertools.product(*grid.values())]

    def _values(self, words: list[str]) -> dict[str, list[str]]:
        """Overrides by key, one for each value of a sweep.

        Raises:
            ConfigError: an interval, which has no values.
        """
        from gaze.errors import ConfigError

        assert self.hydra_context is not None
        values: dict[str, list[str]] = {}
        for override in OverridesParser.create(self.hydra_context.config_loader).parse_overrides(words):
            word = override.get_key_element()
            key = word.lstrip("+")  # which an experiment's grids have without
            if not override.is_sweep_override():
                values[key] = [f"{word}={override.get_value_element_as_str()}"] if not override.is_delete() else [key]
            elif override.is_discrete_sweep():
                values[key] = [f"{word}={value}" for value in override.sweep_string_iterator()]
            else:
                raise ConfigError(f"{key}: a grid needs a list of values, choice(...) or range(...).")
        return values

    def _check_trainers(self, runs: list[Run]) -> None:
        from gaze.config.train import check_trainer
        from gaze.errors import ConfigError
        from gaze.runs.grid import shortened

        problems, seen = [], []
        for run in runs:
            if run.settings.trainer in seen:
                continue
            seen.append(run.settings.trainer)
            try:
                check_trainer(run.settings)
            except ConfigError as error:
                problems += str(error).splitlines()
        if problems:
            raise ConfigError(shortened(problems))

    def _check_design(self, runs: list[Run]) -> None:
        from gaze.studies.design import check_design  # with pandas and SciPy

        check_design(runs)

    def _save_grid(self) -> None:
        """What was asked for, beside the runs, as Hydra's own sweeper leaves it."""
        from gaze.config.naming import unwritable
        from gaze.errors import ConfigError

        assert self.config is not None
        folder = Path(str(self.config.hydra.sweep.dir))
        problem = unwritable(folder)
        if problem is not None:
            raise ConfigError(f"{problem} Give another hydra.sweep.dir=PATH.")
        OmegaConf.save(self.config, folder / "multirun.yaml")
