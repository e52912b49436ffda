"""What the terminal shows: lines, progress while something long goes on, and tables. Text stands there as it is: names
are no markup, no emoji codes, and cannot steer the terminal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gaze.names import visible

if TYPE_CHECKING:  # who only wants to say a line need not wait for it
    import pandas as pd

WHOLE = 22  # characters of a cell up to which it is not broken
EDGES = 3  # of a column beside its text


def plain(text: str, style: str = "") -> Text:
    """Text for rich that shows it as it is."""
    return Text(visible(text), style)


def say(console: Console, what: str | Table, whole: bool = True) -> None:
    """A line, ``whole`` so that a path can be copied, or wrapped between words; or a :func:`table`."""
    console.print(plain(what) if isinstance(what, str) else what, soft_wrap=whole and isinstance(what, str))


@contextmanager
def progress_bar(console: Console, what: str) -> Iterator[Any]:
    """A progress bar; yields a function that takes the share that is done."""
    if not console.is_terminal:
        say(console, f"{what} ...")
        yield lambda share: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def table(
    title: str,
    columns: Collection[str],
    rows: Iterable[Iterable[str]],
    right: Collection[str] = (),
    widths: Mapping[str, int] | None = None,
) -> Table:
    """A table of texts; the columns named in ``right`` are aligned there, those in ``widths`` are that wide."""
    view = Table(title=plain(title, "table.title"), title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        side: JustifyMethod = "right" if column in right else "left"
        view.add_column(plain(column), justify=side, overflow="fold", width=(widths or {}).get(column))
    for row in rows:
        view.add_row(*map(plain, row))
    return view


def print_table(console: Console, title: str, shown: pd.DataFrame, right: Collection[str] = ()) -> None:
    """Print a frame of texts, "-" where there is none. No number and no short word is broken: the last columns that the
    terminal has no room for are left out, and named.
    """
    texts = shown.astype(object).where(shown.notna(), "-").astype(str)
    cells = {str(column): [visible(text) for text in (str(column), *texts[column])] for column in texts}
    least = {column: max(map(_unbroken, own)) for column, own in cells.items()}
    room, kept = console.width - 1, list(cells)
    while len(kept) > 1 and sum(least[column] + EDGES for column in kept) > room:
        kept.pop()
    spare = room - sum(least[column] + EDGES for column in kept)
    widths = {}
    for column in kept:
        more = max(0, min(spare, max(map(cell_len, cells[column])) - least[column]))
        widths[column], spare = least[column] + more, spare - more
    say(console, table(title, kept, zip(*(cells[column][1:] for column in kept), strict=True), right, widths))
    if len(kept) < len(cells):
        say(console, f"and {', '.join(list(cells)[len(kept) :])}: in the report")


def _unbroken(text: str) -> int:
    """Columns of a terminal that a cell needs: a number stays whole, a text breaks at spaces."""
    whole = cell_len(text)
    if whole <= WHOLE and any(map(str.isdigit, text)):
        return whole
    return min(WHOLE, max(map(cell_len, text.split()), default=0))
