"""What stands in front of the tokens: one slot made of a class, or the slots of a text.

Both kinds say what a request asks for (`ask`, which checks it, and `lay`, for training, which waits for no device), what it is
without the condition (`without`), and turn conditions into the vectors of their slots (`forward`). What is asked is a tensor
with a leading N and, for texts, which slots are padding: texts end right in front of the tokens, so that padding comes first.

Shapes: class ids (N,); features (N, T, Ct); hidden (N, T) bool; slots (N, T, C). Source: sheet, Model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.text.condition import Text


class Asked(NamedTuple):
    """The condition of N entries. hidden: slots that are padding, or None where nothing is."""

    condition: Tensor
    hidden: Tensor | None = None


class ClassPrefix(nn.Module):
    """One slot: the embedding of a class. The row after the last class means none."""

    length = 1

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.embedding = nn.Embedding(classes + 1, width)

    def ask(self, classes: Any) -> Asked:
        """Class ids of any shape, checked."""
        if not isinstance(classes, Tensor):
            raise NextsetError(f"this model is asked with class ids, but was given {type(classes).__name__}")
        asked = self.lay(classes)
        ids = asked.condition
        wrong = ids[(ids < 0) | (ids > self.classes)]
        if len(wrong):
            raise NextsetError(
                f"class id is {int(wrong[0])}, but must be between 0 and {self.classes - 1} ({self.classes} = no class)"
            )
        return asked

    def lay(self, classes: Tensor) -> Asked:
        """Class ids of any shape as (N,)."""
        return Asked(classes.reshape(-1))

    def without(self, asked: Asked) -> Asked:
        """No class."""
        return Asked(torch.full_like(asked.condition, self.classes))

    def forward(self, condition: Tensor) -> Tensor:
        return self.embedding(condition)[:, None]


class TextPrefix(nn.Module):
    """`length` slots: the features of a text through two linear maps. The null text is a table of features that is drawn
    once, never trained, and kept with the weights."""

    def __init__(self, channels: int, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.first = nn.Linear(channels, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.null: Tensor
        self.register_buffer("null", torch.randn(length, channels) / channels**0.5)

    def ask(self, text: Any) -> Asked:
        """A text (features, padded behind), checked and laid into the slots."""
        if not isinstance(text, Text):
            raise NextsetError(f"this model is asked with text, but was given {type(text).__name__}")
        longest = int(text.lengths.max())
        if longest > self.length:
            raise NextsetError(f"the text has {longest} tokens, but this model reads at most {self.length}; shorten it")
        if text.values.shape[-1] != self.first.in_features:
            raise NextsetError(
                f"the text features have {text.values.shape[-1]} channels, but this model reads {self.first.in_features}; "
                "use the text encoder that it was trained with"
            )
        asked = self.lay(text)
        return asked if bool(asked.hidden.any()) else Asked(asked.condition)  # type: ignore[union-attr]

    def lay(self, text: Text) -> Asked:
        """The features of a text moved to the end of the slots, with zeros in front; of a longer one, the first tokens."""
        lengths = text.lengths.to(text.values.device).clamp_max(self.length)
        place = torch.arange(self.length, device=lengths.device) - (self.length - lengths)[:, None]
        hidden = place < 0
        index = place.clamp(0, text.values.shape[1] - 1)[..., None].expand(-1, -1, text.values.shape[-1])
        return Asked(text.values.gather(1, index).masked_fill(hidden[..., None], 0.0), hidden)

    def without(self, asked: Asked) -> Asked:
        """The null text in all slots; what was padding stays hidden."""
        return Asked(self.null.expand(len(asked.condition), -1, -1), asked.hidden)

    def forward(self, condition: Tensor) -> Tensor:
        x = self.first(condition.to(self.first.weight.dtype))
        return self.second(F.gelu(x, approximate="tanh"))
