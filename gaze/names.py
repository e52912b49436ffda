"""Names that somebody chose, as text: on a terminal, a page or a figure, in a CSV, in a file's name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # who trains does without it
    import pandas as pd

LONGEST = 90  # characters of a part of a file's name; file systems take 255 bytes, but a name is read by people


def printable(text: str) -> str:
    """A name of a file as one line that any UTF-8 file takes: line breaks, other control characters and bytes that are
    no UTF-8 (surrogates, in Python) are escaped as in a Python string.
    """
    return _escaped(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", text)


def visible(text: str) -> str:
    """Text as a person sees it on a terminal, a page or a figure: lines and tabs stay; other control characters, what
    turns the direction of the letters around it (Unicode's bidi controls), and surrogates are escaped.
    """
    return _escaped(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", text)


def _escaped(characters: str, text: str) -> str:
    return re.sub(characters, lambda found: ascii(found[0])[1:-1], text)


def slug(text: str, taken: Collection[str] = ()) -> str:
    """Text as a part of a file's name, ``a-z 0-9 _ -``, and none that is ``taken``. Of what is longer than
    :data:`LONGEST` a beginning stays, and eight hex digits of the whole."""
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-") or "part"
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9]}-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    while name in taken:
        name = f"{name}-{len(taken)}"
    return name


def shown_name(path: str, place: int, private: bool, part: str = "") -> str:
    """What an image is called on a page, a picture, in a picture's name and in the audit: its path or, where paths may
    hold patients' ids (``private``), its place in its part, from 0, as in ``maps.npz`` and a part's rows in
    ``split.csv``; there ``part`` stands before it.
    """
    return f"{part} image {place}".strip() if private else path


# A spreadsheet runs a cell that begins so, as the text itself or behind what another country's takes for a separator.
FORMULA = re.compile(r"(^|[;\t\r\n])('*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_cell(value: Any) -> Any:
    """A value as it goes into a CSV: of text that a spreadsheet would run as a formula, an apostrophe stands before the
    sign. Numbers stay, also those that are text.
    """
    return FORMULA.sub(r"\1'\2", value) if isinstance(value, str) and not NUMBER.fullmatch(value) else value


def csv_value(cell: Any) -> Any:
    """What :func:`csv_cell` was given."""
    return re.sub(FORMULA.pattern.replace("('*)", "'('*)"), r"\1\2", cell) if isinstance(cell, str) else cell


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV, without its index, each text and name of a column as :func:`csv_cell`."""
    safe = _in_texts(table, csv_cell)
    text = safe.to_csv(index=False, lineterminator="\n")
    return safe.to_csv(index=False, lineterminator="\r\n") if "\r" in text else text  # else a name's own stays bare


def csv_values(table: pd.DataFrame) -> pd.DataFrame:
    """A table that was read from a CSV, each text and name of a column as :func:`csv_value`."""
    return _in_texts(table, csv_value)


def _in_texts(table: pd.DataFrame, change: Any) -> pd.DataFrame:
    """Each different text is looked at once: long tables hold few."""
    table = table.copy(deep=False)
    for place, kind in enumerate(table.dtypes):
        if kind.kind == "O":
            column = table.iloc[:, place].astype(object)
            new = {old: change(old) for old in column.unique() if isinstance(old, str)}
            table.isetitem(place, [new[value] if isinstance(value, str) else value for value in column])
    return table.rename(columns=change)
