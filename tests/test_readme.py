"""What README and docs/ show is what the code does."""

import re
import shlex
import sys

import pytest
import torch
from conftest import REPO, Compose
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torchvision.models import resnet18

import gaze
from gaze import cli
from gaze.config.train import check_analysis, check_config

PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
TEXT = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
SETS = (
    "phantom",
    "brain_tumor_mri",
    "chest_xray",
    "breast_ultrasound",
    "folder",
)  # a table of its own


def shown(pattern: str) -> list[str]:
    return sorted({found for text in TEXT.values() for found in re.findall(pattern, text, re.MULTILINE)})


def test_the_first_page_is_one_screen_or_two():
    assert len(TEXT["README"].splitlines()) <= 120


def test_every_page_is_found_from_the_first():
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in TEXT["README"]] == []


def test_the_loop_on_the_first_page_runs_and_prints_a_consistency(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT["README"], re.DOTALL)
    torch.manual_seed(0)
    network = resnet18(num_classes=2)
    batches = list(zip(torch.randn(16, 3, 64, 64).split(8), (torch.arange(16) % 2).split(8), strict=True))
    optimizer = torch.optim.Adam(network.parameters())
    before = network.fc.weight.detach().clone()
    known = {"gaze": gaze, "cross_entropy": torch.nn.functional.cross_entropy, "network": network}
    exec(block, known | {"optimizer": optimizer, "train": batches, "test": batches})
    assert re.fullmatch(r"tensor\(0\.\d+.*\)\n", capsys.readouterr().out)
    assert not torch.equal(before, network.fc.weight)


def test_python_example_is_the_file_that_its_own_test_runs():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT["library"], re.DOTALL)
    code = (REPO / "examples" / "own_loop.py").read_text(encoding="utf-8")
    assert block.strip() == code.split('"""', 2)[2].strip()


def check(script: str, command: str, composed: Compose) -> None:
    """Compose a command's settings and check them."""
    if script == "train":
        words = cli.TRAIN.prepared(shlex.split(command))
        words = [
            re.sub(r"^(\+*model\.(?:checkpoint|path))=.*", rf"\1='{REPO / 'README.md'}'", word) for word in words
        ]  # is read
        check_config(composed(*[word.split(",")[0] for word in words if word != "-m"]))
        return
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        check_analysis(compose("analyze", cli.ANALYZE.prepared(shlex.split(command))))


@pytest.mark.parametrize("script", ["train", "analyze"])
def test_commands_are_valid(script, composed):
    commands = shown(rf"^ *python {script}\.py(.*?)(?: +#.*)?$")
    assert len(commands) > 5
    for command in commands:
        check(script, command, composed)


def test_pictures_and_links_exist():
    for page in PAGES:
        targets = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT[page.stem])
        assert [target for target in targets if not (page.parent / target).exists()] == [], page


def test_defaults_in_the_tables_are_the_defaults(composed):
    cfg = composed("dataset=brain_tumor_mri", "dataset.root=x", hydra=True)
    known = dict(cfg.hydra.runtime.choices)
    rows = [row for text in TEXT.values() for row in re.findall(r"^\| `([a-z_.]+)` \| `([^`]+)`", text, re.MULTILINE)]
    for key, value in rows:
        if key not in SETS and "/" not in key and "." + key.rpartition(".")[2] not in (".csv", ".json"):
            actual = known.get(key, OmegaConf.select(cfg, key))
            assert ("null" if actual is None else str(actual).lower()) == value.lower(), key


@pytest.mark.parametrize("script", ["train", "analyze"])
def test_help_is_a_screen_whose_commands_are_valid(script, composed, capsys, monkeypatch):
    """--help as Hydra prints it: what it does, commands, groups with their choices, settings that exist."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit):
        getattr(cli, script)()
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) <= 150
    commands = re.findall(rf"python {script}\.py((?: \S+)*)", text)
    assert len(commands) >= 5
    for command in commands:
        check(script, command, composed)
    if script == "train":
        assert "model: level1, level2" in text and "experiment: augmentation" in text
        cfg = composed("dataset=folder", "dataset.root=x", "dataset.name=x")
        keys = re.findall(r"\b(?:dataset|trainer|optimizer|gaze)\.\w+", text)
        assert [key for key in keys if OmegaConf.select(cfg, key, default="absent") == "absent"] == []
