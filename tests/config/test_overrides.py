"""Whatever stands on a command line is taken, and then makes sense, or is refused with its key, its value and what is
allowed: never a traceback.
"""

import copy
import inspect
import random
import subprocess
import sys
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from conftest import REPO, TINY
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gaze.cli import ANALYZE, CONF, TRAIN, clearly
from gaze.config.analysis import AnalyzeConfig
from gaze.config.data import DatasetConfig
from gaze.config.train import TrainConfig, check_analysis, check_config
from gaze.config.trainer import BOUNDS, OWN, arguments, trainer_problems

NUMBERS = ("-1", "0", "-0.0", "1", "3", "0.5", "1.5", "1e308", "-1e308", "1e-320", "9" * 23, "-" + "9" * 23,
           "nan", "inf", "-inf", "1_000", "0x10")  # fmt: skip
OTHERS = ("wort", "null", "", "true", "false", "yes", "???", "' '", "'1'", "''", "a/b", "../x", "1:30", "00:00:00:10",
          "[]", "[1,2]", "[nan]", "[null,null]", "[[1]]", "{}", "{a:1}", "{1:2}", "{minutes:-1}", "[", "a=b", "a b",
          "日本語", "'a\nb'", "${x}", "'${x}'", "'${seed}'", "'${oc.env:NOT_THERE}'", "'${nix:1}'",
          "'${study}'", "'${lambda}'", "[" * 40)  # fmt: skip
GROUPS = ("model", "dataset", "augmentation", "experiment", "scheduler")
UNKNOWN = (
    "sead",
    "gaze.nix",
    "trainer.nix",
    "dataset.lr.x",
    "model.name.x",
    "study.x",
    "lambda_",
    "Ünknown",
    "a-b",
    "1",
)
BASES = (("dataset=phantom",), ("dataset=folder", "++dataset.root=/x"), ("dataset=breast_ultrasound",))


@cache
def base(name: str, *words: str) -> DictConfig:
    """A composed config, of ``hydra`` only what names the run's folder: it is copied five hundred times."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(name, list(words), return_hydra_config=True)
    values = OmegaConf.to_container(config, resolve=False)
    hydra = {"run": {"dir": values["hydra"]["run"]["dir"]}, "overrides": {"task": list(words)}, "runtime": {"cwd": "."}}
    slim = OmegaConf.create(values | {"hydra": hydra})
    OmegaConf.set_struct(slim, True)
    return slim


def with_word(name: str, word: str, *words: str) -> DictConfig:
    """``word`` over a composed config, as Hydra's loader does it at its end; a group is composed again."""
    override = OverridesParser.create().parse_override(word)
    if override.key_or_group in GROUPS:
        return copy.deepcopy(base(name, *words, word))
    config = copy.deepcopy(base(name, *words))
    ConfigLoaderImpl._apply_overrides_to_config([override], config)
    with open_dict(config):
        config.hydra.overrides.task.append(word)
    return config


def answer(name: str, word: str, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command says to one word: the settings, or the text of the refusal. Anything else is a traceback."""
    command = {"train": TRAIN, "analyze": ANALYZE}[name]
    sys.argv[1:] = [word]

    def told() -> TrainConfig | AnalyzeConfig:
        sys.argv[1:] = command.prepared([word])
        config = with_word(name, sys.argv[1], *words)
        assert str(config.hydra.run.dir)
        with open_dict(config):
            del config["hydra"]
        return check_config(config) if name == "train" else check_analysis(config)

    try:
        return clearly(lambda task: task(), told)
    except SystemExit:
        return capsys.readouterr().err


def keys(values: dict[str, Any], above: str = "") -> list[str]:
    """Every setting and every group by its dotted name."""
    found = []
    for key, value in values.items():
        found += [f"{above}{key}", *(keys(value, f"{above}{key}.") if isinstance(value, dict) else [])]
    return found


def numbers(values: Any) -> list[float]:
    if isinstance(values, dict | list):
        return [n for value in (values.values() if isinstance(values, dict) else values) for n in numbers(value)]
    return [values] if isinstance(values, int | float) else []


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type as Lightning annotates it; by hand, apart from pydantic."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if get_origin(kind) is Literal:
        return value in parts
    if get_origin(kind) in (list, dict):
        return isinstance(value, get_origin(kind))
    if kind is dict:
        return isinstance(value, dict)
    return type(value) is kind or (kind is float and type(value) is int)


def is_clear(told: str, word: str) -> bool:
    """Whether a refusal is short and names the setting, or the group it is in."""
    key = word.lstrip("~").partition("=")[0]
    named = key in told or key.partition(".")[0] in told
    return told.startswith("\nerror: ") and named and len(told) < 1200 and len(told.strip().splitlines()) <= 3


def drawn(number: int, settings: list[str], seed: int) -> list[str]:
    """Each setting once with a value, then any with any."""
    draw = random.Random(seed)
    values = [*NUMBERS, *OTHERS]
    names = [*draw.sample(settings, len(settings)), *draw.choices(settings, k=number)][:number]
    return [f"{'~' if draw.random() < 0.01 else ''}{name}={draw.choice(values)}" for name in names]


@pytest.fixture(autouse=True)
def own_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])


def settings_of_a_run() -> list[str]:
    composed = OmegaConf.to_container(base("train"), resolve=False)
    listed = keys({key: value for key, value in composed.items() if key != "hydra"})
    of_data = [f"dataset.{name}" for name in DatasetConfig.model_fields]
    return sorted({*listed, *of_data, *(f"trainer.{name}" for name in arguments()), *GROUPS, *UNKNOWN})


def test_five_hundred_words_are_taken_or_refused_with_their_key_and_value(capsys):
    from lightning import Trainer

    signature = {name: p.annotation for name, p in inspect.signature(Trainer).parameters.items()}
    taken, tracebacks, unnamed, senseless = 0, [], [], []
    for place, word in enumerate(drawn(500, settings_of_a_run(), seed=25)):
        try:
            told = answer("train", word, capsys, *BASES[place % 3])
        except Exception as error:
            tracebacks.append(f"{word}: {type(error).__name__}: {error}")
            continue
        if isinstance(told, str):
            if not is_clear(told, word):
                unnamed.append(f"{word}: {told}")
            continue
        taken += 1
        values = told.to_dict()
        if TrainConfig(**values).to_dict() != values or not all(abs(number) < 2**63 for number in numbers(values)):
            senseless.append(word)
        senseless += [f"{word}: {key}" for key, value in told.trainer.items() if not fits(value, signature[key])]
    assert tracebacks == []
    assert unnamed == []
    assert senseless == []
    assert 20 < taken < 250  # of both there are enough


def test_words_of_an_analysis_are_taken_or_refused_with_their_key_and_value(capsys):
    settings = [key for key in keys(OmegaConf.to_container(base("analyze"))) if not key.startswith("hydra")]
    taken, unnamed = 0, []
    for word in drawn(100, [*settings, *GROUPS, *UNKNOWN, "trainer.max_epochs"], seed=25):
        told = answer("analyze", word, capsys)
        taken += not isinstance(told, str)
        unnamed += [f"{word}: {told}"] if isinstance(told, str) and not is_clear(told, word) else []
        if isinstance(told, AnalyzeConfig):
            assert all(abs(number) < 2**63 for number in numbers(told.model_dump()))
    assert unnamed == []
    assert 5 < taken < 70


HUGE = [("seed", "9" * 5000), ("gaze.method", "[" * 1500)]


@pytest.mark.parametrize(("key", "value"), HUGE)
def test_what_the_grammar_itself_breaks_on_is_one_short_line(capsys, key, value):
    assert is_clear(answer("train", f"{key}={value}", capsys), f"{key}={value[:40]}")


def test_every_bound_is_of_an_argument_that_lightning_has_and_within_its_type():
    from lightning import Trainer

    signature = {name: p.annotation for name, p in inspect.signature(Trainer).parameters.items()}
    assert {*BOUNDS, *OWN} <= set(signature)
    for name, kind in BOUNDS.items():
        adapter = TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
        tried = [
            True,
            False,
            -1,
            0,
            1,
            2,
            0.5,
            1.5,
            -1.0,
            "auto",
            "norm",
            "simple",
            "00:00:00:01",
            None,
            [0],
            {"hours": 1},
        ]
        for value in tried:
            try:
                adapter.validate_python(value)
            except ValidationError:
                continue
            assert fits(value, signature[name]), (name, value)
        assert trainer_problems({name: "wort"}), name


SENSELESS = {
    "trainer.max_time=-1": "a time above 0 (DD:HH:MM:SS, or such as {hours: 2, minutes: 30}), or null.",
    "trainer.accumulate_grad_batches=0": "a whole number from 1 to 1000000000.",
    "trainer.accumulate_grad_batches=-1": "a whole number from 1 to 1000000000.",
    "trainer.val_check_interval=0": "a whole number from 1 to 1000000000, or a number above 0 to 1, or a time above 0",
    "trainer.num_sanity_val_steps=wort": "a whole number from -1 to 1000000000, or null.",
    "trainer.log_every_n_steps=wort": "a whole number from 0 to 1000000000, or null.",
    "trainer.deterministic=wort": "true or false, or warn, or null.",
    "trainer.gradient_clip_val=-1": "a number from 0 to 1000000000, or null.",
    "trainer.enable_model_summary=wort": "true or false, or null.",
    "trainer.min_epochs=wort": "a whole number from 0 to 1000000000, or null.",
    "trainer.accelerator=wort": "auto, gpu, ",
    "trainer.strategy=wort": "auto, ddp, ",
    "dataset.cache=nan": "auto, off or a folder.",
    "dataset.batch_size=99999999999999999999999": "a whole number from 1 to 1000000000.",
    "dataset.image_size=1e308": "a whole number from 2 to 16384.",
    "dataset.train_images=99999999999999999999999": "a whole number from 1 to 1000000000, or null.",
    "gaze.min_samples=99999999999999999999999": "a whole number from 1 to 1000000000.",
    "optimizer.weight_decay=1e308": "a number from 0 to 1000.",
    "augmentation.elastic=1e308": "1e-06 .. 100000, or 0 (off): bent",
    "augmentation.mixup=1e-320": "1e-06 .. 100000, or 0 (off): blended",
    "augmentation.crop_scale=[]": "[low, high] with 1e-06 <= low <= high <= 1, or [1.0, 1.0] (off)",
    "dataset.seed=-1": "a whole number from 0 to below 9223372036854775808.",
}


@pytest.mark.parametrize("word", SENSELESS)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(capsys, word):
    told = answer("train", word, capsys)
    key = word.partition("=")[0]
    assert (
        told.startswith(f"\nerror: {key}=")
        and f" must be {SENSELESS[word]}" in told
        and len(told.strip().splitlines()) == 1
    )


GROUPED = {
    "model=null": "model=null is unknown: level1, level2, level3, level4, level5, own, timm or torchvision.",
    "dataset=0": "dataset=0 is unknown: brain_tumor_mri, breast_ultrasound, chest_xray, folder, npz, phantom, "
    "phantom_shortcut or table.",
    "experiment=nan": "experiment=nan is unknown: augmentation, ",
    "experiment=null": "experiment=null is unknown: augmentation, ",
    "hydra/launcher=null": "hydra/launcher=null: hydra/launcher is chosen by a word.",
    "scheduler=[plateau,3]": "scheduler=3 is unknown: cosine, none, onecycle, own, plateau, ",
    "~model": "~model: a run needs one: model=level1, level2, level3, level4, level5, own, timm or torchvision.",
    "study='${x}'": "study='${x}': Interpolation key 'x' not found. ${NAME} stands for another setting",
    "study=???": "study=???: MissingMandatoryValue while resolving interpolation",
    "gaze.distance='${oc.env:NOT_THERE}'": "gaze.distance='${oc.env:NOT_THERE}': ",
    "~seed": "~seed: ConfigAttributeError raised while resolving interpolation: Key 'seed' is not in struct",
}


@pytest.mark.parametrize("word", GROUPED)
def test_what_cannot_be_composed_is_one_line(capsys, word):
    told = answer("train", word, capsys)
    assert told.startswith(f"\nerror: {GROUPED[word]}") and len(told.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sample_of_the_words_in_processes(tmp_path):
    """Refused as above, or trained to its end."""
    sample = random.Random(7).sample(drawn(500, settings_of_a_run(), seed=25), 12)
    sample += ["study='${x}'", "model=null", "trainer.max_time=-1", "dataset.cache=nan", "gaze.common_grid=1024",
               "trainer.val_check_interval=1e-320", "study=\udcff", "hydra/launcher=null"]  # fmt: skip
    told = {}
    for word in sample:
        line = [sys.executable, str(REPO / "train.py"), *TINY, "trainer.max_epochs=1", word]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=250)
        if "Traceback" in done.stderr or (done.returncode, "\nerror: " in done.stderr) not in ((0, False), (1, True)):
            told[word] = (done.returncode, done.stderr[-2000:])
    assert told == {}
