"""Charts of numbers over steps, as SVG that stands inside a page: text and axes in the page's own colour of text.

The colours of data are readable on light and on dark. A chart knows series and units, and no metric by name.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from nextset.core.errors import NextsetError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of runs: eight hues with a contrast of 3 or more to white and to near-black.
COLOURS = ("#2f7fd6", "#d9622b", "#1a9870", "#a65cd0", "#a87d0b", "#0d93a8", "#d0447f", "#7a7f87")
# Of scales, from the first to the last, and what lies between.
_RAMP = ("#5a6fe0", "#0d93a8", "#1a9870", "#a87d0b", "#d9622b", "#c94a7a")
# matplotlib writes colours as numbers: this one is found again and becomes that of the page. The others are shades of it.
_INK = "#010203"
_MUTED, _RULE = f"{_INK}aa", f"{_INK}26"
_WIDE = 8.6  # inches: two charts side by side
_POINTS = 400  # of a line: more than there are pixels under it
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 9,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@dataclasses.dataclass(frozen=True)
class Line:
    """values over steps, both of one length and not empty."""

    steps: Sequence[int]
    values: Sequence[float]
    colour: str


def line_chart(
    lines: Sequence[Line], title: str, *, unit: str = "", share: bool = False, log: bool | None = None,
    limits: tuple[float, float] | None = None, mark: float | None = None, wide: bool = False,
) -> str:  # fmt: skip
    """Lines over steps: what was logged thin, its running mean (`smooth`) thick.

    share: values in [0, 1] are written as per cent. log: of the values' axis; by default where all are positive and the
    largest is more than ten times the smallest. limits: of that axis, for charts that are compared. mark: a value to draw
    a broken line at. wide: as wide as two charts. Needs matplotlib.
    """
    every = np.concatenate([line.values for line in lines])
    if log is None:
        log = bool(every.min() > 0 and every.max() > 10 * every.min())

    def draw(axes: Axes) -> None:
        for line in lines:
            mean = smooth(line.values)
            smoothed = len(mean) > 1 and mean != list(line.values)
            thin = {"linewidth": 0.8, "alpha": 0.45} if smoothed else {"linewidth": 1.6}
            lone = {"marker": "o"} if len(line.steps) == 1 else {}
            axes.plot(*_thinned(line.steps, line.values), color=line.colour, **thin, **lone)  # type: ignore[arg-type]
            if smoothed:
                axes.plot(*_thinned(line.steps, mean), color=line.colour, linewidth=1.8)
        if mark is not None:
            axes.axhline(mark, color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        if log:
            axes.set_yscale("log")
        if limits:
            axes.set_ylim(*limits)
        _steps_axis(axes)
        _values_axis(axes, share)
        axes.set_ylabel(unit)
        axes.grid(axis="y")

    return _drawn(draw, title, (_WIDE, 2.7) if wide else (4.2, 2.4))


def heat_map(steps: Sequence[int], values: Sequence[Sequence[float]], labels: Sequence[str], title: str) -> str:
    """Shares, one row of values (len(steps)) for each label, the first at the top, from 0 to 100 %. Needs matplotlib."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import PercentFormatter

        half = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.5
        edges = [steps[0] - half, *((a + b) / 2 for a, b in itertools.pairwise(steps)), steps[-1] + half]
        mesh = axes.pcolormesh(edges, np.arange(len(labels) + 1), values, vmin=0, vmax=1, rasterized=True)
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(labels)) + 0.5, labels)
        _steps_axis(axes)
        axes.spines[:].set_visible(False)
        bar = axes.figure.colorbar(
            mesh, ax=axes, format=PercentFormatter(1), ticks=[0, 0.5, 1], pad=0.02, fraction=0.04
        )
        bar.outline.set_visible(False)  # type: ignore[operator]

    return _drawn(draw, title, (_WIDE, max(2.7, 0.9 + 0.22 * len(labels))))


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential running mean over a twenty-fifth of the values, unbiased at the start; of few values: themselves."""
    keep = 1 - 1 / max(1.0, len(values) / 25)
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def scale_colours(n: int) -> list[str]:
    """n colours from cold to warm, for lines in an order."""
    anchors = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in _RAMP], float)
    at = np.linspace(0, len(_RAMP) - 1, max(n, 2))[:n]
    channels = [np.interp(at, np.arange(len(_RAMP)), anchors[:, i]) for i in range(3)]
    return ["#{:02x}{:02x}{:02x}".format(*(round(float(c[i])) for c in channels)) for i in range(n)]


def _thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[Sequence[int], Sequence[float]]:
    """At most _POINTS of the points, with the lowest and the highest of every stretch: no spike is lost."""
    if len(values) <= _POINTS:
        return steps, values
    kept: set[int] = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), (_POINTS - 2) // 2):
        stretch = np.take(values, part)
        kept |= {int(part[stretch.argmin()]), int(part[stretch.argmax()])}
    chosen = sorted(kept)
    return [steps[i] for i in chosen], [values[i] for i in chosen]


def _steps_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("step", loc="right")
    axes.margins(x=0.01)


def _values_axis(axes: Axes, share: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g} %" if share else f"{y:.4g}"))


def _drawn(draw: Callable[[Axes], None], title: str, inches: tuple[float, float]) -> str:
    """One pair of axes, drawn and made into SVG. title: for those who cannot see it."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NextsetError("charts need matplotlib, which is not installed; pip install 'nextset[plots]'") from error
    with rc_context({**_STYLE, "svg.hashsalt": ascii(title)}):
        figure: Figure = Figure(figsize=inches, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    return _for_a_page(buffer.getvalue(), title)


def _for_a_page(svg: bytes, title: str) -> str:
    """Without what only a file needs: prologue, metadata, style sheet, size, fonts, names that nothing refers to."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    text = svg.decode()
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _tidy(element.attrib, text)
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", title)
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode")).strip()


def _tidy(attributes: dict[str, Any], text: str) -> None:
    if (name := attributes.get("id")) and f"#{name}" not in text:
        del attributes["id"]
    if style := attributes.get("style"):
        style = re.sub(r"font-family: [^;]*;?", "", style)
        attributes["style"] = style.replace(_INK, "currentColor")
    for name in ("d", "x", "y", "transform"):
        if name in attributes:
            attributes[name] = re.sub(r"(\.\d)\d+", r"\1", " ".join(attributes[name].split()))
    if data := attributes.get(f"{{{_XLINK}}}href"):
        attributes[f"{{{_XLINK}}}href"] = "".join(data.split())
