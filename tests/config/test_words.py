"""gaze.config.words: Hydra reads what was meant, or one line has the command that was."""

import shlex
import sys
from pathlib import Path

import pytest
from conftest import REPO
from hydra import compose, initialize_config_dir

from gaze.cli import ANALYZE, TRAIN
from gaze.config.train import check_analysis, check_config
from gaze.errors import ConfigError


@pytest.fixture(autouse=True)
def as_a_user_calls_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])


def read(*words: str):
    """Checked settings of a command line."""
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return check_config(compose("train", TRAIN.prepared(words)), trainer=False)


NETWORKS = (
    "model=levl1 is unknown: level1, level2, level3, level4, level5, own, timm or torchvision. Did you mean level1?"
)
MEANT = {  # what was written, and the end of the one line that answers it
    "--lambda 50": "--lambda 50: a setting is written NAME=VALUE: python train.py lambda=50",
    "--lambda=50 --seed 1": "--lambda=50 --seed 1: a setting is written NAME=VALUE: python train.py lambda=50 seed=1",
    "lambda 50": "lambda 50: a setting is written NAME=VALUE: python train.py lambda=50",
    "lambda -50": "lambda -50: a setting is written NAME=VALUE: python train.py lambda=-50",
    "-m model=level1 --lambda 50 seed=0,1": "python train.py -m model=level1 lambda=50 seed=0,1",
    "lambda = 50": "lambda 50: a setting is written NAME=VALUE, without spaces around =. --help shows them.",
    "help": "help: a setting is written NAME=VALUE, without spaces around =. --help shows them.",
    "seed=0,1": "several values are a grid: python train.py -m seed=0,1. A list is written seed=[0,1].",
    "study=a,b seed=1": "values are a grid: python train.py -m study=a,b seed=1. A list is written study=[a,b].",
    "seed=range(3)": "seed=range(3): several values are a grid: python train.py -m 'seed=range(3)'",
    "model=resnet18": "of another library: model=torchvision model.name=resnet18 or model=timm model.name=resnet18.",
    "model=levl1": NETWORKS,
    "-m model=level1,levl2": "Did you mean level2?",
    "dataset=/path/to/mri": "a folder: python train.py dataset=folder dataset.root=/path/to/mri dataset.name=mri",
    "dataset=folders": "or table. Did you mean folder?",
    "experiment=table3": "table2 or thesis_64px. Did you mean table2?",
    "lambda==50": "A value with such signs is put in quotes, and the whole word in others: \"lambda='=50'\"",
}


@pytest.mark.parametrize("line", MEANT)
def test_what_is_no_setting_is_answered_by_one_line_with_what_was_meant(line):
    with pytest.raises(ConfigError) as caught:
        TRAIN.prepared(shlex.split(line))
    assert str(caught.value).endswith(MEANT[line]) and len(str(caught.value).splitlines()) == 1


def test_the_command_that_was_meant_is_one():
    for line in ("--lambda 50 seed=1", "seed=0,1 lambda=0,50"):
        with pytest.raises(ConfigError) as caught:
            TRAIN.prepared(shlex.split(line))
        command = str(caught.value).partition("python train.py ")[2].partition(". A list")[0]
        assert TRAIN.prepared(shlex.split(command)) == shlex.split(command)


def test_an_analysis_has_no_grids_and_no_groups():
    with pytest.raises(
        ConfigError, match=r"one too many here: give one. A list is written include=\[failed,duplicate\]."
    ):
        ANALYZE.prepared(["include=failed,duplicate"])
    with pytest.raises(ConfigError, match=r"^dataset=phantom: there is no such setting here\. --help"):
        ANALYZE.prepared(["dataset=phantom"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lamda=50", "lamda=50: there is no such setting. Did you mean lambda?"),
        ("dataset.root=/x", "dataset.root=/x is for dataset=folder, table, npz, brain_tumor_mri, chest_xray or "
         "breast_ultrasound; dataset=phantom does not read it. Take one of them, or leave it out."),
        ("+dataset.root=/x", "dataset.root=/x is for dataset=folder"),
    ],
)  # fmt: skip
def test_hydra_is_never_asked_for_a_setting_that_it_does_not_know(word, said):
    with pytest.raises(ConfigError) as caught:
        read(word)
    assert str(caught.value).startswith(said)
    with (
        pytest.raises(ConfigError, match=r"^sorce=x: there is no such setting\. Did you mean source or share\?"),
        initialize_config_dir(str(REPO / "conf"), version_base="1.3"),
    ):
        check_analysis(compose("analyze", ANALYZE.prepared(["sorce=x"])))


def test_a_plus_is_never_needed_and_never_wrong():
    plain = read(
        "dataset=chest_xray", "dataset.drop_leaked=true", "trainer.strategy=ddp", "lambda=3", "experiment=table2"
    )
    assert plain == read(
        "+dataset=chest_xray", "+dataset.drop_leaked=true", "++trainer.strategy=ddp", "+lambda=3", "+experiment=table2"
    )
    assert (plain.dataset.on_leak, plain.trainer["strategy"], plain.lambda_, plain.study) == (
        "drop",
        "ddp",
        3,
        "table2",
    )


PLACES = ("/a b/c", "/a [1] (b), {c}/d=e", "/данные/脑/é", '/it\'s "so"', "/a&b#c;d%e!$f", "C:\\data\\", "/a,b c")


@pytest.mark.parametrize("place", PLACES)
def test_paths_are_read_as_they_stand(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda self: True)  # a comma in what is there parts nothing
    keys = ("root", "mask_dir", "cache", "train_dir")
    dataset = read("dataset=folder", *(f"dataset.{key}={place}" for key in keys)).dataset
    assert [getattr(dataset, key) for key in keys] == [place] * 4


def test_the_home_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a b")
    dataset = read("dataset=folder", "dataset.root=~/x", "dataset.mask_dir=~/m").dataset
    assert (dataset.root, dataset.mask_dir) == ("/home/a b/x", "/home/a b/m")


@pytest.mark.parametrize("name", ["1.10", "2024_06", "1e5", "0012", "inf", "исследование", "a (b)"])
def test_a_name_that_looks_like_a_number_stays_the_word_that_it_is(name):
    config = read(f"study={name}", "dataset=folder", "dataset.root=/x", f"dataset.name={name}")
    assert (config.study, config.dataset.name) == (name, name)
    assert ANALYZE.prepared([f"study={name}"])[0].partition("=")[2].strip("'") == name


def test_words_that_are_no_text_stay():
    config = read("dataset=folder", "dataset.root=/x", "dataset.mask_dir=null", "dataset.cache=false")
    assert (config.dataset.mask_dir, config.dataset.cache) == (None, "off")


def test_several_texts_of_a_grid_are_quoted_one_by_one():
    assert TRAIN.prepared(["-m", "study=1.10,b", "hydra.sweep.dir=/a b"]) == [
        "-m",
        "study='1.10',b",
        "hydra.sweep.dir=/a b",
    ]
    assert TRAIN.prepared(["-m", "dataset.name=choice(a,b)"]) == ["-m", "++dataset.name=choice(a,b)"]


def test_what_is_prepared_stays_when_another_process_prepares_it_again():
    words = TRAIN.prepared(["study=1.10", "-m", "dataset.root=/a=b", "model=level1,level2", "hydra/launcher=gpus"])
    assert words == ["-m", "study='1.10'", "++dataset.root='/a=b'", "model=level1,level2", "hydra/launcher=gpus"]
    assert TRAIN.prepared(words) == words


def test_ones_own_choices_and_configs_are_left_to_hydra(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: level1\n")
    words = ["--config-dir", str(tmp_path), "model=mine", "++x.y=1"]
    assert TRAIN.prepared(words) == words
    words = ["--config-path", str(tmp_path), "anything=goes"]
    assert TRAIN.prepared(words) == words
