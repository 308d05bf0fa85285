"""The configuration file, the log, and stopping."""

from __future__ import annotations

from attrs import frozen
from constantly import NamedConstant

from yukari.config.parsers import one_of, parse_file, parse_level
from yukari.config.setting import declare
from yukari.config.units import parse_duration


@frozen(slots=False)
class Running:
    """The configuration file, the log, and stopping."""

    config: str | None = declare(
        parse_file,
        None,
        "A TOML file with any of these settings, by their names in lower case. Flags and variables"
        " win over it.",
        details="SIGHUP reads it again. ``yukari check-config`` says what is in force.",
        default_shown="none",
        variable="YUKARI_CONFIG",
        in_file=False,
    )
    """An absolute path."""
    shutdown_delay: float = declare(
        parse_duration,
        "0s",
        "How long the port stays open once SIGTERM has made ``/readyz`` fail, a duration.",
    )
    grace: float = declare(
        parse_duration,
        "30s",
        "How long transfers in progress may take to finish once the port is closed, a duration.",
    )
    slog_level: NamedConstant = declare(
        parse_level,
        "ERROR",
        "The least severe level that is logged: ``DEBUG``, ``INFO``, ``WARN`` or ``ERROR``.",
    )
    """One of `twisted.logger.LogLevel`."""
    log_format: str = declare(
        one_of("json", "console", "auto"),
        "auto",
        "How to log: ``json`` (one object a line) or ``console`` (for people).",
        default_shown="console on a terminal, else json",
    )
    """``json``, ``console``, or ``auto``: console if the log goes to a terminal."""
    long_turns: float = declare(
        parse_duration,
        "0",
        "For developers: warn of whatever holds the reactor longer than this duration, such as"
        " ``20ms``; 0 for no watch.",
    )
    """0 for no watch."""
