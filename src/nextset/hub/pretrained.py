"""The format of published models: a folder that `load` reads and `save` writes, here or on a model hub.

    config.json         what it is: kind, system or tokenizer type, sizes, class names, sampling defaults, licence
    model.safetensors   weights of a generator or a tokenizer; above 5 GB model-00001-of-0000N.safetensors, ... and the
                        index model.safetensors.index.json
    tokenizer/          the same for the tokenizer of a generator
    README.md           model card

Nothing in a folder is executed; sizes are checked before anything is allocated. A model is built without memory and filled
file by file, each weight cast and placed once as it arrives: loading needs the model and one file (`docs/memory.md`).
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import shutil
import tempfile
import tomllib
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError, NextsetWarning, nearest
from nextset.core.files import atomic_write, read_json, write_json
from nextset.core.keys import load_into
from nextset.core.weights import SHARD_BYTES, Weights, weight_files, write_weights
from nextset.hub.catalogue import get_record
from nextset.nn.autoencoder import channels_last
from nextset.nn.offload import offload_blocks
from nextset.nn.precision import cast, resolve_dtype

FORMAT = 1
TOKENIZERS = {
    "bitwise": "nextset.tokenizers.bitwise:BitwisePyramid",
    "flexible_vq": "nextset.tokenizers.flexible:FlexibleVQ",
    "folded_vq": "nextset.tokenizers.folded:FoldedVQ",
    "frequency_vq": "nextset.tokenizers.frequency:FrequencyVQ",
    "kl": "nextset.tokenizers.kl:KLAutoencoder",
    "larp": "nextset.tokenizers.larp:Larp",
    "multiscale_vq": "nextset.tokenizers.multiscale:MultiScaleVQ",
    "vq": "nextset.tokenizers.vq:VQTokenizer",
}
LIMIT_PARAMETERS = 20_000_000_000


@dataclasses.dataclass
class Pretrained:
    """A loaded model: its network (a system with its tokenizer attached, or a tokenizer alone) and its description."""

    name: str
    model: Any  # a system or tokenizer; their attributes are their own
    info: dict[str, Any]

    @property
    def kind(self) -> str:
        """ "generator" or "tokenizer"."""
        return self.info["kind"]


def class_of(path: str) -> type[Any]:
    """The class behind "module:Name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def system_class(slug: str) -> type[Any]:
    """The class of an available system, or of another model of its folder: "slug/name" (its record's `also`)."""
    slug, _, part = slug.partition("/")
    record = get_record(slug)
    if part and record.state == "available":
        if part not in record.also:
            raise NextsetError(f"{slug} has no model {part!r}: {nearest(part, record.also)}")
        return class_of(record.also[part])
    if record.state != "available" or not record.entry:
        raise NextsetError(f"{slug} is planned, not available yet; see `nextset systems --state available`")
    return class_of(record.entry)


def packaged() -> dict[str, Path]:
    """Models that ship with the package, by name."""
    root = Path(str(files("nextset"))) / "assets"
    return {p.parent.name: p.parent for p in sorted(root.glob("*/config.json"))}


def default_model(asked_with: str = "text") -> str:
    """Name of the model that is used when none is given, by what it is asked with ("text", "class" or "photo"); it stands in
    data (`assets/defaults.toml`)."""
    defaults = tomllib.loads((Path(str(files("nextset"))) / "assets" / "defaults.toml").read_text())
    if asked_with not in defaults["packaged"]:
        raise NextsetError(f"no packaged model is asked with a {asked_with}; name one with --model, or train it first")
    return str(defaults["packaged"][asked_with])


def resolve(name: str | Path) -> Path:
    """The folder of a model: a path, a packaged name, or `owner/name` on the hub (downloaded on first use)."""
    path = Path(name)
    if path.is_dir():
        return path
    known = packaged()
    if str(name) in known:
        return known[str(name)]
    if str(name).count("/") == 1 and not path.exists():
        return download(str(name))
    raise NextsetError(f"no model is called {str(name)!r}, and no folder is there: {nearest(str(name), known)}")


def download(name: str) -> Path:
    """The folder of `owner/name` of the hub, fetched on first use."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md", "tokenizer/*"]))
    except HFValidationError as error:
        raise NextsetError(f"{name!r} is no model folder, no packaged model and no valid hub name: {error}") from error
    except (HfHubHTTPError, OSError) as error:
        raise NextsetError(
            f"{name} cannot be fetched from the hub ({type(error).__name__}); check the name and the connection, or give a local folder"
        ) from error


def load(
    name: str | Path, *, dtype: str = "float32", device: torch.device | str = "cpu", offload: bool = False
) -> Pretrained:
    """Load a model by folder, packaged name or hub name.

    dtype: "float32" (a seed means the same picture on every machine), "bfloat16" or "auto" (faster where it is). device:
    where it computes. offload: the generator's blocks stay in the CPU's memory and come to the device one after another
    (`nn.offload`), which a device needs that is too small for them all.
    """
    folder = resolve(name)
    info = read_json(folder / "config.json")
    if not isinstance(info, dict) or info.get("format") != FORMAT or info.get("kind") not in ("generator", "tokenizer"):
        raise NextsetError(
            f"{folder / 'config.json'} does not describe a nextset model of format {FORMAT}; convert the authors' files with `nextset convert`"
        )
    kind = resolve_dtype(dtype)
    model: Any
    if info["kind"] == "tokenizer":
        model = _build(folder, info, TOKENIZERS, "type", kind, device)
    else:
        model = _build(folder, info, None, "system", kind, "cpu" if offload else device)
        if hasattr(model, "attach"):  # a system that makes no pictures has no tokenizer
            model.attach(load(folder / "tokenizer", dtype=dtype, device=device).model)
        if offload:
            offload_blocks(model, device)
    if info.get("licence_notice"):
        warnings.warn(str(info["licence_notice"]), NextsetWarning, stacklevel=2)
    return Pretrained(str(name), model.eval(), info)


def _build(
    folder: Path,
    info: dict[str, Any],
    types: dict[str, str] | None,
    field: str,
    dtype: torch.dtype,
    device: torch.device | str,
) -> nn.Module:
    name = info.get(field)
    if types is not None:
        if name not in types:
            raise NextsetError(f"{folder / 'config.json'}: {field} is {name!r}: {nearest(str(name), types)}")
        cls = class_of(types[name])
    else:
        cls = system_class(str(name))
    config = cls.config_type.from_dict(info.get("config") or {})
    state = Weights.of(weight_files(folder))
    with torch.device("meta"):  # nothing is allocated before the sizes are known to be true
        model = cast(cls(config), dtype)
    needed = sum(p.numel() for p in model.parameters())
    there = sum(t.numel() for t in state.outline.values())
    if needed > LIMIT_PARAMETERS or needed > 2 * there + 10**6:
        raise NextsetError(
            f"{folder / 'config.json'} describes {needed:,} parameters, but the weights hold {there:,}; the two do not belong together"
        )
    what, optional = str(folder / "model.safetensors"), getattr(cls, "training_state", ())
    load_into(model, state, what=what, optional=optional, device=device)
    return channels_last(model) if field == "type" else model


def begin_with(model: nn.Module, name: str | Path, parts: Sequence[str] = ()) -> None:
    """Give a model the weights of a published one of the same sizes: all of them, or those of some parts, such as "encoder"."""
    given, own = load(name).model.state_dict(), model.state_dict()
    for part in parts:
        known = {key.split(".")[0] for key in given} & {key.split(".")[0] for key in own}
        if part not in known:
            raise NextsetError(f"{name} and this model share no part {part!r}: {nearest(part, known)}")
    if parts:
        given = {key: value for key, value in given.items() if key.split(".")[0] in parts}
        given |= {key: value for key, value in own.items() if key.split(".")[0] not in parts}
    try:
        model.load_state_dict(given)
    except RuntimeError as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())[:160]
        raise NextsetError(f"{name} does not fit this model: {reason}; give a model of the same recipe") from error


def published_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights as they are published: without training statistics."""
    drop = getattr(model, "training_state", ())
    return {n: t.detach() for n, t in model.state_dict().items() if not any(re.fullmatch(p, n) for p in drop)}


def describe(model: nn.Module, **more: Any) -> dict[str, Any]:
    """The `config.json` of a model."""
    for name, path in TOKENIZERS.items():
        if type(model) is class_of(path):
            return {"format": FORMAT, "kind": "tokenizer", "type": name, "config": model.config.to_dict(), **more}  # type: ignore[union-attr,operator]
    return {"format": FORMAT, "kind": "generator", "system": type(model).slug, "config": model.config.to_dict(), **more}  # type: ignore[union-attr,operator,attr-defined]


def save(
    folder: str | Path,
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    card: str = "",
    shard_bytes: int = SHARD_BYTES,
    **more: Any,
) -> Path:
    """Write a model (and its tokenizer, for a generator) as a folder; it appears whole or not at all.

    dtype: of the stored weights (None = as they are), which are cast one at a time. card: text of the model card.
    shard_bytes: weights in one file at most. more: further entries of `config.json` (class_names, defaults, licence, ...).
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "config.json").exists() and any(folder.iterdir()):
        raise NextsetError(f"{folder} exists and is no model folder; choose another place")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(temporary, model, dtype, shard_bytes, more)
        tokenizer = getattr(model, "_outside", {}).get("tokenizer")
        if tokenizer is not None:
            _write(temporary / "tokenizer", tokenizer, dtype, shard_bytes, {})
        with atomic_write(temporary / "README.md") as handle:
            handle.write(
                (card or f"# {folder.name}\n\nA nextset model. `nextset generate --model {folder.name}`\n").encode()
            )
        os.chmod(temporary, 0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise NextsetError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write(folder: Path, model: nn.Module, dtype: torch.dtype | None, limit: int, more: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", describe(model, **more))
    write_weights(folder, published_state(model), dtype=dtype, limit=limit)


def push_to_hub(
    folder: str | Path, name: str, *, private: bool = False, token: str | None = None, api: Any = None
) -> str:
    """Upload a model folder as `owner/name`; returns its address. api: a hub client (for tests)."""
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi(token=token)
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise NextsetError(f"{folder} is no model folder; save the model first")
    api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="Upload a nextset model")
    return f"https://huggingface.co/{name}"
