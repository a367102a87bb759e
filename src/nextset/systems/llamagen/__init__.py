"""LlamaGen: a language model's transformer over raster tokens, the base of the token family. `model` says what it is,
`prefix` what it is asked with, `grid` where slots lie, `convert` reads the authors' files; `claim` measures what it promises,
on a `baseline` that systems on it share."""

from nextset.systems.llamagen.config import LlamaGenConfig
from nextset.systems.llamagen.model import LlamaGen

__all__ = ["LlamaGen", "LlamaGenConfig"]
