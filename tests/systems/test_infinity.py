"""What is Infinity's own: schedules, conditions from text, self-correction, guidance in two places, training."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine.run import Run, finish
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.infinity.correction import corrected, strengths
from nextset.systems.infinity.model import per_scale
from nextset.systems.infinity.schedules import PIXELS, TABLE, Grids, nearest_ratio, schedule
from nextset.text.condition import Text
from nextset.text.words import WordsConfig
from nextset.tokenizers.bitwise import BitwiseConfig, BitwisePyramid, BitwiseQuantiser

WORDS = tuple("abcdefgh")


def tokenizer(patch: int = 1, channels: int = 4) -> BitwisePyramid:
    torch.manual_seed(0)
    sizes = AutoencoderConfig(8, (1, 2), 1, channels, 4, attention=False, middle_attention=False)
    return BitwisePyramid(BitwiseConfig(autoencoder=sizes, sides=(1, 2, 4), patch=patch)).eval()


def made(patch: int = 1, **fields: Any) -> Infinity:
    words = WordsConfig(words=WORDS, width=16, depth=1, heads=2, length=6)
    sizes = {"depth": 2, "width": 32, "heads": 2, "channels": 4, "patch": patch, "sides": (1, 2, 4), "levels": 3,
             "text_channels": 16, "text_length": 6, "words": words, "drop_path": 0.0, **fields}  # fmt: skip
    torch.manual_seed(1)
    model = Infinity(InfinityConfig(**sizes), tokenizer(patch)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def codes(job: Any, seed: int = 0) -> torch.Tensor:
    run = Run.of(job, Noise(seed))
    with torch.no_grad():
        finish(run)
    return run.codes()


# ---- schedules


def test_the_table_has_every_ratio_and_its_transpose():
    assert len(TABLE) == 15 and all(len(grids) == 13 for grids in TABLE.values())
    for ratio, grids in TABLE.items():
        turned = TABLE[int(1000 / ratio) / 1000] if ratio > 1 else grids
        assert ratio <= 1 or turned == tuple((w, h) for h, w in grids)
        assert grids[0] == (1, 1) and all(a <= c and b <= d for (a, b), (c, d) in itertools.pairwise(grids))


@pytest.mark.parametrize(("pixels", "tokens"), [("0.06M", 521), ("0.25M", 2521), ("0.60M", 6425), ("1M", 10521)])
def test_tokens_of_square_pictures(pixels, tokens):
    assert sum(h * w for h, w in schedule(1.0, pixels)) == tokens and set(PIXELS) >= {pixels}


def test_the_nearest_ratio_is_the_first_on_ties():
    assert [nearest_ratio(r) for r in (1.0, 9.0, 0.01, 1.1, 1.7)] == [1.0, 3.0, 0.333, 1.0, 1.75]
    with pytest.raises(NextsetError, match="pixels is '2M'"):
        schedule(1.0, "2M")


def test_positions_are_those_of_the_whole_schedule():
    small, whole = (Grids(schedule(1.5, p), TABLE[1.5][-1]) for p in ("0.06M", "1M"))
    n = small.plan.positions
    assert torch.equal(small.turns(16).cos, whole.turns(16).cos[:n])
    assert Grids.of([(1, 1), (2, 2), (3, 2)]).reference == (78, 52)  # the beginning of a schedule of the table
    assert Grids.of([1, 2, 4]).reference == TABLE[1.0][-1] and Grids.of([1, (3, 5)], 10).reference == (6, 10)


def test_tables_and_plans_are_made_once():
    a, b = Grids.of([1, 2, 4]), Grids.of([1, 2, 4])
    assert a.turns(16) is b.turns(16) and a.plan is b.plan and a.turns(16) is not a.turns(8)


# ---- text


def test_a_picture_does_not_depend_on_the_other_prompts():
    model = made()
    prompts = ["a", "b c d e f", "g h", "d a"]
    together = codes(model.job(model.encode_prompts(prompts), guidance_scale=2.0))
    for i, prompt in enumerate(prompts):
        run = Run.of(model.job(model.encode_prompts([prompt]), guidance_scale=2.0), Noise(0), torch.tensor([i]))
        with torch.no_grad():
            finish(run)
        assert torch.equal(run.codes()[0], together[i])


def test_the_text_decides():
    model = made()
    several = codes(model.job(model.encode_prompts(["a b", "c d"]).repeat_interleave(2), temperature=1e-3))
    assert torch.equal(several[0], several[1]) and not torch.equal(several[0], several[2])


def test_the_null_text_has_the_length_of_each_text():
    model = made()
    text = model.encode_prompts(["a", "b c d"])
    null = model.without(text)
    assert null.lengths.tolist() == text.lengths.tolist() == [2, 4] and null.values.shape == text.values.shape
    assert torch.equal(null.values[0], model.null[:4])


def test_negative_prompts_may_have_other_lengths():
    model = made()
    text = model.encode_prompts(["a", "b c d"])
    one = model.job(text, negative=model.encode_prompts(["e f g h a"]), guidance_scale=3.0)
    each = model.job(text, negative=model.encode_prompts(["e f g h a"] * 2), guidance_scale=3.0)
    assert torch.equal(codes(one), codes(each)) and not torch.equal(codes(one), codes(model.job(text)))
    with pytest.raises(NextsetError, match="3 negative texts for 2"):
        model.job(text, negative=model.encode_prompts(["a"] * 3))


# ---- guidance


def test_a_scale_of_one_everywhere_runs_no_second_branch():
    model = made()
    text = model.encode_prompts(["a b"])
    job = model.job(text, guidance_scale=1.0)
    assert len(job.branches) == 1 and len(model.job(text, guidance_scale=[1, 2, 1]).branches) == 2


def test_guidance_behind_the_last_block_is_that_of_the_head_up_to_the_norm():
    """Behind a block both rows go on alike; inside and outside differ, and a scale of 1 changes nothing."""
    model = made()
    text = model.encode_prompts(["a b", "c"])
    plain = codes(model.job(text, guidance_scale=1.0))
    inside = model.job(text, guidance_scale=[3.0, 3.0, 3.0], guide_at=[-1])
    assert torch.equal(codes(model.job(text, guidance_scale=[1.0, 1.0, 1.0], guide_at=[-1])), plain)
    assert not torch.equal(codes(inside), plain)
    assert not torch.equal(codes(model.job(text, guidance_scale=3.0)), plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": [1.0, 2.0]}, "guidance_scale has 2 numbers, but there are 3 scales"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"guide_at": [-3]}, "guide_at has -3, but must be between -2"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_settings_are_checked(settings, message):
    model = made()
    with pytest.raises(NextsetError, match=message):
        model.job(model.encode_prompts(["a"]), **settings)


def test_longer_lists_serve_shorter_schedules():
    assert per_scale("tau", [1.0, 2.0, 3.0, 4.0], 3) == [1.0, 2.0, 3.0] and per_scale("tau", 2, 2) == [2.0, 2.0]


# ---- given bits


@pytest.mark.parametrize("patch", [1, 2])
def test_given_scales_are_kept_and_the_rest_is_drawn(patch):
    model = made(patch)
    images = torch.rand(1, 3, 8 * patch, 8 * patch) * 2 - 1
    with torch.no_grad():
        bits = model.tokenizer.encode(images)
        job = model.job(model.encode_prompts(["a b"]))
        job.canvas.pin(bits, torch.arange(21) < 5)
        found = codes(job)
        assert torch.equal(found[:, :5], bits[:, :5]) and not torch.equal(found[:, 5:], bits[:, 5:])
        whole = model.job(model.encode_prompts(["a b"]))
        whole.canvas.pin(bits, torch.ones(21, dtype=torch.bool))
        run = Run.of(whole, Noise(0))
        assert torch.equal(finish(run), model.tokenizer.decode(bits)) and run.forwards == 0


def test_a_model_without_sides_makes_every_shape_of_the_table():
    model = made(sides=(), pixels="0.06M", levels=13)
    text = model.encode_prompts(["a"])
    with torch.no_grad():
        image = finish(Run.of(model.job(text, ratio=0.5), Noise(0)))
    assert image.shape == (1, 3, 2 * 11, 2 * 22) and model.ratios() == tuple(TABLE)


def test_a_tokenizer_of_other_bits_is_refused():
    with pytest.raises(NextsetError, match=r"\(channels, patch\) \(8, 1\), but the generator predicts \(4, 1\)"):
        made().attach(tokenizer(channels=8))


def test_a_model_without_encoder_says_which_to_name():
    model = made(words=None)
    with pytest.raises(NextsetError, match="features of 16 channels and has no text encoder"):
        model.encode_prompts(["a"])


# ---- self-correction


def test_without_flips_labels_and_input_are_the_codes():
    model = tokenizer()
    f = torch.randn(2, 4, 4, 4)
    labels, fed = corrected(model.quantiser, f, model.sides, [0.0, 0.0, 0.0], torch.zeros(2, 21, 4))
    assert torch.equal(labels, model.encode_features(f)) and torch.equal(fed, labels)


def test_labels_mend_what_was_flipped():
    """With every bit of scale 0 flipped, the sum ends nearer to the features than with true labels for the rest."""
    q, sides = BitwiseQuantiser(8), [(1, 1), (2, 2), (4, 4)]
    f = torch.randn(16, 8, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.2
    u = torch.zeros(16, 21, 8)
    distance = {}
    for requantise in (True, False):
        labels, fed = corrected(q, f, sides, [0.9], u, requantise=requantise)
        assert torch.equal(fed[:, :1], 1 - labels[:, :1]) and torch.equal(fed[:, 1:], labels[:, 1:])
        total = sum(q.contribution(q.embed(part), k, sides) for k, part in enumerate(fed.split([1, 4, 16], 1)))
        distance[requantise] = float((f - total).square().mean())
    assert distance[True] < distance[False]


def test_strengths_are_whole_percents_of_a_step():
    drawn = [s for step in range(300) for s in strengths(Noise(0), step, 2, 0.3)]
    assert min(drawn) == 0 and max(drawn) == 0.3 and all(abs(100 * s - round(100 * s)) < 1e-9 for s in drawn)
    assert strengths(Noise(0), 7, 2, 0.3) == strengths(Noise(0), 7, 2, 0.3) and len(set(drawn)) == 31


# ---- training


def batch(model: Infinity, n: int = 4) -> dict[str, Any]:
    features = torch.randn(n, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return {"features": features, "captions": ["a b", "c", "d e f", "g"][:n], "index": torch.arange(n)}


def test_training_learns_which_picture_a_text_means():
    model = made(correction=0.1, text_drop=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for step in range(60):
        (update,) = model.updates(batch(model), step, Noise(0))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
        losses.append(float(update.loss))
    assert losses[-1] < 0.5 * losses[0]


def test_evaluation_flips_and_drops_nothing():
    model = made(correction=0.9, text_drop=0.9)
    with torch.no_grad():
        a, b = (next(model.updates(batch(model), step, Noise(step))).loss for step in (0, 1))
    assert torch.equal(a, b)


def test_the_loss_weighs_scales_by_the_root_of_their_size():
    model = made()
    logits, labels = torch.randn(2, 21, 4, 2), torch.randint(0, 2, (2, 21, 4))
    loss, token = model.loss(logits, labels, [(1, 1), (2, 2), (4, 4)])
    weight = torch.tensor([4.0] * 1 + [2.0] * 4 + [1.0] * 16)
    torch.testing.assert_close(loss, (token * weight / weight.sum()).sum(1).mean())
    model.config = dataclasses.replace(model.config, reweight=False)
    torch.testing.assert_close(model.loss(logits, labels, [(1, 1), (2, 2), (4, 4)])[0], token.mean())


def test_dropped_texts_are_the_null_text():
    model = made(text_drop=0.0, correction=0.0).train()
    dropped = made(text_drop=0.999, correction=0.0).train()
    dropped.load_state_dict(model.state_dict())
    given = {**batch(model), "text": None}
    given["text"] = model.encode_prompts(given.pop("captions"))
    null = {**given, "text": model.without(given["text"])}
    with torch.no_grad():
        a = next(dropped.updates(given, 0, Noise(0))).loss
        b = next(model.updates(null, 0, Noise(0))).loss
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 16}, "leaves a multiple of 4"),
        ({"levels": 2}, "at least the number of scales 3"),
        ({"level_chunks": 3}, "a divisor of the depth 2"),
        ({"text_channels": 8}, "width of the words' encoder"),
        ({"rope": "other"}, "rope"),
    ],
)
def test_the_config_is_checked(fields, message):
    with pytest.raises(NextsetError, match=message):
        made(**fields)


def test_texts_of_features_need_no_encoder():
    model = made(words=None)
    text = Text.of([torch.randn(3, 16), torch.randn(5, 16)])
    assert codes(model.job(text)).shape == (2, 21, 4)
