"""Two gloo processes against one: metrics, the gaze loss and its gradients, a fit with Lightning.

Both processes are started once, do everything, and leave their results in a folder; each test reads one of them.
"""

import os
import socket
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning import Trainer
from readers import write_fixations
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import MetricCollection

import gaze.metrics.consistency
from gaze.cam.methods import grad_cam, normalize_cam
from gaze.cam.pool import pool_by_cells
from gaze.choices import GUIDANCE
from gaze.config.data import DatasetConfig
from gaze.consistency.guidance import guidance_loss
from gaze.consistency.loss import GazeConsistencyLoss
from gaze.consistency.views import view_loss
from gaze.data.datamodule import GazeDataModule
from gaze.data.datasets import load_dataset
from gaze.measures import HUMAN
from gaze.metrics.consistency import GazeConsistency
from gaze.runs.run import Run
from gaze.training.callbacks import KeepMaps
from gaze.training.module import GazeModule, _evaluation_metrics, _human_metrics, _mask_metrics

WORLD = 2
K, H, W = 3, 4, 5
VARIANTS = [(r, d) for r in ("ema", "batch") for d in ("squared", "l2")] + [("masks", f) for f in GUIDANCE]
VARIANTS += [("view", "squared")]
PHANTOM = DatasetConfig(
    name="phantom", kind="phantom", image_size=32, train_images=24, test_images=17, batch_size=4
)  # 17 test images: 4 + 4 + 1 for one process, 4 + 4 and an empty batch (padding alone) for the other

# ---- metrics: 64 images, dealt in different ways

SHARES = {  # sizes of each process's batches
    "uneven": ([8, 8, 8, 8, 1], [8, 8, 8, 7]),
    "empty last batch": ([8, 8, 8, 8, 8], [8, 8, 8, 0]),
    "only an empty batch": ([32, 32], [0]),
    "no update at all": ([32, 32], []),
    "one process without a correct image": ([20, 20], [14, 10]),
}


def _evaluated(case: str) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    target = torch.randint(K, (64,), generator=g)
    preds = torch.where(torch.rand(64, generator=g) < 0.6, target, (target + 1) % K)
    if case == "one process without a correct image":
        preds[40:] = (target[40:] + 1) % K
    cam = torch.rand(64, H, W, generator=g) * 0.5 + 0.2 * target[:, None, None]
    cam[::9] = 0
    logits = torch.rand(64, K, generator=g)
    logits[torch.arange(64), preds] += 1
    mask = (torch.rand(64, 1, 9, 11, generator=g) < 0.3).float()
    human = torch.rand(64, 4, 9, 11, generator=g).pow(4)
    human[:, 1::2] = (human[:, 1::2] > 0.6).float()  # fixations, which leave cells without one
    human[1::7] = 0  # nobody looked
    return {"cam": cam, "preds": preds, "target": target, "logits": logits, "mask": mask, "human": human}


def _measure(data: dict[str, Tensor], sizes: list[int], start: int = 0) -> dict[str, Tensor]:
    parts = dict(_evaluation_metrics(K, 2, 7, "soft_iou")) | dict(_evaluation_metrics(K, 2, 7, "pearson"))
    accuracy = parts.pop("accuracy")
    metrics, on_masks, beside = MetricCollection(parts), _mask_metrics(K), _human_metrics(K)
    for size in sizes:
        batch = {key: value[start : start + size] for key, value in data.items()}
        on_masks.update(**batch)
        beside.update(**batch)
        del batch["mask"], batch["human"]
        metrics.update(**batch)
        if size:  # torchmetrics' accuracy cannot take an empty batch: GazeModule passes over it
            accuracy.update(batch["preds"], batch["target"])
        start += size
    return {"accuracy": accuracy.compute(), **metrics.compute(), **on_masks.compute(), **beside.compute()}


def _measure_share(case: str, rank: int) -> dict[str, Tensor]:
    sizes = SHARES[case]
    return _measure(_evaluated(case), sizes[rank], start=rank * sum(sizes[0]))


def _reach_different_sizes(rank: int) -> str:
    metric, one = GazeConsistency(K), torch.zeros(1, dtype=torch.int64)
    metric.update(torch.rand(1, 2 + rank, 4), one, one)
    with pytest.raises(ValueError, match="different sizes") as error:
        metric.compute()
    return str(error.value)


# ---- the loss: 3 steps of SGD on a tiny network


class Net(nn.Module):
    """Convolution, Grad-CAM, one of the losses of the gaze: ``forward`` gives the loss, as DDP wants it."""

    def __init__(self, reference: str, distance: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, K)
        self.reference, self.form = reference, distance
        known = (distance, reference) if reference in ("ema", "batch") else ("squared", "ema")
        self.gaze_loss = GazeConsistencyLoss(K, *known, map_size=(H, W))
        self.double()  # what remains is a difference of mathematics, not of rounding

    def forward(self, image: Tensor, preds: Tensor, target: Tensor) -> Tensor:
        cam = self._look(image, target)
        # DDP wants a gradient for every parameter; the bias of the head has none in a CAM.
        return self._loss(cam, preds, target, image) + 0 * self.head.bias.sum()

    def _look(self, image: Tensor, target: Tensor) -> Tensor:
        features = self.features(image)
        score = self.head(features.mean((2, 3)).relu()).gather(1, target[:, None]).squeeze(1)
        return normalize_cam(grad_cam(features, score, create_graph=True))

    def _loss(self, cam: Tensor, preds: Tensor, target: Tensor, image: Tensor) -> Tensor:
        if self.reference == "masks":
            seen = (target != 1)[:, None, None, None]  # class 1 has no mask: the processes count differently
            mask = image.clamp(0, 1) * seen
            return guidance_loss(cam, preds, target, mask, self.form)
        if self.reference == "view":
            frames = torch.eye(2, 3).repeat(2, len(cam), 1, 1)
            frames[1, :, 0, 0] = -1
            both = torch.stack([cam, self._look(image.flip(3), target)])
            return view_loss(both, preds.expand(2, -1), target, frames, self.form)
        return self.gaze_loss(cam, preds, target)


def _steps() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of 8 (4 a process). In the first, class 2 has one correct image on each process."""
    g = torch.Generator().manual_seed(3)
    targets = torch.tensor([[0, 0, 0, 2, 1, 1, 1, 2], [0, 1, 1, 1, 0, 0, 2, 2], [0, 1, 2, 0, 1, 2, 0, 1]])
    correct = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 0, 0, 1], [0, 1, 0, 1, 1, 0, 1, 1]])
    preds = torch.where(correct == 1, targets, (targets + 1) % K)
    return [(torch.randn(8, 1, H, W, generator=g).double(), p, t) for p, t in zip(preds, targets, strict=True)]


def _train(net: nn.Module, inner: Net, share: slice) -> list[dict[str, Tensor]]:
    sgd = torch.optim.SGD(net.parameters(), lr=0.5)
    trace = []
    for image, preds, target in _steps():
        sgd.zero_grad()
        loss = net(image[share], preds[share], target[share])
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in inner.parameters()])
        buffers = {name: value.clone() for name, value in inner.gaze_loss.state_dict().items()}
        trace.append({"loss": loss.detach().clone(), "gradient": gradients, **buffers})
        sgd.step()
    return trace


def _train_share(reference: str, distance: str, rank: int) -> list[dict[str, Tensor]]:
    net = Net(reference, distance)
    return _train(DistributedDataParallel(net), net, slice(4 * rank, 4 * rank + 4))


# ---- Lightning


def _data(folder: Path) -> GazeDataModule:
    """The phantom and two made readers of it."""
    parts = {name: getattr(load_dataset(PHANTOM), name) for name in ("train", "test")}
    masks, files = torch.cat([own.masks for own in parts.values()]), [f for own in parts.values() for f in own.paths]
    fixations = write_fixations(folder / f"{os.getpid()}.csv", masks, files)
    data = load_dataset(PHANTOM.model_copy(update={"fixations": str(fixations)}))
    return GazeDataModule(PHANTOM, data=data, attention=True)


def _module() -> GazeModule:
    """With both losses of the gaze from the first epoch on."""
    epochs = dict.fromkeys(("start_epoch", "end_epoch", "mask_start_epoch", "mask_end_epoch"), 0)
    settings = {"gaze": {**epochs, "mask_weight": 1.0, "mask_form": "attention"}, "optimizer": {"lr": 1e-3}}
    return GazeModule("level1", 4, image_size=32, gaze_lambda=50, **settings)


def _fit(folder: Path) -> dict[str, Any]:
    """A short fit, as ``torchrun --nproc-per-node=2`` starts it: the processes are here already."""
    module = _module()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = Trainer(
            accelerator="cpu",
            devices=WORLD,
            strategy="ddp",
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[KeepMaps(Run(folder))],
        )
        trainer.fit(module, datamodule=_data(folder))
    return {
        "metrics": {key: torch.as_tensor(value) for key, value in trainer.callback_metrics.items()},
        "weights": module.state_dict(),
        "steps": trainer.global_step,
        "folder": str(folder),
        "warnings": [str(w.message) for w in caught],
    }


# ---- the two processes


def _work(rank: int, folder: Path, port: int) -> None:
    """Everything that one process does. Its results go to a file of its own."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=120)
    )
    results["metrics"] = {case: _measure_share(case, rank) for case in SHARES}
    memory, gaze.metrics.consistency.KEPT = gaze.metrics.consistency.KEPT, 10 * 4 * H * W  # bytes of 10 maps
    results["in files"] = {case: _measure_share(case, rank) for case in SHARES}
    gaze.metrics.consistency.KEPT = memory
    results["sizes"] = _reach_different_sizes(rank)
    results["loss"] = {variant: _train_share(*variant, rank) for variant in VARIANTS}
    dist.destroy_process_group()
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0",
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD),
    }  # fmt: skip
    results["fit"] = _fit(folder)
    torch.save(results, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    """Results of both processes."""
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_work, args=(folder, port), nprocs=WORLD, daemon=True)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


pytestmark = [
    pytest.mark.slow,  # processes of their own
    pytest.mark.timeout(240),
    pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo"),
]


@pytest.mark.parametrize("case", SHARES)
def test_metrics_of_two_processes_are_those_of_one(ranks, case):
    expected = _measure(_evaluated(case), [64])
    assert 0 < expected["gaze_eta_squared"] < 1 and expected["n_correct"] > 20
    for result in ranks:
        assert result["metrics"][case].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(result["metrics"][case][name], value, msg=f"{case}: {name}", rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", SHARES)
def test_maps_that_each_process_keeps_in_files_count_as_in_memory(ranks, case):
    for result in ranks:
        torch.testing.assert_close(result["in files"][case], result["metrics"][case], rtol=2e-4, atol=0)


def test_maps_of_different_sizes_on_the_processes_are_one_clear_error(ranks):
    assert {result["sizes"] for result in ranks} == {"The processes saw maps of different sizes: [(2, 4), (3, 4)]."}


@pytest.mark.parametrize(("reference", "distance"), VARIANTS)
def test_loss_gradient_and_class_gaze_of_two_processes_are_those_of_the_whole_batch(ranks, reference, distance):
    net = Net(reference, distance)
    expected = _train(net, net, slice(None))
    traces = [result["loss"][reference, distance] for result in ranks]
    for step, whole in enumerate(expected):
        shares = [trace[step] for trace in traces]
        torch.testing.assert_close(torch.stack([s["loss"] for s in shares]).mean(), whole["loss"], rtol=1e-9, atol=0)
        assert whole["loss"] > 0 and whole["gradient"].abs().max() > 1e-4
        for share in shares:
            torch.testing.assert_close(share["gradient"], whole["gradient"], rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(share["class_gaze"], whole["class_gaze"], rtol=1e-9, atol=1e-12)
            assert torch.equal(share["seen"], whole["seen"])


def test_a_class_with_one_correct_image_on_each_process_qualifies(ranks):
    for result in ranks:
        assert result["loss"]["ema", "squared"][0]["seen"].tolist() == [True, True, True]


def test_lightning_fits_alike_on_both_processes(ranks):
    first, second = (result["fit"] for result in ranks)
    assert first["steps"] == second["steps"] == 6  # 2 epochs of 24 images, 4 a process and step
    assert first["weights"]["gaze_loss.seen"].any()
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name


def test_validation_with_lightning_counts_each_image_once(ranks, tmp_path):
    module = _module()
    module.load_state_dict(ranks[0]["fit"]["weights"])
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (expected,) = trainer.validate(module, datamodule=_data(tmp_path), verbose=False)
    assert {"val/gaze_consistency", "val/gaze_mask_energy", "val/gaze_pointing"} <= set(expected)
    assert {f"val/gaze_human_{name}" for name in HUMAN} <= set(expected)
    for result in ranks:
        for name, value in expected.items():
            torch.testing.assert_close(
                result["fit"]["metrics"][name].item(), value, rtol=1e-5, atol=1e-7, equal_nan=True, msg=name
            )


def test_maps_of_both_processes_are_kept_once_each(ranks):
    module = _module()
    module.load_state_dict(ranks[0]["fit"]["weights"])
    data = GazeDataModule(PHANTOM, data=load_dataset(PHANTOM))
    batch = data.evaluation_batch(list(range(17)))
    logits, cam = module.eval().look(batch.image, batch.target)
    kept = np.load(Path(ranks[0]["fit"]["folder"]) / "gaze_maps.npy")
    assert kept.shape == (2, 17) and kept["pred"].min() >= 1
    assert (kept["pred"][-1] == logits.argmax(1).numpy() + 1).all()
    expected = pool_by_cells(cam, 8).mul(255).round().numpy()
    np.testing.assert_allclose(kept["map"][-1].astype(float), expected, atol=1)  # a sum in another order may round over


def test_lightning_has_nothing_to_say_about_unsynchronised_values(ranks):
    assert not [text for result in ranks for text in result["fit"]["warnings"] if "sync_dist" in text]
