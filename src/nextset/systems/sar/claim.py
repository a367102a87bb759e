"""SAR's claim in miniature: a finished VAR goes on for a tenth of its steps, on true codes alone or on its own predictions
too; whose pictures are nearer to real ones, and by how much predicted inputs are worse to it than true ones. Source: sheet
`sar`, Miniature claim, on VAR in place of FlexVAR, so that its baseline is that of the other relatives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.noise import Noise
from nextset.data.codes import load_codes
from nextset.judges.claims import Claim, Finding, Lab, Trained, counted, no_greater, within
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.sar.model import Sar, SarConfig
from nextset.systems.var import baseline as shared
from nextset.systems.var.baseline import VAR, Arm, Baseline
from nextset.tokenizers.flexible import FlexibleVQ, FlexibleVQConfig

STATEMENT = (
    "Going on for a tenth of its steps on its own predictions brings VAR's pictures nearer to real ones than going on "
    "without them, and makes the loss behind predicted inputs exceed that behind true ones by at least a fifth less."
)
SAR, FORCED = "SAR", "VAR, going on"
SHARE, BATCH = 0.1, 250
RECIPE = "sar-cifar10-var"


def measure(lab: Lab) -> Claim:
    """Beside what is shared, a tenth of VAR's steps for each of two arms."""
    base = shared.baseline(lab)
    refined = base.onwards(RECIPE, SHARE, base.model)
    plain = shared.as_trained(base.onwards(shared.GENERATOR, SHARE, base.model), refined)
    models = {SAR: lab.train("generator-sar", refined), FORCED: lab.train("generator-going-on", plain), VAR: base.model}
    exact = list(_exact(models[SAR].model, base))
    found = shared.compared(lab, [Arm(name, model) for name, model in models.items()])
    gaps = {name: _gaps(base, models[SAR].model, model) for name, model in models.items()}
    after = f"on top of VAR's {base.model.steps:,}"
    findings = [
        *exact,
        shared.forwards(found.row(SAR), len(models[SAR].model.plan)),
        found.nearer(SAR, FORCED, note=after),
        no_greater(
            "loss behind predicted inputs beyond that behind true ones",
            f"nats a token, {shared.SCOPE.parts} parts of the held-out pictures",
            (SAR, FORCED),
            list(zip(*([row["gap"] for row in gaps[arm]] for arm in (SAR, FORCED)), strict=True)),
            0.8,
            after,
        ),
    ]
    rows = [{"arm": arm, "part": i, **row} for arm, parts in gaps.items() for i, row in enumerate(parts)]
    return Claim(STATEMENT, findings, {**found.tables(), "gap": rows})


@torch.no_grad()
def _gaps(base: Baseline, sar: Sar, trained: Trained) -> list[dict[str, float]]:
    """Losses by true and by predicted inputs, over disjoint parts of the held-out pictures."""
    model = _with_weights(sar.config, trained.model)
    codes = load_codes(base.held_out())
    rows = []
    for part in torch.arange(len(codes)).chunk(shared.SCOPE.parts):
        sums = {"teacher_forced": 0.0, "rolled_out": 0.0}
        for index in part.split(BATCH):
            batch = codes.batch(index, index, Noise(0))
            for name, loss in model.gap(batch["codes"], batch["labels"], index, Noise(0)).items():
                sums[name] += float(loss) * len(index) / len(part)
        rows.append({**sums, "gap": sums["rolled_out"] - sums["teacher_forced"]})
    return rows


def _with_weights(config: SarConfig, model: Any) -> Sar:
    """The objective on the weights of a VAR."""
    sar = Sar(config, model.tokenizer)
    sar.load_state_dict(model.state_dict())
    return sar.eval()


def _exact(model: Sar, base: Baseline) -> Iterator[Finding]:
    """What a step is, on the shared VAR's weights."""
    index = torch.arange(8)
    batch = load_codes(base.codes).batch(index, index, Noise(0))
    var = copy.deepcopy(base.model.model).requires_grad_()
    off, theirs = (_step(each.train(), batch) for each in (_with_weights(model.config.replace(sigma=0.0), var), var))
    gap = max(float((a - b).abs().max()) for a, b in zip(off, theirs, strict=True))
    yield within("sigma 0, against VAR's own step", gap, 1e-6, "largest difference of loss and gradients")

    sar, tokens = _with_weights(model.config.replace(sigma=1.0), var), sum(model.sizes)
    yield from _passes("ssr all", sar, batch, [tokens, tokens])
    flexible = _flexible()
    ids = torch.arange(8 * sum(flexible.sizes)).reshape(8, -1) % flexible.config.vocabulary
    last = [sum(flexible.sizes), 1 + flexible.sizes[-1]]
    yield from _passes("ssr last", flexible, {**batch, "codes": ids, "labels": batch["labels"] % 2}, last)

    weights = list(sar.parameters())
    passes = sar.passes(batch["codes"], batch["labels"], index, Noise(0))
    assert passes.predicted is not None
    ids, n = passes.predicted.clone(), sum(sar.sizes[1:])
    student = sar.student(ids, batch["labels"])
    loss = passes.loss_teacher + F.cross_entropy(student[:, -n:].flatten(0, 1), ids[:, -n:].flatten())
    constant = torch.autograd.grad(loss, weights, retain_graph=True)
    whole = torch.autograd.grad(passes.loss, weights)
    gap = max(float((a - b).abs().max()) for a, b in zip(whole, constant, strict=True))
    yield within("predictions against the same ids as constants", gap, 1e-6, "largest difference of gradients")


def _step(model: Any, batch: dict[str, Any]) -> list[Tensor]:
    """Loss and gradients of a training step."""
    (update,) = model.updates(batch, 0, Noise(0))
    return [update.loss.detach(), *torch.autograd.grad(update.loss, list(model.parameters()))]


def _passes(what: str, model: Sar, batch: dict[str, Any], expected: list[int]) -> Iterator[Finding]:
    """How many forwards a step has, and of how many tokens."""
    seen: list[int] = []
    hook = model.layers[0].register_forward_hook(lambda block, inputs, output: seen.append(inputs[0].shape[1]))
    list(model.updates(batch, 0, Noise(0)))
    hook.remove()
    yield counted(f"forwards of a step, {what}", len(seen), 2, "forwards")
    yield counted(f"tokens of its second forward, {what}", seen[-1], expected[-1], "tokens", f"first: {seen[0]}")


def _flexible() -> Sar:
    """A small model that was not trained, for `ssr last`, which residual scales cannot have: counts need no more."""
    auto = AutoencoderConfig(channels=8, multipliers=(1,), blocks=1, latent=4, groups=4, attention=False)
    tokenizer = FlexibleVQ(FlexibleVQConfig(autoencoder=auto, vocabulary=16, channels=4, sides=(1, 2, 3)))
    sizes = {"depth": 1, "width": 16, "heads": 1, "channels": 4, "vocabulary": 16, "sides": (1, 2, 3)}
    return Sar(SarConfig(classes=2, places=4, ssr="last", **sizes), tokenizer).eval()  # type: ignore[arg-type]
