"""`python -m nextset` is the command line."""

from nextset.cli import main

main()
