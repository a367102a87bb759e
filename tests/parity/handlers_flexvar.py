"""How the cases of `flexvar` are computed with nextset."""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.flat_pyramid import FlatPyramid
from nextset.core.noise import Tape
from nextset.core.plans import scale_pyramid
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.systems.flexvar import FlexVar
from nextset.systems.flexvar.convert import load_generator, load_tokenizer, tokenizer_config
from nextset.systems.flexvar.sides import Pair, checked
from nextset.tokenizers.flexible import FlexibleVQ
from tests.parity.cases import Case
from tests.parity.handlers_var import GivenInput


def tokenizer(args: dict, weights: dict[str, Tensor]) -> FlexibleVQ:
    config = tokenizer_config(weights, groups=args["num_groups"])
    found, c = config.autoencoder, config
    assert (found.channels, found.multipliers, found.blocks) == (
        args["ch"],
        tuple(args["ch_mult"]),
        args["num_res_blocks"],
    )
    wanted = (args["z_channels"], args["codebook_size"], args["codebook_embed_dim"])
    assert (found.latent, c.vocabulary, c.channels) == wanted
    # cases leave out the half that they do not use
    return load_tokenizer(weights, config, optional=("encoder\\..*", "quant_conv\\..*"))


def generator(args: dict, weights: dict[str, Tensor], vae: FlexibleVQ | None = None) -> FlexVar:
    model = load_generator(weights, args["patch_nums"], vae)
    found = model.config
    assert (found.depth, found.width, found.heads, found.classes, found.l2_norm) == (
        args["depth"], args["embed_dim"], args["num_heads"], args["num_classes"], args["attn_l2_norm"],
    )  # fmt: skip
    return model


def sides_of(values: list) -> tuple[Pair, ...]:
    return checked([v if isinstance(v, int) else tuple(v) for v in values])


def scales(case: Case) -> dict[str, Tensor]:
    """Names say sides: dec_5 is the picture of the 5x5 scale, dec_5x7 of one that is no square."""
    vae, sides, image = tokenizer(case.args, case.weights), sides_of(case.call["patch_nums"]), case.inputs["image"]
    ids, plan = vae.encode(image, sides), scale_pyramid(sides)
    canvas = FlatPyramid(vae.quantiser, sides, len(ids))
    canvas.pin(ids, torch.ones_like(ids, dtype=torch.bool))
    found = {"z": vae.features(image), "idx": ids, "var_input": canvas.input(plan.join(plan.steps[1:]))}
    for name in case.outputs:
        if name.startswith("dec_"):
            edges = [int(n) for n in name.removeprefix("dec_").split("x")]
            found[name] = vae.decode_features(canvas.maps(sides.index((edges[0], edges[-1]))))
    return found


def teacher_forced(case: Case) -> dict[str, Tensor]:
    sides = sides_of(case.call["patch_nums"])
    model = generator(case.args["var"], case.weights).at(sides)
    logits = model.teacher_forced(GivenInput(case.inputs["x"], model.sizes[0]), case.inputs["label"])  # type: ignore[arg-type]
    places = torch.cat([model.positions(side) for side in sides])[None]
    return {"logits": logits, "loss": model.loss(logits, case.inputs["target"])[0], "pos": places}


def generate(case: Case) -> dict[str, Tensor]:
    vae = tokenizer(case.args["vae"], case.component("vae"))
    model = generator(case.args["var"], case.component("var"), vae)
    call = case.call
    barred = call.get("invalid_ids") or []
    job = model.job(
        case.inputs["label"],
        sides=sides_of(call["infer_patch_nums"]),
        guidance_scale=call["cfg"],
        guidance="constant" if call.get("used_llamagen_cfg") else "ramp",
        top_k=call["top_k"],
        top_p=call["top_p"],
        largest=call.get("max_pn", 16),
        without=barred,
    )
    record = Record()
    finish(Run.of(job, Tape({"draw": case.inputs["u"]}), controllers=[record]))
    logits = torch.cat([d.raw for d in record.dists], 1)
    return {
        "logits": logits.index_fill(-1, torch.tensor(barred, dtype=torch.int64), -100.0),
        "idx": torch.cat([d.value for d in record.drawn], 1),
        "image": vae.decode_features(job.canvas.picture()),  # type: ignore[attr-defined]
    }


HANDLERS = {"tokenizer": scales, "teacher-forced-logits": teacher_forced, "generate": generate}
