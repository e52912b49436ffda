"""A network that gaze knows nothing of, trained in plain PyTorch: python examples/train_outside.py FOLDER

FOLDER/images holds train/CLASS/*.png and test/CLASS/*.png; where there are none, the phantom is drawn into it (the
one thing that gaze does here). A ResNet-18 of torchvision with random weights learns them at 64 pixels, scaled with
ImageNet's mean and SD as most tutorials do, and its state_dict goes to FOLDER/resnet18.pt. docs/networks.md has the
commands that measure, check and explain it. It takes about a minute on two CPU cores.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

SIZE, EPOCHS = 64, 6
folder = Path(sys.argv[1])
images = folder / "images"

if not images.exists():
    from gaze.data.sources.phantom import CLASSES, make_phantom

    for split, count in (("train", 640), ("test", 160)):
        drawn = make_phantom(count, SIZE, split=split)
        for number, (image, label) in enumerate(zip(drawn.images, drawn.targets.tolist(), strict=True)):
            place = images / split / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            to_pil_image(image).save(place / f"{number:04d}.png")

torch.manual_seed(0)
prepare = v2.Compose([
    v2.Resize((SIZE, SIZE)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
    v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
])  # fmt: skip
train, test = (ImageFolder(images / split, prepare) for split in ("train", "test"))
net = resnet18(num_classes=len(train.classes))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for epoch in range(1, EPOCHS + 1):
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 if epoch < EPOCHS - 1 else 1e-4
    net.train()
    for x, y in DataLoader(train, 32, shuffle=True):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        correct = sum(int((net(x).argmax(1) == y).sum()) for x, y in DataLoader(test, 32))
    print(f"epoch {epoch}  loss {loss:.3f}  test accuracy {correct / len(test):.4f}")
torch.save(net.state_dict(), folder / "resnet18.pt")
print(f"{folder / 'resnet18.pt'}, classes in this order: {', '.join(train.classes)}")
