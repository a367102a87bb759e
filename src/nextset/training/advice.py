"""Advice: remarks on a run by stated rules, each with the number behind it.

A rule is a function from a run's record to lines of text, none where all is well. Rules read numbers only: whether the
pictures are good is for a person to see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from statistics import fmean, median

from nextset.training.run_record import RunRecord

SETTLED = 1000  # steps before which nothing is said about what training has to learn first
LINES = 20  # lines that a rule about the course of a run needs


@dataclasses.dataclass(frozen=True)
class Rule:
    """about: the part of a page where its remarks belong. says: the rule, for who wants to know what was looked at."""

    about: str
    says: str
    find: Callable[[RunRecord], Iterator[str]]


@dataclasses.dataclass(frozen=True)
class Advice:
    """A remark that a rule made."""

    about: str
    text: str


def advice(run: RunRecord) -> list[Advice]:
    """What the rules find in a run, in their order."""
    return [Advice(rule.about, text) for rule in RULES for text in rule.find(run)]


def _not_finite(run: RunRecord) -> Iterator[str]:
    if run.not_finite:
        step, name = run.not_finite[0]
        lines = len({at for at, _ in run.not_finite})
        yield f"{name} is not finite at step {step:,} ({lines:,} such lines): lower lr or clip, or use dtype float32"


def _learns_nothing(run: RunRecord) -> Iterator[str]:
    if name := _goal(run):
        steps, values = run.series(name)
        now = fmean(values[-10:])
        if steps[-1] >= SETTLED and len(values) > LINES and now > values[0] - 0.05 * abs(values[0]):
            yield (
                f"{name} is {now:.4g} after {steps[-1]:,} steps and began at {values[0]:.4g}: nothing is learnt; try lr "
                "three times higher and lower, and look whether the pictures of the data are what they should be"
            )


def _rises(run: RunRecord) -> Iterator[str]:
    if name := _goal(run):
        steps, values = run.series(name)
        window = max(3, len(values) // 10)
        means = [fmean(values[i : i + window]) for i in range(len(values) - window + 1)]
        lowest = min(means, default=0.0)
        if len(values) >= 2 * window and means[-1] > lowest + 0.1 * abs(lowest):
            best = steps[means.index(lowest) + window // 2]
            yield (
                f"{name} has risen from {lowest:.4g} around step {best:,} to {means[-1]:.4g} (means of {window} lines): "
                "lower lr, or a longer warmup"
            )


def _collapses(run: RunRecord) -> Iterator[str]:
    for name, scale, value in _last_of_scales(run, "used"):
        if value < 0.1 and run.step >= SETTLED:
            yield (
                f"usage of scale {scale} is {value:.1%} of the codes at step {run.step:,} ({name}), below 10 % after "
                f"{SETTLED:,} steps: codes are collapsing; lower revive_every or raise revive_below, see docs/training.md"
            )


def _few_codes(run: RunRecord) -> Iterator[str]:
    vocabulary = run.setting("model.vocabulary", int, 0)
    used = {scale: value for _, scale, value in _last_of_scales(run, "used")}
    for name, scale, value in _last_of_scales(run, "perplexity"):
        if value < 0.02 * vocabulary and run.step >= SETTLED and used.get(scale, 1.0) >= 0.1:
            yield (
                f"scale {scale} uses its codes as unevenly as {value:.3g} of {vocabulary:,} ({name}), below 2 % after "
                f"{SETTLED:,} steps: a few codes do all the work there; see docs/training.md"
            )


def _revives(run: RunRecord) -> Iterator[str]:
    vocabulary = run.setting("model.vocabulary", int, 0)
    for name in _ending_in(run, "revived"):
        often = 100 * fmean(_last_quarter(run.series(name)[1]))
        if vocabulary and run.step >= SETTLED and often > 0.05 * vocabulary:
            yield (
                f"{often:.0f} of {vocabulary:,} codes were replaced every 100 steps of the last quarter ({name}), above "
                "5 %: codes die as fast as they are revived; a smaller vocabulary, or a lower revive_below"
            )


def _reconstructs_badly(run: RunRecord) -> Iterator[str]:
    for name in _ending_in(run, "psnr"):
        steps, values = run.series(name)
        if steps[-1] >= 2 * SETTLED and values[-1] < 20:
            yield (
                f"{name} is {values[-1]:.1f} dB at step {steps[-1]:,}, below 20 dB after {2 * SETTLED:,} steps: what a "
                "generator makes of these codes cannot be sharper; more channels, codes or scales, or more steps"
            )


def _knows_by_heart(run: RunRecord) -> Iterator[str]:
    for name in _ending_in(run, "accuracy"):
        value = fmean(run.series(name)[1][-5:])
        if value > 0.9:
            yield (
                f"{name} is {value:.1%}, above 90 %: the model knows its training codes by heart; see with `nextset judge "
                "--metrics memorisation`; more data, more code_variants or fewer steps"
            )


def _critic_wins(run: RunRecord) -> Iterator[str]:
    for name in _ending_in(run, "loss"):
        critic = name.removesuffix("/loss")
        values = _last_quarter(run.series(name)[1])
        if f"{critic}/real" in run.names() and len(values) >= 5 and fmean(values) < 0.1:
            yield (
                f"{name} is {fmean(values):.3g} over the last quarter, below 0.1: the critic tells every picture, and its "
                "opinion teaches nothing; lower lr_scale.critic, or let it begin later"
            )


def _jumps(run: RunRecord) -> Iterator[str]:
    warm = run.setting("train.warmup", int, 0)
    for name in _ending_in(run, "gradient_norm"):
        found = [(value, step) for step, value in zip(*run.series(name), strict=True) if step > warm]
        usual = median([value for value, _ in found]) if len(found) >= LINES else float("inf")
        highest, step = max(found, default=(0.0, 0))
        if highest > 10 * usual:
            yield (
                f"{name} was {highest:.3g} around step {step:,}, more than 10 times its median of {usual:.3g}: lower lr, a "
                "longer warmup, or a lower clip"
            )


def _slows_down(run: RunRecord) -> Iterator[str]:
    values = run.series("images_per_second")[1][1:]  # the first steps are slow everywhere
    if len(values) >= LINES:
        before, now = median(values[: len(values) // 2]), median(_last_quarter(values))
        if now < 0.7 * before:
            yield (
                f"{now:.3g} images/s over the last quarter, below 70 % of the {before:.3g} of the first half: look for "
                "other programs, a hot machine, or memory that is swapped"
            )


def _data_left_out(run: RunRecord) -> Iterator[str]:
    if run.data and (left := len(run.data.skipped)):
        files = run.data.pictures + left
        if left > 0.05 * files:
            yield f"{left:,} of {files:,} files were left out, above 5 %: the reasons stand below"


def _noted(run: RunRecord) -> Iterator[str]:
    if run.data:
        yield from run.data.notes


RULES = (
    Rule("losses", "A number is not finite.", _not_finite),
    Rule("losses", f"After {SETTLED:,} steps, a loss is not 5 % below its first line.", _learns_nothing),
    Rule("losses", "A loss is 10 % above its lowest, each a mean of a tenth of the lines.", _rises),
    Rule("losses", f"After {2 * SETTLED:,} steps, reconstructions have less than 20 dB.", _reconstructs_badly),
    Rule("losses", "More than 90 % of the training codes are predicted.", _knows_by_heart),
    Rule("losses", "The critic's loss is below 0.1 over the last quarter.", _critic_wins),
    Rule("codes", f"After {SETTLED:,} steps, a scale uses less than 10 % of the codes.", _collapses),
    Rule("codes", f"After {SETTLED:,} steps, a scale's perplexity is below 2 % of the vocabulary.", _few_codes),
    Rule("codes", "More than 5 % of the codes are replaced every 100 steps of the last quarter.", _revives),
    Rule("speed", "After warm-up, a gradient norm is above 10 times its median.", _jumps),
    Rule("speed", "Throughput of the last quarter is below 70 % of the first half's.", _slows_down),
    Rule("data", "More than 5 % of the files were left out.", _data_left_out),
    Rule("data", "Something was noted when the data was read, such as classes of a single picture.", _noted),
)


def _goal(run: RunRecord) -> str | None:
    """The loss that must fall; with two players none must."""
    losses = _ending_in(run, "loss")
    return losses[0] if len(losses) == 1 else None


def _ending_in(run: RunRecord, part: str) -> list[str]:
    return [name for name in run.names() if name.endswith(f"/{part}")]


def _last_of_scales(run: RunRecord, part: str) -> Iterator[tuple[str, int, float]]:
    """(name, scale, last value) of a number that is logged for each scale."""
    for family, scales in run.families().items():
        if family.endswith(f"/{part}"):
            for scale in scales:
                yield f"{family}_{scale}", scale, run.series(f"{family}_{scale}")[1][-1]


def _last_quarter(values: list[float]) -> list[float]:
    return values[-max(1, len(values) // 4) :]
