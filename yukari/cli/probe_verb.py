"""The verb `probe` and its flags, which are the daemon's."""

from __future__ import annotations

import sys
from typing import Any

import click

from yukari.config.settings import SETTINGS


def settings_options(command: Any) -> Any:
    """Give a command every flag of the daemon; they arrive as keywords, absent ones as None."""
    for row in reversed(SETTINGS):
        kind: dict[str, Any] = {"metavar": "TEXT"}
        if row.switch:
            kind = {"is_flag": True}
        # What is not given must be told from what is given as the default is.
        option = click.option(
            f"--{row.flag}",
            row.name,
            default=None,
            multiple=row.several,
            help=row.described,
            **kind,
        )
        command = option(command)
    return command


@click.command()
@click.argument("model", default="library/llama3.2")
@settings_options
def probe(model: str, **flags: Any) -> None:
    """
    Ask the registry for MODEL as a client would, and say what was seen.

    Takes the daemon's settings, as flags and from the environment. Ends with OK and status 0, or
    with the first thing that is wrong, what to do about it, and status 1. Nothing is stored, and
    nothing secret is shown: the output can go into a bug report.
    """
    from yukari.cli.probe import main as run

    sys.exit(run(model, {row.flag: flags[row.name] for row in SETTINGS}))
