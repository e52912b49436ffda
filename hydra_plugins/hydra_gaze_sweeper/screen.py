"""The sweeper of ``experiment=augmentation_screen``: screens the arms of a study, then runs the study with what is left
(see ``gaze.runs.screening``). Set in ``conf/hydra/sweeper/screen.yaml``.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import GridSweeper, say  # relative: hydra_plugins itself is no package

if TYPE_CHECKING:
    from gaze.runs.run import Run
    from gaze.runs.screening import Candidates, Rung

ARM = "augmentation"
OWN = (ARM, "seed", "study", "rerun", "trainer.max_epochs")  # settings that a run of the screening has of its own


class Screening(NamedTuple):
    """All that is fixed before the first run: what is screened, with which overrides and seeds, the runs of the first
    rung, those of the whole study, and the file of what has been decided.
    """

    candidates: Candidates
    overrides: list[str]
    seeds: list[str]
    first: list[Run]
    study: list[Run]
    record: Path


class ScreenSweeper(GridSweeper):
    """Successive halving among the arms of a study on ``val/accuracy``, then the study with those that are left.

    A rung is trained whole by the launcher before it is decided. A candidate that goes on trains anew, with the same
    seeds, for ``factor`` times the epochs: a run's folder follows from its settings, the number of epochs among them.
    A rung once decided stays decided. The runs of the screening lie in ``<hydra.sweep.dir>-screen`` as
    ``study=<study>-screen``.

    Args:
        params: the study's grids, one for each arm, named by ``augmentation``.
        limit: as for :class:`GridSweeper`, for the study.
        baseline: the arm that is in the study whatever its accuracy, and not screened.
        min_epochs, factor, rungs: epochs of the first rung; of each rung about the best 1/factor go on to factor times
            the epochs; how many rungs.
        seeds: of the screening, a list or a ``range``; the study may have none of them.
    """

    def __init__(
        self, params: Any, limit: dict[str, int] | None, baseline: str, min_epochs: int, factor: int, rungs: int,
        seeds: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, limit)
        self.baseline, self.min_epochs, self.factor, self.rungs, self.seeds = baseline, min_epochs, factor, rungs, seeds

    def sweep(self, arguments: list[str]) -> Any:
        """Screen, then run the study. Exits with 1 where a run failed or is not complete."""
        from gaze.errors import clear_errors
        from gaze.runs.grid import runs_left
        from gaze.runs.screening import introduction, load_rungs, remaining

        with clear_errors():
            plan = self._planned(arguments)
            rungs = load_rungs(plan.record)
            possible = self._arms_of(plan.study, remaining(plan.candidates.names, rungs, self.factor))
            left = runs_left(possible) + ([] if rungs else runs_left(plan.first))
            self._check_trainers(left)  # nothing left loads no Lightning
            if left:
                self._check_design(plan.study)
            self._save_grid()
        for line in introduction(plan.candidates, len(plan.seeds), self.baseline, plan.study):
            say(line)
        kept, failed = self._screened(plan, rungs)
        code: Any = 0
        if kept:
            say(f"The study: {self.baseline}, {', '.join(kept)}, with fresh seeds.")
            runs = self._arms_of(plan.study, kept)
            with clear_errors():
                left = runs_left(runs)
            code = self._finish(runs, left)
        if failed:
            say(
                f"Failed in the screening, and dropped: {', '.join(failed)}. Their status.json has the error."
                f" Without {plan.record} the same command trains them again and decides anew."
            )
        if code or failed:
            sys.exit(code or 1)
        return [[]]

    def _arms_of(self, study: Sequence[Run], names: Sequence[str]) -> list[Run]:
        return [run for run in study if run.settings.augmentation.name in (self.baseline, *names)]

    # ---- before the first run

    def _planned(self, arguments: list[str]) -> Screening:
        """Everything composed and checked.

        Raises:
            ConfigError: says what is wrong.
        """
        from gaze.config.naming import unwritable
        from gaze.config.words import quoted
        from gaze.errors import ConfigError
        from gaze.runs.screening import Candidates, rung_epochs, screening_key

        given = self._values(arguments)
        names = self._arms(given)
        say("Checks the runs of the screening and of the study.")
        study = self._runs(self._combinations([word for word in arguments if word.partition("=")[0] != ARM]))
        if not {self.baseline, *names} <= {run.settings.augmentation.name for run in study}:
            raise ConfigError("An arm of the study has no run left. Give other values of seed.")
        epochs = rung_epochs(self.min_epochs, self.factor, self.rungs, int(study[0].settings.trainer["max_epochs"]))
        seeds = self._screening_seeds(study)
        assert self.config is not None
        folder = Path(f"{Path(str(self.config.hydra.sweep.dir))}-screen")
        problem = unwritable(folder)
        if problem is not None:
            raise ConfigError(f"{problem} Give another hydra.sweep.dir=PATH.")
        overrides = [words[0] for key, words in given.items() if key not in OWN]
        own = f"{study[0].settings.study}-screen"
        overrides += [f"study={quoted(own)}", f"hydra.sweep.dir={quoted(str(folder))}"]
        candidates = Candidates(names, self.factor, epochs)
        first = self._runs(_combined(overrides, names, seeds, epochs[0]))
        record = first[0].folder.parent / f"screen-{screening_key(candidates, first)}.json"
        return Screening(candidates, overrides, seeds, first, study, record)

    def _arms(self, given: dict[str, list[str]]) -> list[str]:
        """Names of the candidates, in the order of the experiment; leaves theirs and the baseline's grids only."""
        from gaze.choices import did_you_mean
        from gaze.errors import ConfigError

        arms = [str(grid.get(ARM)) for grid in self.grids]
        several = [key for key, words in given.items() if len(words) > 1 and key not in (ARM, "seed")]
        wanted = [word.partition("=")[2] for word in given.get(ARM, [])] or arms
        names = [name for name in arms if name in wanted and name != self.baseline]
        problems = [f"{key} has several values: a screening is of one {key}. Give it once for each." for key in several]
        if strange := [name for name in wanted if name not in arms]:
            has = f"this experiment has {', '.join(arms)}."
            problems += [f"{ARM}={name}: {has} {did_you_mean(name, arms, 1)}".rstrip() for name in strange]
        elif self.baseline not in arms:
            problems.append(f"hydra.sweeper.baseline={self.baseline}: this experiment has {', '.join(arms)}.")
        elif not names:
            problems.append(f"{ARM}={','.join(wanted)} leaves no candidate beside the baseline {self.baseline}.")
        if problems:
            raise ConfigError("\n".join(problems))
        self.grids = [grid for grid in self.grids if str(grid[ARM]) in (self.baseline, *names)]
        return names

    def _screening_seeds(self, study: Sequence[Run]) -> list[str]:
        from gaze.errors import ConfigError

        value = self.seeds if isinstance(self.seeds, str | int) else ",".join(map(str, self.seeds))
        seeds = [word.partition("=")[2] for word in self._values([f"seed={value}"])["seed"]]
        taken = {str(run.settings.seed) for run in study}.intersection(seeds)
        if taken:
            raise ConfigError(
                f"hydra.sweeper.seeds={value}: the study has {', '.join(sorted(taken))} too, and its runs must not be"
                " those that the screening chose by. Give other seeds."
            )
        return seeds

    # ---- rung by rung

    def _screened(self, plan: Screening, rungs: list[Rung]) -> tuple[list[str], list[str]]:
        """Candidates that are left after all rungs, and those that failed."""
        from gaze.errors import clear_errors
        from gaze.runs.screening import Rung, remaining, save_rungs, screening_rows, screening_table, write_rows

        names, factor, epochs = plan.candidates
        for number, length in enumerate(epochs):
            left = remaining(names, rungs, factor)
            if number < len(rungs) or not left:
                continue
            say(f"Rung {number + 1} of {len(epochs)}: {len(left)} candidates, {length} epochs.")
            with clear_errors():
                runs = plan.first if number == 0 else self._runs(_combined(plan.overrides, left, plan.seeds, length))
                accuracy = self._accuracies(runs)
            if all(math.isnan(value) for value in accuracy.values()):
                say("All of its candidates failed: nothing is decided.")
                sys.exit(1)
            rungs.append(Rung(length, accuracy))
            save_rungs(plan.record, rungs)
            kept = remaining(names, rungs, factor)
            say(f"{len(kept)} of {len(left)} go on after {length} epochs: {', '.join(kept)}.")
        kept = remaining(names, rungs, factor)
        rows = screening_rows(names, rungs, kept)
        table = plan.record.with_name("screen.csv")
        write_rows(table, rows, rungs)
        say(screening_table(rows, rungs, len(plan.seeds)))
        say(f"The same as CSV: {table}")
        failed = [name for name in names if any(math.isnan(rung.accuracy.get(name, 0.0)) for rung in rungs)]
        return kept, failed

    def _accuracies(self, runs: list[Run]) -> dict[str, float]:
        """Train a rung; mean accuracy of each candidate over its seeds, NaN where a run failed. Ends the command where
        a run neither became complete nor failed: a rung is decided whole.
        """
        from gaze.runs.grid import runs_left
        from gaze.runs.screening import last_accuracy

        left = runs_left(runs)
        self._check_trainers(left)
        outcomes, code = self._run(runs, left)
        undecided = sum(o.state not in ("complete", "failed") for o in outcomes)
        values: dict[str, list[float]] = {}
        for run, found in zip(runs, outcomes, strict=True):
            if found.state == "failed":
                say(f"{' '.join(run.words)}: failed: {found.error}")
            value = last_accuracy(run) if found.state == "complete" and not undecided else math.nan
            values.setdefault(run.settings.augmentation.name, []).append(value)
        if undecided or code:
            say(f"{undecided} of {len(runs)} runs of this rung are not complete. The same command goes on with them.")
            sys.exit(code or 1)
        return {name: statistics.fmean(own) for name, own in values.items()}


def _combined(overrides: list[str], names: Sequence[str], seeds: Sequence[str], epochs: int) -> list[list[str]]:
    own = [[f"{ARM}={name}", f"seed={seed}", f"trainer.max_epochs={epochs}"] for name in names for seed in seeds]
    return [[*overrides, *words] for words in own]
