"""The use in another project: names from the package itself, the examples, the notebook, half precision."""

import ast
import pickle
import re
import runpy
import subprocess
import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import REPO
from torch import nn

import gaze
from gaze import CohenKappa, GazeConsistency, GazeConsistencyLoss, grad_cam, normalize_cam

EXAMPLES = REPO / "examples"


# ---- names


def test_names_are_listed_without_loading_anything():
    code = "import sys, gaze; print(*dir(gaze), gaze.__version__, hasattr(gaze, 'nope'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    names = sorted([*gaze.__all__, "__version__"])
    assert done.stdout.split() == [*names, version("gaze-consistency"), "False", "False"]


@pytest.mark.parametrize("package", ["gaze", "gaze.data", "gaze.runs", "gaze.training"])
def test_type_checkers_see_the_names_in_the_modules_that_they_come_from(package):
    loaded = import_module(package)
    tree = ast.parse(Path(loaded.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: import_module(f"{package}.{node.module}") for node in froms for alias in node.names}
    assert sorted(seen) == sorted(loaded.__all__)
    assert [name for name, home in seen.items() if getattr(loaded, name) is not getattr(home, name)] == []
    assert (REPO / "gaze" / "py.typed").exists()


def test_names_can_be_pickled():
    values = [getattr(gaze, name) for name in gaze.__all__]
    assert [value for value in values if pickle.loads(pickle.dumps(value)) is not value] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No gaze attribute GazeConsistancy"):
        _ = gaze.GazeConsistancy
    with pytest.raises(ImportError, match="GazeConsistancy"):
        from gaze import GazeConsistancy  # noqa: F401


@pytest.mark.parametrize("made", [GazeConsistencyLoss, GazeConsistency, CohenKappa])
def test_objects_can_be_pickled(made):
    again = pickle.loads(pickle.dumps(made(3)))
    assert type(again) is made and again.num_classes == 3


# ---- a network that is not ours


def network() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    return body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def step(body, head, gaze_loss, x, y, preds=None, enabled=True, dtype=torch.bfloat16):
    """Cross entropy, gaze loss and maps of a batch, under autocast where ``enabled``."""
    with torch.autocast("cpu", dtype, enabled=enabled):
        features = body(x)
        logits = head(features)
        cam = normalize_cam(grad_cam(features, logits.gather(1, y[:, None]).squeeze(1), create_graph=True))
        return F.cross_entropy(logits, y), gaze_loss(cam, logits.argmax(1) if preds is None else preds, y), cam


def gradients(*parts):
    return [p.grad for part in parts for p in part.parameters()]


@pytest.mark.parametrize("reference", ["ema", "batch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_under_autocast_is_nearly_that_in_float32(dtype, reference):
    torch.manual_seed(0)
    x, y, losses, grads = torch.randn(8, 3, 16, 16), torch.arange(8) % 2, [], []
    for enabled in (False, True):
        body, head = network()
        _, loss, cam = step(body, head, GazeConsistencyLoss(2, reference=reference), x, y, y, enabled, dtype)
        loss.backward()
        assert cam.dtype == torch.float32
        losses.append(loss.detach().float())
        grads.append(torch.cat([g.flatten() for g in gradients(body)]))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.0)
    assert F.cosine_similarity(*grads, dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_class_gaze_stays_in_float32_under_autocast(dtype):
    gaze_loss, (body, head) = GazeConsistencyLoss(2), network()
    for _ in range(2):
        step(body, head, gaze_loss, torch.randn(8, 3, 16, 16), y := torch.arange(8) % 2, y, dtype=dtype)
    assert gaze_loss.class_gaze.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 3.0])
def test_a_flat_map_of_any_precision_becomes_zero_with_a_finite_gradient(level, dtype):
    cam = torch.full((2, 3, 3), level, dtype=dtype, requires_grad=True)
    scaled = normalize_cam(cam)
    scaled.sum().backward()
    assert (scaled == 0).all() and cam.grad.isfinite().all()


@pytest.mark.parametrize("reference", ["ema", "batch"])
@pytest.mark.parametrize("distance", ["squared", "l2"])
@pytest.mark.parametrize("case", ["one image", "all wrong", "a class never seen"])
def test_a_batch_that_says_little_leaves_loss_and_gradients_finite(case, distance, reference):
    count = 1 if case == "one image" else 8
    y = torch.zeros(count, dtype=torch.int64) if case == "a class never seen" else torch.arange(count) % 2
    preds = 1 - y if case == "all wrong" else y
    body, head = network()
    gaze_loss = GazeConsistencyLoss(2, distance, reference)
    loss_cls, loss, cam = step(body, head, gaze_loss, torch.randn(count, 3, 16, 16), y, preds, enabled=False)
    (loss_cls + 50 * loss).backward()
    assert (loss > 0) == (case == "a class never seen")
    assert all(g.isfinite().all() for g in gradients(body, head))
    metric = GazeConsistency(2, distance)
    metric.update(cam, preds, y)
    assert metric.compute().isfinite() == (case == "a class never seen")


# ---- examples


@pytest.fixture
def random_stream_kept():
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def printed(capsys) -> list[dict[str, float]]:
    """Names and numbers of each epoch's line."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    return [
        {name: float(value) for name, value in re.findall(r"([a-z][a-z ]*[a-z]) +(-?[\d.]+)", line)} for line in lines
    ]


@pytest.mark.parametrize("name", ["own_loop", "own_lightning"])
def test_example_learns_and_measures(name, capsys, monkeypatch, tmp_path, random_stream_kept):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    rows = printed(capsys)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert all(-1 <= row["kappa"] <= 1 and 0 <= row["gaze consistency"] <= 1 for row in rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_notebook_goes_from_a_folder_to_an_atlas(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    book = nbformat.read(EXAMPLES / "gaze_atlas.ipynb", 4)
    (place,) = [i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", [])]
    small = "model, image_size, lambdas, epochs, drawn = 'level1', 32, (50,), 1, {'train': 16, 'test': 16}"
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(small))
    nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [o for cell in book.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 5  # mean gaze, overlays, furthest, nearest, atlas
    assert (tmp_path / "runs" / "lambda=50" / "metrics.csv").exists()


def test_notebook_is_stored_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.read(EXAMPLES / "gaze_atlas.ipynb", 4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}
