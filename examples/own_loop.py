"""Gaze consistency in a PyTorch loop of your own, with a network of your own: python examples/own_loop.py

Four things are added to an ordinary loop: (1) the network is called in two halves, so that its last spatial feature map
lies between them; (2) Grad-CAM of the true class, made of that map in the same pass; (3) the gaze loss, its weight
lambda times; (4) the metric, updated over the evaluation set, read, and reset. The images (a bar on noise, lying or
upright) and the network (a ResNet-18 with random weights) are stand-ins. It takes seconds on a CPU.
"""

import torch
from torch import nn
from torchvision.models import resnet18

from gaze import CohenKappa, GazeConsistency, GazeConsistencyLoss, grad_cam, normalize_cam

torch.manual_seed(3)
images, target = 0.3 * torch.randn(48, 3, 72, 72), torch.arange(48) % 2
for image, label, place in zip(images, target, torch.randint(0, 60, (48,)), strict=True):
    (image if label else image.mT)[:, place : place + 12, 12:60] += 2
batches = list(zip(images.split(8), target.split(8), strict=True))
train, test = batches[:4], batches[4:]  # here go your loaders
net = resnet18(num_classes=2)  # and here your network
body = nn.Sequential(*list(net.children())[:-2])  # (1) up to its last spatial feature map
head = nn.Sequential(net.avgpool, nn.Flatten(), net.fc)  # and from there to the logits
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
gaze_loss, consistency, kappa = GazeConsistencyLoss(2), GazeConsistency(2), CohenKappa(2)


def logits_and_cam(x, y):
    with torch.set_grad_enabled(net.training):
        features = body(x)  # (B, M, H', W')
    logits = head(features.requires_grad_())  # in evaluation the graph begins here
    score = logits.gather(1, y[:, None]).squeeze(1)  # of the true class, before softmax (B,)
    return logits, normalize_cam(grad_cam(features, score, create_graph=net.training))  # (2) (B, H', W') in [0, 1]


for epoch in range(1, 4):
    net.train()
    for x, y in train:
        logits, cam = logits_and_cam(x, y)
        loss = nn.functional.cross_entropy(logits, y) + 1.0 * gaze_loss(cam, logits.argmax(1), y)  # (3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    for x, y in test:
        logits, cam = logits_and_cam(x, y)
        kappa.update(logits.argmax(1), y)
        consistency.update(cam, logits.argmax(1), y)  # (4)
    print(f"epoch {epoch}  loss {loss:.3f}  kappa {kappa.compute():.3f}  gaze consistency {consistency.compute():.4f}")
    kappa.reset()
    consistency.reset()
