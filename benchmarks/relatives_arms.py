"""VAR, its relatives and a plain VAR, each as one way to do the same work: what `relatives.py` measures. It knows no clock.

All have the same depth, width, vocabulary and scales, and random weights. A training step is a forward and a backward pass
over every scale of a batch, without the optimiser; for a system that is trained in parts, all parts once. A generation is
guided and ends with the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.plain_var import PlainVar, random_state
from nextset.core.noise import Tape
from nextset.engine.run import Run, advance, forward, proceed
from nextset.systems.hmar import Hmar
from nextset.systems.m_var import MambaVar
from nextset.systems.mvar import MVar
from nextset.systems.var import Var
from nextset.systems.var.convert import load_generator, load_tokenizer, tokenizer_config

SETTINGS = {"guidance_scale": 1.5, "top_k": 900, "top_p": 0.96}


class Shape(NamedTuple):
    """What all arms share. batch: of a training step; images: of a generation."""

    sides: tuple[int, ...]
    depth: int = 4
    width: int = 512
    vocabulary: int = 4096
    classes: int = 1000
    batch: int = 2
    images: int = 1
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def heads(self) -> int:
        """Of 64 channels each, as in the released sizes."""
        return max(self.width // 64, 1)

    @property
    def tokens(self) -> int:
        return sum(side * side for side in self.sides)


class Arm(NamedTuple):
    """One way to do the work. train: one step, gives its loss; None where there is no training of its own. generate: gives
    the ids (N, L) and the bytes that were kept between scales."""

    parameters: int
    train: Callable[[], float] | None
    generate: Callable[[], tuple[torch.Tensor, int]]


def build(names: Sequence[str], shape: Shape) -> dict[str, Arm]:
    """The arms of these names, with weights, codes, classes and uniforms that depend on the shape alone."""
    sizes: dict[str, Any] = {"depth": shape.depth, "width": shape.width, "heads": shape.heads, "classes": shape.classes}
    var, vae = random_state(
        **sizes, sides=shape.sides, vocabulary=shape.vocabulary, channels=32, multipliers=(1,), blocks=1
    )
    tokenizer = load_tokenizer(vae, tokenizer_config(vae, shape.sides), optional=("encoder\\..*", "quant_conv\\..*"))
    draws = torch.Generator().manual_seed(0)
    device = torch.device(shape.device)
    codes = torch.randint(shape.vocabulary, (shape.batch, shape.tokens), generator=draws).to(device)
    labels = torch.randint(shape.classes, (max(shape.batch, shape.images),), generator=draws).to(device)
    u = torch.rand(shape.images, shape.tokens, generator=draws).to(device)

    def ours(cls: type[Var], **changes: Any) -> Var:
        torch.manual_seed(0)
        config = cls.config_type(
            **sizes, vocabulary=shape.vocabulary, channels=32, sides=shape.sides, label_drop=0.0, **changes
        )
        return cls(config)

    def arm(name: str) -> Arm:
        if name == "plain":
            state, frozen = ({n: t.to(device) for n, t in part.items()} for part in (var, vae))
            return plain_arm(PlainVar(state, frozen, shape.sides, shape.heads), labels, codes, u, shape)
        model = {
            "var": lambda: load_generator({n: t.clone() for n, t in var.items()}, shape.sides),
            "hmar": lambda: ours(Hmar),
            # the released sizes refine with half of their blocks or less: 8 of 16 to 30
            "hmar refined": lambda: ours(Hmar, mask_blocks=max(shape.depth // 2, 1)),
            # one packed part, then each local scale alone: a cycle sees every scale once
            "mvar": lambda: ours(MVar, train_ratio=1),
            "m_var": lambda: ours(MambaVar),
            "m_var recomputed": lambda: ours(MambaVar),
        }[name]().eval()  # fmt: skip
        model.attach(tokenizer)
        model.to(device)
        tokenizer.to(device)
        parts = 1 + len(shape.sides) - model.config.refine_step if isinstance(model, MVar) else 1
        data = {"codes": codes, "labels": labels[: shape.batch], "index": torch.arange(shape.batch)}
        trained = name not in ("hmar refined", "m_var recomputed")
        return Arm(
            sum(p.numel() for p in model.parameters()),
            (lambda: train(model, data, parts, shape)) if trained else None,
            lambda: (recomputed if name == "m_var recomputed" else generate)(model, labels[: shape.images], u, shape),
        )

    return {name: arm(name) for name in names}


def cast(shape: Shape) -> Any:
    """The precision of every arm: autocast over float32 weights, so that arms differ in nothing else."""
    return torch.autocast(shape.device, getattr(torch, shape.dtype), enabled=shape.dtype != "float32")


def plain_arm(plain: PlainVar, labels: torch.Tensor, codes: torch.Tensor, u: torch.Tensor, shape: Shape) -> Arm:
    """The plain implementation, which makes its tensors where the device of the context says."""

    def train() -> float:
        with torch.device(shape.device), cast(shape):
            weights = [t.requires_grad_() for t in plain.var.values()]
            loss = plain.loss(labels[: shape.batch], codes)
        loss.backward()
        for t in weights:
            t.grad = None
        return float(loss.detach())

    def sample() -> tuple[torch.Tensor, int]:
        settings = (SETTINGS["guidance_scale"], SETTINGS["top_k"], SETTINGS["top_p"])
        with torch.device(shape.device), cast(shape):
            ids, _, _, kept = plain.sample(labels[: shape.images], u, *settings)  # type: ignore[arg-type]
        return ids, kept

    return Arm(sum(t.numel() for t in plain.var.values()), train, sample)


def train(model: Var, data: Mapping[str, Any], parts: int, shape: Shape) -> float:
    """Forward and backward over every scale, in one part or several; gives the sum of the parts' losses."""
    total = 0.0
    for part in range(parts):
        with cast(shape):
            losses = [update.loss for update in model.updates(dict(data), part, None)]  # type: ignore[arg-type]
        for loss in losses:
            loss.backward()
            total += float(loss.detach())
        model.zero_grad(set_to_none=True)
    return total


def begun(model: Var, labels: torch.Tensor, u: torch.Tensor, cache: str | None = None) -> Run:
    return Run.of(model.job(labels, **SETTINGS), Tape({"draw": u}), cache=cache)  # type: ignore[arg-type]


@torch.no_grad()
def generate(model: Var, labels: torch.Tensor, u: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, int]:
    """Every scale after the other, with the memory that the system asks for."""
    with cast(shape):
        run = begun(model, labels, u)
        for _ in proceed(run):
            pass
    states = {id(t): t.numel() * t.element_size() for kept in run.states.values() for t in kept}
    return run.codes(), run.policy.bytes() + sum(states.values())


@torch.no_grad()
def recomputed(model: Var, labels: torch.Tensor, u: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, int]:
    """The same without a memory: each scale's forward feeds all scales before it again, and draws its own alone."""
    with cast(shape):
        run = begun(model, labels, u, cache="none")
        steps = run.job.plan.steps
        for step in steps:
            hidden = forward(run, run.job.plan.join(steps[: step.index + 1]), run.active(step))
            advance(run, step, tuple(tap[:, -step.rows :] for tap in hidden))
            run.states.clear()
    return run.codes(), 0
