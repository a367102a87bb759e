"""`nextset train` and `nextset tokenize`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nextset.cli.options import console, wrote
from nextset.core.errors import NextsetError, check_range


def train(
    recipe: Annotated[str, typer.Argument(help="Recipe: a name or a .toml file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes, such as steps=200 or data.size=32.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of the folder.")] = False,
) -> None:
    """Train a tokenizer, a generator or an adapter by a recipe (or a classifier for `nextset judge`, which writes one file).

    Writes checkpoints, metrics.jsonl, sample pictures and, at the end, a model folder. Ctrl-C finishes the step and
    saves; --resume goes on with the same numbers.

    Examples:

      nextset train RECIPE

      nextset train RECIPE data.source=my/pictures steps=2000 -o runs/mine

      nextset train RECIPE -o runs/mine --resume
    """
    from nextset.core import processes
    from nextset.hub.workshop import train as run
    from nextset.training.recipes import load_recipe

    parsed = load_recipe(recipe, overrides or [])
    folder = out or Path("runs") / parsed.name
    _, made = run(parsed, folder, resume=resume)
    if processes.rank():
        return
    use = {"classifier": "nextset judge --classifier", "lora": "nextset generate --lora"}.get(parsed.kind, "--model")
    what = {"classifier": "the classifier", "lora": "the adapter"}.get(parsed.kind, "the model")
    wrote(made, f"{what}; try it with {use}")


def tokenize(
    source: Annotated[
        str,
        typer.Argument(
            help="Data: emoji, moving-shapes, a folder of pictures, clips:FOLDER, .npz, .tar shards, hf:owner/name."
        ),
    ],
    options: Annotated[
        list[str] | None, typer.Argument(help="Options as in a recipe's \\[data], such as flip=true limit=1000.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Tokenizer or generator: folder, packaged name or hub name.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Code cache to write.")] = Path("codes.npz"),
    variants: Annotated[
        int, typer.Option("--variants", help="Codes of each picture; those after the first are augmented.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Decides how variants are augmented.")] = 0,
) -> None:
    """Cache a data set as codes, so that a generator trains without decoding pictures.

    Files that cannot be used are left out, and listed at the end. A recipe takes the cache as data.codes.

    Examples:

      nextset tokenize my/pictures -o out/codes.npz

      nextset tokenize my/pictures flip=true crop=random --variants 4

      nextset tokenize 'shards/data-{0000..0003}.tar' limit=10000

      nextset tokenize hf:owner/name:train label_column=fine_label
    """
    from nextset.data.codes import encode_dataset, save_codes
    from nextset.data.dataset import check_fits, open_dataset
    from nextset.data.inventory import inventory, summary
    from nextset.hub import pretrained

    check_range("variants", variants, 1, 1000)
    chosen = _options(options or [])
    loaded = pretrained.load(model or pretrained.default_model("class"))
    tokenizer = loaded.model if loaded.kind == "tokenizer" else loaded.model.tokenizer
    with _bar("reading") as advance:
        data = open_dataset(source, size=tokenizer.spec.size[0], progress=advance, **chosen)
    check_fits(data, tokenizer.spec)
    with _bar("tokenizing") as advance:
        codes = encode_dataset(data, tokenizer, variants=variants, seed=seed, progress=advance)
    save_codes(out, codes)
    kind = "clips" if hasattr(data, "frames") else "pictures"
    shape = codes.values.shape[2:]
    each = f"{shape[0]} ids" if codes.kind == "codes" else f"features {'x'.join(map(str, shape))}"
    what = f"{len(codes):,} {kind} x {variants}, {each} each, {len(codes.class_names)} classes"
    wrote(out, what + (", with captions" if codes.captions else ""))
    if variants > 1 and not data.augmented:
        console.print("note: all variants are alike, for nothing is augmented; add flip=true or crop=random")
    for line in summary(inventory(data)):
        console.print(line, markup=False, soft_wrap=True)


def _options(texts: list[str]) -> dict[str, Any]:
    """`key=value` texts to the options of a data set; values are written as in a recipe."""
    from nextset.training.recipes import parse_value

    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise NextsetError(f"{text!r} is no option; write name=value, such as flip=true or limit=1000")
        if key in ("size", "source"):
            raise NextsetError(f"{key} is no option here: the size is the tokenizer's, and the source comes first")
        options[key] = parse_value(value)
    return options


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal, as a function of what is done and of the total, if that is known."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
