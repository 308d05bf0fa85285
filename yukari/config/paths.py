"""
Files and directories that the environment names: the home, the cache home, the system's roots.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from yukari.config.files import check_file, expecting
from yukari.config.setting import SettingError


def check_system_roots(environment: Mapping[str, str]) -> None:
    """Raise `SettingError` for an SSL_CERT_FILE that OpenSSL would ignore and so trust nobody."""
    path = environment.get("SSL_CERT_FILE", "")
    if path in ("", os.devnull):
        return
    try:
        with expecting("a file of certificates"):
            check_file(path)
            open(path, "rb").close()
    except ValueError as error:
        raise SettingError("SSL_CERT_FILE", path, str(error)) from None


def _home(environment: Mapping[str, str]) -> str | None:
    """The home directory; None if it is not known, as for a container's made-up user."""
    if environment.get("HOME"):
        return environment["HOME"]
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or None
    except KeyError:
        return None


def cache_directory(setting: str, environment: Mapping[str, str]) -> str:
    """
    Return Yukari's directory in the cache home; a relative XDG_CACHE_HOME is ignored, as XDG says.
    """
    cache = environment.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        return os.path.join(cache, "yukari")
    home = _home(environment)
    if home is None:
        raise SettingError(setting, "", "expected a directory: there is no home directory to use")
    return os.path.abspath(os.path.join(home, ".cache", "yukari"))


def absolute(path: str, environment: Mapping[str, str]) -> str:
    """Make a path absolute; ``~`` is HOME."""
    if path == "~" or path.startswith("~/"):
        path = (_home(environment) or "~") + path[1:]
    return os.path.abspath(os.path.expanduser(path))
