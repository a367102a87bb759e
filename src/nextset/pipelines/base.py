"""What every pipeline shares: a loaded generator, its settings, its events, its pictures.

It knows that a system makes jobs, not what is in them, nor what it is asked with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from nextset.core.errors import NextsetError, check_range, nearest
from nextset.core.events import Event, Preview
from nextset.core.noise import Noise
from nextset.core.protocols import Job
from nextset.core.spec import VideoSpec
from nextset.data.images import to_pil
from nextset.data.video import save_video, side_by_side, strips
from nextset.engine.run import Run, proceed
from nextset.engine.search import KeepLikeliest
from nextset.hub import lora, pretrained
from nextset.hub.requests import check_setting, settings_known
from nextset.nn.losses import psnr

OnEvent = Callable[[int, Event], None] | None


@dataclasses.dataclass
class Output:
    """What a request made.

    tensors: (N, 3, H, W) float32 in [-1, 1], or clips (N, 3, T, H, W). images: the same as PIL pictures, a strip of its
    frames for each clip. tokens: codes (N, L) or bits (N, L, D). asked: the class id or the prompt of each. seeds: (seed,
    index) of each picture: `pipe(..., seed=seed, indices=[index])` makes it again alone. previews: one like `tensors` a
    step, when asked for.
    """

    tensors: Tensor
    tokens: Tensor
    asked: list[int] | list[str]
    seeds: list[tuple[int, int]]
    previews: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def images(self) -> list[Image.Image]:
        return [to_pil(t) for t in (strips(self.tensors) if self.tensors.dim() == 5 else self.tensors)]

    def save_video(self, path: str | Path, *, fps: float = 8.0, columns: int | None = None) -> Path:
        """Write the clips as one, side by side when there are several: `.mp4`, `.gif`, `.webp`, or a strip `.png`."""
        if self.tensors.dim() != 5:
            raise NextsetError("pictures do not move; save them by `images`, or take a model of clips")
        clip = side_by_side(self.tensors, columns) if len(self.tensors) > 1 else self.tensors[0]
        return save_video(clip, path, fps=fps)

    @property
    def classes(self) -> Tensor:
        """(N,) class ids."""
        return torch.tensor(self.asked)

    @property
    def prompts(self) -> list[str]:
        """The prompt of each picture."""
        return [str(text) for text in self.asked]


@dataclasses.dataclass
class Reconstruction:
    """An image, or a clip, through the tokenizer: scales[k] like it after scale k, psnr[k] (N,) in dB, tokens (N, L)."""

    scales: list[Tensor]
    psnr: list[Tensor]
    tokens: Tensor


class Generator:
    """A generator with its tokenizer. Subclasses say what it is asked with."""

    asked_with: str

    def __init__(self, loaded: pretrained.Pretrained) -> None:
        if loaded.kind != "generator":
            raise NextsetError(
                f"{loaded.name} is a tokenizer and makes no pictures of its own; use `nextset reconstruct`, or load a generator"
            )
        self.name, self.system, self.info = loaded.name, loaded.model, loaded.info
        self.tokenizer: Any = self.system.tokenizer
        self.defaults: dict[str, Any] = dict(self.info.get("defaults", {}))
        self.candidates, self.decide_at = self.defaults.pop("candidates", 1), self.defaults.pop("decide_at", 0)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, dtype: str = "float32", device: str = "cpu", offload: bool = False
    ) -> Self:
        """Load by folder, packaged name or hub name."""
        return cls(pretrained.load(name, dtype=dtype, device=device, offload=offload))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write model, tokenizer, description and card as a folder."""
        lora.check_plain(self.system)
        more = {k: v for k, v in self.info.items() if k not in ("format", "kind", "system", "config")}
        return pretrained.save(folder, self.system, **more)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Upload as `owner/name`; returns the address."""
        import tempfile

        with tempfile.TemporaryDirectory() as place:
            return pretrained.push_to_hub(self.save_pretrained(Path(place) / "model"), name, **options)

    @property
    def device(self) -> torch.device:
        """Where the generator's weights are."""
        return next(self.system.parameters()).device

    # ---- adapters

    def load_lora(self, folder: str | Path, name: str | None = None, scale: float = 1.0) -> str:
        """Put a trained adapter beside the weights (extra `lora`); returns its name. Several may be there at once."""
        return lora.load(self.system, folder, name, scale)

    def set_lora_scale(self, scale: float, name: str | None = None) -> None:
        """How much an adapter counts (0 = nothing); of all adapters without a name."""
        lora.set_scale(self.system, scale, name)

    def unload_lora(self, name: str | None = None) -> None:
        """Take an adapter away, or all of them: the model is what it was."""
        lora.unload(self.system, name)

    def merge_lora(self) -> None:
        """Add the adapters to the weights, for speed and for saving."""
        lora.merge(self.system)

    def unmerge_lora(self) -> None:
        """Undo `merge_lora`."""
        lora.unmerge(self.system)

    @property
    def loras(self) -> Any:
        """The adapters that are loaded, with their scales."""
        return lora.loras(self.system)

    @property
    def makes_clips(self) -> bool:
        """Whether it makes clips (N, 3, T, H, W), and not pictures."""
        return isinstance(self.tokenizer.spec, VideoSpec)

    # ---- settings

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """This model's sampling defaults under the given settings; unknown ones are refused with the nearest name."""
        known = [name for name in settings_known(self.system.job) if name != "ratio"]  # width and height give it
        for name in given:
            if name not in known:
                raise NextsetError(f"{self.name} has no setting {name!r}: {nearest(name, known)}")
            check_setting(self.system.job, name, given[name])
        return {**self.defaults, **{k: v for k, v in given.items() if v is not None}}

    def search(self, candidates: int | None, decide_at: int | None, steps: int) -> tuple[int, int]:
        """How often each picture is begun, and after which step it is decided; the model's defaults for None."""
        several = int(self.candidates if candidates is None else candidates)
        at = int(self.decide_at if decide_at is None else decide_at)
        check_range("candidates", several, 1, 1024, remedy="1 is plain sampling")
        check_range("decide_at", at, 0, steps - 1, remedy="it is a step of the plan")
        return several, at

    # ---- running

    def run(
        self,
        job: Callable[[Tensor], Job],
        where: Tensor,
        noise: Noise,
        *,
        batch: int,
        several: int = 1,
        at: int = 0,
        previews: bool = False,
        on_event: OnEvent = None,
        cache: str | None = None,
        compile: bool = False,
    ) -> list[tuple[Tensor, Tensor, list[Tensor]]]:
        """(images, codes, previews) of the parts of a request. job: of some of its rows, by their places (n,); where: (N,)
        image index of each row."""
        check_range("batch", batch, 1, 4096)
        parts = []
        for start in range(0, len(where), batch):
            rows = torch.arange(start, min(start + batch, len(where))).repeat_interleave(several)
            search = [KeepLikeliest(several, at)] if several > 1 else []
            run = Run.of(job(rows), noise, where[rows], cache=cache, controllers=search, compile=compile)
            run.attempt = torch.arange(several).repeat(len(rows) // several) << 16
            parts.append(self._finish(run, previews, start, on_event))
        return parts

    @torch.no_grad()
    def _finish(self, run: Run, previews: bool, offset: int, on_event: OnEvent) -> tuple[Tensor, Tensor, list[Tensor]]:
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
    def output(parts: list[tuple[Tensor, Tensor, list[Tensor]]], asked: list[Any], seed: int, where: Tensor) -> Output:
        """The parts of a request as one."""
        images, codes, shown = zip(*parts, strict=True)
        steps = [torch.cat(step) for step in zip(*shown, strict=True)]
        return Output(torch.cat(images), torch.cat(codes), asked, [(seed, int(i)) for i in where], steps)

    # ---- given pictures

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Reconstruction:
        """What each scale adds: images (N, 3, H, W), or clips (N, 3, T, H, W), in [-1, 1] of the model's size."""
        return reconstruct(self.tokenizer, images)

    def fits(self, images: Tensor) -> Tensor:
        """The images where the tokenizer is, if they have its size."""
        size = self.tokenizer.spec.size
        if tuple(images.shape[-2:]) != size:
            raise NextsetError(
                f"the image is {images.shape[-1]}x{images.shape[-2]} pixels, but this model works at {size[1]}x{size[0]}; resize it"
            )
        weight = next(self.tokenizer.encoder.parameters())
        return images.to(weight.device, weight.dtype)


def reconstruct(tokenizer: Any, images: Tensor) -> Reconstruction:
    """Encode images (N, 3, H, W), or clips (N, 3, T, H, W), in [-1, 1] and decode them again after every scale."""
    weight = next(tokenizer.encoder.parameters())
    codes = tokenizer.encode(images.to(weight.device, weight.dtype))
    scales = [tokenizer.decode(codes, upto=k + 1).cpu() for k in range(len(tokenizer.sides))]
    return Reconstruction(scales, [psnr(s, images.cpu()) for s in scales], codes.cpu())
