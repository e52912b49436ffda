"""The one table of measures: what each is called, in what unit and range, which way is better, what it needs.

metrics.csv, the table at a run's end, the tidy frame, statistics, reports, figures and docs/measures.md read it. To add
one, log it as ``val/NAME`` and say ``MEASURES.add(Measure("NAME", "its title"))``. Free of PyTorch.

    python -m gaze.measures > docs/measures.md
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaze.choices import DISTANCES, Distance, Entry, Registry

BY_DISTANCE = "gaze.distance="
GUIDED = "gaze.mask_weight"
MARKED = "dataset.marker"
READERS = "dataset.fixations"
AT_THE_END = "gaze.keep_maps"  # of what is worked out when a run ends


@dataclass(frozen=True)
class Measure(Entry):
    """A row of the table; its name is that in the tidy frame.

    Attributes:
        unit: in brackets behind the title, or how to read the number.
        short: heading of a column; the title where empty.
        form: among other readings of the same maps, where that is shorter still.
        range: smallest and largest value.
        better: "lower" or "higher"; "" where neither is.
        digits: behind the point.
        log: in the log and in metrics.csv; ``val/NAME`` where empty.
        needs: "masks", "dataset.marker", "dataset.fixations", "gaze.distance=...", "gaze.mask_weight",
            "gaze.keep_maps" or "": what a run has to have.
        root_of: the measure whose square root this one is; taken when runs are read, and not logged.
        compared: stands in the tables by lambda.
    """

    unit: str = ""
    short: str = ""
    form: str = ""
    range: tuple[float, float] = (0.0, 1.0)
    better: str = ""
    digits: int = 3
    log: str = ""
    needs: str = ""
    root_of: str = ""
    compared: bool = True

    @property
    def column(self) -> str:
        """Name in the log and in metrics.csv; "" for one that is not logged."""
        return self.log or ("" if self.root_of or self.needs == AT_THE_END else f"val/{self.name}")

    @property
    def heading(self) -> str:
        """Of a table's column."""
        return self.short or self.title

    @property
    def label(self) -> str:
        """Of an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


ANY, POSITIVE = (-math.inf, math.inf), (0.0, math.inf)
LOWER = "lower: more consistent"
MEASURES = Registry(  # in the order of metrics.csv
    "measure",
    Measure("lr", "learning rate", range=POSITIVE, digits=6, log="lr", compared=False),
    Measure("lambda_t", "lambda of the epoch", range=ANY, log="train/lambda", compared=False),
    Measure("train_loss", "training loss", range=ANY, better="lower", log="train/loss", compared=False),
    Measure("train_loss_cls", "its cross entropy", "nats", range=POSITIVE, better="lower", log="train/loss_cls",
            compared=False),
    Measure("train_loss_gaze", "its L_CAM", range=POSITIVE, better="lower", digits=4, log="train/loss_gaze",
            compared=False),
    Measure("train_loss_mask", "its part that guides by masks", range=POSITIVE, better="lower", digits=4,
            log="train/loss_mask", needs=GUIDED, compared=False),
    Measure("loss", "cross entropy", "nats", range=POSITIVE, better="lower", compared=False),
    Measure("accuracy", "accuracy", "share of images", better="higher"),
    Measure("kappa", "Cohen's kappa", range=(-1.0, 1.0), better="higher"),
    Measure("balanced_accuracy", "balanced accuracy", "mean recall of the classes", better="higher", compared=False),
    Measure("f1_macro", "macro F1", "mean over the classes", better="higher", compared=False),
    Measure("gaze_consistency", "gaze consistency L_CAM, squared", LOWER, "L_CAM squared", "squared", (0.0, 0.25),
            "lower", digits=4),
    Measure("gaze_consistency_l2", "gaze consistency L_CAM, l2 form", LOWER, "L_CAM l2", "l2 (published form)",
            (0.0, 0.5), "lower", digits=4),
    Measure("gaze_consistency_rms", "RMS deviation of the gaze", "of the map's range", "RMS deviation",
            range=(0.0, 0.5), better="lower", root_of="gaze_consistency"),
    Measure("gaze_consistency_grid", "gaze consistency on the common grid, squared", "", "L_CAM, common grid",
            "squared, common grid", (0.0, 0.25), "lower", digits=4),
    Measure("gaze_consistency_grid_rms", "RMS deviation on the common grid", "of the map's range",
            "RMS, common grid", "RMS deviation, common grid", (0.0, 0.5), "lower", root_of="gaze_consistency_grid"),
    Measure("gaze_consistency_balanced", "gaze consistency, each class alike", LOWER, "L_CAM, balanced",
            "class-balanced", (0.0, 0.5), "lower", digits=4, compared=False),
    Measure("gaze_consistency_all", "gaze consistency over all images, each class alike", LOWER, "L_CAM, all images",
            "all images", (0.0, 0.5), "lower", digits=4),
    Measure("gaze_consistency_fixed", "gaze consistency on the same images in every epoch, 8x8 at most", LOWER,
            "L_CAM, same images", "same images", (0.0, 0.25), "lower", digits=4, needs=AT_THE_END),
    Measure("gaze_eta_squared", "eta squared", "share of the gaze's variance that the class explains", better="higher"),
    Measure("gaze_epsilon_squared", "epsilon squared", "eta squared without its bias", range=(-math.inf, 1.0),
            better="higher"),
    Measure("gaze_empty_fraction", "empty maps", "share of the correct images", "empty fraction", better="lower"),
    Measure("gaze_entropy", "entropy of the gaze", "0 one cell, 1 uniform"),
    Measure("gaze_mask_energy", "gaze energy in the lesion's mask", "share", "energy in mask", better="higher",
            needs="masks"),
    Measure("gaze_mask_lift", "lift of the gaze in the mask", "1: as a uniform gaze", "lift in mask", range=POSITIVE,
            better="higher", digits=2, needs="masks"),
    Measure("gaze_pointing", "pointing game", "share of images whose peak lies in the mask", better="higher",
            needs="masks"),
    Measure("gaze_marker_energy", "energy of the gaze on the marker", "share", "on the marker", better="lower",
            needs=MARKED),
    Measure("worst_group_accuracy", "accuracy of the worst group", "class x marker", "worst group", better="higher",
            needs=MARKED),
    Measure("gaze_human_cc", "CC of gaze and readers", "correlation", "CC, readers", range=(-1.0, 1.0),
            better="higher", needs=READERS),
    Measure("gaze_human_sim", "SIM of gaze and readers", "intersection", "SIM, readers", better="higher",
            needs=READERS),
    Measure("gaze_human_kl", "KL of readers from the gaze", "nats", "KL, readers", range=POSITIVE, better="lower",
            needs=READERS),
    Measure("gaze_human_nss", "NSS of the gaze", "SDs at the fixations, 0 by chance", "NSS", range=ANY,
            better="higher", needs=READERS),
    Measure("gaze_human_auc", "AUC-Judd of the gaze", "fixations against other places", "AUC-Judd", better="higher",
            needs=READERS),
    Measure("gaze_human_scc", "shuffled CC of gaze and readers", "less that with other images", "sCC",
            range=(-2.0, 2.0), better="higher", needs=READERS),
    Measure("gaze_human_sauc", "shuffled AUC of the gaze", "against fixations on other images", "sAUC",
            better="higher", needs=READERS),
    Measure("n_correct", "correct images", range=POSITIVE, digits=0, compared=False),
    Measure("gaze_c_score", "C-Score", "overlap of a class's gazes, pair by pair", better="higher", digits=4,
            needs=f"{BY_DISTANCE}soft_iou"),
)  # fmt: skip

HUMAN = tuple(name.removeprefix("gaze_human_") for name in MEASURES if name.startswith("gaze_human_"))


def measures() -> dict[str, Measure]:
    """Every measure by its tidy name, in the order of metrics.csv; each distance has one."""
    by_distance = {measure.name: measure for measure in map(_of_distance, DISTANCES.values())}
    always = {name: measure for name, measure in MEASURES.items() if not measure.needs.startswith(BY_DISTANCE)}
    return {**always, **by_distance, **MEASURES}


def _of_distance(distance: Distance) -> Measure:
    name = "gaze_consistency" + ("" if distance.name == "squared" else f"_{distance.name}")
    title, short = f"gaze consistency L_CAM, {distance.title}", f"L_CAM {distance.title}"
    needs = f"{BY_DISTANCE}{distance.name}"
    return Measure(name, title, LOWER, short, distance.title, (0.0, distance.most), "lower", digits=4, needs=needs)


def epoch_columns() -> list[str]:
    """Columns of metrics.csv that every run has; those of a ``gaze.distance``, of masks that guide, of a marker and of
    readers follow where it has them."""
    some = (BY_DISTANCE, GUIDED, MARKED, READERS)
    logged = [m.column for m in measures().values() if m.column and not m.needs.startswith(some)]
    return ["epoch", "step", *logged]


def compared() -> list[str]:
    """Names of the measures that stand in the tables by lambda, in order."""
    return [name for name, measure in measures().items() if measure.compared]


def label(name: str) -> str:
    """Label of an axis, with the unit; a name that is no measure is its own."""
    known = measures()
    return known[name].label if name in known else name


def as_page() -> str:
    """The page docs/measures.md."""
    head = [
        "# Measures",
        "",
        "Formulas: [Definitions](definitions.md). Made by `python -m gaze.measures > docs/measures.md`.",
        "",
        "| tidy name | what | metrics.csv | range | better | needs |",
        "|---|---|---|---|---|---|",
    ]
    rows = [
        f"| `{m.name}` | {m.label} | {_where(m)} "
        f"| {m.range[0]:g} .. {m.range[1]:g} | {m.better or 'neither'} | {m.needs or 'nothing'} |"
        for m in measures().values()
    ]
    return "\n".join([*head, *rows, ""])


def _where(measure: Measure) -> str:
    if measure.column:
        return f"`{measure.column}`"
    return f"square root of `{measure.root_of}`" if measure.root_of else "in gaze_grid.csv, when the run ends"


if __name__ == "__main__":
    print(as_page(), end="")
