"""One way through the house: a module imports only from modules above it in the list."""

import ast
import subprocess
import sys

import pytest
from conftest import REPO

ORDER = [
    "data_config", "model_config", "analysis_config", "config", "naming", "allocator", "status", "folder", "grid",
    "screening", "phantom", "audit", "cache", "decode", "listing", "masks", "ultrasound", "datasets",
    "augment", "transforms", "datamodule", "backbones", "layers", "adapters",
    "cam", "distances", "consistency", "metrics", "c_score", "mask_metrics", "module",
    "pictures", "callbacks", "checkpoints", "training",
    "tidy", "arm_names", "runs", "maps", "published", "statistics", "compare", "arms", "compared",
    "bootstrap", "effects", "association", "questions", "provenance",
    "drawing", "atlas", "plots", "profile_plots", "moved_plots", "latex", "report", "tables", "study_tables",
    "findings", "study_findings", "store", "pairs", "study", "study_report",
    "faithfulness", "one_run", "checking", "check_plots", "check_report", "explaining", "explain_report", "analysis",
]  # fmt: skip
MODULES = sorted(path.stem for path in (REPO / "gaze").glob("*.py") if path.stem != "__init__")
HEAVY = ("torch", "lightning", "kagglehub", "requests", "pandas", "matplotlib", "tensorboard")


def tree(module: str) -> ast.Module:
    return ast.parse((REPO / "gaze" / f"{module}.py").read_text(encoding="utf-8"))


def imported(module: str) -> set[str]:
    """Modules of this package that ``module`` imports, also inside functions."""
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"gaze/{module}.py: write absolute imports"
            base = node.module or ""
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)} if base == "gaze" else {base}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("gaze.")}


def test_package_is_flat_and_every_module_has_its_place():
    assert set(MODULES) <= set(ORDER)
    assert [path.name for path in (REPO / "gaze").iterdir() if path.is_dir() and path.name != "__pycache__"] == []


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_above(module):
    assert imported(module) <= set(ORDER[: ORDER.index(module)])


def test_the_import_finder_sees_this_package():
    assert {"callbacks", "config", "module"} <= imported("training")


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_docstrings(module):
    documented = [tree(module)]
    documented += [
        node
        for node in documented[0].body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [getattr(node, "name", module) for node in documented if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", MODULES)
def test_module_can_be_read_in_one_sitting(module):
    assert len((REPO / "gaze" / f"{module}.py").read_text(encoding="utf-8").splitlines()) <= 400


def test_import_of_the_package_and_its_config_loads_nothing_heavy():
    code = f"import sys, gaze, gaze.config; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [m for m in MODULES if ORDER.index(m) <= ORDER.index("training")])
def test_training_loads_no_download_client_before_it_downloads(module):
    at_import = [node for node in tree(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
    roots = {alias.name.split(".")[0] for node in at_import for alias in node.names if isinstance(node, ast.Import)}
    roots |= {(node.module or "").split(".")[0] for node in at_import if isinstance(node, ast.ImportFrom)}
    assert roots & {"kagglehub", "kagglesdk", "requests", "pandas"} == set()


def test_the_analysis_does_without_torch():
    code = "import sys, gaze.analysis; print([m for m in ('torch', 'lightning', 'torchvision') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
