"""FlexVAR's claim in miniature: scales that are whole pictures, trained on lists of sides drawn anew each step, keep their
quality on lists of other lengths; VAR's weights belong to one list. Source: sheet `flexvar`, Miniature claim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from nextset.core.noise import Noise
from nextset.engine.run import Run, finish
from nextset.judges.claims import Claim, Finding, Lab, counted, within
from nextset.systems.flexvar.model import FlexVar
from nextset.systems.var import Var
from nextset.systems.var import baseline as shared
from nextset.systems.var.baseline import PLAIN, VAR, Arm

STATEMENT = (
    "A model whose scales are whole pictures makes pictures with four or eight steps, of which it saw no such list in "
    "training, at most 1.15 times as far from real ones as with its usual six; VAR's weights fit six steps alone."
)
USUAL = "FlexVAR, 6 steps"
# lists that no training step draws: those begin with 1, 2 and have six sides at most
OTHERS = {"FlexVAR, 4 steps": (1, 3, 5, 8), "FlexVAR, 8 steps": (1, 2, 3, 4, 5, 6, 7, 8)}
COUNTS = range(2, 11)


def measure(lab: Lab) -> Claim:
    """Beside what is shared, a tokenizer and a generator, with as many steps as those of VAR."""
    base = shared.baseline(lab)
    independent = shared.as_trained(lab.recipe("flexvar-cifar10-tokenizer"), base.tokenizer_recipe)
    tokenizer = lab.train("tokenizer-flexvar", independent)
    codes = lab.codes("flexvar", tokenizer, variants=2)
    recipe = shared.as_trained(shared.on_codes(lab, "flexvar-cifar10", tokenizer, codes), base.recipe)
    model = lab.train("generator-flexvar", recipe)
    exact = list(_exact(model.model, base.model.model))
    drawn = {"greedy": False}  # every side up to 8 is trained
    lists = [Arm(name, model, {**drawn, "sides": sides}) for name, sides in OTHERS.items()]
    found = shared.compared(lab, [Arm(USUAL, model, drawn), *lists, Arm(VAR, base.model)])
    against = dataclasses.replace(found.nearer(USUAL, VAR), threshold="nothing was promised", outcome="informative")
    findings = [
        *exact,
        *(shared.forwards(found.row(name), len(sides)) for name, sides in OTHERS.items()),
        *(found.nearer(name, USUAL, 1.15) for name in OTHERS),
        against,
    ]
    reconstructions = [
        shared.reconstruction(lab, USUAL, "flexvar", tokenizer),
        shared.reconstruction(lab, VAR, shared.NAME, base.tokenizer),
    ]
    return Claim(STATEMENT, findings, {"reconstruction": reconstructions, **found.tables()})


@torch.no_grad()
def _exact(model: FlexVar, var: Var) -> Iterator[Finding]:
    labels, calls = shared.eight(model), {}
    for steps in COUNTS:
        run = Run.of(model.job(labels, steps=steps, greedy=False, **PLAIN), Noise(0))
        finish(run)
        calls[steps] = run.forwards
    what = f"forwards for {COUNTS[0]} to {COUNTS[-1]} steps"
    yield counted(what, sum(calls.values()), sum(COUNTS), "forwards of all lists together")

    codes, down = shared.drawn(model, greedy=False).codes(), model.tokenizer.spec.downsampling
    sizes = [model.tokenizer.decode_scale(codes, k).shape[-2:] for k in range(len(model.sizes))]
    wrong = sum(size != (down * side, down * side) for size, side in zip(sizes, model.config.sides, strict=True))
    yield counted("scales that do not decode alone, to their own size", wrong, 0, f"of {len(sizes)} scales")

    yield shared.all_given(model, greedy=False)
    yield shared.stepped_as_packed(model, greedy=False)
    places = model.config.places
    raw = model.position[0].flatten(1).T
    gap = float((model.positions((places, places)) - raw).abs().max())
    yield within(f"positions of side {places}, against the map as it is", gap, 0.0, "largest difference")

    fit = sum(_fits(var, sides) for sides in OTHERS.values())
    yield counted("other lists that VAR's weights fit", fit, 0, f"of {len(OTHERS)} lists", "undefined, not worse")


def _fits(var: Var, sides: tuple[int, ...]) -> bool:
    """Whether a VAR on these sides has weights of the same shapes."""
    other = Var(var.config.replace(sides=sides)).state_dict()
    return all(tensor.shape == other[name].shape for name, tensor in var.state_dict().items())
