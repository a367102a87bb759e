"""What a folder of the authors' weights says about their licence when it is loaded.

A permissive licence is written down and nothing is said. Any other is said in one line, and so is one that nobody states:
whether a use is allowed is a question for the person, never for this file.
"""

from __future__ import annotations

from nextset.hub.catalogue import Record

PERMISSIVE = ("MIT", "Apache-2.0", "BSD", "CC-BY-4.0", "dataset CC-BY-4.0")
UNSTATED = ("none stated", "none seen", "not stated", "on the hub, not stated", "unknown")


def licence_entries(record: Record) -> dict[str, str]:
    """Entries of `config.json` for weights that the system's authors released: `licence`, and `licence_notice` where it
    must be said on load."""
    licence = record.weights_licence
    if licence.startswith(PERMISSIVE):
        return {"licence": licence}
    said = (
        "are released without a stated licence; treat them as all rights reserved"
        if licence in UNSTATED
        else f"are under {licence!r}; read it before you use them"
    )
    return {"licence": licence, "licence_notice": f"these weights of {record.slug} {said}"}
