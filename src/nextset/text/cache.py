"""Features of prompts kept on disk, so that an encoder is loaded only for a prompt that it has never seen.

One file for each prompt and encoder, named by a hash of both. Features are stored in the encoder's dtype: read again they
are the same bit for bit. Several processes may share a folder. What is lost, damaged or evicted is computed again.
It knows no encoder by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nextset.core.errors import NextsetError, NextsetWarning, check_range
from nextset.core.files import read_safetensors, write_safetensors
from nextset.text.condition import Text
from nextset.text.encoders import Features, TextEncoder, as_text
from nextset.text.prompts import clean_prompts

LIMIT = 2 * 2**30
# Finished files and, from processes that were killed, unfinished ones; whatever else is in the folder is left alone.
_OURS = re.compile(r"[0-9a-f]{64}\.safetensors|\.[0-9a-f]{64}\.safetensors\..*\.part")


class CachedEncoder:
    """An encoder that looks into a folder first.

    folder: made when something is stored. limit: bytes that it may hold; then those used longest ago are removed. Each
    process looks at the folder's size after a sixteenth of the limit, so together they may pass it by that much.
    """

    def __init__(self, encoder: TextEncoder, folder: str | Path, *, limit: int = LIMIT) -> None:
        check_range("limit of the text cache", limit, 0)
        self.encoder, self.folder, self.limit = encoder, Path(folder), limit
        self._room = 0  # bytes to be written before the folder's size is looked at again
        self._writes = True

    @property
    def width(self) -> int:
        """Channels C."""
        return self.encoder.width

    @property
    def dtype(self) -> torch.dtype:
        """In which features are computed and stored."""
        return self.encoder.dtype

    @property
    def identity(self) -> str:
        """That of the encoder."""
        return self.encoder.identity

    def encode(self, prompts: Sequence[str]) -> Text:
        """As the encoder's own `encode`."""
        return as_text(self.features(clean_prompts(prompts)))

    def features(self, prompts: Sequence[str]) -> list[Features]:
        """As the encoder's own `features`; each prompt is computed once, however often it is listed."""
        unique = dict.fromkeys(prompts)
        found = {prompt: stored for prompt in unique if (stored := self._read(prompt)) is not None}
        missing = [prompt for prompt in unique if prompt not in found]
        if missing:
            for prompt, computed in zip(missing, self.encoder.features(missing), strict=True):
                found[prompt] = computed
                self._write(prompt, computed)
        return [found[prompt] for prompt in prompts]

    def _path(self, prompt: str) -> Path:
        name = hashlib.sha256(self.identity.encode() + b"\0" + prompt.encode()).hexdigest()
        return self.folder / f"{name}.safetensors"

    def _read(self, prompt: str) -> Features | None:
        """What is stored for a prompt, marked as used now; None if that is nothing, or not what was stored."""
        path = self._path(prompt)
        if not path.is_file():
            return None
        try:
            stored = read_safetensors(path)
            values, cut, digest = stored["values"], stored["cut"], stored["digest"]
        except (NextsetError, KeyError):
            return None
        fits = values.dim() == 2 and values.shape[1] == self.width
        kinds = (values.dtype, cut.dtype, digest.dtype) == (self.dtype, torch.uint8, torch.uint8)
        if not fits or not kinds or not torch.equal(digest, _digest(values, cut)):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return Features(values, cut.numpy().tobytes().decode())

    def _write(self, prompt: str, features: Features) -> None:
        """Store, if the folder can be written: features are there all the same."""
        if not self._writes:
            return
        path, cut = self._path(prompt), torch.tensor(list(features.cut.encode()), dtype=torch.uint8)
        values = features.values
        try:
            write_safetensors(path, {"values": values, "cut": cut, "digest": _digest(values, cut)})
        except NextsetError as error:
            self._writes = False
            warnings.warn(f"features of prompts are not kept: {error}", NextsetWarning, stacklevel=4)
            return
        self._room -= values.nbytes
        if self._room < 0:
            self._room = self._evict()

    def _evict(self) -> int:
        """Bring the folder to seven eighths of the limit if it passes it. Returns how much may be written until the next
        look."""
        files = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                if _OURS.fullmatch(entry.name):
                    stat = entry.stat()
                    files.append((stat.st_mtime_ns, stat.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        if total > self.limit:
            for _, size, path in sorted(files):
                if total <= self.limit * 7 // 8:
                    break
                with contextlib.suppress(OSError):
                    os.unlink(path)
                total -= size
        return min(self.limit - total, self.limit // 16)


def _digest(values: Tensor, cut: Tensor) -> Tensor:
    """sha256 (32,) uint8 of what is stored: the file format finds a missing end, but no changed byte."""
    raw = values.contiguous().view(torch.uint8).numpy().tobytes() + cut.numpy().tobytes()
    return torch.frombuffer(bytearray(hashlib.sha256(raw).digest()), dtype=torch.uint8)
