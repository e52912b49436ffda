"""Figures of the analysis: the run logs, or the classes' mean gazes, to a matplotlib Figure. Writes no file.

Every figure takes the tidy frame of ``gaze.runs.load.load_runs`` and the name of one data set. A model keeps its
colour, marker and line style in all of them, a lambda its own, so that figures can be read side by side; shapes and
lightness differ as well as hues, so that they can be read in greyscale. Lines are told apart by the run (``RUN_KEYS``
and the column ``run`` where there is one). Studies are not told apart: hand over the rows of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gaze.measures import label, measures
from gaze.report.style import (
    MARKERS,
    SMALL,
    TEXT,
    TITLE,
    Style,
    add_legend,
    dress,
    lambda_styles,
    model_styles,
    new_figure,
    say,
)
from gaze.report.words import number, p_value
from gaze.runs.collapse import EXACT
from gaze.runs.tidy import run_keys
from gaze.statistics.collapse import comparable
from gaze.statistics.seeds import LAST_EPOCHS, SCALE_MEASURES, run_correlations
from gaze.studies.consistency.atlas import atlas_figure

__all__ = ["atlas_figure", "chance", "correlation_figure", "curve_figure", "eta_figure", "scale_figure"]
__all__ += ["lambda_styles", "model_styles"]

LOG_FROM = 30.0  # largest over smallest value from which a consistency is drawn on a log axis
NOT_LOGGED = "not logged by these runs"
NOT_COMPARED = "collapsed: not compared"
CHANCE = "chance: kappa is 0"
CORRELATION = (  # how to read correlation_figure
    "Figures: a point is an epoch at lambda = 0. Each panel shows one run in colour, the one whose r is nearest to the "
    "mean over seeds, with its least-squares line of L_CAM on kappa; the other runs are grey."
)


def correlation_figure(
    runs: pd.DataFrame,
    dataset: str,
    measure: str = "gaze_consistency",
    table: pd.DataFrame | None = None,
    models: Sequence[str] | None = None,
) -> Figure:
    """Gaze consistency against kappa, a panel per model with one run in colour (thesis, Fig. 1-2), the others grey.

    The run in colour is the one whose Pearson's r is nearest to the mean over seeds. A point is an epoch; the line is
    the least-squares line of the measure on kappa over this run's epochs, none where kappa does not vary.

    Args:
        runs: tidy frame, columns ``RUN_KEYS``, ``epoch``, ``kappa`` and ``measure``; rows of one study and lambda.
        dataset: name of the data set.
        measure: column on the y axis.
        table: ``gaze.statistics.seeds.pearson_table`` of the same rows; the panels then say the mean r of kappa with
            the run's own gaze and, where the table has them, with other seeds' gazes and the p of the pairing.
        models: which models, all when None.

    Raises:
        ValueError: no row is left, or there is no such column.
    """
    frame = _rows(runs, dataset, measure, "kappa")
    if models is not None:
        frame = _some(frame[frame["model"].isin(list(models))], f"data set {dataset!r} and models {list(models)}")
    styles = {name: style for name, style in model_styles(runs["model"]).items() if name in set(frame["model"])}
    figure, axes = _panels(list(styles), label("kappa"), label(measure), alike=False)
    for axis, (name, style) in zip(axes, styles.items(), strict=True):
        own = frame[frame["model"] == name].sort_values("epoch")
        shown = _representative(own, measure)
        points = own[["kappa", measure]].to_numpy(float)  # (N, 2)
        _points(axis, points[~shown], Style("0.72", "o", "none", 0.0), 2.6)
        _points(axis, points[shown], style, 4.2)
        _fit(axis, points[shown], style)
        said = _correlations(table, name, dataset, measure)
        axis.set_title(f"{name}, seed {own.loc[shown, 'seed'].iloc[0]}{said}", fontsize=TEXT)
        if not axis.lines:
            axis.set(xlim=(0, 1), ylim=measures()[measure].range)
            say(axis, "no epoch has both values")
    several = len(frame.drop_duplicates(run_keys(frame))) > len(styles)
    seen = "run named above, its r the nearest to the mean, and its line" if several else "run named above and its line"
    grey = [Style("0.72", "o", "none", 0.0).line2d("the model's other runs")] if several else []
    add_legend(figure, [Style("0.25", "o", "-", 1.6).line2d(seen), *grey])
    figure.suptitle(f"{dataset}: a point is an epoch", fontsize=TITLE)
    return figure


def curve_figure(runs: pd.DataFrame, dataset: str, measure: str) -> Figure:
    """Learning curves, a panel per model and a line per lambda (thesis, Fig. 4): mean over seeds, band of +-1 SD.

    Epochs without a value are skipped; the SD (n - 1) is drawn where at least 2 seeds have a value. Accuracy is drawn
    from 0 to 1, as published, it and kappa with the line of :func:`chance`; a consistency whose means span more than a
    factor of 30 gets a log axis. The gaze of runs that do not tell the classes apart is left out.

    Args:
        runs: tidy frame, columns ``RUN_KEYS``, ``epoch`` and ``measure``; rows of one study.
        dataset: name of the data set.
        measure: column on the y axis; its unit is in :mod:`gaze.measures`.

    Raises:
        ValueError: no row of the data set, or no such column.
    """
    logged = _rows(runs, dataset, measure)
    frame = comparable(logged)
    styles = lambda_styles(runs["lambda"])
    names = list(model_styles(frame["model"]))
    curves = frame.groupby(["model", "lambda", "epoch"])[measure].agg(["mean", "std", "count"])
    guessed = chance(frame, measure)
    figure, axes = _panels(names, "epoch", label(measure))
    margin = max(0.5, 0.03 * (frame["epoch"].max() - frame["epoch"].min()))
    axes[0].set_xlim(frame["epoch"].min() - margin, frame["epoch"].max() + margin)
    for axis, name in zip(axes, names, strict=True):
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        of_model = curves.loc[name]
        for weight in of_model.index.unique("lambda"):
            _curve(axis, of_model.loc[weight], styles[float(weight)])
        if not of_model["mean"].notna().any():
            say(axis, _why_empty(logged[logged["model"] == name], measure))
        for height in guessed:
            axis.axhline(height, color="0.45", linestyle=(0, (1, 2)), linewidth=1.1, zorder=1.5)
    if measure == "accuracy" or not curves["count"].any():  # as the published curves are drawn
        axes[0].set_ylim(*(end if np.isfinite(end) else float(end > 0) for end in measures()[measure].range))
    elif measure.startswith("gaze_consistency"):
        _log_if_wide(axes[0], curves)
    handles = [styles[w].line2d(f"lambda = {w:g}") for w in styles if w in set(frame["lambda"])]
    handles += [Line2D([], [], color="0.45", linestyle=(0, (1, 2)), linewidth=1.1, label=CHANCE)] if guessed else []
    add_legend(figure, handles, _band_note(frame, curves["count"]))
    figure.suptitle(f"{dataset}: learning curves", fontsize=TITLE)
    return figure


def chance(runs: pd.DataFrame, measure: str) -> list[float]:
    """Where guessing lies: kappa 0, and the accuracies at which kappa is 0, lowest and highest.

    kappa = (p - e) / (1 - e) for the accuracy p (Cohen 1960), so each epoch says its own e = (p - kappa) / (1 - kappa).
    It is 1/K wherever each of K classes has as many images, whatever is predicted; elsewhere it depends on what is, and
    is the class's share where one class alone is. Epochs whose kappa is the accuracy, or near 1, do not tell.

    Returns:
        One height or two (more than 0.01 apart) on the measure's axis; none for other measures.
    """
    if measure == "kappa":
        return [0.0]
    if measure != "accuracy":
        return []
    p, kappa = runs["accuracy"].to_numpy(float), runs["kappa"].to_numpy(float)
    told = (kappa < 0.99) & (p - kappa > EXACT)
    by_guess = (p[told] - kappa[told]) / (1 - kappa[told])
    if not by_guess.size:
        return []
    low, high = float(by_guess.min()), float(by_guess.max())
    return [low, high] if high - low > 0.01 else [(low + high) / 2]


def eta_figure(runs: pd.DataFrame, dataset: str) -> Figure:
    """Eta squared against the RMS deviation, a point per run: is the gaze steady, and does it belong to its class?

    A point is the mean over a run's last 5 epochs. A thin line joins each model's means over seeds along lambda; with
    several seeds these are points of their own, large and black-rimmed. Runs that collapsed, so that their gaze is not
    compared, have no point.

    Args:
        runs: tidy frame, columns ``RUN_KEYS``, ``epoch``, ``gaze_consistency_rms``, ``gaze_eta_squared``; one study.
        dataset: name of the data set.

    Raises:
        ValueError: no row of the data set.
    """
    x, y = columns = ["gaze_consistency_rms", "gaze_eta_squared"]
    frame = comparable(_rows(runs, dataset, *columns))
    keys = run_keys(frame)
    last = frame.sort_values("epoch").groupby(keys, dropna=False).tail(LAST_EPOCHS)
    points = last.groupby(keys, dropna=False)[columns].mean().reset_index().dropna(subset=columns)
    weights, models = lambda_styles(runs["lambda"]), model_styles(runs["model"])
    models = {name: style for name, style in models.items() if name in set(frame["model"])}
    figure = new_figure(7.6, max(4.6, 0.19 * (len(weights) + len(models) + 4)))
    axis = figure.subplots()
    dress(axis, f"{dataset}: mean of each run's last {LAST_EPOCHS} epochs", label(x), label(y))
    for name, style in models.items():
        own = points[points["model"] == name]
        means = own.groupby("lambda")[columns].mean()  # ascending lambda
        axis.plot(means[x], means[y], color="0.55", linestyle=style.line, linewidth=0.8, zorder=1)
        several = len(own) > len(means)  # else the points are the means
        _cloud(axis, own[x], own[y], own["lambda"], weights, style, 16 if several else 26, "white")
        if several:
            _cloud(axis, means[x], means[y], means.index, weights, style, 44, "black")
    _explain_eta(axis, points[y].to_numpy(float), _why_empty(runs[runs["dataset"] == dataset], y))
    _eta_legend(figure, {w: s for w, s in weights.items() if w in set(frame["lambda"])}, models)
    return figure


def scale_figure(runs: pd.DataFrame, dataset: str) -> Figure:
    """Four readings of the gaze at lambda 0 and each run's last epoch: in which of them does level1 stand apart?

    A dot per run, a bar at the mean, one panel each for the l2 form, the RMS deviation, the RMS deviation on the
    common grid and eta squared. A reading that no run has is said to be missing.

    Args:
        runs: tidy frame, columns ``RUN_KEYS``, ``epoch`` and, where logged, those readings; rows of one study.
        dataset: name of the data set.

    Raises:
        ValueError: no row of the data set at lambda 0.
    """
    plain = _rows(runs, dataset, *SCALE_MEASURES)
    plain = _some(plain[plain["lambda"] == 0], f"data set {dataset!r} and lambda 0")
    frame = comparable(plain)
    last = frame.sort_values("epoch").groupby(run_keys(frame), dropna=False).tail(1)
    styles = model_styles(runs["model"])
    names = [name for name in styles if name in set(last["model"])]
    longest = max(map(len, names))
    upright = longest * len(names) > 40
    figure = new_figure(7.6 + 0.2 * max(0, len(names) - 10), 5.6 + 0.065 * longest * upright)
    axes = figure.subplots(2, 2, sharex=True)
    for axis, reading in zip(axes.flat, SCALE_MEASURES, strict=True):
        measure = measures()[reading]
        dress(axis, measure.form or measure.heading, "model" if axis in axes[1] else "", label(reading))
        values = [last.loc[last["model"] == name, reading].dropna().to_numpy(float) for name in names]
        _dots(axis, names, values, styles, _why_empty(plain, reading))
        axis.tick_params(axis="x", rotation=90 if upright else 0)
    figure.suptitle(f"{dataset}: last epoch at lambda 0, a dot per run, bar: mean", fontsize=TITLE)
    return figure


def _rows(runs: pd.DataFrame, dataset: str, *names: str) -> pd.DataFrame:
    """Rows of the data set; a known measure that is absent is NaN, and so is what is not finite."""
    unknown = [each for each in names if each not in runs and each not in measures()]
    if unknown:
        raise ValueError(f"There is no column {unknown[0]!r}. Known: {', '.join(measures())}.")
    frame = _some(runs[runs["dataset"] == dataset], f"data set {dataset!r} (there are {sorted(set(runs['dataset']))})")
    values = {each: frame[each].astype(float) if each in frame else np.nan for each in names}
    return frame.assign(**values).replace({each: [np.inf, -np.inf] for each in names}, np.nan)


def _some(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    if frame.empty:
        raise ValueError(f"No run of {what}.")
    return frame


def _panels(names: list[str], x_label: str, y_label: str, alike: bool = True) -> tuple[Figure, list[Axes]]:
    """A panel per name, labelled at the rim, y axes shared if ``alike``; places that are left over stay empty."""
    columns = len(names) if len(names) <= 3 else 3 if len(names) <= 9 else 4
    rows = -(-len(names) // columns)
    figure = new_figure(max(2.7 * columns + 0.7, 5.0), (2.2 if alike else 2.6) * rows + 1.2)
    axes: list[Axes] = list(figure.subplots(rows, columns, sharex=True, sharey=alike, squeeze=False).flat)
    for i, axis in enumerate(axes):
        if i >= len(names):
            axis.set_axis_off()
            continue
        lowest = i + columns >= len(names)
        dress(axis, names[i], x_label if lowest else "", y_label if i % columns == 0 else "")
        axis.tick_params(labelbottom=lowest)
    return figure, axes[: len(names)]


def _representative(runs: pd.DataFrame, measure: str) -> NDArray[np.bool_]:
    """Rows of the run whose r of kappa and the measure is nearest to the mean over runs; of the first without any r."""
    table = run_correlations(runs, [measure])
    distance = (table["pearson"] - table["pearson"].mean()).abs()
    nearest = runs.iloc[0] if distance.isna().all() else table.iloc[int(distance.argmin())]
    keys = run_keys(runs)
    return (runs[keys] == nearest[keys]).all(axis=1).to_numpy()


def _correlations(table: pd.DataFrame | None, model: str, dataset: str, measure: str) -> str:
    """Further lines of a panel's title: a row of Table 2."""
    if table is None:
        return ""
    wanted = {"model": model, "dataset": dataset, "measure": measure, "lambda": 0.0}
    rows = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    if rows.empty or rows["r"].isna().all():
        return ""
    row, text = rows.iloc[0], f"r {number(rows['r'].iloc[0], 2)}"
    text = f"mean {text}" if row["n"] - row["n_nan"] > 1 else text
    if number(row.get("strangers_r", np.nan)):
        text += f", strangers' {number(row['strangers_r'], 2)}"
    p = p_value(row.get("pairing_p", np.nan))
    return f"\n{text}" + (f"\np of the pairing {p}" if p else "")


def _points(axis: Axes, points: NDArray[np.float64], style: Style, size: float) -> None:
    """Points (N, 2), those with both values."""
    points = points[np.isfinite(points).all(axis=1)]
    if len(points):
        axis.plot(*points.T, style.marker, color=style.colour, markersize=size, mew=0, alpha=0.75, rasterized=True)


def _fit(axis: Axes, points: NDArray[np.float64], style: Style) -> None:
    """The least-squares line of y on x over points (N, 2)."""
    x, y = points[np.isfinite(points).all(axis=1)].T
    if len(x) > 1 and np.ptp(x) > 1e-9 * np.abs(x).max():  # else the slope is rounding noise
        slope, offset = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        look = {"color": style.colour, "linestyle": style.line, "linewidth": style.width, "zorder": 3}
        lift = withStroke(linewidth=style.width + 1.6, foreground="white")
        axis.plot(ends, slope * ends + offset, path_effects=[lift], **look)


def _curve(axis: Axes, curve: pd.DataFrame, style: Style) -> None:
    """Mean, std and count by epoch; an epoch alone among missing ones gets a marker."""
    epochs, mean = curve.index.to_numpy(float), curve["mean"].to_numpy(float)
    low, high = mean - curve["std"].to_numpy(float), mean + curve["std"].to_numpy(float)
    seen = np.isfinite(mean)
    before, after = np.append(False, seen[:-1]), np.append(seen[1:], False)
    alone = seen & ~before & ~after
    step = max(1, len(epochs) // 7)
    marked = alone | (np.arange(len(epochs)) % step == MARKERS.index(style.marker) % step)
    back = 2.1 if style.width > 2 else 2.2  # the thick line must not hide the thin ones
    look = {"color": style.colour, "linestyle": style.line, "linewidth": style.width, "zorder": back}
    axis.fill_between(epochs, low, high, color=style.colour, alpha=0.16, linewidth=0.5, zorder=2)
    axis.plot(epochs, mean, marker=style.marker, markersize=3.6, markevery=marked.tolist(), **look)


def _band_note(frame: pd.DataFrame, counts: pd.Series[int]) -> str:
    banded = counts[counts >= 2]
    if banded.empty:
        return "one seed per line: no band"
    unit = "runs" if frame.duplicated(["model", "lambda", "seed", "epoch"]).any() else "seeds"
    low, high = int(banded.min()), int(banded.max())
    return f"line: mean, band: \N{PLUS-MINUS SIGN}1 SD over {low if low == high else f'{low} to {high}'} {unit}"


def _log_if_wide(axis: Axes, curves: pd.DataFrame) -> None:
    """Log y for all panels (they share it); the limits follow the means, for a band may reach below 0."""
    positive = curves["mean"][curves["mean"] > 0]
    if positive.empty or positive.max() / positive.min() <= LOG_FROM:
        return
    top = (curves["mean"] + curves["std"].fillna(0)).max()
    axis.set_yscale("log", nonpositive="clip")
    axis.set_ylim(positive.min() / 1.5, top * 1.3)


def _why_empty(runs: pd.DataFrame, measure: str) -> str:
    """What a panel without a point says, from the rows before the gaze of collapsed runs was left out."""
    return NOT_COMPARED if measure in runs and runs[measure].notna().any() else NOT_LOGGED


def _explain_eta(axis: Axes, eta: NDArray[np.float64], why: str) -> None:
    """How to read the corners, in bands above and below the data."""
    if len(eta) == 0:
        axis.set(xlim=measures()["gaze_consistency_rms"].range, ylim=(0, 1))
        say(axis, why)
        return
    low, high = min(0.0, eta.min()), max(eta.max(), 0.05)
    band = 0.11 * (high - low)
    axis.set_ylim(low - band, high + band)
    axis.set_xlim(left=-0.015 * axis.get_xlim()[1])
    axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    said = {0.985: "alike within its class, different between classes", 0.015: "alike for every class"}
    for height, text in said.items():
        place: dict[str, Any] = {"ha": "left", "va": "top" if height > 0.5 else "bottom", "transform": axis.transAxes}
        axis.text(0.012, height, text, fontsize=SMALL, color="0.35", fontstyle="italic", **place)


def _cloud(
    axis: Axes, x: Any, y: Any, lambdas: Any, styles: dict[float, Style], style: Style, size: float, rim: str
) -> None:
    """Points (N,) in a model's shape and the colours of their lambdas."""
    colours = [styles[float(weight)].colour for weight in lambdas]
    axis.scatter(x, y, s=size, c=colours, marker=style.marker, edgecolors=rim, linewidths=0.5, zorder=2)


def _eta_legend(figure: Figure, weights: dict[float, Style], models: dict[str, Style]) -> None:
    dots = [style.line2d(f"{w:g}", marker="o", linestyle="none", markersize=6) for w, style in weights.items()]
    shapes = [style.line2d(name, color="0.35", linewidth=0.8) for name, style in models.items()]
    heads = [Line2D([], [], linestyle="none", label=text) for text in ("lambda", "model")]
    handles = [heads[0], *dots, heads[1], *shapes]
    legend = figure.legend(handles=handles, loc="outside right upper", fontsize=SMALL, handlelength=3, frameon=False)
    for head in (0, len(dots) + 1):
        legend.get_texts()[head].set_fontweight("bold")


def _dots(axis: Axes, names: list[str], values: list[NDArray[np.float64]], styles: dict[str, Style], why: str) -> None:
    """The runs' values of each model in a column of its own, spread sideways in the runs' order."""
    for i, (name, own) in enumerate(zip(names, values, strict=True)):
        if len(own):
            spread = np.linspace(-0.18, 0.18, len(own)) if len(own) > 1 else np.zeros(1)
            axis.plot(i + spread, own, styles[name].marker, color=styles[name].colour, markersize=4.5, alpha=0.8, mew=0)
            axis.hlines(own.mean(), i - 0.32, i + 0.32, color="black", linewidth=1.4, zorder=3)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_xticks(range(len(names)), names)
    axis.grid(visible=False, axis="x")
    highest = max((own.max() for own in values if len(own)), default=np.nan)
    axis.set_ylim(0, 1.12 * highest if highest > 0 else 1.0)
    if np.isnan(highest):
        say(axis, why)
