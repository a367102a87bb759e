"""The page is one well-formed file that needs nothing else, says what it should, and trusts no text of a run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nextset.core.errors import NextsetError
from nextset.training import metrics
from nextset.training.run_page import write_page
from nextset.training.run_record import DATA
from tests.training.recorded import Row, tokenizer_row, write_run

pytest.importorskip("matplotlib")

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = "<script>alert(1)</script>\"'&"


class Reader(HTMLParser):
    """Checks the nesting and collects: tags, ids, links, text. Drawn elements may close themselves."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"a handler: {name}"
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "srcset", "data", "action"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Reader:
    """A page that stands alone, parsed."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    reader = Reader(text)
    assert not {"script", "link", "iframe", "object", "base"} & set(reader.tags)
    assert len(set(reader.ids)) == len(reader.ids), "ids clash"
    for link in reader.links:
        inside = link.startswith("#") and link[1:] in reader.ids
        assert inside or re.match(r"data:image/(webp|png);base64,", link), f"points outside: {link[:80]}"
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.startswith("#") and target[1:] in reader.ids
    assert "@import" not in text
    return reader


def test_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", saved=2000, quiet=9e5, samples=12)
    data = {"source": "pictures", "pictures": 80, "size": 32, "classes": {"cat": 70, "dog": 10}, "captions": 0}
    (run / DATA).write_text(json.dumps({**data, "skipped": ["a.png is cut off"], "converted": {"CMYK": 3}}))
    page = read(write_page([run], tmp_path / "page.html"))
    for text in ("finished", "all 2,000 steps", "200.0 epochs", "a.png is cut off", "CMYK: 3", "cat: 70", "step-00002000",
                 "tokenizer/used_k", "tokenizer/perplexity_k", "No rule found anything", "vocabulary", "512"):  # fmt: skip
        assert text in page.text, text
    assert [tag for tag in page.tags if tag == "img"] == ["img"] * 8
    assert page.tags.count("svg") == 8  # loss, psnr, revived, gradient norm, lr, images/s; used and perplexity


def test_runs_are_compared_in_the_same_charts(tmp_path: Path) -> None:
    def single(step: int) -> Row:
        return {name: value for name, value in tokenizer_row(step).items() if not name.endswith("_1")}

    a = write_run(tmp_path / "a", saved=500, samples=3)
    b = write_run(tmp_path / "b", saved=500, row=single, recipe={"kind": "tokenizer", "model": {"vocabulary": 64}})
    page = read(write_page([a, b], tmp_path / "page.html"))
    assert page.tags.count("svg") == 6 + 2 + 2  # a heat map for each run, a perplexity for each scale
    assert page.tags.count("mark") == 3  # the vocabularies, and a name that one of them lacks
    assert "a and b" in page.text


def test_remarks_stand_in_their_section(tmp_path: Path) -> None:
    def row(step: int) -> Row:
        return {**tokenizer_row(step), "tokenizer/used_0": 0.05}

    text = write_page([write_run(tmp_path / "run", row=row)], tmp_path / "page.html").read_text()
    codes = text[text.index('<section id="codes">') : text.index('<section id="speed">')]
    assert "usage of scale 0 is 5.0%" in codes and 'see <a href="#codes">codes</a>' in text


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    page = read(write_page([write_run(tmp_path / name / "run") for name in "ab"], tmp_path / "page.html"))
    assert f"{tmp_path / 'a' / 'run'} and {tmp_path / 'b' / 'run'}" in page.text


def test_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", last=50)
    with (run / metrics.FILE).open("a") as handle:
        handle.write('{"step": 100, "tokeni')
    page = read(write_page([run], tmp_path / "page.html"))
    assert "running" in page.text and "the first checkpoint brings it" in page.text and "no data.json" in page.text


@pytest.mark.parametrize(
    "line", ['{"step": 1}', '{"step": 1, "a/loss": null}', '{"step": -5, "loss": 1e299, "x_1": 0}']
)
def test_strange_lines(tmp_path: Path, line: str) -> None:
    (tmp_path / metrics.FILE).write_text(line)
    assert "Overview" in read(write_page([tmp_path], tmp_path / "page.html")).text


def test_nothing_of_a_run_becomes_html(tmp_path: Path) -> None:
    def row(step: int) -> Row:
        return {f"{EVIL}/loss": 1.0, f"t/{EVIL}_0": 1.0, "t/used_0": 0.5}

    recipe = {"name": EVIL, "kind": EVIL, "system": EVIL, EVIL: {EVIL: EVIL}}
    run = write_run(tmp_path / EVIL.replace("/", ""), row=row, saved=500, recipe=recipe, samples=1)
    data = {"source": EVIL, "classes": {EVIL: 1, "b": 2}, "skipped": [EVIL], "converted": {EVIL: 1}}
    (run / DATA).write_text(json.dumps(data))
    reader = read(write_page([run], tmp_path / "page.html"))
    assert reader.text.count(EVIL) > 8
    assert "<script" not in (tmp_path / "page.html").read_text().lower()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Folders are bytes on most systems, and JSON may hold half a character."""
    run = write_run(tmp_path / "run-\udcff", row=lambda _: {"t/\ud800_0": 1.0, "t/used_0": 1.0, "t/\0": 1.0})
    assert "run-?" in read(write_page([run], tmp_path / "page.html")).text


def test_a_long_run_stays_below_five_megabytes(tmp_path: Path) -> None:
    def row(step: int) -> Row:
        families = {
            f"t/{name}_{k}": (step * (k + 3)) % 101 / 101 for name in ("ce", "used", "perplexity") for k in range(4)
        }
        return {"t/loss": 1 + (step * 37 % 101) / 50, **families}

    runs = [write_run(tmp_path / name, last=200_000, every=200, row=row, samples=20) for name in "ab"]
    path = write_page(runs, tmp_path / "page.html")
    read(path)
    assert path.stat().st_size < 5e6


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="9 runs were given, but a chart tells 8 apart"):
        write_page([tmp_path] * 9, tmp_path / "page.html")
    with pytest.raises(NextsetError, match="does not exist"):
        write_page([write_run(tmp_path / "run"), tmp_path / "none"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
