"""The numbers of twenty steps, frozen: a change of the trainer that changes training is seen here.

Loss, norm of the gradient before clipping, and norm of the step that the weights make. Weights and data are made of
counter-based noise by name, so that nothing else than training decides. Values were measured on an x86-64 CPU.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from nextset.core.noise import Noise
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.var import Var, VarConfig
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig
from nextset.training.batches import Batches
from nextset.training.recipes import TrainConfig
from nextset.training.trainer import Trainer

from .toys import Players

SIDES = (1, 2, 3)
STEPS = 20

# (loss, norm of the gradient, norm of the step) of steps 1 ... 20
GENERATOR: list[tuple[float, float, float]] = [
    (2.841609, 0.7447741, 0.001565923),
    (2.869641, 0.7923615, 0.05998228),
    (2.92854, 0.9002572, 0.1054283),
    (2.890794, 0.7621544, 0.1562706),
    (2.849107, 0.8254452, 0.2018712),
    (2.77565, 0.6329164, 0.1661419),
    (2.777862, 0.4891344, 0.1593514),
    (2.737677, 0.4962697, 0.1448726),
    (2.814909, 0.5856866, 0.1238667),
    (2.769396, 0.4990763, 0.1116672),
    (2.713826, 0.6112977, 0.09379551),
    (2.754929, 0.5334125, 0.07492897),
    (2.711257, 0.4431738, 0.06144629),
    (2.739944, 0.5008739, 0.04826858),
    (2.732378, 0.5093985, 0.03377222),
    (2.694208, 0.3951007, 0.02228088),
    (2.744233, 0.6589418, 0.01371115),
    (2.721954, 0.5052764, 0.006775912),
    (2.703702, 0.5181202, 0.00266628),
    (2.745753, 0.5120488, 0.001273778),
]
CRITIC: list[tuple[float, float, float]] = [
    (-0.2420497, 1.103131, 1.679833e-05),
    (-0.164709, 1.675669, 0.0007898078),
    (-0.2272498, 1.271953, 0.006924959),
    (-0.2626921, 1.138091, 0.002075089),
    (-0.2023051, 1.438941, 0.002679907),
    (-0.1869564, 1.868133, 0.01355137),
    (-0.216878, 1.32532, 0.002509217),
    (-0.2213427, 1.695109, 0.002480963),
    (-0.2391392, 1.308202, 0.01142709),
    (-0.1654875, 2.19115, 0.002170791),
    (-0.265319, 1.183831, 0.001880682),
    (-0.2669087, 1.105827, 0.007572383),
    (-0.1657309, 1.847478, 0.001198239),
    (-0.271806, 1.548025, 0.0009552884),
    (-0.2784042, 1.193449, 0.003488746),
    (-0.312512, 1.311311, 0.0004403578),
    (-0.1744075, 1.692213, 0.0002709043),
    (-0.2375513, 1.244802, 0.0007146092),
    (-0.2044137, 1.915771, 5.591744e-05),
    (-0.2808462, 1.0921, 2.647028e-05),
]


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """Weights that depend on their names and on nothing else."""
    for name, p in model.named_parameters():
        key = torch.tensor([zlib.crc32(name.encode())])
        p.copy_(0.1 * Noise(0, "weights").normal(key, torch.arange(p.numel())).view(p.shape))
    return model


def generator() -> tuple[nn.Module, Any]:
    autoencoder = AutoencoderConfig(channels=8, multipliers=(1, 1), blocks=1, latent=4, groups=4)
    tokenizer = fill(MultiScaleVQ(MultiScaleVQConfig(autoencoder, vocabulary=16, sides=SIDES)))
    config = VarConfig(classes=4, depth=2, width=16, heads=2, channels=4, vocabulary=16, sides=SIDES, drop_path=0.0)
    words = Noise(0, "codes").uniform(torch.arange(24), torch.arange(14))
    codes, order = (words * 16).long(), Batches(24, 8, 0)

    def batch(i: int) -> dict[str, Tensor]:
        rows = order.indices(i)
        return {"codes": codes[rows], "labels": rows % 4, "index": order.samples(i)}

    return fill(Var(config, tokenizer)), batch


def players() -> tuple[nn.Module, Any]:
    x = Noise(0, "x").normal(torch.arange(24), torch.arange(4))
    order = Batches(24, 4, 0)
    return fill(Players()), lambda i: {"x": x[order.indices(i)]}


def measured(
    model: nn.Module, batches: Any, name: str, folder: Path, **changes: Any
) -> list[tuple[float, float, float]]:
    before = [p.detach().clone() for p in model.parameters()]
    found = []

    def on_log(step: int, values: dict[str, float]) -> None:
        now = [p.detach().clone() for p in model.parameters()]
        length = torch.stack([(a - b).square().sum() for a, b in zip(now, before, strict=True)]).sum().sqrt()
        before[:] = now
        found.append((values[f"{name}/loss"], values[f"{name}/gradient_norm"], float(length)))

    values = {"steps": STEPS, "lr": 3e-3, "warmup": 4, "schedule": "cos", "clip": 0.5, "ema": 0.9, "threads": 1}
    config = TrainConfig.from_dict({**values, "weight_decay_end": 0.2, "log_every": 1, "sample_every": 0, **changes})
    Trainer(model, batches, config, folder, on_log=on_log, console=Console(quiet=True)).run()
    return found


@pytest.mark.parametrize(
    ("make", "name", "changes", "frozen"),
    [
        (generator, "generator", {"batch": 8}, GENERATOR),
        (players, "critic", {"batch": 4, "accumulate": 2, "lr_scale": {"critic": 0.5}}, CRITIC),
    ],
)
def test_twenty_steps(tmp_path, make, name, changes, frozen):
    found = measured(*make(), name, tmp_path, **changes)
    assert len(found) == STEPS
    for step, (now, then) in enumerate(zip(found, frozen, strict=True), 1):
        assert now == pytest.approx(then, rel=1e-4), f"step {step}: {now}"
