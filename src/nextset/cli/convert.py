"""`nextset convert`: the authors' released files to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nextset.cli.options import console, named, wrote
from nextset.core.errors import NextsetError


def convert(
    files: Annotated[
        list[Path],
        typer.Argument(help="The authors' files: a generator, its tokenizer, or both; shards, or a folder of them."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Model folder to write.")],
    system: Annotated[str | None, typer.Option("--system", help="Slug, when the files alone do not decide.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="The tokenizer's file, when it is apart.")
    ] = None,
    sides: Annotated[str | None, typer.Option("--sides", help="Sides of an unknown plan, such as 1,2,3,4.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="What no tensor tells, as name=value, such as pixels=0.25M; repeat it for several."),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the stored weights: float32 or bfloat16.")] = "float32",
    push: Annotated[str | None, typer.Option("--push", help="Also upload as owner/name.")] = None,
) -> None:
    """Read the authors' files as they are and write a model folder.

    Files are opened safely: no code in them is run. Sizes are read off names and shapes. Above 5 GB the folder has
    shards; one file is open at a time while it is read.

    Examples:

      nextset convert generator.pth tokenizer.pth -o models/mine

      nextset convert folder-of-shards/ --tokenizer tokenizer.pth --set pixels=0.25M --dtype bfloat16 -o models/mine
    """
    from nextset.hub import pretrained
    from nextset.hub.catalogue import get_record
    from nextset.hub.convert import convert as read
    from nextset.hub.licences import licence_entries
    from nextset.nn.precision import resolve_dtype

    options = named(settings, "pixels=0.25M", taken=("paths", "system", "dtype"))
    if sides is not None:
        try:
            options["sides"] = [int(s) for s in sides.split(",")]
        except ValueError:
            raise NextsetError(f"sides is {sides!r}, but must be numbers such as 1,2,3,4") from None
    stored = resolve_dtype(dtype)
    model = read([*files, *([tokenizer] if tokenizer else [])], system=system, dtype=stored, **options)
    info = pretrained.describe(model)
    count = sum(p.numel() for p in model.parameters())
    console.print(f"{info.get('system', info.get('type'))} {info['kind']} with {count:,} parameters")
    licence: dict[str, Any] = licence_entries(get_record(info["system"])) if "system" in info else {}
    wrote(pretrained.save(out, model, dtype=None if dtype == "float32" else stored, **licence), "model folder")
    if push:
        console.print(pretrained.push_to_hub(out, push))
