"""What a generator is asked with, in training and for its sheets of samples: classes, or texts.

A system says so by its attribute `asked_with` ("class" where it has none). Here is what the data then decide of its
config, what a batch holds besides codes, and which pictures are shown while it trains.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch

from nextset.core import processes
from nextset.core.errors import NextsetError, nearest
from nextset.core.protocols import Job
from nextset.core.spec import VideoSpec
from nextset.data.codes import Codes
from nextset.data.dataset import cache_folder
from nextset.text.words import vocabulary
from nextset.training.recipes import Recipe

_SHOWN = 36
_ASKED = ("self", "classes", "text", "negative", "grids")


def sizes_of(cls: type[Any], tokenizer: Any) -> dict[str, Any]:
    """The fields of a generator's config that its tokenizer decides."""
    spec = tokenizer.spec
    known: dict[str, Any] = {"vocabulary": spec.vocabulary, "channels": spec.channels, "patch": spec.patch}
    if isinstance(spec, VideoSpec):
        known["grid"] = spec.grid
    if hasattr(getattr(tokenizer, "config", None), "sides"):
        known["sides"] = tokenizer.config.sides
    fields = {field.name for field in dataclasses.fields(cls.config_type)}
    return {name: value for name, value in known.items() if name in fields}


def settings_known(job: Callable[..., Job]) -> list[str]:
    """Names of the settings of a system's `job`: of its arguments, those that do not say what is asked."""
    return [name for name in inspect.signature(job).parameters if name not in _ASKED]


def check_setting(job: Callable[..., Job], name: str, value: Any) -> None:
    """Refuse words where a setting of `job` is a number, and fractions where it is a whole one. Its range is the system's."""
    kinds = {kind.strip() for kind in str(inspect.signature(job).parameters[name].annotation).split("|")}
    if value is None or not kinds & {"int", "float"} or kinds - {"int", "float", "None"}:
        return
    whole = "float" not in kinds
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise NextsetError(f"{name} is {value!r}, but must be a {'whole ' if whole else ''}number")


def settings_of(recipe: Recipe, cls: type[Any], own: tuple[str, ...]) -> dict[str, Any]:
    """[sample] without `own`: settings of the system's `job`."""
    sampling = {k: v for k, v in recipe.sample.items() if k not in ("store", *own)}
    known = settings_known(cls.job)
    for name in sampling:
        if name not in known:
            raise NextsetError(f"[sample] has no entry {name!r}: {nearest(name, [*known, *own, 'store'])}")
        check_setting(cls.job, name, sampling[name])
    return sampling


class ByClass:
    """Class ids. The data decide their number; one picture of each of 36 classes is shown."""

    def __init__(self, recipe: Recipe, cls: type[Any], codes: Codes) -> None:
        self.codes, self.model = codes, recipe.model
        self.settings = settings_of(recipe, cls, ())

    def sizes(self) -> dict[str, Any]:
        return {"classes": len(self.codes.class_names)}

    def extra(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {}

    def shown(self, model: Any) -> Job:
        count = len(self.codes.class_names)
        return model.job(torch.arange(_SHOWN, device=processes.device()) * count // _SHOWN, **self.settings)

    def info(self) -> dict[str, Any]:
        return {"class_names": self.codes.class_names}


class ByText:
    """Captions, read by an encoder of words that is trained with the generator ([model.words]), or by one that is named
    (data.text_encoder), whose features are kept on disk. 36 captions are shown, or those of sample.prompts."""

    def __init__(self, recipe: Recipe, cls: type[Any], codes: Codes) -> None:
        captions = codes.captions
        if captions is None or not all(caption.strip() for caption in captions):
            missing = len(codes) if captions is None else sum(not caption.strip() for caption in captions)
            raise NextsetError(
                f"{missing:,} of {len(codes):,} pictures have no caption, but this system is asked with text; "
                "write a .txt beside each, or a metadata file"
            )
        first = [caption.split("\n")[0] for caption in captions]
        spread = [first[i * len(first) // _SHOWN] for i in range(_SHOWN)]
        self.prompts: list[str] = list(recipe.sample.get("prompts", spread))
        self.settings = settings_of(recipe, cls, ("prompts",))
        self.model, self.encoder = dict(recipe.model), None
        self.name = recipe.data.get("text_encoder")
        if (self.name is None) == ("words" not in self.model):
            raise NextsetError("give either [model.words], for an encoder that is trained too, or data.text_encoder")
        if self.name is None:
            known = vocabulary(line for caption in captions for line in caption.split("\n"))
            words = {"words": known, **self.model["words"]}
            self.model = {**self.model, "words": words}
            self._sizes = {"text_channels": words.get("width", 192), "text_length": words.get("length", 24)}
        else:
            from nextset.text.cache import CachedEncoder
            from nextset.text.encoders import T5Encoder

            self.encoder = CachedEncoder(T5Encoder(self.name, device=str(processes.device())), cache_folder() / "text")
            self._sizes = {"text_channels": self.encoder.width}

    def sizes(self) -> dict[str, Any]:
        return self._sizes

    def extra(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {} if self.encoder is None else {"text": self.encoder.encode(batch["captions"])}

    def shown(self, model: Any) -> Job:
        encode = model.encode_prompts if self.encoder is None else self.encoder.encode
        return model.job(encode(self.prompts), **self.settings)

    def info(self) -> dict[str, Any]:
        return {"prompts": self.prompts, **({"text_encoder": str(Path(self.name))} if self.name else {})}


def request_of(recipe: Recipe, cls: type[Any], codes: Codes) -> ByClass | ByText:
    """How the recipe's system is asked."""
    asked = recipe.model.get("asked_with", getattr(cls, "asked_with", "class"))  # some systems know both
    return (ByText if asked == "text" else ByClass)(recipe, cls, codes)
