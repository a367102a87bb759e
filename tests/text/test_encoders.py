"""T5 encoders, read through transformers from models that are made here: features, cuts, and what is said of wrong files."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import sentencepiece
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.files import read_json, write_json
from nextset.text.encoders import T5Encoder
from tests.text.tiny_t5 import save_t5, tiny_tokenizer

PROMPTS = ["a red cat", "the old man sits under the old tree in the rain", "dog", "zebra \U0001f98a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_t5(tmp_path_factory.mktemp("t5"))


class Calls:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def one_line(error: pytest.ExceptionInfo[NextsetError]) -> str:
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


def test_features_are_those_of_the_model_for_each_prompt_alone(folder: Path) -> None:
    text = T5Encoder(folder).encode(PROMPTS)
    whole = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    assert text.values.dtype == torch.float32 and text.values.shape[2] == 32
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([tiny_tokenizer()(prompt)["input_ids"]])
        with torch.no_grad():
            expected = whole.encoder(ids).last_hidden_state[0]
        assert text.lengths[i] == ids.shape[1] and ids[0, -1] == 1  # the end token counts
        torch.testing.assert_close(text.values[i, : ids.shape[1]], expected, atol=1e-5, rtol=0)


def test_features_do_not_depend_on_the_other_prompts(folder: Path) -> None:
    alone = [T5Encoder(folder).encode([prompt]).values[0] for prompt in PROMPTS]
    one_by_one, together = T5Encoder(folder).encode(PROMPTS), T5Encoder(folder, batch=3).encode(PROMPTS)
    assert one_by_one.lengths.tolist() == together.lengths.tolist() == [len(values) for values in alone]
    for i, values in enumerate(alone):
        assert torch.equal(one_by_one.values[i, : len(values)], values)
        torch.testing.assert_close(together.values[i, : len(values)], values, atol=1e-5, rtol=0)


def test_features_do_not_depend_on_how_a_prompt_is_spaced(folder: Path) -> None:
    encoder = T5Encoder(folder)
    assert torch.equal(encoder.encode(["a red cat"]).values, encoder.encode([" a\n red\x00  cat"]).values)


def test_features_carry_no_gradient_but_may_be_trained_on(folder: Path) -> None:
    values = T5Encoder(folder).encode(["a red cat"]).values
    layer = torch.nn.Linear(32, 4)
    layer(values).sum().backward()
    assert not values.requires_grad and layer.weight.grad is not None


@pytest.mark.parametrize("kind", ["mt5", "umt5"])
def test_relatives_of_t5(tmp_path: Path, kind: str) -> None:
    text = T5Encoder(save_t5(tmp_path, kind=kind, width=16, decoder=False), expect_width=16).encode(["a cat", "dog"])
    assert text.values.shape == (2, 3, 16) and text.lengths.tolist() == [3, 2]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_close_and_gives_its_own_values_as_float32(folder: Path, dtype: str) -> None:
    encoder = T5Encoder(folder, dtype=dtype)
    half, full = encoder.encode(PROMPTS).values, T5Encoder(folder).encode(PROMPTS).values
    assert half.dtype == torch.float32 and torch.equal(half.to(encoder.dtype).float(), half)
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, atol=0.1, rtol=0)
    assert {p.dtype for n, p in encoder._model.named_parameters() if not n.endswith("wo.weight")} == {encoder.dtype}


def test_the_model_is_loaded_for_the_first_prompt_and_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []
    load = transformers.AutoModelForTextEncoding.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModelForTextEncoding, "from_pretrained", lambda *a, **k: loads.append(a) or load(*a, **k)
    )
    encoder = T5Encoder(folder)
    assert encoder.width == 32 and encoder.identity and not loads
    encoder.encode(["a cat"])
    encoder.encode(["dog"])
    assert len(loads) == 1


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    T5Encoder(folder).encode(["a cat"])
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_a_long_prompt_is_cut_and_the_cut_is_shown(folder: Path) -> None:
    words = ["a", "red", "cat", "sits", "on", "the", "sofa"] * 400  # a token each
    with pytest.warns(NextsetWarning) as seen:
        text = T5Encoder(folder).encode([" ".join(words), "dog", " ".join(words)])
    assert text.lengths.tolist() == [512, 2, 512] and torch.equal(text.values[0], text.values[2])
    rest = " ".join(words[511:])
    cut = f"512 of a prompt's 2801 tokens are read; cut: {rest[:40]!r} ... {rest[-40:]!r}"
    assert [str(warning.message) for warning in seen] == [cut]


def test_a_short_cut_is_shown_whole_and_what_is_read_ends_as_a_prompt(folder: Path) -> None:
    encoder = T5Encoder(folder, max_length=4)
    with pytest.warns(NextsetWarning, match="^4 of a prompt's 6 tokens are read; cut: 'sits on'$"):
        cut = encoder.encode(["a red cat sits on"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cut.values, encoder.encode(["a red cat"]).values)


def test_a_width_that_does_not_fit_is_refused_before_anything_is_loaded(folder: Path) -> None:
    with pytest.raises(NextsetError, match="gives 32 channels, but the model reads 2048") as error:
        T5Encoder(folder, expect_width=2048)
    one_line(error)


def test_identity_changes_with_what_changes_features(folder: Path, tmp_path: Path) -> None:
    same, other = save_t5(tmp_path / "same"), save_t5(tmp_path / "other", seed=1)
    encoders = [
        T5Encoder(folder),
        T5Encoder(folder, dtype="bfloat16"),
        T5Encoder(folder, max_length=77),
        T5Encoder(same),
        T5Encoder(other),
    ]
    assert len({e.identity for e in encoders}) == 5
    assert T5Encoder(folder, batch=8).identity == T5Encoder(folder).identity == T5Encoder(str(folder)).identity
    before = T5Encoder(same).identity
    (same / "tokenizer.json").write_text((same / "tokenizer.json").read_text() + " ")
    changed = T5Encoder(same).identity
    (same / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())  # as large, and newer
    assert len({before, changed, T5Encoder(same).identity}) == 3


@pytest.mark.parametrize("source", ["/nowhere/t5", "./t5", "t5-small", "a/b/c"])
def test_a_folder_that_is_missing(source: str) -> None:
    with pytest.raises(NextsetError, match=f"no text encoder is at '{source}'; give a folder") as error:
        T5Encoder(source)
    one_line(error)


def test_a_name_that_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("no connection,\nnothing kept")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(NextsetError, match="owner/t5 cannot be fetched from the hub") as error:
        T5Encoder("owner/t5")
    one_line(error)


def test_a_name_that_is_none() -> None:
    with pytest.raises(NextsetError, match="'owner/t5 with spaces' is no folder and no valid hub name") as error:
        T5Encoder("owner/t5 with spaces")
    one_line(error)


def test_a_model_of_the_hub_is_pinned_to_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = T5Encoder(folder).encode(["a cat"]).values
    commit = "0123456789" * 4
    (tmp_path / commit).mkdir()
    (tmp_path / commit / "config.json").write_bytes((folder / "config.json").read_bytes())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: str(tmp_path / commit / file))
    fetched: list[tuple[str, str]] = []

    def instead_of(load: Any) -> Any:
        def fetch(name: str, *, revision: str, **options: Any) -> Any:
            fetched.append((name, revision))
            return load(folder, **options)

        return fetch

    encoder = T5Encoder("owner/t5")
    assert encoder.width == 32 and encoder.identity == f"owner/t5@{commit} torch.float32 512"
    for cls in (transformers.AutoTokenizer, transformers.AutoModelForTextEncoding):
        monkeypatch.setattr(cls, "from_pretrained", instead_of(cls.from_pretrained))
    assert torch.equal(encoder.encode(["a cat"]).values, expected)
    assert fetched == [("owner/t5", commit)] * 2


def test_the_extra_is_named_when_it_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = T5Encoder(folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NextsetError, match=r"install it with: pip install 'nextset\[text\]'$"):
        encoder.encode(["a cat"])


def test_what_is_no_t5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match=r"has no config\.json"):
        T5Encoder(tmp_path)
    for config, message in (
        ({"model_type": "llama", "d_model": 8}, "has model type 'llama', but must be one of t5, mt5, umt5"),
        ([], "has model type None"),
        ({"model_type": "t5", "d_model": "8"}, "has d_model '8' in config.json"),
        ({"model_type": "t5", "d_model": 8}, "has vocab_size None in config.json"),
    ):
        write_json(tmp_path / "config.json", config)
        with pytest.raises(NextsetError, match=message):
            T5Encoder(tmp_path)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    folder = save_t5(tmp_path, decoder=False)
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = safetensors.torch.load_file(weights)

    def refused(message: str) -> None:
        with pytest.raises(NextsetError, match=message) as error:
            T5Encoder(folder).encode(["a cat"])
        one_line(error)

    part = {n: t for n, t in whole.items() if "block.1" not in n}
    safetensors.torch.save_file(part, weights, {"format": "pt"})
    refused(r"lacks \d+ weights \(encoder.block.1")
    write_json(config, {**read_json(config), "d_ff": 48})
    refused("cannot be loaded")
    weights.write_bytes(weights.read_bytes()[:1000])
    refused("cannot be loaded")
    weights.unlink()
    refused("cannot be loaded")
    (folder / "tokenizer.json").write_text("{}")
    refused("the tokenizer of .* cannot be loaded")


def test_a_tokenizer_of_sentencepiece_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_t5(tmp_path, vocab_size=24)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(
        NextsetError, match=r"knows \d tokens, but the encoder 24; put .* spiece\.model beside"
    ) as error:
        T5Encoder(tmp_path).encode(["a red cat"])
    one_line(error)
    with (tmp_path / "spiece.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a red cat sits on the sofa", "the old man in the rain under a tree"] * 20),
            model_writer=model, vocab_size=24, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
        )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model")).encode("a red cat")
    assert T5Encoder(tmp_path).encode(["a red cat"]).lengths.tolist() == [len(pieces) + 1]

    def lacks(*args: Any, **kwargs: Any) -> Any:
        raise ImportError("sentencepiece is not there")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lacks)
    with pytest.raises(NextsetError, match=r"install what is missing with: pip install 'nextset\[text\]'$"):
        T5Encoder(tmp_path).encode(["a red cat"])


def test_weights_of_a_pickle_run_no_code(tmp_path: Path) -> None:
    folder = save_t5(tmp_path, decoder=False)
    expected = T5Encoder(folder).encode(["a cat"]).values
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(T5Encoder(folder).encode(["a cat"]).values, expected)
    torch.save({**weights, "shared.weight": Calls(tmp_path / "was here")}, folder / "pytorch_model.bin")
    with pytest.raises(NextsetError, match="cannot be loaded") as error:
        T5Encoder(folder).encode(["a cat"])
    assert not (tmp_path / "was here").exists() and one_line(error)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = save_t5(tmp_path, decoder=False)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["encoder.final_layer_norm.weight"].fill_(1e6)  # beyond float16
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert T5Encoder(folder).encode(["a cat"]).values.isfinite().all()
    with pytest.raises(NextsetError, match="not finite in float16; use bfloat16 or float32"):
        T5Encoder(folder, dtype="float16").encode(["a cat"])


@pytest.mark.parametrize("options", [{"dtype": "float61"}, {"max_length": 1}, {"batch": 0}])
def test_options_out_of_range(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(NextsetError, match=f"{next(iter(options))} is .*must be"):
        T5Encoder(folder, **options)
