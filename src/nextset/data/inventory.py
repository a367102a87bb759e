"""What a data set holds, and what was left out of it and why: a plain dict for a run's folder and its report."""

from __future__ import annotations

from collections import Counter
from typing import Any

from nextset.data.dataset import Dataset


def inventory(data: Dataset) -> dict[str, Any]:
    """A dict that JSON can hold.

    source: where the pictures come from. pictures: how many. size: pixels a side. frames: of a clip, where they are
    clips. classes: pictures by class name. captions: how many pictures have one. skipped: a line for each file that was
    left out. converted: how many files needed which conversion. notes: what else a person should know, such as classes of a single picture.
    """
    counts = Counter(data.labels.tolist())
    classes: Counter[str] = Counter()
    for index, name in enumerate(data.class_names):
        classes[name] += counts[index]
    return {
        "source": data.source,
        "pictures": len(data),
        "size": data.size,
        **({"frames": data.frames} if hasattr(data, "frames") else {}),
        "classes": dict(classes),
        "captions": sum(bool(caption) for caption in data.captions or []),
        "skipped": list(data.skipped),
        "converted": dict(data.converted),
        "notes": [*data.notes, *_about(classes)],
    }


def summary(about: dict[str, Any], most: int = 20) -> list[str]:
    """The lines of an inventory that a person reads first: notes, then at most `most` files that were left out."""
    lines = [f"note: {note}" for note in about["notes"]]
    lines += [f"skipped: {line}" for line in about["skipped"][:most]]
    rest = len(about["skipped"]) - most
    return [*lines, f"skipped: and {rest:,} more"] if rest > 0 else lines


def _about(classes: Counter[str]) -> list[str]:
    """Classes that are too small to learn from."""
    if len(classes) < 2:
        return []
    notes = []
    for few, what in ((1, "one picture: it can only be learned by heart"), (0, "no picture: nothing is learned of it")):
        names = [name for name, count in classes.items() if count == few]
        if names:
            shown = ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
            one = len(names) == 1
            notes.append(f"{len(names)} {'class has' if one else 'classes have'} {what} ({shown})")
    return notes
