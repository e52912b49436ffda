"""tests/lowest.txt names the lower bounds of pyproject.toml, so that one command installs what they promise."""

import tomllib

from conftest import REPO
from packaging.requirements import Requirement
from packaging.version import Version

NEWEST_ONLY = {"gaze-consistency", "ruff", "mypy", "pandas-stubs"}  # ourselves, and the linters


def test_the_constraints_are_the_stated_bounds():
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    stated = map(
        Requirement,
        [
            *project["dependencies"],
            *extras["slurm"],
            *extras["timm"],
            *extras["medical"],
            *extras["review"],
            *extras["test"],
        ],
    )
    bounds = {
        r.name: s.version for r in stated for s in r.specifier if s.operator == ">=" and r.name not in NEWEST_ONLY
    }
    lines = (REPO / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned.keys() == bounds.keys()
    assert [name for name in bounds if Version(bounds[name]) != Version(pinned[name])] == []
