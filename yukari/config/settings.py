"""
Everything that can be set, in one table, and how it is read.

A flag wins over the environment, the environment over the default. A wrong
value is a `SettingError`, whose text is one line: the setting as it was
given, the value, what was expected.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen
from constantly import NamedConstant
from twisted.logger import LogLevel

from yukari.config.files import check_file
from yukari.config.listen import Bind
from yukari.config.networks import Networks
from yukari.config.patterns import Patterns
from yukari.config.units import (
    Connections,
    FreeSpace,
    parse_bytes,
    parse_duration,
    parse_positive_duration,
    parse_rate,
)
from yukari.config.urls import Address, InvalidSetting, RegistryUrl
from yukari.net.trust import Roots

TIGRIS = "tigris"
"""What `Settings.storage` is where models are stored in an S3 bucket and not in a directory."""

_LEVELS = {
    "DEBUG": LogLevel.debug,
    "INFO": LogLevel.info,
    "WARN": LogLevel.warn,
    "ERROR": LogLevel.error,
}
_SWITCH = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class SettingError(ValueError):
    """The start ends here; the text is one line for whoever set it."""

    def __init__(self, given: str, value: str, expected: str) -> None:
        # A password in a URL is nobody's business, not even in a complaint about it.
        shown = ascii(re.sub(r"//\S*@", "//***@", value))
        shown = shown if len(shown) <= 120 else f"{shown[:116]}...'"
        super().__init__(f"{given} {shown}: {expected}")


def _level(text: str) -> NamedConstant:
    try:
        return _LEVELS[text.upper()]
    except KeyError:
        raise InvalidSetting("expected DEBUG, INFO, WARN or ERROR") from None


def _log_format(text: str) -> str:
    if text.lower() not in ("json", "console", "auto"):
        raise InvalidSetting("expected json or console")
    return text.lower()


def _switch(text: str) -> bool:
    try:
        return _SWITCH[text.lower()]
    except KeyError:
        raise InvalidSetting("expected 1, true, yes, on, 0, false, no or off") from None


def _bucket(text: str) -> str:
    # The loosest rule among S3 stores; what a given one takes, it will say itself.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", text):
        raise InvalidSetting("expected a bucket's name: letters, digits, '.', '_' and '-'")
    return text


def _endpoint(text: str) -> str:
    """An S3 endpoint: a URL without a path and without a slash at its end."""
    url = RegistryUrl.parse(text)
    if url.prefix != "/":
        raise InvalidSetting("expected an http or https URL without a path")
    return url.url.rstrip("/")


def _redirect(text: str) -> str:
    if text.lower() not in ("auto", "on", "off"):
        raise InvalidSetting("expected auto, on or off")
    return text.lower()


def _spool_max(text: str) -> int:
    count = parse_bytes(text)
    if count <= 0:
        raise InvalidSetting("expected bytes above 0, such as 500GB or 500GiB")
    return count


def _path(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise InvalidSetting("expected a directory")
    return text


def _file(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise InvalidSetting("expected a file")
    return text


@frozen
class Setting:
    """
    One row: ``name`` is the field of `Settings`.

    ``default`` is written as a user would write it, or None where it is found
    out (`Settings.read`), and then ``default_shown`` tells how.
    """

    name: str
    parse: Callable[[str], Any]
    default: str | None
    help: str
    default_shown: str = ""
    several: bool = False
    """Values are separated by spaces, and the flag may be repeated."""
    switch: bool = False
    """The flag takes no value."""

    @property
    def environment(self) -> str:
        """The environment variable."""
        return self.name.upper()

    @property
    def flag(self) -> str:
        """The flag, without its two dashes."""
        return self.name.replace("_", "-")

    @property
    def described(self) -> str:
        """For ``--help``: what it is, its unit, its variable and its default."""
        return f"{self.help} ({self.environment}) [default: {self.default_shown or self.default}]"


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "bind",
        Bind.parse,
        ":9200",
        "Where to listen: HOST:PORT, [V6]:PORT, :PORT (all addresses) or a Twisted endpoint;"
        " several separated by spaces, or the flag repeated.",
        several=True,
    ),
    Setting(
        "admin_bind",
        Bind.parse,
        None,
        "Where else to listen, for admins: whoever connects there may read /metrics and stop fills,"
        " which otherwise only this machine may; as BIND.",
        default_shown="nowhere",
        several=True,
    ),
    Setting(
        "admin_auth_file",
        _file,
        None,
        "A file of users and bcrypt hashes, as htpasswd -B writes it, for one of whom asks what is"
        " for admins.",
        default_shown="none",
    ),
    Setting(
        "trusted_proxies",
        Networks.parse,
        None,
        "Networks in CIDR notation, separated by commas, and unix: proxies whose X-Forwarded-For"
        " tells the client.",
        default_shown="none",
    ),
    Setting(
        "allow",
        Networks.parse,
        None,
        "Networks in CIDR notation, separated by commas, whose clients may pull.",
        default_shown="everyone",
    ),
    Setting(
        "models_allow",
        Patterns.parse,
        None,
        "Patterns of the models that may be pulled, [REGISTRY/]NAMESPACE/MODEL, separated by"
        " commas, such as library/*.",
        default_shown="all",
    ),
    Setting(
        "models_deny",
        Patterns.parse,
        None,
        "Patterns of models that may not be pulled, as MODELS_ALLOW, which it wins over.",
        default_shown="none",
    ),
    Setting(
        "upstream_registry",
        RegistryUrl.parse,
        "https://registry.ollama.ai/",
        "The registry to mirror, an http or https URL.",
    ),
    Setting(
        "upstream_address",
        Address.parse,
        None,
        "Where to connect for the upstream registry, HOST or HOST:PORT, where its name leads"
        " elsewhere, to this cache itself for one.",
        default_shown="where its name leads",
    ),
    Setting(
        "upstream_ca",
        Roots.parse,
        None,
        "A PEM file of root certificates that are trusted for upstream beside the system's.",
        default_shown="the system's alone",
    ),
    Setting(
        "manifest_lifetime",
        parse_duration,
        "240h",
        "How old a manifest's last check may get before it is checked again,"
        " a duration such as 90s, 30m or 240h.",
    ),
    Setting(
        "invalidator_period",
        parse_positive_duration,
        "30m",
        "How often to look for manifests past their lifetime, a duration above 0.",
    ),
    Setting(
        "revalidate_after",
        parse_duration,
        "5m",
        "A manifest that is pulled and was last checked longer ago than this duration is checked"
        " in the background; 0 for never.",
    ),
    Setting(
        "offline",
        _switch,
        "0",
        "Never connect to the upstream registry: serve what is stored.",
        default_shown="off",
        switch=True,
    ),
    Setting(
        "storage",
        _path,
        None,
        "Where to store models: a directory, or tigris for an S3 bucket.",
        default_shown="$XDG_CACHE_HOME/yukari, else ~/.cache/yukari; tigris where TIGRIS_BUCKET is"
        " set",
    ),
    Setting(
        "tigris_bucket",
        _bucket,
        "yukari",
        "The bucket that models are stored in with --storage=tigris.",
    ),
    Setting(
        "redirect",
        _redirect,
        "auto",
        "With tigris, whether blobs that are not on this disk are fetched from S3 by clients"
        " themselves: auto (where its endpoint is public), on or off.",
    ),
    Setting(
        "presign_endpoint",
        _endpoint,
        None,
        "The S3 endpoint as clients reach it, an http or https URL.",
        default_shown="the one that this cache uses",
    ),
    Setting(
        "spool_dir",
        _path,
        None,
        "The directory where blobs lie while they are on their way.",
        default_shown="inside the store's directory; with tigris, yukari/spool in the cache home",
    ),
    Setting(
        "spool_max",
        _spool_max,
        None,
        "With tigris, at most so many bytes of blobs on this disk, such as 500GB or 500GiB.",
        default_shown="what MIN_FREE leaves",
    ),
    Setting(
        "min_free",
        FreeSpace.parse,
        "5%",
        "Free space on the disk that storing never goes under: a percentage, or bytes such as"
        " 10GB or 10GiB.",
    ),
    Setting(
        "upstream_connections",
        Connections.parse,
        "32/64",
        "Connections to upstream: at most so many for one blob / so many in all.",
    ),
    Setting(
        "upstream_rate",
        parse_rate,
        None,
        "How fast blobs may come from upstream, all together: bytes or bits a second, such as"
        " 200MB/s or 100Mbit/s.",
        default_shown="as fast as they come",
    ),
    Setting(
        "client_rate",
        parse_rate,
        None,
        "How fast this cache sends blobs to one client, over all its connections: bytes or bits a"
        " second, such as 200MB/s or 100Mbit/s.",
        default_shown="as fast as it takes them",
    ),
    Setting(
        "shutdown_delay",
        parse_duration,
        "0s",
        "How long the port stays open once SIGTERM has made /readyz fail, a duration.",
    ),
    Setting(
        "grace",
        parse_duration,
        "30s",
        "How long transfers under way may take to end, once the port is closed, a duration.",
    ),
    Setting(
        "slog_level",
        _level,
        "ERROR",
        "What to log: DEBUG, INFO, WARN or ERROR and what is graver.",
    ),
    Setting(
        "log_format",
        _log_format,
        "auto",
        "How to log: json (one object a line) or console (for people).",
        default_shown="console on a terminal, else json",
    ),
    Setting(
        "long_turns",
        parse_duration,
        "0",
        "For developers: warn of whatever holds the reactor longer than this duration, such as"
        " 20ms; 0 for no watch.",
    ),
)


@frozen
class Settings:
    """What was set, parsed; times in seconds. A field for every row of `SETTINGS`."""

    bind: tuple[Bind, ...]
    admin_bind: tuple[Bind, ...]
    admin_auth_file: str | None
    """An absolute path."""
    trusted_proxies: Networks | None
    allow: Networks | None
    models_allow: Patterns | None
    models_deny: Patterns | None
    upstream_registry: RegistryUrl
    upstream_address: Address | None
    upstream_ca: Roots | None
    manifest_lifetime: float
    invalidator_period: float
    revalidate_after: float
    """0 for never."""
    offline: bool
    storage: str
    """The absolute path of a directory, or `TIGRIS`."""
    tigris_bucket: str
    redirect: str
    """``auto``, ``on`` or ``off``."""
    presign_endpoint: str | None
    """A URL without a path; None for the endpoint that we use."""
    spool_dir: str | None
    """An absolute path; None for inside the store's directory, never so with `TIGRIS`."""
    spool_max: int | None
    """Bytes; None for what `min_free` leaves."""
    min_free: FreeSpace
    upstream_connections: Connections
    upstream_rate: int | None
    """Bytes a second; None for no bound."""
    client_rate: int | None
    """Bytes a second; None for no bound."""
    shutdown_delay: float
    grace: float
    slog_level: NamedConstant
    """One of `twisted.logger.LogLevel`."""
    log_format: str
    """``json``, ``console``, or ``auto``: console where the log goes to a terminal."""
    long_turns: float
    """0 for no watch."""

    @classmethod
    def read(cls, flags: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
        """
        ``flags`` by `Setting.flag`: text, a sequence of it (`Setting.several`), or a switch's bool.

        A flag that is absent or None was not given; an empty variable counts as
        unset. Raises `SettingError`.
        """
        values = {row.name: _read_one(row, flags, environment) for row in SETTINGS}
        if values["storage"] is None:
            bucket = (
                flags.get("tigris-bucket") is not None
                or environment.get("TIGRIS_BUCKET", "").strip()
            )
            values["storage"] = TIGRIS if bucket else _cache("STORAGE", environment)
        elif values["storage"] != TIGRIS:
            values["storage"] = _absolute(values["storage"], environment)
        if values["admin_auth_file"] is not None:
            values["admin_auth_file"] = _absolute(values["admin_auth_file"], environment)
        if values["spool_dir"] is not None:
            values["spool_dir"] = _absolute(values["spool_dir"], environment)
        elif values["storage"] == TIGRIS:
            values["spool_dir"] = os.path.join(_cache("SPOOL_DIR", environment), "spool")
        _check_system_roots(environment)
        return cls(**values)


assert [row.name for row in SETTINGS] == [field.name for field in attrs.fields(Settings)]


def _check_system_roots(environment: Mapping[str, str]) -> None:
    """OpenSSL would say nothing of a file that is not there, and trust nobody."""
    path = environment.get("SSL_CERT_FILE", "")
    if path in ("", os.devnull):
        return
    try:
        check_file(path)
        open(path, "rb").close()
    except OSError as error:
        expected = f"expected a file of certificates: {error.strerror}"
        raise SettingError("SSL_CERT_FILE", path, expected) from None
    except ValueError as error:
        raise SettingError("SSL_CERT_FILE", path, str(error)) from None


def _read_one(row: Setting, flags: Mapping[str, object], environment: Mapping[str, str]) -> Any:
    given = list(_given(row, flags, environment))
    parsed = [_parsed(row, *each) for each in given]
    return tuple(parsed) if row.several else parsed[0] if parsed else None


def _given(
    row: Setting, flags: Mapping[str, object], environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """The setting as it was named, and each of its values as text."""
    flag, variable = flags.get(row.flag), environment.get(row.environment, "")
    if flag is not None and not (row.several and not flag):
        each = flag if isinstance(flag, Sequence) and not isinstance(flag, str) else (str(flag),)
        named = [(f"--{row.flag}", text) for text in each]
    elif variable.strip():
        named = [(row.environment, variable)]
    else:
        named = [] if row.default is None else [(row.environment, row.default)]
    for name, text in named:
        if row.several:
            # Nothing but spaces is not several: let the parser say what it wants.
            yield from ((name, part) for part in text.split() or [text])
        else:
            yield name, text.strip()


def _parsed(row: Setting, name: str, text: str) -> Any:
    try:
        return row.parse(text)
    except ValueError as error:
        raise SettingError(name, text, str(error)) from None


def _home(environment: Mapping[str, str]) -> str | None:
    """The home directory; None where nobody knows, as with a container's made-up user."""
    if environment.get("HOME"):
        return environment["HOME"]
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or None
    except KeyError:
        return None


def _cache(setting: str, environment: Mapping[str, str]) -> str:
    """Yukari's directory in the cache home; XDG has a relative one ignored."""
    cache = environment.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        return os.path.join(cache, "yukari")
    home = _home(environment)
    if home is None:
        raise SettingError(setting, "", "expected a directory: there is no home directory to use")
    return os.path.abspath(os.path.join(home, ".cache", "yukari"))


def _absolute(path: str, environment: Mapping[str, str]) -> str:
    if path == "~" or path.startswith("~/"):
        path = (_home(environment) or "~") + path[1:]
    return os.path.abspath(os.path.expanduser(path))
