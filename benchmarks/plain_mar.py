"""A plain implementation of MAR's sampling, as one would write it from the paper: the thing that nextset is timed against.

Known tokens are picked by a boolean mask and put back into a grid of mask tokens; both halves of guidance go through the
body and the head with an x of their own; the tables of the diffusion are looked up by a vector of step numbers and cast at
every inner step; time is embedded for every row. bfloat16 by autocast over float32 weights. It takes weights under the
authors' names and imports nothing of nextset, so that the two can be checked against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
# (transition, or -1 for the noise that a token begins with; rows (images, positions) as indices) -> noise (rows, C)
Normal = Callable[[int, tuple[Tensor, ...]], Tensor]


class PlainMar:
    """Sampling from a generator's state dict (authors' names)."""

    def __init__(self, state: State, heads: int) -> None:
        self.state, self.heads = state, heads
        self.tokens = state["diffusion_pos_embed_learned"].shape[1]
        self.buffer = state["encoder_pos_embed_learned"].shape[1] - self.tokens
        self.channels = state["z_proj.weight"].shape[1]
        self.device = state["z_proj.weight"].device

    def count(self, pattern: str) -> int:
        return 1 + max(int(n.split(".")[pattern.count(".")]) for n in self.state if n.startswith(pattern))

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    # ---- body

    def block(self, x: Tensor, name: str) -> Tensor:
        qkv = self.linear(self.norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        q, k, v = qkv.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.linear(h, f"{name}.attn.proj")
        h = F.gelu(self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return x + self.linear(h, f"{name}.mlp.fc2")

    def body(self, tokens: Tensor, mask: Tensor, condition: Tensor) -> Tensor:
        """tokens (B, L, C), mask (B, L) 1 = hidden, condition (B, D) -> z (B, L, D)."""
        s, rows = self.state, len(tokens)
        h = F.pad(self.linear(tokens, "z_proj"), (0, 0, self.buffer, 0))
        h[:, : self.buffer] = condition[:, None]
        h = self.norm(h + s["encoder_pos_embed_learned"], "z_proj_ln")
        there = F.pad(1 - mask, (self.buffer, 0), value=1.0).bool()
        h = h[there].view(rows, -1, h.shape[-1])
        for i in range(self.count("encoder_blocks.")):
            h = self.block(h, f"encoder_blocks.{i}")
        h = self.linear(self.norm(h, "encoder_norm"), "decoder_embed")
        grid = s["mask_token"].to(h.dtype).repeat(rows, there.shape[1], 1)
        grid[there] = h.reshape(-1, h.shape[-1])
        h = grid + s["decoder_pos_embed_learned"]
        for i in range(self.count("decoder_blocks.")):
            h = self.block(h, f"decoder_blocks.{i}")
        return self.norm(h, "decoder_norm")[:, self.buffer :] + s["diffusion_pos_embed_learned"]

    # ---- head

    def net(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """x (rows, C), t (rows,), c (rows, D) -> (rows, 2 C)."""
        p = "diffloss.net"
        rates = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32, device=x.device) / 128)
        angles = t[:, None].float() * rates[None]
        wave = torch.cat([angles.cos(), angles.sin()], -1)
        time = self.linear(F.silu(self.linear(wave, f"{p}.time_embed.mlp.0")), f"{p}.time_embed.mlp.2")
        y = time + self.linear(c, f"{p}.cond_embed")
        h = self.linear(x, f"{p}.input_proj")
        for i in range(self.count("diffloss.net.res_blocks.")):
            b = f"{p}.res_blocks.{i}"
            shift, scale, gate = self.linear(F.silu(y), f"{b}.adaLN_modulation.1").chunk(3, -1)
            u = self.norm(h, f"{b}.in_ln") * (1 + scale) + shift
            h = h + gate * self.linear(F.silu(self.linear(u, f"{b}.mlp.0")), f"{b}.mlp.2")
        shift, scale = self.linear(F.silu(y), f"{p}.final_layer.adaLN_modulation.1").chunk(2, -1)
        h = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return self.linear(h, f"{p}.final_layer.linear")

    def draw(
        self, z: Tensor, scale: float, tables: Mapping[str, Tensor], normal: Normal, at: tuple[Tensor, ...]
    ) -> Tensor:
        """Tokens (rows, C) of z (rows, D), or (2 rows, D) with the half without a class behind. tables: (S,) float64 by
        name; `timesteps` among them."""
        rows, guided = len(at[0]), scale != 1
        x = normal(-1, at)
        x = torch.cat([x, x]) if guided else x

        def of(name: str, k: Tensor) -> Tensor:
            return tables[name].to(self.device)[k].float()[:, None]

        last = len(tables["timesteps"]) - 1
        for i in range(last + 1):
            k = torch.full((len(x),), last - i, device=self.device)
            both = torch.cat([x[:rows], x[:rows]]) if guided else x
            out = self.net(both, tables["timesteps"].to(self.device)[k], z).float()
            epsilon, v = out.chunk(2, -1)
            if guided:
                with_class, without = epsilon.chunk(2)
                epsilon = (without + scale * (with_class - without)).repeat(2, 1)
            share = (v + 1) / 2
            log = share * of("log_beta", k) + (1 - share) * of("log_variance", k)
            clean = of("recip", k) * x - of("recipm1", k) * epsilon
            x = of("c1", k) * clean + of("c2", k) * x
            if i < last:
                noise = normal(i, at)
                x = x + (0.5 * log).exp() * (torch.cat([noise, noise]) if guided else noise)
        return x[:rows]

    # ---- the loop

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        orders: Tensor,
        left: Sequence[int],
        scale: float,
        tables: Mapping[str, Tensor],
        normal: Normal | None = None,
    ) -> Tensor:
        """Tokens (B, L, C). orders (B, L), the tail first; left: hidden after each step; linear guidance up to `scale`."""
        rows, s = len(labels), self.state
        drawn = normal or (lambda i, at: torch.randn(len(at[0]), self.channels, device=self.device))
        tokens = torch.zeros(rows, self.tokens, self.channels, device=self.device)
        mask = torch.ones(rows, self.tokens, device=self.device)
        for after in left:
            guidance = 1 + (scale - 1) * (self.tokens - max(after, 1)) / self.tokens
            condition = s["class_emb.weight"][labels]
            if scale != 1:
                condition = torch.cat([condition, s["fake_latent"].expand(rows, -1)])
            halves = 2 if scale != 1 else 1
            z = self.body(tokens.repeat(halves, 1, 1), mask.repeat(halves, 1), condition).float()
            following = torch.zeros_like(mask).scatter(1, orders[:, :after], 1.0)
            now = (mask - following).bool()
            z = z[now.repeat(halves, 1)]
            tokens[now] = self.draw(z, guidance if scale != 1 else 1.0, tables, drawn, now.nonzero(as_tuple=True))
            mask = following
        return tokens


def tables_of(betas: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
    """What `PlainMar.draw` looks up, of a process's betas and original step numbers."""
    alphas = (1 - betas).cumprod(0)
    before = F.pad(alphas[:-1], (1, 0), value=1.0)
    variance = betas * (1 - before) / (1 - alphas)
    return {
        "timesteps": timesteps,
        "log_beta": betas.log(),
        "log_variance": torch.cat([variance[1:2], variance[1:]]).log(),
        "recip": alphas.rsqrt(),
        "recipm1": (1 / alphas - 1).sqrt(),
        "c1": betas * before.sqrt() / (1 - alphas),
        "c2": (1 - before) * (1 - betas).sqrt() / (1 - alphas),
    }


def random_state(
    width: int = 768,
    depth: int = 12,
    head_depth: int = 6,
    head_width: int = 1024,
    side: int = 16,
    buffer: int = 64,
    channels: int = 16,
    classes: int = 1000,
    seed: int = 0,
) -> dict[str, Tensor]:
    """A generator of random weights under the authors' names, none of them zero."""
    draws = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def draw(*shape: int, std: float = 0.02) -> Tensor:
        return torch.randn(*shape, generator=draws) * std

    def linear(name: str, inner: int, outer: int, gain: float = 1.0) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(outer, inner, std=gain * inner**-0.5), draw(outer)

    def norm(name: str, size: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + draw(size), draw(size)

    state["class_emb.weight"], state["fake_latent"] = draw(classes, width, std=1.0), draw(1, width, std=1.0)
    state["mask_token"] = draw(1, 1, width)
    rows = {"encoder": buffer + side**2, "decoder": buffer + side**2, "diffusion": side**2}
    state |= {f"{name}_pos_embed_learned": draw(1, n, width, std=0.5) for name, n in rows.items()}
    linear("z_proj", channels, width)
    norm("z_proj_ln", width)
    norm("encoder_norm", width)
    linear("decoder_embed", width, width)
    norm("decoder_norm", width)
    for stack in ("encoder", "decoder"):
        for i in range(depth):
            b = f"{stack}_blocks.{i}"
            norm(f"{b}.norm1", width)
            norm(f"{b}.norm2", width)
            linear(f"{b}.attn.qkv", width, 3 * width)
            linear(f"{b}.attn.proj", width, width)
            linear(f"{b}.mlp.fc1", width, 4 * width)
            linear(f"{b}.mlp.fc2", 4 * width, width)
    p = "diffloss.net"
    linear(f"{p}.time_embed.mlp.0", 256, head_width)
    linear(f"{p}.time_embed.mlp.2", head_width, head_width)
    linear(f"{p}.cond_embed", width, head_width)
    linear(f"{p}.input_proj", channels, head_width)
    for i in range(head_depth):
        b = f"{p}.res_blocks.{i}"
        norm(f"{b}.in_ln", head_width)
        linear(f"{b}.mlp.0", head_width, head_width)
        linear(f"{b}.mlp.2", head_width, head_width)
        linear(f"{b}.adaLN_modulation.1", head_width, 3 * head_width, 0.3)
    linear(f"{p}.final_layer.adaLN_modulation.1", head_width, 2 * head_width, 0.3)
    linear(f"{p}.final_layer.linear", head_width, 2 * channels, 0.1)
    return state
