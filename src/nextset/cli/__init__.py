"""The command line `nextset`. Commands parse, call the library and print; they compute nothing themselves."""

from nextset.cli.app import main

__all__ = ["main"]
