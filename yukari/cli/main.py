"""
The ``yukari`` command.

With a verb it does what the verb says; without one, as ever, it is the daemon.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from yukari.config.settings import SETTINGS


@click.group(context_settings={"help_option_names": ["--help"]})
def yukari() -> None:
    """A pull-through cache for Ollama model registries. Without a verb, this is the daemon."""


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


@yukari.command()
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


def with_verbs() -> click.Group:
    """The command with all of its verbs; they are loaded only if one is asked for."""
    from yukari.cli import store, transfer, versions

    for verb in (*store.VERBS, *versions.VERBS, *transfer.VERBS):
        yukari.add_command(verb)
    return yukari


def main() -> None:
    """What the console script runs: a verb, or the daemon with its flags."""
    first = sys.argv[1:2] or [""]
    if "_YUKARI_COMPLETE" in os.environ or (first[0] and not first[0].startswith("-")):
        group = with_verbs()
        if first[0] in group.commands or "_YUKARI_COMPLETE" in os.environ:
            group(prog_name="yukari")
    from yukari.tap import main as daemon

    daemon()
