"""A generator's tokenizer: whose codes it predicts. It is frozen, and no part of the generator's weights."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from nextset.core.errors import NextsetError


class Tokenized(nn.Module):
    """Base of generators that predict the codes of a tokenizer.

    agrees_on: fields of the generator's config that must be those of the tokenizer's `spec`.
    """

    agrees_on: ClassVar[tuple[str, ...]] = ("vocabulary", "channels")
    config: Any

    def __init__(self) -> None:
        super().__init__()
        self._outside: dict[str, Any] = {}  # a dict hides modules from `state_dict` and `parameters`

    def attach(self, tokenizer: Any) -> None:
        """Use this tokenizer; it is frozen, and must speak the same codes."""
        ours, theirs = (tuple(getattr(of, name) for name in self.agrees_on) for of in (self.config, tokenizer.spec))
        if ours != theirs:
            raise NextsetError(
                f"the tokenizer has ({', '.join(self.agrees_on)}) {theirs}, but the generator predicts {ours}; load the one it was trained on"
            )
        self._outside["tokenizer"] = tokenizer.requires_grad_(False).eval()

    @property
    def tokenizer(self) -> Any:
        """The attached tokenizer."""
        if "tokenizer" not in self._outside:
            raise NextsetError("this generator has no tokenizer; attach one before images are made or read")
        return self._outside["tokenizer"]
