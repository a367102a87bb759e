"""Cached codes: a data set as the tokenizer sees it, so that a generator trains without pictures.

One `.npz`: ids int16 or int32 (variants, N, L), labels, class names, captions where there are any, and the fingerprints
of data set and tokenizer. Variant 0 is the picture as it is, the others are augmented.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.arrays import array_names, read_arrays, write_arrays


@dataclasses.dataclass
class Codes:
    """ids (variants, N, L), labels (N,) int64, captions: N texts or None."""

    ids: np.ndarray
    labels: Tensor
    class_names: list[str]
    fingerprint: str
    captions: list[str] | None = None

    def __len__(self) -> int:
        return self.ids.shape[1]

    def batch(self, indices: Tensor, samples: Tensor, noise: Noise) -> dict[str, Any]:
        """Codes (B, L) int64 and labels of some items, with the codes of another item of the same class as `peers`; which
        variant and which peer are functions of the sample index."""
        u = noise.of("variant").uniform(samples, torch.zeros(1, dtype=torch.int64))[:, 0]
        variant = (u * self.ids.shape[0]).long().clamp_max(self.ids.shape[0] - 1)
        ids = torch.from_numpy(self.ids[variant.numpy(), indices.numpy()].astype(np.int64))
        peer = noise.of("peer").uniform(samples, torch.zeros(1, dtype=torch.int64))[:, 0]
        order, first, count = self._classes
        labels = self.labels[indices]
        peers = order[first[labels] + (peer * count[labels]).long().clamp_max(count[labels] - 1)]
        others = torch.from_numpy(self.ids[0, peers.numpy()].astype(np.int64))
        return {"codes": ids, "labels": labels, "index": samples, "peers": others}

    @cached_property
    def _classes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Items in the order of their class, where each class begins in it, and how many it has."""
        count = torch.bincount(self.labels, minlength=len(self.class_names))
        return torch.argsort(self.labels, stable=True), count.cumsum(0) - count, count


def weights_fingerprint(model: nn.Module) -> str:
    """sha256 over a module's weights, names included."""
    h = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        h.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return h.hexdigest()


def codes_fingerprint(dataset: Any, tokenizer: nn.Module, variants: int, seed: int) -> str:
    """What a code cache depends on: the pictures, the tokenizer's weights, and for variants how they are augmented."""
    options = [getattr(dataset, n, None) for n in ("shift", "scale", "background", "flip")] if variants > 1 else []
    how = hashlib.sha256(repr((variants, seed, options)).encode()).hexdigest()
    return f"{dataset.fingerprint[:16]}-{weights_fingerprint(tokenizer)[:16]}-{how[:8]}"


@torch.no_grad()
def encode_dataset(
    dataset: Any,
    tokenizer: Any,
    *,
    variants: int = 1,
    seed: int = 0,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Codes:
    """Codes of every item of a data set, `variants` times; deterministic for one seed."""
    if variants < 1:
        raise NextsetError(f"variants is {variants}, but must be at least 1")
    noise = Noise(seed, "codes")
    vocabulary = tokenizer.spec.vocabulary
    kind = np.int16 if vocabulary is not None and vocabulary <= 2**15 else np.int32
    rows: list[list[np.ndarray]] = []
    total = variants * len(dataset)
    done = 0
    for v in range(variants):
        rows.append([])
        for start in range(0, len(dataset), batch):
            index = torch.arange(start, min(start + batch, len(dataset)))
            images = dataset.images(index) if v == 0 else dataset.images(index, noise, index + v * len(dataset))
            rows[-1].append(tokenizer.encode(images).cpu().numpy().astype(kind))
            done += len(index)
            if progress:
                progress(done, total)
    ids = np.stack([np.concatenate(r) for r in rows])
    mark = codes_fingerprint(dataset, tokenizer, variants, seed)
    return Codes(ids, dataset.labels, list(dataset.class_names), mark, dataset.captions)


def save_codes(path: str | Path, codes: Codes) -> None:
    """Write codes atomically."""
    names, mark = np.array(codes.class_names), np.array(codes.fingerprint)
    arrays = {"ids": codes.ids, "labels": codes.labels.numpy(), "class_names": names, "fingerprint": mark}
    if codes.captions is not None:
        # one after another: an array of strings would give each the room of the longest
        texts = [caption.encode("utf-8", "replace") for caption in codes.captions]
        arrays["captions"] = np.frombuffer(b"".join(texts), dtype=np.uint8)
        arrays["caption_ends"] = np.cumsum([len(text) for text in texts], dtype=np.int64)
    write_arrays(path, arrays)


def load_codes(path: str | Path) -> Codes:
    """Read what `save_codes` wrote."""
    if not Path(path).is_file():
        raise NextsetError(f"{path} does not exist; make it with `nextset tokenize`")
    captioned = ("captions", "caption_ends") if "captions" in array_names(path) else ()
    a = read_arrays(path, ("ids", "labels", "class_names", "fingerprint", *captioned))
    fits = a["ids"].ndim == 3 and a["ids"].dtype.kind == "i" and a["labels"].shape == a["ids"].shape[1:2]
    if not fits or (captioned and a["caption_ends"].shape != a["labels"].shape):
        raise NextsetError(
            f"{path} is no code cache: its arrays do not fit together; make it again with `nextset tokenize`"
        )
    captions = None
    if captioned:
        texts, ends = a["captions"].tobytes(), [0, *a["caption_ends"].tolist()]
        captions = [texts[start:end].decode("utf-8", "replace") for start, end in itertools.pairwise(ends)]
    names, mark = [str(c) for c in a["class_names"]], str(a["fingerprint"])
    return Codes(a["ids"], torch.from_numpy(a["labels"]), names, mark, captions)
