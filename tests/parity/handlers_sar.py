"""How the cases of `sar` are computed with nextset."""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.noise import Tape
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.flexvar.convert import load_tokenizer
from nextset.systems.sar.convert import post_trained
from nextset.tokenizers.flexible import FlexibleVQ, FlexibleVQConfig
from tests.parity.cases import Case
from tests.parity.handlers_flexvar import generator, sides_of


def encoder(args: dict, weights: dict[str, Tensor]) -> FlexibleVQ:
    """The tokenizer; cases leave out its decoder, which no step of training uses."""
    parts = AutoencoderConfig(
        args["ch"], tuple(args["ch_mult"]), args["num_res_blocks"], args["z_channels"], args["num_groups"]
    )
    config = FlexibleVQConfig(parts, vocabulary=args["codebook_size"], channels=args["codebook_embed_dim"])
    return load_tokenizer(weights, config, optional=("decoder\\..*", "post_quant_conv\\..*"))


def settings(case: Case) -> dict[str, object]:
    """Of a step, in our names. The second pass gives logits of the last scale alone, or of all."""
    call, whole = case.call, case.outputs["logits_sf"].shape[1] == case.outputs["pred_idx"].shape[1]
    found: dict[str, object] = {
        "sigma": call["sigma"],
        "ssr": "all" if whole else "last",
        "target": call.get("target", "teacher"),
        "label_drop": case.args["var"]["cond_drop_rate"],
    }
    if call.get("sf_use_sampling"):
        found |= {"rollout": "sampled", "rollout_guidance": call["sf_cfg_scale"]}
        found |= {"rollout_top_k": call["sf_top_k"], "rollout_top_p": call["sf_top_p"]}
    return found


def loss(case: Case) -> dict[str, Tensor]:
    vae, sides = encoder(case.args["vae"], case.component("vae")), sides_of(case.call["patch_nums"])
    model = post_trained(generator(case.args["var"], case.component("var"), vae), **settings(case))
    codes, labels = vae.encode(case.inputs["image"], sides), case.inputs["label"]
    noise = Tape({"rollout": case.inputs["u"]} if "u" in case.inputs else {})
    with torch.enable_grad():
        passes = model.at(sides).passes(codes, labels, torch.arange(len(labels)), noise)  # type: ignore[attr-defined]
        passes.loss.backward()
    named = {
        "word_embed": model.word.weight,
        "class_emb": model.class_embedding.weight,
        "head_bias": model.classifier.bias,
    }
    gradients = {f"grad_{name}": parameter.grad for name, parameter in named.items()}
    return {
        "logits_tf": passes.teacher if passes.null is None else torch.cat([passes.teacher, passes.null]),
        "logits_sf": passes.student,
        "pred_idx": passes.predicted,
        "loss_tf": passes.loss_teacher,
        "loss_sf": passes.loss_student,
        "loss": passes.loss,
        **gradients,
    }


HANDLERS = {"loss": loss}
