"""The plan of the house: wings import one way, rooms of studies/ do not see each other, what must start fast does."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

HOUSE = REPO / "gaze"
WINGS = (  # a wing imports only from itself and from those before it
    "names", "errors", "files", "terminal", "choices", "measures", "config", "cam", "data", "backbones", "consistency",
    "metrics", "runs", "statistics", "report", "training", "studies", "cli", "start",
)  # fmt: skip
MOVED = {"compare": "metrics.compare", "datamodule": "data.datamodule", "module": "training.module"}
ALIASES = {HOUSE / f"{old}.py" for old in ("__init__", *MOVED)}
MODULES = sorted(set(HOUSE.rglob("*.py")) - ALIASES)
HEAVY = ("torch", "lightning", "torchvision", "kagglehub", "requests", "tensorboard")


def imports(path: Path, top: bool = False) -> set[str]:
    """Modules that a file imports by absolute names; with ``top`` only those loaded with it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top else ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            found |= {node.module or ""} if node.module != "gaze" else {f"gaze.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def place(path: Path) -> list[str]:
    return list(path.relative_to(HOUSE).with_suffix("").parts)


def test_wings_import_one_way_and_rooms_do_not_see_each_other():
    wrong, arrows = [], set()
    rooms = {path.name for path in (HOUSE / "studies").iterdir() if path.is_dir()}
    for path in MODULES:
        here = place(path)
        for name in imports(path):
            there = name.split(".")[1:] if name.startswith("gaze.") else []
            if not there:
                continue
            if WINGS.index(there[0]) > WINGS.index(here[0]):
                wrong.append(f"{'/'.join(here)} imports {name}, which is of a later wing")
            if here[0] == there[0] == "studies" and len(there) > 1:
                strangers = rooms - {here[1]} if here[1] in rooms else (set() if here[1] == "run" else rooms)
                if there[1] in strangers:
                    wrong.append(f"{'/'.join(here)} imports {name}, another room")
            arrows |= {(here[0], there[0])} if here[0] != there[0] else set()
    assert wrong == []
    assert {("training", "consistency"), ("studies", "training"), ("studies", "data")} <= arrows  # the finder finds


def test_public_names_have_docstrings():
    bare = []
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [n for n in tree.body if not getattr(n, "name", "_").startswith("_")]  # functions and classes
        bare += [f"{path}: {getattr(n, 'name', '')}" for n in [tree, *public] if not ast.get_docstring(n)]
    assert bare == []


def test_no_download_client_before_something_is_downloaded_and_no_pandas_in_training():
    before = [p for p in MODULES if WINGS.index(place(p)[0]) <= WINGS.index("training")]
    for path in before:
        roots = {name.partition(".")[0] for name in imports(path, top=True)}
        assert not roots & {"kagglehub", "kagglesdk", "requests"}, path
    assert_free("gaze.training.train", ("pandas", "kagglehub", "kagglesdk"))


def test_names_in_a_run_folder_stand_in_one_file():
    names = {"config.json", "metrics.csv", "maps.npz", "audit.json", "environment.json", "checkpoints", "pictures"}
    found = {}
    for path in [*MODULES, *REPO.glob("hydra_plugins/*/*.py")]:
        texts = {n.value for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)}
        found |= {path.relative_to(REPO).as_posix(): names & texts} if names & texts else {}
    assert found == {"gaze/runs/run.py": names}


SHOWN_BY = {  # the only files that make a call which would show a name as something else
    "print": {"terminal.py", "errors.py"}, "Table": {"terminal.py"}, "Figure": set(), "to_csv": {"names.py"},
    "writer": {"runs/kept_maps.py", "runs/predictions.py", "runs/screening.py"},
    "DictWriter": {"training/callbacks.py"},
}  # fmt: skip


def test_names_are_shown_by_one_function_a_place():
    """Terminal: ``gaze.terminal``, or ``print(visible(...))``; CSV: ``gaze.names``; figures: ``style.new_figure``."""
    strangers = set()
    for path in [*MODULES, *REPO.glob("hydra_plugins/*/*.py")]:
        name = path.relative_to(HOUSE).as_posix() if path.is_relative_to(HOUSE) else path.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            inner = node.args[0] if node.args else None
            escaped = isinstance(inner, ast.Call) and getattr(inner.func, "id", "") in ("visible", "as_page")
            if called == "print" and (escaped or isinstance(inner, ast.Constant)):
                continue
            if called in SHOWN_BY and name not in SHOWN_BY[called]:
                strangers.add(f"{name}:{node.lineno} {called}")
    assert strangers == set()


def assert_free(modules: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", modules


def test_settings_load_nothing_heavy():
    assert_free("gaze, gaze.config.train, gaze.config.analysis, gaze.runs.folder", (*HEAVY, "pandas", "matplotlib"))


def test_the_analysis_does_without_pytorch_and_windows():
    assert_free("gaze.studies.run, gaze.studies.consistency.analysis", (*HEAVY, "matplotlib.pyplot"))


@pytest.mark.parametrize("old", MOVED)
def test_older_names_stay_importable(old):
    sys.modules.pop(f"gaze.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"has moved to gaze.{MOVED[old]}"):
        alias = importlib.import_module(f"gaze.{old}")
    new = importlib.import_module(f"gaze.{MOVED[old]}")
    names = [name for name in vars(new) if not name.startswith("_")]
    assert names
    assert all(getattr(alias, name) is getattr(new, name) for name in names)


def test_fixed_names_are_where_users_call_them():
    fixed = {
        "gaze.cam": "grad_cam normalize_cam", "gaze.consistency": "gaze_deviation GazeConsistencyLoss curriculum",
        "gaze.metrics": "GazeConsistency compare_maps", "gaze.backbones": "build_backbone", "gaze.runs": "load_runs",
        "gaze.training": "GazeModule", "gaze.data": "GazeDataModule", "gaze.statistics": "pearson_table",
    }  # fmt: skip
    for wing, names in fixed.items():
        module = importlib.import_module(wing)
        assert [name for name in names.split() if not callable(getattr(module, name))] == []
