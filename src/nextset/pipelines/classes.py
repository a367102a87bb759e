"""The pipeline: a loaded model as a person uses it. Names and numbers in, pictures out.

    import nextset
    pipe = nextset.load()
    out = pipe("animal-mammal", n=4, seed=1)
    out.images[0].save("cat.png")

It knows that a system makes jobs, not what is in them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nextset.core.errors import NextsetError, check_range, nearest
from nextset.core.events import Event, Preview
from nextset.core.masks import Box, box_mask
from nextset.core.noise import Noise
from nextset.data.images import to_pil
from nextset.engine.run import Run, proceed
from nextset.engine.search import KeepLikeliest
from nextset.hub import pretrained
from nextset.nn.losses import psnr

Classes = int | str | None | Sequence[int | str | None]


@dataclasses.dataclass
class Output:
    """What a request made.

    tensors: (N, 3, H, W) float32 in [-1, 1]. images: the same as PIL pictures. tokens: codes (N, L). previews: one
    (N, 3, H, W) a step, when asked for. classes: (N,) ids. seeds: (seed, index) of each picture: `pipe(..., seed=seed,
    indices=[index])` makes it again alone.
    """

    tensors: Tensor
    tokens: Tensor
    classes: Tensor
    seeds: list[tuple[int, int]]
    previews: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def images(self) -> list[Image.Image]:
        return [to_pil(t) for t in self.tensors]


@dataclasses.dataclass
class Reconstruction:
    """An image through the tokenizer: scales[k] (N, 3, H, W) after scale k, psnr[k] (N,) in dB, tokens (N, L)."""

    scales: list[Tensor]
    psnr: list[Tensor]
    tokens: Tensor


class Pipeline:
    """A generator with its tokenizer."""

    def __init__(self, loaded: pretrained.Pretrained) -> None:
        if loaded.kind != "generator":
            raise NextsetError(
                f"{loaded.name} is a tokenizer and makes no pictures of its own; use `nextset reconstruct`, or load a generator"
            )
        self.name, self.system, self.info = loaded.name, loaded.model, loaded.info
        self.tokenizer: Any = self.system.tokenizer
        self.class_names: list[str] = list(self.info.get("class_names", []))
        self.defaults: dict[str, Any] = dict(self.info.get("defaults", {}))
        self.candidates, self.decide_at = self.defaults.pop("candidates", 1), self.defaults.pop("decide_at", 0)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, dtype: str = "float32", device: str = "cpu") -> Pipeline:
        """Load by folder, packaged name or hub name."""
        return cls(pretrained.load(name, dtype=dtype, device=device))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write model, tokenizer, description and card as a folder."""
        more = {k: v for k, v in self.info.items() if k not in ("format", "kind", "system", "config")}
        return pretrained.save(folder, self.system, **more)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Upload as `owner/name`; returns the address."""
        import tempfile

        with tempfile.TemporaryDirectory() as place:
            return pretrained.push_to_hub(self.save_pretrained(Path(place) / "model"), name, **options)

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
        on_event: Callable[[int, Event], None] | None = None,
        cache: str | None = None,
        candidates: int | None = None,
        decide_at: int | None = None,
        **settings: Any,
    ) -> Output:
        """Pictures of classes.

        classes: an id, a name, a list of them, "none" for no class, or None to draw a class for each picture. n: how many
        (a list is repeated up to it). seed: every picture is a function of (seed, its index, its class and settings) and
        of nothing else. candidates: begin each picture so many times and go on, after step `decide_at`, with the likeliest
        beginning (see `engine.search`); 1 = plain sampling. indices: make just these indices of a request. batch: pictures at a time; changes no picture.
        settings: the system's own (guidance_scale, top_k, top_p, ...); unknown ones are refused with the nearest name.
        """
        if n is not None:
            check_range("n", n, 1, 100_000)
        check_range("batch", batch, 1, 4096)
        noise = Noise(seed, "generate")
        labels, where = self._labels(
            classes, n, noise, None if indices is None else torch.tensor(list(indices), dtype=torch.int64)
        )
        several = int(self.candidates if candidates is None else candidates)
        at = int(self.decide_at if decide_at is None else decide_at)
        check_range("candidates", several, 1, 1024, remedy="1 is plain sampling")
        check_range("decide_at", at, 0, len(self.system.plan) - 1, remedy="it is a step of the plan")
        parts = []
        for start in range(0, len(labels), batch):
            job = self.job(labels[start : start + batch].repeat_interleave(several), **settings)
            images = where[start : start + batch].repeat_interleave(several)
            run = Run.of(
                job, noise, images, cache=cache, controllers=[KeepLikeliest(several, at)] if several > 1 else []
            )
            run.attempt = torch.arange(several).repeat(len(images) // several) << 16
            parts.append(self._finish(run, previews, start, on_event))
        return self._output(parts, labels, seed, where)

    def job(self, labels: Tensor, **settings: Any) -> Any:
        """The system's job for class ids, with this model's sampling defaults under the given settings."""
        known = [p for p in inspect.signature(self.system.job).parameters if p not in ("self", "classes")]
        for name in settings:
            if name not in known:
                raise NextsetError(f"{self.name} has no setting {name!r}: {nearest(name, known)}")
        chosen = {**self.defaults, **{k: v for k, v in settings.items() if v is not None}}
        return self.system.job(labels.to(next(self.system.parameters()).device), **chosen)

    @torch.no_grad()
    def _finish(
        self, run: Run, previews: bool, offset: int, on_event: Callable[[int, Event], None] | None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        shown: list[Tensor] = []
        for event in proceed(run, previews=previews):
            if isinstance(event, Preview):
                shown.append(event.images.cpu())
            if on_event:
                on_event(offset, event)
        for c in run.controllers:
            if isinstance(c, KeepLikeliest) and c.kept is not None:  # what went on, as it looked before the decision
                shown = [s[c.kept.cpu()] if len(s) > len(c.kept) else s for s in shown]
        return run.job.finish(run.job.canvas).cpu(), run.codes().cpu(), shown

    @staticmethod
    def _output(parts: list[tuple[Tensor, Tensor, list[Tensor]]], labels: Tensor, seed: int, where: Tensor) -> Output:
        images, codes, shown = zip(*parts, strict=True)
        steps = [torch.cat(step) for step in zip(*shown, strict=True)]
        return Output(torch.cat(images), torch.cat(codes), labels.cpu(), [(seed, int(i)) for i in where], steps)

    # ---- given pictures

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Reconstruction:
        """What each scale adds: images (N, 3, H, W) in [-1, 1] of the model's size."""
        return reconstruct(self.tokenizer, images)

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
        codes = self.tokenizer.encode(self._fits(images))
        codes = codes.repeat(n, 1) if codes.shape[0] == 1 else codes
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
        return self._output([self._finish(Run.of(job, noise, where), previews, 0, on_event)], labels, seed, where)

    def _fits(self, images: Tensor) -> Tensor:
        size = self.tokenizer.spec.size
        if tuple(images.shape[-2:]) != size:
            raise NextsetError(
                f"the image is {images.shape[-1]}x{images.shape[-2]} pixels, but this model works at {size[1]}x{size[0]}; resize it"
            )
        weight = next(self.tokenizer.encoder.parameters())
        return images.to(weight.device, weight.dtype)

    def forwards(self, **settings: Any) -> int:
        """Forward calls of the network for one picture with these settings."""
        return len(self.job(torch.zeros(1, dtype=torch.int64), **settings).plan)


def reconstruct(tokenizer: Any, images: Tensor) -> Reconstruction:
    """Encode images (N, 3, H, W) in [-1, 1] and decode them again after every scale."""
    weight = next(tokenizer.encoder.parameters())
    codes = tokenizer.encode(images.to(weight.device, weight.dtype))
    scales = [tokenizer.decode(codes, upto=k + 1).cpu() for k in range(len(tokenizer.sides))]
    return Reconstruction(scales, [psnr(s, images.cpu()) for s in scales], codes.cpu())


def load(name: str | Path | None = None, *, dtype: str = "float32", device: str = "cpu") -> Pipeline:
    """A pipeline for the model of a folder, a packaged name or a hub name; the default model when no name is given."""
    return Pipeline.from_pretrained(pretrained.default_model() if name is None else name, dtype=dtype, device=device)
