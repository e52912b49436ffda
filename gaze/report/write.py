"""Tables, figures and text to a report: files for a paper, one page for a reader. Knows nothing of what they show.

    directory/report.html           one self-contained page: no script, nothing fetched
    directory/report.md             the same in Markdown, with links to figures/ and tables/
    directory/tables/NAME.csv       full precision
    directory/tables/NAME.{md,tex}  as a reader sees it; LaTeX with booktabs
    directory/figures/NAME.{png,pdf}

The same input gives the same bytes.
"""

from __future__ import annotations

# ruff: noqa: RUF001  the look-alike signs are what this module translates
import base64
import json
import re
import struct
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
import tabulate  # type: ignore[import-untyped]
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from pylatexenc.latexencode import (  # type: ignore[import-untyped]
    RULE_DICT,
    UnicodeToLatexConversionRule,
    UnicodeToLatexEncoder,
)

from gaze.errors import ConfigError
from gaze.files import atomic_path, check_links
from gaze.names import csv_text, visible

DPI = 130  # of the PNGs; the page shows them at CSS's 96 pixels an inch, so that they stay sharp when enlarged
NONE = "–"  # a cell without a value
SHORT = 300  # characters of a provenance value above which it is folded away
LONG = 24  # rows above which a table is folded in the page, left to its file in report.md, and a longtable in LaTeX
POINTS = 5  # sentences above the contents at most
WIDE = 95  # characters of a row above which a LaTeX table is shrunk to the line
NAME = re.compile(r"[a-z0-9_-]+")
WHOLE = re.compile(r"\[[^\]]*\]|\S+ ± \S+")  # parts of a cell that stay on one line: "[0.87, 0.90]", "0.88 ± 0.01"
NUMBER = re.compile(r"[<>≤≥≈=]?\s*[−+±-]?\s*\.?\d")  # a cell that opens with a number: "−0.63 ± 0.12", "< 0.001"
LATEX = UnicodeToLatexEncoder(
    # What its own table has not, or has for other fonts: "|" is a dash in LaTeX's own.
    conversion_rules=[
        UnicodeToLatexConversionRule(RULE_DICT, {ord("|"): r"\textbar{}", ord('"'): "''", 0x2011: "-", 0x202F: r"\,"}),
        "defaults",
    ],
    unknown_char_policy=lambda character: "?",
    unknown_char_warning=False,
)
OWNED = {"tables": (".csv", ".md", ".tex"), "figures": (".png", ".pdf")}

# What Markdown would take for markup. "_" inside a word, "[" without "(" behind it and "-0.5" are plain text anyway.
MARKDOWN = re.compile(
    r"[\\`*|<~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|\](?=[(:\[])|^(?:>|#(?=#*\s)|[+-](?=[\s-]))|(?<=^\d)[.)](?=\s)"
)


class TableItem(NamedTuple):
    """A table, twice: as numbers and as a reader sees it.

    Args:
        name: of its files, of ``a-z 0-9 _ -``.
        caption: one line of plain text.
        frame: numbers and keys, to CSV; the index is not written.
        shown: what a reader sees, text in every cell; NaN and None become "–". One level of columns.
        notes: plain text below the table.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    shown: pd.DataFrame
    notes: tuple[str, ...] = ()


class FigureItem(NamedTuple):
    """A figure, drawn at its own size in inches; it stays the caller's, nothing closes it.

    Args:
        name: of its files, of ``a-z 0-9 _ -``.
        caption: one line of plain text; also what a screen reader says instead of the picture.
        figure: on white.
        notes: plain text below the picture.
    """

    name: str
    caption: str
    figure: Figure
    notes: tuple[str, ...] = ()


class Section(NamedTuple):
    """A heading, paragraphs of plain text, then tables and figures, then a list of sentences."""

    title: str
    text: tuple[str, ...]
    items: tuple[TableItem | FigureItem, ...]
    points: tuple[str, ...] = ()


class _Table(NamedTuple):
    """A table as the writers need it: text on one line in each cell."""

    kind: str
    number: int
    name: str
    caption: str
    notes: tuple[str, ...]
    columns: list[str]
    rows: list[list[str]]
    numeric: list[bool]  # columns to be aligned on the right
    csv: str


class _Picture(NamedTuple):
    kind: str
    number: int
    name: str
    caption: str
    notes: tuple[str, ...]
    png: bytes
    pdf: bytes

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels."""
        width, height = struct.unpack(">II", self.png[16:24])  # PNG's first chunk, IHDR
        return round(width * 96 / DPI), round(height * 96 / DPI)


_Entry = _Table | _Picture


class _Part(NamedTuple):
    """A section as the writers need it: text on one line each."""

    heading: str
    paragraphs: list[str]
    entries: list[_Entry]
    points: list[str]


class _Report(NamedTuple):
    title: str
    lead: list[_Part]
    summary: list[str]
    parts: list[_Part]
    facts: list[tuple[str, str, str]]  # key, one line, JSON or ""


def write_report(
    title: str,
    summary: Sequence[str],
    sections: Sequence[Section],
    provenance: Mapping[str, Any],
    directory: Path,
    lead: Sequence[Section] = (),
) -> list[Path]:
    """Write everything that the module's docstring lists, and remove what an earlier report left beside it.

    ``tables/`` and ``figures/`` belong to the report: files there that it could have written and did not write this
    time are removed; others stay. Each file appears whole or not at all.

    Args:
        title: of the report.
        summary: what it found, a sentence or two each; a list above the contents. Of its and ``lead``'s sentences the
            first ``POINTS`` stand there, the others right behind the contents.
        sections: in their order.
        provenance: what it was made from, such as versions and settings; may be nested. JSON-like.
        directory: made if absent.
        lead: what stands first, above the summary.

    Returns:
        Every path written.

    Raises:
        ValueError: a name that two items share or that has other characters than ``a-z 0-9 _ -``; a table whose
            columns have more than one level.
        ConfigError: the directory cannot be written.
        DataError: a link in its ``tables/`` or ``figures/`` leads out of it.
    """
    check_links(directory, *OWNED)
    _check_items([item for section in (*lead, *sections) for item in section.items])
    lead, summary, further = _shortened(lead, summary)
    sections = [*further, *sections]
    parts = _prepare([*lead, *sections])
    files: dict[str, bytes] = {}
    for entry in (entry for part in parts for entry in part.entries):
        files |= _table_files(entry) if isinstance(entry, _Table) else _picture_files(entry)
    kept = ((key, *_fact(value)) for key, value in provenance.items())
    facts = [(visible(str(key)), visible(text), visible(code)) for key, text, code in kept]
    lines = [_line(text) for text in summary]
    report = _Report(_line(title), parts[: len(lead)], lines, parts[len(lead) :], facts)
    files["report.md"] = _encode(_markdown_report(report))
    files["report.html"] = _encode(_html_report(report))
    try:
        return _write_files(directory, files)
    except OSError as error:
        raise ConfigError(
            f"The report cannot be written to {directory}: {error.strerror or error}. Name a folder that can be "
            "written, and close programs that hold its files open."
        ) from error


def _shortened(lead: Sequence[Section], summary: Sequence[str]) -> tuple[list[Section], Sequence[str], list[Section]]:
    """Both with ``POINTS`` sentences in all, and sections with the others."""
    kept, further, room = [], [], POINTS
    for section in lead:
        kept.append(section._replace(points=section.points[:room]))
        further.append(Section(f"{section.title}: further", (), (), section.points[room:]))
        room -= len(kept[-1].points)
    further.append(Section("Further findings", (), (), tuple(summary[room:])))
    return kept, summary[:room], [section for section in further if section.points]


def _check_items(items: Sequence[TableItem | FigureItem]) -> None:
    seen: set[str] = set()
    for item in items:
        if not NAME.fullmatch(item.name):
            raise ValueError(f"name={item.name!r} of a table or figure may only have a-z, 0-9, _ and -.")
        if item.name in seen:
            raise ValueError(f"Two tables or figures have the name {item.name!r}.")
        if isinstance(item, TableItem) and item.shown.columns.nlevels > 1:
            raise ValueError(
                f"Table {item.name!r} has columns of {item.shown.columns.nlevels} levels, one is possible."
            )
        seen.add(item.name)


def _prepare(sections: Sequence[Section]) -> list[_Part]:
    """Draw and format everything; tables and figures are numbered through the whole report."""
    numbers = {TableItem: 0, FigureItem: 0}
    parts: list[_Part] = []
    for section in sections:
        entries: list[_Entry] = []
        for item in section.items:
            numbers[type(item)] += 1
            number = numbers[type(item)]
            entries.append(_table(item, number) if isinstance(item, TableItem) else _picture(item, number))
        paragraphs, points = ([_line(text) for text in texts] for texts in (section.text, section.points))
        parts.append(_Part(_line(section.title), paragraphs, entries, points))
    return parts


def _table(item: TableItem, number: int) -> _Table:
    rows = [[_cell(value) for value in row] for row in item.shown.itertuples(index=False, name=None)]
    columns = [_line(str(column)) for column in item.shown.columns]
    numeric = [_is_numeric([row[i] for row in rows]) for i in range(len(columns))]
    csv = csv_text(item.frame)
    notes = tuple(_line(note) for note in item.notes)
    return _Table("table", number, item.name, _line(item.caption), notes, columns, rows, numeric, csv)


def _picture(item: FigureItem, number: int) -> _Picture:
    figure, png, pdf = item.figure, BytesIO(), BytesIO()
    layout, dpi = figure.get_layout_engine(), figure.dpi
    # savefig would draw each file twice, and lay out each time, which takes as long. What would differ from one day or
    # machine to the next is left out of the files.
    try:
        figure.dpi = DPI
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
        figure.set_layout_engine("none")
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    finally:
        figure.dpi = dpi
        figure.set_layout_engine(layout or "none")
    notes = tuple(_line(note) for note in item.notes)
    return _Picture("figure", number, item.name, _line(item.caption), notes, png.getvalue(), pdf.getvalue())


def _cell(value: Any) -> str:
    return NONE if pd.api.types.is_scalar(value) and pd.isna(value) else _line(str(value))


def _line(text: str) -> str:
    """``text`` on one line, as :func:`gaze.names.visible`; hard and thin spaces stay."""
    return visible(re.sub("[\t\n\r\x85\u2028\u2029 ]+", " ", text)).strip(" ")


def _is_numeric(cells: list[str]) -> bool:
    """Whether every cell opens with a number or is empty, and not all are empty."""
    filled = [cell for cell in cells if cell not in ("", NONE)]
    return bool(filled) and all(NUMBER.match(cell) for cell in filled)


def _table_files(table: _Table) -> dict[str, bytes]:
    base = f"tables/{table.name}"
    markdown = "\n\n".join([_markdown(table.caption), *_markdown_table(table)]) + "\n"
    return {f"{base}.csv": _encode(table.csv), f"{base}.md": _encode(markdown), f"{base}.tex": _encode(_latex(table))}


def _picture_files(picture: _Picture) -> dict[str, bytes]:
    return {f"figures/{picture.name}.png": picture.png, f"figures/{picture.name}.pdf": picture.pdf}


def _markdown(text: str) -> str:
    return MARKDOWN.sub(r"\\\g<0>", text)


def _markdown_table(table: _Table) -> list[str]:
    """The table, and a paragraph for each note."""
    rows = [[_markdown(cell) for cell in row] for row in table.rows]
    align = ["right" if numeric else "left" for numeric in table.numeric]
    head = [_markdown(column) for column in table.columns]
    grid = _grid(rows, headers=head, tablefmt="pipe", disable_numparse=True, colalign=align if rows else None)
    return [grid, *(_markdown(note) for note in table.notes)]


def _grid(rows: list[list[str]], **settings: Any) -> str:
    """``tabulate``, which otherwise pads other widths where another package has brought wcwidth."""
    before = tabulate.WIDE_CHARS_MODE
    tabulate.WIDE_CHARS_MODE = False
    try:
        return str(tabulate.tabulate(rows, **settings))
    finally:
        tabulate.WIDE_CHARS_MODE = before


def _markdown_report(report: _Report) -> str:
    blocks = [f"# {_markdown(report.title)}"]
    blocks += [block for part in report.lead for block in _markdown_part(part)]
    blocks += ["## Summary"] if report.lead and report.summary else []
    blocks += [_markdown_list(report.summary)]
    blocks += [block for part in report.parts for block in _markdown_part(part)]
    blocks += ["## Provenance"] if report.facts else []
    for key, text, code in report.facts:
        blocks += [f"**{_markdown(key)}**: {_markdown(text)}", *([f"```json\n{code}\n```"] if code else [])]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _markdown_part(part: _Part) -> list[str]:
    blocks = [f"## {_markdown(part.heading)}", *(_markdown(text) for text in part.paragraphs)]
    for entry in part.entries:
        blocks += [f"**{entry.kind.capitalize()} {entry.number}.** {_markdown(entry.caption)}"]
        if isinstance(entry, _Picture):
            alt = re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", _markdown(entry.caption))
            blocks += [f"![{alt}](figures/{entry.name}.png)", *(_markdown(note) for note in entry.notes)]
            blocks += [f"[PDF](figures/{entry.name}.pdf)"]
            continue
        long = len(entry.rows) > LONG
        kinds = {"Markdown": "md"} if long else {}
        kinds |= {"CSV": "csv", "LaTeX": "tex"}
        links = [f"[{label}](tables/{entry.name}.{end})" for label, end in kinds.items()]
        blocks += [f"{len(entry.rows)} rows, in a file of their own:"] if long else _markdown_table(entry)
        blocks += [" · ".join(links)]
    return [*blocks, _markdown_list(part.points)]


def _markdown_list(texts: Sequence[str]) -> str:
    return "\n".join(f"- {_markdown(text)}" for text in texts)


def latex_text(text: str) -> str:
    """Plain text for pdfLaTeX, in ASCII; a character that LaTeX has no command for becomes "?"."""
    code: str = LATEX.unicode_to_latex(unicodedata.normalize("NFC", text))
    return code.replace("--", "-{}-")  # which would become a dash


def _latex_cell(text: str) -> str:
    code = latex_text(text)
    return f"{{{code[0]}}}{code[1:]}" if code[:1] in ("[", "*") else code  # "\\ [" and "\\*" have a meaning


def _latex(table: _Table) -> str:
    """A float; a long table is a longtable, which breaks across pages. A wide one is shrunk."""
    frame = pd.DataFrame([[*map(_latex_cell, row)] for row in table.rows], columns=[*map(_latex_cell, table.columns)])
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    wide, long = sum(widths) + 2 * len(widths) > WIDE, len(table.rows) > LONG
    code = frame.style.hide(axis="index").to_latex(
        column_format="".join("r" if numeric else "l" for numeric in table.numeric), hrules=True,
        caption=latex_text(table.caption), label=f"tab:{table.name}", environment="longtable" if long else "table",
        position=None if long else "htbp", position_float=None if long else "centering",
    )  # fmt: skip
    notes = "".join(f"\\par\\smallskip{{\\footnotesize {latex_text(note)}\\par}}\n" for note in table.notes)
    if long:
        small = "\\footnotesize\\setlength{\\tabcolsep}{3pt}\n" if wide else ""
        return f"% \\usepackage{{booktabs,longtable}}\n\\begingroup\n{small}{code}{notes}\\endgroup\n"
    if wide:
        code = code.replace("\\begin{tabular}", "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}")
        code = code.replace("\\end{tabular}", "\\end{tabular}}")
    packages = "booktabs,graphicx" if wide else "booktabs"
    return f"% \\usepackage{{{packages}}}\n" + code.replace("\\end{table}", f"{notes}\\end{{table}}")


def _fact(value: Any) -> tuple[str, str]:
    """A provenance value as (one line, ""), or as (what it is, JSON) where it is nested or long."""
    if not isinstance(value, Mapping | list | tuple):
        return _cell(value), ""
    inner = list(value.values() if isinstance(value, Mapping) else value)
    if not any(isinstance(v, Mapping | list | tuple) for v in inner):
        words = [f"{key} {_cell(v)}" for key, v in value.items()] if isinstance(value, Mapping) else map(_cell, inner)
        text = ", ".join(words)
        if len(text) <= SHORT:
            return text or NONE, ""
    count = "1 entry" if len(inner) == 1 else f"{len(inner)} entries"
    return count, visible(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _html_report(report: _Report) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template("page.html.j2").render(report=report, long=LONG)


def _unbroken(cell: str) -> str:
    """A cell that may wrap, but not inside an interval or before its SD."""
    return WHOLE.sub(lambda part: part[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a file name from the disk may hold what UTF-8 has no code for


def _write_files(directory: Path, files: Mapping[str, bytes]) -> list[Path]:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(directory / name) as part:
            part.write_bytes(content)
    for path in _stale(directory, files):
        path.unlink()
    return [directory / name for name in files]


def _stale(directory: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """What an earlier report wrote and this one did not."""
    for folder, endings in OWNED.items():
        for path in sorted((directory / folder).glob("*")):
            ours = path.suffix in endings and NAME.fullmatch(path.stem) is not None and path.is_file()
            if ours and f"{folder}/{path.name}" not in files:
                yield path
