"""How the cases of `xar` are computed with nextset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextset.core.latents import patchify, unpatchify
from nextset.core.noise import Tape
from nextset.engine.controllers import Controller
from nextset.engine.run import Run, look, proceed
from nextset.nn.gated import map_turns
from nextset.systems.xar import Xar
from nextset.systems.xar.convert import load_generator
from nextset.training.label_drop import drop_labels
from tests.parity.cases import Case


def generator(args: dict[str, Any], weights: dict[str, Tensor]) -> Xar:
    kind = args.get("entity", "cell")
    model = load_generator(
        weights,
        entity=f"{kind}:{args['entity_size']}" if "entity_size" in args else kind,
        heads=(args["encoder_num_heads"], args["decoder_num_heads"]),
        dropout=args["proj_dropout"],
        label_drop=args.get("label_drop_prob", 0.1),
    )
    c, side = model.config, args["img_size"] // args["vae_stride"] // args["patch_size"]
    found = (c.sides, c.patch, c.width, *c.depths, *c.head_counts, c.mlp_ratio)
    expected = [args[f"{stack}_{n}"] for n in ("depth", "num_heads") for stack in ("encoder", "decoder")]
    assert found == ((side,), args["patch_size"], args["encoder_embed_dim"], *expected, args["mlp_ratio"])
    return model


def by_position(model: Xar, rows: Tensor) -> Tensor:
    """Rows (N, P, ...) in the order of entities, by position."""
    return torch.empty_like(rows).index_copy_(1, model.config.entities.places, rows)


class Sites(Controller):
    """Keeps the hidden states of named sites."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def on_site(self, run: Run, site: str, h: Tensor) -> Tensor:
        self.seen[site] = h
        return h


def loss(case: Case) -> dict[str, Tensor]:
    model, x = generator(case.args, case.weights), case.inputs
    c, index, labels = model.config, torch.arange(len(x["latents"])), x["labels"].long()
    if "u_drop" in x:
        tape = Tape({"drop": x["u_drop"].view(-1, 1)}).of("drop")
        labels = drop_labels(labels, index, tape, c.label_drop, c.classes)
    tokens = model.at_positions(patchify(x["latents"], c.patch))
    tape, sites = Tape({"begin": by_position(model, x["noise"])}), Sites()
    job = model.teacher_forced(tokens, labels, x["t"])
    law: Any = look(Run.of(job, tape, cache="none", controllers=[sites]), job.plan.all(), filtered=False)
    with torch.enable_grad():
        total = model.loss(tokens, labels, x["t"], tape, index)
        total.backward()
    of = c.entities
    cos, sin = map_turns(of.coordinates[of.places], c.width // c.heads)
    return {
        "rope_cos": cos.repeat_interleave(2, -1),
        "rope_sin": sin.repeat_interleave(2, -1),
        "encoder_out_first8": sites.seen["encoder"][:, ::32],
        "velocity": law.velocity,
        "loss": total,
        "grad_pred": model.velocity.output.weight.grad,
        "grad_z_proj": model.token_in.weight.grad,
    }  # type: ignore[dict-item]


def generate(case: Case) -> dict[str, Tensor]:
    model, x, call = generator(case.args, case.weights), case.inputs, case.call
    job = model.job(
        x["labels"].long(),
        guidance_scale=call["cfg"],
        num_steps=call["num_steps"],
        sampler=call.get("sampler", "sde"),
    )
    steps = {f"step/{i}": by_position(model, rows) for i, rows in enumerate(x.get("noise_steps", ()))}
    run = Run.of(job, Tape({"begin": by_position(model, x["noise_init"]), **steps}))
    for _ in proceed(run):
        pass
    side = model.config.sides[0]
    tokens = run.codes()[:, -model.config.tokens :]
    return {
        "latents": unpatchify(tokens, model.config.patch, (side, side)),
        "forwards": torch.tensor(run.forwards),
    }


HANDLERS = {"loss": loss, "generate": generate}
