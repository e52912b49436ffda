"""What a ``_target_`` names is built as PyTorch builds it; of a stranger's file, only classes of known libraries."""

import math

import pytest
import torch
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from gaze.config.built import Built, OptimizerConfig, SchedulerConfig, build, optimizers
from gaze.config.train import TrainConfig, check_config
from gaze.errors import ConfigError

EPOCHS, STEPS = 12, 60


def weights():
    return [torch.nn.Parameter(torch.zeros(2, 2))]


def built_of(config: TrainConfig) -> dict:
    length = {"epoch": EPOCHS, "step": STEPS}
    return optimizers(config.optimizer, config.scheduler, weights(), length.__getitem__)


EXPECTED = {  # as PyTorch's own calls have it, at a rate of 1e-3
    "plateau": lambda o: ReduceLROnPlateau(o, patience=5),
    "cosine": lambda o: CosineAnnealingLR(o, EPOCHS),
    "onecycle": lambda o: OneCycleLR(o, 1e-3, STEPS),
    "warmup_cosine": lambda o: SequentialLR(
        o, [LinearLR(o, 0.01, total_iters=3), CosineAnnealingLR(o, EPOCHS - 3)], [3]
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_rate_is_that_of_pytorchs_own_scheduler(composed, name):
    setup = built_of(check_config(composed(f"scheduler={name}")))
    mine, own = (setup["optimizer"], setup["lr_scheduler"]["scheduler"]), Adam(weights(), 1e-3)
    theirs = (own, EXPECTED[name](own))
    assert type(mine[1]) is type(theirs[1])
    assert setup["lr_scheduler"]["interval"] == ("step" if name == "onecycle" else "epoch")
    rates = []
    for _ in range(STEPS if name == "onecycle" else EPOCHS):
        rates.append([optimizer.param_groups[0]["lr"] for optimizer, _ in (mine, theirs)])
        for optimizer, scheduler in (mine, theirs):
            optimizer.step()
            scheduler.step(*([1.0] if name == "plateau" else []))
    assert [a for a, _ in rates] == [b for _, b in rates] and len({a for a, _ in rates}) > 1


def test_cosine_by_steps_ends_with_the_training(composed):
    setup = built_of(check_config(composed("scheduler=cosine", "scheduler.interval=step")))
    assert setup["lr_scheduler"]["scheduler"].T_max == STEPS


@pytest.mark.parametrize(
    ("words", "kind", "own"),
    [
        (["optimizer=adamw"], AdamW, {"lr": 1e-3, "weight_decay": 0.01}),
        (["optimizer=sgd", "optimizer.lr=0.1"], SGD, {"lr": 0.1, "momentum": 0.9}),
        (["optimizer=own", "optimizer._target_=torch.optim.RMSprop", "+optimizer.alpha=0.9"], RMSprop,
         {"lr": 0.01, "alpha": 0.9}),
    ],
)  # fmt: skip
def test_any_optimizer_of_pytorch(composed, words, kind, own):
    setup = built_of(check_config(composed("scheduler=none", *words)))
    assert set(setup) == {"optimizer"} and type(setup["optimizer"]) is kind
    assert own.items() <= setup["optimizer"].defaults.items()


def test_a_scheduler_by_its_target(composed):
    words = ["scheduler=own", "scheduler._target_=torch.optim.lr_scheduler.StepLR", "+scheduler.step_size=5"]
    scheduler = built_of(check_config(composed(*words)))["lr_scheduler"]["scheduler"]
    assert type(scheduler) is StepLR and scheduler.step_size == 5


@pytest.mark.parametrize("value", [-1, math.inf, "big"])
def test_what_the_class_refuses_is_said_in_its_words(composed, value):
    with pytest.raises(ConfigError, match=r"^optimizer: torch\.optim\.SGD refuses its settings: .*|^optimizer\.lr"):
        check_config(composed("optimizer=sgd", f"optimizer.{'lr' if value == math.inf else 'momentum'}={value}"))


@pytest.fixture
def own_module(monkeypatch, tmp_path):
    (tmp_path / "my_optimizers.py").write_text("from torch.optim import SGD\nclass Mine(SGD): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "my_optimizers.Mine"


def test_ones_own_class_is_built_where_it_is_trusted(own_module):
    config = OptimizerConfig.of({"_target_": own_module, "lr": 0.5, "_partial_": True})
    assert type(build("optimizer", config, Optimizer, weights())).__name__ == "Mine"
    with pytest.raises(ConfigError, match=r"my_optimizers.Mine is a class of no library of torch, .* trust=True"):
        build("optimizer", config, Optimizer, weights(), trust=False)


@pytest.mark.parametrize("target", [
    "torch.utils.collect_env.run", "os.system", "subprocess.Popen", "torch.os.system", "torch.nn.Linear",
    "torch.optim.adam", "builtins.eval", "", "torch..x", 3,
])  # fmt: skip
def test_of_a_stranger_only_a_class_of_the_kind_is_built(tmp_path, target):
    config = Built(_target_=str(target), command=f"touch {tmp_path / 'it_ran'}")
    with pytest.raises(ConfigError, match="optimizer"):
        build("optimizer", config, Optimizer, weights(), trust=False)
    inner = SchedulerConfig(
        _target_="torch.optim.lr_scheduler.SequentialLR", milestones=[1],
        schedulers=[{"_target_": target, "command": f"touch {tmp_path / 'it_ran'}"}],
    )  # fmt: skip
    with pytest.raises(ConfigError):
        optimizers(OptimizerConfig.of({}), inner, weights(), lambda interval: 3, trust=False)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_before_are_plateau(composed):
    old = {"name": "plateau", "factor": 0.5, "patience": 3}
    from gaze.runs.migrate import migrate

    new = TrainConfig(**migrate({"scheduler": old, "optimizer": {"lr": 0.1}}))
    assert (new.scheduler.target, new.scheduler.factor) == ("torch.optim.lr_scheduler.ReduceLROnPlateau", 0.5)
    assert (new.optimizer.target, new.optimizer.lr, new.optimizer.betas) == ("torch.optim.Adam", 0.1, [0.9, 0.999])
