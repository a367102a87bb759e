"""LlamaGen: a language model's transformer over raster tokens, the base of the token family. `model` says what it is, `prefix` what
it is asked with, `grid` where slots lie, `convert` reads the authors' files."""

from nextset.systems.llamagen.model import LlamaGen, LlamaGenConfig

__all__ = ["LlamaGen", "LlamaGenConfig"]
