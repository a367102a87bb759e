"""The released files of SAR (`SARd16-epo179.pth`, ...): FlexVAR's names and shapes, so that nothing but the file's name
tells them apart, and they must be asked for by system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nextset.core.keys import load_into
from nextset.systems.flexvar import FlexVar
from nextset.systems.flexvar import convert as base
from nextset.systems.sar.model import Sar, SarConfig
from nextset.tokenizers.flexible import FlexibleVQ


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> dict[str, dict[str, Tensor]]:
    """Which parts a file holds, when the system was `asked` for."""
    return base.components(state) if asked else {}


def post_trained(model: FlexVar, **settings: object) -> Sar:
    """The same weights and tokenizer under SAR's objective; settings: fields of `SarConfig`."""
    config = SarConfig.from_dict({**model.config.to_dict(), **settings})
    with torch.device("meta"):
        found = Sar(config)
    load_into(found, model.state_dict(), what="the model")
    if "tokenizer" in model._outside:
        found.attach(model._outside["tokenizer"])
    return found.train(model.training)


def read(
    parts: Mapping[str, Mapping[str, Tensor]], *, sides: Sequence[int] | None = None, groups: int = 32
) -> Sar | FlexibleVQ:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone."""
    model = base.read(parts, sides=sides, groups=groups)
    return post_trained(model) if isinstance(model, FlexVar) else model
