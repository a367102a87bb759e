"""How the cases of `mvar` are computed with nextset."""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.noise import Tape
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.nn.neighbourhood import neighbourhood_attention
from nextset.systems.mvar import MVar, MVarConfig
from nextset.systems.var.convert import load_generator
from nextset.tokenizers.multiscale import MultiScaleVQ
from tests.parity.cases import Case
from tests.parity.handlers_var import GivenInput, generated, job_of, tokenizer


def generator(args: dict, weights: dict[str, Tensor], vae: MultiScaleVQ | None = None) -> MVar:
    sizes = {"kernel_size": args["kernel_size"], "refine_step": args["refine_step"]}
    model = load_generator(weights, args["patch_nums"], vae, MVar, **sizes)
    assert model.config.l2_norm == args["attn_l2_norm"] and model.config.heads == args["num_heads"]
    return model  # type: ignore[return-value]


def block(case: Case) -> dict[str, Tensor]:
    """Maps (B, H, W, heads, c)."""
    q, k, v = (case.inputs[n].permute(0, 3, 1, 2, 4).flatten(2, 3) for n in ("q", "k", "v"))
    h, w = case.inputs["q"].shape[1:3]
    out = neighbourhood_attention(q, k, v, (h, w), case.call["kernel_size"], case.call["scale"])
    return {"out": out.unflatten(2, (h, w)).permute(0, 2, 3, 1, 4)}


def loss(case: Case) -> dict[str, Tensor]:
    model = generator(case.args["var"], case.weights)
    canvas = GivenInput(case.inputs["x"], model.first)
    found: dict[str, Tensor] = {}
    for name in case.outputs:
        what, _, which = name.partition("_")
        if what == "parts":
            ratio, refine, scales = map(int, which.split("_"))
            sides = tuple(range(refine, refine + scales))
            probe = object.__new__(MVar)  # the cycle is a function of the config alone
            torch.nn.Module.__init__(probe)
            probe.config = MVarConfig(sides=sides, refine_step=refine, train_ratio=ratio, kernel_size=1)
            found[name] = torch.tensor([probe.part(i, 0)[:2] for i in range(case.outputs[name].shape[0])])
            continue
        first = 0 if which == "first" else int(which.removeprefix("scale"))
        last = model.config.refine_step - 1 if which == "first" else first
        logits = model.teacher_forced(canvas, case.inputs["label"], first, last)  # type: ignore[arg-type]
        found[name] = logits if what == "logits" else model.loss(logits, case.inputs["target"], first, last)[0]
    return found


def generate(case: Case) -> dict[str, Tensor]:
    vae = tokenizer(case.args["vae"], case.component("vae"))
    model = generator(case.args["var"], case.component("var"), vae)
    job = job_of(model, case)
    record = Record()
    run = Run.of(job, Tape({"draw": case.inputs["u"]}), controllers=[record])
    image = finish(run)
    assert run.policy.bytes() == 0
    return generated(job, record, image)


HANDLERS = {"block": block, "loss": loss, "generate": generate}
