"""gaze.backbones.frozen: what is held still, and that maps and gaze loss are those of the same network unfrozen."""

import copy

import pytest
import torch
from tiny_modules import SIZE, K, tiny_trainer
from torch import nn
from torch.utils.data import DataLoader

from gaze.backbones.frozen import frozen_names
from gaze.backbones.levels import SplitBackbone
from gaze.backbones.looking import look
from gaze.config.model import ModelConfig
from gaze.errors import ConfigError
from gaze.training.module import GazeModule

HOOKED = {"model": "shufflenet_v2_x0_5", "source": "torchvision", "layer": "stage2"}


def made(freeze=None, model="level2", method="grad_cam", **more) -> GazeModule:
    torch.manual_seed(0)
    return GazeModule(model, K, 1, SIZE, freeze=freeze, gaze={"method": method}, gaze_lambda=50.0, **more)


def names(freeze, **more):
    return frozen_names(ModelConfig(**{"freeze": freeze, **more}), SIZE, 1)


# ---- what is held still


@pytest.mark.parametrize(
    ("settings", "free"),
    [
        ({}, {"head.3.weight", "head.3.bias"}),
        ({"name": "shufflenet_v2_x0_5", "source": "torchvision"}, {"fc.weight", "fc.bias"}),
    ],
)
def test_all_but_the_head_is_told_by_its_rows(settings, free):
    found = names("all_but_head", **settings)
    module = made("all_but_head", settings.get("name", "level2"), source=settings.get("source", "gaze"))
    trains = {
        n.removeprefix("backbone.").removeprefix("network.") for n, p in module.named_parameters() if p.requires_grad
    }
    assert trains == free and not found & free


def test_a_pattern_names_weights_and_their_batch_norms():
    module = made("stage[23].*", **HOOKED)
    network = module.backbone.network
    for name, weight in network.named_parameters():
        assert weight.requires_grad == (not name.startswith(("stage2.", "stage3."))), name
    module.eval()
    module.train()
    training = {name for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d) and part.training}
    assert {"conv1.1", "stage4.0.branch1.1", "conv5.1"} <= training
    assert not any(name.startswith(("stage2.", "stage3.")) for name in training)
    assert network.stage2.training  # all else is as ever


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        ("layer9.*", "matches no weight of model=torchvision model.name=shufflenet_v2_x0_5. It has conv1.0.weight, "),
        ("*", "leaves nothing to train"),
        ("*running_mean", "matches no weight"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_all_is_refused(freeze, words):
    with pytest.raises(ConfigError) as refused:
        names(freeze, name="shufflenet_v2_x0_5", source="torchvision")
    assert words in str(refused.value)


def test_an_epoch_moves_only_what_is_free(tmp_path):
    module = made("features.*")
    before = copy.deepcopy(module.backbone.state_dict())
    data = DataLoader([(torch.rand(1, SIZE, SIZE), i % K) for i in range(16)], 8)
    tiny_trainer(tmp_path).fit(module, data)
    after = module.backbone.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"head.3.weight", "head.3.bias"}  # no statistics of batch norms either
    assert [len(group["params"]) for group in module.optimizers().optimizer.param_groups] == [2]


# ---- maps and gaze loss


def hooked_as_split(module):
    """A level whose head has no closed form, so that it is differentiated."""
    backbone = module.backbone
    module.backbone = SplitBackbone(backbone.features, nn.Sequential(*backbone.head))
    return module


KINDS = {
    "closed form": lambda freeze: made(freeze),
    "split": lambda freeze: hooked_as_split(made(freeze)),
    "another method": lambda freeze: made(freeze, method="layer_cam"),
    "hooked": lambda freeze: made(freeze, **HOOKED),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("freeze", ["all_but_head", "*1.*"])
def test_maps_and_gradients_of_what_trains_are_those_of_the_network_unfrozen(kind, freeze):
    frozen, free = KINDS[kind](freeze).double(), KINDS[kind](None).double()
    for module in (frozen, free):
        module.train()
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    for own, other in zip(frozen.modules(), free.modules(), strict=True):
        other.training = own.training
    torch.manual_seed(1)
    images, target = torch.randn(6, 1, SIZE, SIZE, dtype=torch.float64), torch.arange(6) % 2
    found = []
    for module in (frozen, free):
        logits, cam = module.look(images, target)
        loss = nn.functional.cross_entropy(logits, target) + 50 * module.gaze_loss(cam, target, target)
        loss.backward()
        found.append((logits, cam, {n: p.grad for n, p in module.named_parameters() if p.grad is not None}))
    (logits, cam, gradients), (logits2, cam2, gradients2) = found
    assert torch.equal(logits, logits2) and torch.allclose(cam, cam2, atol=1e-12) and cam.amax() > 0
    assert gradients.keys() == {n for n, p in frozen.named_parameters() if p.requires_grad} < gradients2.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients2[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["closed form", "hooked"])
def test_the_gaze_loss_of_a_frozen_network_passes_gradcheck(kind):
    module = KINDS[kind]("all_but_head").double().eval()
    images, target = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64), torch.tensor([0, 1])
    name = "head.3.weight" if kind == "closed form" else "network.fc.weight"
    weight = dict(module.backbone.named_parameters())[name].detach().clone()

    def gaze(own):
        graph = torch.func.functional_call(Looked(module.backbone), {f"network.{name}": own}, (images, target))
        return (graph - 0.3).square().sum()

    part = weight[:, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda own: gaze(torch.cat([own, weight[:, 4:]], 1)), part, atol=1e-6)


class Looked(nn.Module):
    """Maps as a function of a network's weights."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images, target):
        return look(self.network, images, target, create_graph=True).cam
