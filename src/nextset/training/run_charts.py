"""Run charts: which numbers of runs are drawn, how they are explained, and the cards of a page that hold them.

It knows the metrics by the last part of their names; one that it does not know is drawn without an explanation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from html import escape

from nextset.training.charts import Line, heat_map, line_chart, scale_colours
from nextset.training.run_record import RunRecord


@dataclasses.dataclass(frozen=True)
class Shown:
    """A run with the name and the colour that it has on the whole page."""

    run: RunRecord
    name: str
    colour: str

    @property
    def key(self) -> str:
        """HTML: the name beside its colour."""
        return _key(self.name, self.colour)


@dataclasses.dataclass(frozen=True)
class Metric:
    """says: what it is. share: a part of 1, written as per cent. log: of the axis; None: as it fits."""

    says: str = ""
    unit: str = ""
    share: bool = False
    log: bool | None = None

    @classmethod
    def of(cls, name: str) -> Metric:
        """The metric of a logged name such as "tokenizer/psnr"."""
        return METRICS.get(last_part(name), cls())

    def written(self, value: float) -> str:
        """A value without its unit."""
        return f"{100 * value:.3g} %" if self.share else f"{value:.4g}"


METRICS = {
    "loss": Metric("what is minimised"),
    "ce": Metric("cross-entropy", "nats per code"),
    "accuracy": Metric("codes predicted right", share=True, log=False),
    "accuracy_last": Metric("the same at the last scale", share=True, log=False),
    "psnr": Metric("reconstructions; higher is better", "dB", log=False),
    "l1": Metric("mean absolute error of pixels in [-1, 1]"),
    "l2": Metric("mean squared error of pixels in [-1, 1]"),
    "gradient": Metric("error of image gradients"),
    "perceptual": Metric("difference of features"),
    "vq": Metric("the quantiser's own loss"),
    "adversarial": Metric("the critic's opinion of reconstructions"),
    "adversarial_weight": Metric("its weight in the loss"),
    "real": Metric("the critic's score of real pictures"),
    "made": Metric("the critic's score of reconstructions"),
    "revived": Metric("dead codes replaced", "codes per step", log=False),
    "used": Metric("share of the codebook in use", share=True, log=False),
    "perplexity": Metric("effective number of codes", "codes"),
    "gradient_norm": Metric("before clipping", "L2 norm"),
    "lr": Metric("learning rate", log=False),
    "weight_decay": Metric("pull of the weights to zero", log=False),
    "images_per_second": Metric("throughput", "images/s", log=False),
}
_SPEED = ("gradient_norm", "lr", "weight_decay", "images_per_second")
_CODES = ("used", "perplexity")


def last_part(name: str) -> str:
    """ "psnr" of "tokenizer/psnr"."""
    return name.rsplit("/", 1)[-1]


def loss_cards(runs: Sequence[Shown]) -> list[str]:
    """Losses, their parts and what else the Updates say, then what they say of each scale."""
    families = _families(runs)
    of_scales = {f"{family}_{k}" for family, scales in families.items() for k in scales}
    names = [name for name in _names(runs) if name not in of_scales and last_part(name) not in _SPEED]
    cards = [_chart(runs, name) for name in names]
    for family, scales in families.items():
        if last_part(family) not in _CODES:
            cards += _by_scale(runs, family, scales)
    return cards


def code_cards(runs: Sequence[Shown]) -> list[str]:
    """How the codebook is used: heat maps of shares, and perplexities."""
    cards = []
    for family, scales in _families(runs).items():
        if last_part(family) == "used":
            cards += [card for shown in runs for card in _usage(shown, family, len(runs) == 1)]
        elif last_part(family) == "perplexity":
            cards += _by_scale(runs, family, scales)
    return cards


def speed_cards(runs: Sequence[Shown]) -> list[str]:
    """What the optimiser did, and how fast."""
    return [_chart(runs, name) for name in _names(runs) if last_part(name) in _SPEED]


def _chart(runs: Sequence[Shown], name: str) -> str:
    """One number of all runs."""
    metric = Metric.of(name)
    clips = {shown.run.setting("train.clip", float, 0.0) for shown in runs}
    clip = clips.pop() if last_part(name) == "gradient_norm" and len(clips) == 1 else 0.0
    says = f"{metric.says}; broken line: clip" if clip else metric.says
    lines, legend = _lines(runs, name)
    svg = line_chart(lines, name, unit=metric.unit, share=metric.share, log=metric.log, mark=clip if clip > 0 else None)
    return _card(name, says, legend, svg)


def _by_scale(runs: Sequence[Shown], family: str, scales: Sequence[int]) -> list[str]:
    """Of one run all scales in one chart; of several a chart for each scale, all on the same axis."""
    metric = Metric.of(family)
    if len(runs) == 1:
        lines = [
            Line(*runs[0].run.series(f"{family}_{k}"), colour)
            for k, colour in zip(scales, scale_colours(len(scales)), strict=True)
        ]
        keys = [
            _key(str(k), line.colour, metric.written(line.values[-1])) for k, line in zip(scales, lines, strict=True)
        ]
        svg = line_chart(lines, f"{family} by scale", unit=metric.unit, share=metric.share, log=metric.log, wide=True)
        return [_card(f"{family}_k", f"{metric.says}, by scale", "".join(keys), svg, wide=True)]
    found = [_lines(runs, f"{family}_{k}") for k in scales]
    values = [value for lines, _ in found for line in lines for value in line.values]
    low, high = min(values), max(values)
    log = 0 < 10 * low < high and metric.log is not False
    room = 0.05 * (high - low or 1.0)
    limits = (low / 1.1, high * 1.1) if log else (low - room, high + room)
    cards = []
    for k, (lines, legend) in zip(scales, found, strict=True):
        name = f"{family}_{k}"
        svg = line_chart(lines, name, unit=metric.unit, share=metric.share, log=log, limits=limits)
        cards.append(_card(name, metric.says, legend, svg))
    return cards


def _usage(shown: Shown, family: str, alone: bool) -> Iterator[str]:
    """The heat map of a run's shares, if it has them."""
    metric, scales = Metric.of(family), shown.run.families().get(family, [])
    rows = [dict(zip(*shown.run.series(f"{family}_{k}"), strict=True)) for k in scales]
    steps = sorted(set[int]().union(*rows).intersection(*rows))
    if steps:
        values = [[row[step] for step in steps] for row in rows]
        keys = [
            f'<span class="key">{k} <b>{metric.written(row[-1])}</b></span>'
            for k, row in zip(scales, values, strict=True)
        ]
        svg = heat_map(steps, values, [f"scale {k}" for k in scales], f"{family} of {shown.name}")
        legend = "".join(keys if alone else [shown.key, *keys])
        yield _card(f"{family}_k", f"{metric.says}, scale over step", legend, svg, wide=True)


def _lines(runs: Sequence[Shown], name: str) -> tuple[list[Line], str]:
    """The lines of a number, and a legend: each run's name, where there are several, and its last value."""
    lines, legend = [], ""
    for shown in runs:
        steps, values = shown.run.series(name)
        if values:
            lines.append(Line(steps, values, shown.colour))
            last = Metric.of(name).written(values[-1])
            legend += _key(shown.name, shown.colour, last) if len(runs) > 1 else f"<b>{last}</b>"
    return lines, legend


def _names(runs: Sequence[Shown]) -> list[str]:
    return list(dict.fromkeys(name for shown in runs for name in shown.run.names()))


def _families(runs: Sequence[Shown]) -> dict[str, list[int]]:
    """Each number that some run logs by scale -> the scales of all runs."""
    found: dict[str, set[int]] = {}
    for shown in runs:
        for family, scales in shown.run.families().items():
            found.setdefault(family, set()).update(scales)
    return {family: sorted(scales) for family, scales in found.items()}


def _key(name: str, colour: str, value: str = "") -> str:
    last = f" <b>{value}</b>" if value else ""
    return f'<span class="key"><i style="background: {colour}"></i>{escape(name)}{last}</span>'


def _card(name: str, says: str, legend: str, svg: str, wide: bool = False) -> str:
    kind = "card wide" if wide else "card"
    return (
        f'<figure class="{kind}"><figcaption><code>{escape(name)}</code><small>{escape(says)}</small>'
        f"<div>{legend}</div></figcaption>{svg}</figure>"
    )
