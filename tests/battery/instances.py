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
from nextset.systems.flexvar import FlexVar, FlexVarConfig
from nextset.systems.hmar import Hmar, HmarConfig
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.llamagen import LlamaGen, LlamaGenConfig
from nextset.systems.m_var import MambaVar, MambaVarConfig
from nextset.systems.mar import Mar, MarConfig
from nextset.systems.mvar import MVar, MVarConfig
from nextset.systems.nfig import Nfig, NfigConfig
from nextset.systems.sar import Sar, SarConfig
from nextset.systems.var import Var, VarConfig
from nextset.text.condition import Text
from nextset.text.words import WordsConfig
from nextset.tokenizers.bitwise import BitwiseConfig, BitwisePyramid
from nextset.tokenizers.flexible import FlexibleVQ, FlexibleVQConfig
from nextset.tokenizers.frequency import FrequencyVQ, FrequencyVQConfig
from nextset.tokenizers.kl import KLAutoencoder, KLConfig
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig
from nextset.tokenizers.vq import VQConfig, VQTokenizer


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


def flexvar() -> Instance:
    """As VAR's, on independent scales; a training step draws one or two of the sides behind the first."""
    torch.manual_seed(0)
    tokenizer = FlexibleVQ(FlexibleVQConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=6, groups=4, attention=False),
        vocabulary=24, channels=4, sides=(1, 2, 3),
    ))  # fmt: skip
    model = FlexVar(
        FlexVarConfig(classes=5, depth=2, width=32, heads=2, channels=4, vocabulary=24, sides=(1, 2, 3), places=8,
                      draws=((1, 1, 1), (2, 3, 1)), share=0.5, budget=14),
        randomise(tokenizer),  # type: ignore[arg-type]
    )  # fmt: skip
    return dataclasses.replace(
        var(),
        model=randomise(model),
        job=lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20, top_p=0.95),
    )


def hmar() -> Instance:
    """As VAR's, in scales that see themselves alone."""
    base = var()
    model = Hmar(
        HmarConfig(classes=5, depth=2, width=32, heads=2, channels=4, vocabulary=24, sides=(1, 2, 3)),
        base.model.tokenizer,
    )
    return dataclasses.replace(
        base,
        model=randomise(model),
        job=lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20, top_p=0.95),
        can=base.can - {"memory"},
    )


def hmar_refined() -> Instance:
    """With a second last block, and the released schedule: seven forwards. Not "pin": steps of refinement are fed what
    earlier steps left open, which a join of all of them cannot know. Nor "compile": as in `var_raster`."""
    base = hmar()
    model = Hmar(base.model.config.replace(mask_blocks=1), base.model.tokenizer)  # type: ignore[union-attr,operator,arg-type]
    return dataclasses.replace(
        base,
        model=randomise(model),
        job=lambda images: model.job(images % 5, guidance_scale=2.0, refine_guidance=0.5, top_k=20, top_p=0.95),
        can=base.can - {"pin", "compile"},
    )


def infinity() -> Instance:
    """Three scales of 2x2-patches of 4 bits, prompts of several lengths, guidance at the logits."""
    torch.manual_seed(0)
    tokenizer = BitwisePyramid(BitwiseConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4, attention=False,
                                      middle_attention=False),
        sides=(1, 2, 3), patch=2,
    ))  # fmt: skip
    words = tuple(f"w{i}" for i in range(8))
    model = Infinity(
        InfinityConfig(depth=2, width=32, heads=2, channels=4, patch=2, sides=(1, 2, 3), levels=3, text_channels=16,
                       text_length=6, words=WordsConfig(words=words, width=16, depth=1, heads=2, length=6)),
        randomise(tokenizer),  # type: ignore[arg-type]
    )  # fmt: skip
    randomise(model)

    def prompts(samples: Tensor) -> list[str]:
        return [" ".join(f"w{(i + j) % 8}" for j in range(1 + i % 4)) for i in samples.tolist()]

    def batch(samples: Tensor) -> dict[str, Any]:
        maps = [torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(int(i))) for i in samples]
        return {"features": torch.stack(maps), "captions": prompts(samples), "index": samples}

    return Instance(
        model,
        lambda images: model.job(model.encode_prompts(prompts(images)), guidance_scale=[1.0, 2.0, 3.0], temperature=0.9,
                                 top_p=0.9),
        frozenset({"generate", "memory", "guide", "pin", "reconstruct", "train", "save", "compile"}), batch,
    )  # fmt: skip


def infinity_inside() -> Instance:
    """Guidance on the hidden states behind the first block."""
    base = infinity()
    model: Any = base.model

    def job(images: Tensor) -> Job:
        texts = [" ".join(f"w{(i + j) % 8}" for j in range(1 + i % 4)) for i in images.tolist()]
        return model.job(model.encode_prompts(texts), guidance_scale=2.0, guide_at=[-2])

    return dataclasses.replace(base, job=job, can=frozenset({"generate", "memory", "pin"}))


def mar() -> Instance:
    """Nine tokens in four steps, a decoder of another width than the encoder, five steps of the head. Not "pin": an order
    belongs to an image, so no prefix of steps is one mask, and laws have no logits. Nor "compile": as in `var_raster`."""
    torch.manual_seed(0)
    tokenizer = KLAutoencoder(KLConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4), sides=(3,),
    ))  # fmt: skip
    model = Mar(
        MarConfig(classes=5, sides=(3,), channels=4, width=32, depth=1, heads=2, decoder_width=16, decoder_depth=1,
                  decoder_heads=2, buffer=3, head_depth=1, head_width=16, repeats=2, dropout=0.0, label_drop=0.3),
        randomise(tokenizer),
    )  # fmt: skip

    def batch(samples: Tensor) -> dict[str, Any]:
        moments = [torch.randn(8, 3, 3, generator=torch.Generator().manual_seed(int(i))) for i in samples]
        return {"features": torch.stack(moments), "labels": samples % 5, "index": samples}

    return Instance(
        randomise(model, 0.1), lambda images: model.job(images % 5, guidance_scale=2.0, steps=4, inner_steps="5"),
        frozenset({"generate", "guide", "reconstruct", "train", "save"}), batch,
    )  # fmt: skip


def sar() -> Instance:
    """FlexVAR's, with a rollout of the last scale; the loss of the second pass weighs enough to be seen."""
    base = flexvar()
    config = SarConfig.from_dict({**base.model.config.to_dict(), "sigma": 0.5})  # type: ignore[union-attr,operator]
    model = Sar(config, base.model._outside["tokenizer"])  # type: ignore[union-attr,index,arg-type]
    return dataclasses.replace(
        base,
        model=randomise(model),
        job=lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20, top_p=0.95),
    )


def sar_var() -> Instance:
    """VAR's, with a sampled and guided rollout of all scales."""
    base = var()
    config = SarConfig(
        classes=5, depth=2, width=32, heads=2, channels=4, vocabulary=24, sides=(1, 2, 3), on="var", ssr="all",
        sigma=0.5, rollout="sampled", rollout_top_k=20,
    )  # fmt: skip
    model = Sar(config, base.model.tokenizer)  # type: ignore[arg-type]
    return dataclasses.replace(
        base,
        model=randomise(model),
        job=lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20, top_p=0.95),
    )


def llamagen(**changes: Any) -> Instance:
    """A map of 3x3 cells behind a class, two heads of keys for four of queries. Not "compile", as `var_raster`."""
    torch.manual_seed(0)
    tokenizer = VQTokenizer(VQConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=6, groups=4, attention=False),
        vocabulary=24, channels=4, sides=(3,),
    ))  # fmt: skip
    sizes: dict[str, Any] = {
        "depth": 2,
        "width": 32,
        "heads": 4,
        "keys": 2,
        "hidden": 48,
        "vocabulary": 24,
        "sides": (3,),
    }
    model = LlamaGen(
        LlamaGenConfig(classes=5, token_dropout=0.0, dropout=0.0, **{**sizes, **changes}),
        randomise(tokenizer),  # type: ignore[arg-type]
    )

    def batch(samples: Tensor) -> dict[str, Any]:
        codes = [torch.randint(0, 24, (9,), generator=torch.Generator().manual_seed(int(i))) for i in samples]
        return {"codes": torch.stack(codes), "labels": samples % 5, "index": samples}

    return Instance(
        randomise(model), lambda images: model.job(images % 5, guidance_scale=2.0, guidance_steps=6, top_k=20, top_p=0.95),
        frozenset({"generate", "memory", "guide", "pin", "reconstruct", "train", "save"}), batch,
    )  # fmt: skip


def llamagen_text() -> Instance:
    """Asked with texts of one to four tokens in four slots."""
    base = llamagen(asked_with="text", text_channels=6, text_length=4, positions="grid_unit")
    model: Any = base.model

    def text(samples: Tensor) -> Text:
        made = [(i, torch.Generator().manual_seed(i)) for i in samples.tolist()]
        return Text.of([torch.randn(1 + i % 4, 6, generator=generator) for i, generator in made])

    def batch(samples: Tensor) -> dict[str, Any]:
        assert base.batch is not None
        return {**base.batch(samples), "text": text(samples)}

    return dataclasses.replace(
        base, job=lambda images: model.job(text(images), guidance_scale=2.0, top_k=20, top_p=0.95), batch=batch
    )


# by slug, or "slug:variant"
INSTANCES: dict[str, Callable[[], Instance]] = {
    "infinity": infinity,
    "infinity:inside": infinity_inside,
    "flexvar": flexvar,
    "hmar": hmar,
    "hmar:refined": hmar_refined,
    "llamagen": llamagen,
    "llamagen:text": llamagen_text,
    "m_var": m_var,
    "mar": mar,
    "mvar": mvar,
    "nfig": nfig,
    "sar": sar,
    "sar:var": sar_var,
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
