"""How the cases of `just_zoom_in` are computed with nextset: kind -> function from a case to its outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextset.core.noise import Tape
from nextset.engine.beams import Beams
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.nn.encoders import EncoderConfig
from nextset.systems.just_zoom_in import JustZoomIn, geometry
from nextset.systems.just_zoom_in.convert import components, read
from tests.parity.cases import Case


def model_of(case: Case, **changes: Any) -> JustZoomIn:
    """The case's model, through the reader of released files. Cases of the decoder alone leave out its prefix."""
    whole = any(name.startswith("decoder.") for name in case.weights)
    state = case.weights if whole else {f"decoder.{name}": t for name, t in case.weights.items()}
    return read(components(state), **changes)


def teacher_forced(case: Case) -> dict[str, Tensor]:
    a, given = case.args, case.inputs
    model = model_of(
        case,
        encoder=EncoderConfig(kind="conv", width=a["embed_dim"], channels=(8,)),
        heads=a["decoder_num_heads"],
        steps=a["sequence_length"],
        pixels=8,
        label_smoothing=case.call.get("label_smoothing", 0.1),
    )
    assert (model.config.grid, model.config.depth) == (a["grid_size"], a["decoder_num_layers"])
    actions = given["target_sequence"]
    logits = model.teacher_forced(given["ground_global_feature"], given["satellite_sequence_features"], actions)
    return {"logits": logits, "loss": model.loss(logits, actions)[0]}


class Table:
    """A world of views in a table: that of a prefix (a_0 .. a_t-1) lies behind those of all shorter prefixes, in order."""

    def __init__(self, model: JustZoomIn, views: Tensor) -> None:
        self.model, self.views, self.embed = model, views, model.action
        self.seen: list[Tensor] = []

    def start(self, entries: int) -> Tensor:
        return torch.zeros(entries, dtype=torch.int64)

    def move(self, state: Tensor, decision: Tensor) -> Tensor:
        # children of one row follow those of the row before, behind the root
        return state * self.model.config.actions + decision + 1

    def observe(self, state: Tensor) -> Tensor:
        self.seen.append(self.model.encode_views(self.views[state]))
        return self.seen[-1]


def generate(case: Case) -> dict[str, Tensor]:
    encoder, decoder = case.args["encoder"], case.args["decoder"]
    photos, views = (case.inputs[name].float() / 127.5 - 1 for name in ("ground_images", "views"))
    model = model_of(
        case,
        heads=decoder["num_heads"],
        encoder_heads=encoder["num_attention_heads"],
        steps=case.args["sequence_length"],
        pixels=views.shape[-1],
    )
    e = model.config.encoder
    assert (e.grid, e.patch, e.mlp_ratio) == (
        encoder["image_size"] // encoder["patch_size"],
        encoder["patch_size"],
        encoder["mlp_ratio"],
    )
    world, record = Table(model, views), Record()
    run = Run.of(job := model.search(photos, world), Tape({"draw": torch.zeros(len(photos), len(job.plan))}),
                 controllers=[record, Beams(1)])  # fmt: skip
    actions = finish(run)
    return {
        "ground_feature": model.encode_photos(photos),
        "satellite_features": torch.stack(world.seen, 1),
        "step_logits": torch.cat([law.raw for law in record.dists], 1),  # type: ignore[attr-defined]
        "actions": actions,
    }


def positions(case: Case) -> dict[str, Tensor]:
    a = case.args
    g, steps = a["grid_size"], a["sequence_length"]
    start = geometry.region(tuple(a["geographic_center_latlon"]), a["region_bounds_meters"])
    photo = case.inputs["latlon"].unbind(-1)
    actions = geometry.label(*photo, start, g, steps)
    lat, lon, side = geometry.follow(start, actions, g)
    other = geometry.follow(start, case.inputs["other_sequences"], g)
    missed = geometry.distance(other[0][:, -1], other[1][:, -1], *photo)
    return {
        "initial_center": torch.tensor(start[:2], dtype=torch.float64),
        "sequences": actions,
        "centers": torch.stack([lat, lon], -1),
        "sizes": side[0],
        "final_distance": geometry.distance(lat[:, -1], lon[:, -1], *photo),
        "other_distance": missed,
        "recall": geometry.recall(missed),
        "median": missed.quantile(0.5),
    }


HANDLERS = {"geometry": positions, "teacher-forced-logits": teacher_forced, "generate": generate}
