"""NFIG: next-frequency prediction. VAR's transformer on the codes of `tokenizers.frequency`, which orders detail by frequency."""

from nextset.systems.nfig.model import Nfig, NfigConfig

__all__ = ["Nfig", "NfigConfig"]
