"""Tokens of which a mean says nothing: two numbers near one of eight points on a ring, turned by the class.

A head that models the law of a token finds the points; one that regresses finds the middle. Source: sheet `mar`,
Miniature claim (a).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextset.core.noise import Noise
from nextset.core.steps import Step
from nextset.heads.diffusion import Diffusion, drawn_with
from nextset.heads.regression import Regression

MODES, CLASSES, RADIUS, SPREAD = 8, 2, math.sqrt(2), 0.15  # each number has variance near 1
NEAR = 3  # spreads from a mode that still belong to it: 98.9 % of true tokens do
BATCH, RATE, CLIP = 256, 2e-3, 3.0
# without the last step of the process, at which an error of a thousandth of the noise moves a token by a third
INNER = "ddim100"
_WIDTH, _SIZES = 16, (2, 3, 64)  # of the condition; channels, depth and width of the network
_PLACE = torch.zeros(1, dtype=torch.int64)
_STEP = Step.make(0, _PLACE, _PLACE)


def points(classes: Tensor) -> Tensor:
    """The eight points of each class: (N, 8, 2); those of the second class lie between those of the first."""
    turn = (torch.arange(MODES) + classes[:, None] / CLASSES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([turn.cos(), turn.sin()], -1)


def tokens(noise: Noise, index: Tensor) -> tuple[Tensor, Tensor]:
    """(classes (N,), tokens (N, 2)) of samples."""
    classes = index % CLASSES
    mode = (noise.of("mode").uniform(index, _PLACE)[:, 0] * MODES).long()
    spread = SPREAD * noise.of("spread").normal(index, _PLACE, lanes=2)[:, 0]
    return classes, points(classes)[torch.arange(len(index)), mode] + spread


def near_modes(kind: type[Diffusion] | type[Regression], steps: int, drawn: int = 2000) -> float:
    """The share of drawn tokens that lie near a mode of their class, after so many steps of training a head alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head, classes = kind(_WIDTH, *_SIZES), nn.Embedding(CLASSES, _WIDTH)
    noise = Noise(0, "ring")
    optimiser = torch.optim.Adam([*head.parameters(), *classes.parameters()], lr=RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.enable_grad():
        for step in range(steps):
            index = step * BATCH + torch.arange(BATCH)
            label, target = tokens(noise.of("train"), index)
            terms = head.loss(classes(label)[:, None], target[:, None], noise.of("loss"), index, _PLACE)
            optimiser.zero_grad()
            sum(part.mean() for part in terms).backward()  # type: ignore[union-attr]
            nn.utils.clip_grad_norm_([*head.parameters(), *classes.parameters()], CLIP)
            optimiser.step()
            decay.step()
    index = torch.arange(drawn)
    label = index % CLASSES
    with torch.no_grad():
        law = head.dist((classes(label)[:, None],), _STEP).guide((1.0,), 1)
        chain = [drawn_with(INNER)] if isinstance(head, Diffusion) else []
        found = law.filter(chain).draw(noise.of("draw"), index, _PLACE).value
    distance = (found - points(label)).norm(dim=-1).amin(1)
    return float((distance < NEAR * SPREAD).float().mean())
