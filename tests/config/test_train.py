"""Every shipped config is accepted, every bad one is refused with its key, its value and what to do."""

from pathlib import Path

import pytest
from conftest import REPO, Compose
from omegaconf import OmegaConf

from gaze.config.train import TrainConfig, check_analysis, check_config, config_hash
from gaze.errors import ConfigError


def shipped(group: str) -> list[str]:
    return sorted(path.stem for path in (REPO / "conf" / group).glob("*.yaml"))


def message(composed: Compose, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_config(composed(*overrides))
    return str(caught.value)


def test_every_group_has_configs():
    assert {"phantom", "brain_tumor_mri", "chest_xray", "breast_ultrasound", "folder"} <= set(shipped("dataset"))
    assert {*(f"level{n}" for n in range(1, 6)), "torchvision", "timm"} <= set(shipped("model"))
    assert {"thesis", "none"} <= set(shipped("augmentation"))


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in ("dataset", "model", "augmentation") for name in shipped(group)]
)
def test_every_shipped_config_passes_and_is_named_after_its_file(composed, group, name):
    root = ["dataset.root=/images"] if name == "folder" else []
    config = check_config(composed(f"{group}={name}", *root))
    assert name in (getattr(config, group).name, config.model.source)


@pytest.mark.parametrize("experiment", shipped("experiment"))
def test_every_shipped_experiment_passes_and_opens_with_its_question(composed, experiment):
    cfg = composed(f"experiment={experiment}", hydra=True)
    opening = (REPO / "conf" / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert opening[0] == "# @package _global_" and "?" in opening[1] + opening[2]  # opens with its question
    assert any(f"python train.py -m experiment={experiment}" in line for line in opening)
    params = cfg.hydra.sweeper.params
    group = "dataset" if "dataset" in params else "augmentation"
    values = params.dataset.split(",") if group == "dataset" else [grid.augmentation for grid in params]
    for value in values:
        study = experiment.removesuffix("_screen")  # a screening ends in the study itself
        assert check_config(composed(f"experiment={experiment}", f"{group}={value}")).study == study


def test_the_augmentation_study_has_seeds_of_its_own_in_each_arm(composed):
    grids = composed("experiment=augmentation", hydra=True).hydra.sweeper.params
    assert {grid.augmentation for grid in grids} == set(shipped("augmentation"))
    seeds = [list(range(*map(int, str(grid.seed)[6:-1].split(",")))) for grid in grids]
    assert [len(own) for own in seeds] == [8] + [4] * (len(grids) - 1)
    assert len({seed for own in seeds for seed in own}) == sum(map(len, seeds)) == 64


@pytest.mark.parametrize(
    ("experiment", "runs", "epochs", "distance"),
    [("table2", 60, 20, "l2"), ("learning_curves", 50, 50, "l2"), ("learning_curves_seeds", 300, 50, "squared")],
)
def test_experiments_are_the_published_studies(composed, experiment, runs, epochs, distance):
    cfg = composed(f"experiment={experiment}", "dataset=brain_tumor_mri", hydra=True)
    config, number = check_config(composed(f"experiment={experiment}", "dataset=brain_tumor_mri")), 1
    for values in cfg.hydra.sweeper.params.values():
        number *= int(values[6:-1]) if str(values).startswith("range") else len(str(values).split(","))
    assert number == runs
    assert (config.trainer["max_epochs"], config.gaze.distance) == (epochs, distance)
    assert config.gaze.second_order == (distance == "squared")
    assert f"= {runs} runs of {epochs} epochs" in (REPO / "conf" / "experiment" / f"{experiment}.yaml").read_text()


def test_default_is_the_phantom_on_level2_with_lambda_zero(composed):
    config = check_config(composed())
    assert (config.dataset.name, config.model.name, config.lambda_, config.seed) == ("phantom", "level2", 0.0, 0)


def test_defaults_on_real_images_equal_the_reference(composed):
    config = check_config(composed("dataset=brain_tumor_mri"))
    o, g = config.optimizer, config.gaze
    assert (o.lr, o.betas, o.eps, o.plateau_factor, o.plateau_patience) == (1e-4, [0.9, 0.999], 1e-8, 0.1, 5)
    assert (g.start_epoch, g.end_epoch, g.ema_decay, g.min_samples) == (2, 10, 0.9, 2)
    assert (g.distance, g.reference, g.second_order) == ("squared", "ema", True)
    assert (config.dataset.batch_size, config.dataset.image_size, config.trainer["max_epochs"]) == (32, 224, 20)


def test_dataclass_defaults_equal_those_of_the_yaml(composed):
    config, default = check_config(composed("dataset=brain_tumor_mri")), TrainConfig()
    assert (config.gaze, config.optimizer) == (default.gaze, default.optimizer)


def test_phantom_deviates_only_in_what_its_few_steps_need(composed):
    phantom, real = (check_config(composed(f"dataset={name}")).to_dict() for name in ("phantom", "brain_tumor_mri"))
    differing = {
        f"{group}.{key}"
        for group in ("gaze", "optimizer", "trainer", "augmentation", "pictures")
        for key in real[group]
        if phantom[group][key] != real[group][key]
    }
    assert differing == {"optimizer.lr", "optimizer.plateau_patience", "trainer.max_epochs"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+sead=1", ["sead=1", "no such setting", "seed"]),
        ("+gaze.distanse=l2", ["gaze.distanse=l2", "no such setting", "distance"]),
        ("+dataset.batchsize=4", ["dataset.batchsize=4", "batch_size"]),
        ("+optimizer.momentum=0.9", ["optimizer.momentum=0.9", "Known:", "plateau_patience"]),
        ("+lambda_=3", ["lambda_=3", "no such setting", "lambda"]),
        ("+trainer.max_epoch=3", ["trainer.max_epoch=3", "no such argument", "max_epochs"]),
        ("+trainer.logger=false", ["trainer.logger=False", "Leave it out"]),
        ("+trainer.callbacks=null", ["trainer.callbacks=None", "Leave it out"]),
        ("dataset.batch_size=0", ["dataset.batch_size=0", "1 or more"]),
        ("dataset.batch_size=2.5", ["dataset.batch_size=2.5", "whole number"]),
        ("dataset.batch_size=true", ["dataset.batch_size=True", "whole number"]),
        ("dataset.image_size=abc", ["dataset.image_size=abc", "whole number"]),
        ("dataset.image_size=null", ["dataset.image_size=null", "whole number"]),
        ("dataset.channels=2", ["dataset.channels=2", "1 (grey) or 3 (RGB)"]),
        ("dataset.name=a/b", ["dataset.name=a/b", "without a slash"]),
        ("dataset.name=..", ["dataset.name=..", "without a slash"]),
        ("dataset.kind=web", ["dataset.kind=web", "phantom, folder, kaggle"]),
        ("dataset.train_images=0", ["dataset.train_images=0", "1 or more"]),
        ("dataset=folder", ["dataset=folder needs dataset.root: class folders of images, ROOT/train"]),
        (
            "+dataset.mask_dir=masks",
            ["dataset.mask_dir=masks", "dataset.kind=folder or kaggle"],
        ),  # the phantom has its own
        ("+dataset.on_missing_mask=skip", ["dataset.on_missing_mask=skip", "error or empty"]),
        ("+dataset.test_fraction=0", ["dataset.test_fraction=0.0", "between 0 and 1"]),
        ("+dataset.test_fraction=1", ["dataset.test_fraction=1.0", "between 0 and 1"]),
        ("+dataset.split_seed=x", ["dataset.split_seed=x", "whole number"]),
        ("+dataset.classes=[a,b]", ["dataset.classes=['a', 'b']", "dataset.kind=ultrasound"]),
        ("+dataset.classes=benign", ["dataset.classes=benign", "list of words, or null"]),
        ("+model.source=keras", ["model.source=keras", "gaze, torchvision, timm"]),
        ("+model.layer=layer4", ["model.layer", "model=torchvision", "model=level2 has neither"]),
        ("model.name=a/b", ["model.name=a/b", "without a slash"]),
        ("study=a/b", ["study=a/b", "without a slash"]),
        ("study=..", ["study=..", "without a slash"]),
        ("study=''", ["study=", "one name"]),
        ("seed=-1", ["seed=-1", "2^32"]),
        ("lambda=abc", ["lambda=abc", "not a finite number", "lambda=50"]),
        ("lambda=nan", ["lambda=nan", "not a finite number"]),
        ("lambda=-inf", ["lambda=-inf", "not a finite number"]),
        ("lambda=true", ["lambda=True", "not a finite number"]),
        ("lambda=null", ["lambda=None", "not a finite number"]),
        ("lambda=[1,2]", ["lambda=[1, 2]", "not a finite number"]),
        ("gaze.end_epoch=1", ["gaze.end_epoch=1", "gaze.start_epoch=2", "must not be smaller"]),
        ("gaze.distance=pearsn", ["gaze.distance=pearsn", "squared, l2", "Did you mean pearson?"]),
        ("gaze.method=gradcam", ["gaze.method=gradcam", "hires_cam", "Did you mean grad_cam?"]),
        ("gaze.reference=mean", ["gaze.reference=mean", "ema or batch"]),
        ("gaze.ema_decay=1", ["gaze.ema_decay=1.0", "[0, 1)"]),
        ("gaze.min_samples=0", ["gaze.min_samples=0", "1 or more"]),
        ("gaze.second_order=maybe", ["gaze.second_order=maybe", "true or false"]),
        ("gaze=3", ["gaze=3", "group of settings"]),
        ("optimizer.lr=0", ["optimizer.lr=0.0", "above 0"]),
        ("optimizer.lr=inf", ["optimizer.lr=inf", "finite"]),
        ("optimizer.lr=nan", ["optimizer.lr=nan", "finite"]),
        ("optimizer.lr=null", ["optimizer.lr=null", "a number"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas=[0.9]", "two numbers"]),
        ("optimizer.betas=0.9", ["optimizer.betas=0.9", "list of numbers"]),
        ("augmentation.hflip=2", ["augmentation.hflip=2 must be 0 (off) .. 1"]),
        ("augmentation.crop_scale=[1.0,0.5]", ["augmentation.crop_scale=[1.0, 0.5]", "low <= high"]),
        ("pictures.images_per_class=0", ["pictures.images_per_class=0", "1 or more"]),
        ("trainer.precision=16-true", ["trainer.precision=16-true", "bf16-mixed"]),
        ("trainer.max_epochs=0", ["trainer.max_epochs=0", "1 or more"]),
        ("trainer.max_epochs=-1", ["trainer.max_epochs=-1", "1 or more"]),
        ("trainer.max_epochs=null", ["trainer.max_epochs=None", "1 or more"]),
        ("+trainer.limit_val_batches=0", ["trainer.limit_val_batches=0", "limit_val_batches=1"]),
        ("+trainer.check_val_every_n_epoch=2", ["trainer.check_val_every_n_epoch", "kappa"]),
        ("study=${nowhere}", ["nowhere", "not found"]),
        ("study=???", ["study", "Missing"]),
    ],
)
def test_bad_setting_is_refused_with_key_value_and_remedy(composed, override, words):
    text = message(composed, override)
    assert [word for word in words if word not in text] == [], text
    assert len(text.splitlines()) == 1, text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.classes=[benign]", ["dataset.classes=['benign']", "two or more classes"]),
        ("dataset.classes=[benign,benign]", ["dataset.classes=['benign', 'benign']", "each once"]),
        ("dataset.handle=null", ["needs dataset.handle or dataset.root: images and masks"]),
        ("+dataset.mask_dir=masks", ["dataset.mask_dir=masks", "dataset.kind=folder or kaggle"]),
    ],
)
def test_bad_setting_of_the_ultrasound_set(composed, override, words):
    text = message(composed, "dataset=breast_ultrasound", override)
    assert [word for word in words if word not in text] == [], text
    assert len(text.splitlines()) == 1, text


def test_where_a_copy_of_the_ultrasound_set_lies_does_not_make_another_config(composed):
    here, there = (check_config(composed("dataset=breast_ultrasound", f"dataset.root=/{name}")) for name in "ab")
    other = check_config(composed("dataset=breast_ultrasound", "dataset.split_seed=1"))
    assert config_hash(here) == config_hash(there) != config_hash(other)


def test_problems_of_every_kind_are_listed_together(composed):
    text = message(
        composed,
        "lambda=abc",
        "dataset.batch_size=0",
        "dataset.image_size=abc",
        "gaze.ema_decay=1",
        "+trainer.max_epoch=3",
        "+colour=red",
    )
    keys = ("lambda", "dataset.batch_size", "dataset.image_size", "gaze.ema_decay", "trainer.max_epoch", "colour")
    assert [sum(line.startswith(f"{key}=") for line in text.splitlines()) for key in keys] == [1] * 6
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize("value", ["-100", "0", "0.5", "1e3"])
def test_lambda_of_either_sign_is_a_float(composed, value):
    config = check_config(composed(f"lambda={value}"))
    assert config.lambda_ == float(value)
    assert isinstance(config.lambda_, float)


def test_trainer_takes_lightnings_own_names(composed):
    given = {
        "accelerator": "cpu",
        "devices": 2,
        "precision": "bf16-mixed",
        "gradient_clip_val": 1.0,
        "strategy": "ddp",
        "limit_train_batches": 0.5,
        "deterministic": True,
    }
    trainer = check_config(composed(*(f"++trainer.{key}={value}" for key, value in given.items()))).trainer
    assert {key: trainer[key] for key in given} == given


def test_dictionary_form_uses_the_users_key_names(composed):
    values = check_config(composed("lambda=50")).to_dict()
    assert values["lambda"] == 50.0
    assert "lambda_" not in values


def test_dictionary_form_is_accepted_again(composed):
    config = check_config(composed("lambda=50", "model=level3"))
    assert check_config(OmegaConf.create(config.to_dict())) == config


def test_equal_settings_have_one_hash_however_they_are_written(composed):
    a, b = composed("lambda=50", "seed=1"), composed("seed=1", "lambda=50.0", "optimizer.lr=0.001")
    assert config_hash(check_config(a)) == config_hash(check_config(b))


def test_different_settings_have_different_hashes(composed):
    overrides = ["seed=0", "seed=1", "lambda=1", "model=level1", "gaze.second_order=false", "trainer.max_epochs=3"]
    assert len({config_hash(check_config(composed(override))) for override in overrides}) == len(overrides)


@pytest.mark.parametrize(
    ("written", "named"),
    [("50", "50"), ("50.0", "50"), ("-100", "-100"), ("0", "0"), ("0.0", "0"), ("0.5", "0.5"), ("1234567", "1234567")],
)
def test_one_lambda_has_one_run_folder(composed, written, named):
    cfg = composed(f"lambda={written}", "model=level1", "study=s", hydra=True)
    folder = f"phantom/level1/lambda={named}/seed=0"
    assert cfg.hydra.run.dir == f"outputs/s/{folder}"
    assert Path(cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir) == Path("outputs/s", folder)


def test_lambdas_that_differ_never_share_a_folder(composed):
    folders = {composed(f"lambda={value}", hydra=True).hydra.run.dir for value in ("1000000", "1000001", "0.1234567")}
    assert len(folders) == 3


def test_lambda_that_is_no_number_still_has_a_folder_so_that_it_can_be_refused(composed):
    assert "lambda=abc" in composed("lambda=abc", hydra=True).hydra.run.dir


# ---- analyze.yaml


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"include": ["half"]}, "include=half is unknown: unfinished, failed, duplicate"),
        ({"study": "a/b"}, "study=a/b names a folder"),
        ({"sorce": "x"}, "sorce=x: there is no such setting. Did you mean source?"),
        ({"source": None}, "source=null must be text"),
        ({"include": 3}, r"include=3 must be a list of words, such as \[failed\]"),
    ],
)
def test_bad_settings_of_an_analysis_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        check_analysis(OmegaConf.create(values))


def test_all_bad_settings_of_an_analysis_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        check_analysis(OmegaConf.create({"include": ["half"], "study": "a/b", "sorce": 1}))
    assert len(str(error.value).splitlines()) == 3


def test_one_word_is_a_list_of_one():
    assert check_analysis(OmegaConf.create({"include": "failed"})).include == ["failed"]


def test_where_images_are_cached_does_not_make_another_config(composed):
    assert config_hash(check_config(composed("dataset.cache=off"))) == config_hash(check_config(composed()))
