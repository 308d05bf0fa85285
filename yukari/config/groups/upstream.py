"""The registry that is mirrored, and how it is asked."""

from __future__ import annotations

from attrs import frozen

from yukari.config.files import Roots
from yukari.config.hours import DailyRate
from yukari.config.keys import SigningKey
from yukari.config.parsers import one_of, parse_switch
from yukari.config.registries import UPSTREAMS, RegistrySettings, parse_upstream
from yukari.config.setting import declare
from yukari.config.units import ConnectionBounds, parse_positive_duration
from yukari.config.urls import Address, RegistryUrl


@frozen(slots=False)
class Upstream:
    """The registry that is mirrored, and how it is asked."""

    upstream_registry: RegistryUrl = declare(
        RegistryUrl.parse,
        "https://registry.ollama.ai/",
        "The registry to mirror, an http or https URL.",
        details="A path is allowed, a user or a query is not.",
    )
    upstreams: tuple[RegistrySettings | None, ...] = declare(
        parse_upstream,
        UPSTREAMS,
        "Registries that are mirrored beside the default one, as ``NAME=URL``, separated by spaces;"
        " ``none`` for none. ``hf--USER/MODEL`` is then ``USER/MODEL`` of ``hf``.",
        details="The flag may be repeated. A name has letters, digits, ``_`` and single ``-``. A"
        " configuration file can say more of each.",
        several=True,
    )
    """As they were named; `Settings.registries` has all."""
    upstream_address: Address | None = declare(
        Address.parse,
        None,
        "Where to connect for the upstream registry, ``HOST`` or ``HOST:PORT``, if its name leads"
        " elsewhere, for instance to this cache.",
        details="With it plain ``ollama pull llama3.2`` can go through the cache. The name that is"
        " asked for, and that the certificate is checked against, stays the URL's.",
        default_shown="where its name leads",
        example="192.0.2.1:443",
    )
    upstream_ca: Roots | None = declare(
        Roots.parse,
        None,
        "A PEM file of root certificates that are trusted for upstream beside the system's.",
        default_shown="the system's alone",
        example="/etc/ssl/company.pem",
    )
    upstream_key: SigningKey | None = declare(
        SigningKey.parse,
        None,
        "The file of a private key that is registered upstream, such as ``~/.ollama/id_ed25519``,"
        " for private models. Public ones do not need it.",
        details="An ed25519 key as ssh-keygen writes it, without a passphrase. Models that only"
        " this key opens are refused to clients unless ``PRIVATE_MODELS`` is ``everyone``.",
        default_shown="none",
        example="/etc/yukari/id_ed25519",
    )
    private_models: str = declare(
        one_of("none", "everyone"),
        "none",
        "Who may pull models that only ``UPSTREAM_KEY`` opens: ``none``, or ``everyone`` who may"
        " pull from this cache.",
        details="Stored models are served to everyone who may pull, even if this is changed.",
    )
    """``none`` or ``everyone``."""
    upstream_timeout: float = declare(
        parse_positive_duration,
        "30s",
        "How long upstream may take to begin a reply, a duration above 0.",
    )
    upstream_connections: ConnectionBounds = declare(
        ConnectionBounds.parse,
        "32/64",
        "The most connections to upstream: for one blob / in all.",
    )
    upstream_rate: DailyRate | None = declare(
        DailyRate.parse,
        None,
        "How fast blobs may come from upstream, all together: bytes or bits a second, such as"
        " ``200MB/s`` or ``100Mbit/s``, and other rates or ``off`` at some hours, such as"
        " ``off, 08:00-18:00 20Mbit/s``.",
        details="Others can use the line without it, too (docs/networks.rst). Hours are local"
        " time. At least 8 KB/s for each part that clients ask for at once (Ollama asks for 16 of"
        " a blob, old releases for 64) and for each connection for one blob: with less, old"
        " releases, which wait 5 s for a byte, give parts up and ask again.",
        default_shown="as fast as they come",
        commas=True,
        example="off, 08:00-18:00 20Mbit/s",
    )
    """None for no bound at any hour."""
    offline: bool = declare(
        parse_switch,
        "0",
        "Never connect to the upstream registry: serve what is stored.",
        details="The flag takes no value; the variable takes ``1`` or ``0``.",
        default_shown="off",
        switch=True,
    )
