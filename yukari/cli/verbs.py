"""The verbs of the ``yukari`` command."""

from __future__ import annotations

from importlib import import_module
from typing import Optional

import click

VERBS = {
    **dict.fromkeys(("ls", "show", "rm", "pin", "unpin", "du", "gc", "evict", "status"), "store"),
    **dict.fromkeys(("outdated", "diff", "pull", "update", "warm"), "versions"),
    **dict.fromkeys(("export", "import"), "transfer"),
    **dict.fromkeys(("check-config", "probe"), "by_settings"),
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[Optional[str], Optional[click.Command], list[str]]:
        if args[0] not in VERBS and not ctx.resilient_parsing:
            # Without the context: that would point to --help, which is the daemon's.
            raise click.UsageError(f"no verb {args[0]!a}: yukari help lists them")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["--help"]})
def yukari() -> None:
    """A pull-through cache for Ollama model registries. Without a verb, this is the daemon."""
