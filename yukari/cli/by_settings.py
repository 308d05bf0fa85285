"""The verbs that read the settings of a daemon: `check-config` and `probe`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from yukari.config.files import read_file
from yukari.config.in_force import in_force
from yukari.config.settings import SETTINGS, SettingError, Settings
from yukari.web.htpasswd import MAX_FILE_BYTES, parse


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


@click.command()
@settings_options
def check_config(**flags: Any) -> None:
    """
    Print the settings that a daemon would have here.

    They are read as the daemon does, from its flags, environment and configuration file. The output
    is a configuration file itself, with a comment on where each setting comes from. Nothing secret
    is shown. Ends with status 0, or with a line for each wrong setting and status 1.
    Settings that have no effect because of another one are named on stderr.
    """
    try:
        settings = Settings.read(by_flag(flags), os.environ)
        lines = list(in_force(by_flag(flags), os.environ))
        if settings.admin_auth_file is not None:
            _check_users(settings.admin_auth_file)
    except SettingError as error:
        for line in str(error).splitlines():
            print(f"yukari: {line}", file=sys.stderr)
        sys.exit(1)
    print("\n".join(lines))
    for line in settings.unused:
        print(f"yukari: {line}", file=sys.stderr)


def _check_users(path: str) -> None:
    """Raise `SettingError` for a file that the daemon could not read its admins from."""
    try:
        parse(read_file(path, MAX_FILE_BYTES))
    except OSError as error:
        expected = f"expected a file of users: {error.strerror}"
        raise SettingError("ADMIN_AUTH_FILE", path, expected) from None
    except ValueError as error:
        raise SettingError("ADMIN_AUTH_FILE", path, str(error)) from None


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
