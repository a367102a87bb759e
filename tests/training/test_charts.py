"""Charts are SVG for a page: its colours, no metadata, no names that clash, no spike lost."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import pytest

from nextset.core.errors import NextsetError
from nextset.training.charts import COLOURS, Line, heat_map, line_chart, scale_colours, smooth

pytest.importorskip("matplotlib")

STEPS = list(range(0, 3000, 1))
VALUES = [1.0 + 0.01 * (i % 5) for i in STEPS]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_a_chart_belongs_to_its_page() -> None:
    svg = line_chart([Line([1, 2], [3.0, 4.0], COLOURS[0])], 'a "loss" & <more>', unit="dB")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'a "loss" & <more>' and not {"width", "height"} & set(root.attrib)
    assert "currentColor" in svg and COLOURS[0] in svg
    for alien in ("purl.org", "matplotlib.org", "<style", "<?xml", "<!DOCTYPE", "font-family", "#010203"):
        assert alien not in svg
    assert {"dB", "step"} <= set(texts(svg))


def test_long_series_stay_small_and_keep_their_spikes() -> None:
    values = [*VALUES]
    values[1777] = 9.0
    svg = line_chart([Line(STEPS, values, "#123456")], "a", log=False)
    plain = line_chart([Line(STEPS, VALUES, "#123456")], "b", log=False)
    assert len(svg) < 40_000
    assert any(float(text) > 7 for text in texts(svg) if text.replace(".", "").isdigit())
    assert not any(float(text) > 7 for text in texts(plain) if text.replace(".", "").isdigit())
    lines = [path.get("d", "") for path in ElementTree.fromstring(svg).iter() if "#123456" in path.get("style", "")]
    tops = [
        min(float(point.split()[1]) for point in line[1:].replace("M", "L").split("L") if point.strip())
        for line in lines
    ]
    assert len(lines) == 2 and tops[0] < tops[1] - 10  # the thin line has the spike, the thick one a bump


def test_the_axis_is_logarithmic_where_it_helps() -> None:
    wide = line_chart([Line([1, 2, 3], [0.1, 1.0, 100.0], "#000000")], "wide")
    near = line_chart([Line([1, 2, 3], [1.0, 2.0, 3.0], "#000000")], "near")
    assert {"0.1", "1", "10", "100"} <= set(texts(wide)) and "10" not in texts(near)


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [-1.0, 5.0], [1e-9, 1e9], [1e299, -1e299]])
def test_all_numbers_can_be_drawn(values: list[float]) -> None:
    steps = list(range(len(values)))
    assert "<path" in line_chart([Line(steps, values, "#000000")], "x", mark=2.0)


def test_shares_are_per_cent() -> None:
    assert "50 %" in texts(line_chart([Line([1, 2], [0.0, 1.0], "#000000")], "x", share=True, log=False))


@pytest.mark.parametrize("steps", [[5], [1, 2, 50], STEPS])
def test_heat_map(steps: list[int]) -> None:
    svg = heat_map(steps, [[0.5] * len(steps), [1.0] * len(steps)], ["scale 0", "scale 1"], "used")
    image = next(element for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}image"))
    href = image.get("{http://www.w3.org/1999/xlink}href", "")
    assert href.startswith("data:image/png;base64,") and "\n" not in href and len(svg) < 60_000
    assert {"scale 0", "scale 1", "100%"} <= set(texts(svg))


def test_smooth() -> None:
    assert smooth([3.0, 1.0]) == [3.0, 1.0]
    assert smooth([2.0] * 100) == pytest.approx([2.0] * 100)
    noisy = [float(i % 2) for i in range(1000)]
    assert smooth(noisy)[-1] == pytest.approx(0.5, abs=0.02)


def test_scale_colours() -> None:
    for n in (1, 2, 6, 13):
        colours = scale_colours(n)
        assert len(set(colours)) == n and all(len(colour) == 7 for colour in colours)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NextsetError, match=r"nextset\[plots\]"):
        line_chart([Line([1], [1.0], "#000000")], "x")
