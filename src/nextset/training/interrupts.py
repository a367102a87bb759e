"""Interrupts: SIGINT and SIGTERM become a request to stop after the step, so that nothing is lost.

A second Ctrl-C stops at once.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """Within its context, `received` is the first of the two signals that came, or None.

    Outside the main thread, where Python cannot handle signals, it listens to nothing.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM; 0 without one."""
        return 128 + self.received if self.received else 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
