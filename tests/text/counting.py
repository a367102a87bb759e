"""An encoder without a model, for tests of what stands before one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nextset.text.condition import Text
from nextset.text.encoders import Features, as_text


class Counting:
    """An encoder that gives noise of a prompt's length, and counts what it is asked for."""

    width, dtype, identity = 8, torch.bfloat16, "counting"

    def __init__(self, cut: str = "") -> None:
        self.asked: list[str] = []
        self.cut = cut

    def features(self, prompts: Sequence[str]) -> list[Features]:
        self.asked += prompts
        made = torch.Generator().manual_seed(len(self.asked))
        return [Features(torch.randn(len(p), 8, generator=made).to(self.dtype), self.cut) for p in prompts]

    def encode(self, prompts: Sequence[str]) -> Text:
        return as_text(self.features(prompts))
