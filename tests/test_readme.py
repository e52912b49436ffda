"""What README shows is what the code does."""

import re

import pytest
from conftest import REPO

README = (REPO / "README.md").read_text(encoding="utf-8")


def test_python_example_is_the_file_that_its_own_test_runs():
    (shown,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = (REPO / "examples" / "own_loop.py").read_text(encoding="utf-8")
    assert shown.strip() == code.split('"""', 2)[2].strip()


@pytest.mark.parametrize("command", re.findall(r"^python train\.py (.*?)(?: +#.*)?$", README, re.MULTILINE))
def test_commands_are_valid(command, composed, monkeypatch):
    from gaze.config.train import check_config

    overrides = [word.split(",")[0] for word in command.split() if word != "-m"]
    check_config(composed(*overrides))


@pytest.mark.parametrize("command", re.findall(r"^python analyze\.py(.*?)(?: +#.*)?$", README, re.MULTILINE))
def test_analysis_commands_are_valid(command):
    from hydra import compose, initialize_config_dir

    from gaze.config.naming import quoted
    from gaze.config.train import check_analysis

    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        check_analysis(compose("analyze", quoted(command.split(), ("check", "explain", "images", "source"))))


def test_pictures_and_links_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r'src="(?!http)([^"]+)"', README)
    assert targets
    assert [t for t in targets if not (REPO / t).exists()] == []


def test_defaults_in_the_table_are_the_defaults(composed):
    cfg = composed("dataset=brain_tumor_mri", "dataset.root=x")
    rows = re.findall(r"^\| `([a-z_.]+)` \| `([^`]+)`", README, re.MULTILINE)
    flat = {"model": cfg.model.name, "augmentation": cfg.augmentation.name}
    from omegaconf import OmegaConf

    for key, value in rows:
        if key in ("phantom", "brain_tumor_mri", "chest_xray", "breast_ultrasound", "folder") or "/" in key:
            continue
        actual = flat.get(key, OmegaConf.select(cfg, key))
        assert ("null" if actual is None else str(actual).lower()) == value.lower(), key
