"""Model folders: written whole, read back the same, and refused in one line when they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.files import read_safetensors, write_safetensors
from nextset.hub import pretrained
from nextset.pipelines import Pipeline
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny")


def test_save_and_load_give_the_same_pictures(folder: Path) -> None:
    pipe = Pipeline.from_pretrained(folder)
    again = Pipeline.from_pretrained(pipe.save_pretrained(folder.parent / "again"))
    a, b = pipe([1, 2], seed=3), again([1, 2], seed=3)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.tensors, b.tensors)
    assert again.class_names == pipe.class_names


def test_saving_over_a_strange_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(NextsetError, match="no model folder"):
        pretrained.save(tmp_path, tiny_model())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_training_statistics_are_not_published(folder: Path) -> None:
    assert not any("usage" in n for n in read_safetensors(folder / "tokenizer" / "model.safetensors"))


def test_weights_in_bfloat16_load_as_float32(tmp_path: Path) -> None:
    pretrained.save(tmp_path / "m", tiny_model(), dtype=torch.bfloat16)
    model = pretrained.load(tmp_path / "m").model
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bfloat16_keeps_the_classifier_and_the_quantiser_exact(folder: Path) -> None:
    model = pretrained.load(folder, dtype="bfloat16").model
    assert model.word.weight.dtype == torch.bfloat16
    assert model.classifier.weight.dtype == torch.float32
    assert model.tokenizer.quantiser.codebook.weight.dtype == torch.float32
    assert model.tokenizer.decoder.conv_in.weight.dtype == torch.bfloat16
    assert Pipeline.from_pretrained(folder, dtype="bfloat16")([1], seed=0).tensors.isfinite().all()


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(NextsetError, match="no model is called"):
        pretrained.load("emoji-vra")


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 99}, "does not describe"),
        ({"kind": "banana"}, "does not describe"),
        ({"system": "controlar"}, "planned"),
        ({"system": "vra"}, "no system is called"),
        ({"config": {"depth": 2, "wdith": 3}}, "no field 'wdith'"),
        ({"config": {"width": 32, "heads": 5}}, "heads"),
        ({"config": {"depth": 100, "width": 16384, "heads": 128}}, "do not belong together"),
        ({"config": {"depth": 10**9}}, "between 1 and 128"),
    ],
)
def test_a_config_that_lies_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    change(folder, "config.json", **values)
    with pytest.raises(NextsetError, match=message) as error:
        pretrained.load(folder)
    assert "\n" not in str(error.value)


def test_cut_and_swapped_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NextsetError, match="not a whole safetensors file"):
        pretrained.load(folder)
    path.write_bytes(whole)
    state = read_safetensors(path)
    state["word.weight"] = torch.zeros(32, 9)
    write_safetensors(path, state)
    with pytest.raises(NextsetError, match="shape"):
        pretrained.load(folder)
    state.pop("word.weight")
    write_safetensors(path, state)
    with pytest.raises(NextsetError, match="lacks 1 of"):
        pretrained.load(folder)


def test_a_tokenizer_loads_alone_and_makes_no_pipeline(tmp_path: Path) -> None:
    pretrained.save(tmp_path / "t", tiny_tokenizer())
    loaded = pretrained.load(tmp_path / "t")
    assert loaded.kind == "tokenizer"
    with pytest.raises(NextsetError, match="is a tokenizer"):
        Pipeline(loaded)


class FakeHub:
    """A local double of the hub's client."""

    def __init__(self, root: Path) -> None:
        self.root, self.created = root, []

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
        self.created.append((name, private, exist_ok))

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
        import shutil

        shutil.copytree(folder_path, self.root / repo_id.replace("/", "--"))


def test_push_to_hub_and_back(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(tmp_path / "hub")
    assert pretrained.push_to_hub(folder, "me/tiny", api=hub) == "https://huggingface.co/me/tiny"
    assert hub.created == [("me/tiny", False, True)]
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(hub.root / name.replace("/", "--")))
    monkeypatch.chdir(tmp_path)
    assert torch.equal(Pipeline.from_pretrained("me/tiny")([1]).tokens, Pipeline.from_pretrained(folder)([1]).tokens)


def test_a_licence_that_needs_a_word_is_said_on_load(tmp_path: Path) -> None:
    folder = pretrained.save(tmp_path / "model", tiny_model(), licence_notice="weights for research only")
    with pytest.warns(NextsetWarning, match="for research only"):
        pretrained.load(folder)
