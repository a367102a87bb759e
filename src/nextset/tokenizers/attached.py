"""A generator's tokenizer: whose codes it predicts. It is frozen, and no part of the generator's weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nextset.core.canvases import NoiseSource
from nextset.core.errors import NextsetError
from nextset.core.latents import patchify, unpatchify


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


class OnLatents(Tokenized):
    """Base of generators of continuous tokens: trained on the moments of a KL autoencoder, whose latents they predict.

    Its config has `sides` (one, of the grid of tokens), `channels` and `patch`.
    """

    trained_on = "features"
    agrees_on = ("channels", "patch", "tokens")

    def latent_tokens(self, moments: Tensor, index: Tensor, noise: NoiseSource) -> Tensor:
        """Latents drawn anew from moments (B, 2 c, h, w), as tokens (B, L, c p p) in raster order; index: (B,) samples."""
        c = self.config
        cells = c.sides[0] * c.patch
        if tuple(moments.shape[1:]) != (2 * c.channels, cells, cells):
            raise NextsetError(
                f"the features have (channels, h, w) {tuple(moments.shape[1:])}, but the model is trained on moments {(2 * c.channels, cells, cells)}; use its tokenizer"
            )
        eps = noise.of("posterior").normal(index, torch.arange(cells**2), lanes=c.channels).to(moments.device)
        eps = eps.transpose(1, 2).unflatten(-1, (cells, cells))
        return patchify(self.tokenizer.latents(moments, eps), c.patch)

    def paint(self, tokens: Tensor) -> Tensor:
        """Tokens (N, L, c p p) in raster order -> images (N, 3, H, W) in [-1, 1]."""
        latents = unpatchify(tokens, self.config.patch, (self.config.sides[0],) * 2)
        return self.tokenizer.decode_features(latents).float().clamp(-1, 1)

    def class_ids(self, classes: Tensor) -> Tensor:
        """Class ids (N,), each in [0, classes]; `classes` means no class."""
        classes, last = classes.reshape(-1), self.config.classes
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) <= last:
            wrong = next(int(c) for c in classes if not 0 <= c <= last)
            raise NextsetError(f"class id is {wrong}, but must be between 0 and {last - 1} ({last} = no class)")
        return classes

    def keep_mask(self, mask: Tensor) -> Tensor:
        """Which tokens of an image stay: mask (h, w) of the grid, 1 = keep -> (L,) bool. A mask that hides nothing, or
        everything, is refused: there would be nothing to draw, or nothing to draw it from."""
        kept = (mask.flatten() >= 1 - 1e-4).cpu()
        if bool(kept.all()) or not bool(kept.any()):
            what = "nothing" if bool(kept.all()) else "everything"
            raise NextsetError(
                f"the mask hides {what} of {len(kept)} tokens, but must hide a part; keep at least one whole token, and draw at least one"
            )
        return kept
