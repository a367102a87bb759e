"""The pipeline of generators that are asked with text. Prompts in, pictures out.

import nextset
pipe = nextset.load()
out = pipe("a red apple", n=4, seed=1)
out.images[0].save("apple.png")
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError, NextsetWarning, check_range
from nextset.core.noise import Noise
from nextset.data.dataset import cache_folder
from nextset.hub import pretrained
from nextset.pipelines.base import Generator, OnEvent, Output
from nextset.text.cache import CachedEncoder
from nextset.text.condition import Text
from nextset.text.encoders import T5Encoder, TextEncoder
from nextset.text.prompts import clean_prompts

Prompts = str | Sequence[str]


class TextPipeline(Generator):
    """A generator with its tokenizer, asked with text: read by the encoder that was trained with it, or by a T5."""

    asked_with = "text"

    def __init__(self, loaded: pretrained.Pretrained) -> None:
        super().__init__(loaded)
        self.encoder: TextEncoder | None = None
        self._encoder_name = self.info.get("text_encoder")

    def use_encoder(self, name: str | Path, *, dtype: str = "float32", max_length: int = 512) -> None:
        """Read prompts by a T5: a folder, or `owner/name` on the hub. Its features are kept on disk (extra `text`)."""
        width = self.system.config.text_channels
        encoder = T5Encoder(name, device=self.device, dtype=dtype, max_length=max_length, expect_width=width)
        self.encoder = CachedEncoder(encoder, cache_folder() / "text")

    def read(self, prompts: Sequence[str]) -> Text:
        """Features of prompts: values (N, T, Ct) with lengths."""
        if self.encoder is None and self._encoder_name and self.system.words is None:
            self.use_encoder(self._encoder_name)
        with torch.no_grad():
            if self.encoder is not None:
                return self.encoder.encode(prompts)  # which cleans them
            return self.system.encode_prompts(clean_prompts(prompts))

    def __call__(
        self,
        prompt: Prompts,
        *,
        negative_prompt: Prompts | None = None,
        n: int | None = None,
        width: int | None = None,
        height: int | None = None,
        aspect: float | None = None,
        image: Tensor | None = None,
        strength: float = 0.7,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch: int = 16,
        previews: bool = False,
        on_event: OnEvent = None,
        cache: str | None = None,
        compile: bool = False,
        candidates: int | None = None,
        decide_at: int | None = None,
        **settings: Any,
    ) -> Output:
        """Pictures of prompts.

        prompt: a text, or a list of them. n: how many pictures (a list is repeated up to it). negative_prompt: what guidance
        leads away from, one or one a prompt; by default the model's learned null text. width and height in pixels, or
        aspect = width / height: the nearest size that the model knows is made, and said if it is another.
        image: (3, H, W) or (1, 3, H, W) in [-1, 1] of that size, to begin with: its first scales are kept and the rest is
        drawn again; strength in [0, 1] is the share of scales that is drawn, 1 = all, 0 = the image itself.
        seed: every picture is a function of (seed, its index, its prompt and settings) and of nothing else. indices: make
        just these indices of a request. batch: pictures at a time; changes no picture. candidates, decide_at: begin each
        picture so often, and go on after a step with the likeliest beginning.
        compile: make one compiled body for all steps of a shape, for models that go token by token (see `engine.static`).
        settings: the system's own (guidance_scale, temperature, top_p, pixels, ...).
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise NextsetError("there is no prompt; describe the picture in a few words")
        if n is not None:
            check_range("n", n, 1, 100_000)
        count = n if n is not None else len(prompts)
        where = torch.arange(count) if indices is None else torch.tensor(list(indices), dtype=torch.int64)
        place = torch.arange(len(where)) % len(prompts) if indices is None else where % len(prompts)
        text = self.read(prompts)
        negative = self._negative(negative_prompt, len(prompts))
        ratio, pixels = self.size(width, height, aspect, settings.pop("pixels", None))
        chosen = {**self.settings(settings), "ratio": ratio, **({"pixels": pixels} if pixels else {})}
        given = None if image is None else self._given(image, strength, ratio, pixels)
        steps = len(self.system.grids(ratio, pixels).plan)
        several, at = self.search(candidates, decide_at, steps)

        def job(rows: Tensor) -> Any:
            which = place[rows]
            against = negative if negative is None or len(negative) == 1 else negative[which]
            made = self.system.job(text[which], negative=against, **chosen)
            if given is not None:
                codes, mask = given
                made.canvas.pin(codes.expand(len(rows), *codes.shape[1:]), mask)
            return made

        noise = Noise(seed, "generate")
        parts = self.run(
            job, where, noise,
            batch=batch, several=several, at=at, previews=previews, on_event=on_event, cache=cache, compile=compile,
        )  # fmt: skip
        return self.output(parts, [prompts[i] for i in place.tolist()], seed, where)

    def _negative(self, prompt: Prompts | None, prompts: int) -> Text | None:
        if prompt is None:
            return None
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        if len(texts) not in (1, prompts):
            raise NextsetError(
                f"there are {len(texts)} negative prompts for {prompts} prompts; give one, or one for each"
            )
        return self.read(texts)

    # ---- sizes

    def pixels_of(self, ratio: float, pixels: str | None) -> tuple[int, int]:
        """(height, width) of pictures at height / width `ratio` of the table."""
        h, w = self.system.grids(ratio, pixels).sides[-1]
        unit = self.tokenizer.spec.downsampling * self.tokenizer.spec.patch
        return h * unit, w * unit

    def size(
        self, width: int | None, height: int | None, aspect: float | None, pixels: str | None
    ) -> tuple[float, str | None]:
        """(height / width of the table, number of pixels) that lie nearest to what is asked; said if they are others."""
        if (width is None) != (height is None):
            raise NextsetError("width and height belong together; give both, or aspect alone")
        if width is None or height is None:
            if aspect is None:
                return self.system.ratios()[0], pixels
            check_range("aspect", aspect, 1e-3, 1e3, remedy="it is width / height: 1 is square, 1.5 is landscape")
            ratio = self._ratio(1 / aspect)
            if abs(aspect * ratio - 1) > 0.01:
                _say(f"aspect is {aspect:g}, but this model knows {self._known()}; {1 / ratio:.3g} is used")
            return ratio, pixels
        for name, value in (("width", width), ("height", height)):
            check_range(name, value, 8, 16384)
        if aspect is not None:
            raise NextsetError("aspect was given beside width and height; leave one of them out")
        ratio = self._ratio(height / width)
        choices = [pixels] if pixels or self.system.config.sides else list(self.system.known_pixels)
        wanted = width * height
        best = min(choices, key=lambda p: abs(self.pixels_of(ratio, p)[0] * self.pixels_of(ratio, p)[1] - wanted))
        made = self.pixels_of(ratio, best)
        if made != (height, width):
            _say(
                f"{width}x{height} pixels were asked for; the nearest size that this model knows is {made[1]}x{made[0]}"
            )
        return ratio, best

    def _ratio(self, ratio: float) -> float:
        return min(self.system.ratios(), key=lambda known: abs(known - ratio))

    def _known(self) -> str:
        return ", ".join(f"{1 / r:.3g}" for r in sorted(self.system.ratios(), reverse=True))

    # ---- given pictures

    def _given(self, image: Tensor, strength: float, ratio: float, pixels: str | None) -> tuple[Tensor, Tensor]:
        """Codes (1, L, D) of a picture, and which positions of them are kept (L,)."""
        check_range("strength", strength, 0, 1, remedy="0 keeps the image, 1 draws all of it again")
        image = image[None] if image.dim() == 3 else image
        size = self.pixels_of(ratio, pixels)
        if image.shape[0] != 1 or tuple(image.shape[-2:]) != size:
            raise NextsetError(
                f"the image is {image.shape[-1]}x{image.shape[-2]} pixels, but {size[1]}x{size[0]} is made; resize it"
            )
        sides = self.system.grids(ratio, pixels).sides
        weight = next(self.tokenizer.encoder.parameters())
        codes = self.tokenizer.encode(image.to(weight.device, weight.dtype), sides)
        kept = round((1 - strength) * len(sides))
        positions = torch.tensor([h * w for h, w in sides]).cumsum(0)
        until = int(positions[kept - 1]) if kept else 0
        return codes, torch.arange(codes.shape[1]) < until


def _say(message: str) -> None:
    warnings.warn(message, NextsetWarning, stacklevel=4)
