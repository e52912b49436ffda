"""Every shipped config is accepted, every bad one is refused with its key, its value and what to do."""

import json
from pathlib import Path

import pytest
from conftest import REPO, Compose
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gaze.choices import SOURCES
from gaze.config.analysis import AnalyzeConfig
from gaze.config.data import DatasetConfig
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
    assert {"adam", "adamw", "sgd", "own"} <= set(shipped("optimizer"))
    assert {"plateau", "cosine", "onecycle", "warmup_cosine", "none", "own"} <= set(shipped("scheduler"))


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in ("dataset", "model", "augmentation") for name in shipped(group)]
)
def test_every_shipped_config_passes_and_is_named_after_its_file(composed, group, name):
    root = ["dataset.root=/images"] if name in ("folder", "table", "npz") else []
    network = ["model._target_=package.Net"] if name == "own" else []
    config = check_config(composed(f"{group}={name}", *root, *network))
    assert name in (getattr(config, group).name, config.model.source)


@pytest.mark.parametrize("experiment", shipped("experiment"))
def test_every_shipped_experiment_passes_and_opens_with_its_question(composed, experiment):
    cfg = composed(f"experiment={experiment}", hydra=True)
    opening = (REPO / "conf" / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert opening[0] == "# @package _global_" and "?" in opening[1] + opening[2]  # opens with its question
    assert any(f"python train.py -m experiment={experiment}" in line for line in opening)
    params = cfg.hydra.sweeper.params
    grids = [params] if "dataset" in params else list(params)
    group = "dataset" if "dataset" in grids[0] else "augmentation"
    values = {value for grid in grids for value in grid[group].split(",")}
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
    o, s, g = config.optimizer, config.scheduler, config.gaze
    assert (o.target, o.lr, o.betas, o.eps) == ("torch.optim.Adam", 1e-4, [0.9, 0.999], 1e-8)
    assert (s.target.rpartition(".")[2], s.monitor, s.factor, s.patience) == ("ReduceLROnPlateau", "val/loss", 0.1, 5)
    assert (g.start_epoch, g.end_epoch, g.ema_decay, g.min_samples) == (2, 10, 0.9, 2)
    assert (g.distance, g.reference, g.second_order) == ("squared", "ema", True)
    assert (config.dataset.batch_size, config.dataset.image_size, config.trainer["max_epochs"]) == (32, 224, 20)


def test_defaults_of_the_models_are_those_of_the_yaml(composed):
    real = check_config(composed("dataset=folder", "dataset.root=/images", "augmentation=none"))
    alone = TrainConfig(
        dataset=DatasetConfig(name="folder", kind="folder", root="/images", validation="auto", on_leak="error"),
        trainer=real.trainer,
    )
    assert real == alone
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        assert check_analysis(compose("analyze")) == AnalyzeConfig()
    assert check_config(composed()).dataset == DatasetConfig(image_size=48)  # the phantom's numbers


def test_phantom_deviates_only_in_what_its_few_steps_need(composed):
    phantom, real = (check_config(composed(f"dataset={name}")).to_dict() for name in ("phantom", "brain_tumor_mri"))
    differing = {
        f"{group}.{key}"
        for group in ("gaze", "optimizer", "scheduler", "trainer", "augmentation", "pictures")
        for key in real[group]
        if phantom[group][key] != real[group][key]
    }
    assert differing == {"optimizer.lr", "scheduler.patience", "trainer.max_epochs"}


def test_what_the_phantom_changes_goes_with_its_choice_of_optimizer_and_scheduler(composed):
    assert check_config(composed("optimizer=adam")).optimizer.lr == 1e-4
    assert check_config(composed("optimizer=sgd")).to_dict()["optimizer"] == {
        "_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0,
    }  # fmt: skip
    for name in ("cosine", "onecycle", "warmup_cosine", "none"):
        own = check_config(composed(f"scheduler={name}")).to_dict()["scheduler"]
        assert not {"patience", "factor", "mode"} & own.keys() and own["monitor"] is None
    assert check_config(composed("scheduler=plateau")).scheduler.patience == 5
    assert check_config(composed("scheduler.patience=3")).scheduler.patience == 3


BAD = {  # one line each; in it the setting as it was written, and what it must be
    "+sead=1": "sead=1: there is no such setting. Did you mean seed",
    "+gaze.distanse=l2": "gaze.distanse=l2: there is no such setting. Did you mean distance",
    "+optimizer.momentum=0.9": "optimizer.momentum=0.9: there is no such setting. Known: _target_, betas, eps, lr",
    "+augmentation.rotate=5": "augmentation.rotate=5: there is no such setting. Did you mean rotation",
    "+lambda_=3": "lambda_=3: there is no such setting. Did you mean lambda?",
    "+trainer.max_epoch=3": "trainer.max_epoch=3: Lightning's Trainer has no such argument. Did you mean max_epochs",
    "+trainer.logger=false": "trainer.logger=false: this project sets it itself. Leave it out.",
    "dataset.batch_size=0": "dataset.batch_size=0 must be a whole number from 1 to 1000000000.",
    "dataset.batch_size=2.5": "dataset.batch_size=2.5 must be a whole number from 1 to 1000000000.",
    "dataset.batch_size=true": "dataset.batch_size=true must be a whole number from 1 to 1000000000.",
    "dataset.batch_size='3'": "dataset.batch_size=3 must be a whole number from 1 to 1000000000.",
    "dataset.image_size=null": "dataset.image_size=null must be a whole number from 2 to 16384.",
    "dataset.channels=2": "dataset.channels=2 must be 1 (grey) or 3 (RGB).",
    "dataset.channels=true": "dataset.channels=true must be a whole number.",
    "dataset.cache=true": "dataset.cache=true must be auto, off or a folder.",
    "dataset.kind=foldr": "dataset.kind=foldr is unknown: phantom, folder, table, npz, kaggle or ultrasound. Did you",
    "dataset.train_images=0": "dataset.train_images=0 must be a whole number from 1 to 1000000000, or null.",
    "dataset=folder": "dataset.root=null leaves dataset=folder without images: give dataset.root, class folders",
    "+dataset.on_leak=dropp": "dataset.on_leak=dropp is unknown: warn, error or drop. Did you mean drop?",
    "+dataset.drop_leaked=yes": "dataset.drop_leaked=yes must be true or false, or null.",
    "+dataset.mask_dir=masks": "dataset.mask_dir=masks is for dataset=folder, brain_tumor_mri or chest_xray; "
    "dataset=phantom does not read it. Take one of them, or leave it out.",
    "+dataset.test_fraction=1": "dataset.test_fraction=1 must be a number above 0 to below 1.",
    "+dataset.train_counts={a:x}": "dataset.train_counts.a=x must be a whole number from 0 to 1000000000.",
    "+dataset.classes=benign": "dataset.classes=benign must be a list, or null.",
    "+model.source=keras": "model.source=keras is unknown: gaze, torchvision, timm or own.",
    "+model.layer=layer4": "model.layer=layer4 is for model=torchvision and model=timm; model=level2 has none.",
    "model.name=a/b": "model.name=a/b names a folder: give one name without a slash, in letters that can be printed.",
    "study=..": "study=.. names a folder: give one name without a slash, in letters that can be printed.",
    "study=''": "study= names a folder: give one name without a slash, in letters that can be printed.",
    "seed=-1": "seed=-1 must be a whole number from 0 to below 4294967296.",
    "lambda=abc": "lambda=abc must be a number from -1000000000 to 1000000000.",
    "lambda=nan": "lambda=nan must be a finite number from -1000000000 to 1000000000.",
    "lambda=true": "lambda=true must be a number from -1000000000 to 1000000000.",
    "lambda=null": "lambda=null must be a number from -1000000000 to 1000000000.",
    "gaze.end_epoch=1": "gaze.end_epoch=1 (T1) is before gaze.start_epoch=2 (T0): lambda grows from T0 to T1.",
    "gaze.mask_end_epoch=1": "gaze.mask_end_epoch=1 (T1) is before gaze.mask_start_epoch=2 (T0): gaze.mask_weight",
    "gaze.mask_weight=-1": "gaze.mask_weight=-1 must be a number from 0 to 1000000000.",
    "gaze.mask_form=inside": "gaze.mask_form=inside is unknown: energy, outside or attention.",
    "dataset.annotated=0": "dataset.annotated=0 must be a number above 0 to 1.",
    "gaze.distance=pearsn": "gaze.distance=pearsn is unknown: squared, l2, l1, pearson, js, ssim or soft_iou. "
    "Did you mean pearson?",
    "gaze.ema_decay=1.5": "gaze.ema_decay=1.5 must be a number from 0 to below 1.",
    "gaze.second_order=maybe": "gaze.second_order=maybe must be true or false.",
    "gaze=3": "gaze=3 must be a group of settings, the regulariser (thesis, Eq. 11-18). They are given one by one: ",
    "optimizer._target_=torch.optim.Adm": "optimizer._target_=torch.optim.Adm cannot be had: module 'torch.optim'",
    "optimizer._target_=null": "optimizer._target_=null trains nothing: name a class, such as torch.optim.SGD.",
    "optimizer._target_=torch.nn.Linear": "optimizer._target_=torch.nn.Linear is no class of the kind torch.optim.",
    "optimizer._target_=torch.utils.collect_env.run": "optimizer._target_=torch.utils.collect_env.run is no class of",
    "optimizer._target_=gone.Adam": "optimizer._target_=gone.Adam needs the module gone, which is not there",
    "optimizer._target_=torch.optim.Rprop": "optimizer.betas=[0.9, 0.999]: torch.optim.Rprop has no such argument.",
    "+scheduler.interval=step": "scheduler.interval=step is unknown: epoch.",
    "scheduler.monitor=val/kappa": "scheduler.mode=min waits for val/kappa to get worse, of which higher is better",
    "scheduler.monitor=val/kapa": "scheduler.monitor=val/kapa is logged by no epoch: take one such as val/kappa",
    "scheduler._target_=torch.optim.lr_scheduler.StepLR": "scheduler.mode=min: torch.optim.lr_scheduler.StepLR has no",
    "trainer=3": "trainer=3 must be a group of settings.",
    "+image_size=64": "image_size=64: there is no such setting. Did you mean dataset.image_size?",
    "+dataset.lr=0.1": "dataset.lr=0.1: there is no such setting. Did you mean optimizer.lr?",
    "optimizer.lr=inf": "optimizer.lr=inf must be a finite number above 0 to 1e+30.",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9] must be two numbers in [0, 1).",
    "optimizer.betas=[0.9,true]": "optimizer.betas=true must be a number.",
    "+scheduler.name=plato": "scheduler.name=plato: there is no such setting. Known: _target_, factor, frequency",
    "augmentation.hflip=2": "augmentation.hflip=2 must be 1e-06 .. 1, or 0 (off): mirrored left to right with",
    "augmentation.crop_scale=[1.0,0.5]": "augmentation.crop_scale=[1.0, 0.5] must be [low, high] with 1e-06 <= low",
    "trainer.precision=16-true": "trainer.precision=16-true is not supported: 32-true, 64-true, bf16-mixed, 16-mixed.",
    "trainer.max_epochs=null": "trainer.max_epochs=null must be a whole number from 1 to 1000000000.",
    "+trainer.limit_val_batches=0": "trainer.limit_val_batches=0 must be a whole number from 1 to 1000000000, or a "
    "number above 0 to 1, or null. Else there are epochs without a kappa and a gaze consistency.",
    "+trainer.check_val_every_n_epoch=2": "trainer.check_val_every_n_epoch=2 must be 1. Else there are epochs without",
    "+trainer.strategy=ddp_spawn": "trainer.strategy=ddp_spawn: a run that has begun cannot be copied into other "
    "processes. Take trainer.strategy=ddp, which starts each process by itself.",
    "+trainer.strategy=ddp_fork": "trainer.strategy=ddp_fork: a run that has begun",
    "+trainer.limit_train_batches=0": "trainer.limit_train_batches=0 must be a whole number from 1 to 1000000000",
    "+trainer.max_steps=0": "trainer.max_steps=0 must be -1, or a whole number from 1 to 1000000000.",
    "+trainer.max_time=00:00:00:00": "trainer.max_time=00:00:00:00 must be a time above 0 (DD:HH:MM:SS, or ",
    "+trainer.max_time={minutes:0}": "trainer.max_time={'minutes': 0} must be a time above 0",
    "study=${nowhere}": "study=${nowhere}: Interpolation key 'nowhere' not found",
    "study=???": "study=???: Missing mandatory value: study",
}


@pytest.mark.parametrize("given", [
    ["dataset=folder", "dataset.root=x"], ["dataset=brain_tumor_mri"], ["dataset=npz", "dataset.root=x.npz"],
])  # fmt: skip
def test_a_set_that_can_have_no_masks_cannot_guide(composed, given):
    name = given[0].partition("=")[2]
    assert message(composed, "gaze.mask_weight=2", *given) == (
        f"gaze.mask_weight=2 guides by masks, and dataset={name} has none: give dataset.mask_dir=PATH or "
        "dataset.guide_dir=PATH, or leave it out."
    )
    if name != "npz":
        check_config(composed("gaze.mask_weight=2", *given, "dataset.mask_dir=masks"))


def test_what_cannot_be_warped_back_has_no_second_view(composed):
    view = ["gaze.reference=view", "augmentation=rotation"]
    assert message(composed, "lambda=50", *view) == (
        "gaze.reference=view warps maps back through flips and crops, and not through augmentation.rotation: "
        "leave it out, or take another reference."
    )
    for fine in (["lambda=0", *view], ["lambda=50", view[0], "augmentation=noise"], ["lambda=50", view[0]]):
        check_config(composed(*fine))


def test_a_mixed_image_has_no_mask(composed):
    assert message(composed, "gaze.mask_weight=2", "augmentation=mixup") == (
        "gaze.mask_weight=2 with augmentation=mixup: a mixed image has no one class and no one mask. "
        "Take gaze.mask_weight=0, or another augmentation."
    )


@pytest.mark.parametrize("override", BAD)
def test_a_bad_setting_is_one_line_that_names_it_as_it_was_written(composed, override):
    text = message(composed, override)
    assert text.startswith(BAD[override])
    assert len(text.splitlines()) == 1, text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.classes=[benign]", "dataset.classes=['benign'] must name two or more classes, each once."),
        ("dataset.classes=[benign,benign]", "dataset.classes=['benign', 'benign'] must name two or more classes, each"),
        (
            "dataset.handle=null",
            "dataset.root=null leaves dataset=breast_ultrasound without images: give dataset.handle",
        ),
    ],
)
def test_bad_setting_of_the_ultrasound_set(composed, override, words):
    assert message(composed, "dataset=breast_ultrasound", override).startswith(words)


OTHERS = {  # of other sources: one word that each kind of set does not read
    "phantom": ("root=/x", "handle=a/b/versions/1", "mask_dir=m", "test_fraction=0.3", "test_dir=a"),
    "folder": ("handle=a/b/versions/1", "test_fraction=0.3", "classes=[a,b]", "counts={a:1}"),
    "chest_xray": ("test_fraction=0.3", "classes=[a,b]"),
    "breast_ultrasound": ("train_dir=a", "test_dir=a", "mask_dir=m", "train_counts={a:1}"),
}  # fmt: skip


@pytest.mark.parametrize("dataset", OTHERS)
def test_a_setting_of_another_kind_of_set_is_refused_with_the_group_that_has_it(composed, dataset):
    words = ["dataset.root=/x"] if dataset == "folder" else []
    text = message(composed, f"dataset={dataset}", *words, *(f"++dataset.{word}" for word in OTHERS[dataset]))
    lines = dict(line.split("=", 1) for line in text.splitlines())
    assert set(lines) == {f"dataset.{word.partition('=')[0]}" for word in OTHERS[dataset]}
    assert all(f"; dataset={dataset} does not read it. Take one of them" in line for line in lines.values())
    for name, line in lines.items():
        named = line.partition("is for dataset=")[2].partition(";")[0].replace(" or ", ", ").split(", ")
        assert named
        for group in named:  # those that are named take it
            own = name.removeprefix("dataset.")
            assert SOURCES[composed(f"dataset={group}").dataset.kind].reads(own)


def test_a_registry_knows_the_group_of_each_kind_of_set(composed):
    for name in shipped("dataset"):
        assert name in SOURCES[composed(f"dataset={name}").dataset.kind].groups


def test_settings_that_a_source_does_not_read_are_not_written(composed):
    written = {
        name: check_config(composed(f"dataset={name}")).to_dict()["dataset"] for name in ("phantom", "chest_xray")
    }
    assert not {"root", "handle", "train_dir", "test_fraction", "counts", "mask_dir"} & set(written["phantom"])
    assert "handle" in written["chest_xray"] and not {"test_fraction", "classes"} & set(written["chest_xray"])
    assert written["chest_xray"]["train_images"] is None and written["phantom"]["train_images"] == 640


def test_settings_that_change_no_figure_make_no_other_config(composed):
    for same in (
        ["dataset.cache=off"],
        ["trainer.accelerator=cpu"],
        ["lambda=0.0", "optimizer.lr=0.001"],
        ["rerun=true"],
    ):
        assert config_hash(check_config(composed(*same))) == config_hash(check_config(composed()))
    here, there = (check_config(composed("dataset=breast_ultrasound", f"dataset.root=/{name}")) for name in "ab")
    assert config_hash(here) == config_hash(there)
    others = [
        "seed=1",
        "lambda=1",
        "model=level1",
        "gaze.second_order=false",
        "dataset.test_images=8",
        "dataset.seed=1",
    ]
    assert len({config_hash(check_config(composed(other))) for other in ["seed=0", *others]}) == 7


def test_the_older_word_for_leaked_images(composed):
    for words, kept in (("false", "warn"), ("true", "drop")):
        config = check_config(composed("dataset=chest_xray", f"dataset.drop_leaked={words}"))
        assert config.dataset.on_leak == kept
        assert "drop_leaked" not in config.to_dict()["dataset"]


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


def test_dictionary_form_has_the_users_key_names_and_is_accepted_again(composed):
    config = check_config(composed("lambda=-50", "model=level3", "augmentation=rotation"))
    values = config.to_dict()
    assert values["lambda"] == -50.0 and isinstance(values["lambda"], float) and "lambda_" not in values
    assert check_config(OmegaConf.create(values)) == config == TrainConfig(**json.loads(json.dumps(values)))


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


def test_all_bad_settings_of_an_analysis_are_named_at_once():
    bad = {
        "include": ["half"], "study": "a/b", "sorce": 1, "source": None, "check": "a", "explain": "b",
        "check_images": 5, "compare": {"device": "gpu"},
    }  # fmt: skip
    with pytest.raises(ConfigError) as error:
        check_analysis(OmegaConf.create(bad))
    assert str(error.value).splitlines() == [
        "source=null must be text.",
        "study=a/b names a folder: give one name without a slash, in letters that can be printed.",
        "include=half is unknown: unfinished, failed or duplicate.",
        "check_images=5 must be a whole number from 10 to 1000000000, or null.",
        "explain=b asks another question than check: give one of them at a time.",
        "compare.device=gpu is unknown: auto, cpu or cuda. Did you mean cpu?",
        "sorce=1: there is no such setting. Did you mean source or share?",
    ]
    with pytest.raises(ConfigError, match="images=x belongs to explain=RUN"):
        check_analysis(OmegaConf.create({"images": "x"}))


def test_one_word_is_a_list_of_one():
    assert check_analysis(OmegaConf.create({"include": "failed"})).include == ["failed"]
