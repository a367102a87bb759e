"""How the cases of `m_var` are computed with nextset."""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.keys import load_into
from nextset.core.noise import Tape
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.nn.mamba import Mamba2
from nextset.systems.m_var import MambaVar
from nextset.systems.m_var.convert import load_generator
from nextset.tokenizers.multiscale import MultiScaleVQ
from tests.parity.cases import Case
from tests.parity.handlers_var import GivenInput, generated, job_of, tokenizer


def generator(args: dict, weights: dict[str, Tensor], vae: MultiScaleVQ | None = None) -> MambaVar:
    model = load_generator(weights, args["patch_nums"], vae)
    found, wanted = model.config, (args["d_state"], args["headdim"], args["num_heads"], args["attn_l2_norm"])
    assert (found.state, found.head_width, found.heads, found.l2_norm) == wanted
    return model


def block(case: Case) -> dict[str, Tensor]:
    args = case.args
    mixer = Mamba2(
        args["d_model"],
        state=args["d_state"],
        head_width=args["headdim"],
        expand=args["expand"],
        kernel=args["d_conv"],
    )
    load_into(mixer, case.weights, what="the case")
    u, split = case.inputs["u"], case.call["split"]
    first, state = mixer(u[:, :split])
    whole = mixer(u)[0]
    torch.testing.assert_close(torch.cat([first, mixer(u[:, split:], state)[0]], 1), whole, atol=1e-5, rtol=1e-4)
    return {"y": whole}


def teacher_forced(case: Case) -> dict[str, Tensor]:
    model = generator(case.args["var"], case.weights)
    logits = model.teacher_forced(GivenInput(case.inputs["x"], model.first), case.inputs["label"])  # type: ignore[arg-type]
    return {"logits": logits, "loss": model.loss(logits, case.inputs["target"])[0]}


def generate(case: Case) -> dict[str, Tensor]:
    vae = tokenizer(case.args["vae"], case.component("vae"))
    model = generator(case.args["var"], case.component("var"), vae)
    job = job_of(model, case)
    record = Record()
    image = finish(Run.of(job, Tape({"draw": case.inputs["u"]}), controllers=[record]))
    return generated(job, record, image)


HANDLERS = {"block": block, "teacher-forced-logits": teacher_forced, "generate": generate}
