"""What is LlamaGen's own: prefixes of classes and texts, positions, guidance that ends early, training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine import static
from nextset.engine.run import Run, finish, look, proceed
from nextset.hub import pretrained
from nextset.hub.catalogue import get_record
from nextset.hub.requests import sizes_of
from nextset.pipelines import Pipeline, TextPipeline, load
from nextset.systems.llamagen import LlamaGen, LlamaGenConfig
from nextset.systems.llamagen.grid import Grid
from nextset.text.condition import Text
from nextset.text.words import WordsConfig
from nextset.tokenizers.objective import ObjectiveConfig
from nextset.tokenizers.vq import VQConfig, VQTokenizer
from nextset.training.recipes import load_recipe
from tests.battery.common import Tap
from tests.battery.instances import instance, randomise
from tests.cli.running import run as run_command
from tests.tiny import tiny_tokenizer

CLASSES = torch.tensor([3, 0, 1])


def model(kind: str = "llamagen") -> LlamaGen:
    return instance(kind).model  # type: ignore[return-value]


def text(*lengths: int, seed: int = 0) -> Text:
    g = torch.Generator().manual_seed(seed)
    return Text.of([torch.randn(n, 6, generator=g) for n in lengths])


def made(job: Any, **options: Any) -> tuple[Run, Tensor]:
    run = Run.of(job, Noise(0), **options)
    finish(run)
    return run, run.codes()


# ---- sizes and positions


@pytest.mark.parametrize("size", get_record("llamagen").sizes, ids=lambda size: size.name)
def test_every_size_has_the_parameters_that_its_record_says(size: Any) -> None:
    asked_with = "text" if "-text" in size.name else "class"
    with torch.device("meta"):
        whole = LlamaGen(LlamaGenConfig(asked_with=asked_with, depth=size.depth, width=size.width, heads=size.heads))
    assert sum(p.numel() for p in whole.parameters()) == size.params


def test_values_turn_by_row_and_column_and_condition_slots_vanish() -> None:
    grid = Grid(2, 3)
    cos, sin = grid.turns(8, 100.0, "grid", torch.device("cpu")).at(torch.arange(grid.plan.size))
    assert not cos[:2].any() and not sin[:2].any()
    for k in range(8):
        row, column = divmod(k, 3)
        angle = torch.tensor([row, row / 10, column, column / 10])
        torch.testing.assert_close(cos[2 + k], angle.cos())
        torch.testing.assert_close(sin[2 + k], angle.sin())
    unit, _ = grid.turns(8, 100.0, "grid_unit", torch.device("cpu")).at(torch.tensor([0, 5]))
    assert (unit[0] == 1).all() and torch.equal(unit[1], cos[5])
    line, _ = grid.turns(8, 10000.0, "sequence", torch.device("cpu")).at(torch.tensor([7]))
    torch.testing.assert_close(line[0], (7 * torch.tensor([1.0, 0.1, 0.01, 0.001])).cos())


def test_the_policy_of_positions_changes_the_law_but_no_weight() -> None:
    base, codes = model(), torch.zeros(1, 9, dtype=torch.int64)
    laws = []
    for positions in ("grid", "grid_unit", "sequence"):
        other = LlamaGen(base.config.replace(positions=positions)).eval()
        other.load_state_dict(base.state_dict())
        with torch.no_grad():
            laws.append(other.teacher_forced(codes, other.prefix.ask(CLASSES[:1])))
    assert not torch.allclose(laws[0], laws[1]) and not torch.allclose(laws[1], laws[2])


# ---- requests


def test_one_forward_a_token_and_a_second_branch_only_where_it_is_guided() -> None:
    counts = {}
    for name, settings in {
        "none": {"guidance_scale": 1.0},
        "below": {"guidance_scale": 0.5},
        "all": {"guidance_scale": 2.0},
        "early": {"guidance_scale": 2.0, "guidance_tokens": 4},
    }.items():
        job = model().job(CLASSES, **settings)  # type: ignore[arg-type]
        tap = Tap(job.network)
        run, _ = made(dataclasses.replace(job, network=tap))
        assert run.forwards == 9
        counts[name] = [len(active) for active in tap.active]
    assert counts == {"none": [1] * 9, "below": [1] * 9, "all": [2] * 9, "early": [2] * 4 + [1] * 5}


def test_guidance_for_as_many_tokens_as_there_are_is_guidance() -> None:
    whole = made(model().job(CLASSES, guidance_scale=3.0))[1]
    assert torch.equal(made(model().job(CLASSES, guidance_scale=3.0, guidance_tokens=9))[1], whole)
    assert not torch.equal(made(model().job(CLASSES, guidance_scale=3.0, guidance_tokens=2))[1], whole)


def test_memory_is_what_was_counted() -> None:
    run, _ = made(model().job(CLASSES, guidance_scale=2.0))
    c = model().config
    assert run.policy.bytes() == 2 * c.depth * (2 * 3) * (c.keys * c.head_width) * 9 * 4


def test_a_row_may_forget_its_last_tokens_and_go_on() -> None:
    whole = made(model().job(CLASSES, guidance_scale=2.0))[1]
    run = Run.of(model().job(CLASSES, guidance_scale=2.0), Noise(0))
    with torch.no_grad():
        list(proceed(run, stop=6))
        run.policy.truncate(torch.full((6,), 1 + 3))
        run.cursor = 4
        law = look(run, run.job.plan.steps[4])
        again = Run.of(model().job(CLASSES, guidance_scale=2.0), Noise(0))
        list(proceed(again, stop=4))
        torch.testing.assert_close(law.logits, look(again, again.job.plan.steps[4]).logits)  # type: ignore[attr-defined]
    finish(again)
    assert torch.equal(again.codes(), whole)


def test_a_given_beginning_is_joined_into_one_forward() -> None:
    whole = made(model().job(CLASSES))[1]
    job = model().job(CLASSES)
    job.canvas.pin(whole, torch.arange(9) < 5)
    run, codes = made(job)
    assert torch.equal(codes, whole) and run.forwards == 4


def test_texts_end_in_front_of_the_tokens() -> None:
    m = model("llamagen:text")
    asked = m.prefix.ask(text(1, 4, 2))
    values = text(1, 4, 2).values
    assert asked.hidden is not None and asked.hidden.sum(1).tolist() == [3, 0, 2]
    assert torch.equal(asked.condition[0, 3], values[0, 0]) and not asked.condition[0, :3].any()
    assert torch.equal(asked.condition[1], values[1]) and torch.equal(asked.condition[2, 2:], values[2, :2])
    assert m.prefix.ask(text(4, 4)).hidden is None
    assert torch.equal(m.prefix.without(asked).hidden, asked.hidden)  # type: ignore[arg-type]
    assert torch.equal(m.prefix.lay(text(6)).condition, text(6).values[:, :4]), "training reads the first tokens"


def test_what_lies_in_padding_never_matters() -> None:
    m = model("llamagen:text")
    short = text(2)
    spoilt = Text(torch.cat([short.values, torch.full((1, 3, 6), 9.0)], 1), short.lengths)
    assert torch.equal(made(m.job(short))[1], made(m.job(spoilt))[1])
    asked = m.prefix.ask(short)
    noisy = asked._replace(condition=asked.condition + asked.hidden[..., None].float())  # type: ignore[index]
    codes = torch.zeros(1, 9, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(m.teacher_forced(codes, noisy), m.teacher_forced(codes, asked))


def test_negative_texts() -> None:
    m = model("llamagen:text")
    one, each = text(3, seed=1), text(3, 1, seed=1)
    job = m.job(text(2, 4), negative=one, guidance_scale=3.0)
    assert job.branches[1].condition.shape == (2, 4, 6) and torch.equal(
        job.branches[1].hidden[:, 0], torch.tensor([True] * 2)
    )  # type: ignore[index]
    assert m.job(text(2, 4), negative=each).branches[1].hidden[:, 1].tolist() == [False, True]  # type: ignore[index]
    assert not torch.equal(made(job)[1], made(m.job(text(2, 4), guidance_scale=3.0))[1])
    with pytest.raises(NextsetError, match="there are 3 negative texts for 2 texts; give one, or one for each"):
        m.job(text(2, 4), negative=text(1, 1, 1))


@pytest.mark.parametrize(
    ("kind", "asked", "settings", "words"),
    [
        ("llamagen", torch.tensor([6]), {}, r"class id is 6, but must be between 0 and 4 \(5 = no class\)"),
        ("llamagen", text(2), {}, "this model is asked with class ids, but was given Text"),
        ("llamagen", CLASSES, {"ratio": 1.5}, "this model makes squares of 3x3 tokens alone"),
        ("llamagen", CLASSES, {"temperature": 0.0}, "temperature is 0.0, but must be at least 1e-06"),
        ("llamagen", CLASSES, {"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        (
            "llamagen",
            CLASSES,
            {"guidance_tokens": -1},
            "guidance_tokens is -1, but must be at least 0; 0 guides every token",
        ),
        ("llamagen", CLASSES, {"top_p": 2.0}, "top_p is 2.0"),
        ("llamagen:text", CLASSES, {}, "this model is asked with text, but was given Tensor"),
        ("llamagen:text", text(5), {}, "the text has 5 tokens, but this model reads at most 4; shorten it"),
        ("llamagen:text", Text(torch.zeros(1, 2, 7), torch.tensor([2])), {}, "the text features have 7 channels"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_in_one_line(kind: str, asked: Any, settings: dict, words: str) -> None:
    with pytest.raises(NextsetError, match=words) as error:
        model(kind).job(asked, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"heads": 5},
        {"heads": 384},
        {"keys": 5},
        {"sides": (2, 4)},
        {"dropout": 1.0},
        {"depth": 0},
        {"asked_with": "sound"},
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict) -> None:
    with pytest.raises(NextsetError, match=f"LlamaGenConfig.{next(iter(values))} is"):
        LlamaGenConfig(**values)


# ---- as a person uses it


def test_a_pipeline_of_classes(tmp_path: Path) -> None:
    pipe = load(pretrained.save(tmp_path / "model", model(), defaults={"guidance_scale": 2.0, "top_k": 0}))
    assert type(pipe) is Pipeline
    out = pipe(3, n=2, seed=1, previews=True)
    assert out.tensors.shape == (2, 3, 6, 6) and out.tokens.shape == (2, 9) and len(out.previews) == 9
    assert torch.equal(pipe(3, indices=[1], seed=1).tokens[0], out.tokens[1])
    again = pipe.inpaint(out.tensors[:1], box=(0.0, 0.0, 0.4, 0.4), classes=3)
    codes = pipe.tokenizer.encode(out.tensors[:1])
    kept = pipe.system.keep_mask(torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1]]))
    assert kept.sum() == 8 and torch.equal(again.tokens[0, kept], codes[0, kept])
    with pytest.raises(NextsetError, match="has no setting 'guidance'"):
        pipe(3, guidance=2.0)


def test_a_pipeline_of_texts(tmp_path: Path) -> None:
    pipe = load(pretrained.save(tmp_path / "model", model("llamagen:text")))
    assert type(pipe) is TextPipeline
    with pytest.raises(NextsetError, match="reads features of 6 channels and has no text encoder of its own"):
        pipe("a red apple")

    class Letters:
        width = 6

        def encode(self, prompts: list[str]) -> Text:
            return Text.of(
                [torch.randn(min(len(p), 4), 6, generator=torch.Generator().manual_seed(len(p))) for p in prompts]
            )

    pipe.encoder = Letters()
    out = pipe(["red", "a blue apple"], negative_prompt="grey", seed=2)
    assert out.tensors.shape == (2, 3, 6, 6) and out.prompts == ["red", "a blue apple"]
    assert torch.equal(pipe("a blue apple", n=2, negative_prompt="grey", seed=2).tokens[1], out.tokens[1])
    with pytest.raises(NextsetError, match="this model makes squares of 3x3 tokens alone; leave out size and shape"):
        pipe("red", pixels="1M")


# ---- training


def trained(kind: str = "llamagen", **changes: Any) -> LlamaGen:
    base = model(kind)
    other = LlamaGen(base.config.replace(**changes))
    other.load_state_dict(base.state_dict())
    return other.train()


def loss_of(m: LlamaGen, batch: dict[str, Any], seed: int = 0) -> Tensor:
    with torch.no_grad():
        (update,) = m.updates(batch, 0, Noise(seed))
    return update.loss


def test_an_untrained_model_knows_nothing() -> None:
    m = LlamaGen(model().config.replace(condition_drop=0.0))
    it = instance("llamagen")
    torch.testing.assert_close(loss_of(m, it.batch(torch.arange(4))), torch.tensor(math.log(24)))  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["llamagen", "llamagen:text"])
def test_a_dropped_condition_is_the_null_one_with_the_same_padding(kind: str) -> None:
    m, batch = trained(kind, condition_drop=0.999), instance(kind).batch(torch.arange(4))  # type: ignore[misc]
    asked = m.prefix.ask(batch["text" if kind.endswith("text") else "labels"])
    with torch.no_grad():
        wanted = m.loss(m.teacher_forced(batch["codes"], m.prefix.without(asked)), batch["codes"])[0]
    torch.testing.assert_close(loss_of(m, batch), wanted)
    assert not torch.allclose(loss_of(trained(kind, condition_drop=0.0), batch), wanted)
    mixed = m.dropped(asked, torch.tensor([True, False, True, False]))
    assert torch.equal(mixed.condition[1::2], asked.condition[1::2].to(mixed.condition))
    assert torch.equal(mixed.condition[::2], m.prefix.without(asked).condition[::2])


def with_words(**changes: Any) -> LlamaGen:
    words = WordsConfig(words=("apple", "pear", "red"), width=8, depth=1, heads=2, length=4)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "asked_with": "text",
        "text_channels": 8,
        "text_length": 4,
        "words": words,
        "condition_drop": 0.0,
    }
    config = model().config.replace(**{**sizes, **changes})
    return randomise(LlamaGen(config, model().tokenizer))  # type: ignore[return-value]


def test_words_are_trained_with_the_generator(tmp_path: Path) -> None:
    m = with_words().train()
    codes = instance("llamagen").batch(torch.arange(2))["codes"]  # type: ignore[misc]
    batch = {"codes": codes, "captions": ["red pear", "apple"], "index": torch.arange(2)}
    (update,) = m.updates(batch, 0, Noise(0))
    update.loss.backward()
    assert m.words is not None and all(p.grad is not None and p.grad.abs().sum() > 0 for p in m.words.parameters())
    features = m.encode_prompts(batch["captions"])  # type: ignore[arg-type]
    torch.testing.assert_close(loss_of(m, {**batch, "text": features, "captions": ["none"]}), update.loss.detach())
    pipe = load(pretrained.save(tmp_path / "model", m.eval()))
    assert pipe("red apple", n=2).tensors.shape == (2, 3, 6, 6)  # type: ignore[operator]
    with pytest.raises(NextsetError, match="this model knows no word of the prompt 'plum'"):
        pipe("plum")  # type: ignore[operator]


@pytest.mark.parametrize("asked", [("--class", "1"), ("red apple",)])
def test_the_command_compiles_the_step(asked: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same body for both models, not compiled here: the battery does that."""
    backends: list[object] = []

    def body(network: object, backend: object) -> object:
        backends.append(backend)
        return static.step_of

    monkeypatch.setattr(static, "_compiled", body)
    folder = pretrained.save(tmp_path / "model", (model() if len(asked) == 2 else with_words()).eval())
    command, pictures = ("generate", *asked, "-n", 2, "-m", folder, "-o", tmp_path / "out.png"), []
    for flags in ((), ("--compile",)):
        run_command(*command, *flags)
        pictures.append((tmp_path / "out.png").read_bytes())
        assert set(backends) == ({"inductor"} if flags else set())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("changes", [{"asked_with": "class"}, {"text_channels": 6}, {"text_length": 5}])
def test_words_of_another_size_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(NextsetError, match=r"LlamaGenConfig\.words is"):
        with_words(**changes)


def test_learned_positions_are_a_row_for_each_slot_and_nothing_turns() -> None:
    m = LlamaGen(model().config.replace(positions="learned"))
    assert m.place is not None and m.place.shape == (1 + 9, 32) and 0.01 < float(m.place.detach().std()) < 0.03
    assert m.prepare([CLASSES]).turns is None
    randomise(m)
    codes = torch.zeros(1, 9, dtype=torch.int64)
    with torch.no_grad():
        before = m.teacher_forced(codes, m.prefix.ask(CLASSES[:1]))
        m.place[4] += 1.0  # of position 3, which is fed to predict position 4
        after = m.teacher_forced(codes, m.prefix.ask(CLASSES[:1]))
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4], after[:, 4])


def test_samples_that_do_not_count() -> None:
    m, it = trained(condition_drop=0.0), instance("llamagen")
    batch = it.batch(torch.arange(4))  # type: ignore[misc]
    part = it.batch(torch.arange(2))  # type: ignore[misc]
    torch.testing.assert_close(loss_of(m, {**batch, "valid": torch.tensor([1, 1, 0, 0])}), loss_of(m, part))
    assert loss_of(m, {**batch, "valid": torch.zeros(4)}) == 0


def test_dropout_and_drop_path_exclude_each_other() -> None:
    plain = LlamaGen(LlamaGenConfig(depth=3, width=32, heads=2, vocabulary=8, sides=(2,)))
    deep = LlamaGen(LlamaGenConfig(depth=3, width=32, heads=2, vocabulary=8, sides=(2,), drop_path=0.2))
    assert [b.attn.dropout.p for b in plain.blocks] == [0.1] * 3 and plain.token_dropout.p == 0.1  # type: ignore[union-attr]
    assert [b.ffn.dropout.p for b in deep.blocks] == [0.0] * 3  # type: ignore[union-attr]
    assert [b.drop_path.p for b in deep.blocks] == pytest.approx([0, 0.1, 0.2])  # type: ignore[union-attr]


def test_the_recipes_fit_together() -> None:
    recipe = dict(load_recipe("llamagen-cifar10-tokenizer").model)
    assert recipe.pop("type") == "vq"
    vq = VQTokenizer(VQConfig.from_dict({k: v for k, v in recipe.items() if k != "objective"}),
                     ObjectiveConfig.from_dict(recipe["objective"]))  # fmt: skip
    assert vq.spec.size == (32, 32) and vq.spec.tokens == 64
    sizes = {"classes": 10, **sizes_of(LlamaGen, vq), **load_recipe("llamagen-cifar10").model}
    m = LlamaGen(LlamaGenConfig.from_dict(sizes), vq).eval()
    batch = {"codes": vq.encode(torch.zeros(1, 3, 32, 32)), "labels": torch.tensor([3]), "index": torch.tensor([0])}
    assert torch.isfinite(loss_of(m, batch))


def test_a_tokenizer_of_another_size_is_used_at_this_one() -> None:
    m = LlamaGen(model().config, model().tokenizer.at(7))
    assert m.tokenizer.spec.size == (6, 6)
    other = VQTokenizer(model().tokenizer.config.replace(vocabulary=32))
    with pytest.raises(
        NextsetError, match=r"the tokenizer has \(vocabulary\) \(32,\), but the generator predicts \(24,\)"
    ):
        LlamaGen(model().config, other)
    with pytest.raises(NextsetError, match="ids of one map need a VQTokenizer"):
        LlamaGen(model().config, tiny_tokenizer())  # type: ignore[arg-type]
