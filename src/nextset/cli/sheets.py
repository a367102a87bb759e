"""Pictures or clips on one sheet, in a file or in the terminal while they grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def page(images: torch.Tensor, columns: int | None, zoom: int) -> torch.Tensor:
    """One sheet of pictures (N, 3, H, W), or of clips (N, 3, T, H, W) as strips, enlarged without blur."""
    from nextset.data.video import still

    return enlarged(still(images.clamp(-1, 1), columns), zoom, 768)


def film(videos: torch.Tensor, columns: int | None, zoom: int) -> torch.Tensor:
    """Clips (N, 3, T, H, W) side by side as one (3, T, H', W'), enlarged without blur."""
    from nextset.data.video import side_by_side

    videos = videos.clamp(-1, 1)
    return enlarged(videos[0] if len(videos) == 1 else side_by_side(videos, columns), zoom, 512)


def enlarged(pictures: torch.Tensor, zoom: int, side: int) -> torch.Tensor:
    """(..., H, W) with each pixel `zoom` pixels a side; 0: so that the larger side has about `side`."""
    factor = zoom or max(1, round(side / max(pictures.shape[-2:])))
    return pictures.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def frames(previews: list[torch.Tensor], columns: int | None, zoom: int) -> list[torch.Tensor]:
    """A sheet of each step, all of the last one's size: pictures of some systems grow."""
    from torch.nn.functional import interpolate

    size = previews[-1].shape[-2:]
    same = [p if p.shape[-2:] == size else interpolate(p, size=size, mode="nearest") for p in previews]
    return [page(p, columns, zoom) for p in same]


class Live:
    """A grid of pictures in the terminal, drawn over itself: two pixels a character cell."""

    def __init__(self, out: Any, columns: int | None) -> None:
        from rich.live import Live

        self.columns = columns
        self.live = Live(console=out, refresh_per_second=10)
        self.live.start()

    def show(self, images: torch.Tensor) -> None:
        self.live.update(blocks(images, self.columns, self.live.console.width))

    def done(self) -> None:
        self.live.stop()


def blocks(images: torch.Tensor, columns: int | None, width: int) -> Any:
    """Pictures as text: upper half blocks in 24-bit colour, at most `width` characters wide."""
    from rich.text import Text
    from torch.nn.functional import interpolate

    from nextset.data.images import to_uint8
    from nextset.data.video import still

    sheet = still(images[:16], columns, count=4)[None]
    w = min(width - 1, sheet.shape[-1])
    h = max(2, round(sheet.shape[-2] * w / sheet.shape[-1] / 2) * 2)
    pixels = to_uint8(interpolate(sheet, size=(h, w), mode="area")[0]).permute(1, 2, 0).tolist()
    text = Text()
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=False):
        for a, b in zip(upper, lower, strict=True):
            text.append("▀", style=f"rgb({a[0]},{a[1]},{a[2]}) on rgb({b[0]},{b[1]},{b[2]})")
        text.append("\n")
    return text
