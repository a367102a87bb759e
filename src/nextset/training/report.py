"""Report: what a person sees of a run. First lines, a progress bar on a terminal, a line per log step elsewhere.

It is told numbers and prints them; it measures nothing and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from nextset.training.players import Player
from nextset.training.recipes import TrainConfig

# The first estimate of the end is said after so many steps: the first ones are slow everywhere.
_ESTIMATE_AFTER = 10


class Report:
    """show: which numbers, by the last part of their name, stand beside the losses."""

    def __init__(self, console: Console, show: Sequence[str] = ()) -> None:
        self.console = console
        self.show = ("loss", *show)
        self._progress: Progress | None = None
        self._first = self._steps = 0

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(
        self, title: str, folder: Path, model: nn.Module, players: Mapping[str, Player], c: TrainConfig,
        samples: int | None, step: int,
    ) -> None:  # fmt: skip
        """What is trained, on what, how long; then the bar, where there is a terminal."""
        self._first, self._steps = step, c.steps
        self.say(f"resuming {title} at step {step} in {folder}" if step else f"training {title} in {folder}")
        for line in inventory(model, {name: player.names for name, player in players.items()}):
            self.say(line)
        seen = c.batch * c.accumulate
        data = f"{samples:,} samples, {c.steps * seen / samples:.3g} epochs, " if samples else ""
        limit = f", at most {c.time_budget:g} min" if c.time_budget else ""
        device = next(iter(players.values())).device
        threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
        self.say(f"data:    {data}{c.steps:,} steps of {seen}{limit}; {c.dtype} on {device}{threads}")
        if self.console.is_terminal:
            columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.add_task("", total=c.steps, completed=step)
            self._progress.start()

    def step(self, done: int, remaining: float) -> None:
        """`done` steps are over; remaining: seconds until the end."""
        if self._progress:
            self._progress.update(self._progress.task_ids[0], completed=done)
        if done == self._first + _ESTIMATE_AFTER:
            self.say(f"expected: {duration(remaining)} to go")

    def log(self, done: int, values: Mapping[str, float], remaining: float) -> None:
        """The numbers of a logging step."""
        shown = [f"{name} {value:.4g}" for name, value in values.items() if name.rsplit("/", 1)[-1] in self.show]
        rates = [f"lr {values['lr']:.2e}", f"{values['images_per_second']:.1f} images/s", f"{duration(remaining)} left"]
        text = "  ".join([*shown, *rates])
        if self._progress:
            self._progress.update(self._progress.task_ids[0], description=escape(text))
        else:
            self.say(f"step {done}/{self._steps}  {text}")

    def close(self) -> None:
        if self._progress:
            self._progress.stop()


def inventory(model: nn.Module, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines that say what is trained and what is frozen. groups: names of the parameters of each trained group."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    trained = {name for names in groups.values() for name in names}
    frozen = [name for name in sizes if name not in trained]

    def line(label: str, names: Sequence[str]) -> str:
        if not names:
            return f"{label} nothing"
        # The first part of a name is the module that a reader of the model knows.
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
        return f"{label} {count(sum(sizes[name] for name in names))} parameters: {parts}"

    return [*(line(f"trained: {group},", names) for group, names in groups.items()), line("frozen: ", frozen)]


def count(n: int) -> str:
    """12,345 as 12.3k."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return str(n)


def duration(seconds: float) -> str:
    """4020 as 67 min, 7200 as 2 h 00 min."""
    seconds = max(0, round(seconds))
    if seconds < 100:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
