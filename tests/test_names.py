"""Names that somebody chose are shown as they are, wherever they are shown, and steer nothing there."""

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_up import made_up_runs
from matplotlib.text import Text
from rich.console import Console

from gaze.errors import ConfigError, GazeError
from gaze.names import LONGEST, NUMBER, csv_cell, csv_text, csv_value, csv_values, printable, slug, visible
from gaze.report.pictures import class_gaze_figure, figure_pixels
from gaze.report.style import new_figure
from gaze.report.write import Section, TableItem, latex_text, write_report
from gaze.runs.class_gaze import GazeMaps
from gaze.runs.tidy import read_tidy_csv, write_tidy_csv
from gaze.studies.consistency.plots import atlas_figure, curve_figure, eta_figure
from gaze.terminal import print_table, say, table

calm = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}  # on a busy machine
few = settings(max_examples=40, **calm)
PIECES = (
    "$", "\\frac{", "a$_$", "\\", "{", "}", "_", "^", "%", "#", "&", "~", "[left]", "[/b]", "[", "]", ":smile:", "=1+1",
    "+", "-", "@", "'", '"', ";", ",", "\t", "\n", "\r", "\x1b[31m", "\x1b]0;t\x07", "\x00", "\x9b", "\u202e", "\u2066",
    "\u2028", "\udce9", "<script>alert(1)</script>", "&amp;", "|", "`", "é", "日本", "שלום", "-5", "1e3", "x" * 300,
)  # fmt: skip
names = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), min_size=1, max_size=5).map("".join)
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
HOSTILE = ["$\\frac{$", "a$_$", "x[", "[/b]", "=1+1", ":smile:", "\x1b[31mred", "\u202egnp", "n" * 200]


def test_what_is_visible_steers_nothing_and_is_told_apart():
    assert visible("a\tb\nc é 日本 שלום [b] $x$ \\n") == "a\tb\nc é 日本 שלום [b] $x$ \\n"
    assert visible("\x1b[31m\x00\u202e\u2066\udce9\x9b") == r"\x1b[31m\x00\u202e\u2066\udce9\x9b"
    assert printable("a\nb\t") == r"a\nb\t"
    assert str(ConfigError("study=\x1b[2J")) == r"study=\x1b[2J"
    assert str(GazeError()) == ""


# ---- terminal


def terminal(**settings):
    return Console(file=io.StringIO(), width=2000, **settings)


@few
@given(names)
@example("[left]")
@example("[/b]")
@example(":smile:")
def test_a_terminal_shows_a_name_as_it_is(name):
    console = terminal()
    say(console, name)
    shown = visible(name).expandtabs(8)
    assert console.file.getvalue() == f"{shown}\n" or "\t" in name  # rich counts a tab's columns itself
    console = terminal(force_terminal=True, color_system=None)
    print_table(console, name, pd.DataFrame({name: [name]}))
    say(console, table(name, [name], [[name]]))
    text = console.file.getvalue()
    assert not STEERING.search(text)
    words = [word for line in visible(name).expandtabs(1).split("\n") for word in line.split()]
    assert [word for word in words if text.count(word) < 3 * 2 and word not in text.replace("\n", "")] == []


# ---- figures


def texts(figure):
    return {text.get_text() for text in figure.findobj(Text)}


@settings(max_examples=8, **calm)
@given(names.filter(lambda name: visible(name).strip()))
@example("$\\frac{$")
@example("a$_$")
@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
def test_a_figure_shows_a_name_as_it_is(name):
    figure = new_figure(3, 2)
    axis = figure.subplots()
    axis.set_title(name)
    axis.set_xticks([0, 1], [name, "b"])
    axis.set_yscale("log")
    axis.set_ylim(1e-3, 1)
    figure_pixels(figure, 40)
    drawn = figure.findobj(Text)
    assert [text.get_text() for text in (axis.title, axis.get_xticklabels()[0])] == [visible(name)] * 2
    assert [text for text in drawn if text.get_text() == visible(name) and text.get_parse_math()] == []
    numbers = [text for text in axis.get_yticklabels() if text.get_text()]
    assert numbers and all(text.get_parse_math() and "10^{" in text.get_text() for text in numbers)


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
def test_figures_of_a_study_with_such_names(monkeypatch):
    monkeypatch.setattr("gaze.report.style.DPI", 40)
    short = HOSTILE[:5]
    runs = made_up_runs(models=short, datasets=("$\\frac{$",), lambdas=(0.0, 50.0), seeds=(0,), epochs=2)
    gaze, counts = np.random.default_rng(0).random((2, 4, 4)), np.array([3, 0])
    maps = [GazeMaps("s", "$\\frac{$", name, 0.0, ("a$_$", "x["), gaze, counts) for name in short]
    curves, eta = curve_figure(runs, "$\\frac{$", "accuracy"), eta_figure(runs, "$\\frac{$")
    figures = [curves, eta, atlas_figure(maps, "$\\frac{$")]
    for figure in figures:
        figure_pixels(figure, 40)
        assert set(short) <= texts(figure)
    assert set(short) <= {text.get_text() for text in figures[1].legends[0].get_texts()}
    figure = class_gaze_figure(torch.from_numpy(gaze), [3, 0], short[:2], "a$_$")
    assert figure_pixels(figure, 40).std() > 0


# ---- CSV


@few
@given(names)
@example("'=1+1")
@example("-5;=1")
def test_a_spreadsheet_runs_no_name_and_it_is_read_back(name):
    cell = csv_cell(name)
    assert csv_value(cell) == name
    parts = re.split(r"[;\t\r\n]", cell)  # what other countries' spreadsheets take for cells
    assert NUMBER.fullmatch(cell) or [part for part in parts if part[:1] in tuple("=+-@")] == []
    name = printable(name)  # as it comes into a frame: a text of pyarrow's holds no bytes that are no UTF-8
    text = csv_text(pd.DataFrame({name: [name, "plain"], "b": [-1.5, 2.0]}))
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [[csv_value(value) for value in row] for row in rows] == [[name, "b"], [name, "-1.5"], ["plain", "2.0"]]


def test_numbers_and_what_is_missing_stay_in_a_csv():
    frame = pd.DataFrame({"n": [-1.5, 2], "mixed": ["-5", -3], "none": [None, "=x"], "flag": [True, 1]}, dtype=object)
    assert csv_text(frame) == "n,mixed,none,flag\n-1.5,-5,,True\n2.0,-3,'=x,1\n"
    assert csv_values(pd.read_csv(io.StringIO(csv_text(frame)))).equals(
        pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    )


def test_an_analysis_reads_its_own_csv_of_such_names(tmp_path):
    runs = pd.concat(
        [
            made_up_runs(study=name, models=("=m",), seeds=(0,), epochs=2)
            for name in ("=1+1", "'=1+1", "-5", "@a;=b", "a")
        ]
    )
    write_tidy_csv(runs, tmp_path / "epochs.csv")
    text = (tmp_path / "epochs.csv").read_text(encoding="utf-8")
    assert not re.search(r"(^|[,;])[=@]", text, re.MULTILINE)
    again = read_tidy_csv(tmp_path / "epochs.csv")
    pd.testing.assert_frame_equal(again, runs.reset_index(drop=True)[list(again)], check_dtype=False)


# ---- report and files


class Cells(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.cells, self.tags, self.inside = [], set(), False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")
        self.inside = tag == "td"

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data

    def handle_endtag(self, tag):
        self.inside = False


@settings(max_examples=10, **calm)
@given(names)
def test_a_report_shows_a_name_as_it_is(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("report")
    frame = pd.DataFrame({name: [name], "b": [1]})
    item = TableItem("t", name, frame, frame.astype(str), (name,))
    write_report(name, [name], [Section(name, (name,), (item,))], {name: {name: [name]}}, folder)
    page = Cells((folder / "report.html").read_text(encoding="utf-8"))
    line = visible(re.sub("[\t\n\r\x85\u2028\u2029 ]+", " ", name)).strip(" ")
    assert page.cells[0].replace("\N{NO-BREAK SPACE}", " ") == line.replace("\N{NO-BREAK SPACE}", " ")
    assert "script" not in page.tags
    for path in folder.rglob("*.*"):
        if path.suffix != ".csv":
            assert not STEERING.search(path.read_text(encoding="utf-8").replace("\r", ""))
    code = latex_text(line)
    assert code.isascii()
    assert not re.search(r"(?<!\\)[%#&$]", re.sub(r"\\ensuremath\{[^}]*\}", "", code))


@few
@given(names, names)
def test_a_name_is_a_short_part_of_a_file_name(one, other):
    first, second = slug(one), slug(other, [slug(one)])
    assert all(re.fullmatch(r"[a-z0-9_-]+", name) for name in (first, second))
    assert max(len(first), len(slug(other))) <= LONGEST
    assert first != second
    assert slug("n" * 200 + "a") != slug("n" * 200 + "b")
