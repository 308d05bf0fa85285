"""Where the cache listens, and who may ask it."""

from __future__ import annotations

from attrs import frozen

from yukari.config.listen import Bind
from yukari.config.networks import Networks
from yukari.config.parsers import parse_file
from yukari.config.patterns import Patterns
from yukari.config.setting import declare


@frozen(slots=False)
class Listening:
    """Where the cache listens, and who may ask it."""

    bind: tuple[Bind, ...] = declare(
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
        Bind.parse,
        None,
        "Where to listen for admins: clients that connect there may read ``/metrics``,"
        " ``/status`` and ``/fills`` and manage what is stored, which otherwise only this machine"
        " may. Written as ``BIND``.",
        default_shown="nowhere",
        several=True,
        example=":9201",
    )
    admin_auth_file: str | None = declare(
        parse_file,
        None,
        "A file of users and bcrypt hashes, as ``htpasswd -B`` writes it. Whatever is for admins"
        " then needs one of these users and the password, on this machine too.",
        default_shown="none",
        example="/etc/yukari.htpasswd",
    )
    """An absolute path."""
    trusted_proxies: Networks | None = declare(
        Networks.parse,
        None,
        "Networks in CIDR notation, separated by commas, and ``unix``: the proxies whose"
        " X-Forwarded-For names the client.",
        details="Such as ``10.0.0.5,fd00::/8``; ``unix`` stands for clients of a Unix socket.",
        default_shown="none",
        commas=True,
        example="10.0.0.5,unix",
    )
    allow: Networks | None = declare(
        Networks.parse,
        None,
        "Networks in CIDR notation, separated by commas, whose clients may pull.",
        details="Such as ``10.0.0.0/8``. ``/healthz`` and ``/readyz`` answer all.",
        default_shown="everyone",
        commas=True,
        example="10.0.0.0/8,fd00::/8",
    )
    models_allow: Patterns | None = declare(
        Patterns.parse,
        None,
        "Patterns of the models that may be pulled, ``[REGISTRY/]NAMESPACE/MODEL``, separated by"
        " commas, such as ``library/*``. Others are refused.",
        default_shown="all",
        commas=True,
        example="library/*,hf.co/*/*",
    )
    models_deny: Patterns | None = declare(
        Patterns.parse,
        None,
        "Patterns of models that may not be pulled, written as ``MODELS_ALLOW``, which it wins"
        " over.",
        default_shown="none",
        commas=True,
        example="*/*-base",
    )
