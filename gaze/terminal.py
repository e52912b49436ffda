"""What the terminal shows: progress while something long goes on, and tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:  # who only wants to say a line need not wait for it
    import pandas as pd


def say(console: Console, line: str) -> None:
    """A line as it is: no markup, and whole, so that a path can be copied."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(console: Console, what: str) -> Iterator[Any]:
    """A progress bar; yields a function that takes the share that is done."""
    if not console.is_terminal:
        say(console, f"{what} ...")
        yield lambda share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def table(title: str, columns: Collection[str], rows: Iterable[Iterable[str]], right: Collection[str] = ()) -> Table:
    """A table of texts; the columns named in ``right`` are aligned there."""
    view = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        view.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        view.add_row(*row)
    return view


def print_table(console: Console, title: str, shown: pd.DataFrame, right: Collection[str] = ()) -> None:
    """Print a frame of texts, "-" where there is none."""
    texts = shown.astype(object).where(shown.notna(), "-").astype(str)
    console.print(table(title, list(map(str, shown)), texts.itertuples(index=False, name=None), right))
