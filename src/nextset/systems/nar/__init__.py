"""NAR: LlamaGen that draws whole diagonals of an image, or planes of a clip, each token from its neighbours. `model` says
what it is, `grid` in which order, `convert` reads the authors' files, `claim` measures what it promises."""

from nextset.systems.nar.model import Nar, NarConfig

__all__ = ["Nar", "NarConfig"]
