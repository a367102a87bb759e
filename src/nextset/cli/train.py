"""`nextset train` and `nextset tokenize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nextset.cli.options import console, wrote


def train(
    recipe: Annotated[str, typer.Argument(help="Recipe: a name or a .toml file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes, such as steps=200 or data.size=32.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/RECIPE by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of the folder.")] = False,
) -> None:
    """Train a tokenizer or a generator by a recipe.

    Writes checkpoints, metrics.jsonl, sample pictures and, at the end, a model folder. Ctrl-C finishes the step and
    saves; --resume goes on with the same numbers.

    Examples:

      nextset train RECIPE

      nextset train RECIPE data.source=my/pictures steps=2000 -o runs/mine

      nextset train RECIPE -o runs/mine --resume
    """
    from nextset.hub.workshop import train as run
    from nextset.training.recipes import load_recipe

    parsed = load_recipe(recipe, overrides or [])
    folder = out or Path("runs") / parsed.name
    _, model = run(parsed, folder, resume=resume)
    wrote(model, "the model; try it with --model")


def tokenize(
    source: Annotated[str, typer.Argument(help="Data: emoji, a folder of pictures, or an .npz.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Tokenizer or generator: folder, packaged name or hub name.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Code cache to write.")] = Path("codes.npz"),
    variants: Annotated[
        int, typer.Option("--variants", help="Codes of each picture; those after the first are augmented.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", "-s")] = 0,
) -> None:
    """Cache a data set as codes, so that a generator trains without decoding pictures.

    Example: nextset tokenize my/pictures -o out/codes.npz
    """
    from nextset.core.errors import check_range
    from nextset.data.codes import encode_dataset, save_codes
    from nextset.data.dataset import open_dataset
    from nextset.hub import pretrained

    check_range("variants", variants, 1, 1000)
    loaded = pretrained.load(model or pretrained.default_model())
    tokenizer = loaded.model if loaded.kind == "tokenizer" else loaded.model.tokenizer
    data = open_dataset(source, size=tokenizer.spec.size[0])
    for line in getattr(data, "skipped", []):
        console.print(f"skipped: {line}")
    with Progress(
        TextColumn("tokenizing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("tokenize", total=variants * len(data))
        codes = encode_dataset(
            data, tokenizer, variants=variants, seed=seed, progress=lambda done, total: bar.update(task, completed=done)
        )
    save_codes(out, codes)
    wrote(
        out, f"{len(codes):,} pictures x {variants}, {codes.ids.shape[-1]} ids each, {len(codes.class_names)} classes"
    )
