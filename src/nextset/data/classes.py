"""Labels as people write them, to numbers and names. It knows nothing of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from nextset.core.errors import NextsetError

NO_CLASS = "all"
MOST = 1_000_000


def label_of(text: str) -> int | str | None:
    """A label that is written as text: a whole number where it is one, None where it is empty."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text or None


def number(labels: Sequence[int | str | None], source: str) -> tuple[list[int], list[str]]:
    """An index for each label, and the names of the classes.

    Whole numbers are indices already, and their own names; names are sorted. None everywhere is one class, "all".
    """
    given = [label for label in labels if label is not None]
    if not given:
        return [0] * len(labels), [NO_CLASS]
    if len(given) < len(labels):
        have = f"{len(labels) - len(given)} of {len(labels)} pictures have no label"
        raise NextsetError(f"{source}: {have}, but the others have; give a label to every picture, or to none")
    indices = [label for label in given if isinstance(label, int)]
    names = [label for label in given if isinstance(label, str)]
    if not names:
        if min(indices) < 0 or max(indices) >= MOST:
            wrong = min(indices) if min(indices) < 0 else max(indices)
            raise NextsetError(
                f"{source}: a label is {wrong}, but must be from 0 to {MOST - 1:,}; count classes from 0"
            )
        return indices, [str(i) for i in range(max(indices) + 1)]
    if indices:
        mixed = f"labels are partly numbers ({indices[0]}) and partly names ({names[0][:40]!r})"
        raise NextsetError(f"{source}: {mixed}; write all of them in one way")
    classes = sorted(set(names))
    place = {name: i for i, name in enumerate(classes)}
    return [place[name] for name in names], classes
