"""Two things that can be trained in milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextset.core.noise import Noise
from nextset.core.update import Update
from nextset.training.batches import Batches


class Line(nn.Module):
    """Linear regression with dropout, a norm with buffers, and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.outer = nn.Linear(8, 1)
        self.fixed = nn.Linear(1, 1).requires_grad_(False)

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Tensor], step: int, noise: Noise):
        x = batch["x"] + 0.01 * noise.of("jitter").normal(batch["index"], torch.arange(4))
        loss = (self.outer(self.inner(x)) - batch["y"]).square().mean()
        yield Update("line", loss, {"mse": loss.detach()})


class Pictures(nn.Module):
    """A channels-last convolution: its weights do not lie in memory as a file holds them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Tensor], step: int, noise: Noise):
        x = batch["x"][:, :, None, None] * torch.linspace(-1, 1, 9).view(3, 3)
        yield Update("pictures", (self.conv(x) - 1).square().mean(), apply=step % 2 == 1)


class Players(nn.Module):
    """A critic that steps always and a generator that steps every third time, on accumulated gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Linear(4, 4)
        self.critic = nn.Linear(4, 1)
        self.seen: list[float] = []

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "critic": self.critic}

    def updates(self, batch: dict[str, Tensor], step: int, noise: Noise):
        fake = self.generator(batch["x"])
        loss = (self.critic(fake.detach()) - self.critic(batch["x"])).square().mean() - self.critic(batch["x"]).mean()
        yield Update("critic", loss, group="critic")
        self.seen.append(float(self.critic.weight.detach().sum()))
        yield Update("generator", -self.critic(fake).mean(), group="generator", apply=step % 3 == 2)


class Data:
    """64 rows whose target is their sum."""

    def __init__(self, batch: int = 8, seed: int = 0) -> None:
        self.order = Batches(64, batch, seed)
        self.x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))

    def __call__(self, i: int) -> dict[str, Tensor]:
        x = self.x[self.order.indices(i)]
        return {"x": x, "y": x.sum(1, keepdim=True), "index": self.order.samples(i)}
