"""HMAR: VAR whose scales see themselves alone and are refined by masked prediction. `convert` reads the authors' files."""

from nextset.systems.hmar.model import Hmar, HmarConfig

__all__ = ["Hmar", "HmarConfig"]
