"""What ``explain=RUN`` leaves: overlays, raw maps, a manifest and a page, the most unusual gaze first.

directory/overlays/001-NAME.png       image and overlay, with prediction, truth and deviation
directory/overlays/001-NAME-map.npy   the map enlarged to the file's own size, float16 (height, width) in 0..1
directory/overlays/001-NAME-map.png   the same, 8 bit grey: 255 is 1
directory/maps/001-NAME.npy           the map on its own grid, float32 (H, W) in 0..1
directory/network.pt2                 with export=true: logits and map as one program, see ``export``
directory/manifest.csv, .json         a row per image; the JSON says what it was made from as well
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from gaze.data.sources.folders import SUFFIXES
from gaze.errors import ConfigError
from gaze.files import read_bytes_of, write_csv, write_json
from gaze.report.pictures import RIGHT, WRONG, class_gaze_figure
from gaze.report.style import GAZE_COLOURS, OUTLINE, SMALL, new_figure
from gaze.report.words import listed, number
from gaze.report.write import FigureItem, Section, TableItem, write_report
from gaze.studies.explain.explain import Shown, Typical, explain, typical_gaze
from gaze.studies.opened import Opened, how_looked
from gaze.terminal import print_table, progress_bar, say

FOLDERS = ("overlays", "maps")
OWN_FILE = re.compile(r"\d{3,}-.*\.(png|npy)")
SIDE = 256  # pixels of a panel, at least
ALPHA = 0.55  # of the map over the image
FEW = 20  # correct images under which a class mean, and a percentile of them, is shaky
PAGE, ROW, FIGURE = 40, 4, 8  # pictures on the page, in a row, in a figure
HOW_TO_READ = (  # {} is the CAM method
    "Deviation: mean squared difference of a map from the mean gaze of its class over the run's correct evaluation "
    "images (thesis, Eq. 9; 0..1). Percentile: the share of those images that deviate as much or less. Times median: "
    "the deviation over the median of those. A large deviation says that the network looks elsewhere than it does in "
    "most images of the class, not that it is wrong.",
    "Maps are {} of the class that is explained, scaled to 0..1 each: the true class where the folder's name is "
    "one of the run's classes, else the predicted one. An all-zero map has nothing to deviate: it has no rank.",
)


def run_explain(
    one: Opened, images: Shown, directory: Path, console: Console, provenance: Mapping[str, Any]
) -> list[Path]:
    """Explain images and write overlays, maps, manifest and page.

    Args:
        one: the run.
        images: from ``explain.find_images``.
        directory: where to write; pictures and maps of an earlier call for the same run and images are removed.
        console: for progress and the table.
        provenance: for the end of the page and the manifest.

    Returns:
        Every path written, of overlays and maps only the folders.

    Raises:
        GazeError: scores that are NaN, no class means, a folder that cannot be written, or one that holds another
            explanation.
    """
    _check_place(directory, _of(one, images))
    typical = typical_gaze(one, console)
    manifest, cams = explain(one, images, typical, console)
    stems = [f"{i:03d}-{_slug(path)}" for i, path in enumerate(manifest["path"], 1)]
    manifest["overlay"] = [f"overlays/{stem}.png" for stem in stems]
    manifest["map"] = [f"maps/{stem}.npy" for stem in stems]
    manifest["map_at_image_size"] = [f"overlays/{stem}-map.npy" for stem in stems]
    with progress_bar(console, f"writing {len(manifest)} overlays and maps") as progress:
        _write_pictures(directory, manifest, images, cams, progress)
    lines = summary(images, typical, manifest, one.classes) + how_looked([one.run], one.device)
    written = _write_manifest(directory, manifest, images, typical, {**provenance, "of": _of(one, images)})
    _print(lines, manifest, one.classes, console)
    with console.status("page"):
        title = f"Where does it look? {one.title}"
        page = write_report(title, lines, sections(one, images, typical, manifest, cams), provenance, directory)
    return [directory / "overlays", directory / "maps", *written, *page]


def _slug(path: str) -> str:
    """What stands in a path but for an image's suffix; the dots of a DICOM file's UID are none."""
    stem = path.removesuffix(Path(path).suffix) if Path(path).suffix.lower() in SUFFIXES else path
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[-80:] or "image"


# ---- files


def _of(one: Opened, images: Shown) -> list[str]:
    """What an explanation is of: checkpoint, and images."""
    source = Path(images.source).expanduser()
    return [str(one.checkpoint.resolve()), str(source.resolve()) if source.exists() else images.source]


def _check_place(directory: Path, of: list[str]) -> None:
    """Raise ConfigError where ``directory`` holds the explanation of another run, checkpoint or images."""
    try:
        there = json.loads(read_bytes_of(directory / "manifest.json", 1 << 30))["made from"].get("of", of)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    if there != of:
        said = " on ".join(map(str, there)) if isinstance(there, list) else there
        raise ConfigError(f"{directory} holds the explanation of {said}. Name another folder: hydra.run.dir=PATH.")


def _write_pictures(
    directory: Path, manifest: pd.DataFrame, images: Shown, cams: NDArray[np.float32], progress: Any
) -> None:
    for name in FOLDERS:
        folder = directory / name
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            if OWN_FILE.fullmatch(old.name):
                old.unlink()
    for done, row in enumerate(manifest.to_dict("records"), 1):
        i = row["index"]
        np.save(directory / row["map"], cams[i])
        large = enlarged(cams[i], images.sizes[i] or (images.pixels.shape[3], images.pixels.shape[2]))
        np.save(directory / row["map_at_image_size"], large.astype(np.float16))
        grey = Image.fromarray((255 * large).round().astype(np.uint8))
        grey.save((directory / row["map_at_image_size"]).with_suffix(".png"))
        _overlay(images, cams[i], row).save(directory / row["overlay"])
        progress(done / len(manifest))


def enlarged(cam: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map at another size (width, height), bilinear: (height, width)."""
    large = F.interpolate(torch.from_numpy(cam)[None, None], size[::-1], mode="bilinear", align_corners=False)
    found: NDArray[np.float32] = large[0, 0].clamp(0, 1).numpy()
    return found


def _overlay(images: Shown, cam: NDArray[np.float32], row: Mapping[Any, Any]) -> Image.Image:
    """Image and overlay side by side under two lines of text."""
    left, right = panels(images, cam, row["index"])
    side, gap, head = left.shape[0], 6, 40
    sheet = Image.new("RGB", (2 * side + gap, side + head), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    first, second = _title(row)
    draw.text((4, 2), _fitted(str(row["path"]), draw, font, 2 * side - 4), fill="black", font=font)
    colour = {True: RIGHT, False: WRONG}.get(row["correct"], "black")
    draw.text((4, 20), _fitted(f"{first}; {second}", draw, font, 2 * side - 4), fill=colour, font=font)
    sheet.paste(Image.fromarray(left), (0, head))
    sheet.paste(Image.fromarray(right), (side + gap, head))
    return sheet


def _fitted(text: str, draw: ImageDraw.ImageDraw, font: Any, width: float) -> str:
    """The end of a text that is too long."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"...{text}", font) > width:
        text = text[1:]
    return f"...{text}"


def panels(images: Shown, cam: NDArray[np.float32], i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image and the same under its map, enlarged, with the mask's outline: two (S', S', 3)."""
    pixels = images.pixels[i].expand(3, -1, -1).permute(1, 2, 0).numpy()
    side = max(SIDE, pixels.shape[0])
    picture = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)).copy()
    coloured = 255 * matplotlib.colormaps[GAZE_COLOURS](enlarged(cam, (side, side)))[..., :3]
    over = ((1 - ALPHA) * picture + ALPHA * coloured).round().astype(np.uint8)
    if images.masks is not None:
        mask = F.interpolate(images.masks[i : i + 1].float(), (side, side), mode="bilinear") >= 0.5
        edge = (F.max_pool2d(mask.float(), 3, 1, 1) - mask.float())[0, 0].numpy() > 0
        for panel in (picture, over):
            panel[edge] = [int(OUTLINE[k : k + 2], 16) for k in (1, 3, 5)]
    return picture, over


def _title(row: Mapping[Any, Any]) -> tuple[str, str]:
    """Classes, and deviation."""
    if row["true"] is None:
        first = f"predicted {row['predicted']} ({row['probability']:.2f}), truth unknown"
    elif row["correct"]:
        first = f"{row['true']}: right ({row['probability']:.2f})"
    else:
        first = f"{row['true']}, predicted {row['predicted']}"
    if row["empty_map"]:
        return first, "no gaze: map is all zero"
    if math.isnan(row["deviation"]):
        return first, "no class mean to compare with"
    more = "" if math.isnan(row["percentile"]) else f" (percentile {row['percentile']:.0f})"
    return first, f"deviation {row['deviation']:.3f}{more}"


def _write_manifest(
    directory: Path, manifest: pd.DataFrame, images: Shown, typical: Typical, provenance: Mapping[str, Any]
) -> list[Path]:
    table = manifest.drop(columns="index")
    write_csv(directory / "manifest.csv", table)
    rows = [{key: None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")]
    facts = {
        "images": images.source,
        "class_explained": "the true class where a folder above the file is named after a class of the run, else the "
        "predicted one; column because says which",
        "deviation": "squared (Eq. 9), from the class's mean gaze over the run's correct evaluation images",
        "correct images behind each class mean": typical.counts.tolist(),
        "note": typical.note,
        "unreadable": images.unreadable,
        "made from": dict(provenance),
        "rows": rows,
    }
    write_json(directory / "manifest.json", facts)
    return [directory / "manifest.csv", directory / "manifest.json"]


# ---- the page


def summary(images: Shown, typical: Typical, manifest: pd.DataFrame, classes: list[str]) -> list[str]:
    """What was looked at and found, a sentence or two each."""
    known = manifest["true"].notna()
    right = int(manifest["correct"].eq(True).sum())
    lines = [f"{len(manifest)} images from {images.source}."]
    if known.any():
        lines.append(f"{right} of {int(known.sum())} with a known class are classified correctly.")
    if not known.all():
        lines.append(f"{int((~known).sum())} have no known class: their predicted class is explained.")
    far = manifest[manifest["percentile"] > 95]
    if manifest["percentile"].notna().any():
        lines.append(
            f"{len(far)} are looked at differently from their class: they deviate more than 95 % of its correct "
            f"evaluation images do ({0.05 * len(manifest):.0f} would be expected of images like those)."
        )
    if manifest["empty_map"].any():
        lines.append(f"{int(manifest['empty_map'].sum())} have an all-zero map: no gaze.")
    if (~manifest["empty_map"] & manifest["deviation"].isna()).any():
        lines.append("Some are of a class without a correct evaluation image: there is no mean to deviate from.")
    few = [f"{name} ({n})" for name, n in zip(classes, typical.counts, strict=True) if n < FEW]
    if few:
        lines.append(f"Classes with a mean over few correct evaluation images: {', '.join(few)}. Read them with care.")
    changed = manifest["changed"].astype(bool).sum()
    if changed:
        lines.append(f"{changed} were converted or resized as the training images were (column changed).")
    if images.unreadable:
        lines.append(f"{len(images.unreadable)} files cannot be read and were left out (manifest.json names them).")
    lines += [f"{note[0].upper()}{note[1:]}." for note in images.notes]
    return lines + ([typical.note] if typical.note else [])


def sections(
    one: Opened, images: Shown, typical: Typical, manifest: pd.DataFrame, cams: NDArray[np.float32]
) -> list[Section]:
    """The page from top to bottom: the worst first."""
    ranked, rest = manifest[manifest["rank"].notna()], manifest[manifest["rank"].isna()]
    found = [Section("Most unlike their class", (), tuple(_figures(images, ranked.head(PAGE), cams, "unlike")))]
    if len(rest):
        found.append(Section("Without a gaze", (), tuple(_figures(images, rest.head(FIGURE), cams, "empty"))))
    means = class_gaze_figure(
        torch.from_numpy(typical.gaze), typical.counts.tolist(), one.classes, "mean gaze of each class"
    )
    item = FigureItem("class-gaze", "What they are held against: mean gaze over the correct evaluation images", means)
    found += [
        Section("The classes", (), (item,)),
        Section("All images", (), (_table(manifest, one.classes),)),
        Section("How to read this", tuple(text.format(one.run.method) for text in HOW_TO_READ), ()),
    ]
    return [section for section in found if section.items or section.text]


def _figures(images: Shown, rows: pd.DataFrame, cams: NDArray[np.float32], name: str) -> list[FigureItem]:
    items = []
    for start in range(0, len(rows), FIGURE):
        part = rows.iloc[start : start + FIGURE]
        what = f"rank {start + 1} to {start + len(part)}" if name == "unlike" else "all-zero maps"
        items.append(FigureItem(f"{name}-{start // FIGURE + 1}", f"Image and gaze, {what}", _sheet(images, part, cams)))
    return items


def _sheet(images: Shown, rows: pd.DataFrame, cams: NDArray[np.float32]) -> Figure:
    """Image and overlay side by side, ROW pairs in a row."""
    columns = min(ROW, len(rows))
    lines = -(-len(rows) // columns)
    figure = new_figure(2.75 * columns, 1.95 * lines)
    axes = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, row in zip(axes, rows.to_dict("records"), strict=False):
        left, right = panels(images, cams[row["index"]], row["index"])
        axis.imshow(np.concatenate([left, np.full((len(left), 8, 3), 255, np.uint8), right], 1))
        name = Path(str(row["path"])).name
        name = name if len(name) <= 34 else f"...{name[-31:]}"
        rank = "" if pd.isna(row["rank"]) else f"{row['rank']}. "
        colour = {True: RIGHT, False: WRONG}.get(row["correct"], "black")
        axis.set_title("\n".join([f"{rank}{name}", *_title(row)]), fontsize=SMALL - 0.5, color=colour, loc="left")
    return figure


def _table(manifest: pd.DataFrame, classes: list[str]) -> TableItem:
    shown = pd.DataFrame(
        {
            "rank": None if pd.isna(row["rank"]) else str(row["rank"]),
            "image": row["path"],
            "explained": f"{row['explained']} ({row['because'].split()[0]})",
            "predicted": row["predicted"],
            "probability": number(row["probability"]),
            "deviation": "map is zero" if row["empty_map"] else number(row["deviation"], 4),
            "percentile": number(row["percentile"], 0),
            "times median": number(row["times_median"], 2),
            "probabilities": _probabilities(row, classes),
            "changed": row["changed"] or None,
        }
        for row in manifest.to_dict("records")
    )
    note = "Probability: of the class that is explained. Probabilities: of the likeliest classes; manifest.csv has all."
    return TableItem("images", "Every image, worst first", manifest.drop(columns="index"), shown, (note,))


def _probabilities(row: Mapping[Any, Any], classes: list[str]) -> str:
    """``cat 0.91, dog 0.09``, the likeliest first."""
    order = sorted(classes, key=lambda name: -row[f"probability of {name}"])
    return listed((f"{name} {row[f'probability of {name}']:.2f}" for name in order), most=4)


def _print(lines: list[str], manifest: pd.DataFrame, classes: list[str], console: Console) -> None:
    for line in lines:
        say(console, line, whole=False)
    columns = ["rank", "image", "explained", "predicted", "deviation", "percentile"]
    print_table(console, "Most unlike their class", _table(manifest.head(10), classes).shown[columns])
