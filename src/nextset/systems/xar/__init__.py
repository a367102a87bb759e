"""xAR: next-X prediction by flow. `model` says what it is, `config` its sizes, `convert` reads the authors' files,
`claim` measures it."""

from nextset.systems.xar.config import XarConfig
from nextset.systems.xar.model import Xar

__all__ = ["Xar", "XarConfig"]
