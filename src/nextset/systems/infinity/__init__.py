"""Infinity: text to image by next-scale bits. `model` says what it is, `schedules` which grids it knows, `correction` how it
learns to repair its own errors, `convert` reads the authors' files."""

from nextset.systems.infinity.model import Infinity, InfinityConfig

__all__ = ["Infinity", "InfinityConfig"]
