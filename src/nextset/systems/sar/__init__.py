"""SAR: a finished next-scale model trained a little longer on its own predictions. `convert` reads the authors' files."""

from nextset.systems.sar.model import Sar, SarConfig

__all__ = ["Sar", "SarConfig"]
