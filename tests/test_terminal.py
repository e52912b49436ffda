"""Tables in a terminal: what is too wide is left out and named, not broken."""

import io

import pandas as pd
import pytest
from rich.console import Console

from gaze.terminal import print_table

SHOWN = pd.DataFrame(
    {
        "model": ["level1", "level2"],
        "what it says": ["no clear difference", "less consistent, more class structure"],
        "kappa": ["0.851 ± 0.012", None],
        "L_CAM": ["0.0502 [0.0401, 0.06]", "0.0013 [0.0010, 0.02]"],
    }
)


def printed(width, shown=SHOWN):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_table(console, "A table", shown, ("kappa", "L_CAM"))
    return console.file.getvalue()


def test_where_there_is_room_each_row_is_a_line():
    text = printed(120)
    assert [line.split()[0] for line in text.splitlines() if "level" in line] == ["level1", "level2"]
    assert "less consistent, more class structure" in text and "in the report" not in text
    assert next(line for line in text.splitlines() if "level2" in line).split()[-4] == "-"


@pytest.mark.parametrize("width", range(20, 90))
def test_no_number_is_broken_and_what_is_left_out_is_named(width):
    text = printed(width)
    assert all(len(line) <= width for line in text.splitlines() if "in the report" not in line)
    left_out = text.partition("and ")[2].partition(": in the report")[0].split(", ") if "in the report" in text else []
    for column in SHOWN:
        assert (column in left_out) != (column.split()[0] in text.partition("──")[0])
        if column in ("kappa", "L_CAM") and column not in left_out:
            assert all(cell in text for cell in SHOWN[column].dropna())
    if "what it says" not in left_out:
        assert all(word in text for cell in SHOWN["what it says"] for word in cell.split())


def test_a_long_file_name_is_folded_and_whole():
    name = "a" * 50 + ".png"
    assert name in "".join(printed(40, pd.DataFrame({"file": [name]})).split()).replace("─", "")
