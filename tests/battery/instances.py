"""A tiny random instance of every system that is available: the only place of the battery that knows a slug.

A function makes one instance with weights drawn at random (initial weights are zero in places, which would hide much)
and says what it can. Requests are made for image indices, and conditions depend on the index alone, so that the same
image can be asked for alone, in a batch, or in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nextset.core.protocols import Job
from nextset.hub.catalogue import list_systems
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.m_var import MambaVar, MambaVarConfig
from nextset.systems.mvar import MVar, MVarConfig
from nextset.systems.nfig import Nfig, NfigConfig
from nextset.systems.var import Var, VarConfig
from nextset.tokenizers.frequency import FrequencyVQ, FrequencyVQConfig
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig


@dataclasses.dataclass(frozen=True)
class Instance:
    """model: a system. job(images (N,)) -> a request. batch(samples) -> a training batch.

    can: "generate", "memory" (a later step reads what an earlier one stored), "guide" (several branches), "pin" (codes
    can be given), "reconstruct" (its tokenizer encodes what it decodes), "train", "save" (a model folder), "compile".
    """

    model: nn.Module
    job: Callable[[Tensor], Job]
    can: frozenset[str]
    batch: Callable[[Tensor], dict[str, Any]] | None = None


def randomise(module: nn.Module, scale: float = 0.2) -> nn.Module:
    """Add noise to every weight, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval()


def var() -> Instance:
    """Three scales, two blocks, guidance that grows from nothing."""
    torch.manual_seed(0)
    tokenizer = MultiScaleVQ(MultiScaleVQConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4, attention=False),
        vocabulary=24, sides=(1, 2, 3), phi_share=2,
    ))  # fmt: skip
    model = Var(
        VarConfig(classes=5, depth=2, width=32, heads=2, channels=4, vocabulary=24, sides=(1, 2, 3)),
        randomise(tokenizer),
    )

    def batch(samples: Tensor) -> dict[str, Any]:
        codes = torch.stack(
            [torch.randint(0, 24, (14,), generator=torch.Generator().manual_seed(int(i))) for i in samples]
        )
        return {"codes": codes, "labels": samples % 5, "index": samples}

    return Instance(
        randomise(model), lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20, top_p=0.95),
        frozenset({"generate", "memory", "guide", "pin", "reconstruct", "train", "save", "compile"}), batch,
    )  # fmt: skip


def var_raster() -> Instance:
    """VAR's baseline: one map of 3x3 cells, token by token. Not "compile": a compiled body of one token compiles anew at
    each position until steps of one shape share it, which the systems of single tokens bring."""
    torch.manual_seed(0)
    tokenizer = MultiScaleVQ(MultiScaleVQConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4, attention=False),
        vocabulary=24, sides=(3,), phi_share=1,
    ))  # fmt: skip
    model = Var(
        VarConfig(classes=5, depth=2, width=32, heads=2, channels=4, vocabulary=24, sides=(3,), raster=True),
        randomise(tokenizer),
    )

    def batch(samples: Tensor) -> dict[str, Any]:
        codes = [torch.randint(0, 24, (9,), generator=torch.Generator().manual_seed(int(i))) for i in samples]
        return {"codes": torch.stack(codes), "labels": samples % 5, "index": samples}

    return Instance(
        randomise(model), lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20, top_p=0.95),
        frozenset({"generate", "memory", "guide", "pin", "reconstruct", "train", "save"}), batch,
    )  # fmt: skip


def nfig() -> Instance:
    """As VAR's, on frequency bands."""
    torch.manual_seed(0)
    tokenizer = FrequencyVQ(FrequencyVQConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4, attention=False),
        vocabulary=24, sides=(1, 2, 3), phi_share=2,
    ))  # fmt: skip
    model = Nfig(
        NfigConfig(classes=5, depth=2, width=32, heads=2, channels=4, vocabulary=24, sides=(1, 2, 3)),
        randomise(tokenizer),  # type: ignore[arg-type]
    )
    return dataclasses.replace(
        var(), model=randomise(model), job=lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20)
    )


def m_var() -> Instance:
    """As VAR's, with a Mamba of four heads in each block."""
    base = var()
    model = MambaVar(
        MambaVarConfig(classes=5, depth=2, width=32, heads=2, channels=4, vocabulary=24, sides=(1, 2, 3), state=8,
                       head_width=16),
        base.model.tokenizer,  # type: ignore[arg-type]
    )  # fmt: skip
    return dataclasses.replace(
        base,
        model=randomise(model),
        job=lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20, top_p=0.95),
    )


def mvar() -> Instance:
    """As VAR's, with a window of 3x3 on a last map of 5x5 cells."""
    torch.manual_seed(0)
    tokenizer = MultiScaleVQ(MultiScaleVQConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4, attention=False),
        vocabulary=24, sides=(1, 2, 5), phi_share=2,
    ))  # fmt: skip
    model = MVar(
        MVarConfig(classes=5, depth=2, width=32, heads=2, channels=4, vocabulary=24, sides=(1, 2, 5), kernel_size=3,
                   refine_step=2, train_ratio=1),
        randomise(tokenizer),  # type: ignore[arg-type]
    )  # fmt: skip

    def batch(samples: Tensor) -> dict[str, Any]:
        codes = [torch.randint(0, 24, (30,), generator=torch.Generator().manual_seed(int(i))) for i in samples]
        return {"codes": torch.stack(codes), "labels": samples % 5, "index": samples}

    return Instance(
        randomise(model), lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20, top_p=0.95),
        frozenset({"generate", "guide", "pin", "reconstruct", "train", "save", "compile"}), batch,
    )  # fmt: skip


# by slug, or "slug:variant"
INSTANCES: dict[str, Callable[[], Instance]] = {
    "m_var": m_var,
    "mvar": mvar,
    "nfig": nfig,
    "var": var,
    "var:raster": var_raster,
}


@cache
def instance(name: str) -> Instance:
    """The instance of a name; tests leave it as it was."""
    return INSTANCES[name]()


def having(*capabilities: str) -> Any:
    """Run a test for the instance of every available system that can do all of this."""
    available = {r.slug for r in list_systems(state="available")}
    names = [name for name in INSTANCES if name.split(":")[0] in available]
    chosen = [name for name in names if set(capabilities) <= instance(name).can]
    return pytest.mark.parametrize("it", [pytest.param(instance(s), id=s) for s in chosen])
