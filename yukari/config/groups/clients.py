"""Bounds of one client."""

from __future__ import annotations

from attrs import frozen

from yukari.config.parsers import parse_count
from yukari.config.setting import declare
from yukari.config.units import parse_positive_duration, parse_rate


@frozen(slots=False)
class Clients:
    """Bounds of one client."""

    client_rate: int | None = declare(
        parse_rate,
        None,
        "How fast this cache sends blobs to one client, over all its connections: bytes or bits a"
        " second, such as ``200MB/s`` or ``100Mbit/s``.",
        details="A client that is sent to S3 (``REDIRECT``) gets its blobs from there, as fast as"
        " S3 sends them.",
        default_shown="as fast as it takes them",
        example="100Mbit/s",
    )
    """Bytes a second; None for no bound."""
    client_connections: int | None = declare(
        parse_count,
        None,
        "The most connections of one client, by its address; more are answered 429. Trusted"
        " proxies and Unix sockets have no bound.",
        details="Each client that a trusted proxy names may have as many requests in progress. An"
        " old Ollama opens 64 connections, and many machines behind one NAT are one client.",
        default_shown="4096, at most three quarters of what the limit of open files leaves room"
        " for",
        example="1000",
    )
    """None for what the limit of open files decides."""
    idle_timeout: float = declare(
        parse_positive_duration,
        "620s",
        "How long a client's connection may be idle between two requests, a duration above 0.",
        details="More than the idle time of the load balancer in front, or it may send a request"
        " on a connection that is being closed. When descriptors run short, idle connections are"
        " closed sooner.",
    )
