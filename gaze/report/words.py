"""Numbers as a reader wants them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd


def number(value: Any, digits: int = 3) -> str | None:
    """A rounded number; None, which a table shows as a dash, where there is none."""
    if value is None or math.isnan(value):
        return None
    text = f"{value:.{digits}f}"
    return text.replace("-", "", 1) if float(text) == 0 else text  # no "-0.00"


def estimate(mean: float, low: float, high: float, n: int, digits: int = 3) -> str | None:
    """Mean with its interval, such as ``0.884 [0.871, 0.897]``; ``0.884 (1 run)`` where there is one."""
    if math.isnan(mean):
        return None
    if n == 1:
        return f"{number(mean, digits)} (1 run)"
    if math.isnan(low):
        return number(mean, digits)
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"


def with_sd(mean: float, sd: float, digits: int = 3) -> str | None:
    """Mean and SD, such as ``0.884 ± 0.012``; the mean alone where there is no SD."""
    first, second = number(mean, digits), number(sd, digits)
    return first if first is None or second is None else f"{first} \N{PLUS-MINUS SIGN} {second}"


def p_value(p: float) -> str | None:
    """A p to three digits; "< 0.001" below that; None where there is none."""
    if math.isnan(p):
        return None
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def each(table: pd.DataFrame) -> list[Any]:
    """Rows as tuples with names; the column lambda is called weight."""
    return list(table.rename(columns={"lambda": "weight"}).itertuples())


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names one after another, of many the first ones and how many more there are."""
    texts = list(names)
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
