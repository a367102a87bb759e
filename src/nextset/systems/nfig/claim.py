"""NFIG's claim in miniature: VAR's tokenizer and one whose scales aim at frequency bands, of the same sizes and steps, and
equal transformers on both. Source: sheet `nfig`, Miniature claim; its other form, with fewer stages, is not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from nextset.data.images import to_uint8
from nextset.judges.claims import Claim, Finding, Lab, at_least, counted, within
from nextset.judges.spectrum import radial_power
from nextset.nn.frequency import kept, low_pass
from nextset.systems.var import baseline as shared
from nextset.systems.var.baseline import VAR, Arm, Baseline
from nextset.tokenizers.frequency import FrequencyVQ, FrequencyVQConfig
from nextset.tokenizers.multiscale import MultiScaleVQ

STATEMENT = (
    "With a tokenizer whose scales aim at frequency bands instead of the whole picture, the same transformer makes "
    "pictures at least as near to real ones, in as many forwards."
)
NFIG = "NFIG"
SEEN = 256  # held-out pictures that previews are made of


def measure(lab: Lab) -> Claim:
    """Beside what is shared, a tokenizer and a generator, with as many steps as those of VAR."""
    base = shared.baseline(lab)
    # the shared recipe with bands, not the one that is shipped: all else is then the same by construction
    bands = lab.recipe(shared.TOKENIZER, "model.type=frequency_vq", "model.bands=radial")
    tokenizer = lab.train("tokenizer-nfig", shared.as_trained(bands, base.tokenizer_recipe))
    codes = lab.codes("nfig", tokenizer, variants=2)
    recipe = shared.as_trained(shared.on_codes(lab, "nfig-cifar10", tokenizer, codes), base.recipe)
    model = lab.train("generator-nfig", recipe)
    exact = list(_exact(base, tokenizer.model, shared.pictures(lab, SEEN)))
    found = shared.compared(lab, [Arm(NFIG, model), Arm(VAR, base.model)])
    findings = [*exact, shared.forwards(found.row(NFIG), len(model.model.plan)), found.nearer(NFIG, VAR)]
    reconstructions = [
        shared.reconstruction(lab, NFIG, "nfig", tokenizer),
        shared.reconstruction(lab, VAR, shared.NAME, base.tokenizer),
    ]
    return Claim(STATEMENT, findings, {"reconstruction": reconstructions, **found.tables()})


@torch.no_grad()
def _exact(base: Baseline, model: FrequencyVQ, images: Tensor) -> Iterator[Finding]:
    """With the bands off it is VAR's tokenizer; bands add up, and hold nothing above their cutoff."""
    var: MultiScaleVQ = base.tokenizer.model
    off = FrequencyVQ(FrequencyVQConfig.from_dict({**var.config.to_dict(), "bands": "off"})).eval()
    off.load_state_dict(var.state_dict())
    differ = float((off.encode(images) != var.encode(images)).sum())
    yield counted("bands off, against VAR's tokenizer with the same weights", differ, 0, "ids that differ")

    f = model.features(images).float()
    cutoffs, shape = model.cutoffs(model.sides), model.config.bands
    assert shape != "off"
    masks = kept(f.shape[-2], f.shape[-1], cutoffs, shape)
    spectrum = torch.fft.fft2(f)
    rings = [masks[0], *(upper & ~lower for lower, upper in pairwise(masks))]
    total = torch.stack([torch.fft.ifft2(spectrum * ring).real for ring in rings]).sum(0)
    gap = float((total - f).abs().max() / f.abs().max())
    yield within("bands add up to the feature map", gap, 1e-5, "largest difference, of the largest value")
    power = torch.fft.fft2(low_pass(f, cutoffs, shape)).abs().square()
    above = float((power * ~masks[:, None, None]).sum() / power.sum())
    yield within("power of the targets above their cutoffs", above, 1e-9, "share of all power")

    yield at_least(
        "previews whose detail rises with every stage",
        rising(model, images),
        0.95,
        f"share of {len(images)} held-out pictures, by the mean radius of the power of brightness",
    )


def rising(model: FrequencyVQ, images: Tensor) -> float:
    """Share of pictures (N, 3, H, W) whose previews from coarse to fine have ever higher frequencies in the mean."""
    codes = model.encode(images)
    radii = []
    for stage in range(1, len(model.sides) + 1):
        preview = to_uint8(model.decode(codes, stage)).permute(0, 2, 3, 1).numpy()
        power = torch.from_numpy(radial_power(preview))  # mean over a ring, which has about as many bins as its radius
        radius = torch.arange(1, power.shape[1] + 1)
        radii.append((power * radius * radius).sum(1) / (power * radius).sum(1).clamp_min(1e-12))
    return float((torch.stack(radii).diff(dim=0) > 0).all(0).double().mean())
