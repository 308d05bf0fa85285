"""
The settings: each is declared once, as a field of its group in `yukari.config.groups`.

From these declarations come the flags, ``--help``, the environment variables and the table in the
README. A flag wins over the environment, the environment over the default. A value that cannot be
read is a `SettingError`, whose text is one line: the setting as it was given, the value, and what
was expected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from attrs import frozen

from yukari.config.groups.clients import Sending
from yukari.config.groups.freshness import Freshness
from yukari.config.groups.listening import Listening
from yukari.config.groups.running import Running
from yukari.config.groups.storing import Storage
from yukari.config.groups.upstream import Upstream
from yukari.config.paths import absolute, cache_directory, check_system_roots
from yukari.config.setting import Setting, SettingError, declared, read_one

__all__ = ["SETTINGS", "TIGRIS", "Setting", "SettingError", "Settings"]

TIGRIS = "tigris"
"""The value of `Settings.storage` when models are stored in an S3 bucket, not in a directory."""


@frozen(slots=False)
class Settings(Listening, Upstream, Freshness, Storage, Sending, Running):
    """All settings, parsed; times are in seconds."""

    @classmethod
    def read(cls, flags: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
        """
        Read ``flags`` by `Setting.flag`: text, a sequence of it (`Setting.several`), or a bool.

        A flag that is absent or None was not given; an empty variable counts as unset. Raises
        `SettingError`.
        """
        values = {row.name: read_one(row, flags, environment) for row in SETTINGS}
        if values["storage"] is None:
            bucket = (
                flags.get("tigris-bucket") is not None
                or environment.get("TIGRIS_BUCKET", "").strip()
            )
            values["storage"] = TIGRIS if bucket else cache_directory("STORAGE", environment)
        elif values["storage"] != TIGRIS:
            values["storage"] = absolute(values["storage"], environment)
        if values["admin_auth_file"] is not None:
            values["admin_auth_file"] = absolute(values["admin_auth_file"], environment)
        if values["spool_dir"] is not None:
            values["spool_dir"] = absolute(values["spool_dir"], environment)
        elif values["storage"] == TIGRIS:
            values["spool_dir"] = os.path.join(cache_directory("SPOOL_DIR", environment), "spool")
        check_system_roots(environment)
        return cls(**values)


SETTINGS: tuple[Setting, ...] = (
    *declared("Listening and access", Listening),
    *declared("Upstream", Upstream),
    *declared("Freshness", Freshness),
    *declared("Storage", Storage),
    *declared("Clients", Sending),
    *declared("Logs and stopping", Running),
)
"""The declarations, group by group."""
