"""nextset: autoregressive visual generation. Models that make a picture by predicting the next set of tokens.

    import nextset
    pipe = nextset.load()
    pipe("heart", n=4, seed=1).images[0].save("heart.png")
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["NextsetError", "Pipeline", "__version__", "list_systems", "load"]

# resolved on first use, so that `import nextset` and `nextset --help` stay fast
_PUBLIC = {
    "load": "nextset.pipelines",
    "Pipeline": "nextset.pipelines",
    "list_systems": "nextset.hub.catalogue",
    "NextsetError": "nextset.core.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nextset' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
