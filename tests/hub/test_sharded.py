"""Weights in shards: found, read one file at a time into no more memory than the model and one file, and written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.files import write_safetensors
from nextset.core.weights import Weights, groups, read_state, weight_files, write_weights
from nextset.hub import pretrained
from nextset.hub.convert import convert
from nextset.pipelines import Pipeline
from tests.systems import infinity_files as files
from tests.tiny import tiny_model


def shards(state: dict[str, Tensor], folder: Path, count: int, suffix: str = ".safetensors", **how: Any) -> list[Path]:
    """A state in so many files of about as many weights. how: index, and numbered=False for names of no pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    names, listed, paths = list(state), {}, []
    for i in range(count):
        part = {n: state[n] for n in names[i * len(names) // count : (i + 1) * len(names) // count]}
        numbered = how.get("numbered", True)
        path = folder / (f"model-{i + 1:05d}-of-{count:05d}{suffix}" if numbered else f"part{i}{suffix}")
        if suffix == ".safetensors":
            safetensors.torch.save_file(part, path)
        else:
            torch.save(part, path)
        listed |= dict.fromkeys(part, path.name)
        paths.append(path)
    if how.get("index"):
        text = json.dumps({"metadata": {}, "weight_map": listed})
        (folder / f"model{suffix}.index.json").write_text(text)
    return paths


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- the authors' shards


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth"])
@pytest.mark.parametrize("how", ["index", "folder", "numbered", "loose"])
def test_shards_are_one_model_however_they_are_given(suffix: str, how: str, tmp_path: Path) -> None:
    state = files.generator(4, 32, 2, 16, chunks=2)
    whole = convert([*shards(state, tmp_path / "whole", 1, suffix)])
    parts = shards(state, tmp_path / "m", 5, suffix, index=how == "index", numbered=how != "loose")
    torch.save({"vae": files.tokenizer(16, 5, channels=24)}, tmp_path / "vae.pth")
    given = [tmp_path / "m"] if how in ("index", "folder") else parts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = convert([*given, tmp_path / "vae.pth"], system="infinity" if how == "loose" else None)
    assert same(model, whole)
    assert model.tokenizer.config.autoencoder.latent == 16  # type: ignore[union-attr]


def test_loose_shards_need_no_name_where_others_tell_the_system(tmp_path: Path) -> None:
    """The last shard has the head alone, which could be any system's."""
    state = files.generator(2, 32, 2, 16)
    parts = shards(state, tmp_path, 20, numbered=False)
    assert not any("text_proj" in n or ".ca" in n for n in read_state(parts[-1]))
    assert same(convert(parts), convert(shards(state, tmp_path / "whole", 1)))


def test_missing_shards_are_named(tmp_path: Path) -> None:
    state = files.generator(2, 32, 2, 16)
    parts = shards(state, tmp_path, 4, index=True)
    parts[1].unlink()
    with pytest.raises(NextsetError, match=r"lacks 1 of 4 shards, first model-00002-of-00004\.safetensors"):
        convert([tmp_path])
    with pytest.raises(NextsetError, match="3 of the 4 shards"):
        convert([parts[0], *parts[2:]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight_map": {"a": "../../secret.safetensors"}}, "no weight file of its own folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "no weight file of its own folder"),
        ({"weight_map": {"a": 3}}, "lists no shards"),
        ({"weight_map": {}}, "lists no shards"),
        ([], "lists no shards"),
    ],
)
def test_an_index_that_lies_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(NextsetError, match=message):
        weight_files(tmp_path)


def test_a_weight_in_two_shards_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"w": torch.ones(1)})
    with pytest.raises(NextsetError, match=r"'w' is both in \S+a\.safetensors and in \S+b\.safetensors"):
        Weights.of([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(NextsetError, match="holds no weights"):
        groups([tmp_path / "empty"])


def test_one_file_is_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    from nextset.core import weights

    paths = shards({f"w{i}": torch.full((4,), float(i)) for i in range(6)}, tmp_path, 3)
    opened: list[Any] = []

    def spied(path: Path) -> dict[str, Tensor]:
        state = read_state(path)
        opened.append((path.name, [weakref.ref(t.untyped_storage()) for t in state.values()]))
        return state

    found = Weights.of(paths)
    monkeypatch.setattr(weights, "read_state", spied)
    for i, part in enumerate(found.select({"b": "w5", "a": "w0", "c": "w3"}).by_file()):
        assert len(opened) == i + 1, "no file is opened before its turn"
        assert all(ref() is None for _, refs in opened[:-1] for ref in refs), "the file before is closed"
        assert all(t.is_meta is False for t in part.values())
    assert [name for name, _ in opened] == ["model-00003-of-00003.safetensors", paths[0].name, paths[1].name]
    assert found["w4"].tolist() == [4.0] * 4 and found.outline["w4"].is_meta


# ---- memory

MEASURE = """
import gc, json, re, sys, torch
from pathlib import Path
from nextset.hub import pretrained
from nextset.hub.convert import convert
from nextset.systems.infinity import Infinity, convert as own
from nextset.core.weights import read_state

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def peak(work):
    "Most memory in use during some work over what was in use before, mapped files included."
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = status("VmRSS")
    result = work()
    return status("VmHWM") - before, result

def naive():
    state = {n: t.clone() for p in sorted(shards.glob("*.safetensors")) for n, t in read_state(p).items()}
    return own.load_generator(state, dtype=torch.bfloat16)

def folder(place, **options):
    pretrained.save(place, model, **options)
    torch.set_num_threads(1)

shards, out = Path(sys.argv[1]), Path(sys.argv[2])
found = {}
with torch.device("meta"):
    Infinity(own.InfinityConfig(depth=1, width=32, heads=2))  # imports and first uses are not counted
found["convert"], model = peak(lambda: convert([shards], dtype=torch.bfloat16))
found["model"] = sum(p.numel() * p.element_size() for p in model.parameters())
found["save"], _ = peak(lambda: folder(out, shard_bytes=10_000_000))
state = {n: t.float() for n, t in model.state_dict().items()}
del model
pretrained.write_weights(out, state, limit=18_000_000)
del state
found["load"], model = peak(lambda: pretrained._build(
    out, pretrained.read_json(out / "config.json"), None, "system", torch.bfloat16, "cpu"))
del model
found["naive"], _ = peak(naive)
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux counts it")
def test_loading_needs_the_model_and_one_shard(tmp_path: Path) -> None:
    """145 MB of float32 in 8 shards of the released layout, into 74 MB of bfloat16. The bound lies below what any copy of
    the whole in float32 would need, and the same measure finds such a copy."""
    state = files.generator(8, 512, 8, 32, chunks=4, text=64, rows=16, hidden=2048)
    parts = shards(state, tmp_path / "theirs", 8, index=True)
    shard, whole = max(p.stat().st_size for p in parts), sum(p.stat().st_size for p in parts)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "theirs", tmp_path / "ours"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    bound = found["model"] + shard + 30_000_000
    assert bound < whole, "else a copy of all weights would pass"
    assert found["convert"] < bound
    assert found["load"] < bound
    assert found["save"] < 30_000_000, "a weight at a time"
    assert found["naive"] > bound + 30_000_000


# ---- our own folders


def test_a_folder_above_the_limit_is_sharded_and_loads_the_same(tmp_path: Path) -> None:
    model = tiny_model()
    one = pretrained.save(tmp_path / "one", model)
    many = pretrained.save(tmp_path / "many", model, shard_bytes=20_000, class_names=["a"])
    assert [p.name for p in weight_files(one)] == ["model.safetensors"]
    found = weight_files(many)
    assert len(found) > 3 and found[0].name == f"model-00001-of-{len(found):05d}.safetensors"
    assert not (many / "model.safetensors").exists()
    whole = sum(p.numel() * 4 for p in model.parameters())
    index = json.loads((many / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == whole and len(index["weight_map"]) == len(model.state_dict())
    for path in found:  # as others read it
        part = safetensors.torch.load_file(path)
        assert len(part) == 1 or sum(t.nbytes for t in part.values()) <= 20_000
        assert all(index["weight_map"][name] == path.name for name in part)
    a, b = pretrained.load(one).model, pretrained.load(many).model
    assert same(a, b) and same(a.tokenizer, b.tokenizer)
    assert torch.equal(
        Pipeline.from_pretrained(many)([1], seed=2).tokens, Pipeline.from_pretrained(one)([1], seed=2).tokens
    )
    assert [p.name for p in weight_files(pretrained.save(many, model))] == ["model.safetensors"], (
        "no shard stays behind"
    )


def test_weights_are_cast_as_they_are_written(tmp_path: Path) -> None:
    state = {"a": torch.tensor([1 / 3, 2.0]), "n": torch.arange(3), "s": torch.tensor(1.5), "e": torch.empty(0)}
    for limit in (10**9, 4):
        folder = tmp_path / str(limit)
        paths = write_weights(folder, state, dtype=torch.bfloat16, limit=limit)
        read = {n: t for p in paths for n, t in safetensors.torch.load_file(p).items()}
        assert read.keys() == state.keys() and len(paths) == (1 if limit > 4 else 3)
        assert read["n"].dtype == torch.int64 and torch.equal(read["n"], state["n"])
        assert all(torch.equal(read[n], state[n].bfloat16()) for n in "ase")


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16", "int8", "uint8", "bool", "int32", "complex64"])
def test_every_kind_of_number_is_written_as_the_format_has_it(kind: str, tmp_path: Path) -> None:
    tensor = (torch.arange(6).view(2, 3).t() % 2).to(getattr(torch, kind))
    write_safetensors(tmp_path / "x.safetensors", {"z": torch.ones(5, dtype=torch.int8), "x": tensor}, {"format": "pt"})
    assert torch.equal(safetensors.torch.load_file(tmp_path / "x.safetensors")["x"], tensor)


def test_a_model_is_cast_and_placed_as_it_arrives(tmp_path: Path) -> None:
    folder = pretrained.save(tmp_path / "m", tiny_model(), shard_bytes=20_000)
    loaded = pretrained.load(folder, dtype="bfloat16").model
    assert loaded.word.weight.dtype == torch.bfloat16 and loaded.classifier.weight.dtype == torch.float32
    on_meta = pretrained.load(folder, device="meta").model
    assert all(p.is_meta for p in on_meta.parameters())
