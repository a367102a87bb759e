"""Which systems have a claim that can be measured, and the claims that were filed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from nextset.core.errors import NextsetError
from nextset.core.files import read_json
from nextset.hub.catalogue import get_record, list_systems
from nextset.hub.pretrained import class_of
from nextset.judges.claims import Claim, Lab


def claim_of(slug: str) -> Callable[[Lab], Claim]:
    """What measures the claim of a system; the catalogue's record says where it is."""
    record = get_record(slug)
    if not record.claim:
        known = ", ".join(sorted(r.slug for r in list_systems() if r.claim))
        raise NextsetError(f"the claim of {slug} cannot be measured yet; those that can: {known}")
    return class_of(record.claim)


def filed(folder: Path | None = None) -> list[dict[str, Any]]:
    """The filed claims of a folder, by default of this place, the source tree or the package; by slug."""
    if folder is not None and not folder.is_dir():
        raise NextsetError(f"{folder} is not a folder; give one that holds filed claims")
    package = Path(str(resources.files("nextset"))) / "claims"
    places = [Path("benchmarks/claims"), Path(__file__).resolve().parents[3] / "benchmarks" / "claims", package]
    place = folder or next((p for p in places if p.is_dir()), None)
    return [_read(path) for path in sorted(place.glob("*.json"))] if place else []


def _read(path: Path) -> dict[str, Any]:
    record = read_json(path)
    wanted = ("slug", "statement", "outcome", "budget_minutes", "machine", "findings")
    missing = [name for name in wanted if not isinstance(record, dict) or name not in record]
    if missing:
        raise NextsetError(f"{path} is no filed claim: it lacks {missing[0]!r}; measure it again with `nextset claim`")
    return record
