"""Which study is asked for: ``python analyze.py``, or ``check=``, ``explain=``, ``review=``, ``share=`` of one run."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console

from gaze.config.analysis import AnalyzeConfig
from gaze.config.costs import read_costs
from gaze.errors import ConfigError, DataError
from gaze.files import check_links, remove_parts
from gaze.report.provenance import origin, provenance
from gaze.report.write import OWNED, write_report
from gaze.runs.class_gaze import MAPS_FILE, read_maps, write_maps
from gaze.runs.folder import flat_settings
from gaze.runs.load import Runs, find_runs, read_runs
from gaze.runs.run import run_in
from gaze.runs.tidy import FOLD, RUN_KEYS, write_tidy_csv
from gaze.studies.arms import augmentation_studies, marker_studies
from gaze.studies.consistency import findings
from gaze.studies.consistency.analysis import lead, print_tables, sections, split, summary
from gaze.studies.costs import price_runs
from gaze.terminal import say

CSV_FILE = "epochs.csv"


def run_analysis(config: AnalyzeConfig, directory: Path, console: Console) -> list[Path]:
    """Read runs, compute, and write epochs.csv, class_gaze.npz, tables, figures and the report.

    Args:
        config: from ``gaze.config.train.check_analysis``.
        directory: where to write; an earlier analysis there is replaced.
        console: for progress, tables and where the page is.

    Returns:
        Every path written.

    Raises:
        GazeError: nothing to analyse, a file that cannot be read, a folder that cannot be written.
    """
    if config.share is not None:
        from gaze.studies.share import share_run

        run = run_in(Path(config.share))
        _make(directory)
        return share_run(run, directory, console)
    if config.annotations is not None:
        return _import_annotations(config, directory, console)
    if config.review.run is not None and config.review.report:
        from gaze.studies.review.report import run_report

        _make(directory)
        return run_report(config, directory, console)
    if config.review.run is not None:
        from gaze.studies.review.server import run_review

        return [run_review(config, directory, console)]
    started = time.monotonic()
    one = config.check is not None or config.explain is not None
    written = _one_run(config, directory, console) if one else _study(config, directory, console)
    _tell(written, directory, time.monotonic() - started, console)
    return written


def _import_annotations(config: AnalyzeConfig, directory: Path, console: Console) -> list[Path]:
    from gaze.data.annotations import COCO, MASKS, import_masks, said

    _make(directory, MASKS)
    found, left = import_masks(Path(str(config.annotations)), Path(str(config.images)).expanduser(), directory)
    say(console, f"{found:,} images have a mask now. Left out: {said(left) or 'nothing'}.", whole=False)
    say(console, f"dataset.mask_dir={(directory / MASKS).absolute()} dataset.on_missing_mask=empty", whole=False)
    return [directory / COCO]


def _study(config: AnalyzeConfig, directory: Path, console: Console) -> list[Path]:
    costs = None if config.costs is None else read_costs(config.costs)
    runs, kind = choose_runs(config, console)
    priced = {} if costs is None else price_runs(runs.used, costs)
    if kind == "shortcut":
        from gaze.studies.shortcut.report import run_study as run_shortcut

        _make(directory)
        return run_shortcut(runs, directory, console, provenance(config, runs), priced)
    if kind == "augmentation":
        from gaze.studies.augmentation.report import run_study  # PyTorch, which the other analysis does without
        from gaze.studies.augmentation.store import FOLDER

        _make(directory, FOLDER)
        return run_study(runs, config, directory, console, provenance(config, runs), priced)
    say(console, findings.headline(runs.epochs), whole=False)
    for note in findings.notes_on(runs):
        say(console, f"note: {note}", whole=False)
    _make(directory)
    written = [directory / CSV_FILE]
    maps = read_maps(Path(config.source), runs.epochs)
    write_tidy_csv(runs.epochs, directory / CSV_FILE)
    if maps:
        write_maps(maps, directory / MAPS_FILE)
        written.append(directory / MAPS_FILE)
    else:
        (directory / MAPS_FILE).unlink(missing_ok=True)  # of an earlier analysis
    with console.status("tables"):
        parts = list(split(runs, maps, priced))
    print_tables(parts, console)
    with console.status("figures"):
        title = f"Gaze consistency: {config.study or ', '.join(sorted(runs.epochs['study'].unique()))}"
        facts, top = provenance(config, runs), lead(parts)
        page = write_report(title, summary(runs, parts), sections(runs, parts), facts, directory, top)
    return written + page


def _one_run(config: AnalyzeConfig, directory: Path, console: Console) -> list[Path]:
    """check=RUN or explain=RUN; what they need of PyTorch is imported only here."""
    from gaze.studies.opened import open_run

    folder = str(config.check if config.check is not None else config.explain)
    one = open_run(Path(folder), config.compare, config.trust)
    facts = {
        **origin(config),
        "run": str(one.run.folder),
        "checkpoint": str(one.checkpoint),
        "settings of the run": flat_settings(one.run.settings.to_dict()),
    }
    if config.check is not None:
        from gaze.studies.check.report import run_check

        _make(directory)
        return run_check(one, config.check_images, directory, console, facts)
    from gaze.studies.explain.explain import find_images
    from gaze.studies.explain.export import PROGRAM, check_export, export_network
    from gaze.studies.explain.report import FOLDERS, run_explain

    if config.export:
        check_export(one)
    images = find_images(one, config.images, console)
    _make(directory, *FOLDERS)
    written = run_explain(one, images, directory, console, facts)
    (directory / PROGRAM).unlink(missing_ok=True)  # of an earlier call
    if config.export:
        say(console, export_network(one, images.pixels, directory / PROGRAM))
        written.append(directory / PROGRAM)
    return written


def choose_runs(config: AnalyzeConfig, console: Console) -> tuple[Runs, str]:
    """The runs to analyse, and which kind of study they are.

    Studies that hold several augmentations, the baseline among them, are augmentation studies; those of images with a
    marker, in several arms, shortcut studies. Both are analysed one at a time; beside other studies they are left out,
    which is said.

    Raises:
        GazeError: nothing to analyse; several such studies and no name.
    """
    source, baseline = Path(config.source), config.compare.baseline
    found = find_runs(source, config.study)
    read = partial(read_runs, source, config.include, found=found)
    if config.kind == "consistency":
        return read(config.study), config.kind
    runs = read(config.study, arms=True)
    kinds = {
        **dict.fromkeys(marker_studies(runs.used.values()), "shortcut"),
        **dict.fromkeys(augmentation_studies(runs.used.values(), baseline), "augmentation"),
    }
    studies = sorted(study for study, kind in kinds.items() if config.kind in ("auto", kind))
    others = [study for study in sorted(runs.epochs["study"].unique()) if study not in studies]
    if config.kind != "auto" or (studies and not others):
        names = [str(study) for study in (studies or others)]
        if len(names) > 1:
            words = " or ".join(f"study={name}" for name in names)
            raise DataError(f"A study of arms is analysed by itself, and there are several. Take {words}.")
        return read(names[0], arms=True), kinds.get(names[0], config.kind)
    several = (
        any(FOLD in own.row for own in found)
        or runs.listing["state"].eq("duplicate").any()
        or runs.listing[runs.listing["used"]].duplicated(RUN_KEYS).any()
    )
    if not studies and not several:
        return runs, "consistency"
    for study in studies:
        what = "augmentations" if kinds[study] == "augmentation" else "remedies for a marker"
        note = f"note: {study} compares {what} and is left out here: python analyze.py study={study}"
        say(console, note)
    return read(config.study, without=studies), "consistency"


def _tell(written: list[Path], directory: Path, seconds: float, console: Console) -> None:
    say(console, f"\n{len(written)} files in {_short(directory)}, in {seconds:.1f} s.")
    say(console, f"Open {_short(directory / 'report.html')} in a browser.")


def _make(directory: Path, *folders: str) -> None:
    """The folder to write to, and in it those that are this analysis's own, reports' among them."""
    own = (*OWNED, *folders)
    check_links(directory, *own)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_parts(directory, *own)
        with TemporaryFile(dir=directory):  # it can be written to
            pass
    except OSError as error:
        raise ConfigError(
            f"The analysis cannot be written to {directory}: {error.strerror}. Name another folder: hydra.run.dir=PATH."
        ) from error


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
