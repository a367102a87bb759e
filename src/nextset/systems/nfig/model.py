"""NFIG (Huang et al. 2025, arXiv 2503.07076): the transformer is VAR's; what a scale means is the tokenizer's affair.

Stage k of the tokenizer codes what lies below a cutoff frequency, so that the transformer predicts the next frequencies.
"""

from __future__ import annotations

import dataclasses

from nextset.core.errors import NextsetError
from nextset.systems.var import Var, VarConfig
from nextset.tokenizers.frequency import FrequencyVQ
from nextset.tokenizers.multiscale import MultiScaleVQ


@dataclasses.dataclass(frozen=True)
class NfigConfig(VarConfig):
    """As VAR's, without the options that take the whole map for every scale's target."""

    def check(self) -> None:
        super().check()
        self.require("raster", not self.raster, "false: a single map has no bands")
        self.require("corruption", not self.corruption, "0: it would explain the whole map at every scale")


class Nfig(Var):
    """VAR on frequency bands."""

    slug = "nfig"
    config_type = NfigConfig

    def attach(self, tokenizer: MultiScaleVQ) -> None:
        if not isinstance(tokenizer, FrequencyVQ):
            raise NextsetError(
                f"the tokenizer is {type(tokenizer).__name__}, but frequencies need a FrequencyVQ; train one with model.type=frequency_vq"
            )
        super().attach(tokenizer)
