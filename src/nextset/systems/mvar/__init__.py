"""MVAR: VAR whose scales see themselves alone, the large ones through a window. `convert` reads the authors' files."""

from nextset.systems.mvar.model import MVar, MVarConfig

__all__ = ["MVar", "MVarConfig"]
