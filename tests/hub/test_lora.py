"""LoRA: what it adds, what it leaves alone, what its folders may hold, and its training run."""

from __future__ import annotations

import io
import json
import sys
import warnings

import pytest
import safetensors.torch
import torch
from PIL import Image
from rich.console import Console

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.noise import Noise
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.hub import lora, pretrained
from nextset.hub.lora_layers import LoraConfig
from nextset.hub.lora_run import lora_run
from nextset.nn.offload import offload_blocks
from nextset.training.recipes import load_recipe
from tests.battery.instances import INSTANCES, Instance
from tests.tiny import save_tiny

pytest.importorskip("peft")

IMAGES = torch.arange(3)


@torch.no_grad()
def outputs(it: Instance) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures, and the logits that they were drawn from."""
    record = Record()
    pictures = finish(Run.of(it.job(IMAGES), Noise(1), IMAGES, controllers=[record]))
    return pictures, torch.cat([law.logits.flatten() for law in record.dists])


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def trained(model: torch.nn.Module, name: str = "style", seed: int = 0, **config: object) -> None:
    """An adapter that changes something: B is drawn, not 0."""
    lora.add(model, name, LoraConfig(**config))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if f".lora_B.{name}." in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


@pytest.fixture(params=["infinity", "var", "hmar:refined", "m_var"])
def it(request):
    return INSTANCES[request.param]()


@pytest.fixture
def folder(tmp_path):
    """A LoRA of the tiny text-to-image model."""
    model = INSTANCES["infinity"]().model
    trained(model)
    return lora.save(tmp_path / "style", model, "style", base="tiny")


# ---- in a model


def test_a_new_adapter_changes_nothing_and_is_all_that_trains(it):
    before = outputs(it)
    lora.add(it.model)
    assert same(outputs(it), before)
    names = [name for name, p in it.model.named_parameters() if p.requires_grad]
    assert names and all(".lora_" in name and "blocks." in name for name in names)
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names}
    assert {"qkv", "proj", "up", "down"} <= layers <= {"qkv", "proj", "up", "down", "q", "kv"}


def test_scales_act_and_zero_is_the_model_itself(it):
    before = outputs(it)
    trained(it.model)
    whole = outputs(it)
    assert not same(whole, before)
    with lora.scaled(it.model, 0):
        assert same(outputs(it), before) and lora.loras(it.model) == {"style": 0}
    with lora.scaled(it.model, 0.5) as half:
        assert half is it.model and not same(outputs(it), whole) and not same(outputs(it), before)
    assert same(outputs(it), whole)
    lora.set_scale(it.model, 0)
    assert same(outputs(it), before)


def test_merged_and_beside_agree_and_everything_can_be_undone(it):
    before, weights = outputs(it), {k: v.clone() for k, v in it.model.state_dict().items()}
    flags = [p.requires_grad for p in it.model.parameters()]
    trained(it.model, "a")
    trained(it.model, "b", seed=1)
    lora.set_scale(it.model, -0.5, "b")
    beside, mark = outputs(it), lora.fingerprint(it.model)
    with pytest.raises(NextsetError, match=r"adapters beside its weights \(a, b\)"):
        lora.check_plain(it.model)
    lora.merge(it.model)
    torch.testing.assert_close(outputs(it), beside, atol=1e-5, rtol=1e-5)
    assert it.model.state_dict().keys() == weights.keys()
    assert any(not torch.equal(v, weights[k]) for k, v in it.model.state_dict().items())
    lora.check_plain(it.model)
    with pytest.raises(NextsetError, match="unmerge them first"):
        lora.set_scale(it.model, 1)
    lora.unmerge(it.model)
    assert same(outputs(it), beside)
    lora.merge(it.model)
    assert lora.fingerprint(it.model) == mark
    lora.unload(it.model)
    state = it.model.state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(state[k], v) for k, v in weights.items())
    assert same(outputs(it), before) and lora.loras(it.model) == {} and lora.fingerprint(it.model) == mark
    assert [p.requires_grad for p in it.model.parameters()] == flags


def test_several_add_up_and_leave_one_by_one(it):
    before = outputs(it)
    trained(it.model, "a", targets=("qkv",))
    only_a = outputs(it)
    trained(it.model, "b", seed=1)
    both = outputs(it)
    lora.set_scale(it.model, 0, "b")
    assert same(outputs(it), only_a)
    lora.set_scale(it.model, 1, "b")
    assert same(outputs(it), both)
    lora.unload(it.model, "b")
    assert same(outputs(it), only_a) and lora.loras(it.model) == {"a": 1}
    lora.unload(it.model, "a")
    assert same(outputs(it), before)


def test_what_is_merged_is_saved_as_a_plain_model(tmp_path):
    it = INSTANCES["infinity"]()
    trained(it.model)
    lora.merge(it.model)
    again = pretrained.load(pretrained.save(tmp_path / "merged", it.model)).model
    for name, weight in it.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_names_and_scales_are_refused_in_one_line():
    model = INSTANCES["var"]().model
    for act in (lora.merge, lora.unload, lambda m: lora.set_scale(m, 1)):
        with pytest.raises(NextsetError, match="has no adapter; load one first"):
            act(model)
    with pytest.raises(NextsetError, match=r"lora\.targets has 'qvk', .* did you mean 'qkv'"):
        lora.add(model, config=LoraConfig(targets=("qvk",)))
    for name in ("a.b", "", "keys", "x" * 101):
        with pytest.raises(NextsetError, match="cannot be the name"):
            lora.add(model, name)
    assert lora.loras(model) == {} and not any(".lora_" in key for key in model.state_dict())
    lora.add(model, "style")
    with pytest.raises(NextsetError, match="'style' is there already"):
        lora.add(model, "style")
    with pytest.raises(NextsetError, match=r"no adapter 'stile': did you mean 'style'"):
        lora.set_scale(model, 1, "stile")
    for scale in (float("nan"), 11, -11):
        with pytest.raises(NextsetError, match=r"scale is .* between -10.0 and 10.0"):
            lora.set_scale(model, scale)


def test_without_peft_the_install_command_is_said(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NextsetError, match=r"peft, which is not installed; pip install 'nextset\[lora\]'"):
        lora.load(INSTANCES["infinity"]().model, folder)


# ---- folders


def test_a_folder_loads_onto_its_model_and_is_pefts(folder):
    from peft import PeftModel

    it = INSTANCES["infinity"]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lora.load(it.model, folder) == "style"
        assert lora.load(it.model, folder, "again", scale=0.25) == "again"
    assert lora.loras(it.model) == {"style": 1, "again": 0.25}
    assert not any(p.requires_grad for p in it.model.parameters())
    lora.unload(it.model, "again")
    expected = INSTANCES["infinity"]()
    trained(expected.model)
    assert same(outputs(it), outputs(expected))
    read = INSTANCES["infinity"]()
    PeftModel.from_pretrained(read.model, str(folder))
    assert same(outputs(read), outputs(expected))


def test_a_folder_that_peft_wrote_loads(tmp_path):
    import peft

    it = INSTANCES["var"]()
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, target_modules=["qkv", "down"], init_lora_weights=False
    )
    peft.get_peft_model(it.model, config).save_pretrained(str(tmp_path / "theirs"))
    again = INSTANCES["var"]()
    assert lora.load(again.model, tmp_path / "theirs") == "theirs"
    assert same(outputs(again), outputs(it))


def test_another_model_is_refused_with_both_values(folder):
    small = INSTANCES["infinity"]().model
    with pytest.raises(NextsetError, match=r"system is 'infinity' there, but 'var' here; load it onto tiny"):
        lora.load(INSTANCES["var"]().model, folder)
    for change, said in (
        ({"depth": 3}, "depth is 2 there, but 3 here"),
        ({"width": 64}, "width is 32 there, but 64 here"),
        ({"mlp_ratio": 16.0}, r"'blocks.0.ffn.down' is \(32, 256\) there, but \(32, 512\) here"),
    ):
        other = type(small)(small.config.replace(**change))  # type: ignore[operator,union-attr]
        keys = list(other.state_dict())
        with pytest.raises(NextsetError, match=said):
            lora.load(other, folder)
        assert list(other.state_dict()) == keys and lora.loras(other) == {}


def test_other_weights_of_the_same_sizes_are_said(folder):
    model = INSTANCES["infinity"]().model
    with torch.no_grad():
        model.start.add_(1)  # type: ignore[operator]
    with pytest.warns(NextsetWarning, match=r"other weights of this size \(tiny\)"):
        lora.load(model, folder)


def test_a_model_of_fewer_bits_is_the_same_model(folder):
    model = INSTANCES["infinity"]().model.to(torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lora.load(model, folder)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    lora.merge(model)
    lora.unmerge(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def config(**changes):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def tensors(act):
    def change(folder):
        path = folder / "adapter_model.safetensors"
        found = safetensors.torch.load_file(path)
        act(found)
        safetensors.torch.save_file(found, path)

    return change


KEY = "base_model.model.blocks.0.attn.qkv.lora_A.weight"


def as_pickle(folder):
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")


BROKEN = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "config is no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "not valid JSON"),
    "another adapter": (config(peft_type="LOHA"), "peft_type is 'LOHA', but must be 'LORA'"),
    "dora": (config(use_dora=True), "use_dora is True, but only plain LoRA"),
    "changes the base": (config(init_lora_weights="pissa_niter_4"), "init_lora_weights is 'pissa_niter_4'"),
    "biases": (config(bias="all"), "bias is 'all'"),
    "rank": (config(r=16), "must be a float matrix of rank 16"),
    "rank is no number": (config(r="8" * 10_000), "r is '88.*…, but must be a whole number"),
    "alpha": (config(lora_alpha=None), "lora_alpha is None, but must be a number"),
    "a pickle": (as_pickle, "adapter_model.bin, a pickle that may run code, is not read"),
    "cut off": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x10" + b"\0" * 20),
        "not a whole safetensors",
    ),
    "empty": (tensors(dict.clear), "holds no weights"),
    "foreign": (tensors(lambda t: t.update({"x": torch.ones(2)})), "holds 'x', which is no weight of a plain LoRA"),
    "lonely": (tensors(lambda t: t.pop(KEY)), "lora_B of 'blocks.0.attn.qkv' alone"),
    "not finite": (tensors(lambda t: t[KEY].fill_(float("nan"))), "numbers that are not finite"),
    "integers": (tensors(lambda t: t.update({KEY: t[KEY].int()})), "int32, but must be a float matrix"),
    "elsewhere": (
        tensors(lambda t: [t.update({k.replace("blocks.0.attn.qkv", "words"): t.pop(k)}) for k in list(t)]),
        "adds to 'words', which is no linear layer here",
    ),
    "about": (lambda f: (f / "nextset.json").write_text("[]"), "is not of format 1"),
    "newer": (lambda f: (f / "nextset.json").write_text('{"format": 2}'), "is not of format 1"),
    "hostile names": (lambda f: (f / "nextset.json").write_text(json.dumps({"system": ["x" * 10**6]})), "system is"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_and_hostile_folders_are_refused_in_one_short_line(folder, case):
    act, said = BROKEN[case]
    act(folder)
    model = INSTANCES["infinity"]().model
    with pytest.raises(NextsetError, match=said) as caught:
        lora.load(model, folder)
    text = str(caught.value).replace(str(folder), "")
    assert "\n" not in text and len(text) < 400
    assert lora.loras(model) == {} and not any(".lora_" in key for key in model.state_dict())


def test_a_pattern_of_the_file_is_never_searched_for(folder):
    config(target_modules="(a+)+" * 50 + "$", exclude_modules=".*")(folder)
    it = INSTANCES["infinity"]()
    before = outputs(it)
    lora.load(it.model, folder)
    assert not same(outputs(it), before)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    model = INSTANCES["var"]().model
    lora.add(model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(NextsetError, match="is no folder of a LoRA; choose another place"):
        lora.save(tmp_path / "mine", model)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    place = lora.save(tmp_path / "new", model)
    assert lora.save(place, model) == place and sorted(p.name for p in place.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "nextset.json",
    ]  # fmt: skip


# ---- training


def pictures(folder, captions):
    folder.mkdir()
    for i, caption in enumerate(captions):
        Image.new("RGB", (12, 12), (20, 60 * (i % 4), 200)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


def run(tmp_path, base, source, *changes, out="run", resume=False, steps=6):
    """What `nextset train` does with a recipe of this kind, and what it said."""
    overrides = [f"data.model={base}", f"data.source={source}", f"steps={steps}", "batch=4", "warmup=0", "lr=2e-2",
                 "log_every=1", "sample_every=0", "dtype=float32", "time_budget=0", *changes]  # fmt: skip
    console = Console(file=io.StringIO(), width=1000)
    recipe = load_recipe("lora-infinity-emoji", overrides)
    torch.manual_seed(recipe.train.seed)
    trainer, publish = lora_run(recipe, tmp_path / out, console)
    if resume:
        trainer.resume()
    trainer.run()
    return publish(trainer), console.file.getvalue()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pretrained.save(tmp_path_factory.mktemp("base") / "tiny", INSTANCES["infinity"]().model)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["generator/loss"] for line in lines if "generator/loss" in line]


def test_four_pictures_are_learned_and_the_run_continues_exactly(tmp_path, base):
    source = pictures(tmp_path / "four", ["w1 w2", "w3", "w4 w5", "w6 w1"])
    made, said = run(tmp_path, base, source, "sample_every=4", steps=8)
    curve = losses(tmp_path / "run")
    assert curve[-1] < 0.9 * curve[0], curve
    assert Image.open(tmp_path / "run" / "samples" / "step-000008.png").width == 4 + 14 * 8 - 2
    saved = safetensors.torch.load_file(next((tmp_path / "run").glob("step-*/model.safetensors")))
    assert saved and all(".lora_" in name for name in saved), "a checkpoint holds the adapters alone"

    about = json.loads((made / "nextset.json").read_text())
    assert about["base"] == str(base) and about["prompts"] == ["w1 w2", "w3", "w4 w5", "w6 w1"]
    assert (about["system"], about["width"], about["depth"]) == ("infinity", 32, 2) and "load_lora" in (
        made / "README.md"
    ).read_text()
    loaded = pretrained.load(base).model
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the base's weights are what they were
        assert lora.load(loaded, made) == "run"
    assert "note:" not in said

    run(tmp_path, base, source, "steps=8", "time_budget=0", "save_every=3", "keep=0", out="again", steps=8)
    (tmp_path / "again" / "latest").write_text("step-00000003\n")
    resumed, _ = run(tmp_path, base, source, out="again", resume=True, steps=8)
    assert (resumed / "adapter_model.safetensors").read_bytes() == (made / "adapter_model.safetensors").read_bytes()

    other = pretrained.load(base).model
    with torch.no_grad():
        other.start.add_(1)
    pretrained.save(tmp_path / "other", other)
    with pytest.raises(
        NextsetError, match=r"was trained on .*tiny with weights \w+, but .*other has \w+; give the model"
    ):
        run(tmp_path, tmp_path / "other", source, resume=True)


def test_unknown_words_are_said_once_and_left_out(tmp_path, base):
    source = pictures(tmp_path / "four", ["Blueprint of w1", "blueprint w2, neon", "w3"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, said = run(tmp_path, base, source, steps=1)
    (note,) = [line for line in said.splitlines() if line.startswith("note:")]
    assert "'blueprint' (2), 'neon' (1), 'of' (1)" in note and "take one that it knows" in note
    (source / "1.txt").write_text("neon")
    with pytest.raises(NextsetError, match="knows no word of the caption 'neon'"):
        run(tmp_path, base, source, out="b", steps=1)
    (source / "1.txt").unlink()
    with pytest.raises(NextsetError, match=r"1 of 3 pictures have no caption.* write a \.txt beside each"):
        run(tmp_path, base, source, out="c", steps=1)


def test_a_model_of_classes_learns_from_its_own_classes(tmp_path):
    base = save_tiny(tmp_path / "tiny")
    pictures(tmp_path / "set", [])
    for name in ("heart", "class-3"):
        pictures(tmp_path / "set" / name, ["", ""])
    made, _ = run(tmp_path, base, tmp_path / "set", steps=8)
    curve = losses(tmp_path / "run")
    assert curve[-1] < curve[0], curve
    assert lora.load(pretrained.load(base).model, made) == "run"
    (tmp_path / "set" / "heart").rename(tmp_path / "set" / "hart")
    with pytest.raises(NextsetError, match=r"knows no class 'hart': did you mean 'heart'.* sub-folders"):
        run(tmp_path, base, tmp_path / "set", out="b")


def test_a_recipe_without_its_parts_is_refused_in_one_line(tmp_path, base):
    with pytest.raises(NextsetError, match=r"data\.model is missing"):
        run(tmp_path, "", tmp_path)
    with pytest.raises(NextsetError, match=r"data\.source is missing"):
        run(tmp_path, base, "")
    with pytest.raises(NextsetError, match="a tokenizer; name a generator"):
        run(tmp_path, base / "tokenizer", tmp_path)
    with pytest.raises(NextsetError, match="LoraConfig has no field 'ranks': did you mean 'rank'"):
        run(tmp_path, base, tmp_path, "lora.ranks=4")
    with pytest.raises(NextsetError, match=r"kind 'lora' has no section \[model\]"):
        run(tmp_path, base, tmp_path, "model.depth=4")
    with pytest.raises(NextsetError, match=r"kind 'generator' has no section \[lora\]"):
        load_recipe("infinity-emoji", ["lora.rank=4"])


def test_an_offloaded_model_takes_adapters(folder):
    plain, offloaded = INSTANCES["infinity"](), INSTANCES["infinity"]()
    offload_blocks(offloaded.model, "cpu")
    for it in (plain, offloaded):
        lora.load(it.model, folder)
    assert same(outputs(offloaded), outputs(plain))
