"""How the cases of `flowar` are computed with nextset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextset.core.latents import patchify, unpatchify
from nextset.core.noise import Tape
from nextset.engine.controllers import Controller
from nextset.engine.run import Run, proceed
from nextset.systems.flowar import FlowAr
from nextset.systems.flowar.convert import load_generator
from nextset.training.label_drop import drop_labels
from tests.parity.cases import Case


def generator(args: dict[str, Any], weights: dict[str, Tensor]) -> FlowAr:
    model = load_generator(
        weights,
        channels=weights["z_proj.weight"].shape[1] // args["patch_size"] ** 2,
        heads=(args["encoder_num_heads"], args["decoder_num_heads"]),
        head_heads=args.get("flow_heads"),
        scales=args["scale"],
        changes={"dropout": args["proj_dropout"], "label_drop": args.get("label_drop_prob", 0.1)},
    )
    c, side = model.config, args["img_size"] // args["vae_stride"] // args["patch_size"]
    found = (c.sides, c.width, *c.depths, c.mlp_ratio, c.head_depth, c.head_width, c.mix)
    assert found == (
        (side,), args["encoder_embed_dim"], args["encoder_depth"], args["decoder_depth"], args["mlp_ratio"],
        args["diffloss_d"], args["diffloss_w"], "cross" if args.get("cross") else "attention",
    )  # fmt: skip
    return model


class Sites(Controller):
    """Keeps what hidden states were hooked."""

    def __init__(self) -> None:
        self.sites: dict[str, Tensor] = {}

    def on_site(self, run: Run, site: str, h: Tensor) -> Tensor:
        self.sites[site] = h
        return h


def loss(case: Case) -> dict[str, Tensor]:
    model, x = generator(case.args, case.weights), case.inputs
    tokens = model.scales_of(patchify(x["latents"], model.config.patch))
    index, labels = torch.arange(len(tokens)), x["labels"].long()
    tape = Tape({"drop": x["u_drop"].view(-1, 1), "t": x["t"], "noise": x["noise"]})
    labels = drop_labels(labels, index, tape.of("drop"), model.config.label_drop, model.config.classes)
    rows: list[Tensor] = []
    hook = model.stacks.register_forward_pre_hook(lambda module, given: rows.append(given[0]))
    law = model.teacher_forced(tokens, labels)
    hook.remove()
    velocities = model.flow.velocities(law.hidden[0], tokens, law.maps, x["t"], x["noise"])
    with torch.enable_grad():
        total = model.weighed(model.loss(tokens, labels, tape, index))
        total.backward()
    return {
        "rows_in_every7": rows[0][:, ::7],
        "z_every7": law.hidden[0][:, ::7],
        "velocity_every3": velocities[:, ::3],
        "loss": total,
        "grad_final": model.flow.net.output.weight.grad,  # type: ignore[dict-item]
        "grad_z_proj": model.token_in.weight.grad,  # type: ignore[dict-item]
    }


def generate(case: Case) -> dict[str, Tensor]:
    model, x, call = generator(case.args, case.weights), case.inputs, case.call
    job = model.job(
        x["labels"].long(),
        guidance_scale=call["cfg"],
        guidance_interval=call["guidance"],
        inner_steps=call["num_steps"],
    )
    calls: list[int] = []
    hook = model.flow.net.register_forward_hook(lambda module, given, out: calls.append(1))
    run = Run.of(job, Tape({"draw": x["noise"]}))
    for _ in proceed(run):
        pass
    hook.remove()
    last = run.codes()[:, -model.config.tokens :]
    side = model.config.sides[0]
    return {
        "latents": unpatchify(last, model.config.patch, (side, side)),
        "flow_calls": torch.tensor(len(calls)),
    }


HANDLERS = {"loss": loss, "generate": generate}
