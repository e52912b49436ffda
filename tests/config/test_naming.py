"""gaze.config.naming: a run's folder follows from its settings."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import REPO

from gaze.config.naming import LONGEST, gpu_share, number, other_overrides, unwritable


@pytest.mark.parametrize(("value", "name"), [(50, "50"), (50.0, "50"), (-100, "-100"), (1e-3, "0.001"), ("abc", "abc")])
def test_one_name_for_one_number(value, name):
    assert number(value) == name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], ""),
        (["model=level3", "lambda=50", "seed=1", "dataset=phantom", "study=x", "dataset.name=mine"], ""),
        (["resume=false", "rerun=true", "dataset.cache=off", "dataset.root=/a/b", "experiment=table2"], ""),
        (["gaze.distance=l2"], ",gaze.distance=l2"),
        (["+trainer.max_steps=10"], ",trainer.max_steps=10"),
        (["optimizer.lr=1e-3"], ",optimizer.lr=0.001"),
        (["augmentation.crop_scale=[0.9,1.0]"], ",augmentation.crop_scale=0.9,1.0"),
        (["trainer.max_epochs=3", "augmentation=none"], ",augmentation=none,trainer.max_epochs=3"),
        (["seed=1", "trainer.max_epochs=3", "trainer.max_epochs=4"], ",trainer.max_epochs=4"),
    ],
)
def test_other_overrides_stand_behind_the_seed(overrides, name):
    assert other_overrides(overrides) == name
    assert other_overrides(overrides[:1] + overrides[1:]) == name


def test_the_order_of_overrides_does_not_matter_and_writing_a_number_otherwise_neither():
    assert other_overrides(["a.b=1", "c=0.5"]) == other_overrides(["c=5e-1", "a.b=1.0"])


def test_names_are_short_and_safe_and_different():
    long = [other_overrides([f"a{i}.setting=value{last}" for i in range(20)]) for last in "xy"]
    odd = [other_overrides([f"a=x{sign}y"]) for sign in "/:é\n;"]
    assert len({*long, *odd}) == 7
    for name in (*long, *odd):
        assert len(name) <= LONGEST + 1
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+=,")


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ([], "outputs/default/phantom/level2/lambda=0/seed=0"),
        (["lambda=50.0", "seed=3", "study=a"], "outputs/a/phantom/level2/lambda=50/seed=3"),
        (["gaze.distance=l2"], "outputs/default/phantom/level2/lambda=0/seed=0,gaze.distance=l2"),
        (["model=torchvision"], "outputs/default/phantom/torchvision-resnet18/lambda=0/seed=0"),
        (["model=timm", "model.name=resnet18"], "outputs/default/phantom/timm-resnet18/lambda=0/seed=0"),
        (
            ["model=torchvision", "model.layer=layer3", "model.weights=default"],
            "outputs/default/phantom/torchvision-resnet18/lambda=0/seed=0,model.layer=layer3,model.weights=default",
        ),
        (["experiment=table2", "dataset=phantom"], "outputs/table2/phantom/level2/lambda=0/seed=0"),
    ],
)
def test_hydra_makes_these_folders(composed, overrides, folder):
    assert composed(*overrides, hydra=True).hydra.run.dir == folder


def test_guiding_masks_have_the_name_of_what_they_are(composed, tmp_path):
    """Of what was drawn since comes another run, in another folder; where it lies counts for nothing."""

    def folder(place, text):
        (tmp_path / place / "masks/train").mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "masks/train/1.png").write_text(text)
        return composed(f"dataset.guide_dir={tmp_path / place / 'masks'}", hydra=True).hydra.run.dir

    names = [folder("a", "x"), folder("b", "x"), folder("a", "y 2")]
    assert names[0] == names[1] != names[2] and re.search(r"seed=0,dataset\.guide_dir=masks-[0-9a-f]{12}$", names[0])
    assert "guide_dir=null" in composed("dataset.guide_dir=null", hydra=True).hydra.run.dir


def test_a_gpu_is_asked_for_only_where_there_is_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_share(0.25) == 0
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_share(0.25) == (0.25 if Path("/dev/nvidiactl").exists() else 0)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    assert unwritable(tmp_path / "a" / "b") is None and (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    problem = unwritable(tmp_path / "file" / "below")
    assert problem is not None and "cannot be made" in problem and str(tmp_path / "file") in problem


def test_folders_that_stay_empty_are_removed_at_the_end_of_the_process_and_others_stay(tmp_path):
    (tmp_path / "own").mkdir()
    code = (
        "import sys; from pathlib import Path; from gaze.config.naming import unwritable\n"
        "for name in ('own/a/b', 'c/d/e', 'c/f'): unwritable(Path(name))\n"
        "Path('c/f/file').touch()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPO)}, check=True)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {"own", "c", "c/f", "c/f/file"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_read_only_folder_is_said():
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which nobody else can enter
        folder = Path(name) / "outputs"
        folder.mkdir(mode=0o555)
        Path(name).chmod(0o755)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            if os.getuid() == 0:  # root may write everywhere
                os.setuid(65534)
            os.write(writer, f"{unwritable(folder)}|{unwritable(folder / 'run')}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        first, second = os.read(reader, 4096).decode().split("|")
    assert first == f"{folder}: this folder cannot be written to."
    assert second == f"{folder / 'run'}: this folder cannot be made (Permission denied)."


@pytest.mark.parametrize("script", ["train.py", "analyze.py"])
def test_an_output_folder_that_cannot_be_made_is_one_error_before_any_work(tmp_path, script):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, script, f"hydra.run.dir={tmp_path / 'file' / 'run'}"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("\nerror: ") and "cannot be made" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
