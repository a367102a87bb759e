"""How a picture of any shape becomes one of the size that is trained on: what a recipe may say, done with Pillow.

It knows nothing of files, classes or data sets.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from PIL import Image

from nextset.core.configs import Config
from nextset.data.images import fit

LONGEST = 8  # sides of a picture that is kept larger; a strip of 12,000 x 1 pixels would fill the memory


@dataclasses.dataclass(frozen=True)
class PictureOptions(Config):
    """What a recipe may say about pictures, wherever they come from.

    how: "cover" takes the middle square, "contain" adds white, "stretch" does neither. crop: "none" is what `how` says;
    with "centre" and "random" the shorter side becomes round(margin * size) pixels, and a square of size x size is cut
    out of the middle or, where "random" is augmented, anywhere. margin: 1..4. flip: mirror half of the samples when
    augmented. limit: most pictures to read, 0 = all.
    """

    how: Literal["cover", "contain", "stretch"] = "cover"
    crop: Literal["none", "centre", "random"] = "none"
    margin: float = 1.125
    flip: bool = False
    limit: int = 0

    def check(self) -> None:
        self.require("how", self.how == "cover" or self.crop == "none", "'cover' where crop is not 'none'")
        self.require("margin", 1 <= self.margin <= 4, "between 1 and 4 times the size")
        self.require("limit", self.limit >= 0, "at least 0; 0 reads all pictures")


def frame(picture: Image.Image, size: int, options: PictureOptions) -> tuple[Image.Image, list[str]]:
    """An RGB picture as it is kept, and a note where some of it was lost.

    It has size x size pixels or, for random crops, a shorter side of round(margin * size).
    """
    if options.crop == "none":
        return fit(picture, size, size, options.how), []
    larger, notes = resize_shorter(picture, round(options.margin * size))
    if options.crop == "random":
        return larger, notes
    left, top = middle(larger.width, size), middle(larger.height, size)
    return larger.crop((left, top, left + size, top + size)), notes


def resize_shorter(picture: Image.Image, side: int) -> tuple[Image.Image, list[str]]:
    """Bring the shorter side to `side` pixels with Lanczos; the longer one is rounded down, as the authors of image
    models have it from torchvision. Of pictures longer than 8:1 the middle is kept, and that is noted."""
    width, height = picture.size
    short = min(width, height)
    seen_width, seen_height = min(width, LONGEST * short), min(height, LONGEST * short)
    left, top = (width - seen_width) // 2, (height - seen_height) // 2
    notes = [] if (seen_width, seen_height) == picture.size else [f"longer than {LONGEST}:1, the middle is kept"]
    if short == side and not notes:
        return picture, notes
    box = (left, top, left + seen_width, top + seen_height)
    target = (side * seen_width // short, side * seen_height // short)
    return picture.resize(target, Image.Resampling.LANCZOS, box=box), notes


def middle(length: int, size: int) -> int:
    """Where a piece of `size` begins in the middle of `length`; torchvision's rounding (half to even)."""
    return round((length - size) / 2)
