"""nextset: autoregressive visual generation. Models that make a picture by predicting the next set of tokens.

    import nextset

    pipe = nextset.load()
    pipe("heart", n=4, seed=1).images[0].save("heart.png")

The public names below are resolved on first use: `import nextset` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextset.core.errors import NextsetError
    from nextset.hub.catalogue import list_systems
    from nextset.pipelines import Pipeline, load

__version__ = "0.1.0"
__all__ = ["NextsetError", "Pipeline", "__version__", "list_systems", "load"]

_HOMES = {
    "NextsetError": "nextset.core.errors",
    "Pipeline": "nextset.pipelines",
    "list_systems": "nextset.hub.catalogue",
    "load": "nextset.pipelines",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nextset' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
