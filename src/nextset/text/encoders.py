"""Text encoders: from prompts to features, through transformers (extra `text`).

An encoder reads the small files of a model at once, so that a wrong name or width is an error before anything runs, and
its tokenizer and weights when the first prompt needs them. It knows nothing of who reads the features, and does not keep
them (`text.cache`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nextset.core.errors import NextsetError, NextsetWarning, check_range, nearest
from nextset.core.files import read_json
from nextset.nn import precision
from nextset.text.condition import Text
from nextset.text.prompts import clean_prompts

DTYPES = {**precision.DTYPES, "float16": torch.float16}
_T5 = ("t5", "mt5", "umt5")  # model types whose encoder transformers builds alone
_WEIGHTS = (".safetensors", ".bin")
_INSTALL = "pip install 'nextset[text]'"
_SHOWN = 40  # characters at either end of what is cut


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What an encoder makes of one prompt. values: (length, C) in the encoder's dtype, on the CPU. cut: what of the
    prompt was not read, in one line; "" when all was."""

    values: Tensor
    cut: str = ""


class TextEncoder(Protocol):
    """From prompts to conditions, cached or not.

    width: channels C. dtype: in which features are computed. identity: equal for encoders that give the same features,
    but for float noise.
    """

    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def identity(self) -> str: ...

    def features(self, prompts: Sequence[str]) -> list[Features]:
        """Features of cleaned prompts, one by one."""
        ...

    def encode(self, prompts: Sequence[str]) -> Text:
        """Prompts as typed to float32 features (N, T, C) with lengths, on the CPU."""
        ...


def as_text(features: Sequence[Features]) -> Text:
    """Features as one condition in float32, with a `NextsetWarning` for each prompt that was cut."""
    for cut in dict.fromkeys(f.cut for f in features if f.cut):
        warnings.warn(cut, NextsetWarning, stacklevel=3)
    return Text.of([f.values.float() for f in features])


class T5Encoder:
    """The encoder of a T5: T5, T5 v1.1, Flan-T5, mT5 or UMT5.

    source: a folder that transformers can read, or `owner/name` on the hub. dtype: float32, bfloat16 or float16; the
    weights are read in it. max_length: tokens that are read, the end token included; the rest of a prompt is cut with a
    warning. expect_width: channels that the reader needs; another width is refused. batch: prompts in one forward. A
    prompt alone (1) has the same features in every list, bit for bit; together they are faster, and float noise depends
    on the neighbours' lengths.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: str = "float32",
        max_length: int = 512,
        expect_width: int | None = None,
        batch: int = 1,
    ) -> None:
        if dtype not in DTYPES:
            raise NextsetError(f"dtype is {dtype!r}, but must be one of {', '.join(DTYPES)}: {nearest(dtype, DTYPES)}")
        check_range("max_length", max_length, 2, 65_536)
        check_range("batch", batch, 1)
        self.source, self.device, self.dtype = str(source), torch.device(device), DTYPES[dtype]
        self.max_length, self.batch = max_length, batch
        self._folder, self._commit = _find(source)
        self.width, self._tokens = _sizes(self.source, self._folder)
        if expect_width is not None and self.width != expect_width:
            raise NextsetError(
                f"text encoder {self.source} gives {self.width} channels, but the model reads {expect_width}; "
                "give the encoder that the model was trained with"
            )

    @functools.cached_property
    def identity(self) -> str:
        """Hub name and commit, or path and content of a folder (weights by size and time), with dtype and max_length.
        Neither device nor batch, which change float noise only."""
        what = f"{self.source}@{self._commit}" if self._commit else _fingerprint(self._folder)
        return f"{what} {self.dtype} {self.max_length}"

    def encode(self, prompts: Sequence[str]) -> Text:
        """Prompts to float32 features (N, T, C) with lengths, on the CPU. Prompts are cleaned first."""
        return as_text(self.features(clean_prompts(prompts)))

    @torch.no_grad()
    def features(self, prompts: Sequence[str]) -> list[Features]:
        """Features of cleaned prompts, one by one."""
        read = [self._read(prompt) for prompt in prompts]
        found = []
        for start in range(0, len(read), self.batch):
            group = read[start : start + self.batch]
            ids = Text.of([tokens for tokens, _ in group]).to(self.device)
            hidden = self._model(input_ids=ids.values, attention_mask=ids.mask.long()).last_hidden_state
            for row, (tokens, cut) in zip(hidden.to(self.dtype).cpu(), group, strict=True):
                found.append(Features(row[: len(tokens)].clone(), cut))
        if not all(f.values.isfinite().all() for f in found):
            raise NextsetError(
                f"text encoder {self.source} gives features that are not finite in {str(self.dtype)[6:]}; use bfloat16 or float32"
            )
        return found

    def _read(self, prompt: str) -> tuple[Tensor, str]:
        """The token ids (length,) that are read of a prompt, and what of it is cut."""
        tokenizer = self._tokenizer
        ids = tokenizer(prompt, verbose=False)["input_ids"]
        if len(ids) <= self.max_length:
            return torch.tensor(ids), ""
        read = tokenizer(prompt, truncation=True, max_length=self.max_length)["input_ids"]
        end = tokenizer.num_special_tokens_to_add()
        rest = " ".join(tokenizer.decode(ids[len(read) - end : len(ids) - end]).split())
        shown = repr(rest) if len(rest) <= 2 * _SHOWN else f"{rest[:_SHOWN]!r} ... {rest[-_SHOWN:]!r}"
        return torch.tensor(read), f"{len(read)} of a prompt's {len(ids)} tokens are read; cut: {shown}"

    @functools.cached_property
    def _tokenizer(self) -> Any:
        transformers = _transformers()
        with _loading(f"the tokenizer of {self.source}"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(self._where, **self._how)
        # without files the library makes a tokenizer that knows no word
        if not self._tokens / 2 <= len(tokenizer) <= self._tokens:
            raise NextsetError(
                f"the tokenizer of {self.source} knows {len(tokenizer):,} tokens, but the encoder {self._tokens:,}; "
                "put the model's own tokenizer.json or spiece.model beside its config.json"
            )
        return tokenizer

    @functools.cached_property
    def _model(self) -> Any:
        transformers = _transformers()
        with _loading(f"text encoder {self.source}"):
            # weights are read in their dtype straight into the model: no second copy, none in float32
            model, report = transformers.AutoModelForTextEncoding.from_pretrained(
                self._where, **self._how, dtype=self.dtype, output_loading_info=True
            )
        if missing := sorted(report["missing_keys"]):
            raise NextsetError(
                f"text encoder {self.source} lacks {len(missing)} weights ({missing[0]}, ...); give a whole T5, or its encoder"
            )
        return model.eval().requires_grad_(False).to(self.device)

    @property
    def _where(self) -> str:
        return self.source if self._commit else str(self._folder)

    @property
    def _how(self) -> dict[str, Any]:
        pinned = {"revision": self._commit} if self._commit else {"local_files_only": True}
        return {**pinned, "trust_remote_code": False}


def _find(source: str | Path) -> tuple[Path, str]:
    """The folder of a model and, for one of the hub, its commit. Of the hub only config.json is fetched."""
    if Path(source).is_dir():
        return Path(source).resolve(), ""
    name = str(source)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise NextsetError(
            f"no text encoder is at {name!r}; give a folder, or owner/name of the hub: google/flan-t5-xl"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(hf_hub_download(name, "config.json")).parent  # .../snapshots/COMMIT
    except HFValidationError as error:
        raise NextsetError(f"{name!r} is no folder and no valid hub name; give google/flan-t5-xl, say") from error
    except (HfHubHTTPError, OSError) as error:
        raise NextsetError(
            f"text encoder {name} cannot be fetched from the hub ({type(error).__name__}); check the name and the connection, or give a local folder"
        ) from error
    return folder, folder.name


def _sizes(source: str, folder: Path) -> tuple[int, int]:
    """Channels and tokens that config.json promises."""
    if not (folder / "config.json").is_file():
        raise NextsetError(f"text encoder {source} has no config.json; give a folder that transformers saved")
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in _T5:
        raise NextsetError(f"text encoder {source} has model type {kind!r}, but must be one of {', '.join(_T5)}")
    for name in ("d_model", "vocab_size"):
        if type(config.get(name)) is not int or config[name] < 1:
            raise NextsetError(
                f"text encoder {source} has {name} {config.get(name)!r} in config.json, but must have a positive number; "
                "get the model's own config.json"
            )
    return config["d_model"], config["vocab_size"]


def _fingerprint(folder: Path) -> str:
    """sha256 over a folder: its path, the content of its small files, size and time of its weights, which are too large
    to be read for this."""
    h = hashlib.sha256(str(folder).encode())
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        stat = path.stat()
        if path.suffix in _WEIGHTS:
            h.update(f"\0{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
        elif path.suffix in (".json", ".model", ".txt"):
            h.update(f"\0{path.name} {stat.st_size}\0".encode() + path.read_bytes())
    return h.hexdigest()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise NextsetError(f"text encoders need the package transformers; install it with: {_INSTALL}") from error
    return transformers


@contextlib.contextmanager
def _loading(what: str) -> Iterator[None]:
    """Load without the library's bars and notes (of a whole T5 the decoder is left out, as it should be), and say in one
    line what went wrong."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # of the library, of the network, of a file format
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        missing = isinstance(error, ImportError) or isinstance(error.__context__, ImportError)
        remedy = f"; install what is missing with: {_INSTALL}" if missing else ""
        raise NextsetError(f"{what} cannot be loaded: {reason}{remedy}") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
