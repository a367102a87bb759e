"""SAR: self-autoregressive refinement (arXiv 2512.06421), a post-training for next-scale models.

Stagger-scale rollout: one teacher-forced pass predicts all scales; these predictions, in place of the true codes, are the
input of a second pass. Contrastive student forcing: the second pass is held to what the first one predicted. Network,
tokenizer and sampling are those of the model that is trained: FlexVAR, or VAR.

Shapes: codes (B, L) of all scales, logits (B, L, V); no gradient flows through a prediction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.canvases import Canvas, NoiseSource
from nextset.core.noise import Noise
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.filters import chain
from nextset.heads.categorical import Categorical
from nextset.systems.flexvar import FlexVar, FlexVarConfig
from nextset.systems.flexvar.sides import at_random
from nextset.systems.var import Var
from nextset.training.label_drop import drop_labels


@dataclasses.dataclass(frozen=True)
class SarConfig(FlexVarConfig):
    """on: what is trained; its own fields are as they were. ssr: the second pass sees and is trained on "all" scales, as
    the paper draws it, or on the "last" alone, as the released models were made. sigma: weight of its loss. target: what
    it is held to, the first pass or the ground truth. rollout: how the first pass predicts; where it is "sampled",
    rollout_guidance (1 or less = none), rollout_top_k and rollout_top_p (0 = off) are those of the draw."""

    on: Literal["flexvar", "var"] = "flexvar"
    ssr: Literal["last", "all"] = "last"
    sigma: float = 0.01
    target: Literal["teacher", "gt"] = "teacher"
    rollout: Literal["argmax", "sampled"] = "argmax"
    rollout_guidance: float = 2.5
    rollout_top_k: int = 900
    rollout_top_p: float = 0.96

    def check(self) -> None:
        super().check()
        whole = self.on == "flexvar" or self.ssr == "all"
        self.require("ssr", whole, "'all' on residual scales: the last one alone has no input without those before it")
        self.require("sigma", 0 <= self.sigma <= 100, "between 0 and 100")
        self.require("rollout_guidance", 0 <= self.rollout_guidance <= 1000, "between 0 and 1000")
        self.require("rollout_top_k", self.rollout_top_k >= 0, "at least 0")
        self.require("rollout_top_p", 0 <= self.rollout_top_p <= 1, "between 0 and 1")


class Passes(NamedTuple):
    """What one step computes. teacher: logits of the first pass; null: those without class, where the rollout is guided;
    predicted: ids (B, L); student: logits of the second pass, (B, L, V) or of the last scale alone. With a single scale
    there is no second pass: predicted and student are None, its loss is 0."""

    teacher: Tensor
    null: Tensor | None
    predicted: Tensor | None
    student: Tensor | None
    loss_teacher: Tensor
    loss_student: Tensor
    loss: Tensor


class Sar(Var):
    """The objective, on the network that `config.on` names: an instance is a `SarFlex`, or a `Sar` that is VAR's."""

    slug = "sar"
    config_type = SarConfig
    config: SarConfig
    watched = ("loss_tf", "loss_sf")

    def __new__(cls, config: SarConfig | None = None, *_: Any, **__: Any) -> Sar:
        flexible = cls is Sar and config is not None and config.on == "flexvar"
        return super().__new__(SarFlex if flexible else cls)

    def scales_of(self, codes: Tensor, step: int, noise: Noise) -> tuple[Sar, Tensor]:
        """The model and codes (B, L) on the scales of a training step; codes as a batch has them."""
        return self, codes

    def given(self, codes: Tensor) -> Canvas:
        """A canvas that holds these codes."""
        canvas = self.canvas(codes.shape[0])
        canvas.pin(codes, torch.ones(codes.shape[1], dtype=torch.bool))
        return canvas

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Two passes, one loss; batch as the trained model's. Labels are dropped in each pass anew."""
        model, codes = self.scales_of(batch["codes"], step, noise)
        passes = model.passes(codes, batch["labels"], batch["index"], noise)
        parts = {"loss_tf": passes.loss_teacher, "loss_sf": passes.loss_student}
        parts["accuracy"] = (passes.teacher.argmax(-1) == codes).float().mean()
        yield Update("generator", passes.loss, {name: part.detach() for name, part in parts.items()})

    def passes(self, codes: Tensor, labels: Tensor, index: Tensor, noise: NoiseSource) -> Passes:
        """loss = L_TF + sigma L_SF. codes (B, L), labels (B,); index (B,): global sample indices, which address the noise."""
        teacher = self.teacher_forced(self.given(codes), self.dropped(labels, index, noise))
        loss_teacher, _ = self.loss(teacher, codes)
        if len(self.sizes) == 1:
            return Passes(teacher, None, None, None, loss_teacher, torch.zeros_like(loss_teacher), loss_teacher)
        null, predicted = self.rolled_out(teacher.detach(), codes, labels, index, noise.of("rollout"))
        student = self.student(predicted, self.dropped(labels, index, noise.of("student")))
        wanted = predicted if self.config.target == "teacher" else codes
        # the first scale is made of the class, in both passes alike
        n = min(student.shape[1], sum(self.sizes[1:]))
        loss_student = F.cross_entropy(student[:, -n:].flatten(0, 1), wanted[:, -n:].flatten())
        loss = loss_teacher + self.config.sigma * loss_student
        return Passes(teacher, null, predicted, student, loss_teacher, loss_student, loss)

    def dropped(self, labels: Tensor, index: Tensor, noise: NoiseSource) -> Tensor:
        c = self.config
        probability = c.label_drop if self.training else 0.0
        return drop_labels(labels, index, noise.of("label-drop"), probability, c.classes)

    @torch.no_grad()
    def rolled_out(
        self, teacher: Tensor, codes: Tensor, labels: Tensor, index: Tensor, noise: NoiseSource
    ) -> tuple[Tensor | None, Tensor]:
        """(logits without class or None, predicted ids (B, L)). Guidance grows from half of its weight to the whole."""
        c = self.config
        if c.rollout == "argmax":
            return None, teacher.argmax(-1)
        law, null = Categorical(teacher), None
        if c.rollout_guidance > 1:
            null = self.teacher_forced(self.given(codes), torch.full_like(labels, c.classes))
            rise = 0.5 + 0.5 * torch.arange(len(self.sizes)) / (len(self.sizes) - 1)
            t = (c.rollout_guidance * rise).repeat_interleave(torch.tensor(self.sizes))
            law = Categorical(torch.cat([teacher, null])).guide([1 + t, -t], 2)
        law = law.filter(chain(c.rollout_top_k, c.rollout_top_p))
        return null, law.draw(noise, index, torch.arange(codes.shape[1])).value

    def student(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Logits of a pass whose inputs are made of predicted ids."""
        return self.teacher_forced(self.given(predicted), labels)

    @torch.no_grad()
    def gap(self, codes: Tensor, labels: Tensor, index: Tensor, noise: NoiseSource) -> dict[str, Tensor]:
        """Cross-entropy of the true codes behind the first scale, by true inputs ("teacher_forced") and by inputs made of
        what the model predicts from those ("rolled_out"): held-out data say how far training is from generation."""
        teacher = self.teacher_forced(self.given(codes), labels)
        _, predicted = self.rolled_out(teacher, codes, labels, index, noise.of("rollout"))
        rolled = self.teacher_forced(self.given(predicted), labels)
        first = self.sizes[0]
        return {
            name: F.cross_entropy(logits[:, first:].flatten(0, 1), codes[:, first:].flatten())
            for name, logits in (("teacher_forced", teacher), ("rolled_out", rolled))
        }


class SarFlex(Sar, FlexVar):
    """The objective on FlexVAR, whose scales are those that a step draws."""

    config: SarConfig

    def scales_of(self, codes: Tensor, step: int, noise: Noise) -> tuple[Sar, Tensor]:
        c = self.config
        sides: Sequence[int] = c.sides
        if self.training:
            sides = at_random(c.sides, c.draws, c.share, c.budget, noise.of("sides"), step)
        return self.at(sides), self.at_sides(codes, sides)  # type: ignore[return-value]

    def student(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Where ssr is "last": the class, and the last scale made of the prediction before it; no scales between, and no
        start vector, as in the authors' code."""
        if self.config.ssr == "all":
            return super().student(predicted, labels)
        enlarged = self.given(predicted).input(self.plan.steps[-1])
        pair = self.at([1, self.order.sides[-1]])
        # hides the shared parameter, in this view of it alone
        object.__setattr__(pair, "start", torch.zeros_like(self.start))
        return pair.teacher_forced(Behind(enlarged), labels)[:, 1:]  # type: ignore[arg-type]


class Behind:
    """A canvas of which only the input is asked: x (B, n, D) behind one slot that is made of the class."""

    def __init__(self, x: Tensor) -> None:
        self.x = F.pad(x, (0, 0, 1, 0))

    def begin(self, noise: NoiseSource, images: Tensor) -> None:
        """Nothing is drawn."""

    def input(self, step: Step) -> Tensor:
        return self.x[:, step.feed]

    def now(self, step: Step) -> None:
        return None
