"""Gaze consistency in a LightningModule of your own: python examples/own_lightning.py

As examples/own_loop.py, with two things that Lightning adds: the loss is a submodule, so that its class gaze moves with
the module and is kept in checkpoints; and the metrics are logged as objects, so that Lightning reads and resets them.
Data and network are stand-ins. It takes seconds on a CPU.
"""

import torch
from lightning import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from gaze import CohenKappa, GazeConsistency, GazeConsistencyLoss, curriculum, look


class Classifier(LightningModule):
    def __init__(self, num_classes=2, gaze_lambda=1.0):
        super().__init__()
        self.net = resnet18(num_classes=num_classes)  # your network
        self.gaze_lambda = gaze_lambda
        self.gaze_loss = GazeConsistencyLoss(num_classes)
        self.kappa, self.consistency = CohenKappa(num_classes), GazeConsistency(num_classes)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits, cam = look(self.net, x, y)
        loss_cls, loss_gaze = nn.functional.cross_entropy(logits, y), self.gaze_loss(cam, logits.argmax(1), y)
        loss = loss_cls + curriculum(self.current_epoch + 1, self.gaze_lambda, start=0, end=2) * loss_gaze
        values = {"train/loss": loss, "train/loss_cls": loss_cls, "train/loss_gaze": loss_gaze}
        self.log_dict(values, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits, cam = look(self.net, x, y)
        self.kappa.update(logits.argmax(1), y)
        self.consistency.update(cam, logits.argmax(1), y)
        self.log_dict({"val/kappa": self.kappa, "val/gaze_consistency": self.consistency})

    def on_train_epoch_end(self):
        now = self.trainer.callback_metrics
        print(
            f"epoch {self.current_epoch + 1}  loss {now['train/loss']:.3f}  kappa {now['val/kappa']:.3f}  "
            f"gaze consistency {now['val/gaze_consistency']:.4f}"
        )

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    seed_everything(0)
    images, target = 0.3 * torch.randn(48, 3, 72, 72), torch.arange(48) % 2
    for image, label, place in zip(images, target, torch.randint(0, 60, (48,)), strict=True):
        (image if label else image.mT)[:, place : place + 12, 12:60] += 2
    train = DataLoader(TensorDataset(images[:32], target[:32]), batch_size=8, shuffle=True)
    test = DataLoader(TensorDataset(images[32:], target[32:]), batch_size=8)
    trainer = Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(Classifier(), train, test)
