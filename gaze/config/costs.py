"""``costs.yaml``: what it costs to take an image of one class for another, by the classes' names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from gaze.choices import did_you_mean, shown
from gaze.errors import ConfigError
from gaze.files import read_bytes_of

MOST_BYTES = 1 << 22  # of the file: 500 classes
MOST_COST = 1e9
MOST_NAMED = 8  # problems in a message
FORM = "Write a line a true class, such as 'tumour: {tumour: 0, healthy: 5}': what each prediction costs."


class Costs(NamedTuple):
    """Costs as the file has them.

    Attributes:
        path: of the file.
        given: the cost by (true class, prediction), 0..MOST_COST.
    """

    path: Path
    given: Mapping[tuple[str, str], float]

    def check(self, sets: Iterable[Sequence[str]]) -> None:
        """Hold the names against the classes of all data sets that the file is to serve.

        Raises:
            ConfigError: names every cost that is missing, and every name that is no class, with the nearest.
        """
        sets = [list(classes) for classes in sets]
        known = {name for classes in sets for name in classes}
        named = dict.fromkeys(name for pair in self.given for name in pair)
        problems = [f"{shown(n)} is no class. {did_you_mean(n, known, 1)}".rstrip() for n in named if n not in known]
        missing = dict.fromkeys(text for classes in sets for text in self._missing(classes))
        _raise(self.path, [*problems, *missing])

    def matrix(self, classes: Sequence[str]) -> NDArray[np.float64]:
        """(K, K), truth down, prediction across. A right prediction costs 0 where the file says nothing of it.

        Raises:
            ConfigError: as :meth:`check`, but for names that are no class of these.
        """
        _raise(self.path, self._missing(classes))
        return np.array([[self.given.get((t, p), 0.0) for p in classes] for t in classes])

    def _missing(self, classes: Sequence[str]) -> list[str]:
        rows = {truth for truth, _ in self.given}
        pairs = ((t, p) for t in classes for p in classes if t in rows and t != p and (t, p) not in self.given)
        return [
            *(f"class {shown(name)} is missing" for name in classes if name not in rows),
            *(f"what it costs to take {shown(t)} for {shown(p)} is missing" for t, p in pairs),
        ]


def read_costs(path: str | Path) -> Costs:
    """Read a file of costs: a mapping of true classes to mappings of predictions to numbers.

    Names are text as they stand, also "no" and "1". A negative cost is refused: a benefit is told by raising the costs
    of the other predictions of that class, which changes no decision.

    Raises:
        ConfigError: the file cannot be read; names every entry that is twice there or is no number from 0 up.
    """
    path = Path(path).expanduser()
    try:
        top = yaml.compose(read_bytes_of(path, MOST_BYTES).decode(), yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"costs={shown(path, 200)} cannot be read: {shown(why, 200)}. {FORM}") from error
    given, problems = dict[tuple[str, str], float](), list[str]()
    for truth, row in _entries(top, problems, ""):
        for prediction, node in _entries(row, problems, f"{shown(truth)}: "):
            cost = _number(node)
            given[truth, prediction] = cost
            if not 0 <= cost <= MOST_COST:
                value = shown(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
                problems.append(f"{shown(truth)}: {shown(prediction)}: {value} must be a number, 0 to {MOST_COST:g}")
    _raise(path, problems)
    return Costs(path, given)


def _entries(node: yaml.Node | None, problems: list[str], where: str) -> Iterator[tuple[str, yaml.Node]]:
    """Names and values of a mapping; what is none, or has a name twice, is a problem."""
    if not isinstance(node, yaml.MappingNode) or not node.value:
        problems.append(f"{where}must map names of classes")
        return
    seen = set[str]()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
        if name in seen:
            problems.append(f"{where}{shown(name)} stands there twice")
        seen.add(name)
        yield name, value


def _number(node: yaml.Node) -> float:
    try:
        return float(node.value) if isinstance(node, yaml.ScalarNode) else math.nan
    except ValueError:
        return math.nan


def _raise(path: Path, problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise ConfigError(f"costs={shown(path, 200)}: {'; '.join(problems[:MOST_NAMED])}{more}. {FORM}")
