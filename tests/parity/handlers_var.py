"""How the cases of `var` are computed with nextset: kind -> function from a case to its outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextset.core.masks import box_mask
from nextset.core.noise import Tape
from nextset.core.protocols import Job
from nextset.core.steps import Step
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.var import Var
from nextset.systems.var.convert import load_generator, load_tokenizer
from nextset.systems.var.progressive import newest_weight, progressive_stage
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig
from nextset.training.optim import decays
from nextset.training.schedules import lr_ratio, weight_decay
from tests.parity.cases import Case


class GivenInput:
    """A canvas whose inputs are those of the case."""

    def __init__(self, x: Tensor, first: int) -> None:
        self.x = torch.cat([x.new_zeros(x.shape[0], first, x.shape[2]), x], 1)

    def begin(self, noise: object, images: Tensor) -> None:
        pass

    def input(self, step: Step) -> Tensor:
        return self.x[:, step.feed]

    def now(self, step: Step) -> None:
        return None


def tokenizer(args: dict, weights: dict[str, Tensor]) -> MultiScaleVQ:
    config = MultiScaleVQConfig(
        autoencoder=AutoencoderConfig(
            args["ch"], tuple(args["ch_mult"]), args["num_res_blocks"], args["z_channels"], args["num_groups"]
        ),
        vocabulary=args["vocab_size"],
        sides=tuple(args["v_patch_nums"]),
        distance="cosine" if args["using_znorm"] else "l2",
        phi_ratio=args["quant_resi"],
        phi_share=args["share_quant_resi"],
        phi_count=args.get("default_qresi_counts") or None,
        beta=args["beta"],
        bottleneck_kernel=args["quant_conv_ks"],
    )
    # cases leave out the half that they do not use
    return load_tokenizer(
        weights, config, optional=("encoder\\..*", "quant_conv\\..*", "decoder\\..*", "post_quant_conv\\..*")
    )


def generator(args: dict, weights: dict[str, Tensor], vae: MultiScaleVQ | None = None) -> Var:
    model = load_generator(weights, args["patch_nums"], vae)
    for ours, theirs in (
        ("depth", "depth"),
        ("width", "embed_dim"),
        ("heads", "num_heads"),
        ("classes", "num_classes"),
        ("l2_norm", "attn_l2_norm"),
        ("shared_adaln", "shared_aln"),
        ("mlp_ratio", "mlp_ratio"),
    ):
        assert getattr(model.config, ours) == args[theirs], (
            f"sniffed {ours} {getattr(model.config, ours)}, the case says {args[theirs]}"
        )
    return model


def tokenizer_encode(case: Case) -> dict[str, Tensor]:
    vae = tokenizer(case.args, case.weights)
    f = vae.features(case.inputs["image"])
    scales = list(vae.quantiser.scales(f, vae.sides))
    x = [
        vae.quantiser.shrink(f_hat, side).flatten(2).transpose(1, 2)
        for (_, _, f_hat), side in zip(scales, vae.sides[1:], strict=False)
    ]
    return {
        "f": f,
        "idx": torch.cat([s[0] for s in scales], 1),
        "f_hat_per_scale": torch.stack([s[2] for s in scales], 1),
        "var_input": torch.cat(x, 1),
    }


def tokenizer_decode(case: Case) -> dict[str, Tensor]:
    vae, ids = tokenizer(case.args, case.weights), case.inputs["idx"]
    found = {"f_hat": vae.f_hat(ids), "raw": vae.decode_features(vae.f_hat(ids)), "image_last": vae.decode(ids)}
    for name in case.outputs:
        if name.startswith("image_scale"):
            found[name] = vae.decode(ids, upto=int(name.removeprefix("image_scale")) + 1)
    return found


def teacher_forced(case: Case) -> dict[str, Tensor]:
    model = generator(case.args["var"], case.weights)
    return {"logits": model.teacher_forced(GivenInput(case.inputs["x"], model.first), case.inputs["label"])}


def job_of(model: Any, case: Case) -> Job:
    """The request of a case, in the words of the authors' sampler, which VAR's relatives share."""
    call = case.call
    return model.job(
        case.inputs["label"],
        guidance_scale=call["cfg"],
        top_k=call["top_k"],
        top_p=call["top_p"],
        more_smooth=call.get("more_smooth", False),
    )


def generated(job: Job, record: Record, image: Tensor) -> dict[str, Tensor]:
    """What a case of a whole generation compares; image (N, 3, H, W) in [-1, 1]."""
    return {
        "logits": torch.cat([d.raw for d in record.dists], 1),
        "idx": torch.cat([d.value for d in record.drawn], 1),
        "f_hat": job.canvas.total(),  # type: ignore[attr-defined]
        "image": (image + 1) / 2,
    }


def generate(case: Case) -> dict[str, Tensor]:
    vae = tokenizer(case.args["vae"], case.component("vae"))
    model = generator(case.args["var"], case.component("var"), vae)
    call, job = case.call, job_of(model, case)
    tape = {"draw": case.inputs["u"]}
    for name in ("gumbel", "g", "u_gumbel", "u_soft"):
        if name in case.inputs:
            tape["soft-gumbel" if name in ("gumbel", "g") else "soft"] = case.inputs[name]
    found: dict[str, Tensor] = {}
    if "image_idx" in case.inputs:
        sides = model.config.sides
        mask = box_mask(tuple(call["box"]), (sides[-1], sides[-1]), keep="outside" if call["inpainting"] else "inside")
        keep = model.keep_mask(mask)
        found["keep"] = keep.expand_as(case.inputs["image_idx"]) if case.outputs["keep"].dim() == 2 else keep
        if case.outputs["keep"].dim() == 2 and case.outputs["keep"].shape[0] == 1:
            found["keep"] = keep[None]
        job.canvas.pin(case.inputs["image_idx"], keep)
    record = Record()
    image = finish(Run.of(job, Tape(tape), controllers=[record], skip_pinned=False))
    return found | generated(job, record, image)


def loss(case: Case) -> dict[str, Tensor]:
    model = generator(case.args["var"], case.weights)
    model.config = model.config.replace(label_smoothing=case.call.get("label_smooth", 0.0))
    stage = case.call.get("prog_si", -1)
    logits = model.teacher_forced(GivenInput(case.inputs["x"], model.first), case.inputs["label"], 0, stage)
    value, _ = model.loss(logits, case.inputs["target"], 0, stage, case.call.get("prog_wp", 1.0))
    return {"logits": logits, "loss": value}


def schedule(case: Case) -> dict[str, Tensor]:
    c, its = case.call, case.inputs["it"].tolist()
    total, scales = c["max_it"], c["K"]
    found = {
        f"lr_{kind}": torch.tensor(
            [
                c["peak_lr"] * lr_ratio(kind, i, total=total, warmup=c["wp_it"], start=c["wp0"], end=c["wpe"])
                for i in its
            ],
            dtype=torch.float64,
        )
        for kind in c["kinds"]
    }
    found["wd"] = torch.tensor([weight_decay(i, total, c["wd"], c["wd_end"]) for i in its], dtype=torch.float64)
    where = (total, c["wp_it"], c["pg"], c["pg0"], scales)
    stages = [progressive_stage(i, *where) for i in its]
    found["prog_si"] = torch.tensor([stage for stage, _ in stages])
    found["prog_wp"] = torch.tensor(
        [newest_weight(within, c["prog_wp_it"]) for _, within in stages], dtype=torch.float64
    )
    # decay is decided on the authors' names, whose rule is the released trainer's
    words = (
        "cls_token",
        "start_token",
        "task_token",
        "cfg_uncond",
        "pos_embed",
        "pos_1LC",
        "pos_start",
        "start_pos",
        "lvl_embed",
        "gamma",
        "beta",
        "ada_gss",
        "moe_bias",
        "scale_mul",
    )
    found["decay"] = torch.tensor([int(decays(n, d, words)) for n, d in zip(c["names"], c["ndim"], strict=True)])
    return found


HANDLERS = {
    "tokenizer-encode": tokenizer_encode,
    "tokenizer-decode": tokenizer_decode,
    "teacher-forced-logits": teacher_forced,
    "generate": generate,
    "edit": generate,
    "loss": loss,
    "schedule": schedule,
}
