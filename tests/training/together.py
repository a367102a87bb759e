"""Several processes that train together, for tests: forks of this one, so that none of them waits for imports."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from nextset.core import processes

# What cut tensors need, imported before the fork and only where processes are started.
HEAVY = ("torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Team:
    """Processes that run `work(rank)`. results(): what each returned, in order; an exception of one is raised here."""

    def __init__(self, n: int, work: Callable[[int], Any], folder: Path) -> None:
        for name in HEAVY:
            importlib.import_module(name)
        self.folder = folder
        port = free_port()
        self.ids = [self._start(rank, n, port, work) for rank in range(n)]
        self.codes: list[int | None] = [None] * n

    def _start(self, rank: int, n: int, port: int, work: Callable[[int], Any]) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            launch = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": n,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            os.environ.update({name: str(value) for name, value in launch.items()})
            torch.set_num_threads(1)
            processes.join()
            (self.folder / f"{rank}.result").write_bytes(pickle.dumps(work(rank)))
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            (self.folder / f"{rank}.error").write_text(traceback.format_exc())
        finally:
            os._exit(code)

    def wait(self, timeout: float = 240) -> list[int]:
        """Exit codes, in order; negative for a signal. Processes that take too long are killed."""
        deadline = time.monotonic() + timeout
        while None in self.codes:
            for rank, child in enumerate(self.ids):
                if self.codes[rank] is None:
                    done, status = os.waitpid(child, os.WNOHANG)
                    self.codes[rank] = os.waitstatus_to_exitcode(status) if done else None
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.005)
        return [code for code in self.codes if code is not None]

    def kill(self) -> None:
        for rank, child in enumerate(self.ids):
            if self.codes[rank] is None:
                os.kill(child, signal.SIGKILL)

    def results(self, timeout: float = 240) -> list[Any]:
        codes = self.wait(timeout)
        for rank, code in enumerate(codes):
            error = self.folder / f"{rank}.error"
            assert code == 0, f"process {rank} ended with {code}: {error.read_text() if error.exists() else ''}"
        return [pickle.loads((self.folder / f"{rank}.result").read_bytes()) for rank in range(len(codes))]


@contextlib.contextmanager
def team(n: int, work: Callable[[int], Any]) -> Iterator[Team]:
    """Start n processes; those that still run in the end are killed."""
    with tempfile.TemporaryDirectory() as folder:
        started = Team(n, work, Path(folder))
        try:
            yield started
        finally:
            started.kill()
            started.wait()


def together(n: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of n processes returns."""
    with team(n, work) as started:
        return started.results()
