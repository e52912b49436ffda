"""The report's files: what each format holds, awkward text in all of them, and what happens in the folder.

The tables' files are compared with tests/fixtures/golden/report; GAZE_RENEW_GOLDEN=1 writes them anew.
"""

# ruff: noqa: RUF001  the look-alike signs are meant
import base64
import csv
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FIXTURES
from matplotlib.figure import Figure

from gaze.errors import ConfigError, DataError
from gaze.names import csv_value
from gaze.report.write import LONG, FigureItem, Section, TableItem, write_report

GOLDEN = FIXTURES / "golden" / "report"
RENEW = os.environ.get("GAZE_RENEW_GOLDEN") == "1"
AWKWARD = [
    *("<script>alert(1)</script>", "a & b &amp; c", "x|y", "chest_xray", "_both_", "5 %", "0.1 ± 0.2", "η² = −0.5"),
    *("λ ≥ 50 κ̄ é ß", "$1 #2 {3} ~4 ^5", "back\\slash", "[0, 1)", "*bold* `code`", "10⁻³ × H′", "Müller"),
    *("# head", "- dash", "--flag", "![a](b)", "a\\|b", "1. one", '“x” – ‘y’ — … "z"', "> more", "–"),
]
NUMBERS = np.array([0.1 + 0.2, -1e-17, 1 / 3, np.nan, 5e-324, 1e300, *np.random.default_rng(0).normal(size=18)])


def awkward_table(name: str = "awkward") -> TableItem:
    frame = pd.DataFrame({"text": AWKWARD, "value": NUMBERS, "count": range(24)})
    cells = ["–" if np.isnan(v) else f"{v:.3g} ± 1".replace("-", "−") for v in NUMBERS]
    shown = pd.DataFrame({"text": AWKWARD, "η² [95 %]": cells, "count_|n|": map(str, range(24))})
    return TableItem(
        name, "Awkward & <b>bold</b> text, 5 % of η²_c | all", frame, shown, ("A note: α_k & <i>.", "Two.")
    )


def plain_table(name: str = "plain", rows: int = 2, columns: int = 2) -> TableItem:
    frame = pd.DataFrame({f"column_{c}": np.arange(rows) + c / 8 for c in range(columns)})
    return TableItem(name, f"Plain {name}", frame, frame.astype(str))


def curve(name: str = "curve", caption: str = "A curve in [0, 1) of <κ>") -> FigureItem:
    figure = Figure(figsize=(3.0, 2.0), layout="constrained")
    figure.subplots().plot([1, 2, 3], [0.3, 0.1, 0.2])
    return FigureItem(name, caption, figure)


def write(folder: Path, *items: TableItem | FigureItem, **changes) -> list[Path]:
    """A report of one section with these items."""
    given = {
        "title": "Report <1> & more",
        "summary": ["First & *foremost*.", "Second: r = −0.5."],
        "sections": [Section("Does κ follow?", ("A paragraph with <script>.", "Another one."), items)],
        "provenance": {"made": "2026-01-01", "versions": {"pandas": "3.0"}, "config": {"a": {"b": [1, "<c>"]}}},
        **changes,
    }
    return write_report(**given, directory=folder)


def expected(item: TableItem) -> list[list[str]]:
    return [list(item.shown.columns), *item.shown.to_numpy().tolist()]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(folder, awkward_table(), curve(), plain_table(), plain_table("long", rows=LONG + 1))
    return folder


def test_five_sentences_at_most_stand_above_the_contents_and_none_is_lost(tmp_path):
    lead = [Section(name, (f"Of {name}.",), (), tuple(f"{name} {i}." for i in range(3))) for name in ("a", "b")]
    write(tmp_path, summary=["First.", "Second."], lead=lead)
    page = (tmp_path / "report.html").read_text()
    above, below = page[: page.index('id="contents"')], page[page.index('id="contents"') :]
    assert re.findall(r"<li>(.*?)</li>", above) == ["a 0.", "a 1.", "a 2.", "b 0.", "b 1."]
    rest = re.findall(r"<h2[^>]*>(.*?)</h2>|<li>([^<]*)</li>", below[below.index("<main>") :])
    assert [a or b for a, b in rest][:4] == ["b: further", "b 2.", "Further findings", "First."]
    assert (
        "Second." in below
        and 'id="summary"' not in page
        and "## Further findings" in (tmp_path / "report.md").read_text()
    )
    write(tmp_path, summary=[f"{i}." for i in range(5)])
    assert "Further findings" not in (tmp_path / "report.html").read_text()


def test_an_interval_stays_on_one_line_where_its_cell_wraps(tmp_path):
    cells = ["0.884 [0.871, 0.897]", "0.894 (here 64 px)", "0.88 ± 0.01, one class"]
    write(tmp_path, TableItem("x", "X", pd.DataFrame(), pd.DataFrame({"a": cells})))
    shown = re.findall(r"<td[^>]*>(.*?)</td>", (tmp_path / "report.html").read_text())
    assert shown == ["0.884 [0.871,\xa00.897]", "0.894 (here 64 px)", "0.88\xa0±\xa00.01, one class"]
    assert cells[0] in (tmp_path / "tables" / "x.md").read_text()


def test_every_file_is_written_and_returned(tmp_path):
    paths = write(tmp_path / "new" / "folder", plain_table(), curve())
    names = ["tables/plain.csv", "tables/plain.md", "tables/plain.tex", "figures/curve.png", "figures/curve.pdf"]
    assert paths == [tmp_path / "new" / "folder" / name for name in [*names, "report.md", "report.html"]]
    assert sorted(paths) == sorted(path for path in tmp_path.rglob("*") if path.is_file())


# CSV


def test_csv_read_back_is_the_frame_bit_for_bit(report):
    frame = awkward_table().frame
    raw = (report / "tables/awkward.csv").read_bytes()
    assert b"\r" not in raw
    head, *rows = csv.reader(StringIO(raw.decode(), newline=""))
    assert head == list(frame)
    assert [csv_value(row[0]) for row in rows] == AWKWARD
    assert np.array([float(row[1] or "nan") for row in rows]).tobytes() == frame["value"].to_numpy().tobytes()
    assert [int(row[2]) for row in rows] == frame["count"].tolist()


# Markdown


def unescape(text: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Tables of pipes, as GitHub reads them: a pipe with a backslash before it is text."""
    blocks = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    return [
        [
            [unescape(cell.strip()) for cell in re.findall(r"((?:\\.|[^|\\])*)\|", line[1:])]
            for line in block.splitlines()
        ]
        for block in blocks
    ]


def test_markdown_read_back_is_what_is_shown(report):
    whole = markdown_tables((report / "report.md").read_text(encoding="utf-8"))
    for item in (awkward_table(), plain_table()):
        head, rule, *rows = markdown_tables((report / f"tables/{item.name}.md").read_text(encoding="utf-8"))[0]
        assert [head, *rows] == expected(item)
        assert all(re.fullmatch(":-+|-+:", cell) for cell in rule)
        assert [head, rule, *rows] in whole


def test_markdown_aligns_numbers_on_the_right(report):
    rule = markdown_tables((report / "tables/awkward.md").read_text(encoding="utf-8"))[0][1]
    assert [cell[-1] for cell in rule] == ["-", ":", ":"]


def test_markdown_paragraph_is_plain_text(tmp_path):
    escaped = {
        "*a* `b` <c> $d$": r"\*a\* \`b\` \<c> \$d\$", "_a_ but chest_xray": r"\_a\_ but chest_xray",
        "&amp; but a & b": r"\&amp; but a & b", "[a](b) but [0, 1]": r"[a\](b) but [0, 1]",
        "# a": r"\# a", "- a": r"\- a", "1. a": r"1\. a", "-0.5 #1 1.5": "-0.5 #1 1.5",
    }  # fmt: skip
    write(tmp_path, sections=[Section("S", tuple(escaped), ())])
    assert "\n\n".join(["## S", *escaped.values()]) in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_markdown_report_holds_the_text_and_links_to_files(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    assert text.startswith(
        "# Report \\<1> & more\n\n- First & \\*foremost\\*.\n- Second: r = −0.5.\n\n## Does κ follow?\n"
    )
    links = re.findall(r"\]\(([^)]*)\)", re.sub(r"\\.", "", re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)))
    assert len(links) == 2 * 2 + 3 + 2
    assert all((report / link).is_file() for link in links)
    assert "![A curve in \\[0, 1) of \\<κ>](figures/curve.png)" in text
    assert "**made**: 2026-01-01\n\n**versions**: pandas 3.0\n\n**config**: 1 entry\n\n```json\n{\n" in text


# LaTeX


def tex(report: Path, name: str) -> str:
    return (report / f"tables/{name}.tex").read_text(encoding="ascii")  # fails on anything else


def test_latex_is_balanced_has_no_special_sign_unescaped_and_equal_cells_in_each_row(report):
    for table in (awkward_table(), plain_table(), plain_table("long", rows=LONG + 1)):
        text = tex(report, table.name)
        opened: list[str] = []
        for kind, environment in re.findall(r"\\(begin|end)\{(\w+)\}", text):
            if kind == "begin":
                opened.append(environment)
            else:
                assert opened.pop() == environment
        assert opened == []
        bare = re.sub(r"\\.", "", text)
        assert bare.count("{") == bare.count("}")
        assert text.startswith("% \\usepackage{booktabs")
        inside = re.sub(r"\\label\{[^}]*\}", "", text.split("\n", 1)[1])  # a label may hold "_"
        bare = re.sub(r"\\ensuremath\{(?:[^{}]|\{[^{}]*\})*\}", "", inside)  # mathematics may hold "^" and "_"
        bare = re.sub(r"\\[^a-zA-Z]", "", re.sub(r"\\\\$", "", bare, flags=re.MULTILINE))
        assert re.findall(r'[#$%_^~|<>"]', bare) == []
        rows = [line for line in bare.splitlines() if "&" in line]
        heads = 2 if "longtable" in text else 1  # a long one repeats its head on each page
        assert [row.count("&") for row in rows] == [len(table.shown.columns) - 1] * (len(table.shown) + heads)


def test_latex_of_awkward_cells(report):
    cells = [line.split(" & ")[0].strip() for line in tex(report, "awkward").splitlines() if " & " in line][1:]
    cells = dict(
        zip([a for a in AWKWARD if " & " not in a], [c for c in cells if not c.startswith("a \\&")], strict=True)
    )
    assert cells["chest_xray"] == r"chest\_xray"
    assert cells["5 %"] == r"5 \%"
    assert cells["0.1 ± 0.2"] == r"0.1 \ensuremath{\pm} 0.2"
    assert cells["η² = −0.5"] == r"\ensuremath{\eta}{\texttwosuperior} = \ensuremath{-}0.5"
    assert cells["x|y"] == r"x\textbar{}y"
    assert cells["[0, 1)"] == "{[}0, 1)"  # after "\\" a bracket would be its argument
    assert cells["Müller"] == r"M\"uller"
    assert cells["--flag"] == "-{}-flag"
    assert cells["10⁻³ × H′"] == r"10\ensuremath{^-}{\textthreesuperior} {\texttimes} H'"


def test_long_table_breaks_across_pages_and_wide_table_is_shrunk(tmp_path):
    write(tmp_path, *(plain_table(f"r{r}_c{c}", r, c) for r in (2, LONG, LONG + 1) for c in (2, 30)))
    for rows, columns, expected_parts in (
        (2, 2, {"tabular"}),
        (LONG, 2, {"tabular"}),
        (2, 30, {"tabular", "resizebox"}),
        (LONG + 1, 2, {"longtable"}),
        (LONG + 1, 30, {"longtable", "footnotesize"}),
    ):
        text = tex(tmp_path, f"r{rows}_c{columns}").split("\n", 1)[1]
        found = {part for part in ("tabular}", "resizebox", "longtable", "footnotesize") if part in text}
        assert {part.strip("}") for part in found} == expected_parts
        assert "\\toprule" in text and "\\midrule" in text and "\\bottomrule" in text
        assert f"\\caption{{Plain r{rows}\\_c{columns}}}" in text and f"\\label{{tab:r{rows}_c{columns}}}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on PATH (Debian: texlive-latex-recommended)")
def test_latex_compiles(tmp_path):
    signs = """&%$#_{}\\~^|"“”‘’–—‐‑…†‡§\u00a0\u2009\u202fßøØæœłαβγδεζηθικλμνξοπρςστυφχψωΓΔΘΛΞΠΣΥΦΨΩ
⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ₀₁₂₃₄₅₆₇₈₉₊₋<>−±×·÷≤≥≈≠→←↑↓∞√∑∈∂‖°µℓ∝½日""".replace("\n", "")
    everything = pd.DataFrame({"sign": list(signs), "number": ["1"] * len(signs)})
    accents = pd.DataFrame({"sign": list("àáâãāäåčçĩñŠžÉÖ"), "number": ["1"] * 15})
    items = [
        awkward_table(),
        plain_table("wide", columns=30),
        plain_table("long", LONG + 1, 30),
        plain_table("none", 0),
    ]
    items += [TableItem("signs", signs, everything, everything, (signs,))]
    items += [TableItem("accents", "Accents", accents, accents)]
    write(tmp_path, *items)
    inputs = "\n".join(f"\\input{{tables/{item.name}}}" for item in items)
    packages = "\\usepackage[T1]{fontenc}\n\\usepackage{booktabs,graphicx,longtable}"
    document = f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{inputs}\n\\end{{document}}\n"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


# HTML


class Page(HTMLParser):
    """Tables, alignment, links, pictures and ids of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.aligned: list[list[bool]] = []
        self.heads = 0
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "th":
            self.aligned += [[]] if len(self.tables[-1][-1]) == 1 else []
            self.aligned[-1].append(("class", "number") in attrs)
        self.heads += tag == "thead"

    def handle_data(self, data):
        self.text.append(data)
        if self.tags[-1:] in (["td"], ["th"]):
            self.tables[-1][-1][-1] += data.strip("\n")

    def values(self, name: str) -> list[str | None]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text(encoding="utf-8"))


def test_html_tables_hold_every_cell(page):
    items = [awkward_table(), plain_table(), plain_table("long", rows=LONG + 1)]
    hard = str.maketrans({"\N{NO-BREAK SPACE}": " "})  # inside of intervals
    assert [[[cell.translate(hard) for cell in row] for row in rows] for rows in page.tables] == [
        [[str(cell).translate(hard) for cell in row] for row in expected(item)] for item in items
    ]
    assert page.heads == 3
    assert page.aligned == [[False, True, True], [True, True], [True, True]]
    assert [value for value in page.values("class") if value and "scroll" in value] == [
        "scroll",
        "scroll",  # of the picture
        "scroll",
        "scroll long",
    ]


def test_html_has_no_script_and_refers_to_nothing_outside(page):
    assert set(page.tags) & {"script", "iframe", "object", "embed", "form", "base", "video", "audio"} == set()
    linked = [value for name in ("src", "href", "srcset", "action", "background") for value in page.values(name)]
    assert all(value.startswith(("data:", "#")) for value in linked)
    anchors = {value[1:] for value in linked if value.startswith("#")}
    assert anchors == {"section-1", "provenance", "table-awkward", "figure-curve", "table-plain", "table-long"}
    ids = page.values("id")
    assert anchors <= set(ids)
    assert len(ids) == len(set(ids))
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert set(page.values("aria-labelledby")) <= set(ids)


def test_html_policy_language_and_encoding(report, page):
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert policy in page.values("content")
    assert page.values("lang") == ["en"]
    assert page.values("charset") == ["utf-8"]
    styles = (report / "report.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in styles and "@import" not in styles


def test_html_embeds_the_very_picture(report, page):
    source = next(value for value in page.values("src") if value)
    assert (
        base64.b64decode(source.removeprefix("data:image/png;base64,")) == (report / "figures/curve.png").read_bytes()
    )
    assert page.values("alt") == ["A curve in [0, 1) of <κ>"]
    sizes = [
        int(value) for name in ("width", "height") for tag, n, value in page.attributes if (tag, n) == ("img", name)
    ]
    assert sizes == [3 * 96, 2 * 96]


def test_html_shows_text_and_provenance(page):
    text = "".join(page.text)
    for part in ("First & *foremost*.", "A paragraph with <script>.", "A note: α_k & <i>.", "pandas 3.0", '"<c>"'):
        assert part in text


def test_long_table_is_folded_with_its_notes_and_a_shorter_one_stays_open(tmp_path):
    for rows in (LONG, LONG + 1):
        item = plain_table("t", rows)._replace(notes=("A note.",))
        write(tmp_path, item, provenance={})
        html = (tmp_path / "report.html").read_text(encoding="utf-8")
        folded = re.search(r"<figure id=\"table-t\">.*?<details>(.*?)</details>.*?</figure>", html, re.DOTALL)
        assert (folded is not None) == (rows > LONG)
        assert html.count("A note.") == 1
        markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
        assert bool(markdown_tables(markdown)) == (rows <= LONG)
        if folded:
            assert f"<summary>{rows} rows; also in tables/t.csv beside this page</summary>" in folded[1]
            assert folded[1].count("<tr>") == rows + 1 and "A note." in folded[1]
            assert "25 rows, in a file of their own:\n\n[Markdown](tables/t.md) · [CSV](tables/t.csv)" in markdown


def test_lead_stands_first_with_its_figure_notes_and_sentences_then_the_summary(tmp_path):
    noted = curve()._replace(notes=("Hatched: <collapsed>.",))
    lead = [Section("In short", ("25 runs.",), (noted,), ("level1: worse.", "level2: *better*."))]
    sections = [Section("More", (), (plain_table(),)), Section("End", ("Bye.",), (), ("A point.",))]
    write(tmp_path, sections=sections, lead=lead)
    order = [
        "In short",
        "25 runs.",
        "Figure 1.",
        "Hatched",
        "level1",
        "better",
        "Summary",
        "foremost",
        "More",
        "Table 1",
    ]
    order += ["End", "Bye.", "A point.", "Provenance"]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert (
        "Hatched: \\<collapsed>.\n\n[PDF](figures/curve.pdf)\n\n- level1: worse.\n- level2: \\*better\\*.\n\n" in text
    )
    html = (tmp_path / "report.html").read_text(encoding="utf-8").partition("<body>")[2]
    shown = "".join(Page(html).text)
    contents = shown.index("Contents")
    assert shown.index("foremost") < contents < shown.index("Bye.")
    places = [shown.index(words) for words in order[:8]]
    assert places == sorted(places)
    assert Page(html).values("id")[:2] == ["lead-1", "figure-curve"]


# Cells and provenance


def test_missing_value_is_a_dash(tmp_path):
    shown = pd.DataFrame({"a": ["1", None, np.nan, pd.NA, pd.NaT]}, dtype=object)
    write(tmp_path, TableItem("t", "T", shown, shown))
    assert markdown_tables((tmp_path / "tables/t.md").read_text(encoding="utf-8"))[0][3:] == [["–"]] * 4


def test_what_counts_as_a_number(tmp_path):
    numbers = (["1", "–", ""], ["−0.63 ± 0.1", "< 0.001", ".5", "+2", "±3", "1e-5", "5 %"])
    for cells in (*numbers, ["level1"], ["1", "none"], ["–", ""]):
        shown = pd.DataFrame({"a": cells})
        write(tmp_path, TableItem("t", "T", shown, shown))
        assert ("\\begin{tabular}{r}" in tex(tmp_path, "t")) == (cells in numbers)
        assert ("\\begin{tabular}{l}" in tex(tmp_path, "t")) != (cells in numbers)


def test_line_breaks_do_not_break_a_table(tmp_path):
    shown = pd.DataFrame({"a\nb": ["c\r\nd\te", "f\u2028g"]})
    write(tmp_path, TableItem("t", "Two\nlines", shown, shown))
    head, _, *rows = markdown_tables((tmp_path / "tables/t.md").read_text(encoding="utf-8"))[0]
    assert [head, *rows] == [["a b"], ["c d e"], ["f g"]]
    assert "\\caption{Two lines}" in tex(tmp_path, "t")


def test_provenance_value_on_one_line(tmp_path):
    lines = [
        ("text", "text"), (1.5, "1.5"), (None, "–"), ({}, "–"), ([1, 2], "1, 2"), ({"a": 1, "b": None}, "a 1, b –"),
        ([[1], [2]], "2 entries"), (list(range(1000)), "1000 entries"), (Path("a/b"), "a/b"),
    ]  # fmt: skip
    write(tmp_path, provenance={f"key{i}": value for i, (value, _) in enumerate(lines)})
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert [line for i, (_, line) in enumerate(lines) if f"\n**key{i}**: {line}\n" not in text] == []


def test_report_without_anything(tmp_path):
    assert [path.name for path in write_report("Empty", [], [], {}, tmp_path)] == ["report.md", "report.html"]
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "# Empty\n"


# The folder


def test_stale_files_go_and_foreign_files_stay(tmp_path):
    write(tmp_path, plain_table("old"), plain_table("kept"), curve("old_curve"))
    foreign = [
        "tables/notes.txt",
        "tables/My Notes.md",
        "tables/x.png",
        "figures/x.csv",
        "README.md",
        "tables/sub/a.csv",
    ]
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    paths = write(tmp_path, plain_table("kept"), plain_table("new"))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*foreign, *(path.relative_to(tmp_path).as_posix() for path in paths)}
    assert all((tmp_path / name).read_text() == "mine" for name in foreign)


def test_same_input_same_bytes(tmp_path):
    contents = []
    for name in ("first", "second"):
        paths = write(tmp_path / name, awkward_table(), curve(), plain_table("long", LONG + 1))
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in paths})
    assert contents[0] == contents[1]
    picture = contents[0][Path("figures/curve.pdf")]
    assert b"CreationDate" not in picture
    assert b"Software" not in contents[0][Path("figures/curve.png")]


def test_names_that_are_no_file_names_or_come_twice(tmp_path):
    for name in ("", "A", "a b", "../a", "a.b", "é", "a\n"):
        with pytest.raises(ValueError, match="may only have a-z"):
            write(tmp_path, plain_table(name))
    with pytest.raises(ValueError, match="Two tables or figures have the name 'same'"):
        write(tmp_path, plain_table("same"), curve("same"))
    assert list(tmp_path.iterdir()) == []


def test_columns_of_two_levels(tmp_path):
    shown = pd.DataFrame([["1"]], columns=pd.MultiIndex.from_tuples([("a", "b")]))
    with pytest.raises(ValueError, match="columns of 2 levels"):
        write(tmp_path, TableItem("t", "T", shown, shown))


def test_folder_that_cannot_be_written(tmp_path):
    for number, in_the_way in enumerate(("parent", "parent/report/tables", "parent/report/report.html/x")):
        file = tmp_path / str(number) / in_the_way
        file.parent.mkdir(parents=True)
        file.write_text("a file")
        with pytest.raises(ConfigError, match=r"cannot be written to .*report.*Name a folder that can be written"):
            write(tmp_path / str(number) / "parent" / "report", plain_table())
    assert list(tmp_path.rglob(".*")) == []


def test_broken_write_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path, plain_table())
    before = (tmp_path / "report.html").read_bytes()

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write(tmp_path, plain_table(), title="Other")
    assert (tmp_path / "report.html").read_bytes() == before
    assert list(tmp_path.rglob(".*")) == []


def test_figure_stays_as_it_was(tmp_path):
    item = curve()
    before = item.figure.get_size_inches().tolist(), item.figure.dpi
    write(tmp_path, item)
    assert (item.figure.get_size_inches().tolist(), item.figure.dpi) == before


def test_golden(tmp_path):
    """Small, and without figures: matplotlib draws a little differently in each release."""
    write(tmp_path, awkward_table(), plain_table("long", LONG + 1))
    for name in ("tables/awkward.md", "tables/awkward.tex", "tables/long.tex", "report.html"):
        written, golden = tmp_path / name, GOLDEN / Path(name).name
        if RENEW:
            golden.parent.mkdir(parents=True, exist_ok=True)
            golden.write_bytes(written.read_bytes())
        assert written.read_text(encoding="utf-8") == golden.read_text(encoding="utf-8"), name


@pytest.mark.parametrize("name", ["tables", "figures"])
def test_links_out_of_the_folder_are_refused_and_their_files_stay(tmp_path, name):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "mine.csv").write_text("mine")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / name).symlink_to(tmp_path / "paper")
    with pytest.raises(DataError, match=f"{name} is a link out of its folder, to .*paper"):
        write(tmp_path / "report", plain_table())
    assert [path.name for path in (tmp_path / "paper").iterdir()] == ["mine.csv"]
    assert [path.name for path in (tmp_path / "report").iterdir()] == [name]
    (tmp_path / "disk").symlink_to(tmp_path / "elsewhere")  # the folder itself may be one
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "disk", plain_table())
    (tmp_path / "elsewhere" / "tables" / "plain.csv").unlink()
    (tmp_path / "elsewhere" / "tables" / "plain.csv").symlink_to("plain.md")
    write(tmp_path / "disk", plain_table())
    assert not (tmp_path / "elsewhere" / "tables" / "plain.csv").is_symlink()
