"""FlowAR: scales of continuous latents, each drawn by a flow. `model` says what it is, `config` its sizes, `times` what a
number of inner steps means, `convert` reads the authors' files, `claim` measures what it promises."""

from nextset.systems.flowar.config import FlowArConfig
from nextset.systems.flowar.model import FlowAr

__all__ = ["FlowAr", "FlowArConfig"]
