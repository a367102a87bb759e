"""Files of the released layout of Infinity with random weights: names and shapes as the authors write them."""

from __future__ import annotations

import torch
from torch import Tensor


def generator(
    depth: int, width: int, heads: int, bits: int, *, chunks: int = 1, text: int = 16, rows: int = 6, hidden: int = 256
) -> dict[str, Tensor]:
    """The transformer's state dict; chunks: 1 = blocks by number, else `block_chunks.i.module.j`."""
    g, c, pool = torch.Generator().manual_seed(depth), width, max(text // 128, 1)

    def t(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g) * 0.05

    state = {
        "cfg_uncond": t(rows, text),
        "text_norm.weight": t(text),
        "text_proj_for_sos.ca.mat_q": t(1, pool, c // pool),
        "text_proj_for_sos.ca.v_bias": t(c),
        "text_proj_for_sos.ca.zero_k_bias": torch.zeros(c),
        "text_proj_for_sos.ca.mat_kv.weight": t(2 * c, text),
        "text_proj_for_sos.ca.proj.weight": t(c, c),
        "text_proj_for_sos.ca.proj.bias": t(c),
        "text_proj_for_ca.0.weight": t(c, text),
        "text_proj_for_ca.0.bias": t(c),
        "text_proj_for_ca.2.weight": t(c, c),
        "text_proj_for_ca.2.bias": t(c),
        "pos_start": t(1, 1, c),
        "lvl_embed.weight": t(15, c),
        "word_embed.weight": t(c, bits),
        "word_embed.bias": t(c),
        "shared_ada_lin.1.weight": t(6 * c, c),
        "shared_ada_lin.1.bias": t(6 * c),
    }
    for n in range(depth):
        each = depth // chunks
        own = f"blocks.{n}." if chunks == 1 else f"block_chunks.{n // each}.module.{n % each}."
        state |= {
            own + "ada_gss": t(1, 1, 6, c),
            own + "sa.scale_mul_1H11": t(1, heads, 1, 1),
            own + "sa.q_bias": t(c),
            own + "sa.v_bias": t(c),
            own + "sa.zero_k_bias": torch.zeros(c),
            own + "sa.mat_qkv.weight": t(3 * c, c),
            own + "sa.proj.weight": t(c, c),
            own + "sa.proj.bias": t(c),
            own + "ca.v_bias": t(c),
            own + "ca.zero_k_bias": torch.zeros(c),
            own + "ca.mat_q.weight": t(c, c),
            own + "ca.mat_q.bias": t(c),
            own + "ca.mat_kv.weight": t(2 * c, c),
            own + "ca.proj.weight": t(c, c),
            own + "ca.proj.bias": t(c),
            own + "ca_norm.weight": t(c),
            own + "ca_norm.bias": t(c),
            own + "ffn.fc1.weight": t(hidden, c),
            own + "ffn.fc1.bias": t(hidden),
            own + "ffn.fc2.weight": t(c, hidden),
            own + "ffn.fc2.bias": t(c),
        }
    return state | {
        "head_nm.ada_lin.1.weight": t(2 * c, c),
        "head_nm.ada_lin.1.bias": t(2 * c),
        "head.weight": t(2 * bits, c),
        "head.bias": t(2 * bits),
    }


OLD_BUFFERS = {
    "lvl_1L": torch.zeros(1, 9, dtype=torch.int64),
    "attn_bias_for_masking": torch.zeros(1, 1, 9, 9),
    "Infinity_visible_kvlen": torch.zeros(9, dtype=torch.int32),
    "Infinity_invisible_qlen": torch.zeros(9, dtype=torch.int32),
}


def tokenizer(latent: int, levels: int, *, channels: int = 8, blocks: int = 1, inner: bool = True) -> dict[str, Tensor]:
    """The autoencoder's state dict; levels: 5 = stride 16, 4 = stride 8. inner: with the `.conv` and `.norm` of the
    authors' wrappers."""
    g = torch.Generator().manual_seed(latent)
    widths = [channels * m for m in (1, 2, 4, 4, 4)[:levels]]
    state: dict[str, Tensor] = {}

    def conv(name: str, into: int, out: int, size: int = 3) -> None:
        state[f"{name}{'.conv' * inner}.weight"] = torch.randn(out, into, size, size, generator=g) * 0.1
        state[f"{name}{'.conv' * inner}.bias"] = torch.zeros(out)

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias"):
            state[f"{name}{'.norm' * inner}.{part}"] = torch.ones(width)

    def res(name: str, into: int, out: int) -> None:
        norm(f"{name}.norm1", into)
        conv(f"{name}.conv1", into, out)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out)
        if into != out:
            conv(f"{name}.nin_shortcut", into, out, 1)

    conv("encoder.conv_in", 3, channels)
    conv("encoder.conv_out", widths[-1], latent)
    conv("decoder.conv_in", latent, widths[-1])
    conv("decoder.conv_out", channels, 3)
    norm("encoder.norm_out", widths[-1])
    norm("decoder.norm_out", channels)
    for half in ("encoder", "decoder"):
        for block in ("block_1", "block_2"):
            res(f"{half}.mid.{block}", widths[-1], widths[-1])
    for i, width in enumerate(widths):
        for j in range(blocks):
            res(f"encoder.down.{i}.block.{j}", ([channels, *widths][i]) if j == 0 else width, width)
        for j in range(blocks + 1):
            res(f"decoder.up.{i}.block.{j}", ([*widths, widths[-1]][i + 1]) if j == 0 else width, width)
        if i < levels - 1:
            conv(f"encoder.down.{i}.downsample.conv", width, width)
        if i > 0:
            conv(f"decoder.up.{i}.upsample.conv", width, width)
    return state | {"quantizer.lfq.mask": torch.zeros(latent, dtype=torch.int64), "disc.0.weight": torch.zeros(2)}
