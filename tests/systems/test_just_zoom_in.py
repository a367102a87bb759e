"""What is Just Zoom In's own: photos, searches of a map, beams and probabilities, training, files. Its counting claims
(b) to (d) are here, (a) is the battery's, (e) the geometry's."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.noise import Noise
from nextset.engine.run import Run, finish, proceed
from nextset.hub import pretrained
from nextset.hub.convert import convert
from nextset.nn.encoders import EncoderConfig
from nextset.systems.just_zoom_in import Cells, JustZoomIn, JustZoomInConfig, geometry
from nextset.systems.just_zoom_in.photos import crops
from tests.battery.common import Tap
from tests.battery.instances import instance, randomise
from tests.grounds import START, Waves

S, G = 3, 3


def model(name: str = "just_zoom_in") -> JustZoomIn:
    return instance(name).model  # type: ignore[return-value]


def photos(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 8, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def located(
    map: Waves | None = None, asked: Tensor | None = None, *, of: JustZoomIn | None = None, **settings: Any
) -> Cells:
    job = (of or model()).job(photos() if asked is None else asked, map or Waves(), **settings)
    return finish(Run.of(job, Noise(0)))  # type: ignore[return-value]


class Counting(torch.nn.Module):
    """An encoder that counts the pictures it reads."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.pictures = encoder, 0

    def forward(self, x: Tensor) -> Tensor:
        self.pictures += len(x)
        return self.encoder(x)


def counted(config: JustZoomInConfig | None = None) -> tuple[JustZoomIn, Counting]:
    torch.manual_seed(0)
    m = JustZoomIn(config or model().config).eval()
    randomise(m)
    m.encoder = Counting(m.encoder)  # type: ignore[assignment]
    return m, m.encoder  # type: ignore[return-value]


# ---- photos


def test_a_photo_is_resized_and_cut_into_halves():
    picture = torch.arange(8.0).expand(1, 3, 4, 8)
    halves = crops(picture, 4)
    assert halves.shape == (1, 2, 3, 4, 4)
    assert halves[0, 0, 0, 0].tolist() == [0, 1, 2, 3] and halves[0, 1, 0, 0].tolist() == [4, 5, 6, 7]
    assert torch.equal(crops(halves, 4), halves), "crops stay as they are"
    assert crops(torch.zeros(2, 3, 30, 50), 4).shape == (2, 2, 3, 4, 4)
    assert crops(torch.zeros(2, 5, 3, 4, 8), 4).shape == (2, 10, 3, 4, 4), "five photos of each place"


@pytest.mark.parametrize("shape", [(3, 8, 16), (2, 1, 8, 16), (0, 3, 8, 16), (1, 1, 1, 3, 8, 8)])
def test_what_is_no_photo_is_refused(shape: tuple[int, ...]):
    with pytest.raises(NextsetError, match=r"photos have shape .*, but must be"):
        crops(torch.zeros(shape), 8)


def test_crops_are_averaged_behind_the_encoder():
    m, two = model(), photos(1)
    with torch.no_grad():
        left, right = (m.encode_photos(half[:, None]) for half in crops(two, 8).unbind(1))
        torch.testing.assert_close(m.encode_photos(two), (left + right) / 2)


# ---- searches


def test_the_path_is_that_of_its_actions():
    found = located(sample=True)
    assert found.path.shape == (2, 1, S + 1, 3) and found.actions.shape == (2, 1, S)
    for path, actions in zip(found.path[:, 0], found.actions[:, 0], strict=True):
        assert torch.equal(path, torch.stack(geometry.follow(START, actions, G), -1))
    assert torch.equal(found.lat, found.path[:, :, -1, 0]) and torch.equal(found.side, found.path[:, :, -1, 2])


def test_pictures_are_read_once_a_step_and_positions_twice():
    """Claim (b): N + S pictures and 2 S positions of the decoder for a decision, whatever the map's size."""
    for start in (START, (*START[:2], 2.0e5)):
        m, encoder = counted()
        job = m.job(photos(1), map := Waves(start))
        tap = Tap(m)
        finish(Run.of(dataclasses.replace(job, network=tap), Noise(0)))
        assert encoder.pictures == 2 + S and map.views == S
        assert sum(step.rows for step, _ in tap.hidden) == 2 * S and len(tap.hidden) == S


def test_what_several_look_at_is_read_once():
    m, encoder = counted()
    located(map := Waves(), photos(1).expand(5, -1, -1, -1), of=m)
    assert map.views == S and encoder.pictures == 2 * 5 + S


def test_greedy_is_one_beam_and_sampling_is_not():
    m = model()
    logits = []
    job = m.job(photos(), Waves())
    for _ in proceed(run := Run.of(job, Noise(0))):
        logits.append(job.canvas.codes().clone())
    greedy = finish(run)
    assert torch.equal(greedy.actions[:, 0], job.canvas.codes())
    drawn = {tuple(located(asked=photos(1), sample=True, of=m).actions.flatten().tolist())}
    for seed in range(1, 12):
        job = m.job(photos(1), Waves(), sample=True)
        drawn.add(tuple(finish(Run.of(job, Noise(seed))).actions.flatten().tolist()))
    assert len(drawn) > 1


def test_beams_are_the_likeliest_cells_with_their_probabilities():
    """As many beams as there are cells find each cell once, with probabilities that sum to 1."""
    every = located(beams=G ** (2 * S))
    assert every.actions.shape == (2, 729, S)
    torch.testing.assert_close(every.logp.exp().sum(1), torch.ones(2), atol=1e-4, rtol=1e-4)
    assert all(len(a.unique(dim=0)) == 729 for a in every.actions) and (every.logp.diff(dim=1) <= 0).all()
    few, one = located(beams=5), located()
    assert few.logp.shape == (2, 5) and (few.logp[:, 0] >= one.logp[:, 0] - 1e-5).all()
    assert few.path.shape == (2, 5, S + 1, 3) and few.lat.shape == (2, 5)


def test_the_probability_is_that_of_every_decision():
    m, found = model(), located(beams=3)
    world: Any = m.job(photos(), Waves()).canvas.world  # type: ignore[attr-defined]
    for actions, logp in zip(found.actions.unbind(1), found.logp.unbind(1), strict=True):
        with torch.no_grad():
            state, seen = world.start(2), []
            for action in actions.unbind(1):
                seen.append(world.observe(state))
                state = world.move(state, action)
            logits = m.teacher_forced(m.encode_photos(photos()), torch.stack(seen, 1), actions)
        expected = logits.log_softmax(-1).gather(-1, actions[..., None]).sum((1, 2))
        torch.testing.assert_close(logp, expected, atol=1e-4, rtol=1e-4)


def test_temperature_changes_what_is_said_and_not_what_is_chosen():
    cold, warm = located(temperature=0.5), located(temperature=3.0)
    assert torch.equal(cold.actions, warm.actions) and (cold.logp > warm.logp).all()


def test_a_search_may_stop_early():
    whole, short = located(), located(steps=2)
    assert torch.equal(short.path, whole.path[:, :, :3]) and short.side[0, 0].item() == pytest.approx(START[2] / G**2)
    with pytest.raises(NextsetError, match="steps is 4, but must be between 1 and 3; the model is trained for no more"):
        located(steps=4)


def test_a_preview_is_the_path_so_far():
    job = model().job(photos(), Waves(), beams=4)
    with torch.no_grad():
        shown = [e.images for e in proceed(Run.of(job, Noise(0)), previews=True) if hasattr(e, "images")]
    assert [cells.path.shape for cells in shown] == [(2, 4, t + 2, 3) for t in range(S)]  # type: ignore[attr-defined]


def test_given_decisions_are_followed():
    job = model().job(photos(), Waves(), beams=2)
    given = torch.tensor([[4, 0, 0], [8, 0, 0]])
    job.canvas.pin(given, torch.tensor([True, False, False]))
    run = Run.of(job, Noise(0))
    found = finish(run)
    assert found.actions[:, :, 0].tolist() == [[4, 4], [8, 8]] and run.forwards == S - 1  # type: ignore[attr-defined]


def test_cells_off_the_map_are_not_chosen():
    west = START[1] - 0.002
    found = located(Waves(edge=west), beams=20)
    assert (found.path[:, :, 1:, 1] <= west).all() and (located(beams=20).path[:, :, 1:, 1] > west).any()
    unknown = located(Waves(edge=START[1] - 10))
    assert torch.isfinite(unknown.logp).all(), "ground that is unknown everywhere is searched all the same"


def test_a_map_that_is_too_coarse_is_said():
    coarse = Waves()
    coarse.native_mpp = 200.0
    with pytest.warns(NextsetWarning, match="m a pixel, but the map's finest is 200 m; stop earlier"):
        located(coarse)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams is 0"),
        ({"beams": 2, "sample": True}, "beams is 2, but a sampled search has one path"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"top_k": -1}, "top_k is -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(NextsetError, match=message):
        located(**settings)


def test_a_map_of_another_size_is_refused():
    map = Waves()
    map.view = lambda lat, lon, side, pixels: torch.zeros(len(lat), 3, 4, 4)  # type: ignore[method-assign]
    with pytest.raises(NextsetError, match=r"views of the map have shape \(3, 4, 4\), but the model reads \(3, 8, 8\)"):
        located(map)


# ---- training


def batch(n: int = 4) -> dict[str, Any]:
    it = instance("just_zoom_in")
    assert it.batch is not None
    return it.batch(torch.arange(n))


def losses(made: dict[str, Any], of: JustZoomIn | None = None) -> Tensor:
    with torch.no_grad():
        return next(iter((of or model()).updates(made, 0, Noise(0)))).loss


def test_different_views_of_a_batch_are_encoded_once():
    made = batch()
    whole = {k: v for k, v in made.items() if k != "view_index"}
    whole["views"] = made["views"][made["view_index"]]
    torch.testing.assert_close(losses(made), losses(whole))
    m, encoder = counted()
    losses(made, m)
    assert encoder.pictures == 4 * 2 + len(made["views"])


def test_a_decision_does_not_see_what_comes_after_it():
    """Claim (d): logits at step t do not change with views and actions after t."""
    m, g = model(), torch.Generator().manual_seed(0)
    photo, views = torch.randn(2, 32, generator=g), torch.randn(2, S, 32, generator=g)
    actions = torch.randint(0, G * G, (2, S), generator=g)
    with torch.no_grad():
        first = m.teacher_forced(photo, views, actions)
        for t in range(S):
            later, other = views.clone(), actions.clone()
            later[:, t + 1 :] += 1
            other[:, t:] = (other[:, t:] + 1) % 9
            again = m.teacher_forced(photo, later, other)
            torch.testing.assert_close(again[:, : t + 1], first[:, : t + 1])
            assert t == S - 1 or not torch.allclose(again[:, t + 1], first[:, t + 1])


def test_the_loss_is_smoothed_cross_entropy():
    m, made = model(), batch()
    logits = torch.randn(4, S, 9, generator=torch.Generator().manual_seed(0))
    loss, ce = m.loss(logits, made["actions"])
    logp = logits.log_softmax(-1)
    hit = -logp.gather(-1, made["actions"][..., None]).mean()
    torch.testing.assert_close(ce, hit)
    torch.testing.assert_close(loss, 0.9 * hit - 0.1 * logp.mean())


def test_a_right_path_is_never_counted_as_far():
    """Claim (c): the whole path right, then the cell; a photo of that cell is at most half a diagonal away."""
    g, start = torch.Generator().manual_seed(0), (38.9, -77.0, 2560.0)
    place = geometry.shift(*start[:2], *((torch.rand(2, 300, generator=g, dtype=torch.float64) - 0.5) * 2550))
    true = geometry.label(*place, start, 4, 3)
    guess = torch.where(torch.rand(300, 1, generator=g) < 0.5, true, torch.randint(0, 16, (300, 3), generator=g))
    lat, lon, _ = geometry.follow(start, guess, 4)
    away = geometry.distance(lat[:, -1], lon[:, -1], *place)
    strict = (guess == true).all(1)
    assert 0 < strict.double().mean() * 100 <= geometry.recall(away)[0] and (away[strict] <= 40).all()


def test_it_learns_where_it_was_shown_the_ground():
    """Photos that show the 64 cells of a map: after 60 steps on all of them, a search finds every one."""
    torch.manual_seed(0)
    encoder = EncoderConfig(kind="conv", width=32, channels=(16, 32), cells=2)
    sizes: dict[str, Any] = {"pixels": 8, "grid": 2, "steps": 3, "depth": 1, "heads": 2, "hidden": 64}
    m = JustZoomIn(JustZoomInConfig(encoder=encoder, dropout=0.0, label_smoothing=0.0, **sizes))
    actions = torch.tensor(list(itertools.product(range(4), repeat=3)))
    path, map = torch.stack(geometry.follow(START, actions, 2), -1), Waves()
    seen = map.view(*path[:, -1].unbind(1), 8)[:, None]
    squares, which = path[:, :-1].flatten(0, 1).unique(dim=0, return_inverse=True)
    views = map.view(*squares.unbind(1), 8)
    made = {
        "photos": seen,
        "views": views,
        "view_index": which.view(64, 3),
        "actions": actions,
        "index": torch.arange(64),
    }
    optimiser = torch.optim.AdamW(m.parameters(), lr=3e-3)
    for step in range(60):
        for update in m.updates(made, step, Noise(0)):
            optimiser.zero_grad()
            update.loss.backward()
            optimiser.step()
    assert (m.eval().locate(seen, map).actions[:, 0] == actions).all(1).float().mean() > 0.9


def test_separate_encoders_are_separate():
    config = model().config.replace(separate=True)
    m = randomise(JustZoomIn(config))
    assert m.photo_encoder is not None and losses(batch(), m) > 0  # type: ignore[union-attr,arg-type]
    names = {n.split(".")[0] for n, _ in m.named_parameters()}
    assert {"encoder", "photo_encoder"} <= names


# ---- sizes and files


def test_the_released_size():
    with torch.device("meta"):
        m = JustZoomIn(JustZoomInConfig())
    decoder = sum(p.numel() for n, p in m.named_parameters() if not n.startswith("encoder."))
    assert decoder == 21_268_224 and m.config.feed_forward == 512
    trained = {
        n.split(".")[3] for n, p in m.encoder.named_parameters(prefix="encoder") if p.requires_grad and "blocks" in n
    }
    assert trained == {"8", "9", "10", "11"}


@pytest.mark.parametrize(("width", "hidden"), [(32, 256), (384, 256), (386, 512), (768, 512), (1024, 768)])
def test_the_width_of_the_feed_forward_layers(width: int, hidden: int):
    config = JustZoomInConfig(encoder=EncoderConfig(kind="conv", width=width), heads=1)
    assert config.feed_forward == hidden == 256 * math.ceil(int(2 * width / 3) / 256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 1}, "grid is 1, but must be between 2 and 32"),
        ({"steps": 0}, "steps is 0"),
        ({"heads": 3}, "such that heads of width 32 / heads are even"),
        ({"pixels": 2}, "pixels is 2, but must be 8 to 4096"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(NextsetError, match=message):
        model().config.replace(**changes)


def test_a_saved_model_finds_the_same_place(tmp_path):
    loaded = pretrained.load(pretrained.save(tmp_path / "model", model()))
    assert loaded.info["system"] == "just_zoom_in" and not (tmp_path / "model" / "tokenizer").exists()
    again, found = located(of=loaded.model, beams=3), located(beams=3)
    assert torch.equal(again.actions, found.actions) and torch.equal(again.logp, found.logp)


def authors(m: JustZoomIn, newer: bool) -> dict[str, Tensor]:
    """A model's weights under the authors' names, older or newer, wrapped as their trainer writes them."""
    c, state = m.config, {}
    names = {"attn.proj": "self_attn.out_proj", "ffn.gate": "ffn.w1", "ffn.down": "ffn.w2", "ffn.up": "ffn.w3",
             "attn_norm": "norm1", "ffn_norm": "norm2"}  # fmt: skip
    three = ("attention.q_proj", "attention.k_proj", "attention.v_proj") if newer else tuple(
        f"attention.attention.{n}" for n in ("query", "key", "value"))  # fmt: skip
    vit = {"attn.proj": "attention.o_proj" if newer else "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
           "norm1": "norm1", "norm2": "norm2"}  # fmt: skip
    flat = {"cls": "embeddings.cls_token", "position": "embeddings.position_embeddings", "norm": "layernorm",
            "patches": "embeddings.patch_embeddings.projection"}  # fmt: skip
    for name, tensor in m.state_dict().items():
        parts = name.split(".")
        if parts[0] == "encoder" and parts[2] == "blocks":
            layer, rest = f"encoder.backbone.encoder.layer.{parts[3]}.", ".".join(parts[4:])
            if rest.startswith("attn.qkv"):
                for key, part in zip(three, tensor.chunk(3), strict=True):
                    state[f"{layer}{key}.{parts[-1]}"] = part
            elif rest.startswith("scale"):
                state[f"{layer}layer_{rest[:-1]}{rest[-1]}.lambda1"] = tensor
            else:
                state[f"{layer}{vit[rest.rsplit('.', 1)[0]]}.{parts[-1]}"] = tensor
        elif parts[0] == "encoder":
            state[".".join(["encoder.backbone", flat[parts[2]], *parts[3:]])] = tensor
        elif parts[0] == "blocks":
            block, rest = f"decoder.blocks.{parts[1]}.", ".".join(parts[2:-1])
            if rest == "attn.qkv":
                for key, part in zip("qkv", tensor.chunk(3), strict=True):
                    if key != "v":  # from neighbours to halves
                        part = part.unflatten(0, (c.heads, -1, 2)).transpose(1, 2).flatten(0, 2)
                    state[f"{block}self_attn.{key}_proj.weight"] = part
            else:
                state[f"{block}{names[rest]}.weight"] = tensor
        else:
            theirs = {"action": "action_embed", "norm": "final_norm", "classifier": "output_head"}[parts[0]]
            state[f"decoder.{theirs}.weight"] = tensor
    state["decoder.freqs"] = torch.zeros(c.width // c.heads // 2)
    state["encoder.backbone.embeddings.mask_token"] = torch.zeros(1, c.width)
    return {f"_orig_mod.{n}": t.clone() for n, t in state.items()}


@pytest.mark.parametrize("newer", [False, True], ids=["transformers 4", "transformers 5"])
def test_the_authors_checkpoints_are_read(tmp_path, newer: bool):
    m = model("just_zoom_in:dinov2")
    torch.save({"model_state_dict": authors(m, newer), "epoch": 3}, tmp_path / "epoch_3.pth")
    read: Any = convert([tmp_path / "epoch_3.pth"], pixels=8, steps=S, heads=4, encoder_heads=2)
    assert isinstance(read, JustZoomIn) and read.config.grid == G and read.config.encoder.trained == 2
    for name, tensor in m.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    found, again = located(of=m, beams=2), located(of=read, beams=2)
    assert torch.equal(found.actions, again.actions)


def test_training_may_begin_with_a_vision_transformer(tmp_path):
    """A file of transformers gives the encoder; the decoder is drawn, at the sizes that are asked for."""
    m, prefix = model("just_zoom_in:dinov2"), "_orig_mod.encoder.backbone."
    save_file(
        {n.removeprefix(prefix): t for n, t in authors(m, True).items() if n.startswith(prefix)},
        tmp_path / "vit.safetensors",
    )
    sizes: dict[str, Any] = {"pixels": 8, "steps": 2, "grid": 4, "depth": 1, "heads": 4, "encoder_heads": 2}
    read: Any = convert([tmp_path / "vit.safetensors"], system="just_zoom_in", **sizes)
    for name, tensor in m.encoder.state_dict().items():
        assert torch.equal(read.encoder.state_dict()[name], tensor), name
    assert read.config.actions == 16 and read.blocks[0].attn.qkv.weight.std() > 0
    assert located(of=read).actions.shape == (2, 1, 2)
    with pytest.raises(NextsetError, match="holds no part of any system"):
        convert([tmp_path / "vit.safetensors"])


def test_files_that_do_not_say_enough_are_refused(tmp_path):
    m = model("just_zoom_in:dinov2")
    state = authors(m, False)
    torch.save(state, tmp_path / "best_model.pth")
    with pytest.raises(NextsetError, match=r"^the width is 32, as of no release, and no tensor tells heads; give it"):
        convert([tmp_path / "best_model.pth"], pixels=8)
    torch.save({n: t for n, t in state.items() if "decoder" in n}, tmp_path / "half.pth")
    with pytest.raises(NextsetError, match="the file has a decoder and no encoder; give the whole checkpoint"):
        convert([tmp_path / "half.pth"], heads=4)
    cut = {n: t for n, t in state.items() if "layer.1.attention.attention.key.weight" not in n}
    torch.save(cut, tmp_path / "cut.pth")
    with pytest.raises(NextsetError, match=r"lacks 1 of .* weights, first .*blocks\.1\.attn\.qkv\.weight"):
        convert([tmp_path / "cut.pth"], pixels=8, steps=S, heads=4, encoder_heads=2)


def test_all_cells_of_a_search_are_different_and_in_the_square():
    cells = located(beams=9)
    corners = geometry.corners(cells.lat, cells.lon, cells.side)
    assert corners[0].shape == (2, 9, 4)
    pairs = itertools.combinations(range(9), 2)
    assert all((cells.actions[0, a] != cells.actions[0, b]).any() for a, b in pairs)
    assert bool(geometry.inside(cells.lat, cells.lon, START).all())
