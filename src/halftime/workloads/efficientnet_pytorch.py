"""A small EfficientNet on photographs: crops of any size, flips, colours and holes."""

import argparse
import math
import random

import photographs
import torch
from PIL import Image, ImageEnhance
from resnet_pytorch import (
    CenterCrop,
    Compose,
    ImageFolder,
    Normalise,
    RandomFlip,
    Resize,
    count_correct,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

SIZES = {
    "small": {"side": 64, "width": 0.25, "depth": 0.4, "epochs": 6, "batch": 25},
    "full": {"side": 224, "width": 1.0, "depth": 1.0, "epochs": 100, "batch": 64},
}
# Expansion, channels, layers, stride, kernel of each stage of EfficientNet-B0.
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
          (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip


class RandomResizedCrop:
    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        area = image.width * image.height * random.uniform(0.3, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        width = min(round(math.sqrt(area * ratio)), image.width)
        height = min(round(math.sqrt(area / ratio)), image.height)
        left = random.randint(0, image.width - width)
        top = random.randint(0, image.height - height)
        box = (left, top, left + width, top + height)
        return image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)


class RandomColours:
    def __call__(self, image):
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(random.uniform(0.7, 1.3))
        return image


class RandomHole:
    def __call__(self, pixels):
        if random.random() < 0.5:
            side = pixels.shape[1] // 4
            top, left = (random.randint(0, 3 * side) for _ in range(2))
            pixels[:, top : top + side, left : left + side] = 0.0
        return pixels


def convolution(inputs, outputs, kernel=1, stride=1, groups=1, active=True):
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.SiLU()] if active else []))


class Squeeze(nn.Module):
    """Weighs channels by what the whole image holds."""

    def __init__(self, channels, inner):
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.SiLU(),
            nn.Conv2d(inner, channels, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        return x * self.layers(x)


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, expansion, kernel, stride):
        super().__init__()
        inner = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            convolution(inputs, inner) if expansion > 1 else nn.Identity(),
            convolution(inner, inner, kernel, stride, groups=inner),
            Squeeze(inner, max(inputs // 4, 1)),
            convolution(inner, outputs, active=False),
        )

    def forward(self, x):
        return x + self.layers(x) if self.adds else self.layers(x)


def efficientnet(width, depth, classes):
    def scaled(channels):
        return max(round(channels * width / 8) * 8, 8)

    layers, inputs = [convolution(3, scaled(32), 3, 2)], scaled(32)
    for expansion, channels, count, stride, kernel in STAGES:
        for number in range(math.ceil(count * depth)):
            first = stride if number == 0 else 1
            layers.append(Inverted(inputs, scaled(channels), expansion, kernel, first))
            inputs = scaled(channels)
    head = [convolution(inputs, 4 * inputs), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *head, nn.Dropout(0.2), nn.Linear(4 * inputs, classes))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    size = SIZES[args.size]

    random.seed(0)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = photographs.find(args.data_dir)
    print(f"data: {data.source}")
    side = size["side"]
    views = [RandomResizedCrop(side), RandomFlip(), RandomColours(), Normalise(), RandomHole()]
    centre = [Resize(side * 9 // 8), CenterCrop(side), Normalise()]
    train_set = ImageFolder(data.train, Compose(views))
    test_set = ImageFolder(data.test, Compose(centre))
    train_loader = DataLoader(train_set, size["batch"], shuffle=True)
    test_loader = DataLoader(test_set, size["batch"])

    model = efficientnet(size["width"], size["depth"], len(train_set.classes)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for epoch in range(args.epochs or size["epochs"]):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
        correct = count_correct(model, test_loader, device)
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, test accuracy {correct}/{len(test_set)}")


if __name__ == "__main__":
    main()
