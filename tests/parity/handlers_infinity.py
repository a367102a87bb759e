"""How the cases of `infinity` are computed with nextset: kind -> function from a case to its outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextset.core.noise import Tape
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.infinity.convert import load_generator, load_tokenizer, tokenizer_config
from nextset.systems.infinity.correction import corrected
from nextset.systems.infinity.schedules import TABLE, Grids, nearest_ratio
from nextset.text.condition import Text
from nextset.tokenizers.bitwise import BitwiseConfig, BitwisePyramid, BitwiseQuantiser
from tests.parity.cases import Case
from tests.parity.handlers_var import GivenInput

ROPES = {0: "plain", 1: "resized", 2: "normalised"}


def grids(case: Case, key: str = "scale_schedule") -> list[tuple[int, int]]:
    return [(h, w) for _, h, w in case.call[key]]


def asked(case: Case) -> Grids:
    """The scales of a case, with the positions of the schedule that they begin."""
    full = grids(case, "rope_full_schedule") if "rope_full_schedule" in case.call else grids(case)
    return Grids(tuple(grids(case)), full[-1], ROPES[case.args.get("rope2d_normalized_by_hw", 2)])  # type: ignore[arg-type]


def generator(case: Case, vae: BitwisePyramid | None = None) -> Infinity:
    a = case.args
    changes: dict[str, Any] = {"patch": 1 + bool(a.get("apply_spatial_patchify", 0))}
    changes["text_length"] = a["text_maxlen"]
    if not a.get("add_lvl_embeding_only_first_block", 1):
        changes["level_chunks"] = a["block_chunks"]
    model = load_generator(case.component("transformer"), vae, **changes)
    c = model.config
    assert (c.depth, c.width, c.heads) == (a["depth"], a["embed_dim"], a["num_heads"])
    assert (c.channels, c.text_channels) == (a["vae_embed_dim"], a["text_channels"])
    return model


def quantiser_alone(channels: int, patch: int) -> BitwisePyramid:
    """A tokenizer of whose parts only the quantiser, which has no weights, is used."""
    sizes = AutoencoderConfig(8, (1,), 1, channels, 8, attention=False, middle_attention=False)
    return BitwisePyramid(BitwiseConfig(autoencoder=sizes, sides=(1, 2), patch=patch))


def tokenizer(case: Case) -> dict[str, Tensor]:
    from nextset.systems.infinity.convert import TOKENIZER

    renamed = TOKENIZER.rename(case.component("vae"))
    vae = load_tokenizer(case.component("vae"), tokenizer_config(renamed))
    assert vae.config.autoencoder.downsampling == case.args["patch_size"]
    sides, d = grids(case), case.args["codebook_dim"]
    f = vae.features(case.inputs["image"])
    scales = list(vae.quantiser.scales(f, sides))
    found = {"features": f, "quantized": scales[-1][2]}
    for k, ((h, w), (bits, _, f_hat)) in enumerate(zip(sides, scales, strict=True)):
        found[f"bits_{k}"] = bits.view(len(f), 1, h, w, d)
        if k + 1 < len(sides):
            area = torch.nn.functional.interpolate(f_hat, size=sides[k + 1], mode="area")
            found[f"area_input_{k + 1}"] = area[:, :, None]
    codes = torch.cat([bits for bits, _, _ in scales], 1)
    torch.testing.assert_close(vae.f_hat(codes, sides=sides), scales[-1][2])  # bits alone give the same sum
    found["recon_unclamped"] = vae.decode_features(found["quantized"])
    found["recon"] = vae.decode(codes, sides=sides)
    return found


def teacher_forced(case: Case) -> dict[str, Tensor]:
    model = generator(case)
    text = Text.unpacked(case.inputs["text_packed"].float(), case.inputs["cu_seqlens"].long())
    drop = case.call.get("cond_drop", "none")
    if drop == "all":
        text = model.without(text)
    elif "drop_mask" in case.inputs or isinstance(drop, list):
        mask = case.inputs.get("drop_mask", torch.tensor([i in drop for i in range(len(text))]))
        dropped = mask.bool()[:, None, None]
        text = Text(torch.where(dropped, model.without(text).values, text.values), text.lengths)
    logits = model.teacher_forced(GivenInput(case.inputs["x_BLC_wo_prefix"], 1), text, asked(case))  # type: ignore[arg-type]
    return {"logits": logits.flatten(2)}


def generate(case: Case) -> dict[str, Tensor]:
    call, patch = case.call, 1 + bool(case.args.get("apply_spatial_patchify", 0))
    vae = quantiser_alone(case.args["vae_embed_dim"], patch)
    model = generator(case, vae)
    q, order = vae.quantiser, asked(case)
    text = Text.unpacked(case.inputs["text_packed"].float(), case.inputs["cu_seqlens"].long())
    negative = None
    if call.get("neg_lens"):
        packed = next(v for n, v in case.inputs.items() if "neg" in n and v.is_floating_point())
        negative = Text.of(list(packed.float().split(call["neg_lens"])))
    job = model.job(
        text, negative=negative, guidance_scale=call["cfg_list"], temperature=call["tau_list"], top_k=call["top_k"],
        top_p=call["top_p"], guide_at=call["cfg_insertion_layer"], grids=order,
    )  # fmt: skip
    given = call.get("gt_leak", 0)
    if given:
        names = [n for n in case.inputs if not n.startswith("u_") and n.rpartition("_")[2].isdigit()]
        bits = [case.inputs[next(n for n in names if n.endswith(f"_{k}"))] for k in range(given)]
        rows = [q.unfold(b.squeeze(1).permute(0, 3, 1, 2)) for b in bits]
        n = sum(h * w for h, w in order.sides[:given])
        mask = torch.arange(order.plan.positions) < n
        values = torch.zeros(len(text), order.plan.positions, q.width, dtype=torch.int64)
        values[:, :n] = torch.cat(rows, 1).long()
        job.canvas.pin(values, mask)
    u = torch.cat([case.inputs[f"u_{k}"] for k in range(len(order.sides))], 1)
    record, found = Record(), {}
    job.finish = lambda canvas: canvas.total()
    found["summed_codes"] = finish(Run.of(job, Tape({"draw": u}), controllers=[record], skip_pinned=False))
    for k, (law, drawn) in enumerate(zip(record.dists, record.drawn, strict=True)):
        found[f"logits_{k}"] = law.raw.flatten(2) / call["tau_list"][k]  # type: ignore[attr-defined]
        found[f"bits_{k}"] = drawn.value
    return found


def self_correction(case: Case) -> dict[str, Tensor]:
    a, sides, f = case.args, grids(case), case.inputs["features"]
    patch = 1 + bool(a.get("apply_spatial_patchify", 0))
    q = BitwiseQuantiser(a["codebook_dim"], patch)
    noisy = a["noise_apply_layers"]
    rows = [q.unfold(case.inputs[f"u_{k}"].squeeze(1).permute(0, 3, 1, 2)) for k in range(min(noisy, len(sides)))]
    u = torch.cat([*rows, torch.ones(len(f), sum(h * w for h, w in sides[len(rows) :]), q.width)], 1)
    # the released switch for "no requantising" feeds the bits that were not flipped (sheet, Training)
    chances = case.inputs["strengths"].tolist() if a.get("noise_apply_requant", 1) else []
    labels, fed = corrected(q, f, sides, chances, u)
    total, inputs, start = torch.zeros_like(f), [], 0
    for k, (h, w) in enumerate(sides[:-1]):
        total = total + q.contribution(q.embed(fed[:, start : start + h * w]), k, sides)
        inputs.append(q.shrink(total, sides[k + 1]).flatten(2).transpose(1, 2))
        start += h * w
    found = {"x_BLC_wo_prefix": torch.cat(inputs, 1), "target_bits": labels}
    logits = case.inputs["logits"].unflatten(-1, (q.width, 2))
    model = Infinity(
        InfinityConfig(depth=1, width=8, heads=1, channels=a["codebook_dim"], patch=patch, text_channels=8)
    )
    found["loss_reweighted"], found["token_loss"] = model.loss(logits, labels, sides)
    model.config = model.config.replace(reweight=False)
    found["loss_plain"], _ = model.loss(logits, labels, sides)
    found["loss_bit_sum"], _ = model.loss(logits, labels, sides, summed=True)
    return found


def schedules(case: Case) -> dict[str, Tensor]:
    found = {
        "templates": torch.tensor(list(TABLE)),
        "scales_1M": torch.tensor([list(g) for g in TABLE.values()]),
        "nearest_template": torch.tensor([nearest_ratio(r) for r in case.inputs["h_div_w"].tolist()]),
    }
    for rope in case.call["rope"]:
        full = TABLE[rope["h_div_w_template"]]
        turns = Grids(full, full[-1], ROPES[rope["rope2d_normalized_by_hw"]]).turns(rope["head_dim"])  # type: ignore[arg-type]
        n = case.outputs[rope["output"]].shape[1]
        found[rope["output"]] = torch.stack([turns.cos[:n], turns.sin[:n]])
    return found


HANDLERS = {
    "tokenizer": tokenizer,
    "teacher-forced-logits": teacher_forced,
    "generate": generate,
    "self-correction": self_correction,
    "schedule": schedules,
}
