"""The verb `probe`."""

from __future__ import annotations

import sys
from typing import Any

import click

from yukari.cli.daemon_flags import by_flag, settings_options


@click.command()
@click.argument("model", default="library/llama3.2")
@settings_options
def probe(model: str, **flags: Any) -> None:
    """
    Ask the registry for MODEL as a client of a daemon would.

    Takes the daemon's settings, as flags and from the environment. Prints what was seen, and ends
    with OK and status 0, or with the first thing that is wrong, what to do about it, and status 1.
    Nothing is stored, and nothing secret is shown: the output can go into a bug report.
    """
    from yukari.cli.probe import main as run

    sys.exit(run(model, by_flag(flags)))
