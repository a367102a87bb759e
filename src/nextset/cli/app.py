"""The app: registers the commands, and turns errors that a person can mend into one line and exit code 2."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, TextIO

import typer
from rich.console import Console

from nextset import __version__
from nextset.core.errors import NextsetError, NextsetWarning

app = typer.Typer(
    name="nextset",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Autoregressive visual generation: pictures by predicting the next set of tokens.",
    epilog="Start with: [bold]nextset generate -n 36 -o out/grid.png[/bold]",
)


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"nextset {__version__}")
        raise typer.Exit


def _register() -> None:
    from nextset.cli.bench import bench
    from nextset.cli.claims import claim, claims
    from nextset.cli.convert import convert
    from nextset.cli.generate import generate
    from nextset.cli.judge import judge
    from nextset.cli.locate import city, locate
    from nextset.cli.pictures import edit, inpaint, outpaint, reconstruct
    from nextset.cli.report import report
    from nextset.cli.systems import describe, systems
    from nextset.cli.train import tokenize, train

    for command in (
        generate,
        reconstruct,
        inpaint,
        outpaint,
        edit,
        locate,
        city,
        train,
        tokenize,
        report,
        judge,
        claim,
        claims,
        convert,
        systems,
        describe,
        bench,
    ):
        app.command()(command)


_register()


def main() -> None:
    """Run the command line. Exit code 2: bad input; 130: stopped by Ctrl-C."""
    warnings.showwarning = _show
    try:
        app()
    except NextsetError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/red] {_escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        sys.exit(130)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours in one line; those of libraries are for developers."""
    if issubclass(category, NextsetWarning):
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {_escape(str(message))}")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))
