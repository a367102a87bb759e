"""How the cases of `nfig` are computed with nextset."""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.keys import load_into
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.nn.frequency import frequency, kept, low_pass
from nextset.systems.var.convert import TOKENIZER
from nextset.tokenizers.frequency import FrequencyVQ, FrequencyVQConfig
from tests.parity.cases import Case


def mask(case: Case) -> dict[str, Tensor]:
    """Names say sizes: rho_m16s is the square rule at 16x16, keep_m5x7 the radial one at 5x7."""
    cutoffs, found = case.call["cutoffs"], {}
    for name, wanted in case.outputs.items():
        h, w = wanted.shape[-2:]
        if name == "lowpass":
            found[name] = low_pass(case.inputs["f"], cutoffs).transpose(0, 1)
        else:
            shape = "square" if name.endswith("s") else "radial"
            found[name] = (
                frequency(h, w, shape).float() if name.startswith("rho") else kept(h, w, cutoffs, shape).to(torch.uint8)
            )
    return found


def tokenizer_encode(case: Case) -> dict[str, Tensor]:
    args, call = case.args, case.call
    config = FrequencyVQConfig(
        autoencoder=AutoencoderConfig(channels=8, multipliers=(1,), blocks=1, latent=args["z_channels"], groups=4),
        vocabulary=args["vocab_size"],
        sides=tuple(call["v_patch_nums"]),
        phi_share=args["share_quant_resi"],
        phi_ratio=call["quant_resi"],
        beta=call["beta"],
        bands=call["mask_shape"] if call["cutoffs"] else "off",
        cutoffs=tuple(call["cutoffs"] or ()),
    )
    model = FrequencyVQ(config)
    load_into(model, TOKENIZER.rename(case.weights), what="the case", optional=("(?!quantiser).*",))
    f = case.inputs["f"]
    targets = model.targets(f, model.sides)
    scales = list(model.quantiser.scales(f, model.sides, targets))
    x = [
        model.quantiser.shrink(f_hat, side).flatten(2).transpose(1, 2)
        for (_, _, f_hat), side in zip(scales, model.sides[1:], strict=False)
    ]
    return {
        "idx": torch.cat([s[0] for s in scales], 1),
        "f_hat_per_scale": torch.stack([s[2] for s in scales], 1),
        "targets": torch.stack(list(targets or [f] * len(model.sides)), 1),
        "var_input": torch.cat(x, 1),
        "vq_loss": model.explain(f)[1],
    }


HANDLERS = {"mask": mask, "tokenizer-encode": tokenizer_encode}
