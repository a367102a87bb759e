"""Just Zoom In: where a photo was taken, by zooming into a map. `model` says what it is, `config` its sizes, `zoom` the world
that it looks at, `geometry` where cells lie, `photos` what of a photo is read, `examples` what it is trained on, `retrieval` the
baseline, `cost` what either costs, `convert` reads the authors' files."""

from nextset.systems.just_zoom_in.config import JustZoomInConfig
from nextset.systems.just_zoom_in.model import JustZoomIn
from nextset.systems.just_zoom_in.zoom import Cells

__all__ = ["Cells", "JustZoomIn", "JustZoomInConfig"]
