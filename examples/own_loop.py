"""Gaze consistency in a PyTorch loop of your own, with a network of your own: python examples/own_loop.py

Three things are added to an ordinary loop: (1) `gaze.look` in the place of the network's call, for its logits and the
map of the true class in one pass; (2) the gaze loss, its weight lambda times; (3) the metric, updated over the
evaluation set, read, and reset. The images (a bar on noise, lying or upright) and the network (a ResNet-18 with
random weights) are stand-ins. It takes seconds on a CPU.
"""

import torch
from torch import nn
from torchvision.models import resnet18

from gaze import CohenKappa, GazeConsistency, GazeConsistencyLoss, look

torch.manual_seed(3)
images, target = 0.3 * torch.randn(48, 3, 72, 72), torch.arange(48) % 2
for image, label, place in zip(images, target, torch.randint(0, 60, (48,)), strict=True):
    (image if label else image.mT)[:, place : place + 12, 12:60] += 2
batches = list(zip(images.split(8), target.split(8), strict=True))
train, test = batches[:4], batches[4:]  # here go your loaders
net = resnet18(num_classes=2)  # and here your network
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
gaze_loss, consistency, kappa = GazeConsistencyLoss(2), GazeConsistency(2), CohenKappa(2)

for epoch in range(1, 4):
    net.train()
    for x, y in train:
        logits, cam = look(net, x, y)  # (1) (B, K), and (B, H', W') in [0, 1]
        loss = nn.functional.cross_entropy(logits, y) + 1.0 * gaze_loss(cam, logits.argmax(1), y)  # (2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    for x, y in test:
        logits, cam = look(net, x, y)
        kappa.update(logits.argmax(1), y)
        consistency.update(cam, logits.argmax(1), y)  # (3)
    print(f"epoch {epoch}  loss {loss:.3f}  kappa {kappa.compute():.3f}  gaze consistency {consistency.compute():.4f}")
    kappa.reset()
    consistency.reset()
