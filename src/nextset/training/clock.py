"""Clock: how long a run has lasted, its parts before a resume included, and how fast it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Starts at construction. elapsed: seconds that earlier parts of the run took; step: steps that they did."""

    def __init__(self, elapsed: float = 0.0, step: int = 0) -> None:
        now = time.monotonic()
        self._begun, self._before, self._first = now, elapsed, step
        self._lap, self._lap_step, self._pause = now, step, 0.0
        self._saved = now

    def elapsed(self) -> float:
        """Seconds of the whole run."""
        return self._before + time.monotonic() - self._begun

    def speed(self, step: int) -> float:
        """Steps per second since the start, pauses included: what an estimate of the end needs."""
        return (step - self._first) / max(time.monotonic() - self._begun, 1e-9)

    def lap(self, step: int, images: int) -> dict[str, float]:
        """Throughput since the last lap at `images` a step, without the pauses, and the time of the whole run."""
        now = time.monotonic()
        rate = (step - self._lap_step) * images / max(now - self._lap - self._pause, 1e-9)
        self._lap, self._lap_step, self._pause = now, step, 0.0
        return {"images_per_second": rate, "elapsed": self.elapsed()}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not training: samples, checkpoints."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._pause += time.monotonic() - begun

    def saved(self) -> None:
        """A checkpoint was written now."""
        self._saved = time.monotonic()

    def since_save(self) -> float:
        """Seconds since `saved`, or since the start."""
        return time.monotonic() - self._saved
