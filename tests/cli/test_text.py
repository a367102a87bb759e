"""`nextset generate` with prompts: what is written, what is said, what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from nextset.core.errors import NextsetWarning
from tests.cli.running import refuse, run
from tests.tiny import save_tiny, save_tiny_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_text(tmp_path_factory.mktemp("tiny") / "model"))


def test_prompts_become_pictures(model: str, tmp_path: Path) -> None:
    out, each, gif = tmp_path / "a.png", tmp_path / "each", tmp_path / "a.gif"
    run("generate", "red apple", "a blue heart", "-m", model, "-n", "3", "-o", out, "--each", each, "--gif", gif)
    assert Image.open(out).width > 16 and Image.open(gif).n_frames == 4  # type: ignore[attr-defined]
    assert sorted(p.name for p in each.iterdir()) == [
        "00000-red apple-seed0.png", "00001-a blue heart-seed0.png", "00002-red apple-seed0.png"
    ]  # fmt: skip


def test_a_prompt_a_line(model: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("red\n\n  green heart \n")
    said = run("generate", f"@{tmp_path / 'prompts.txt'}", "-m", model, "-o", tmp_path / "a.png")
    assert "(2 pictures in" in " ".join(said.split())
    (tmp_path / "none.txt").write_text("\n")
    assert "has no line with a prompt" in refuse("generate", f"@{tmp_path / 'none.txt'}", "-m", model)
    assert "cannot be read" in refuse("generate", "@nowhere.txt", "-m", model)


def test_a_picture_to_begin_with(model: str, tmp_path: Path) -> None:
    given = tmp_path / "given.png"
    run("generate", "red", "-m", model, "-o", given, "--zoom", "1")
    run("generate", "green", "-m", model, "--from-image", given, "--strength", "0.5", "-o", tmp_path / "b.png")
    assert (tmp_path / "b.png").is_file()
    assert "strength is 3.0" in refuse("generate", "green", "-m", model, "--from-image", given, "--strength", "3")


def test_shapes(model: str, tmp_path: Path) -> None:
    with pytest.warns(NextsetWarning, match="aspect is 1.5, but this model knows 1; 1 is used"):
        run("generate", "red", "-m", model, "--aspect", "3:2", "-o", tmp_path / "a.png")
    with pytest.warns(NextsetWarning, match="640x360 pixels were asked for; the nearest .* is 16x16"):
        run("generate", "red", "-m", model, "--width", "640", "--height", "360", "-o", tmp_path / "a.png")


def test_unknown_words_are_said(model: str, tmp_path: Path) -> None:
    with pytest.warns(NextsetWarning, match="'bananna' is no word that this model knows"):
        run("generate", "red bananna", "-m", model, "-o", tmp_path / "a.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "is asked with text; write what to draw"),
        (("",), "a prompt is empty"),
        (("red", "-c", "heart"), "prompts were given beside --class"),
        (("red", "--aspect", "banana"), "aspect is 'banana'"),
        (("red", "--aspect", "1:2:3"), "aspect is '1:2:3'"),
        (("red", "--temperature", "0"), "temperature is 0"),
        (("red", "--list"), "is asked with text and has no classes"),
        (("red", "--lora", "nowhere:0.5"), "nowhere is no folder of a LoRA"),
        (("red", "--text-encoder", "nowhere"), "no text encoder is at 'nowhere'"),
        (("red", "--more-smooth"), "has no setting 'more_smooth'"),
    ],
)
def test_what_cannot_be_done_is_one_line(model: str, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in refuse("generate", *arguments, "-m", model, "-o", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("option", [("a prompt",), ("--negative", "red"), ("--aspect", "2"), ("--temperature", "1")])
def test_a_model_of_classes_has_no_use_for_text(tmp_path: Path, option: tuple[str, ...]) -> None:
    folder = save_tiny(tmp_path / "classes")
    assert "is asked with classes and has no use for" in refuse("generate", *option, "-m", folder)
