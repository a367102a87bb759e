"""How the cases of `llamagen` are computed with nextset: kind -> function from a case to its outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextset.core.noise import Tape
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.nn.autoencoder import ResBlock, SpatialAttention
from nextset.systems.llamagen.convert import by_level, load_generator, load_tokenizer
from nextset.systems.llamagen.model import LlamaGen
from nextset.text.condition import Text
from nextset.tokenizers.vq import VQTokenizer
from tests.parity.cases import Case


def tokenizer(case: Case) -> VQTokenizer:
    a = case.args
    changes: dict[str, Any] = {"normalised": a["codebook_l2_norm"], "sides": (1,)}
    changes |= {
        ours: a[theirs]
        for ours, theirs in (("beta", "commit_loss_beta"), ("entropy", "entropy_loss_ratio"))
        if theirs in a
    }
    halves = {"encoder": ("encoder\\..*", "quant_conv\\..*"), "decoder": ("decoder\\..*", "post_quant_conv\\..*")}
    absent = [name for half, names in halves.items() if a[f"{half}_ch_mult"] is None for name in names]
    vae = load_tokenizer(case.weights, optional=absent, **changes)
    c = vae.config
    found = (c.autoencoder.blocks, c.autoencoder.latent, c.vocabulary, c.channels)
    assert found == (a["num_res_blocks"], a["z_channels"], a["codebook_size"], a["codebook_embed_dim"])
    for half, sizes in (("encoder", c.autoencoder), ("decoder", c.decoder)):
        if a[f"{half}_ch_mult"] is not None:
            assert [sizes.channels * m for m in sizes.multipliers] == [a["ch"] * m for m in a[f"{half}_ch_mult"]]
    return vae


def generator(case: Case) -> LlamaGen:
    a = case.args
    side = int(a["block_size"] ** 0.5)
    asked_with = {"c2i": "class", "t2i": "text"}[a["model_type"]]
    changes = {"eps": a["norm_eps"], "rope_base": a["rope_base"], "heads": a["n_head"], "sides": (side,)}
    model = load_generator(case.weights, **changes)
    c = model.config
    assert (c.asked_with, c.depth, c.width, c.vocabulary) == (asked_with, a["n_layer"], a["dim"], a["vocab_size"])
    assert (c.keys or c.heads) == (a["n_kv_head"] or a["n_head"]) and model.prefix.length == a["cls_token_num"]
    return model


def block(case: Case) -> dict[str, Tensor]:
    inner, outer = case.args["in_channels"], case.args["out_channels"]
    res, attention = ResBlock(inner, outer, 32), SpatialAttention(outer, 32)
    renamed = by_level({f"encoder.{name}": tensor for name, tensor in case.weights.items()})
    for name, module in (("encoder.res.", res), ("encoder.attn.", attention)):
        module.load_state_dict({n.removeprefix(name): t for n, t in renamed.items() if n.startswith(name)})
    found = res(case.inputs["x"])
    return {"res": found, "attn": attention(found)}


def encode(case: Case) -> dict[str, Tensor]:
    vae = tokenizer(case)
    f = vae.features(case.inputs["image"])
    z, ids = vae.cells(f), vae.encode(case.inputs["image"])
    vq, commit = vae.quantiser.terms(z, ids)
    straight = z + (vae.quantiser.embed(ids) - z)
    return {
        "latent": f,
        "quant": straight.transpose(1, 2).unflatten(-1, f.shape[-2:]),
        "indices": ids,
        "vq_loss": vq,
        "commit_loss": vae.config.beta * commit,
        "entropy_loss": vae.config.entropy * vae.quantiser.choice_entropy(z),
    }


def decode(case: Case) -> dict[str, Tensor]:
    vae, ids = tokenizer(case), case.inputs["indices"]
    side = int(ids.shape[1] ** 0.5)
    return {"image": vae.decode_features(vae.f_hat(ids, sides=[side]))}


def condition(case: Case) -> Tensor | Text:
    """What a case is asked with: class ids, or features that come left-padded, with the mask that says where."""
    cond = case.inputs["cond"]
    if case.args["model_type"] == "c2i":
        return cond
    mask = case.inputs.get("attn_mask", case.inputs.get("emb_masks"))
    if mask is None:
        return Text(cond, torch.full((len(cond),), cond.shape[1]))
    lengths = (mask[:, -1, : cond.shape[1]] if mask.dim() == 3 else mask).long().sum(1).tolist()
    return Text.of([row[len(row) - n :] for row, n in zip(cond, lengths, strict=True)])


def teacher_forced(case: Case) -> dict[str, Tensor]:
    model = generator(case)
    asked, codes = model.prefix.ask(condition(case)), case.inputs["indices"]
    if model.asked_with == "text":
        torch.testing.assert_close(asked.condition, case.inputs["cond"])
    if "force_drop_ids" in case.inputs:
        asked = model.dropped(asked, case.inputs["force_drop_ids"] == 1)
    if "attn_mask" in case.inputs:  # the engine's own mask is the one that the case was computed with
        seen = model.plan.mask(model.plan.all())
        size = model.plan.size
        if asked.hidden is not None:
            hidden = torch.nn.functional.pad(asked.hidden, (0, size - asked.hidden.shape[1]))
            seen = seen & ~hidden[:, None] | torch.eye(size, dtype=torch.bool)
        assert torch.equal(seen.expand(len(codes), -1, -1), case.inputs["attn_mask"][:, :-1, :-1].bool())
    logits = model.teacher_forced(codes, asked)
    return {"logits": logits, "loss": model.loss(logits, codes, case.inputs.get("valid"))[0]}


def generate(case: Case) -> dict[str, Tensor]:
    call, model = case.call, generator(case)
    interval = call.get("cfg_interval", -1)
    job = model.job(
        condition(case),
        guidance_scale=call["cfg_scale"],
        guidance_tokens=0 if interval < 0 else interval + 2,
        temperature=call.get("temperature", 1.0),
        top_k=call.get("top_k", 0),
        top_p=call.get("top_p", 1.0),
    )
    job.finish = lambda canvas: canvas.codes()
    record = Record()
    codes = finish(Run.of(job, Tape({"draw": case.inputs["u_sample"]}), controllers=[record]))
    raw = torch.cat([law.raw for law in record.dists], 1)  # type: ignore[attr-defined]
    return {"indices": codes, "guided_logits": raw / call.get("temperature", 1.0)}


HANDLERS = {
    "block": block,
    "tokenizer-encode": encode,
    "tokenizer-decode": decode,
    "teacher-forced-logits": teacher_forced,
    "generate": generate,
}
