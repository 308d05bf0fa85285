"""
The settings: each is declared once, as a field of `Settings`.

From these declarations come the flags, ``--help``, the environment variables and the table in the
README. A flag wins over the environment, the environment over the default. A value that cannot be
read is a `SettingError`, whose text is one line: the setting as it was given, the value, and what
was expected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs
from attrs import evolve, frozen
from constantly import NamedConstant

from yukari.config.files import Roots
from yukari.config.keys import SigningKey
from yukari.config.listen import Bind
from yukari.config.networks import Networks
from yukari.config.parsers import (
    parse_bucket,
    parse_count,
    parse_directory,
    parse_endpoint,
    parse_evict,
    parse_file,
    parse_level,
    parse_log_format,
    parse_prefetch,
    parse_private_models,
    parse_redirect,
    parse_spool_max,
    parse_switch,
)
from yukari.config.paths import absolute, cache_directory, check_system_roots
from yukari.config.patterns import Patterns
from yukari.config.setting import Setting, SettingError, declare, read_one
from yukari.config.units import (
    Connections,
    FreeSpace,
    parse_duration,
    parse_positive_duration,
    parse_rate,
)
from yukari.config.urls import Address, RegistryUrl

__all__ = ["SETTINGS", "TIGRIS", "Setting", "SettingError", "Settings"]

TIGRIS = "tigris"
"""The value of `Settings.storage` when models are stored in an S3 bucket, not in a directory."""


_LISTENING = "Listening and access"
_UPSTREAM = "Upstream"
_FRESHNESS = "Freshness"
_STORAGE = "Storage"
_SENDING = "Clients"
_RUNNING = "Logs and stopping"


@frozen
class Settings:
    """All settings, parsed; times are in seconds."""

    bind: tuple[Bind, ...] = declare(
        _LISTENING,
        Bind.parse,
        ":9200",
        "Where to listen: ``HOST:PORT``, ``[V6]:PORT``, ``:PORT`` (all addresses, IPv4 and IPv6)"
        " or a Twisted endpoint; several are separated by spaces, or the flag is repeated.",
        details="An endpoint is ``ssl:…``, ``tls:…`` or ``unix:/run/yukari.sock`` and the like;"
        " without ``interface=`` it listens on all addresses. ``0.0.0.0:9200`` is IPv4 alone,"
        " ``[::]:9200`` what the system makes of it.",
        several=True,
    )
    admin_bind: tuple[Bind, ...] = declare(
        _LISTENING,
        Bind.parse,
        None,
        "Where to listen for admins: clients that connect there may read ``/metrics`` and"
        " ``/fills`` and manage what is stored, which otherwise only this machine may. Written as"
        " ``BIND``.",
        default_shown="nowhere",
        several=True,
    )
    admin_auth_file: str | None = declare(
        _LISTENING,
        parse_file,
        None,
        "A file of users and bcrypt hashes, as ``htpasswd -B`` writes it. ``/metrics`` and"
        " ``/fills`` then ask for one of these users.",
        default_shown="none",
    )
    """An absolute path."""
    trusted_proxies: Networks | None = declare(
        _LISTENING,
        Networks.parse,
        None,
        "Networks in CIDR notation, separated by commas, and ``unix``: the proxies whose"
        " X-Forwarded-For names the client.",
        details="Such as ``10.0.0.5,fd00::/8``; ``unix`` stands for clients of a Unix socket.",
        default_shown="none",
    )
    allow: Networks | None = declare(
        _LISTENING,
        Networks.parse,
        None,
        "Networks in CIDR notation, separated by commas, whose clients may pull.",
        details="Such as ``10.0.0.0/8``. ``/healthz`` and ``/readyz`` answer all.",
        default_shown="everyone",
    )
    models_allow: Patterns | None = declare(
        _LISTENING,
        Patterns.parse,
        None,
        "Patterns of the models that may be pulled, ``[REGISTRY/]NAMESPACE/MODEL``, separated by"
        " commas, such as ``library/*``. Others are refused.",
        default_shown="all",
    )
    models_deny: Patterns | None = declare(
        _LISTENING,
        Patterns.parse,
        None,
        "Patterns of models that may not be pulled, written as ``MODELS_ALLOW``, which it wins"
        " over.",
        default_shown="none",
    )
    upstream_registry: RegistryUrl = declare(
        _UPSTREAM,
        RegistryUrl.parse,
        "https://registry.ollama.ai/",
        "The registry to mirror, an http or https URL.",
        details="A path is allowed, a user or a query is not.",
    )
    upstream_address: Address | None = declare(
        _UPSTREAM,
        Address.parse,
        None,
        "Where to connect for the upstream registry, ``HOST`` or ``HOST:PORT``, if its name leads"
        " elsewhere, for instance to this cache.",
        details="With it plain ``ollama pull llama3.2`` can go through the cache. The name that is"
        " asked for, and that the certificate is checked against, stays the URL's.",
        default_shown="where its name leads",
    )
    upstream_ca: Roots | None = declare(
        _UPSTREAM,
        Roots.parse,
        None,
        "A PEM file of root certificates that are trusted for upstream beside the system's.",
        default_shown="the system's alone",
    )
    upstream_key: SigningKey | None = declare(
        _UPSTREAM,
        SigningKey.parse,
        None,
        "The file of a private key that is registered upstream, such as ``~/.ollama/id_ed25519``,"
        " for private models. Public ones do not need it.",
        details="An ed25519 key as ssh-keygen writes it, without a passphrase. Models that only"
        " this key opens are refused to clients unless ``PRIVATE_MODELS`` is ``everyone``.",
        default_shown="none",
    )
    private_models: str = declare(
        _UPSTREAM,
        parse_private_models,
        "none",
        "Who may pull models that only ``UPSTREAM_KEY`` opens: ``none``, or ``everyone`` who may"
        " pull from this cache.",
        details="Stored models are served to everyone who may pull, even if this is changed.",
    )
    """``none`` or ``everyone``."""
    upstream_timeout: float = declare(
        _UPSTREAM,
        parse_positive_duration,
        "30s",
        "How long upstream may take to begin a reply, a duration above 0.",
    )
    upstream_connections: Connections = declare(
        _UPSTREAM,
        Connections.parse,
        "32/64",
        "The most connections to upstream: for one blob / in all.",
    )
    upstream_rate: int | None = declare(
        _UPSTREAM,
        parse_rate,
        None,
        "How fast blobs may come from upstream, all together: bytes or bits a second, such as"
        " ``200MB/s`` or ``100Mbit/s``.",
        details="At least 8 KB/s for each part that clients ask for at once (Ollama asks for 16 of"
        " a blob, old releases for 64) and for each connection for one blob: with less, old"
        " releases, which wait 5 s for a byte, give parts up and ask again.",
        default_shown="as fast as they come",
    )
    """Bytes a second; None for no bound."""
    offline: bool = declare(
        _UPSTREAM,
        parse_switch,
        "0",
        "Never connect to the upstream registry: serve what is stored.",
        details="The flag takes no value; the variable takes ``1`` or ``0``.",
        default_shown="off",
        switch=True,
    )
    manifest_lifetime: float = declare(
        _FRESHNESS,
        parse_duration,
        "240h",
        "How old the last check of a stored manifest may get before it is checked again: a duration"
        " such as ``90s``, ``30m`` or ``240h``.",
    )
    invalidator_period: float = declare(
        _FRESHNESS,
        parse_positive_duration,
        "30m",
        "How often to look for manifests past their lifetime: a duration above 0.",
    )
    revalidate_after: float = declare(
        _FRESHNESS,
        parse_duration,
        "5m",
        "A manifest that is pulled and was last checked longer ago than this duration is checked"
        " in the background; 0 for never.",
    )
    """0 for never."""
    prefetch: str = declare(
        _FRESHNESS,
        parse_prefetch,
        "all",
        "Which blobs are fetched before a client asks for them: ``all`` of each manifest that is"
        " pulled, the others of the manifest once one of them is ``asked`` for, or ``none``.",
    )
    """``all``, ``asked`` or ``none``."""
    storage: str = declare(
        _STORAGE,
        parse_directory,
        None,
        "Where to store models: a directory, or ``tigris`` for a bucket of Tigris or any S3.",
        default_shown="$XDG_CACHE_HOME/yukari, else ~/.cache/yukari; tigris if TIGRIS_BUCKET is"
        " set",
    )
    """The absolute path of a directory, or `TIGRIS`."""
    tigris_bucket: str = declare(
        _STORAGE,
        parse_bucket,
        "yukari",
        "The bucket that models are stored in with ``--storage=tigris``.",
    )
    redirect: str = declare(
        _STORAGE,
        parse_redirect,
        "auto",
        "With ``tigris``, whether clients get blobs that are not on this disk from S3 itself:"
        " ``auto`` (if its endpoint is public), ``on`` or ``off``.",
    )
    """``auto``, ``on`` or ``off``."""
    presign_endpoint: str | None = declare(
        _STORAGE,
        parse_endpoint,
        None,
        "The S3 endpoint as clients reach it, an http or https URL.",
        default_shown="the one that this cache uses",
    )
    """A URL without a path; None for the endpoint that we use."""
    spool_dir: str | None = declare(
        _STORAGE,
        parse_directory,
        None,
        "The directory of blobs that are still being fetched.",
        details="On another file system than the store's, every blob is copied once when it is"
        " complete.",
        default_shown="inside the store's directory; with tigris, yukari/spool in the cache home",
    )
    """An absolute path; None for inside the store's directory, never None with `TIGRIS`."""
    spool_max: int | None = declare(
        _STORAGE,
        parse_spool_max,
        None,
        "With ``tigris``, the most bytes of blobs on this disk, such as ``500GB`` or ``500GiB``;"
        " the least recently read are dropped first.",
        default_shown="what MIN_FREE leaves",
    )
    """Bytes; None for what `min_free` leaves."""
    min_free: FreeSpace = declare(
        _STORAGE,
        FreeSpace.parse,
        "5%",
        "Free space on the disk that storing never goes under: a percentage, or bytes such as"
        " ``10GB`` or ``10GiB``.",
    )
    store_max: FreeSpace | None = declare(
        _STORAGE,
        FreeSpace.parse,
        None,
        "At most so many bytes of models are stored, such as ``500GB``, or a percentage of the"
        " disk.",
        details="When something new needs room, what was superseded goes first, then the models"
        " that were pulled least recently (``EVICT``). A directory's alone.",
        default_shown="what MIN_FREE leaves",
    )
    evict: str | None = declare(
        _STORAGE,
        parse_evict,
        None,
        "What goes when something new needs room: ``lru``, the models that were pulled least"
        " recently, or ``never`` anything.",
        details="What is pinned, in use, matches ``KEEP`` or is gone upstream never goes; nor does"
        " anything while upstream does not answer, or with ``OFFLINE``. What then has no room is"
        " passed on to clients without being stored.",
        default_shown="lru; never with tigris",
    )
    keep: Patterns | None = declare(
        _STORAGE,
        Patterns.parse,
        None,
        "Models that are never evicted, as patterns such as ``library/llama3.2,*/*-embed*``.",
        default_shown="none",
    )
    superseded_lifetime: float = declare(
        _STORAGE,
        parse_duration,
        "720h",
        "How long a version of a model is kept that upstream has replaced, a duration; it goes"
        " sooner if room is needed.",
    )
    evict_grace: float = declare(
        _STORAGE,
        parse_duration,
        "1h",
        "What was pulled within this duration is not evicted, nor are blobs removed that were"
        " stored within it.",
    )
    client_rate: int | None = declare(
        _SENDING,
        parse_rate,
        None,
        "How fast this cache sends blobs to one client, over all its connections: bytes or bits a"
        " second, such as ``200MB/s`` or ``100Mbit/s``.",
        details="A client that is sent to S3 (``REDIRECT``) gets its blobs from there, as fast as"
        " S3 sends them.",
        default_shown="as fast as it takes them",
    )
    """Bytes a second; None for no bound."""
    client_connections: int | None = declare(
        _SENDING,
        parse_count,
        None,
        "The most connections of one client, by its address; more are answered 429. Trusted"
        " proxies and Unix sockets have no bound.",
        details="An old Ollama opens 64, and many machines behind one NAT are one client.",
        default_shown="4096, at most three quarters of what the limit of open files leaves room"
        " for",
    )
    """None for what the limit of open files decides."""
    idle_timeout: float = declare(
        _SENDING,
        parse_positive_duration,
        "620s",
        "How long a client's connection may be idle between two requests, a duration above 0.",
        details="More than the idle time of the load balancer in front, or it may send a request"
        " on a connection that is being closed. When descriptors run short, idle connections are"
        " closed sooner.",
    )
    shutdown_delay: float = declare(
        _RUNNING,
        parse_duration,
        "0s",
        "How long the port stays open once SIGTERM has made ``/readyz`` fail, a duration.",
    )
    grace: float = declare(
        _RUNNING,
        parse_duration,
        "30s",
        "How long transfers in progress may take to finish once the port is closed, a duration.",
    )
    slog_level: NamedConstant = declare(
        _RUNNING,
        parse_level,
        "ERROR",
        "The least severe level that is logged: ``DEBUG``, ``INFO``, ``WARN`` or ``ERROR``.",
    )
    """One of `twisted.logger.LogLevel`."""
    log_format: str = declare(
        _RUNNING,
        parse_log_format,
        "auto",
        "How to log: ``json`` (one object a line) or ``console`` (for people).",
        default_shown="console on a terminal, else json",
    )
    """``json``, ``console``, or ``auto``: console if the log goes to a terminal."""
    long_turns: float = declare(
        _RUNNING,
        parse_duration,
        "0",
        "For developers: warn of whatever holds the reactor longer than this duration, such as"
        " ``20ms``; 0 for no watch.",
    )
    """0 for no watch."""

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


SETTINGS: tuple[Setting, ...] = tuple(
    evolve(field.metadata[Setting], name=field.name) for field in attrs.fields(Settings)
)
"""The declarations, in the order of the fields."""
