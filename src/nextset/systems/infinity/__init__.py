"""Infinity: text to image by next-scale bits. `model` says what it is, `schedules` which grids it knows, `correction` how it
learns to repair its own errors, `convert` reads the authors' files."""

from nextset.systems.infinity.config import InfinityConfig
from nextset.systems.infinity.model import Infinity

__all__ = ["Infinity", "InfinityConfig"]
