"""The pipeline of generators that are asked with classes. Names and numbers in, pictures out.

import nextset
pipe = nextset.load("emoji-var")
out = pipe("animal-mammal", n=4, seed=1)
out.images[0].save("cat.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError, check_range, nearest
from nextset.core.masks import Box, box_mask
from nextset.core.noise import Noise
from nextset.engine.run import Run
from nextset.hub import pretrained
from nextset.pipelines.base import Generator, OnEvent, Output

Classes = int | str | None | Sequence[int | str | None]


class Pipeline(Generator):
    """A generator with its tokenizer, asked with classes."""

    asked_with = "class"

    def __init__(self, loaded: pretrained.Pretrained) -> None:
        super().__init__(loaded)
        self.class_names: list[str] = list(self.info.get("class_names", []))

    # ---- classes

    @property
    def classes(self) -> int:
        """Number of classes (the id after the last one means no class)."""
        return int(self.system.config.classes)

    def class_id(self, name: int | str | None) -> int:
        """The id of a class by id or name; None or "none" for no class. Unknown: the nearest names."""
        if name is None or str(name).lower() == "none":
            return self.classes
        text = str(name).strip()
        if text.lstrip("-").isdigit():
            number = int(text)
            if not 0 <= number < self.classes:
                raise NextsetError(
                    f"class is {number}, but this model has ids 0 to {self.classes - 1}" + self._name_hint()
                )
            return number
        by_name = {n.lower(): i for i, n in enumerate(self.class_names)}
        if text.lower() in by_name:
            return by_name[text.lower()]
        if not self.class_names:
            raise NextsetError(
                f"class is {text!r}, but this model has no names; give an id between 0 and {self.classes - 1}"
            )
        raise NextsetError(f"no class is called {text!r}: {nearest(text, self.class_names)}")

    def _name_hint(self) -> str:
        return f"; names: {', '.join(self.class_names[:4])}, ..." if self.class_names else ""

    def _labels(self, classes: Classes, n: int | None, noise: Noise, indices: Tensor | None) -> tuple[Tensor, Tensor]:
        """Class id and image index of every picture."""
        if isinstance(classes, (list, tuple)):
            ids = [self.class_id(c) for c in classes]
            labels = torch.tensor(ids if n is None else [ids[i % len(ids)] for i in range(n)])
            where = torch.arange(len(labels)) if indices is None else indices
            return (
                labels
                if indices is None or len(indices) == len(labels)
                else labels[torch.arange(len(indices)) % len(labels)]
            ), where
        where = torch.arange(1 if n is None else n) if indices is None else indices
        if classes is None:  # any class: drawn for each picture
            u = noise.of("class").uniform(where, torch.zeros(1, dtype=torch.int64))[:, 0]
            return (u * self.classes).long(), where
        return torch.full((len(where),), self.class_id(classes)), where  # type: ignore[arg-type]

    # ---- making pictures

    def __call__(
        self,
        classes: Classes = None,
        *,
        n: int | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch: int = 64,
        previews: bool = False,
        on_event: OnEvent = None,
        cache: str | None = None,
        compile: bool = False,
        candidates: int | None = None,
        decide_at: int | None = None,
        **settings: Any,
    ) -> Output:
        """Pictures of classes.

        classes: an id, a name, a list of them, "none" for no class, or None to draw a class for each picture. n: how many
        (a list is repeated up to it). seed: every picture is a function of (seed, its index, its class and settings) and
        of nothing else. candidates: begin each picture so many times and go on, after step `decide_at`, with the likeliest
        beginning (see `engine.search`); 1 = plain sampling. indices: make just these indices of a request. batch: pictures at a time; changes no picture.
        compile: make one compiled body for all steps of a shape, for models that go token by token (see `engine.static`).
        settings: the system's own (guidance_scale, top_k, top_p, ...); unknown ones are refused with the nearest name.
        """
        if n is not None:
            check_range("n", n, 1, 100_000)
        noise = Noise(seed, "generate")
        labels, where = self._labels(
            classes, n, noise, None if indices is None else torch.tensor(list(indices), dtype=torch.int64)
        )
        several, at = self.search(candidates, decide_at, len(self.system.plan))
        parts = self.run(
            lambda rows: self.job(labels[rows], **settings), where, noise,
            batch=batch, several=several, at=at, previews=previews, on_event=on_event, cache=cache, compile=compile,
        )  # fmt: skip
        return self.output(parts, labels.tolist(), seed, where)

    def job(self, labels: Tensor, **settings: Any) -> Any:
        """The system's job for class ids, with this model's sampling defaults under the given settings."""
        chosen = self.settings(settings)
        return self.system.job(labels.to(self.device), **chosen)

    # ---- given pictures

    def inpaint(
        self,
        images: Tensor,
        *,
        box: Box | None = None,
        mask: Tensor | None = None,
        classes: Classes = "none",
        **settings: Any,
    ) -> Output:
        """Draw again what lies inside the box (y0, x0, y1, x1 in [0, 1]) or where mask (H, W) is 1; the rest is given."""
        return self._edit(images, box, mask, "outside", classes, settings)

    def outpaint(
        self,
        images: Tensor,
        *,
        box: Box | None = None,
        mask: Tensor | None = None,
        classes: Classes = "none",
        **settings: Any,
    ) -> Output:
        """Keep what lies inside the box (or where mask is 1) and draw the rest."""
        return self._edit(images, box, mask, "inside", classes, settings)

    def edit(
        self, images: Tensor, *, box: Box | None = None, mask: Tensor | None = None, classes: Classes, **settings: Any
    ) -> Output:
        """Draw again inside the box, as another class."""
        return self._edit(images, box, mask, "outside", classes, settings)

    def _edit(
        self,
        images: Tensor,
        box: Box | None,
        mask: Tensor | None,
        keep: str,
        classes: Classes,
        settings: dict[str, Any],
    ) -> Output:
        if (box is None) == (mask is None):
            raise NextsetError("give either a box or a mask, to say where the picture is drawn again")
        seed = settings.pop("seed", 0)
        n = settings.pop("n", None) or 1
        previews, on_event = settings.pop("previews", False), settings.pop("on_event", None)
        # a system whose codes are more than its tokenizer's makes them itself
        codes = getattr(self.system, "encode", self.tokenizer.encode)(self.fits(images))
        codes = codes.repeat(n, *[1] * (codes.dim() - 1)) if codes.shape[0] == 1 else codes
        side = self.tokenizer.sides[-1]
        if box is not None:
            given = box_mask(box, side, keep=keep)
        else:
            assert mask is not None
            small = torch.nn.functional.interpolate(mask[None, None].float(), size=side, mode="area")[0, 0]
            given = small if keep == "inside" else 1 - small
        noise = Noise(seed, "generate")
        listed: list[Any] = list(classes) if isinstance(classes, (list, tuple)) else [classes] * codes.shape[0]
        labels = torch.tensor([self.class_id(c) for c in listed])
        job = self.job(labels, **settings)
        job.canvas.pin(codes, self.system.keep_mask(given))
        where = torch.arange(codes.shape[0])
        parts = [self._finish(Run.of(job, noise, where), previews, 0, on_event)]
        return self.output(parts, labels.tolist(), seed, where)

    def forwards(self, **settings: Any) -> int:
        """Forward calls of the network for one picture with these settings."""
        job = self.job(torch.zeros(1, dtype=torch.int64), **settings)
        return sum(not step.ahead for step in job.plan.steps)  # these run in the forward of the step after them
