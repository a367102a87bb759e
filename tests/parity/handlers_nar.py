"""How the cases of `nar` are computed with nextset: kind -> function from a case to its outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.noise import Tape
from nextset.engine.run import Run, finish
from nextset.systems.llamagen.prefix import Asked
from nextset.systems.nar import Nar
from nextset.systems.nar.convert import load_generator
from nextset.text.condition import Text
from tests.parity import handlers_nar_video
from tests.parity.cases import Case
from tests.parity.handlers_llamagen import condition


def generator(case: Case) -> Nar:
    a = case.args
    clips = "latent_shape" in a
    changes = {"heads": a["n_head"], "eps": a.get("norm_eps", 1e-5), "rope_base": a.get("rope_base", 10000)}
    if clips:
        changes["grid"] = tuple(a["latent_shape"])
    else:
        changes |= {"sides": (round(a["block_size"] ** 0.5),), "extra": a["medusa_attention_num"]}
    model = load_generator(case.weights, **changes)
    c = model.config
    assert (c.depth, c.width, c.vocabulary) == (a["n_layer"], a["dim"], a["vocab_size"])
    assert (
        model.prefix.length == a["cls_token_num"]
        and model.plan.positions == a["max_seq_len" if clips else "block_size"]
    )
    return model


def asked(case: Case, model: Nar) -> Tensor | Text:
    """What a case is asked with; of clips, a negative class is none."""
    if "latent_shape" not in case.args:
        return condition(case)
    cond = case.inputs["cond"]
    return torch.where(cond < 0, model.config.classes, cond)


def mask(model: Nar, given: Asked) -> Tensor:
    """Who sees whom in raster order, (1 or B, T + L, T + L): the engine's mask of everything that it feeds, and the last
    token, which the authors feed and we do not: it sees all, and none sees it."""
    plan, t = model.plan, model.prefix.length
    size = t + plan.positions
    order = torch.cat([torch.arange(t), t + model.grid.order])
    seen = F.pad(plan.mask(plan.all()), (0, 1, 0, 1))
    seen[-1] = True
    raster = seen[order.argsort()][:, order.argsort()][None]
    if given.hidden is None:
        return raster
    hidden = F.pad(given.hidden, (0, plan.positions))
    return raster & ~hidden[:, None] | torch.eye(size, dtype=torch.bool)


def teacher_forced(case: Case) -> dict[str, Tensor]:
    model, codes = generator(case), case.inputs["indices"]
    given = model.prefix.ask(asked(case, model))
    if "force_drop_ids" in case.inputs:
        given = model.dropped(given, case.inputs["force_drop_ids"] == 1)
    seen = mask(model, given)
    if "attn_mask" in case.inputs:  # the engine's own mask is the one that the case was computed with
        assert torch.equal(seen.expand(len(codes), -1, -1), case.inputs["attn_mask"].bool())
    logits = model.teacher_forced(codes, given)
    found = {"logits": logits, "loss": model.loss(logits, codes, case.inputs.get("valid"))[0]}
    if "mask" in case.outputs:
        found["mask"] = seen.expand(len(codes), -1, -1) if case.outputs["mask"].dim() == 3 else seen[0]
    return found


def generate(case: Case) -> dict[str, Tensor]:
    call, model = case.call, generator(case)
    job = model.job(
        asked(case, model),
        guidance_scale=call["cfg_scale"],
        guidance_tokens=call.get("cfg_interval", -1) + 1,
        temperature=call.get("temperature", 1.0),
        top_k=call.get("top_k", 0),
        top_p=call.get("top_p", 1.0),
    )
    job.finish = lambda canvas: canvas.codes()
    u = case.inputs["u_sample"]  # column n is the n-th draw; a tape is asked by position
    run = Run.of(job, Tape({"draw": u[:, model.grid.order.argsort()]}))
    return {"indices": finish(run), "forward_calls": torch.tensor(run.forwards)}


HANDLERS = {"teacher-forced-logits": teacher_forced, "generate": generate, **handlers_nar_video.HANDLERS}
