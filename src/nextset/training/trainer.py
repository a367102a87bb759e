"""Trainer: follows the Updates of a model. It does backward, clipping, optimiser, mean of weights, logs, checkpoints.

It knows no system: a model is any module with `updates` and `parameter_groups` (`nextset.core.update.Trainable`). What
is random in a step depends on (seed, step) and on sample indices only, so a resumed run is the whole run, bit by bit.
Several processes that a launcher started train one model; process 0 alone writes and speaks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.errors import NextsetError
from nextset.core.files import write_json
from nextset.core.noise import Noise
from nextset.core.update import Trainable, Update
from nextset.nn.precision import fast_bfloat16
from nextset.training import checkpoints, schedules
from nextset.training.batches import check_rows, rows_of_one
from nextset.training.clock import Clock
from nextset.training.ema import Ema
from nextset.training.interrupts import Interrupts
from nextset.training.metrics import Means, MetricsWriter
from nextset.training.parallel import weights_of
from nextset.training.players import players
from nextset.training.recipes import TrainConfig
from nextset.training.report import Report, duration

# Fields that may differ between a run and its continuation without a word.
_FREE = {"log_every", "sample_every", "save_every", "save_minutes", "keep", "threads", "parallel", "checkpoint"}


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended: steps done, seconds used in all, the last logged numbers, the last checkpoint."""

    step: int
    elapsed: float
    metrics: dict[str, float]
    checkpoint: Path


class Trainer:
    """Trains `model` in `folder`, which holds metrics.jsonl, samples/ and the checkpoints.

    batches(i) -> batch i: a tensor or a dict of tensors (moved to the model's device); step s sees the batches
    s * accumulate ... (s + 1) * accumulate - 1. Of several processes each gets its rows (`Batches` sees to it).
    samples: how many there are, for the first lines.
    sample(model, step) -> images to look at, or None; called with the mean weights, in eval mode, without gradients.
    write_grid(path, images) stores them as samples/step-000100.png.
    show: parts of Updates that are printed beside the losses. on_log(step, values): after each logged line.
    notes: whatever JSON-able belongs to the run (its recipe); saved with each checkpoint.
    files: names and JSON-able contents of files that the folder gets when the run begins.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Callable[[int], Any],
        config: TrainConfig,
        folder: str | Path,
        *,
        title: str = "model",
        samples: int | None = None,
        sample: Callable[[nn.Module, int], Tensor | None] | None = None,
        write_grid: Callable[[Path, Tensor], None] | None = None,
        show: Sequence[str] = (),
        on_log: Callable[[int, dict[str, float]], None] | None = None,
        notes: dict[str, Any] | None = None,
        files: dict[str, Any] | None = None,
        console: Console | None = None,
    ) -> None:
        self.model, self.batches, self.config, self.folder = model, batches, config, Path(folder)
        self.title, self.samples, self.notes, self.files = title, samples, notes or {}, files or {}
        self.sample, self.write_grid, self.on_log = sample, write_grid, on_log
        processes.join()
        if others := processes.unlike_first({"config": config.to_dict(), "notes": self.notes}):
            raise NextsetError(
                f"{others} of {processes.count()} processes have another recipe or other data than the first; start all "
                f"with the same command, and give every machine the same data"
            )
        self._rows = rows_of_one(config.batch, processes.count())
        self.first = processes.rank() == 0
        self.report = Report((console or Console()) if self.first else Console(quiet=True), show)
        self.step = 0
        self.elapsed = 0.0
        self.weights = weights_of(model, config.parallel)
        self.players = players(model, self.weights, config)
        self.device = next(iter(self.players.values())).device
        slow = config.dtype == "bfloat16" and not fast_bfloat16()  # where it is emulated, a step takes 30 times as long
        self.dtype = "float32" if slow else config.dtype
        self.ema = Ema(model, config.ema) if config.ema else None
        self._noise = Noise(config.seed, "train")
        self._means = Means()
        self._used: dict[str, float] = {}  # rates of the last step
        self._saved: Path | None = None

    # ---- the run

    def run(self) -> Result:
        """Train to the last step or the end of the time budget; the end is logged, sampled and saved.

        On SIGINT or SIGTERM, to any of the processes, the step is finished and saved, then SystemExit is raised with 130
        or 143. A folder with checkpoints of another run is refused with NextsetError; `resume` continues it.
        """
        c = self.config
        newest = processes.by_first(lambda: checkpoints.latest(self.folder))
        if newest is not None and self._saved is None:
            raise NextsetError(f"{self.folder} already holds {newest.name}; resume that run or choose another folder")
        processes.by_first(self._write_files)
        if c.threads:
            torch.set_num_threads(c.threads)
        _train_mode(self.model)
        if self.dtype != c.dtype:
            self.report.say(f"this machine has no {c.dtype} instructions: computing in {self.dtype}")
        about = c.replace(dtype=self.dtype)
        self.report.begin(self.title, self.folder, self.model, self.players, about, self.samples, self.step)
        if processes.count() > 1:
            self.report.say(f"shared:  {processes.count()} processes ({self.weights.name}), {self._rows} rows each")
        clock = Clock(self.elapsed, self.step)
        logged = sampled = saved = self.step
        values: dict[str, float] = {}
        try:
            with Interrupts() as interrupts, self._metrics() as metrics:
                while True:
                    # The end is decided here alone, and by all processes together: a signal at any moment finds it
                    # logged and saved. Their clocks differ, so they go by the one that is ahead.
                    stop, self.elapsed, unsaved = processes.most(
                        interrupts.received or 0, clock.elapsed(), clock.since_save()
                    )
                    over = self.step >= c.steps or stop > 0 or self._out_of_time()
                    if self.step > logged and (over or self._due(c.log_every)):
                        self._check_finite()
                        values = {**self._means.take(), **self._used, **clock.lap(self.step, c.batch * c.accumulate)}
                        logged = self.step
                        if metrics:
                            self._log(metrics, values, clock)
                    if self.step > sampled and not stop and (over or self._due(c.sample_every)):
                        with clock.paused():
                            self._write_samples()
                        sampled = self.step
                    late = 0 < 60 * c.save_minutes < unsaved
                    if self.step > saved and (over or late or self._due(c.save_every)):
                        with clock.paused():
                            self._save_or_say(must=over)
                        clock.saved()
                        saved = self.step
                    if over:
                        break
                    self._one_step()
                    self.report.step(self.step, self._remaining(clock.speed(self.step)))
            path = self._saved or self.save()
            if stop := int(processes.most(interrupts.received or 0)[0]):
                name = signal.Signals(stop).name
                self.report.say(f"{name}: stopped after step {self.step}; saved {path}; resume the run to go on")
                raise SystemExit(128 + stop)
            why = "" if self.step >= c.steps else f" (the time budget of {c.time_budget:g} min is used up)"
            self.report.say(f"done: {self.step} steps in {duration(self.elapsed)}{why}; saved {path}")
            return Result(self.step, self.elapsed, values, path)
        finally:
            self.report.close()

    def _one_step(self) -> None:
        """All Updates of all batches of a step."""
        parts = self.config.accumulate
        self._used = self._rates()
        torch.manual_seed(_hash(self.config.seed, self.step, processes.rank()))  # dropout, noise without an address
        for part in range(parts):
            batch = _to(self.batches(self.step * parts + part), self.device)
            check_rows(batch, self._rows)
            for update in self._updates(batch):
                self._follow(update, last=part == parts - 1)
        self.weights.settle()
        if self.ema:
            self.ema.update()
        self.step += 1

    def _updates(self, batch: Any) -> Iterator[Update]:
        """The model's Updates; its own code, and nothing else, runs under autocast."""
        source = cast(Trainable, self.model).updates(batch, self.step, self._noise)
        while True:
            self.weights.gather()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
                update = next(source, None)
            if update is None:
                return
            yield update

    def _follow(self, update: Update, last: bool) -> None:
        """Backward, and a step where the update asks for one and its part is the `last` of a step."""
        player = self.players.get(update.group)
        if player is None:
            groups = ", ".join(self.players)
            raise ValueError(f"update {update.name!r} is for group {update.group!r}, but the model has {groups}")
        player.backward(update.loss / self.config.accumulate)
        labels = ("loss", *update.parts)
        values = [value.detach().float().reshape(()) for value in (update.loss, *update.parts.values())]
        scalars = processes.mean(torch.stack([value.to(self.device) for value in values]))
        self._means.add(tuple(f"{update.name}/{label}" for label in labels), scalars)
        if last:
            player.reduce()
        if last and update.apply:
            self.weights.release()
            norm, each = player.clip()
            self._means.add((f"{update.name}/gradient_norm",), norm[None])
            player.finite.watch(update.name, labels, scalars, each, self.step)
            if self.device.type == "cpu":
                self._check_finite()  # before the weights are spoilt; on other devices the host does not wait for it
            player.step(**self._used)

    # ---- state

    def save(self) -> Path:
        """Write a checkpoint of this moment, for any number of processes; NextsetError if numbers are not finite or the
        disk is full."""
        self._check_finite()
        state: dict[str, Any] = {"elapsed": self.elapsed, "config": self.config.to_dict(), "notes": self.notes}
        state["means"] = self._means.state()
        self.weights.release()
        tensors = {f"optimizer-{name}": player.tensors() for name, player in self.players.items()}
        tensors["model"] = self.model.state_dict()
        if self.ema:
            tensors["ema"] = self.ema.means()
            state["ema_updates"] = self.ema.updates
        sharded = self.config.checkpoint == "sharded"
        if not sharded:
            tensors = {group: self.weights.collect(named) for group, named in tensors.items()}
        self._saved = checkpoints.save(self.folder, self.step, tensors, state, self.config.keep, sharded)
        return self._saved

    def resume(self, path: str | Path | None = None) -> int:
        """Continue from a checkpoint (default: the newest of the folder); returns its step.

        Raises NextsetError if it is damaged or of another model. Values of the config that changed are said.
        """
        processes.by_first(lambda: checkpoints.recover(self.folder))
        saved = checkpoints.load(Path(path) if path else self.folder, self.weights.place)
        try:
            self.weights.load(saved.tensors["model"])
            for name, player in self.players.items():
                player.load(saved.tensors[f"optimizer-{name}"])
            if self.ema and "ema" in saved.tensors:
                self.ema.load(saved.tensors["ema"], saved.state["ema_updates"])
            elif self.ema:
                self.ema.restart()
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise NextsetError(f"{saved.path} is not of this model: {reason}; use the run's own recipe") from error
        self._means.load(saved.state.get("means", []), self.device)
        self.step, self.elapsed, self._saved = saved.step, float(saved.state["elapsed"]), saved.path
        before, now = saved.state["config"], self.config.to_dict()
        changed = [f"{k} {before.get(k)} -> {v}" for k, v in now.items() if k not in _FREE and before.get(k) != v]
        if changed:
            self.report.say(f"resumed with other values: {', '.join(changed)}")
        return self.step

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its mean weights (as trained where there is no mean), in eval mode, without gradients."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            self.weights.release()
            with torch.no_grad(), self.ema.swapped() if self.ema else contextlib.nullcontext(), self.weights.plain():
                yield self.model
        finally:
            for module, training in modes:
                module.training = training

    # ---- pieces

    def _rates(self) -> dict[str, float]:
        """Learning rate and weight decay of the step that comes next."""
        c = self.config
        budget = 60 * c.time_budget if c.schedule_by == "time" else 0.0
        it = schedules.iteration(self.step, c.steps, c.warmup, self.elapsed, budget)
        last = c.weight_decay if c.weight_decay_end is None else c.weight_decay_end
        return {
            "lr": c.lr * schedules.lr_ratio(c.schedule, it, c.warmup, c.steps, c.start, c.end),
            "weight_decay": schedules.weight_decay(it, c.steps, c.weight_decay, last),
        }

    def _write_files(self) -> None:
        for name, content in self.files.items():
            write_json(self.folder / name, content)

    def _write_samples(self) -> None:
        if self.sample is None or self.write_grid is None:
            return
        with self.averaged() as model:
            processes.by_first(lambda: self._write_grid(model))

    def _write_grid(self, model: nn.Module) -> None:
        assert self.sample is not None and self.write_grid is not None
        images = self.sample(model, self.step)
        if images is None:
            return
        path = self.folder / "samples" / f"step-{self.step:06d}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.write_grid(path, images)
        except NextsetError as error:
            self.report.say(f"warning: {error}")
        except OSError as error:
            self.report.say(f"warning: {path} was not written: {error.strerror or error}")

    def _metrics(self) -> contextlib.AbstractContextManager[MetricsWriter | None]:
        return MetricsWriter(self.folder, after=self.step) if self.first else contextlib.nullcontext()

    def _log(self, metrics: MetricsWriter, values: dict[str, float], clock: Clock) -> None:
        if problem := metrics.write(self.step, values):
            self.report.say(f"warning: {problem}")
        self.report.log(self.step, values, self._remaining(clock.speed(self.step)))
        if self.on_log:
            self.on_log(self.step, values)

    def _save_or_say(self, must: bool) -> None:
        """Save. A full disk in the middle of a run is said and tried again later: the run itself is not lost."""
        self._check_finite()
        try:
            self.save()
        except NextsetError as error:
            if must:
                raise
            self.report.say(f"warning: {error}")

    def _check_finite(self) -> None:
        remedy = "lower lr or clip" + (", or use dtype float32" if self.dtype != "float32" else "")
        for player in self.players.values():
            player.finite.check(f"{remedy}, and resume {self._saved}" if self._saved else remedy)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _out_of_time(self) -> bool:
        return 0 < 60 * self.config.time_budget <= self.elapsed

    def _remaining(self, steps_per_second: float) -> float:
        """Seconds until the run ends."""
        seconds = (self.config.steps - self.step) / max(steps_per_second, 1e-9)
        return min(seconds, 60 * self.config.time_budget - self.elapsed) if self.config.time_budget else seconds


def _train_mode(model: nn.Module) -> None:
    """Train mode, but for frozen parts: their dropout stays off and their statistics stay."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: _to(value, device) for name, value in batch.items()}
    return batch


def _hash(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for one step of one process."""
    words = f"{seed}/{step}" + (f"/{rank}" if rank else "")
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little") >> 1
