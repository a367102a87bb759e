"""FlexVAR: VAR without residuals, on any list of sides. `model` says what it is, `sides` which lists, `convert` reads the authors' files."""

from nextset.systems.flexvar.model import FlexVar, FlexVarConfig

__all__ = ["FlexVar", "FlexVarConfig"]
