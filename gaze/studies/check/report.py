"""The report of ``check=RUN``: what ``checks`` measured, as verdicts, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from gaze.files import write_csv
from gaze.report.words import number
from gaze.report.write import FigureItem, Section, TableItem, write_report
from gaze.studies.check import plots as check_plots
from gaze.studies.check.checks import (
    CHANGE_ALLOWED,
    NOISE,
    NOISE_JUDGED,
    RANDOMISATIONS,
    RHO_ALLOWED,
    Checked,
    Estimate,
    Verdict,
    check_run,
    estimate,
    over_draws,
    vanished,
    verdicts,
)
from gaze.studies.opened import Opened, how_looked
from gaze.terminal import print_table, say

IMAGES_FILE = "images.csv"
HOW_TO_READ = (
    "Every score stands beside that of two maps that know nothing of the network: a random map for each image (uniform "
    "noise on the gaze's own grid) and one Gaussian in the middle (SD a quarter of the side). A check passes where the "
    "gaze is better than both, image by image: 95 % intervals by drawing the images anew, classes counted alike. They "
    "hold for this very network and say nothing of another training.",
    "Deletion (Petsiuk et al. 2018) puts the image's mean in the place of the most relevant pixels first, insertion "
    "puts them into a blurred image (SD a tenth of the side). A constant patch is itself something that a network has "
    "never seen, so that any deletion lowers the probability. ROAD (Rong et al. 2022) fills removed pixels from their "
    "neighbours, which leaves next to no trace: p(LeRF) - p(MoRF) is the probability after the least relevant pixels "
    "went less that after the most relevant went, mean over the shares of pixels.",
    "Pointing game (Zhang et al. 2016) and energy in the mask (Wang et al. 2020) ask something else: not whether the "
    "map is true to the network, but whether the network looks at what is marked. A network that looks elsewhere fails "
    "them with a faithful map.",
    "Randomised weights (Adebayo et al. 2018): if a map stays the same while the network loses what it learned, it "
    f"shows the image and not the network. Mean over {RANDOMISATIONS} draws of new weights, with an "
    "interval over these draws; |rho|, since an inverted "
    f"map is as little the network's. The paper gives no threshold; {RHO_ALLOWED:g} is our own. Batch normalisation is "
    "set back with the layer before it.",
    "Small noise: how far the map moves, ||CAM' - CAM|| / ||CAM||, while the prediction stays (after Alvarez-Melis & "
    f"Jaakkola 2018 and Yeh et al. 2019). The threshold, {CHANGE_ALLOWED:g} at an SD of {NOISE_JUDGED:g} of the range, "
    "is our own. Stable is not faithful: a map that never changes is perfectly stable.",
)


def run_check(
    one: Opened, most: int | None, directory: Path, console: Console, provenance: Mapping[str, Any]
) -> list[Path]:
    """Check the gaze of a run and write images.csv, tables, figures and the report.

    Args:
        one: the run.
        most: images at most, of each class alike; None takes all.
        directory: where to write.
        console: for progress and the table.
        provenance: for the end of the report.

    Returns:
        Every path written.

    Raises:
        GazeError: images that cannot be read, or none with a gaze.
    """
    c = check_run(one, most, console)
    with console.status("statistics"):
        found = verdicts(c)
    write_csv(directory / IMAGES_FILE, c.scores)
    lines = summary(c, found) + how_looked([one.run], one.device)
    _print(lines, found, console)
    with console.status("figures"):
        title = f"Is this gaze faithful? {one.title}"
        paths = write_report(title, lines, sections(one, c, found), provenance, directory)
    return [directory / IMAGES_FILE, *paths]


def summary(c: Checked, found: list[Verdict]) -> list[str]:
    """Images first, then a line per check."""
    n = c.counts
    empty = n["of these with an all-zero map"]
    images = (
        f"{n['used']} images used, of {n['classified correctly']} that are classified correctly among "
        f"{n['evaluation images']} evaluation images."
    )
    zero = f" The map of {empty} of the correct ones is all zero: no gaze, left out." if empty else ""
    return [images + zero, *(verdict_line(v) for v in found)]


def verdict_line(v: Verdict) -> str:
    """Answer and numbers, such as "Deletion: passes. Gaze 0.272, random map 0.340, centred Gaussian 0.296; ..."."""
    if v.to_random is None or v.to_centred is None:
        measure = v.measure.removesuffix(", lower is better")
        return f"{v.check}: {v.answer}. {_range(v.gaze)}: {measure}; passes {v.threshold} ({v.source})."
    return (
        f"{v.check}: {v.answer}. Gaze {number(v.gaze.mean)}, random map {number(v.random)}, centred Gaussian "
        f"{number(v.centred)}; difference from the random map {_range(v.to_random)}, from the Gaussian "
        f"{_range(v.to_centred)}; passes where both are on the better side of 0 ({v.source})."
    )


def verdict_item(found: list[Verdict]) -> TableItem:
    """Every check with its numbers, threshold and source."""
    rows = [
        {
            "check": v.check, "measure": v.measure, "answer": v.answer, "threshold": v.threshold, "source": v.source,
            "gaze": v.gaze.mean, "gaze_low": v.gaze.low, "gaze_high": v.gaze.high, "random": v.random,
            "centred": v.centred, **_columns("to_random", v.to_random), **_columns("to_centred", v.to_centred),
        }
        for v in found
    ]  # fmt: skip
    shown = pd.DataFrame(
        {
            "check": v.check,
            "answer": v.answer,
            "gaze": _range(v.gaze),
            "random map": number(v.random),
            "centred Gaussian": number(v.centred),
            "less random": _range(v.to_random),
            "less Gaussian": _range(v.to_centred),
        }
        for v in found
    )
    note = (
        "In brackets 95 % intervals over images, not adjusted for the number of checks. Not shown: the interval holds "
        "the threshold, so that neither side of it is shown."
    )
    return TableItem("checks", "The checks", pd.DataFrame(rows), shown, (note,))


def threshold_item(found: list[Verdict]) -> TableItem:
    """What each check measures, when it passes, and where it is from."""
    frame = pd.DataFrame(
        {"check": v.check, "measure": v.measure, "passes where": v.threshold, "source": v.source} for v in found
    )
    return TableItem("thresholds", "What each check measures, and when it passes", frame, frame)


def noise_item(c: Checked) -> TableItem:
    """Change of the map at each SD, beside the difference to another image's map."""
    found, same = [estimate(change, c) for change in c.change], c.kept.mean(1)
    frame = pd.DataFrame(found).rename(columns={"mean": "change"})
    frame.insert(0, "sd", NOISE)
    frame.insert(1, "same_prediction", same)
    shown = pd.DataFrame(
        {
            "SD (share of the range)": [f"{sd:g}" for sd in NOISE],
            "same prediction": [f"{100 * share:.1f} %" for share in same],
            "relative change of the map": list(map(_range, found)),
        }
    )
    between = number(estimate(c.between, c).mean)
    note = (
        f"For scale: two images of one class differ by {between or 'nothing that could be measured'} in the same unit."
    )
    return TableItem("noise", "The map under noise that leaves the prediction the same", frame, shown, (note,))


def layers_item(c: Checked) -> TableItem:
    """|Spearman| after each layer."""
    found = [over_draws(c.rho[:, layer], c) for layer in range(len(c.layers))]
    frame = pd.DataFrame(found).assign(vanished=vanished(c))
    frame.insert(0, "layer", c.layers)
    shown = pd.DataFrame(
        {
            "reset up to and with": c.layers,
            "|Spearman|": list(map(_range, found)),
            "vanished": [f"{100 * share:.0f} %" for share in frame["vanished"]],
        }
    )
    note = (
        f"95 % t interval over {len(c.rho)} draws of new weights, for these images. Vanished: maps that are all zero, "
        "or alike everywhere; they have no correlation and are left out of the mean."
    )
    return TableItem(
        "randomisation", "Maps while the weights are reset, from the last layer to the first", frame, shown, (note,)
    )


def sections(one: Opened, c: Checked, found: list[Verdict]) -> list[Section]:
    """The report from top to bottom."""
    counts = pd.DataFrame({"images": list(c.counts), "number": list(c.counts.values())})
    curves = "Probability of the class while pixels go, mean over images"
    return [
        Section("Verdicts", (), (verdict_item(found), threshold_item(found))),
        Section("Deletion, insertion, ROAD", (), (FigureItem("curves", curves, check_plots.curve_figure(c)),)),
        Section(
            "Randomised weights and noise",
            (),
            (
                FigureItem("sanity", "Median over images and the middle half of them", check_plots.sanity_figure(c)),
                FigureItem("cascade", "Maps while the weights are reset", check_plots.cascade_figure(c, one.classes)),
                layers_item(c),
                noise_item(c),
            ),
        ),
        Section("How to read this", HOW_TO_READ, ()),
        Section(
            "The images",
            ("Each image's scores are in images.csv beside this page.",),
            (TableItem("images", "Which images were used", counts, counts.astype(str)),),
        ),
    ]


def _range(e: Estimate | None) -> str | None:
    if e is None or np.isnan(e.mean):
        return None
    return f"{number(e.mean)} [{number(e.low)}, {number(e.high)}]"


def _columns(name: str, e: Estimate | None) -> dict[str, float]:
    own = e or Estimate(np.nan, np.nan, np.nan)
    return {name: own.mean, f"{name}_low": own.low, f"{name}_high": own.high}


def _print(lines: list[str], found: list[Verdict], console: Console) -> None:
    """Verdicts, in the columns that a terminal has room for."""
    for line in (lines[0], *lines[1 + len(found) :]):  # those between are the table's
        say(console, line, whole=False)
    columns = ["check", "answer", "gaze", "random map", "centred Gaussian"]
    print_table(console, "The checks", verdict_item(found).shown[columns])
