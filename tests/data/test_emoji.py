"""The emoji testbed: what is rendered, how it is balanced, and that augmentation is a function of the sample."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import features

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.augment import augment, composite
from nextset.data.dataset import EmojiOptions, open_dataset
from nextset.data.emoji import FONT, NAMES, EmojiSet, Glyph, balance, build_emoji, load_emoji, read_names
from nextset.data.emoji_attributes import held_out

LIST = """\
# group: Smileys & Emotion
# subgroup: face-smiling
1F600         ; fully-qualified     # X E1.0 grinning face
263A FE0F     ; fully-qualified     # X E0.6 smiling face
263A          ; unqualified         # X E0.6 smiling face
# group: People & Body
# subgroup: person-role
1F9D1 200D 1F692   ; fully-qualified     # X E12.1 firefighter
1F468 200D 1F692   ; fully-qualified     # X E4.0 man firefighter
1F9D1 1F3FE 200D 1F692  ; fully-qualified   # X E12.1 firefighter: medium-dark skin tone
# group: Flags
# subgroup: country-flag
1F1FA 1F1FE   ; fully-qualified     # X E2.0 flag: Uruguay
1F600 200D 1F600   ; fully-qualified     # X E9.9 unjoined
"""

needs_font = pytest.mark.skipif(
    not (FONT.exists() and NAMES.exists() and features.check("raqm")),
    reason="needs the packages fonts-noto-color-emoji, unicode-data and libfribidi0",
)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    (tmp_path / "list.txt").write_text(LIST, encoding="utf-8")
    return tmp_path / "list.txt"


@pytest.fixture
def small() -> EmojiSet:
    """Two squares of 8 pixels on 16, half transparent and opaque: no font needed."""
    rgba = np.zeros((2, 16, 16, 4), dtype=np.uint8)
    rgba[0, 4:12, 4:12] = (255, 0, 0, 128)
    rgba[1, 1:15, 1:15] = (0, 0, 255, 255)
    names = ["red", "blue"]
    return EmojiSet(rgba, torch.tensor([0, 1]), ["a", "b"], names, ["g", "g"], ["r", "b"])


def test_names_groups_and_fully_qualified_only(listed: Path) -> None:
    glyphs = read_names(listed)
    assert [g.name for g in glyphs[:3]] == ["grinning face", "smiling face", "firefighter"]
    assert glyphs[1].text == "\u263a\ufe0f"
    assert glyphs[2].group == "People & Body" and glyphs[2].subgroup == "person-role"
    assert len(glyphs) == 7


def test_variants_share_a_base(listed: Path) -> None:
    firefighters = [g for g in read_names(listed) if "firefighter" in g.name]
    assert len(firefighters) == 3 and len({g.base for g in firefighters}) == 1


def test_balance_keeps_the_plain_one_then_yellow_then_tones(listed: Path) -> None:
    glyphs = read_names(listed)
    for variants, names in ((1, ["firefighter"]), (2, ["firefighter", "man firefighter"])):
        kept = [g.name for g in balance(glyphs, variants)]
        assert [n for n in kept if "firefighter" in n] == names
        assert "smiling face" in kept and "flag: Uruguay" in kept  # nothing else is dropped


def test_balance_does_not_favour_one_tone() -> None:
    tones = [chr(c) for c in range(0x1F3FB, 0x1F400)]
    hands = [Glyph(chr(0x1F600 + i) + t, f"{i}{t}", "g", "hands") for i in range(40) for t in ("", *tones)]
    kept = Counter(g.text[1] for g in balance(hands, 2) if len(g.text) == 2)
    assert sum(kept.values()) == 40 and len(kept) == 5 and max(kept.values()) < 20


def test_missing_files_name_their_package(tmp_path: Path, listed: Path) -> None:
    with pytest.raises(NextsetError, match="unicode-data"):
        read_names(tmp_path / "none.txt")
    with pytest.raises(NextsetError, match="fonts-noto-color-emoji"):
        build_emoji(tmp_path / "e.npz", font=tmp_path / "none.ttf", names=listed)
    (tmp_path / "empty.txt").write_text("# nothing")
    with pytest.raises(NextsetError, match="no fully-qualified emoji"):
        read_names(tmp_path / "empty.txt")


@pytest.mark.parametrize(("option", "value"), [("size", 4), ("size", 4096), ("margin", 40), ("variants", 0)])
def test_options_out_of_range(tmp_path: Path, option: str, value: int) -> None:
    with pytest.raises(NextsetError, match=f"{option} is {value}"):
        build_emoji(tmp_path / "e.npz", **{option: value})


@needs_font
def test_build_is_deterministic_centred_and_whole(tmp_path: Path, listed: Path) -> None:
    emoji = build_emoji(tmp_path / "one.npz", names=listed, variants=3)
    build_emoji(tmp_path / "two.npz", names=listed, variants=3)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["list.txt", "one.npz", "two.npz"]
    assert emoji.names == [g.name for g in read_names(listed) if g.name != "unjoined"]  # two pictures: skipped
    assert emoji.class_names == ["country-flag", "face-smiling", "person-role"]
    assert emoji.labels.tolist() == [1, 1, 2, 2, 2, 0]
    alpha = emoji.rgba[..., 3] > 0
    assert not alpha[:, 0].any() and not alpha[:, -1].any() and not alpha[:, :, 0].any() and not alpha[:, :, -1].any()
    for axis in (1, 2):
        seen = alpha.any(axis=axis)
        assert (np.abs(seen.argmax(1) - seen[:, ::-1].argmax(1)) <= 1).all()


@needs_font
def test_all_emoji(tmp_path: Path) -> None:
    emoji = build_emoji(tmp_path / "e.npz", size=16, margin=1)
    assert len(emoji) > 1500 and len(emoji.class_names) > 90
    assert {"country-flag", "face-smiling", "animal-mammal"} <= set(emoji.class_names)
    people = sum(g == "People & Body" for g in emoji.groups)
    assert people < 0.3 * len(emoji)
    assert (emoji.rgba[..., 3].max((1, 2)) > 100).all()


def test_haircuts_are_counted_by_themselves_where_tones_have_room() -> None:
    tones = ["", *(chr(c) for c in range(0x1F3FB, 0x1F400))]
    people = [
        Glyph(who + tone + hair, f"{i}", "People", "person")
        for i, who in enumerate("\U0001f9d1\U0001f468\U0001f469")
        for tone in tones
        for hair in ("", "\u200d\U0001f9b0")
    ]
    assert len(balance(people, 17)) == 17 and len(balance(people, 18)) == 36


@pytest.mark.skipif(
    not NAMES.exists() or "# Version: 15.0" not in NAMES.read_text(encoding="utf-8"),
    reason="needs the list of emoji 15.0",
)
def test_the_set_of_the_first_models_stays_as_it_is() -> None:
    kept = "".join(g.text for g in balance(read_names(), EmojiOptions().variants))
    assert hashlib.sha256(kept.encode()).hexdigest().startswith("07db6e770b60e115")


@needs_font
def test_held_pictures_and_captions_share_one_file(tmp_path: Path, listed: Path) -> None:
    listed.write_text(LIST + "1F499 ; fully-qualified # X E0.6 blue heart\n")
    options = {"size": 16, "cache": tmp_path / "cache", "names": str(listed), "variants": 18}
    everything, out, only = (open_dataset("emoji", held=h, **options) for h in ("all", "out", "only"))  # type: ignore[arg-type]
    assert isinstance(everything, EmojiSet) and isinstance(out, EmojiSet) and isinstance(only, EmojiSet)
    assert only.names and all(held_out(g) for g in only.glyphs) and not any(held_out(g) for g in out.glyphs)
    assert sorted(out.names + only.names) == sorted(everything.names)
    assert out.class_names == only.class_names == everything.class_names
    i, j = everything.names.index(only.names[0]), 0
    assert torch.equal(everything.images(torch.tensor([i])), only.images(torch.tensor([j])))
    assert everything.captions == everything.names
    said = open_dataset("emoji", captions="phrases", **options)  # type: ignore[arg-type]
    assert isinstance(said, EmojiSet) and said.names == everything.names and said.captions is not None
    assert said.captions[0].split("\n")[:2] == ["grinning face", "a grinning face"]
    assert said.fingerprint != everything.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(NextsetError, match="held is 'none'"):
        open_dataset("emoji", held="none", **options)  # type: ignore[arg-type]


def test_nothing_left_is_refused(small: EmojiSet) -> None:
    with pytest.raises(NextsetError, match="no picture is left"):
        small.take([])


@needs_font
def test_opening_builds_once_and_again_when_damaged(tmp_path: Path, listed: Path) -> None:
    options = {"size": 16, "cache": tmp_path / "cache", "names": str(listed)}
    first = open_dataset("emoji", shift=1.5, background=0.5, **options)  # type: ignore[arg-type]
    assert isinstance(first, EmojiSet) and first.shift == 1.5 and first.background == 0.5
    (file,) = (tmp_path / "cache").iterdir()
    written = file.stat().st_mtime_ns
    assert open_dataset("emoji", **options).fingerprint == first.fingerprint  # type: ignore[arg-type]
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:-50])
    assert open_dataset("emoji", **options).fingerprint == first.fingerprint  # type: ignore[arg-type]
    listed.write_text(LIST.replace("grinning", "smirking"))
    open_dataset("emoji", **options)  # type: ignore[arg-type]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_load_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="does not exist"):
        load_emoji(tmp_path / "none.npz")
    a = {n: np.array(["x"]) for n in ("classes", "names", "groups", "texts")}
    np.savez(tmp_path / "e.npz", rgba=np.zeros((1, 8, 8, 3), np.uint8), labels=np.zeros(1, np.int64), **a)
    with pytest.raises(NextsetError, match="do not fit together"):
        load_emoji(tmp_path / "e.npz")


def test_without_noise_pictures_lie_on_white(small: EmojiSet) -> None:
    x = small.images(torch.tensor([0, 1, 0]))
    assert x.shape == (3, 3, 16, 16) and x.dtype == torch.float32
    assert (x[0, :, 0, 0] == 1).all()
    assert torch.allclose(x[0, :, 8, 8], torch.tensor([1.0, -1 / 255, -1 / 255]), atol=1e-6)
    assert x[1, :, 8, 8].tolist() == [-1, -1, 1]


def test_augmentation_is_a_function_of_the_sample(small: EmojiSet) -> None:
    small.shift, small.scale, small.background = 3.0, 0.2, 0.5
    indices, samples = torch.arange(64) % 2, torch.arange(64)
    whole = small.images(indices, Noise(5), samples)
    assert whole.abs().max() <= 1
    alone = torch.cat([small.images(indices[i : i + 1], Noise(5), samples[i : i + 1]) for i in (0, 17, 63)])
    assert torch.equal(alone, whole[[0, 17, 63]])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(small.images(indices[order], Noise(5), samples[order]), whole[order])
    assert not torch.equal(small.images(indices, Noise(6), samples), whole)
    assert not torch.equal(whole[0], whole[2])  # same picture, other sample


def test_nothing_is_ever_cut() -> None:
    black = torch.zeros(200, 4, 32, 32)
    black[:, 3, 2:30, 5:25] = 1
    moved = augment(black, Noise(0), torch.arange(200), shift=12.0, scale=0.4)
    rows, columns = (1 - moved[:, 0]).amax(2) > 1, (1 - moved[:, 0]).amax(1) > 1
    heights, widths = rows.sum(1), columns.sum(1)
    assert ((heights / widths - 28 / 20).abs() < 0.15).all()  # the aspect tells that no side was lost
    assert heights.min() < 24 and heights.max() > 30  # and that scales did differ


def test_no_augmentation_changes_nothing(small: EmojiSet) -> None:
    rgba = torch.from_numpy(small.rgba).permute(0, 3, 1, 2).float() / 255
    plain = composite(rgba, torch.ones(2, 3))
    assert torch.equal(augment(rgba, Noise(0), torch.arange(2), shift=0, scale=0, background=0), plain)
    assert torch.equal(small.images(torch.arange(2), Noise(0)), plain)


def test_shift_moves_by_pixels_and_empty_pictures_survive() -> None:
    rgba = torch.zeros(300, 4, 32, 32)
    rgba[:, 3, 12:20, 12:20] = 1
    moved = augment(rgba, Noise(1), torch.arange(300), shift=4.0, scale=0.0)
    ink = (1 - moved[:, 0]) / 2
    place = (ink.sum(1) * (torch.arange(32) + 0.5)).sum(1) / ink.sum((1, 2)) - 16
    assert place.abs().max() <= 4.05 and place.max() > 3.5 and place.min() < -3.5
    assert torch.equal(augment(torch.zeros(2, 4, 8, 8), Noise(0), torch.arange(2)), torch.ones(2, 3, 8, 8))


def test_background_is_pale_and_as_often_as_asked() -> None:
    empty = torch.zeros(2000, 4, 4, 4)
    ground = augment(empty, Noise(2), torch.arange(2000), shift=0, scale=0, background=0.25)[:, :, 0, 0]
    coloured = (ground != 1).any(1)
    assert 0.21 < coloured.float().mean() < 0.29
    assert ground.min() >= 0.6 * 2 - 1


@pytest.mark.parametrize(("option", "value"), [("shift", -1.0), ("scale", 0.9), ("background", 2.0)])
def test_augmentation_out_of_range(small: EmojiSet, option: str, value: float) -> None:
    settings = {option: value}
    with pytest.raises(NextsetError, match=f"{option} is {value}"):
        EmojiSet(small.rgba, small.labels, small.class_names, small.names, small.groups, small.texts, **settings)
