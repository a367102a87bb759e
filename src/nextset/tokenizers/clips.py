"""What tokenizers of clips share: the refusal of a clip of another size, and the frames as pictures. Clips are (B, 3, T, H, W)."""

from __future__ import annotations

from torch import Tensor

from nextset.core.errors import NextsetError


def check_clips(videos: Tensor, frames: int, size: tuple[int, int]) -> None:
    """Refuse whatever is not (B, 3, frames, *size)."""
    if videos.dim() != 5 or tuple(videos.shape[1:]) != (3, frames, *size):
        have = "x".join(map(str, videos.shape[1:]))
        raise NextsetError(
            f"a clip is {have}, but this tokenizer reads 3x{frames}x{size[0]}x{size[1]} (colours, frames, height, "
            "width); cut and resize it"
        )


def check_ids(codes: Tensor, tokens: int) -> None:
    """Refuse whatever is not (B, tokens)."""
    if codes.shape[1:] != (tokens,):
        raise NextsetError(
            f"ids have shape {tuple(codes.shape)}, but a clip has {tokens} of them; give (clips, {tokens})"
        )


def frames_of(videos: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> all frames as pictures (B T, 3, H, W), clip after clip."""
    return videos.transpose(1, 2).flatten(0, 1)
