"""MAR: masked autoregression over continuous tokens. `model` says what it is, `config` its sizes, `blocks` its layers, `orders`
when an image's order is drawn, `convert` reads the authors' files."""

from nextset.systems.mar.config import MarConfig
from nextset.systems.mar.model import Mar

__all__ = ["Mar", "MarConfig"]
