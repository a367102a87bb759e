"""NAR's claim in miniature: diagonals at once cost little likelihood and save most of the time; and two heads make better
pictures than one on the same plan. Source: sheet `nar`, Miniature claim.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from nextset.core.noise import Noise
from nextset.engine.run import Run, finish, proceed
from nextset.judges.arms import parameters
from nextset.judges.claims import Claim, Finding, Lab, Trained, clearly_less, counted, no_greater, within
from nextset.systems.llamagen import LlamaGen, LlamaGenConfig
from nextset.systems.llamagen import baseline as shared
from nextset.systems.llamagen.baseline import RASTER
from nextset.systems.nar.model import Nar, NarConfig

STATEMENT = (
    "At equal blocks, steps and pictures, diagonals at once have a held-out loss of at most 1.05 times that of single tokens "
    "in raster order, make pictures at least 3 times as fast, and better ones than a single head on the same plan."
)
NAR, ONE = "NAR", "one head"


@dataclasses.dataclass(frozen=True)
class Scope:
    """How much is judged. guidance: values of which each arm takes its best, by the pictures of its first seed; pictures:
    of a figure; batch, rounds: of the race."""

    guidance: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    pictures: int = 2000
    batch: int = 16
    rounds: int = 5


SCOPE = Scope()


def measure(lab: Lab) -> Claim:
    """Beside what is shared, two arms of three seeds, with as many blocks and steps as LlamaGen."""
    base = shared.baseline(lab)
    blocks = base.recipe.model["depth"]
    recipes = {
        NAR: base.generator("nar-cifar10", f"model.depth={blocks - 1}"),
        ONE: base.generator("nar-cifar10", f"model.depth={blocks}", "model.nearest=true"),
    }
    arms = {arm: base.trained(f"generator-{arm.replace(' ', '-')}", recipe) for arm, recipe in recipes.items()}
    arms[RASTER] = base.raster()
    losses = {arm: base.losses(models) for arm, models in arms.items()}
    curve, far = [], {}
    for arm in arms:
        rows, far[arm] = _distances(lab, arm, arms[arm])
        curve += rows
    seconds = _race(arms[NAR][0].model, arms[RASTER][0].model)
    rows = [
        {"arm": arm, "seed": seed, "parameters": parameters(model), "blocks": len(model.model.blocks),
         "forwards": len(model.model.plan), "steps": model.steps, "minutes": model.seconds / 60,
         "loss": losses[arm][i], "rfd_z": far[arm][i]}
        for arm, models in arms.items() for i, (seed, model) in enumerate(zip(shared.SEEDS, models, strict=True))
    ]  # fmt: skip
    findings = [
        no_greater("held-out loss", "nats a token, each under its own order, three seeds", (NAR, RASTER),
                   shared.pairs(losses[NAR], losses[RASTER]), 1.05),
        no_greater("time of pictures", f"seconds of a batch of {SCOPE.batch}, {SCOPE.rounds} rounds in turn", (NAR, RASTER),
                   seconds, 1 / 3),
        clearly_less("distance of pictures",
                     f"rfd_z, {SCOPE.pictures:,} pictures against the training set, three seeds, each arm at its best guidance",
                     (NAR, ONE), shared.pairs(far[NAR], far[ONE])),
        *exact(arms[NAR][0].model),
    ]  # fmt: skip
    return Claim(STATEMENT, findings, {"guidance": curve, "arms": rows})


def _distances(lab: Lab, arm: str, models: list[Trained]) -> tuple[list[dict[str, Any]], list[float]]:
    """The curve of the first seed over guidance, by other pictures than the rest, and each seed's distance at its best."""

    def distance(model: Trained, guidance: float, seed: int) -> float:
        made = lab.generate(model, SCOPE.pictures, seed=seed, guidance_scale=guidance, **shared.PLAIN)
        return lab.judge(made.pictures, "rfd_z", reference=0)["rfd_z"].value

    curve = {guidance: distance(models[0], guidance, seed=1) for guidance in SCOPE.guidance}
    best = min(curve, key=lambda guidance: curve[guidance])
    rows = [{"arm": arm, "guidance": guidance, "rfd_z": value} for guidance, value in curve.items()]
    return rows, [distance(model, best, seed=0) for model in models]


@torch.no_grad()
def _race(a: Any, b: Any) -> list[tuple[float, float]]:
    """Seconds of a batch of each of two models, in turn, the first round not counted."""
    rounds = []
    labels = torch.arange(SCOPE.batch) % a.config.classes
    for _ in range(SCOPE.rounds + 1):
        taken = []
        for model in (a, b):
            start = time.perf_counter()
            finish(Run.of(model.job(labels, guidance_scale=2.0, **shared.PLAIN), Noise(0)))
            taken.append(time.perf_counter() - start)
        rounds.append((taken[0], taken[1]))
    return rounds[1:]


# ---- what must be so at any budget


@torch.no_grad()
def exact(model: Nar) -> list[Finding]:
    """Counts and equalities of a trained model of images, and of small random ones."""
    run = Run.of(shared.asked(model)(), Noise(0))
    finish(run)
    side = model.config.sides[0]
    clip = _small(grid=(2, 3, 4), positions="learned")
    planes = Run.of(shared.asked(clip)(), Noise(0))
    for _ in proceed(planes):  # it has no tokenizer to finish with
        pass
    return [
        counted("forwards for a picture", run.forwards, 2 * side - 1, "forwards", f"{side}x{side} tokens"),
        counted("forwards for a clip", planes.forwards, 2 + 3 + 4 - 2, "forwards", "2x3x4 tokens, random weights"),
        *shared.agreements(model, NAR),
        *shared.agreements(clip, "planes of a clip"),
        within("a picture of one token, against LlamaGen with averaged heads", _one_token(), 1e-5,
               "largest difference of logits", "random weights, no block between the heads"),
    ]  # fmt: skip


def _small(**changes: Any) -> Nar:
    """A random model without tokenizer."""
    sizes = {"classes": 5, "depth": 1, "width": 32, "heads": 2, "hidden": 48, "vocabulary": 24}
    return _noisy(Nar(NarConfig.from_dict({**sizes, **changes})))


def _noisy(model: Any) -> Any:
    """Weights with noise: heads that begin at zero would agree on everything."""
    noise = Noise(0, "claim")
    for name, parameter in model.named_parameters():
        lanes = parameter.numel()
        z = noise.of(name).normal(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), lanes=lanes)
        parameter.data += 0.2 * z.view(parameter.shape)
    return model.eval()


@torch.no_grad()
def _one_token() -> float:
    """Logits of a grid of one token and of LlamaGen, whose one head has the mean of both heads' weights."""
    nar = _small(sides=(1,), extra=0)
    nar.further[0].norm.load_state_dict(nar.norm.state_dict())  # type: ignore[union-attr]
    state = {name: tensor for name, tensor in nar.state_dict().items() if not name.startswith("further.")}
    state["classifier.weight"] = (nar.heads[0].weight + nar.heads[1].weight) / 2
    fields = {field.name for field in dataclasses.fields(LlamaGenConfig)}
    config = LlamaGenConfig.from_dict({name: value for name, value in nar.config.to_dict().items() if name in fields})
    base = LlamaGen(config).eval()
    base.load_state_dict(state)
    labels = torch.arange(5)
    codes = torch.zeros(len(labels), 1, dtype=torch.int64)
    a, b = (model.teacher_forced(codes, model.prefix.ask(labels)) for model in (nar, base))
    return float((a - b).abs().max())
