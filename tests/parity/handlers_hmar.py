"""How the cases of `hmar` are computed with nextset."""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.noise import Tape
from nextset.core.protocols import Job
from nextset.core.refinement import RefinedPyramid
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.systems.hmar import Hmar
from nextset.systems.hmar.convert import load_generator, merge
from nextset.systems.hmar.weights import lognorm
from nextset.systems.var.convert import RELEASED_SIDES
from nextset.tokenizers.multiscale import MultiScaleVQ
from tests.parity.cases import Case
from tests.parity.handlers_var import GivenInput, generated, tokenizer


def generator(case: Case, weights: dict[str, Tensor], vae: MultiScaleVQ | None = None) -> Hmar:
    args = case.args["var"]
    model = load_generator(weights, case.call.get("patch_nums", args["patch_nums"]), vae)
    found = model.config
    assert (found.depth, found.heads, found.l2_norm) == (args["depth"], args["num_heads"], args["attn_l2_norm"])
    return model


def loss(case: Case) -> dict[str, Tensor]:
    return masked_loss(case) if "idx" in case.inputs else next_scale_loss(case)


def next_scale_loss(case: Case) -> dict[str, Tensor]:
    model = generator(case, case.component("var"))
    logits = model.teacher_forced(GivenInput(case.inputs["x"], model.first), case.inputs["label"])  # type: ignore[arg-type]
    found = {"logits": logits}
    for name in case.outputs:
        what, _, rule = name.partition("_")
        if what == "loss":
            model.config = model.config.replace(scale_weights=rule)
            found[name] = model.loss(logits, case.inputs["target"])[0]
    for name, length in (("w256", 680), ("w512", 2240)):
        found[name] = torch.tensor(lognorm(RELEASED_SIDES[length]))
    return found


def masked_loss(case: Case) -> dict[str, Tensor]:
    """The second stage alone: it stands in for the first, of which nothing is asked."""
    vae, weights, codes = tokenizer(case.args["vae"], case.component("vae")), case.component("var"), case.inputs["idx"]
    model = generator(case, merge(weights, weights, case.args["n_layers_train"]), vae)
    starts = zip(model.config.sides, model.order.canvas(vae, 1).starts, strict=False)
    positions = torch.cat([start + case.inputs[f"mask_{p}"] for p, start in starts if f"mask_{p}" in case.inputs])
    hidden = torch.zeros(codes.shape[1], dtype=torch.bool)
    hidden[positions] = True
    plan, canvas = model.order.masked, model.refined(((1,),), len(codes))
    canvas.pin(codes, torch.ones_like(hidden))
    canvas.open = hidden.expand_as(canvas.open)
    context, own, _ = canvas.input(plan.all())[:, model.first :].split([*[model.config.channels] * 2, 1], -1)
    logits = model.packed(plan, plan.steps, canvas, case.inputs["label"])
    behind = model.masked_logits(codes, case.inputs["label"], hidden)
    torch.testing.assert_close(behind, logits[:, model.first :])
    return {
        "x_scale": context,
        "x_mask": own,
        "mask_positions": positions - model.first,
        "logits": logits,
        "loss": torch.nn.functional.cross_entropy(logits[:, hidden].flatten(0, 1), codes[:, hidden].flatten()),
    }


class Redraws(Tape):
    """Numbers in the order of the authors' draws: each forward has its own for all of its positions."""

    def __init__(self, values: Tensor, job: Job, purpose: str = "") -> None:
        super().__init__({"draw": values}, purpose)
        self.job, self.begin, at = job, {}, 0
        for step in job.plan.steps:
            first = int(step.draw[0])
            redraw = sum(first == f for f, _ in self.begin)
            self.begin[first, redraw] = at
            at += step.rows
        assert at == values.shape[1]

    def of(self, purpose: str) -> Redraws:
        return Redraws(self.values["draw"], self.job, purpose)

    def uniform(
        self, images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int | None = None
    ) -> Tensor:
        first = int(positions[0])
        return super().uniform(images, positions - first + self.begin[first, int(attempt)])


class Opened(Record):
    """Also keeps which positions each step of refinement draws again, as the authors name it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}

    def after(self, run: Run, step: object, drawn: object) -> None:
        canvas = run.job.canvas
        assert isinstance(canvas, RefinedPyramid)
        steps = run.job.plan.steps
        if run.cursor < len(steps) and steps[run.cursor].phase == "refine":
            k = canvas.scale(steps[run.cursor])
            j = sum(canvas.scale(s) == k for s in steps[: run.cursor])
            opened = canvas.open[:, canvas._slice(k)]
            self.found[f"remasked_{k}_{j}"] = torch.stack([row.nonzero()[:, 0] for row in opened])


def generate(case: Case) -> dict[str, Tensor]:
    vae, call = tokenizer(case.args["vae"], case.component("vae")), case.call
    model = generator(case, case.component("var"), vae)
    job = model.job(
        case.inputs["label"],
        guidance_scale=call["cfg"],
        top_k=call["top_k"],
        top_p=call["top_p"],
        mask=call["mask"],
        schedule=call["mask_schedule"] if call["mask"] else None,
        refine_guidance=1e-6,
    )
    record = Opened() if call["mask"] else Record()
    run = Run.of(job, Redraws(case.inputs["u"], job), controllers=[record])
    image = finish(run)
    assert run.policy.bytes() == 0
    found = generated(job, record, image) | {"idx": run.codes()}
    return found | record.found if isinstance(record, Opened) else found


HANDLERS = {"loss": loss, "generate": generate}
