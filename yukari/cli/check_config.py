"""The verb `check-config`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from yukari.cli.daemon_flags import by_flag, settings_options
from yukari.config.files import read_file
from yukari.config.in_force import in_force
from yukari.config.settings import SettingError, Settings
from yukari.web.htpasswd import MAX_FILE_BYTES, parse


@click.command()
@settings_options
def check_config(**flags: Any) -> None:
    """
    Print the settings that a daemon would have here.

    They are read as the daemon does, from its flags, environment and configuration file. The output
    is a configuration file itself, with a comment on where each setting comes from. Nothing secret
    is shown. Ends with status 0, or with a line for each wrong setting and status 1.
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


def _check_users(path: str) -> None:
    """Raise `SettingError` for a file that the daemon could not read its admins from."""
    try:
        parse(read_file(path, MAX_FILE_BYTES))
    except OSError as error:
        expected = f"expected a file of users: {error.strerror}"
        raise SettingError("ADMIN_AUTH_FILE", path, expected) from None
    except ValueError as error:
        raise SettingError("ADMIN_AUTH_FILE", path, str(error)) from None
