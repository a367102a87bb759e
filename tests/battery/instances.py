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
from nextset.nn.encoders import EncoderConfig
from nextset.systems.flexvar import FlexVar, FlexVarConfig
from nextset.systems.flowar import FlowAr, FlowArConfig
from nextset.systems.hmar import Hmar, HmarConfig
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.just_zoom_in import JustZoomIn, JustZoomInConfig
from nextset.systems.llamagen import LlamaGen, LlamaGenConfig
from nextset.systems.m_var import MambaVar, MambaVarConfig
from nextset.systems.mar import Mar, MarConfig
from nextset.systems.mvar import MVar, MVarConfig
from nextset.systems.nar import Nar, NarConfig
from nextset.systems.nfig import Nfig, NfigConfig
from nextset.systems.sar import Sar, SarConfig
from nextset.systems.var import Var, VarConfig
from nextset.systems.xar import Xar, XarConfig
from nextset.text.condition import Text
from nextset.text.words import WordsConfig
from nextset.tokenizers.bitwise import BitwiseConfig, BitwisePyramid
from nextset.tokenizers.flexible import FlexibleVQ, FlexibleVQConfig
from nextset.tokenizers.frequency import FrequencyVQ, FrequencyVQConfig
from nextset.tokenizers.kl import KLAutoencoder, KLConfig
from nextset.tokenizers.larp import Larp, LarpConfig
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig
from nextset.tokenizers.vq import VQConfig, VQTokenizer
from tests.grounds import Waves


@dataclasses.dataclass(frozen=True)
class Instance:
    """model: a system. job(images (N,)) -> a request. batch(samples) -> a training batch.

    can: "generate", "memory" (a later step reads what an earlier one stored), "guide" (several branches), "pin" (codes
    can be given), "levels" (a position is drawn at several levels of noise, which codes do not tell), "reconstruct" (its tokenizer encodes what it decodes), "train", "save" (a model folder), "compile".
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


def flowar(**changes: Any) -> Instance:
    """Three scales, each drawn by a flow of four inner steps. Not "reconstruct": codes are those of all scales, of which the
    tokenizer makes the last."""
    torch.manual_seed(0)
    tokenizer = KLAutoencoder(KLConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4), sides=(4,),
    ))  # fmt: skip
    model = FlowAr(
        FlowArConfig.from_dict(dict(
            classes=5, sides=(4,), scales=(1, 2, 4), channels=4, width=32, depth=1, heads=2, head_depth=1, head_width=16,
            head_heads=2, mix="attention", dropout=0.0, label_drop=0.3,
        ) | changes),
        randomise(tokenizer),
    )  # fmt: skip

    def batch(samples: Tensor) -> dict[str, Any]:
        moments = [torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(int(i))) for i in samples]
        return {"features": torch.stack(moments), "labels": samples % 5, "index": samples}

    return Instance(
        randomise(model, 0.1), lambda images: model.job(images % 5, guidance_scale=2.0, inner_steps=4),
        frozenset({"generate", "memory", "guide", "pin", "train", "save", "compile"}), batch,
    )  # fmt: skip


def flowar_cross() -> Instance:
    """Blocks of the head that also look at the hidden states; sides that do not divide each other, stacks that differ."""
    base = flowar(mix="cross", scales=(1, 3, 4), decoder_depth=2, decoder_heads=4)
    return dataclasses.replace(base, can=base.can - {"compile"})  # compiled as `flowar` is


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
        randomise(model), lambda images: model.job(images % 5, guidance_scale=2.0, guidance_tokens=6, top_k=20, top_p=0.95),
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


def just_zoom_in(encoder: EncoderConfig | None = None) -> Instance:
    """Three zooms into 3x3 cells of a map that is a formula; the path is drawn, and what is found is the path. Not "save": a
    canvas belongs to a map, which no model has. Nor "compile", as `var_raster`."""
    torch.manual_seed(0)
    encoder = encoder or EncoderConfig(kind="conv", width=32, channels=(8, 16), cells=2)
    model = JustZoomIn(
        JustZoomInConfig(encoder=encoder, pixels=8, grid=3, steps=3, depth=2, heads=4, hidden=48, dropout=0.0)
    )

    def photos(samples: Tensor) -> Tensor:
        made = [torch.rand(3, 8, 16, generator=torch.Generator().manual_seed(int(i))) for i in samples]
        return torch.stack(made) * 2 - 1

    def job(images: Tensor) -> Job:
        asked = model.job(photos(images), Waves(), sample=True, temperature=1.5, top_k=8)
        return dataclasses.replace(asked, finish=lambda canvas: asked.finish(canvas).path)

    def batch(samples: Tensor) -> dict[str, Any]:
        views = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        path = samples[:, None] + torch.arange(3)
        return {
            "photos": photos(samples),
            "views": views,
            "view_index": path % 5,
            "actions": path * 7 % 9,
            "index": samples,
        }

    return Instance(randomise(model), job, frozenset({"generate", "memory", "pin", "train"}), batch)


def just_zoom_in_dinov2() -> Instance:
    """With a vision transformer of which the last of two blocks is trained."""
    return just_zoom_in(EncoderConfig(width=32, depth=2, heads=2, patch=4, grid=3, mlp_ratio=2, trained=1))


def nar(**changes: Any) -> Instance:
    """LlamaGen's map of 3x3 cells in five diagonals; guidance ends behind six of nine tokens."""
    base = llamagen()
    vq: Any = base.model.tokenizer
    sizes: dict[str, Any] = {
        "depth": 2,
        "width": 32,
        "heads": 4,
        "keys": 2,
        "hidden": 48,
        "sides": (3,),
        "vocabulary": 24,
    }
    config = NarConfig(classes=5, token_dropout=0.0, dropout=0.0, **{**sizes, **changes})
    model: Any = randomise(Nar(config, vq))
    return dataclasses.replace(
        base,
        model=model,
        job=lambda images: model.job(images % 5, guidance_scale=2.0, guidance_tokens=6, top_k=20, top_p=0.95),
    )


def nar_text() -> Instance:
    """Texts of one to four tokens, by words that are trained with it; two blocks between the taps."""
    words = WordsConfig(words=("apple", "blue", "pear", "red"), width=8, depth=1, heads=2, length=4)
    base = nar(asked_with="text", text_channels=8, text_length=4, words=words, depth=1, extra=2)
    model: Any = base.model

    def captions(samples: Tensor) -> list[str]:
        known = ("red", "blue pear", "red apple pear", "apple")
        return [known[i % 4] for i in samples.tolist()]

    def batch(samples: Tensor) -> dict[str, Any]:
        assert base.batch is not None
        return {**base.batch(samples), "captions": captions(samples)}

    def job(images: Tensor) -> Job:
        return model.job(model.encode_prompts(captions(images)), guidance_scale=2.0, top_k=20, top_p=0.95)

    return dataclasses.replace(base, job=job, batch=batch)


def nar_clip() -> Instance:
    """Clips of 2x2x3 tokens in five planes. Not "reconstruct": the battery gives images back, not clips."""
    torch.manual_seed(0)
    larp: Any = Larp(LarpConfig(
        frames=4, size=8, patch=(2, 4), grid=(2, 2, 3), width=16, depth=1, heads=2, channels=4, vocabulary=24,
    ))  # fmt: skip
    config = NarConfig(
        classes=5, depth=1, width=32, heads=2, hidden=48, vocabulary=24, grid=(2, 2, 3), positions="learned",
        token_dropout=0.0, dropout=0.0,
    )  # fmt: skip
    randomise(larp)
    model: Any = randomise(Nar(config, larp))

    def batch(samples: Tensor) -> dict[str, Any]:
        codes = [torch.randint(0, 24, (12,), generator=torch.Generator().manual_seed(int(i))) for i in samples]
        return {"codes": torch.stack(codes), "labels": samples % 5, "index": samples}

    return Instance(
        model, lambda images: model.job(images % 5, guidance_scale=2.0, top_k=20, top_p=0.95),
        frozenset({"generate", "memory", "guide", "pin", "train", "save"}), batch,
    )  # fmt: skip


def xar(**changes: Any) -> Instance:
    """Four cells of four tokens in three noisy steps each; stacks of other depths and heads. Not "compile", as `var_raster`."""
    torch.manual_seed(0)
    tokenizer = KLAutoencoder(KLConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4), sides=(4,),
    ))  # fmt: skip
    model = Xar(
        XarConfig.from_dict(dict(
            classes=5, sides=(4,), channels=4, width=32, depth=1, heads=2, decoder_depth=2, decoder_heads=4, dropout=0.0,
            label_drop=0.3,
        ) | changes),
        randomise(tokenizer),
    )  # fmt: skip

    def batch(samples: Tensor) -> dict[str, Any]:
        moments = [torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(int(i))) for i in samples]
        return {"features": torch.stack(moments), "labels": samples % 5, "index": samples}

    return Instance(
        randomise(model, 0.05), lambda images: model.job(images % 5, guidance_scale=2.0, num_steps=3),
        frozenset({"generate", "memory", "guide", "pin", "levels", "reconstruct", "train", "save"}), batch,
    )  # fmt: skip


def xar_subsample() -> Instance:
    """Every second token of both sides, followed without noise, and trained on a clean context."""
    base = xar(entity="subsample", context="clean")
    model: Any = base.model
    return dataclasses.replace(
        base, job=lambda images: model.job(images % 5, guidance_scale=2.0, num_steps=2, sampler="euler")
    )


def xar_scale() -> Instance:
    """Sides of 1, 2 and 4. Not "reconstruct": codes are those of all scales, of which the tokenizer makes the last."""
    base = xar(entity="scale")
    return dataclasses.replace(base, can=base.can - {"reconstruct"})


def xar_image() -> Instance:
    """One entity, which is plain flow matching: nothing is remembered."""
    base = xar(entity="image")
    return dataclasses.replace(base, can=base.can - {"memory"})


# by slug, or "slug:variant"
INSTANCES: dict[str, Callable[[], Instance]] = {
    "infinity": infinity,
    "infinity:inside": infinity_inside,
    "flexvar": flexvar,
    "flowar": flowar,
    "flowar:cross": flowar_cross,
    "hmar": hmar,
    "hmar:refined": hmar_refined,
    "just_zoom_in": just_zoom_in,
    "just_zoom_in:dinov2": just_zoom_in_dinov2,
    "llamagen": llamagen,
    "llamagen:text": llamagen_text,
    "m_var": m_var,
    "mar": mar,
    "mvar": mvar,
    "nar": nar,
    "nar:clip": nar_clip,
    "nar:text": nar_text,
    "nfig": nfig,
    "sar": sar,
    "sar:var": sar_var,
    "var": var,
    "var:raster": var_raster,
    "xar": xar,
    "xar:image": xar_image,
    "xar:scale": xar_scale,
    "xar:subsample": xar_subsample,
}


@cache
def instance(name: str) -> Instance:
    """The instance of a name; tests leave it as it was."""
    return INSTANCES[name]()


def having(*capabilities: str, without: str = "") -> Any:
    """Run a test for the instance of every available system that can do all of this, and not what it is `without`."""
    available = {r.slug for r in list_systems(state="available")}
    names = [name for name in INSTANCES if name.split(":")[0] in available]
    chosen = [name for name in names if set(capabilities) <= (can := instance(name).can) and without not in can]
    return pytest.mark.parametrize("it", [pytest.param(instance(s), id=s) for s in chosen])
