"""
The log: one JSON object a line, or lines for people.

Events are those of `twisted.logger`. An event with ``banner=True`` is shown at every level. Events
of Twisted and other libraries below a warning count as DEBUG.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Optional, Protocol, TextIO

from attrs import define
from constantly import NamedConstant
from twisted.application.service import IServiceCollection, MultiService
from twisted.internet import interfaces
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from zope.interface import implementer

from yukari.daemon.logfile import LogFile
from yukari.daemon.unhurried import Unhurried, may_block
from yukari.fatal import Ended
from yukari.names import Digest, Repository, Tag

_NAMES = {
    LogLevel.debug: "DEBUG",
    LogLevel.info: "INFO",
    LogLevel.warn: "WARN",
    LogLevel.error: "ERROR",
    LogLevel.critical: "ERROR",
}
_OURS = {"time", "level", "msg", "error", "traceback", "banner", "on_stderr"}


class Stream(Protocol):
    """Where the log is written: stderr, or a log file."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


@implementer(ILogObserver)
@define(eq=False, repr=False)
class Lines:
    """Writes events that are severe enough; a stream that cannot be written is ignored."""

    level: NamedConstant
    as_json: bool
    stream: Stream

    def __call__(self, event: LogEvent) -> None:
        if not event.get("banner") and _level(event) < self.level:
            return
        if event.get("on_stderr") and _is_stderr(self.stream):
            return
        text = json_line(event) if self.as_json else console_line(event)
        try:
            self.stream.write(text + "\n")
            self.stream.flush()
        except (OSError, ValueError):  # a broken pipe, a full disk, a closed file
            pass


def observer(level: NamedConstant, log_format: str, stream: Stream) -> Lines:
    """
    Make an observer of events of at least ``level``.

    ``log_format`` is ``json``, ``console``, or ``auto``: console if the stream is a terminal.
    """
    if log_format == "auto":
        terminal = getattr(stream, "isatty", bool)()
        return Lines(level, not terminal, stream)
    return Lines(level, log_format == "json", stream)


def json_line(event: LogEvent) -> str:
    """
    Return ``time`` (RFC 3339), ``level``, ``msg``, then the event's own simple fields, as JSON.

    A failure adds ``error`` and ``traceback``. Digests and names are written as everywhere else.
    """
    line: dict[str, object] = {
        "time": _when(event).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": _NAMES[_severity(event)],
        "msg": formatEvent(event),
    }
    if event.get("log_namespace") != "log_legacy":  # their fields are twisted.python.log's
        for key, value in event.items():
            if not key.startswith("log_") and key not in _OURS:
                if isinstance(value, (Digest, Repository, Tag)):
                    line[key] = str(value)
                elif isinstance(value, float) and not math.isfinite(value):
                    line[key] = None
                elif value is None or isinstance(value, (str, int, float)):
                    line[key] = value
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        line["error"] = _error(failure)
        line["traceback"] = failure.getTraceback()
    return json.dumps(line)


def console_line(event: LogEvent) -> str:
    """Return the local time, the level and the message, then the traceback of a failure."""
    text = _visible(formatEvent(event))
    if event.get("banner"):
        return text
    when = _when(event).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    lines = [f"{when} {_NAMES[_severity(event)]:<5} {text}"]
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        lines.append(_visible(failure.getTraceback().rstrip()))
    return "\n    ".join("\n".join(lines).split("\n"))


def _when(event: LogEvent) -> datetime:
    return datetime.fromtimestamp(event.get("log_time", 0.0), timezone.utc)


def _severity(event: LogEvent) -> NamedConstant:
    level = event.get("log_level")
    return level if level in _NAMES else LogLevel.info


def _level(event: LogEvent) -> NamedConstant:
    """Return the `_severity`, lowered for events that are not Yukari's."""
    severity = _severity(event)
    ours = str(event.get("log_namespace")).partition(".")[0] == "yukari"
    return LogLevel.debug if severity == LogLevel.info and not ours else severity


def _error(failure: Failure) -> str:
    text = failure.getErrorMessage()
    name = failure.type.__name__ if failure.type else "Failure"
    return f"{name}: {text}" if text else name


def _visible(text: str) -> str:
    """Escape characters that would move a terminal's cursor or change its colours."""
    return "".join(
        each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text
    )


def _is_stderr(stream: Stream) -> bool:
    if isinstance(stream, Unhurried):
        return stream.number == 2
    return stream is sys.__stderr__


def _unhurried(stream: TextIO) -> Stream:
    """Return ``stream``, or one to the same descriptor that waits for no reader."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # It has no descriptor.
        return stream
    return Unhurried(number, stream.encoding) if may_block(number) else stream


def open_stream(twistd: Mapping[str, Any]) -> Stream:
    """
    Open the stream that twistd's own options name: ``--logfile``, else stderr, or ``twistd.log``
    for a daemon.

    A log file is rotated as by twistd: at its size, and on SIGUSR1.
    """
    name = twistd.get("logfile")
    daemon = "nodaemon" in twistd and not (twistd["nodaemon"] or twistd.get("debug"))
    if name == "-":
        if daemon:
            raise SystemExit("yukari: --logfile=-: expected a file: a daemon has no stdout")
        return _unhurried(sys.stdout)
    if not name and not daemon:
        stderr: Optional[TextIO] = sys.stderr  # It may be closed.
        return open(os.devnull, "w") if stderr is None else _unhurried(stderr)
    try:
        file = LogFile(name or "twistd.log")
    except OSError as error:
        raise SystemExit(f"yukari: --logfile={name}: {error.strerror}") from None
    usr1 = getattr(signal, "SIGUSR1", None)
    if usr1 is not None and not signal.getsignal(usr1):  # SIG_DFL is 0

        def rotate(*_: object) -> None:
            from twisted.internet import reactor

            interfaces.IReactorFromThreads(reactor).callFromThread(file.rotate)

        signal.signal(usr1, rotate)
    return file


def install(
    application: Componentized,
    level: NamedConstant,
    log_format: str,
    twistd: Mapping[str, Any] = {},
) -> Optional[Lines]:
    """
    Install our observer in ``application`` before twistd starts logging, and return it.

    twistd prefers an application's observer to its own ``--logfile`` and ``--syslog``.
    `open_stream` honours the first; with the second, and with ``--logger``, nothing is installed
    and None returned.
    """
    if twistd.get("syslog") or twistd.get("logger"):
        return None
    made = observer(level, log_format, open_stream(twistd))
    application.setComponent(ILogObserver, made)
    return made


class LoggedService(MultiService):
    """A parent of services that logs as Yukari does once it is part of an application."""

    def __init__(
        self, level: NamedConstant, log_format: str, twistd: Mapping[str, Any] = {}
    ) -> None:
        super().__init__()
        self._log = (level, log_format, twistd)
        self._twistd = twistd
        self._lines: Optional[Lines] = None

    def setServiceParent(self, parent: IServiceCollection) -> None:
        """Install the observer; twistd starts logging after this."""
        if isinstance(parent, Componentized):
            self._lines = install(parent, *self._log)
        super().setServiceParent(parent)

    def set_level(self, level: NamedConstant) -> None:
        """Log what is at least this severe from now on."""
        if self._lines is not None:
            self._lines.level = level

    def reopen(self) -> None:
        """Reopen the log file after rotation; no effect without one."""
        stream = self._lines.stream if self._lines is not None else None
        if isinstance(stream, LogFile):
            stream.reopen()

    def privilegedStartService(self) -> None:
        """Start the services inside, and report a failed start as twistd expects it."""
        with self._tidy():
            super().privilegedStartService()

    def startService(self) -> None:
        """The same for services that open ports."""
        with self._tidy():
            super().startService()

    @contextmanager
    def _tidy(self) -> Iterator[None]:
        """
        Do for `Ended` what twistd does for every failure except SystemExit.

        Otherwise the process that daemonized would wait for ever for the daemon, and the pid file
        would stay.
        """
        try:
            yield
        except Ended as ended:
            pipe, pid_file = self._twistd.get("statusPipe"), self._twistd.get("pidfile")
            if pipe is not None:
                os.write(pipe, f"1 {ended.line}".encode()[:100])
                os.close(pipe)
            if pid_file:
                try:
                    os.unlink(pid_file)
                except OSError:
                    pass
            raise
