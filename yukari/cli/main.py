"""
The ``yukari`` command.

With a verb it does what the verb says; without one it is the daemon.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Optional

import click

VERBS = {
    **dict.fromkeys(("ls", "show", "rm", "pin", "unpin", "du", "gc", "evict", "status"), "store"),
    **dict.fromkeys(("outdated", "diff", "pull", "update", "warm"), "versions"),
    **dict.fromkeys(("export", "import"), "transfer"),
    "probe": "probe_verb",
    "check-config": "check_config",
}
"""The verbs and their modules beside this one; a module is loaded when its verb is asked for."""


class Verbs(click.Group):
    """Commands that are loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: Optional[click.Context], cmd_name: str) -> Optional[click.Command]:
        if cmd_name not in VERBS:
            return None
        module = import_module(f"yukari.cli.{VERBS[cmd_name]}")
        # A keyword of Python's cannot be a function's name.
        function = "import_" if cmd_name == "import" else cmd_name.replace("-", "_")
        command: click.Command = getattr(module, function)
        return command


@click.group(cls=Verbs, context_settings={"help_option_names": ["--help"]})
def yukari() -> None:
    """A pull-through cache for Ollama model registries. Without a verb, this is the daemon."""


def main() -> None:
    """Run the console script: a verb, or the daemon with its flags."""
    if "_YUKARI_COMPLETE" in os.environ or sys.argv[1:2] == ["help"]:
        sys.argv[1:] = [] if "_YUKARI_COMPLETE" in os.environ else ["--help"]
        yukari(prog_name="yukari")
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        yukari(prog_name="yukari")  # The daemon takes flags alone.
    from yukari.tap import main as daemon

    daemon()
