"""The daemon's flags, for verbs that read its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from yukari.config.settings import SETTINGS


def settings_options(command: Any) -> Any:
    """Give a command every flag of the daemon; they arrive as keywords, absent ones as None."""
    for row in reversed(SETTINGS):
        kind: dict[str, Any] = {"metavar": "TEXT"}
        if row.switch:
            kind = {"is_flag": True}
        # None tells a flag that is not given from one that is given its default.
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


def by_flag(keywords: Mapping[str, Any]) -> dict[str, object]:
    """Return the keywords of `settings_options` as `Settings.read` takes flags."""
    return {row.flag: keywords[row.name] for row in SETTINGS}
