"""M-VAR: VAR whose scales see themselves by attention and what came before through a Mamba. `convert` reads the authors' files."""

from nextset.systems.m_var.model import MambaVar, MambaVarConfig

__all__ = ["MambaVar", "MambaVarConfig"]
