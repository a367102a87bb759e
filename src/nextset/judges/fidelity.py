"""Is a picture of the class that was asked for? A small classifier, trained here on real pictures, says.

It is a measuring instrument, so it is kept with what it can do: its accuracy on real pictures that it was not trained on
lies in its file and stands beside every figure that it gives. Never train it on generated pictures. Its architecture and
its training are part of the definition of `class_fidelity`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.configs import Config
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise

PART = 500

Steps = Callable[[int, int, float], None]
"""steps(done, of how many, loss) is called after every training step."""


def quiet(done: int, total: int, loss: float) -> None:
    """No progress is shown."""


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(Config):
    """width w and epochs: 16 and 4 to watch a training (a minute and a half on one CPU core), 64 and 30 for a figure to
    quote. peak: of the one-cycle learning rate, reached after the share `rise` of all steps. pad: pixels by which
    pictures are reflected before a crop of the old size."""

    width: int = 16
    epochs: int = 4
    batch: int = 128
    peak: float = 0.2
    rise: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    pad: int = 4
    flip: bool = True
    seed: int = 0

    def check(self) -> None:
        for name in ("width", "epochs"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        self.require("batch", self.batch >= 2, "at least 2")  # a batch norm of one picture knows no variance
        self.require("peak", self.peak > 0, "above 0")
        self.require("rise", 0 < self.rise < 1, "between 0 and 1")
        self.require("momentum", 0 < self.momentum < 1, "between 0 and 1")
        for name in ("weight_decay", "pad"):
            self.require(name, getattr(self, name) >= 0, "at least 0")


class Classifier(nn.Module):
    """Four 3x3 convolutions with batch norm (w, 2w, 4w, 4w channels; strides 1, 2, 2, 1), global mean, one linear layer."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.width, self.classes = width, classes
        layers: list[nn.Module] = []
        channels = (3, width, 2 * width, 4 * width, 4 * width)
        for fan_in, out, stride in zip(channels, channels[1:], (1, 2, 2, 1), strict=False):
            layers += [nn.Conv2d(fan_in, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.last = nn.Linear(4 * width, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) in grey levels 0..255 -> logits (N, classes)."""
        return self.last(self.trunk((pixels / 255 - 0.5) / 0.25).mean((2, 3)))

    @torch.no_grad()
    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) -> the likeliest classes, int64 (N,)."""
        self.eval()
        device = self.last.weight.device
        found = []
        for start in range(0, len(images), PART):
            x = torch.from_numpy(np.ascontiguousarray(images[start : start + PART])).to(device)
            found.append(self(x.permute(0, 3, 1, 2).float()).argmax(1).cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def train_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    config: ClassifierConfig | None = None,
    steps: Steps = quiet,
    *,
    classes: int | None = None,
    device: str = "cpu",
) -> Classifier:
    """A classifier of real pictures: uint8 (N, H, W, 3) and labels (N,) in 0..classes-1 (by default as many as occur).

    Order and augmentation are functions of the seed.
    """
    c = config or ClassifierConfig()
    count = int(labels.max()) + 1 if classes is None else classes
    if len(images) != len(labels) or len(images) < c.batch or count < 2 or labels.min() < 0 or labels.max() >= count:
        raise NextsetError(
            f"a classifier needs a label in 0..{count - 1} for each picture, two classes and a batch of {c.batch}, "
            f"but has {len(images)} pictures and {len(labels)} labels of {len(np.unique(labels))} classes"
        )
    if c.pad >= min(images.shape[1:3]):
        raise NextsetError(f"pad is {c.pad}, but must be below the side of the pictures, {min(images.shape[1:3])}")
    with torch.random.fork_rng():
        torch.manual_seed(c.seed)
        model = Classifier(c.width, count).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks it
    batches = len(images) // c.batch  # each epoch leaves out the last few of another order
    optimizer = torch.optim.SGD(
        model.parameters(), lr=c.peak, momentum=c.momentum, weight_decay=c.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, c.peak, total_steps=c.epochs * batches, pct_start=c.rise, cycle_momentum=False
    )
    noise, targets = Noise(c.seed, "classifier"), torch.from_numpy(labels.astype(np.int64))
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    model.train()
    for step in range(c.epochs * batches):
        epoch, number = divmod(step, batches)
        if number == 0:
            shuffled = noise.of("order").permutation(len(images), epoch)
        index = shuffled[number * c.batch : (number + 1) * c.batch]
        x = augment(pixels[index], c, noise, index + epoch * len(images)).to(device)
        loss = F.cross_entropy(model(x), targets[index].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        steps(step + 1, c.epochs * batches, loss.item())
    return model.eval()


def augment(pixels: Tensor, c: ClassifierConfig, noise: Noise, samples: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> float32 grey levels, mirrored and cropped as the global sample indices (N,) say."""
    n, _, h, w = pixels.shape
    x = pixels.float()
    zero = torch.zeros(1, dtype=torch.int64)
    if c.flip:
        x = torch.where(noise.of("flip").uniform(samples, zero)[..., None, None] < 0.5, x.flip(-1), x)
    if c.pad:
        around = F.pad(x, (c.pad,) * 4, mode="reflect").permute(0, 2, 3, 1)
        corner = (noise.of("crop").uniform(samples, zero, lanes=2)[:, 0] * (2 * c.pad + 1)).long()
        rows, columns = corner[:, :1] + torch.arange(h), corner[:, 1:] + torch.arange(w)
        x = around[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
    return x


def accuracy(model: Classifier, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of pictures that are given their own class."""
    return float((model.predict(images) == labels).mean())


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """cf_acc: share classified as asked for, None without labels. cf_ratio: of the accuracy on real pictures, which is
    `accuracy`. entropy: of the classes found, in nats; at most ln(classes), and low when classes are missing."""

    cf_acc: float | None
    entropy: float
    accuracy: float
    n: int
    classes: int

    @property
    def cf_ratio(self) -> float | None:
        return None if self.cf_acc is None else self.cf_acc / self.accuracy

    @property
    def most_entropy(self) -> float:
        return math.log(self.classes)

    @classmethod
    def of(cls, predicted: np.ndarray, wanted: np.ndarray | None, accuracy: float, classes: int) -> Fidelity:
        """predicted (n,), and wanted (n,) in the classifier's classes, or None."""
        p = np.bincount(predicted, minlength=classes) / len(predicted)
        p = p[p > 0]
        hits = None if wanted is None else float((predicted == wanted).mean())
        return cls(hits, float(-(p * np.log(p)).sum()), accuracy, len(predicted), classes)
