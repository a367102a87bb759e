"""How the cases of `mar` are computed with nextset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextset.core.latents import patchify, unpatchify
from nextset.core.masked import cosine_counts
from nextset.core.noise import Tape
from nextset.data.images import to_uint8
from nextset.engine.controllers import Controller
from nextset.engine.run import Run, forward, proceed
from nextset.nn.diffusion import STEPS, cosine
from nextset.systems.mar import Mar
from nextset.systems.mar.convert import load_generator, load_tokenizer, tokenizer_config
from nextset.tokenizers.kl import divergence
from nextset.training.label_drop import drop_labels
from tests.parity.cases import Case


def generator(args: dict[str, Any], weights: dict[str, Tensor]) -> Mar:
    model = load_generator(
        weights,
        channels=args["vae_embed_dim"],
        heads=(args["encoder_num_heads"], args["decoder_num_heads"]),
        dropout=args["proj_dropout"],
        label_drop=args["label_drop_prob"],
        repeats=args["diffusion_batch_mul"],
    )
    c, side = model.config, args["img_size"] // args["vae_stride"] // args["patch_size"]
    found = (c.sides, c.patch, c.stack(""), c.stack("decoder_"), c.mlp_ratio, c.buffer, c.head_depth, c.head_width)
    assert found == (
        (side,), args["patch_size"],
        tuple(args[f"encoder_{n}"] for n in ("embed_dim", "depth", "num_heads")),
        tuple(args[f"decoder_{n}"] for n in ("embed_dim", "depth", "num_heads")),
        args["mlp_ratio"], args["buffer_size"], args["diffloss_d"], args["diffloss_w"],
    )  # fmt: skip
    assert c.classes == args["class_num"]
    return model


class Steps(Controller):
    """Keeps what hidden states were hooked, which positions were drawn, and the weights of guidance."""

    def __init__(self) -> None:
        self.sites: dict[str, Tensor] = {}
        self.drawn: list[Tensor] = []
        self.scales: list[float] = []

    def on_site(self, run: Run, site: str, h: Tensor) -> Tensor:
        self.sites[site] = h
        return h

    def after(self, run: Run, step: Any, drawn: Any) -> None:
        self.drawn.append(torch.zeros(step.draw.shape[0], run.job.plan.positions).scatter(1, step.draw, 1))
        self.scales.append(run.job.weights(step)[0])


def order_tape(orders: Tensor) -> Tensor:
    """Uniform numbers by position whose ranks are the given orders."""
    ranks = torch.arange(orders.shape[1]) / orders.shape[1]
    return torch.empty(orders.shape).scatter_(1, orders, ranks.expand(orders.shape))


def loss(case: Case) -> dict[str, Tensor]:
    model, x, count = generator(case.args, case.weights), case.inputs, case.call["num_masked"]
    tokens, labels = patchify(x["latents"], model.config.patch), x["labels"]
    index, repeats, (b, n) = torch.arange(len(tokens)), model.config.repeats, tokens.shape[:2]
    if case.call["train"]:
        tape = Tape({"drop": x["u_drop"].view(b, 1)}).of("drop")
        labels = drop_labels(labels, index, tape, model.config.label_drop, model.config.classes)
    t, noise = x["t"].view(repeats, b, n), x["noise"].view(repeats, b, n, -1)
    tape = Tape(
        {f"t/{j}": (t[j] + 0.5) / STEPS for j in range(repeats)} | {f"noise/{j}": noise[j] for j in range(repeats)}
    )
    steps, orders = Steps(), x["orders"][:, :count]
    job = model.teacher_forced(tokens, labels, orders)
    forward(Run.of(job, tape, controllers=[steps]), job.plan.all(), (0,))
    z = torch.empty_like(rows := steps.sites["decoder"][:, model.config.buffer :])
    fed = job.plan.all().feed[:, model.config.buffer :] - model.config.buffer
    z.scatter_(1, fed[..., None].expand_as(rows), rows)
    with torch.enable_grad():
        total = sum(model.loss(tokens, labels, orders, tape, index))
        total.backward()  # type: ignore[union-attr]
    every = [each.flatten(0, 1).repeat(repeats, 1) for each in (z, tokens)]
    terms = model.diffusion.terms(*every, x["t"], x["noise"])
    return {
        "tokens": tokens,
        "mask": torch.zeros(b, n).scatter(1, orders, 1),
        "encoder_out": steps.sites["encoder"],
        "z": z,
        "mse": terms[0],
        "vb": terms[1],
        "loss": total,
        "grad_final_linear": model.diffusion.net.output.weight.grad,
        "grad_z_proj": model.token_in.weight.grad,
        "grad_mask_token": model.mask_token.grad,
    }  # type: ignore[dict-item]


def generate(case: Case) -> dict[str, Tensor]:
    model, x, call = generator(case.args, case.weights), case.inputs, case.call
    b = len(x["orders"])
    job = model.job(
        x.get("labels", torch.full((b,), model.config.classes)),
        guidance_scale=call["cfg"],
        guidance=call["cfg_schedule"],
        steps=call["num_iter"],
        inner_steps=case.args["num_sampling_steps"],
        temperature=call["temperature"],
    )
    tape = Tape(
        {"order": order_tape(x["orders"]), "draw": x["noise_init"]}
        | {f"step/{i}": noise for i, noise in enumerate(x["noise_steps"])}
    )
    steps = Steps()
    run = Run.of(job, tape, controllers=[steps])
    for _ in proceed(run):
        pass
    side = model.config.sides[0]
    return {
        "latents": unpatchify(run.codes(), model.config.patch, (side, side)),
        "pred_masks": torch.stack(steps.drawn),
        "cfg_per_step": torch.tensor(steps.scales),
    }


def tokenizer(case: Case) -> dict[str, Tensor]:
    args, x = case.args, case.inputs
    side = args["resolution"] // 2 ** (len(args["ch_mult"]) - 1)
    config = tokenizer_config(case.weights, groups=args["norm_groups"], tokens=side)
    found = config.autoencoder
    assert (found.channels, found.multipliers, found.blocks, found.latent) == (
        args["ch"], tuple(args["ch_mult"]), args["num_res_blocks"], args["embed_dim"],
    )  # fmt: skip
    assert found.attention == (side in args["encoder_attn_resolutions"])
    assert config.decoder_attention == (side in args["decoder_attn_resolutions"])
    model = load_tokenizer(case.weights, config)
    moments = model.features(x["images"])
    latents = model.latents(moments, x["noise"])
    recon = model.decode_features(latents)
    return {
        "moments": moments,
        "latents": latents,
        "recon": recon,
        "kl": divergence(moments),
        "recon_u8": to_uint8(recon),
    }


def schedules(case: Case) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for text in case.call["respacings"]:
        process, name = cosine(text), text.replace(",", "_") or "full"
        found |= {
            f"timesteps_{name}": process.timesteps,
            f"alphas_cumprod_{name}": process.alphas,
            f"betas_{name}": process.betas,
            f"post_logvar_{name}": process.log_variance,
            f"coef1_{name}": process.of_clean,
            f"coef2_{name}": process.of_noisy,
        }
    for positions, steps, scale in case.call["plans"]:
        left = cosine_counts(positions, steps)
        found[f"npred_{positions}_{steps}"] = -torch.tensor([positions, *left]).diff()
        found[f"cfg_{positions}_{steps}"] = torch.tensor([1 + (scale - 1) * (1 - max(m, 1) / positions) for m in left])
    return found


HANDLERS = {
    "loss": loss,
    "generate": generate,
    "tokenizer": tokenizer,
    "schedule": schedules,
    "to-uint8": lambda case: {"recon_u8": to_uint8(case.inputs["recon"])},
}
