"""The authors' files of LlamaGen: wrappers, what is dropped, what no tensor tells. Files are made here, of random weights."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.hub import pretrained
from nextset.hub.convert import convert
from nextset.systems.llamagen import LlamaGen
from nextset.tokenizers.vq import VQConfig, VQTokenizer
from tests.battery.instances import randomise
from tests.systems.test_llamagen import CLASSES, made, model

RULES = (("token.", "tok_embeddings."), ("prefix.embedding.", "cls_embedding.embedding_table."),
         ("prefix.first.", "cls_embedding.cap_proj.fc1."), ("prefix.second.", "cls_embedding.cap_proj.fc2."),
         ("prefix.null", "cls_embedding.uncond_embedding"), ("blocks.", "layers."), (".attn.qkv.", ".attention.wqkv."),
         (".attn.proj.", ".attention.wo."), (".ffn.gate.", ".feed_forward.w1."), (".ffn.down.", ".feed_forward.w2."),
         (".ffn.up.", ".feed_forward.w3."), (".attn_norm.", ".attention_norm."), ("classifier.", "output."))  # fmt: skip


def released_generator(m: LlamaGen) -> dict[str, Tensor]:
    """Its weights under the authors' names."""
    return renamed(m.state_dict())


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A generator's weights under the authors' names."""
    out = {}
    for name, tensor in state.items():
        for ours, theirs in RULES:
            name = name.replace(ours, theirs)
        out[name] = tensor
    return out


def released_tokenizer(vq: VQTokenizer) -> dict[str, Tensor]:
    """Its weights under the authors' names: the decoder's levels from the smallest map on, attention in three parts."""
    last, out = len(vq.config.autoencoder.multipliers) - 1, {"quantize.codebook_used": torch.zeros(65536)}
    for name, tensor in pretrained.published_state(vq).items():
        name = name.replace("quantiser.codebook.", "quantize.embedding.")
        name = name.replace("mid.block_1", "mid.0").replace("mid.attn_1", "mid.1").replace("mid.block_2", "mid.2")
        for level in range(last + 1):
            name = name.replace(f"encoder.down.{level}.", f"encoder.conv_blocks.{level}.")
            name = name.replace(f"decoder.up.{level}.", f"decoder.conv_blocks.{last - level}.")
        name = name.replace(".block.", ".res.")
        if ".qkv." in name:
            out |= {name.replace("qkv", x): part for x, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            out[name] = tensor
    return out


def released_sizes() -> VQTokenizer:
    """A tokenizer whose norms have 32 groups, as those of the release, with attention."""
    torch.manual_seed(0)
    sizes = {"channels": 32, "multipliers": (1, 2, 1), "blocks": 1, "latent": 6}
    return randomise(VQTokenizer(VQConfig.from_dict({"autoencoder": sizes, "vocabulary": 24, "channels": 4})))  # type: ignore[return-value]


def test_files_of_the_released_layout_are_read(tmp_path: Path) -> None:
    base, vq = model(), released_sizes()
    ours = LlamaGen(base.config.replace(keys=0, width=768, heads=12, hidden=64), vq)
    randomise(ours)
    saved = {"model": released_generator(ours), "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "steps": 7,
             "args": argparse.Namespace(lr=1e-4, gpt_model="GPT-B")}  # fmt: skip
    torch.save(saved, tmp_path / "c2i.pt")
    torch.save({"model": released_tokenizer(vq), "discriminator": {"main.0.weight": torch.zeros(2)},
                "ema": {n: t + 1 for n, t in released_tokenizer(vq).items()}, "args": argparse.Namespace()},
               tmp_path / "vq.pt")  # fmt: skip
    read: Any = convert([tmp_path / "c2i.pt", tmp_path / "vq.pt"], sides=[3])
    assert type(read) is LlamaGen and read.config.heads == 12 and read.tokenizer.spec.size == (12, 12)
    job, wanted = read.job(CLASSES, guidance_scale=2.0), ours.eval().job(CLASSES, guidance_scale=2.0)
    assert torch.equal(made(job)[1], made(wanted)[1])
    image = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    alone: Any = convert([tmp_path / "vq.pt"])
    assert type(alone) is VQTokenizer and alone.config == vq.config
    torch.testing.assert_close(alone.features(image), vq.features(image))
    torch.testing.assert_close(alone.decode(alone.encode(image), sides=[3]), vq.decode(vq.encode(image), sides=[3]))
    with pytest.raises(
        NextsetError, match="no tensor tells the side of the token map; give it: --sides 16 for 256 pixels"
    ):
        convert([tmp_path / "c2i.pt"])


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", "", "model._orig_mod", "module._orig_mod.module"])
def test_every_wrapper_of_the_trainers_is_opened(wrapper: str, tmp_path: Path) -> None:
    ours = model("llamagen:text")
    state: Any = released_generator(ours)
    state |= {
        "freqs_cis": torch.zeros(4 + 9, 4, 2),
        "layers.0.attention.kv_cache.k_cache": torch.zeros(2),
        "causal_mask": torch.zeros(2),
    }
    first, *rest = wrapper.split(".")
    state = {".".join([*rest, name]): tensor for name, tensor in state.items()}
    torch.save({first: state} if first else state, tmp_path / "t2i.pt")
    read: Any = convert([tmp_path / "t2i.pt"], heads=4, positions="grid_unit")
    assert read.config == ours.config.replace(token_dropout=0.1, dropout=0.1, classes=1000)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


def test_files_that_lack_something_or_are_another_systems(tmp_path: Path) -> None:
    state = released_generator(model())
    torch.save(state, tmp_path / "narrow.pt")
    with pytest.raises(
        NextsetError, match="the width is 32, as of no release, and no tensor tells the number of heads"
    ):
        convert([tmp_path / "narrow.pt"], sides=[3])
    torch.save({n: t for n, t in state.items() if "w2" not in n}, tmp_path / "cut.pt")
    with pytest.raises(NextsetError, match="the generator's file lacks 2 of 18 weights"):
        convert([tmp_path / "cut.pt"], sides=[3], heads=4)
    torch.save({**state, "medusa_norm.weight": torch.ones(32)}, tmp_path / "other.pt")
    with pytest.raises(NextsetError, match="holds no part of any system that is available"):
        convert([tmp_path / "other.pt"], sides=[3], heads=4)
    torch.save(
        {n: t for n, t in released_tokenizer(released_sizes()).items() if "conv_in" not in n}, tmp_path / "vq.pt"
    )
    with pytest.raises(NextsetError, match=r"the tokenizer's file lacks 'encoder\.conv_in\.weight'; is it cut short"):
        convert([tmp_path / "vq.pt"])
