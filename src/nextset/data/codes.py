"""Cached codes: a data set as the tokenizer sees it, so that a generator trains without pictures.

One `.npz`: ids int16 or int32 (variants, N, L), or, for generators that quantise for themselves, feature maps float16
(variants, N, C, h, w); labels, class names, captions where there are any, and the fingerprints of data set and tokenizer.
Variant 0 is the picture as it is, the others are augmented.
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
    """values: ids (variants, N, L) or (variants, N, L, D), or feature maps (variants, N, C, h, w); labels (N,) int64;
    captions: N texts or None, of which one with several lines is several captions."""

    values: np.ndarray
    labels: Tensor
    class_names: list[str]
    fingerprint: str
    captions: list[str] | None = None

    def __len__(self) -> int:
        return self.values.shape[1]

    @property
    def kind(self) -> str:
        """ "codes" or "features"."""
        return "features" if self.values.dtype.kind == "f" else "codes"

    def batch(self, indices: Tensor, samples: Tensor, noise: Noise) -> dict[str, Any]:
        """Some items: codes (B, L) int64 or features (B, C, h, w) float32, labels, `index` (the samples), a caption each
        where there are any, and for codes those of another item of the same class as `peers`. Which variant, which peer
        and which line of the caption are functions of the sample index."""
        variant = self._choice(noise, "variant", samples, self.values.shape[0])
        values = torch.from_numpy(self.values[variant.numpy(), indices.numpy()])
        found: dict[str, Any] = {"labels": self.labels[indices], "index": samples}
        if self.captions is not None:
            lines = [self.captions[i].split("\n") for i in indices.tolist()]
            chosen = self._choice(noise, "caption", samples, torch.tensor([len(each) for each in lines]))
            found["captions"] = [each[i] for each, i in zip(lines, chosen.tolist(), strict=True)]
        if self.kind == "features":
            return {"features": values.float(), **found}
        order, first, count = self._classes
        labels = found["labels"]
        peers = order[first[labels] + self._choice(noise, "peer", samples, count[labels])]
        others = torch.from_numpy(self.values[0, peers.numpy()].astype(np.int64))
        return {"codes": values.long(), **found, "peers": others}

    @staticmethod
    def _choice(noise: Noise, purpose: str, samples: Tensor, count: int | Tensor) -> Tensor:
        """One of `count` (a number, or one a sample) for each sample: (B,) int64."""
        u = noise.of(purpose).uniform(samples, torch.zeros(1, dtype=torch.int64))[:, 0]
        return (u * count).long().clamp_max(torch.as_tensor(count) - 1)

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


def codes_fingerprint(dataset: Any, tokenizer: nn.Module, variants: int, seed: int, features: bool = False) -> str:
    """What a code cache depends on: the pictures, the tokenizer's weights, and for variants how they are augmented."""
    options = [getattr(dataset, n, None) for n in ("shift", "scale", "background", "flip")] if variants > 1 else []
    how = hashlib.sha256(repr((variants, seed, options)).encode()).hexdigest()
    mark = f"{dataset.fingerprint[:16]}-{weights_fingerprint(tokenizer)[:16]}-{how[:8]}"
    return f"{mark}-features" if features else mark


@torch.no_grad()
def encode_dataset(
    dataset: Any,
    tokenizer: Any,
    *,
    variants: int = 1,
    seed: int = 0,
    batch: int = 64,
    features: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Codes:
    """Codes of every item of a data set, `variants` times; deterministic for one seed. features: what the tokenizer makes
    before it quantises, instead; always so where it does not quantise."""
    if variants < 1:
        raise NextsetError(f"variants is {variants}, but must be at least 1")
    batch = max(1, batch // getattr(dataset, "frames", 1))  # it counts pictures
    noise = Noise(seed, "codes")
    vocabulary = tokenizer.spec.vocabulary
    features = features or (vocabulary is None and tokenizer.spec.lanes is None)
    kind = np.float16 if features else np.int16 if vocabulary is not None and vocabulary <= 2**15 else np.int32
    encode, made = (tokenizer.features, torch.float32) if features else (tokenizer.encode, torch.int64)
    device = next(tokenizer.parameters(), torch.empty(0)).device if isinstance(tokenizer, nn.Module) else "cpu"
    rows: list[list[np.ndarray]] = []
    total = variants * len(dataset)
    done = 0
    for v in range(variants):
        rows.append([])
        for start in range(0, len(dataset), batch):
            index = torch.arange(start, min(start + batch, len(dataset)))
            images = dataset.images(index) if v == 0 else dataset.images(index, noise, index + v * len(dataset))
            rows[-1].append(encode(images.to(device)).to(made).cpu().numpy().astype(kind))
            done += len(index)
            if progress:
                progress(done, total)
    values = np.stack([np.concatenate(r) for r in rows])
    mark = codes_fingerprint(dataset, tokenizer, variants, seed, features)
    return Codes(values, dataset.labels, list(dataset.class_names), mark, dataset.captions)


def save_codes(path: str | Path, codes: Codes) -> None:
    """Write codes atomically."""
    names, mark = np.array(codes.class_names), np.array(codes.fingerprint)
    name = "features" if codes.kind == "features" else "ids"
    arrays = {name: codes.values, "labels": codes.labels.numpy(), "class_names": names, "fingerprint": mark}
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
    there = array_names(path)
    captioned = ("captions", "caption_ends") if "captions" in there else ()
    name, kind, axes = ("features", "f", (5,)) if "features" in there else ("ids", "i", (3, 4))
    a = read_arrays(path, (name, "labels", "class_names", "fingerprint", *captioned))
    fits = a[name].ndim in axes and a[name].dtype.kind == kind and a["labels"].shape == a[name].shape[1:2]
    if not fits or (captioned and a["caption_ends"].shape != a["labels"].shape):
        raise NextsetError(
            f"{path} is no code cache: its arrays do not fit together; make it again with `nextset tokenize`"
        )
    captions = None
    if captioned:
        texts, ends = a["captions"].tobytes(), [0, *a["caption_ends"].tolist()]
        captions = [texts[start:end].decode("utf-8", "replace") for start, end in itertools.pairwise(ends)]
    names, mark = [str(c) for c in a["class_names"]], str(a["fingerprint"])
    return Codes(a[name], torch.from_numpy(a["labels"]), names, mark, captions)
