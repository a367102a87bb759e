"""Commands run as a person runs them, for tests."""

from __future__ import annotations

from typer.testing import CliRunner

from nextset.cli.app import app
from nextset.core.errors import NextsetError


def run(*arguments: object) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refuse(*arguments: object) -> str:
    """The line with which a command must be refused."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert isinstance(result.exception, NextsetError), result.output
    return str(result.exception)
