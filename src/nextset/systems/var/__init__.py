"""VAR: next-scale prediction. `model` says what it is, `convert` reads the authors' files, `progressive` is a training option."""

from nextset.systems.var.model import Var, VarConfig

__all__ = ["Var", "VarConfig"]
