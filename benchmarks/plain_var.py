"""A plain implementation of VAR's sampling, as one would write it from the paper: the thing that nextset is timed against.

Growing caches by concatenation, adaLN recomputed at every scale, guidance by doubling the batch, a full sort for top-p,
convolutions in NCHW, bfloat16 by autocast over float32 weights. It takes weights under the authors' names and imports
nothing of nextset, so that the two can be checked against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


class PlainVar:
    """Sampling from a transformer's and a tokenizer's state dict (authors' names)."""

    def __init__(self, var: State, vae: State, sides: Sequence[int], heads: int, groups: int = 32) -> None:
        self.var, self.vae, self.sides, self.heads, self.groups = var, vae, list(sides), heads, groups
        self.depth = 1 + max(int(n.split(".")[1]) for n in var if n.startswith("blocks."))
        self.width = var["pos_1LC"].shape[-1]
        self.classes = var["class_emb.weight"].shape[0] - 1
        self.starts = np.cumsum([0] + [s * s for s in sides]).tolist()

    # ---- transformer

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.var[f"{name}.weight"], self.var.get(f"{name}.bias"))

    def block(
        self, x: Tensor, c: Tensor, i: int, cache: dict[int, tuple[Tensor, Tensor]], bias: Tensor | None = None
    ) -> Tensor:
        p, width = f"blocks.{i}", self.width
        if f"{p}.ada_gss" in self.var:
            six = self.linear(F.silu(c), "shared_ada_lin.1").view(-1, 1, 6, width) + self.var[f"{p}.ada_gss"]
        else:
            six = self.linear(F.silu(c), f"{p}.ada_lin.1").view(-1, 1, 6, width)
        g1, g2, s1, s2, b1, b2 = six.unbind(2)
        h = F.layer_norm(x, (width,), eps=1e-6).mul(s1 + 1).add(b1)
        biases = torch.cat([self.var[f"{p}.attn.q_bias"], torch.zeros(width), self.var[f"{p}.attn.v_bias"]])
        qkv = F.linear(h, self.var[f"{p}.attn.mat_qkv.weight"], biases)
        q, k, v = qkv.view(x.shape[0], x.shape[1], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = F.normalize(q, dim=-1) * self.var[f"{p}.attn.scale_mul_1H11"].clamp_max(math.log(100)).exp()
        q, k = q.to(v.dtype), F.normalize(k, dim=-1).to(v.dtype)
        if i in cache:
            k, v = torch.cat([cache[i][0], k], 2), torch.cat([cache[i][1], v], 2)
        cache[i] = (k, v)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0).transpose(1, 2).reshape(x.shape)
        x = x + self.linear(h, f"{p}.attn.proj") * g1
        h = F.layer_norm(x, (width,), eps=1e-6).mul(s2 + 1).add(b2)
        h = self.linear(F.gelu(self.linear(h, f"{p}.ffn.fc1"), approximate="tanh"), f"{p}.ffn.fc2")
        return x + h * g2

    def logits(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(c), "head_nm.ada_lin.1").view(-1, 1, 2, self.width).unbind(2)
        h = F.layer_norm(x.float(), (self.width,), eps=1e-6).mul(scale + 1).add(shift)
        return self.linear(h, "head").float()

    # ---- tokenizer

    def conv(self, x: Tensor, name: str, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.vae[f"{name}.weight"], self.vae[f"{name}.bias"], padding=padding)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.group_norm(x, self.groups, self.vae[f"{name}.weight"], self.vae[f"{name}.bias"], eps=1e-6)

    def res_block(self, x: Tensor, name: str) -> Tensor:
        h = self.conv(F.silu(self.norm(x, f"{name}.norm1")), f"{name}.conv1")
        h = self.conv(F.silu(self.norm(h, f"{name}.norm2")), f"{name}.conv2")
        return h + (self.conv(x, f"{name}.nin_shortcut", 0) if f"{name}.nin_shortcut.weight" in self.vae else x)

    def attention(self, x: Tensor, name: str) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.conv(self.norm(x, f"{name}.norm"), f"{name}.qkv", 0).flatten(2).chunk(3, dim=1)
        weights = (q.transpose(1, 2) @ k * c**-0.5).softmax(-1)
        return x + self.conv((v @ weights.transpose(1, 2)).view(b, c, h, w), f"{name}.proj_out", 0)

    def decode(self, f_hat: Tensor) -> Tensor:
        d = "decoder"
        x = self.conv(self.conv(f_hat, "post_quant_conv"), f"{d}.conv_in")
        x = self.res_block(self.attention(self.res_block(x, f"{d}.mid.block_1"), f"{d}.mid.attn_1"), f"{d}.mid.block_2")
        levels = 1 + max(int(n.split(".")[2]) for n in self.vae if n.startswith("decoder.up."))
        for level in reversed(range(levels)):
            j = 0
            while f"{d}.up.{level}.block.{j}.conv1.weight" in self.vae:
                x = self.res_block(x, f"{d}.up.{level}.block.{j}")
                if f"{d}.up.{level}.attn.{j}.qkv.weight" in self.vae:
                    x = self.attention(x, f"{d}.up.{level}.attn.{j}")
                j += 1
            if level:
                x = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"), f"{d}.up.{level}.upsample.conv")
        return self.conv(F.silu(self.norm(x, f"{d}.norm_out")), f"{d}.conv_out").clamp(-1, 1)

    def phi(self, x: Tensor, k: int) -> Tensor:
        n = sum(name.startswith("quantize.quant_resi.qresi_ls.") and name.endswith("weight") for name in self.vae)
        ticks = np.linspace(1 / (3 * n), 1 - 1 / (3 * n), n) if n == 4 else np.linspace(1 / (2 * n), 1 - 1 / (2 * n), n)
        i = int(np.argmin(np.abs(ticks - k / (len(self.sides) - 1))))
        return 0.5 * x + 0.5 * self.conv(x, f"quantize.quant_resi.qresi_ls.{i}")

    # ---- sampling

    @torch.no_grad()
    def generate(
        self, labels: Tensor, u: Tensor, cfg: float, top_k: int, top_p: float
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """labels (B,), uniforms u (B, L) -> ids (B, L), images (B, 3, H, W) in [0, 1], guided logits of every scale."""
        ids, f_hat, kept, _ = self.sample(labels, u, cfg, top_k, top_p)
        return ids, (self.decode(f_hat).float() + 1) / 2, kept

    @torch.no_grad()
    def sample(
        self, labels: Tensor, u: Tensor, cfg: float, top_k: int, top_p: float
    ) -> tuple[Tensor, Tensor, list[Tensor], int]:
        """As `generate`, without the decoder: ids, the feature map, guided logits, and the bytes of keys and values kept."""
        batch, full = labels.shape[0], self.sides[-1]
        c = self.var["class_emb.weight"][torch.cat([labels, torch.full_like(labels, self.classes)])]
        position = self.var["pos_1LC"]
        level = [self.var["lvl_embed.weight"][k] for k in range(len(self.sides))]
        first = self.sides[0] ** 2
        x = c[:, None] + self.var["pos_start"] + level[0] + position[:, :first]
        f_hat = torch.zeros(batch, self.vae["quantize.embedding.weight"].shape[1], full, full)
        cache: dict[int, tuple[Tensor, Tensor]] = {}
        ids, kept = [], []
        for k, side in enumerate(self.sides):
            for i in range(self.depth):
                x = self.block(x, c, i, cache)
            logits = self.logits(x, c)
            t = cfg * k / (len(self.sides) - 1)
            logits = (1 + t) * logits[:batch] - t * logits[batch:]
            kept.append(logits.clone())
            if top_k:
                logits[logits < logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]] = -torch.inf
            if top_p:
                ordered, index = logits.sort(dim=-1)
                gone = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
                gone[..., -1] = False
                logits = logits.masked_fill(gone.scatter(-1, index, gone), -torch.inf)
            drawn = (logits.softmax(-1).cumsum(-1) <= u[:, self.starts[k] : self.starts[k + 1], None]).sum(-1)
            drawn = drawn.clamp_max(logits.shape[-1] - 1)
            ids.append(drawn)
            h = self.vae["quantize.embedding.weight"][drawn].transpose(1, 2).reshape(batch, -1, side, side)
            if k < len(self.sides) - 1:
                h = F.interpolate(h, size=(full, full), mode="bicubic")
            f_hat = f_hat + self.phi(h, k).float()
            if k < len(self.sides) - 1:
                n = self.sides[k + 1]
                x = F.interpolate(f_hat, size=(n, n), mode="area").flatten(2).transpose(1, 2)
                x = self.linear(x, "word_embed") + level[k + 1] + position[:, self.starts[k + 1] : self.starts[k + 2]]
                x = x.repeat(2, 1, 1)
        memory = sum(t.numel() * t.element_size() for pair in cache.values() for t in pair)
        return torch.cat(ids, 1), f_hat, kept, memory

    # ---- training

    def inputs(self, codes: Tensor) -> Tensor:
        """Codes (B, L) -> what the scales after the first are made of, (B, L - first, D)."""
        full = self.sides[-1]
        f_hat = torch.zeros(codes.shape[0], self.vae["quantize.embedding.weight"].shape[1], full, full)
        parts = []
        for k, side in enumerate(self.sides[:-1]):
            h = self.vae["quantize.embedding.weight"][codes[:, self.starts[k] : self.starts[k + 1]]]
            h = F.interpolate(h.transpose(1, 2).reshape(codes.shape[0], -1, side, side), (full, full), mode="bicubic")
            f_hat = f_hat + self.phi(h, k)
            n = self.sides[k + 1]
            parts.append(F.interpolate(f_hat, size=(n, n), mode="area").flatten(2).transpose(1, 2))
        return torch.cat(parts, 1)

    def loss(self, labels: Tensor, codes: Tensor) -> Tensor:
        """Mean cross-entropy of all positions by teacher forcing, with a dense bias that hides later scales."""
        scale = torch.repeat_interleave(torch.arange(len(self.sides)), torch.tensor([s * s for s in self.sides]))
        bias = torch.zeros(len(scale), len(scale)).masked_fill_(scale[:, None] < scale[None], -torch.inf)[None, None]
        with torch.no_grad():
            inputs = self.inputs(codes)
        c = self.var["class_emb.weight"][labels]
        first = c[:, None] + self.var["pos_start"]
        x = torch.cat([first, self.linear(inputs, "word_embed")], 1)
        x = x + self.var["pos_1LC"] + self.var["lvl_embed.weight"][scale]
        for i in range(self.depth):
            x = self.block(x, c, i, {}, bias)
        return F.cross_entropy(self.logits(x, c).flatten(0, 1), codes.flatten())


def random_state(
    depth: int = 16,
    *,
    width: int | None = None,
    heads: int | None = None,
    sides: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    classes: int = 1000,
    vocabulary: int = 4096,
    latent: int = 32,
    channels: int = 160,
    multipliers: Sequence[int] = (1, 1, 2, 2, 4),
    blocks: int = 2,
    shared: bool = False,
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random weights of a transformer and of a tokenizer's decoding half, under the authors' names."""
    generator = torch.Generator().manual_seed(seed)
    width = width or 64 * depth
    heads = heads or depth

    def draw(*shape: int, std: float = 0.02) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    def linear(state: dict[str, Tensor], name: str, inner: int, outer: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(outer, inner, std=inner**-0.5), draw(outer)

    length = sum(s * s for s in sides)
    var = {
        "pos_start": draw(1, sides[0] ** 2, width),
        "pos_1LC": draw(1, length, width),
        "class_emb.weight": draw(classes + 1, width, std=0.5),
        "lvl_embed.weight": draw(len(sides), width),
    }
    linear(var, "word_embed", latent, width)
    if shared:
        linear(var, "shared_ada_lin.1", width, 6 * width)
    for i in range(depth):
        p = f"blocks.{i}"
        if shared:
            var[f"{p}.ada_gss"] = draw(1, 1, 6, width)
        else:
            linear(var, f"{p}.ada_lin.1", width, 6 * width)
        var[f"{p}.attn.mat_qkv.weight"] = draw(3 * width, width, std=width**-0.5)
        var[f"{p}.attn.q_bias"], var[f"{p}.attn.v_bias"] = draw(width), draw(width)
        var[f"{p}.attn.scale_mul_1H11"] = torch.full((1, heads, 1, 1), math.log(4))
        linear(var, f"{p}.attn.proj", width, width)
        linear(var, f"{p}.ffn.fc1", width, 4 * width)
        linear(var, f"{p}.ffn.fc2", 4 * width, width)
    linear(var, "head_nm.ada_lin.1", width, 2 * width)
    linear(var, "head", width, vocabulary)

    vae: dict[str, Tensor] = {"quantize.embedding.weight": draw(vocabulary, latent, std=1.0)}

    def conv(name: str, inner: int, outer: int, size: int = 3) -> None:
        vae[f"{name}.weight"], vae[f"{name}.bias"] = (
            draw(outer, inner, size, size, std=(inner * size * size) ** -0.5),
            draw(outer),
        )

    def norm(name: str, width: int) -> None:
        vae[f"{name}.weight"], vae[f"{name}.bias"] = torch.ones(width), torch.zeros(width)

    def res(name: str, inner: int, outer: int) -> None:
        norm(f"{name}.norm1", inner)
        conv(f"{name}.conv1", inner, outer)
        norm(f"{name}.norm2", outer)
        conv(f"{name}.conv2", outer, outer)
        if inner != outer:
            conv(f"{name}.nin_shortcut", inner, outer, 1)

    def attn(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        conv(f"{name}.qkv", width, 3 * width, 1)
        conv(f"{name}.proj_out", width, width, 1)

    for i in range(4):
        conv(f"quantize.quant_resi.qresi_ls.{i}", latent, latent)
    conv("post_quant_conv", latent, latent)
    widths = [channels * m for m in multipliers]
    top = widths[-1]
    conv("decoder.conv_in", latent, top)
    res("decoder.mid.block_1", top, top)
    attn("decoder.mid.attn_1", top)
    res("decoder.mid.block_2", top, top)
    before = top
    for level in reversed(range(len(widths))):
        for j in range(blocks + 1):
            res(f"decoder.up.{level}.block.{j}", before, widths[level])
            before = widths[level]
            if level == len(widths) - 1:
                attn(f"decoder.up.{level}.attn.{j}", before)
        if level:
            conv(f"decoder.up.{level}.upsample.conv", before, before)
    norm("decoder.norm_out", before)
    conv("decoder.conv_out", before, 3)
    return var, vae
